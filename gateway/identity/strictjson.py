"""JSON of strangers: UTF-8, bounded depth, every member once, every number finite.

What two parsers could read differently is refused.
"""

from __future__ import annotations

import json
import math
import re

_STRING = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)  # possessive, and an open string ends at the end: linear
_LONGEST_INT = 20


def loads(data: bytes, depth: int) -> object:
    """Parse one JSON value nested at most `depth` deep; ValueError (whose text repeats nothing of the input) otherwise.

    Refused: other encodings than UTF-8, a byte order mark, duplicate members (also where escapes hide that they are the same),
    NaN and infinities (also as 1e400), integers beyond 20 digits, lone surrogates.
    """
    try:
        text = data.decode("utf-8")
        if _deeper(text, depth):
            msg = "nested too deep"
            raise _RefusedJsonError(msg)
        value: object = _DECODER.decode(text)
        if "\\u" in text:  # an escape can name half a character, which no store or log could write down
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except _RefusedJsonError:
        raise
    except ValueError:
        msg = "not JSON in UTF-8"
        raise _RefusedJsonError(msg) from None
    return value


class _RefusedJsonError(ValueError):
    pass


def _deeper(text: str, depth: int) -> bool:
    if text.count("[") + text.count("{") <= depth:
        return False
    level = 0
    for char in _STRING.sub("", text):
        if char in "[{":
            level += 1
            if level > depth:
                return True
        elif char in "]}":
            level -= 1
    return False


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        msg = "a member stands twice"
        raise _RefusedJsonError(msg)
    return members


def _int(text: str) -> int:
    if len(text) > _LONGEST_INT:
        msg = "a number is too long"
        raise _RefusedJsonError(msg)
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        msg = "a number is too large"
        raise _RefusedJsonError(msg)
    return value


def _constant(_: str) -> float:
    msg = "not a number"
    raise _RefusedJsonError(msg)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_int, parse_float=_float, parse_constant=_constant)
