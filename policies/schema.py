"""From a tool's own description of its arguments to the types of tools.yaml.  What is no plain type becomes the safest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

TYPES: Final = ("string", "number", "integer", "boolean", "array", "object")
ARGUMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
SAFEST: Final = "object"
"""A condition can compare nothing with an object: until a person decides, nothing is decided by the argument."""
MAX_ARGUMENTS: Final = 500
_MAX_STEPS: Final = 20
_KINDS: Final[Mapping[type, str]] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
}


@dataclass(frozen=True, slots=True)
class Described:
    """A tool's arguments as its server describes them.

    types   argument → type of tools.yaml.
    doubts  argument → why its type is a guess.
    unfit   names that tools.yaml cannot hold.
    """

    types: Mapping[str, str]
    doubts: Mapping[str, str]
    unfit: tuple[str, ...] = ()


def described(schema: object) -> Described:
    """Read an inputSchema; whatever is odd about it is a doubt, never an exception."""
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    types: dict[str, str] = {}
    doubts: dict[str, str] = {}
    unfit: list[str] = []
    entries = list(properties.items()) if isinstance(properties, dict) else []
    for name, inner in entries[:MAX_ARGUMENTS]:
        if not isinstance(name, str) or not ARGUMENT.fullmatch(name):
            unfit.append(str(name)[:200])
            continue
        found = _types(inner, schema, _MAX_STEPS)
        if found == {"integer", "number"}:
            found = {"number"}
        if len(found) == 1 and (kind := next(iter(found))) in TYPES:
            types[name] = kind
        else:
            types[name] = SAFEST
            plain = sorted({kind if kind in TYPES else "something else" for kind in found})  # its words go no further
            doubts[name] = f"may be {', '.join(plain)}" if found else "the server does not say what it is"
    unfit += [f"{len(entries) - MAX_ARGUMENTS} more"] if len(entries) > MAX_ARGUMENTS else []
    return Described(types, doubts, tuple(unfit))


def comparable(entry: Described) -> dict[str, str]:
    """The types that a registered entry can be held against; "unknown" where the server leaves it open."""
    return {name: "unknown" if name in entry.doubts else kind for name, kind in entry.types.items()}


def _types(schema: object, root: object, steps: int) -> set[str]:
    """Every type that a schema admits, without null, which no condition reads; empty where it does not say."""
    if not isinstance(schema, dict) or steps <= 0:
        return set()
    if "$ref" in schema:
        return _types(_target(schema["$ref"], root), root, steps - 1)
    kinds = schema.get("type")
    if isinstance(kinds, str | list):
        said = [kinds] if isinstance(kinds, str) else kinds
        return {kind for kind in said if isinstance(kind, str) and kind != "null"}
    for key in ("anyOf", "oneOf"):
        parts = schema.get(key)
        if isinstance(parts, list):
            return _union(parts[:_MAX_STEPS], root, steps - 1)
    if "const" in schema:
        return _kinds([schema["const"]])
    if isinstance(schema.get("enum"), list):
        return _kinds(schema["enum"])
    return set()


def _union(parts: list[Any], root: object, steps: int) -> set[str]:
    found: set[str] = set()
    for part in parts:
        if isinstance(part, dict) and part.get("type") == "null":
            continue
        inner = _types(part, root, steps)
        if not inner:  # one open part leaves the whole open
            return set()
        found |= inner
    return found


def _kinds(values: list[Any]) -> set[str]:
    return {_KINDS[type(value)] for value in values if type(value) in _KINDS}


def _target(reference: object, root: object) -> object:
    """What a reference within the same schema points to; None for any other: nothing is ever fetched."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    here = root
    for step in reference[2:].split("/")[:_MAX_STEPS]:
        here = here.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(here, dict) else None
    return here
