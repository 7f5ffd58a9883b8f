"""Values without what a duty takes from them.  What cannot be searched is withheld whole.

An entry is the name of a field, in whatever depth it stands (`iban`), the path of one from a document's root (`/order/*/iban`),
or a detector (`detector:email`; `refused:email` lets nothing through in which it finds something); names are compared without
regard to case.  What only flags, and guards, are no matter of a walk: `gateway.obligations.inspector` sees to them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

from gateway.model import Refused
from gateway.obligations.detect import DETECTORS, MARK, SECRET_NAMES, SLOW
from gateway.reasons import Code

PATH: Final = "/"
DETECTOR: Final = "detector:"
REFUSED: Final = "refused:"
FLAG: Final = "flag:"
GUARD: Final = "guard:"
FLAG_GUARD: Final = "flag-guard:"
_BESIDE: Final = (FLAG, GUARD, FLAG_GUARD)
KINDS: Final = (DETECTOR, REFUSED, *_BESIDE)
_SLOW: Final = tuple(kind + name for kind in KINDS for name in SLOW)
_MAX_DEPTH: Final = 64
_Paths = tuple[tuple[str, ...], ...]


class _Wanted(NamedTuple):
    names: frozenset[str]
    paths: _Paths
    detectors: tuple[str, ...]
    refused: tuple[str, ...]

    @property
    def named(self) -> frozenset[str]:
        """Every word by which a field could be found in a text."""
        return self.names | {path[-1] for path in self.paths if path[-1] != "*"}

    @property
    def searched(self) -> bool:
        return bool(self.detectors or self.refused)

    @property
    def fields(self) -> bool:
        return bool(self.names or self.paths)


def is_beside(entry: str) -> bool:
    """Whether it is seen to beside the walk: a guard, or what only flags."""
    return entry.startswith(_BESIDE)


def is_slow(entry: str) -> bool:
    """Whether to look for it takes so long that it is done beside the event loop."""
    return entry in _SLOW


@lru_cache(maxsize=256)
def _wanted(entries: frozenset[str]) -> _Wanted:
    if any(map(is_beside, entries)):
        raise Refused(Code.DUTY_FAILED, "what a guard must see, or what is flagged, was not looked at")
    paths = tuple(sorted(tuple(entry[1:].split("/")) for entry in entries if entry.startswith(PATH)))
    detectors = tuple(sorted(entry.removeprefix(DETECTOR) for entry in entries if entry.startswith(DETECTOR)))
    refused = tuple(sorted(entry.removeprefix(REFUSED) for entry in entries if entry.startswith(REFUSED)))
    names = frozenset(entry for entry in entries if not entry.startswith((PATH, DETECTOR, REFUSED)))
    return _Wanted(names, paths, detectors, refused)


def redact(result: Any, entries: frozenset[str]) -> Any:
    """A tool's result (`CallToolResult` as JSON) without these.

    Structured content is walked, and so is JSON inside its texts; a text in it that names a field and is no JSON is withheld.
    Where fields are looked for, text content must be JSON to be searched; a text, image, audio or embedded blob that cannot be
    searched is withheld whole (fail closed).  Raises `Refused(DUTY_FAILED)` for a result that is no object.
    """
    if not isinstance(result, dict):
        raise Refused(Code.DUTY_FAILED, "the result is not an object")
    wanted = _wanted(entries)
    walked = {key: _walk(value, wanted, wanted.paths, 0) for key, value in result.items() if key != "content"}
    if "content" in result:
        content = result["content"]
        walked["content"] = [_block(block, wanted) for block in content] if isinstance(content, list) else []
    return walked


def data(value: Any, entries: frozenset[str]) -> Any:
    """One document (arguments, a part's data) without these; paths begin at its root."""
    wanted = _wanted(entries)
    return _walk(value, wanted, wanted.paths, 0)


def part(value: Any, entries: frozenset[str]) -> Any:
    """A piece of something without these, where no path begins."""
    return _walk(value, _wanted(entries), (), 0)


def by_fields(entries: frozenset[str]) -> bool:
    """Whether fields are looked for, and not only what detectors find."""
    return _wanted(entries).fields


def text(value: Any, entries: frozenset[str]) -> str:
    """A whole text without these: withheld where fields are looked for and it is no JSON."""
    return _text(value, _wanted(entries))


def words(value: str, entries: frozenset[str]) -> str:
    """A short text of people's (a name, a description): withheld where it names a field."""
    return _inner(value, _wanted(entries), 0)


def _block(block: Any, wanted: _Wanted) -> Any:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text":
        rest = {key: value for key, value in block.items() if key != "text"}
        return {**_walk(rest, wanted, (), 0), "text": _text(block.get("text"), wanted)}
    if kind == "resource_link":
        return _walk(block, wanted, (), 0)
    return {"type": "text", "text": MARK}


def _text(value: Any, wanted: _Wanted) -> str:
    if not isinstance(value, str):
        return MARK
    try:
        parsed = orjson.loads(value)
    except (orjson.JSONDecodeError, TypeError):
        parsed = None
    if isinstance(parsed, dict | list):
        walked = _walk(parsed, wanted, wanted.paths, 0)
        return value if walked == parsed else orjson.dumps(walked).decode()
    return MARK if wanted.fields else _detected(value, wanted)


def _walk(value: Any, wanted: _Wanted, paths: _Paths, depth: int) -> Any:
    """`paths`: what is left of them at this place."""
    if depth > _MAX_DEPTH:
        return MARK
    if isinstance(value, Mapping):
        return {_key(key, wanted): _member(key, inner, wanted, paths, depth) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_step(str(at), inner, wanted, paths, depth) for at, inner in enumerate(value)]
    if isinstance(value, str):
        return _inner(value, wanted, depth)
    if wanted.searched and isinstance(value, int | float | Decimal | orjson.Fragment) and not isinstance(value, bool):
        written = str(value.contents if isinstance(value, orjson.Fragment) else value)
        return value if _detected(written, wanted) == written else MARK
    return value


def _member(key: str, value: Any, wanted: _Wanted, paths: _Paths, depth: int) -> Any:
    folded = key.casefold()
    if "secrets" in wanted.refused and isinstance(value, str) and value and folded in SECRET_NAMES:
        raise Refused(Code.CONTENT_REFUSED, "secrets")
    if folded in wanted.names or ("secrets" in wanted.detectors and isinstance(value, str) and folded in SECRET_NAMES):
        return MARK
    return _step(folded, value, wanted, paths, depth)


def _step(key: str, value: Any, wanted: _Wanted, paths: _Paths, depth: int) -> Any:
    left = tuple([path[1:] for path in paths if path[0] in {"*", key}]) if paths else ()
    return MARK if () in left else _walk(value, wanted, left, depth + 1)


def _key(key: str, wanted: _Wanted) -> str:
    return _detected(key, wanted) if wanted.searched else key


def _inner(value: str, wanted: _Wanted, depth: int) -> str:
    """A text inside structured data: servers put whole JSON documents there, where a walk of keys alone would not see them."""
    found = _named_in(value, wanted, depth) if wanted.fields else value
    return _detected(found, wanted) if wanted.searched else found


def _named_in(value: str, wanted: _Wanted, depth: int) -> str:
    named = _names(value, wanted.named)
    if not named and "\\" not in value:  # an escape could hide a name
        return value
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return MARK if named or value.lstrip()[:1] in ("{", "[", '"') else value
    if not isinstance(parsed, dict | list | str):
        return value
    walked = _walk(parsed, wanted, wanted.paths, depth + 1)
    return value if walked == parsed else orjson.dumps(walked).decode()


def _detected(value: str, wanted: _Wanted) -> str:
    """What detectors leave of a text; JSON in it is read, as an escape could hide what they look for."""
    if "\\" in value and value.lstrip()[:1] in ("{", "[", '"'):
        try:
            parsed = orjson.loads(value)
        except orjson.JSONDecodeError:
            return MARK
        walked = (
            _walk(parsed, _Wanted(frozenset(), (), wanted.detectors, wanted.refused), (), 1)
            if isinstance(parsed, dict | list | str)
            else parsed
        )
        return value if walked == parsed else orjson.dumps(walked).decode()
    for name in wanted.refused:
        if DETECTORS[name](value) != value:
            raise Refused(Code.CONTENT_REFUSED, name)
    for name in wanted.detectors:
        value = DETECTORS[name](value)
    return value


def _names(value: str, names: frozenset[str]) -> bool:
    """Whether one of the fields stands in the text as a word of its own."""
    folded = value.casefold()
    return any(name in folded and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", folded) for name in names)
