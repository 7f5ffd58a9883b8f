"""`Mcp-Param-*`: arguments that headers repeat for those who read no bodies (SEP-2243).  They decide nothing and must not lie.

Where a tool's approved definition says which arguments are repeated, they are repeated exactly so, and written anew; elsewhere a
header that repeats none of the arguments, or another one than it is called like, is refused.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

from gateway.mcp.errors import RpcId, RpcRefused
from gateway.reasons import Code

PARAM_PREFIX: Final = "mcp-param-"
MARK: Final = "x-mcp-header"
_OPEN, _CLOSE = "=?base64?", "?="
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_DECIMAL = re.compile(r"-?[0-9]{1,64}(\.[0-9]{1,64})?")
_SCALARS: Final = frozenset({"integer", "string", "boolean"})
_ONE: Final = frozenset(
    {
        "items", "contains", "unevaluatedItems", "additionalProperties", "propertyNames", "unevaluatedProperties", "not", "if",
        "then", "else", "contentSchema",
    }
)  # fmt: skip
_SEVERAL: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_BY_NAME: Final = frozenset({"patternProperties", "dependentSchemas", "$defs", "definitions"})


class Repeat(NamedTuple):
    """One argument that a header repeats: where it stands in the arguments, the header's lower-case name, the argument's type."""

    path: tuple[str, ...]
    header: str
    kind: str


Repeats = tuple[Repeat, ...]
Lines = tuple[tuple[str, str], ...]
"""Header lines, names lower-case."""
Wanted = Callable[[str, str], Repeats]
"""What the approved definition of a server's tool has headers repeat; nothing where none is approved."""


def nothing_approved(_server: str, _tool: str) -> Repeats:
    """For a gateway without approved definitions."""
    return ()


def repeats(schema: object) -> Repeats | None:
    """What a tool's input schema has headers repeat; None where a mark in it is not valid: clients drop such a tool."""
    found: dict[str, Repeat] = {}
    for path, place in _places(schema):
        if MARK not in place:
            continue
        token, kind = place[MARK], place.get("type")
        if not path or not isinstance(token, str) or _TOKEN.fullmatch(token) is None or not isinstance(kind, str):
            return None
        name = PARAM_PREFIX + token.lower()
        if kind not in _SCALARS or name in found:
            return None
        found[name] = Repeat(path, name, kind)
    return tuple(found.values())


def _places(root: object) -> Iterator[tuple[tuple[str, ...] | None, dict[str, Any]]]:
    """Every place of a schema, and how `properties` alone lead to it; None where something else is on the way.  No fetching."""
    stack: list[tuple[tuple[str, ...] | None, object]] = [((), root)]
    while stack:
        path, node = stack.pop()
        if not isinstance(node, dict):
            continue
        yield path, node
        for word, value in node.items():
            if word == "properties" and isinstance(value, dict):
                stack += [((*path, name) if path is not None else None, inner) for name, inner in value.items()]
            elif word in _ONE:
                stack.append((None, value))
            elif word in _SEVERAL and isinstance(value, list):
                stack += [(None, inner) for inner in value]
            elif word in _BY_NAME and isinstance(value, dict):
                stack += [(None, inner) for inner in value.values()]


def held(wanted: Repeats, lines: Lines, arguments: Mapping[str, object], rpc_id: RpcId) -> Lines:
    """The lines as they go on: those that the definition wants written anew, the rest as they came; refused where one lies."""
    made = _exactly(wanted, dict(lines), arguments, rpc_id)
    known = {repeat.header for repeat in wanted}
    if len({name for name, _ in lines}) != len(lines):
        raise RpcRefused(Code.HEADER_MISMATCH, "mcp-param", rpc_id=rpc_id)
    return (*made, *_agreed(tuple([line for line in lines if line[0] not in known]), arguments, rpc_id))


def _agreed(lines: Lines, arguments: Mapping[str, object], rpc_id: RpcId) -> Lines:
    """Lines of which nobody knows what they should repeat: each must say its own argument, or at least one."""
    if not lines:
        return lines
    said = set(_scalars(arguments))
    named = {_bare(argument): set(_scalars(value)) for argument, value in arguments.items()}
    names = [_bare(name) for name, _ in lines]
    if len(set(names)) != len(names) or any(
        decoded(value) not in named.get(name, said) for name, (_, value) in zip(names, lines, strict=True)
    ):
        raise RpcRefused(Code.HEADER_MISMATCH, "mcp-param", rpc_id=rpc_id)
    return lines


def _exactly(wanted: Repeats, sent: Mapping[str, str], arguments: Mapping[str, object], rpc_id: RpcId) -> Lines:
    """The lines that repeat just what the definition says; refused where one lacks or lies."""
    made = []
    for path, header, kind in wanted:
        value = _at(arguments, path)
        text = None if value is None else _text(value)
        told = decoded(sent[header]) if header in sent else None
        if (text is None) != (header not in sent) or (text is not None and not _same(kind, value, text, told)):
            raise RpcRefused(Code.HEADER_MISMATCH, header[:64], rpc_id=rpc_id)
        if text is not None:
            made.append((header, encoded(text)))
    return tuple(made)


def written(wanted: Repeats, arguments: Mapping[str, object]) -> Lines:
    """The lines for a client that writes none: one of the era of handshakes, which knows no such headers."""
    values = [(header, _text(value)) for path, header, _ in wanted if (value := _at(arguments, path)) is not None]
    return tuple((header, encoded(text)) for header, text in values if text is not None)


def _at(arguments: object, path: tuple[str, ...]) -> object:
    for name in path:
        arguments = arguments.get(name) if isinstance(arguments, Mapping) else None
    return arguments


def _text(value: object) -> str | None:
    """A value as a header says it; None for what no header can say."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | Decimal) else None


def _same(kind: str, value: object, text: str, told: str | None) -> bool:
    if told is None:
        return False
    if kind == "integer" and isinstance(value, int | Decimal) and not isinstance(value, bool) and _DECIMAL.fullmatch(told):
        return Decimal(told) == value
    return told == text


def _bare(name: str) -> str:
    """A header's or an argument's name as a reader of headers might compare them."""
    return name.removeprefix(PARAM_PREFIX).casefold().replace("_", "-")


def _scalars(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _scalars(inner)
    elif isinstance(value, bool):
        yield "true" if value else "false"
    elif not isinstance(value, list) and value is not None:
        yield str(value)


def encoded(value: str) -> str:
    """A text as a header can say it: as it is, or inside the Base64 sentinel (SEP-2243)."""
    plain = value.isascii() and value.isprintable() and value == value.strip(" ")
    if plain and not (value.startswith(_OPEN) and value.endswith(_CLOSE)):
        return value
    return f"{_OPEN}{base64.b64encode(value.encode()).decode('ascii')}{_CLOSE}"


def decoded(value: str | None) -> str | None:
    """Inverse of `encoded`; None for a broken or non-canonical sentinel, which thus equals nothing."""
    if value is None or not (value.startswith(_OPEN) and value.endswith(_CLOSE)):
        return value
    text = value[len(_OPEN) : -len(_CLOSE)]
    try:
        data = base64.b64decode(text, validate=True)
        return data.decode() if base64.b64encode(data).decode("ascii") == text else None
    except (binascii.Error, ValueError):
        return None
