"""What `bailiwick doctor` asks of one key set or issuer: each step apart, so that people see which one fails.

Everything that is shown of an answer is bounded and printable; nothing is believed that the gateway itself would not believe.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

import orjson

from gateway.identity.discovery import Metadata, MetadataError, locations, parse
from gateway.identity.keys import SIGNATURE, Key, KeySetError, parse_jwks
from gateway.identity.strictjson import loads
from gateway.model import UpstreamError
from gateway.upstream.client import HttpRequest, Upstreams, Url

if TYPE_CHECKING:
    from gateway.settings import Issuer, Keys

State = Literal["ok", "note", "finding"]
CLOCK_SECONDS: Final = 30
_BYTES: Final = 256 * 1024
_SHOWN: Final = 120


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.  `of` is what it belongs to, as `issuers.corp`; `help` says what to do next."""

    of: str
    name: str
    state: State
    message: str
    help: str = ""

    def to_dict(self) -> dict[str, str]:
        """As `--json` shows it."""
        return {"of": self.of, "check": self.name, "state": self.state, "message": self.message, "help": self.help}


@dataclass(slots=True)
class Seen:
    """What was found of an issuer, for whoever looks at a token of it.

    algorithms  that its tokens may be signed with; uses: the words of `use` that mean a signature key there.
    """

    of: str
    algorithms: tuple[str, ...] = ()
    uses: frozenset[str] = SIGNATURE
    checks: list[Check] = field(default_factory=list)
    keys: dict[str, Key] = field(default_factory=dict)

    def say(self, name: str, state: State, message: str, help_: str = "") -> None:
        """Add a check."""
        self.checks.append(Check(self.of, name, state, message, help_))


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    date: str
    body: bytes


class _UnreachableError(Exception):
    """No answer; `step` is where it ended: `address`, `dns`, `connect`, `tls`, `timeout` or `answer`."""

    def __init__(self, step: str, message: str, help_: str) -> None:
        super().__init__(message)
        self.step, self.help = step, help_


_HELP: Final[Mapping[str, str]] = {
    "address": "the gateway never goes there; name another address",
    "dns": "is the host name right, and does this machine's resolver know it?",
    "connect": "is the port right, does the server run, and does a firewall stand between?",
    "tls": "is the certificate valid, for this host, and signed by an authority that this machine knows (SSL_CERT_FILE)?",
    "timeout": "is it slow, or does a firewall drop packets?",
    "answer": "is that an HTTP server?",
}


class Asker:
    """Asks by the gateway's own door out, with its rules; each question bounded in time."""

    def __init__(self, upstreams: Upstreams, seconds: float) -> None:
        self._upstreams = upstreams
        self._seconds = seconds

    async def get(self, url: str, *, private: bool) -> _Answer:
        """Whatever is answered.  _UnreachableError where nothing is."""
        try:
            target = Url.parse(url, allow_private=private)
        except ValueError as error:
            raise _UnreachableError("address", str(error), "correct the URL") from None
        request = HttpRequest(target, method=b"GET", headers=((b"accept", b"application/json"),), replay=True)
        try:
            async with asyncio.timeout(self._seconds):
                response = await self._upstreams.send(request)
                try:
                    body = await response.read(_BYTES)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise _UnreachableError("timeout", f"no whole answer within {self._seconds:g} s", _HELP["timeout"]) from None
        except UpstreamError as error:
            step = _step(error)
            raise _UnreachableError(step, error.detail or error.kind, _HELP[step]) from None
        date = next((value.decode("latin-1") for name, value in response.headers if name == b"date"), "")
        return _Answer(response.status, date, body)


def _step(error: UpstreamError) -> str:
    if error.kind == "timeout":
        return "timeout"
    if error.kind != "connect":
        return "answer"
    if "resolve" in error.detail:
        return "dns"
    if error.detail.startswith("SSL") or "Certificate" in error.detail:
        return "tls"
    return "connect" if error.detail.endswith("Error") or error.detail == "no address" else "address"


async def examine(issuer: Issuer, asker: Asker) -> Seen:
    """Everything about one issuer that can be known without a token."""
    seen = Seen(f"issuers.{issuer.alias}", issuer.algorithms)
    metadata = None
    if issuer.jwks is None or (issuer.introspection is not None and issuer.introspection.url is None):
        metadata = await _metadata(issuer, asker, seen)
    if issuer.jwks is not None:
        await examine_keys(issuer.jwks, asker, seen, development=issuer.development)
    elif metadata is not None:
        private = _same_host(metadata.jwks_uri, issuer.issuer)
        await _key_set(metadata.jwks_uri, asker, seen, private=private)
    if issuer.introspection is not None:
        await _introspection(issuer, metadata, asker, seen)
    seen.say("audience", "ok", f"tokens must name '{issuer.audience}' in aud")
    return seen


