"""Resource URIs: one canonical form for each, or none (RFC 3986 §6.2, narrowed): what readers could read differently is refused.

The form is a plain word of a rule: no comma, parenthesis, quote, star or space is ever in it, and no two forms mean one resource.
"""

from __future__ import annotations

import re
from typing import Final

from policies.addresses import host_of

MAX_URI: Final = 900  # a line of a table may have 1000 characters
BOUNDARIES: Final = ("/", ":")
"""After these a pattern's `*` may stand: anywhere else it would reach names that only begin alike."""

_PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21"}
_HIERARCHICAL: Final = frozenset({*_PORTS, "file"})
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}")
_AUTHORITY = re.compile(r"([A-Za-z0-9._-]*)(?::([1-9][0-9]{0,4}))?")
_WORD = re.compile(r"[a-z0-9]([a-z0-9_-]|\.(?!\.))*(?<=[a-z0-9_])")  # what stands for a host in schemes that know none
_ESCAPE = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_MADE = re.compile(r"%2[789AC]")  # what `canonical` makes of the characters in _WRITTEN_OUT
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_KEPT: Final = _UNRESERVED | frozenset("/:@!$&+;=?")
_WRITTEN_OUT: Final = frozenset("'()*,")  # legal in a URI, and not in a cell of a rule
_NEVER_ESCAPED: Final = frozenset("/\\%") | _WRITTEN_OUT
"""`%2F` is a slash to some readers only, `%25` is read twice by others; the rest would be a second form of what stands plain."""


def canonical(uri: str) -> str | None:
    """The one form of a URI; None for what has none: relative, with a fragment, user, dot segments, empty segments, odd bytes."""
    scheme, colon, rest = uri.partition(":")
    if not colon or len(uri) > MAX_URI or not _SCHEME.fullmatch(scheme):
        return None
    scheme = scheme.lower()
    authority = ""
    if scheme in _HIERARCHICAL and not rest.startswith("//"):
        return None
    if rest.startswith("//"):
        authority, slash, rest = rest[2:].partition("/")
        if not slash and "?" in authority:
            return None
        found = _authority(scheme, authority)
        if found is None:
            return None
        authority = f"//{found}"
        rest = slash + rest
        rest = rest or ("/" if scheme in _PORTS else "")
    path, question, query = rest.partition("?")
    if (question and not query) or (not path and authority in ("", "//")):
        return None
    path_, query_ = _text(path), _text(query)
    if path_ is None or query_ is None or not _clean(path_):
        return None
    made = f"{scheme}:{authority}{path_}{question}{query_}"
    return made if len(made) <= MAX_URI else None


def is_canonical(text: str) -> bool:
    """Whether a text is the canonical form of some URI."""
    return canonical(_MADE.sub(lambda escape: chr(int(escape[0][1:], 16)), text)) == text


def prefix(text: str) -> bool:
    """Whether `text` may stand before a pattern's `*`: the canonical beginning of a URI, up to a boundary."""
    if not text.endswith(BOUNDARIES):
        return False
    if re.fullmatch(r"[a-z][a-z0-9+.-]{0,31}:(//)?", text):
        return True
    probe = f"{text}1" if text.endswith(":") else f"{text}x"  # a port, or a segment
    return is_canonical(probe)


def form_of(text: str) -> str | None:
    """The one form of a URI, also of one that is written in it already."""
    return text if is_canonical(text) else canonical(text)


def beginning(text: str) -> str | None:
    """The canonical form of what stands before a boundary, for a pattern's `*`; None where it has none."""
    if prefix(text):
        return text
    made = canonical(f"{text}x")
    return made[:-1] if made is not None and prefix(made[:-1]) else None


def _authority(scheme: str, text: str) -> str | None:
    """Host and port, lower-case, without the default port; no user, no IP literal in brackets, no number that is an address."""
    parts = _AUTHORITY.fullmatch(text)
    if parts is None:
        return None
    host, port = parts[1].lower(), parts[2]
    if scheme == "file":
        return "" if not text else None  # a host would be a second name for this machine, or another machine
    known = host_of(host) is not None if scheme in _PORTS else _WORD.fullmatch(host) is not None
    if not known or (port is not None and int(port) > 65535):
        return None
    return host if port is None or port == _PORTS.get(scheme) else f"{host}:{port}"


def _text(text: str) -> str | None:
    """Characters that need no escape as themselves, all others as upper-case escapes of UTF-8; None for what is ambiguous."""
    made: list[str] = []
    at = 0
    while at < len(text):
        escape = _ESCAPE.match(text, at)
        if escape is not None:
            try:
                plain = bytes.fromhex(escape[0].replace("%", "")).decode()
            except ValueError:  # no UTF-8: an overlong dot, half a character
                return None
            if any(c in _NEVER_ESCAPED or not c.isprintable() for c in plain):
                return None
            made += [c if c in _UNRESERVED else _escaped(c) for c in plain]
            at = escape.end()
            continue
        c = text[at]
        if c in _KEPT:
            made.append(c)
        elif c in _WRITTEN_OUT or (not c.isascii() and c.isprintable() and not "\ud800" <= c <= "\udfff"):
            made.append(_escaped(c))
        else:
            return None
        at += 1
    return "".join(made)


def _escaped(c: str) -> str:
    return "".join(f"%{byte:02X}" for byte in c.encode())


def _clean(path: str) -> bool:
    """No `.`, `..` and what some systems trim to it, and no empty segment but the first and the last."""
    segments = path.split("/")
    inner = segments[1:-1] if path.startswith("/") else segments[:-1]
    return all(inner) and not any(s and not s.strip(".") for s in segments)
