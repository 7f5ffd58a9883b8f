"""`redact-result`: named fields of a tool's result are blanked before anything is released or recorded."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from gateway.model import Permit, Refused
from gateway.obligations.duty import fulfilled, impossible, only
from gateway.reasons import Code
from policies.model import Obligation

MARK: Final = "[redacted by policy]"
_MAX_DEPTH: Final = 64


def fulfil(permit: Permit, obligation: Obligation) -> Permit:
    """`{type: redact-result, fields: [NAME …]}`: field names are compared without regard to case."""
    fields = only(permit, obligation, "fields").get("fields")
    if not isinstance(fields, list | tuple) or not fields or not all(isinstance(name, str) and name for name in fields):
        raise impossible(permit, obligation, "fields must be a list of names")
    if permit.call.arrival.protocol != "mcp":
        raise impossible(permit, obligation, "only results of tools can be redacted")
    return fulfilled(permit, obligation, redact=permit.redact | {name.casefold() for name in fields})


def redact(result: Any, fields: frozenset[str]) -> Any:
    """A tool's result (`CallToolResult` as JSON) without the values of these fields.

    Structured content is walked, and so is JSON inside its texts; a text in it that names a field and is no JSON is withheld.
    Text content must be JSON to be searched, and a text, image, audio or embedded blob that cannot be searched is withheld
    whole (fail closed).  Raises `Refused(DUTY_FAILED)` for a result that is no object.
    """
    if not isinstance(result, dict):
        raise Refused(Code.DUTY_FAILED, "the result is not an object")
    walked = {key: _walk(value, fields, 0) for key, value in result.items() if key != "content"}
    if "content" in result:
        content = result["content"]
        walked["content"] = [_block(block, fields) for block in content] if isinstance(content, list) else []
    return walked


def _block(block: Any, fields: frozenset[str]) -> Any:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text":
        return {**_walk(block, fields, 0), "text": _text(block.get("text"), fields)}
    if kind == "resource_link":
        return _walk(block, fields, 0)
    return {"type": "text", "text": MARK}


def _text(text: Any, fields: frozenset[str]) -> str:
    try:
        parsed = orjson.loads(text)
    except (orjson.JSONDecodeError, TypeError):
        return MARK
    if not isinstance(parsed, dict | list):
        return MARK
    return orjson.dumps(_walk(parsed, fields, 0)).decode()


def _walk(value: Any, fields: frozenset[str], depth: int) -> Any:
    if depth > _MAX_DEPTH:
        return MARK
    if isinstance(value, dict):
        return {key: MARK if key.casefold() in fields else _walk(inner, fields, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_walk(inner, fields, depth + 1) for inner in value]
    return _inner(value, fields, depth) if isinstance(value, str) else value


def _inner(text: str, fields: frozenset[str], depth: int) -> str:
    """A text inside structured data: servers put whole JSON documents there, where a walk of keys alone would not see them."""
    named = _names(text, fields)
    if not named and "\\" not in text:  # an escape could hide a name
        return text
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError:
        return MARK if named or text.lstrip()[:1] in ("{", "[", '"') else text
    if not isinstance(parsed, dict | list | str):
        return text
    walked = _walk(parsed, fields, depth + 1)
    return text if walked == parsed else orjson.dumps(walked).decode()


def _names(text: str, fields: frozenset[str]) -> bool:
    """Whether one of the fields stands in the text as a word of its own."""
    folded = text.casefold()
    return any(name in folded and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", folded) for name in fields)