async def _metadata(issuer: Issuer, asker: Asker, seen: Seen) -> Metadata | None:
    failed: list[Check] = []
    for url in locations(issuer.issuer):
        try:
            answer = await asker.get(url, private=True)
        except _UnreachableError as error:
            failed.append(Check(seen.of, "metadata", "finding", f"{url}: {error.step}: {error}", error.help))
            break  # the other place is on the same host
        if answer.status != 200:
            help_ = "is `issuer` exactly what its tokens say in iss? or give its `jwks`"
            failed.append(Check(seen.of, "metadata", "finding", f"{url}: answered {answer.status}", help_))
            continue
        _clock(answer, seen)
        try:
            metadata = parse(answer.body, issuer.issuer)
        except MetadataError as error:
            failed.append(
                Check(seen.of, "metadata", "finding", f"{url}: {error}{_named(answer.body, issuer.issuer)}", _WRITE_ISSUER)
            )
            continue
        seen.say("metadata", "ok", f"{url} names the issuer and its keys")
        return metadata
    telling = [check for check in failed if not check.message.endswith("answered 404")]
    seen.checks += telling or failed  # that the other place is empty is no news where this one is not
    return None


_WRITE_ISSUER: Final = "the gateway compares it character by character, the final slash too"


def _named(body: bytes, expected: str) -> str:
    """Which issuer such a document names, where that is what is wrong."""
    try:
        document = loads(body, 12)
    except ValueError:
        return ""
    found = document.get("issuer") if isinstance(document, dict) else None
    return f": expected {short(expected)}, found {short(found)}" if found != expected else ""


async def examine_keys(keys: Keys, asker: Asker, seen: Seen, *, development: bool = False) -> None:
    """The keys behind one `jwks` setting."""
    if keys.url is not None:
        await _key_set(str(keys.url), asker, seen, private=True)
        return
    assert keys.file is not None  # noqa: S101  the settings have one of the two
    try:
        with keys.file.open("rb") as file:
            data = file.read(_BYTES + 1)
    except OSError as error:
        made = "the gateway makes it at its first start" if development else "one JWK Set, readable by the gateway"
        state: State = "note" if development else "finding"
        seen.say("jwks", state, f"{keys.file}: cannot be read: {error.strerror}", made)
        return
    _judged(data, str(keys.file), seen)


async def _key_set(url: str, asker: Asker, seen: Seen, *, private: bool) -> None:
    try:
        answer = await asker.get(url, private=private)
    except _UnreachableError as error:
        seen.say("jwks", "finding", f"{url}: {error.step}: {error}", error.help)
        return
    if answer.status != 200:
        seen.say("jwks", "finding", f"{url}: answered {answer.status}", "is that where its keys are?")
        return
    _clock(answer, seen)
    _judged(answer.body, url, seen)


def _judged(data: bytes, where: str, seen: Seen) -> None:
    try:
        found = parse_jwks(data, seen.uses)
    except KeySetError as error:
        help_ = "the gateway uses no key of such a set: its owner must publish public keys alone, each with a kid of its own"
        seen.say("jwks", "finding", f"{where}: {error}{_twice(data)}", help_)
        return
    seen.keys |= found
    for text in _left_out(data, found, seen.uses):
        seen.say("jwks", "note", f"{where}: {text}")
    fitting = {kid for kid, key in found.items() if key.algorithms & set(seen.algorithms)}
    if not found:
        seen.say("jwks", "finding", f"{where}: no key of it can be used", "see the notes: each says why")
        return
    seen.say("jwks", "ok", f"{where}: {len(found)} usable keys")
    can = ", ".join(sorted({name for key in found.values() for name in key.algorithms}))
    said = f"its keys are for {can}; the settings accept {', '.join(seen.algorithms)}"
    if not fitting:
        seen.say("algorithms", "finding", said, f"{seen.of}.algorithms: add one of {can}")
    else:
        state: State = "ok" if len(fitting) == len(found) else "note"
        seen.say("algorithms", state, said)


def _entries(data: bytes) -> Iterator[dict[str, Any]]:
    try:
        document = loads(data, 8)
    except ValueError:
        return
    entries = document.get("keys") if isinstance(document, dict) else None
    yield from (entry for entry in (entries if isinstance(entries, list) else ()) if isinstance(entry, dict))


