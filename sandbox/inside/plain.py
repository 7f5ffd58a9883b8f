"""JSON by the interpreter's own scanner: importing `json` would cost a cage as much as everything else that it imports."""

from __future__ import annotations

TYPE_CHECKING = False  # importing `typing` would cost more than everything else here
if TYPE_CHECKING:
    from typing import Any

try:
    from _json import encode_basestring_ascii, make_scanner
except ImportError:  # an interpreter that has it in no module of that name
    from json.encoder import encode_basestring_ascii
    from json.scanner import make_scanner


def _refuse(word: str) -> None:
    raise ValueError(word)


class _Strict:
    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, staticmethod(_refuse)
    parse_object = parse_array = parse_string = None
    memo: dict[str, str] = {}  # noqa: RUF012  what a scanner asks of its context


_context: Any = _Strict()
_scan: Any = make_scanner(_context)


def loads(data: bytes) -> Any:
    """The one value that the text holds, without white space around it; ValueError for anything else."""
    text = data.decode("utf-8")
    try:
        value, end = _scan(text, 0)
    except StopIteration as error:
        raise ValueError("not JSON") from error
    if end != len(text):
        raise ValueError("more than one value")
    return value


def dumps(value: Any) -> bytes:
    """Of None, truth values, numbers, texts, lists and tables with text for keys."""
    return _text(value).encode("ascii")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join([_text(str(key)) + ":" + _text(each) for key, each in value.items()]) + "}"
    return repr(value)
