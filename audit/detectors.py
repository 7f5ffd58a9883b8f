"""Secrets in what calls carry: found by their form or by the name before them, and taken out before anything is sealed.

The list has a version and a digest, which every run of a writer records at its start and every record names that lost something.
It is against accidents: who means to hide a secret from it can.  Pure: no I/O.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

import re2
from msgspec.structs import replace

from audit.model import Entry, Value

VERSION: Final = 1
FIELD: Final = "secrets"
"""The leaf's member: `detectors` (version and digest), and by value how many secrets were taken out."""


class Detector(NamedTuple):
    """One kind of secret: whatever its group `secret` matches (else all of it) goes.

    marks  without any of these, in lower case, there is none; no marks: a member of that name says so.
    """

    name: str
    marks: tuple[bytes, ...]
    pattern: bytes


NAMES: Final = tuple(
    sorted(
        {
            name.replace(b"_", dash)
            for dash in (b"_", b"-", b"")
            for name in (
                *(b"authorization", b"proxy_authorization", b"cookie", b"set_cookie", b"x_api_key", b"api_key", b"secret_key"),
                *(b"private_key", b"access_key", b"password", b"passwd", b"passphrase", b"pwd", b"secret", b"client_secret"),
                *(b"token", b"access_token", b"refresh_token", b"id_token", b"auth_token", b"session_token", b"bearer_token"),
                *(b"credential", b"credentials", b"client_assertion", b"subject_token", b"actor_token"),
            )
        }
    )
)
"""Members of JSON whose text is a secret, in lower case."""
# One beginning for each run of a token, as to try each place would take quadratic time; or after a line's end in JSON.
_ALONE: Final = rb"(?:(?<![A-Za-z0-9_-])|(?<=\\[nrt]))"
DETECTORS: Final = (
    Detector("private-key", (b"private key-----",), rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?P<secret>[^-]{1,20000})"),
    Detector("named", (), rb'(?i)"(?:' + b"|".join(NAMES) + rb')"\s{0,8}:\s{0,8}"(?P<secret>(?:[^"\\]|\\.){1,20000})"'),
    Detector("header", (b"authorization:", b"api-key:", b"cookie:"),
             rb"(?i)" + _ALONE + rb"(?:proxy-|set-|x-)?(?:authorization|api-key|cookie):[ \t]{0,8}"
             rb"(?P<secret>[^\s\"\\][^\"\\\r\n]{15,8000})"),
    Detector("bearer", (b"bearer ", b"dpop ", b"basic "),
             rb"(?i)" + _ALONE + rb"(?:bearer|dpop|basic) {1,4}(?P<secret>[A-Za-z0-9._~+/-]{16,8000}={0,2})"),
    Detector("jwt", (b"eyj",), _ALONE + rb"eyJ[A-Za-z0-9_-]{8,8000}\.[A-Za-z0-9_-]{4,8000}\.[A-Za-z0-9_-]{0,8000}"),
    Detector("url-password", (b"://",), rb"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s/:@\"\\]{0,200}:(?P<secret>[^\s/@\"\\]{1,200})@"),
    Detector("aws-key", (b"akia", b"asia"), _ALONE + rb"(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    Detector("github", (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_"),
             _ALONE + rb"(?:gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{22,255})"),
    Detector("gitlab", (b"glpat-",), _ALONE + rb"glpat-[A-Za-z0-9_-]{20,100}"),
    Detector("slack", (b"xox", b"xapp-"), _ALONE + rb"x(?:ox[abeoprs]|app)-[A-Za-z0-9-]{10,250}"),
    Detector("api-key", (b"sk-", b"k_live_", b"k_test_"),
             _ALONE + rb"(?:sk-[A-Za-z0-9_-]{20,250}|[srp]k_(?:live|test)_[A-Za-z0-9]{10,250})"),
    Detector("google-key", (b"aiza",), _ALONE + rb"AIza[0-9A-Za-z_-]{35}"),
    Detector("agent-secret", (b"bws_",), _ALONE + rb"bws_[a-z0-9-]{1,63}_[A-Za-z0-9_-]{32,128}"),
)  # fmt: skip
DIGEST: Final = "sha256:" + hashlib.sha256(repr((VERSION, DETECTORS)).encode()).hexdigest()
LIST: Final = f"{VERSION} {DIGEST}"
"""How the list is named in records."""


def looking(detectors: Iterable[Detector]) -> Any:
    """One search for all of them, in time that is linear for any text.  Its "no" is certain, its "yes" is not.

    RE2 looks at no byte twice, and so knows neither what stands before a match nor large counts.  Each pattern is widened to what
    it knows: the character before is part of the match, and a count has no upper bound.  All else is as the detector has it.
    """
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes, of any kind
    options.dot_nl = True
    options.log_errors = False  # to be short of memory there means to take the slower way
    return re2.compile(b"|".join(b"(?:%b)" % _widened(each.pattern) for each in detectors), options)


def _widened(pattern: bytes) -> bytes:
    pattern = pattern.replace(_ALONE, rb"(?:^|[^A-Za-z0-9_-]|\\[nrt])").replace(b"(?P<secret>", b"(?:")
    pattern = pattern.replace(rb"[^\s", rb"[^ \t\n\r\f\v").replace(rb"\s", rb"[ \t\n\r\f\v]")  # RE2's has no \v
    return re.sub(rb"\{(\d+),\d+\}", rb"{\1,}", pattern)