def _twice(data: bytes) -> str:
    kids = [entry["kid"] for entry in _entries(data) if isinstance(entry.get("kid"), str)]
    twice = sorted({kid for kid in kids if kids.count(kid) > 1})
    return f" ({short(twice[0])})" if twice else ""


def _left_out(data: bytes, found: Mapping[str, Key], uses: frozenset[str]) -> Iterator[str]:
    for number, entry in enumerate(_entries(data), 1):
        kid = entry.get("kid")
        if not isinstance(kid, str) or kid not in found or not _alone(entry, uses):
            yield f"key {number} ({short(entry.get('kid'))}) is left out: {_why(entry, uses)}"


def _alone(entry: Mapping[str, Any], uses: frozenset[str]) -> bool:
    return bool(parse_jwks(orjson.dumps({"keys": [entry]}), uses))


def _why(entry: Mapping[str, Any], uses: frozenset[str]) -> str:
    """In the order in which the gateway judges (see `keys.parse_jwks`)."""
    kid, kty, crv, alg = entry.get("kid"), entry.get("kty"), entry.get("crv"), entry.get("alg")
    if not isinstance(kid, str) or not kid:
        return "it has no kid"
    use = entry.get("use", "sig")
    if not isinstance(use, str) or use not in uses:
        return f"it is for {short(use)}, not for signatures"
    if "key_ops" in entry and "verify" not in (entry["key_ops"] if isinstance(entry["key_ops"], list) else ()):
        return "its key_ops do not say verify"
    if kty == "RSA":
        bits = _bits(entry.get("n"))
        if bits < 2048:
            return f"RSA of {bits} bits; at least 2048 are wanted"
    elif [kty, crv] not in [["EC", "P-256"], ["EC", "P-384"], ["OKP", "Ed25519"]]:
        return f"keys of kind {short(kty)}{' ' + short(crv) if crv is not None else ''} are not used"
    if alg is not None and _alone({name: value for name, value in entry.items() if name != "alg"}, uses):
        return f"its alg {short(alg)} is not used, or does not fit it"
    return "its numbers are no good key of its kind"


def _bits(modulus: object) -> int:
    return max(len(modulus.rstrip("=")) * 6 // 8 * 8, 0) if isinstance(modulus, str) else 0


async def _introspection(issuer: Issuer, metadata: Metadata | None, asker: Asker, seen: Seen) -> None:
    assert issuer.introspection is not None  # noqa: S101  asked by the caller
    url = str(issuer.introspection.url or "") or (metadata.introspection_endpoint if metadata is not None else "")
    if not url:
        help_ = f"{seen.of}.introspection.url says where, if the metadata does not"
        seen.say("introspection", "finding", "nothing says where tokens are asked about", help_)
        return
    try:  # nothing is asked about: no credential leaves for a diagnosis
        private = issuer.introspection.url is not None or _same_host(url, issuer.issuer)
        answer = await asker.get(url, private=private)
    except _UnreachableError as error:
        seen.say("introspection", "finding", f"{url}: {error.step}: {error}", error.help)
        return
    state: State = "finding" if answer.status == 404 or answer.status >= 500 else "ok"
    help_ = "is that the introspection endpoint (RFC 7662)?" if state == "finding" else ""
    seen.say("introspection", state, f"{url}: answers ({answer.status} to a GET)", help_)


def _clock(answer: _Answer, seen: Seen) -> None:
    """Once an issuer: tokens are refused by time, and a wrong clock shows as tokens that come too early or end too soon."""
    if any(check.name == "clock" for check in seen.checks):
        return
    try:
        theirs = parsedate_to_datetime(answer.date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return
    ahead = round(theirs - time.time())
    state: State = "finding" if abs(ahead) > CLOCK_SECONDS else "ok"
    far = abs(ahead) > 2  # its seconds are whole, and the answer took a while
    said = f"its clock is {abs(ahead)} s {'ahead of' if ahead > 0 else 'behind'} this one" if far else "its clock agrees"
    help_ = "set both by NTP; tokens are refused beyond 30 s" if state == "finding" else ""
    seen.say("clock", state, said, help_)


def _same_host(url: str, issuer: str) -> bool:
    return urlsplit(url).netloc == urlsplit(issuer).netloc


def short(value: object) -> str:
    """Something of a stranger's, in quotes, printable and bounded."""
    text = value if isinstance(value, str) else "nothing" if value is None else f"a {type(value).__name__}"
    shown = "".join(c if c.isprintable() else "?" for c in text[:_SHOWN]) + ("…" if len(text) > _SHOWN else "")
    return f"'{shown}'" if isinstance(value, str) else shown
