"""JSON of strangers, fast: one reading or none.  What two parsers could read differently is refused.

orjson does the parsing (UTF-8, RFC 8259, no NaN, no lone surrogates); what it would let pass is found by counting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
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
    members = _members(value, depth) if value.__class__ is dict else _members([value], depth + 1)
    # Each member has one colon outside strings.  More colons than members: some stood twice and only the last was kept.
    if body.count(b":") != members and _STRING.sub(b"", body).count(b":") != members:
        raise UnreadableError("a member stands twice")
    return value


def _members(value: Any, room: int) -> int:
    """How many object members there are altogether in an object or a list."""
    if room == 0:
        raise TooDeepError("nested too deep")
    count, inside = 0, value
    if value.__class__ is dict:
        count, inside = len(value), value.values()
    for inner in inside:
        kind = inner.__class__
        if kind is str or kind is int:
            continue
        if kind is dict or kind is list:
            count += _members(inner, room - 1)
        elif kind is float and inner in _INFINITE:
            raise UnreadableError("a number is out of range")
    return count


def loads_answer(body: bytes) -> Any:
    """What an upstream said.  It is written anew before anybody else reads it, so that only one reading exists.

    Every number is written as it came where a 64-bit integer or a double would not hold it.  JavaScript cuts texts within a
    character and sends half of it; such halves become U+FFFD.
    """
    if not _out_of_the_ordinary(body):
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass  # half a character, or a number that no double is
    try:
        text = body.decode("utf-8")
        value = json.loads(text, parse_int=_integer, parse_float=_fraction, parse_constant=_no_number)
        return _whole(value) if "\\u" in text else value
    except (ValueError, RecursionError):
        raise UnreadableError("not JSON") from None


_KINDS = bytes(48 if chr(n) in "0123456789." else 45 if chr(n) == "-" else 32 for n in range(256))
"""Digits and dots as `0`: in what comes of it a long number is found at the speed of memory."""
_LONG, _LONG_BELOW, _LONGER = b"0" * 19, b"-" + b"0" * 19, b"0" * 20
_BELOW_NOTHING = re.compile(rb"-0[\s,\]}]")


def _out_of_the_ordinary(body: bytes) -> bool:
    """Whether there may be a number that neither a 64-bit integer nor a double holds, or a zero below zero."""
    kinds = body.translate(_KINDS)
    if _LONG in kinds and (_LONGER in kinds or _LONG_BELOW in kinds):
        return True
    return _BELOW_NOTHING.search(body) is not None


_LONGEST_NUMBER = 4096


def _integer(text: str) -> Any:
    if text == "-0" or len(text) > 20:
        return _as_written(text)
    value = int(text)
    return value if -(2**63) <= value < 2**64 else _as_written(text)


def _fraction(text: str) -> Any:
    value = float(text)
    if value in _INFINITE:
        return _as_written(text)
    if len(text) > 17 and (len(text) > _LONGEST_NUMBER or Decimal(text) != Decimal(repr(value))):
        return _as_written(text)
    return value


def _as_written(text: str) -> orjson.Fragment:
    if len(text) > _LONGEST_NUMBER:
        raise UnreadableError("a number is too long")
    return orjson.Fragment(text)


def _whole(value: Any) -> Any:
    """The same with texts of whole characters."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_whole(key): _whole(inner) for key, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value


def _no_number(_: str) -> float:
    raise UnreadableError("not a number")


dumps: Callable[[Any], bytes] = orjson.dumps
"""As bytes; the only way that JSON leaves."""


def exact(value: Any) -> Any:
    """The same value with every double as the Decimal that `dumps` will write: what is judged is what is sent."""
    if value.__class__ is float:
        return Decimal(repr(value))
    if isinstance(value, dict):
        members = dict(value)
        for key, inner in value.items():
            if inner.__class__ not in _EXACT:
                members[key] = exact(inner)
        return members
    if isinstance(value, list):
        return [exact(inner) for inner in value]
    return value


_EXACT = frozenset({str, int, bool, type(None)})


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