_LOOKING: Final = looking(DETECTORS)
_COMPILED: Final = tuple((each, re.compile(each.pattern, re.DOTALL)) for each in DETECTORS)
_TOKEN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~+/="
_RUNS: Final = bytes(ord("x") if byte in _TOKEN else ord(" ") for byte in range(256))
_RUN: Final = b"x" * 15  # every form of a secret but a named one has so many characters of a token in a row, a digit among them
_RUNS_OF: Final = re.compile(rb"[A-Za-z0-9_.~+/=-]{15,}")
_DIGIT: Final = re.compile(rb"[0-9]")
_PIECE: Final = 64 * 1024
_TOGETHER: Final = 64  # texts in one search
_SMALL: Final = bytes(range(256)).lower()
_NAMED: Final = frozenset(NAMES)


def clean(entries: Sequence[Entry]) -> list[Entry]:
    """The entries without the secrets in their values; the same ones where there are none."""
    suspected = suspects([value.data for entry in entries for value in entry.values])
    if not suspected:
        return list(entries)
    cleaned, at = [], 0
    for entry in entries:
        mine = range(at, at + len(entry.values))
        cleaned.append(entry if suspected.isdisjoint(mine) else _clean(entry))
        at = mine.stop
    return cleaned


def _clean(entry: Entry) -> Entry:
    found: dict[str, object] = {}
    values = []
    for value in entry.values:
        data, count = redacted(value.data)
        if count:
            found[value.name] = count
            value = Value(value.name, data, value.of)  # noqa: PLW2901  what is sealed instead
        values.append(value)
    if not found:
        return entry
    return replace(entry, values=tuple(values), fields={**entry.fields, FIELD: {"detectors": LIST, **found}})


def suspects(texts: Sequence[bytes]) -> set[int]:
    """The numbers of the texts that may hold a secret: no other does.  One search for many, as each lets the interpreter go."""
    found: set[int] = set()
    for first in range(0, len(texts), _TOGETHER):
        some = texts[first : first + _TOGETHER]
        if len(max(some, key=len)) > _PIECE:
            found.update(first + number for number, text in enumerate(some) if len(text) > _PIECE)  # looked at in its pieces
            some = [text if len(text) <= _PIECE else b"" for text in some]
        found.update([first + number for number in _among(some)])
    return found


def _among(texts: Sequence[bytes]) -> Iterator[int]:
    joined = b"\0".join(texts)
    match = _LOOKING.search(joined)
    if match is None:
        return
    nexts = list(accumulate(len(text) + 1 for text in texts))  # where the text after each begins
    while match is not None:
        # Whatever the match touches: it may hide one that begins within it, or needs its last byte before it.
        touched = range(bisect_right(nexts, match.start()), bisect_right(nexts, match.end()) + 1)
        yield from touched
        match = _LOOKING.search(joined, nexts[touched.stop - 1] - 1) if touched.stop < len(texts) else None


def redacted(data: bytes) -> tuple[bytes, int]:
    """The bytes with a word in place of each secret, and how many there were.  JSON stays JSON."""
    if len(data) <= _PIECE:
        return _redacted(data)
    done = [_redacted(piece) for piece in _pieces(data)]
    return b"".join(piece for piece, _ in done), sum(count for _, count in done)


def _pieces(data: bytes) -> Iterator[bytes]:
    """Much, in parts that end after a member: a search in all of it would keep every other thread waiting."""
    start = 0
    while start < len(data):
        cut = data.find(b'",', start + _PIECE, start + 2 * _PIECE)
        end = cut + 2 if cut >= 0 else start + 2 * _PIECE
        yield data[start:end]
        start = end


def _redacted(data: bytes) -> tuple[bytes, int]:
    if _LOOKING.search(data) is None:
        return data, 0
    named = _by_name(data)
    if not named and not _by_shape(data):
        return data, 0
    low, count = data.lower(), 0
    for detector, pattern in _COMPILED:
        if any(mark in low for mark in detector.marks) if detector.marks else named:
            data, times = pattern.subn(_instead(detector.name.encode()), data)
            count += times
    return data, count


def _by_name(data: bytes) -> bool:
    """Whether a member may be named as a secret.  As the next: a few quick looks before the detectors."""
    parts = data.translate(_SMALL, b" \t\r\n").split(b'":')
    return len(parts) > 1 and not _NAMED.isdisjoint([part[part.rfind(b'"') + 1 :] for part in parts])


def _by_shape(data: bytes) -> bool:
    """Whether there may be a token: letters and digits in a row, or a password in a URL."""
    if b"@" in data and b"://" in data:
        return True
    return _RUN in data.translate(_RUNS) and any(
        not run.isdigit() and _DIGIT.search(run) is not None for run in _RUNS_OF.findall(data)
    )


def _instead(name: bytes) -> Callable[[re.Match[bytes]], bytes]:
    word = b"[secret: %b]" % name

    def put(match: re.Match[bytes]) -> bytes:
        if "secret" not in match.re.groupindex:
            return word
        whole, start, (first, last) = match[0], match.start(), match.span("secret")
        return whole[: first - start] + word + whole[last - start :]

    return put
