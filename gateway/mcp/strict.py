"""JSON of strangers, fast: one reading or none.  What two parsers could read differently is refused.

orjson does the parsing (UTF-8, RFC 8259, no NaN, no lone surrogates); what it would let pass is found by counting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
MAX_NODES = 100_000
"""Lists, objects and what stands in them, of one request: a walk through them holds up everybody else's calls."""
_INFINITE = frozenset({float("inf"), float("-inf")})


class UnreadableError(ValueError):
    """Not JSON that every reader reads alike; the message says why and quotes nothing."""


class TooDeepError(UnreadableError):
    """Nested deeper than the limit, or made of more pieces."""


def loads(body: bytes, depth: int) -> Any:
    """One JSON value, nested at most `depth` deep and of at most `MAX_NODES` pieces; `UnreadableError` otherwise.

    Refused besides what is no JSON: a member that stands twice in its object, also where escapes hide that it does; a number
    that is infinite as an IEEE double.  Numbers are what `dumps` will write: 64-bit integers and doubles.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise UnreadableError("not JSON") from None
    if len(body) > MAX_NODES and body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_NODES:
        plain = _STRING.sub(b"", body)
        if plain.count(b",") + plain.count(b"[") + plain.count(b"{") > MAX_NODES:  # each of them begins a piece
            raise TooDeepError("too many pieces")
    members = _members(value, depth)
    # Each member has one colon outside strings.  More colons than members: some stood twice and only the last was kept.
    if body.count(b":") != members and _STRING.sub(b"", body).count(b":") != members:
        raise UnreadableError("a member stands twice")
    return value


def _members(value: Any, room: int) -> int:
    """How many object members there are altogether."""
    if isinstance(value, dict):
        if room == 0:
            raise TooDeepError("nested too deep")
        count = len(value)
        for inner in value.values():
            if inner.__class__ is not str:
                count += _members(inner, room - 1)
        return count
    if isinstance(value, list):
        if room == 0:
            raise TooDeepError("nested too deep")
        return sum(_members(inner, room - 1) for inner in value if inner.__class__ is not str)
    if value.__class__ is float and value in _INFINITE:
        raise UnreadableError("a number is out of range")
    return 0


def loads_answer(body: bytes) -> Any:
    """What an upstream said.  It is written anew before anybody else reads it, so that only one reading exists.

    JavaScript cuts texts within a character and sends half of it; such halves become U+FFFD.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        if b"\\u" not in body:
            raise UnreadableError("not JSON") from None
    try:
        text = json.dumps(json.loads(body.decode("utf-8"), parse_constant=_no_number), ensure_ascii=False)
        return orjson.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except (ValueError, RecursionError):
        raise UnreadableError("not JSON") from None


def _no_number(_: str) -> float:
    raise UnreadableError("not a number")


def dumps(value: Any) -> bytes:
    """As bytes; the only way that JSON leaves."""
    return orjson.dumps(value)


def exact(value: Any) -> Any:
    """The same value with every double as the Decimal that `dumps` will write: what is judged is what is sent."""
    if value.__class__ is float:
        return Decimal(repr(value))
    if isinstance(value, dict):
        return {key: inner if inner.__class__ is str else exact(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [exact(inner) for inner in value]
    return value


def disguised(members: Mapping[str, Any], known: frozenset[str]) -> bool:
    """Whether a lenient reader could take some member for another one: a NUL in its name, or only case apart.

    Go's encoding/json compares names without case, C readers stop at NUL (CVE-2026-27896).
    """
    if known.issuperset(members):
        return False  # each is spelled as it is known, and known names differ in more than case
    folded = {name.casefold() for name in members}
    if len(folded) != len(members):
        return True
    if any("\0" in name for name in members):
        return True
    return any(name not in members and name.casefold() in folded for name in known)
