"""One way to write a JSON value (RFC 8785), so that a digest names what is said and not how: order of keys, `1.0` for `1`.

Integers beyond 2^53, for which RFC 8785 has no form of their own, keep all their digits: no two of them share a digest.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final

import orjson

MAX_DEPTH: Final = 250
_PLAIN: Final = 2.0**64
"""Below it an integer may come as an integer or as a double: both are written with all digits."""

# A double begins with digits after one of [ , : and goes on with a dot or an exponent: with the digits left out that is ",.".
_DOUBLES: Final = bytes.maketrans(b"[:eE", b",,..")
_DIGITS: Final = b"0123456789-"


class UncanonicalError(ValueError):
    """No JSON value that has one canonical form: an infinite number, half a character, nested too deep."""


def canonical(value: Any) -> bytes:
    """The bytes; UncanonicalError where there are none."""
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        if data.isascii() and not isinstance(value, float) and b",." not in data.translate(_DOUBLES, _DIGITS):
            return data  # plain names, plain integers: orjson writes them canonically
    except TypeError:  # an integer beyond 64 bits, or what is no JSON
        pass
    try:
        return orjson.dumps(_settled(value, MAX_DEPTH))
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, UncanonicalError):
            raise
        raise UncanonicalError(type(error).__name__) from None


def digest_of(value: Any) -> str:
    """`sha256:<hex>` of the canonical bytes."""
    return named(canonical(value))


def named(data: bytes) -> str:
    """`sha256:<hex>` of bytes that are canonical."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _settled(value: Any, room: int) -> Any:
    """The same, members in order of UTF-16 units, numbers as fragments of text; what orjson then writes is canonical."""
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return orjson.Fragment(str(value))
    if isinstance(value, float):
        return orjson.Fragment(number(value))
    if room == 0:
        raise UncanonicalError("nested too deep")
    if isinstance(value, Mapping):
        names = list(value)
        if not all(isinstance(name, str) for name in names):
            raise UncanonicalError("a name that is no text")
        names.sort(key=None if all(map(str.isascii, names)) else _units)
        return {name: _settled(value[name], room - 1) for name in names}
    if isinstance(value, list | tuple):
        return [_settled(each, room - 1) for each in value]
    raise UncanonicalError(f"{type(value).__name__} is no JSON")


def _units(name: str) -> bytes:
    return name.encode("utf-16-be", "surrogatepass")


def number(value: float) -> str:
    """A double as ECMAScript writes it; an integer with all its digits."""
    if not math.isfinite(value):
        raise UncanonicalError("a number is out of range")
    if value == int(value) and abs(value) < _PLAIN:
        return str(int(value))
    mantissa, _, exponent = repr(value).lstrip("-").partition("e")
    whole, _, part = mantissa.partition(".")
    digits = (whole + part).lstrip("0").rstrip("0")
    leading = len(part) - len(part.lstrip("0")) if not whole.strip("0") else 0
    point = int(exponent or 0) + (len(whole) if whole.strip("0") else -leading)
    sign = "-" if value < 0 else ""
    if len(digits) <= point <= 21:
        return f"{sign}{digits}{'0' * (point - len(digits))}"
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    shown = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
    return f"{sign}{shown}e{'+' if point > 0 else '-'}{abs(point - 1)}"
