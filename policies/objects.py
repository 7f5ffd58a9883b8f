"""For a pattern a short list of objects that stands for all it covers: each name that rules tell apart, and one that they do not.

Rules see an object only through equality, sets and patterns that end with a star; two objects under the same patterns, neither of
them named outright, are the same to every rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from policies import names
from policies.registry import ToolSpec

STRANGER: Final = "stranger"

_ENDINGS: Final = (
    STRANGER, "x-stranger:stranger", "//stranger/x", "///stranger", "/stranger", "//stranger.example/x", "stranger.example/x",
    "stranger/stranger", "stranger/stranger/stranger", "stranger/x-stranger:stranger", "7/x", "7", "stranger.example:7",
)  # fmt: skip
"""What can follow the beginning of some object: a segment, a whole address, a host, a port."""
_OF_SERVERS: Final = frozenset({"res", "prompt"})
_CLOSED: Final[Mapping[str, tuple[str, ...]]] = {"administration": names.AREAS, "console": names.SCREENS, "audit": names.LOGS}
"""Kinds with a fixed list of objects."""


class Objects:
    """The objects of one bundle's rules."""

    def __init__(
        self, tools: Mapping[str, ToolSpec], sets: Mapping[str, tuple[str, ...]], cells: Iterable[str], literals: Iterable[str]
    ) -> None:
        """`cells` are the objects of rules; `literals` whatever a matcher names outright."""
        self._tools = tools
        self._sets = sets
        self._cells = tuple(sorted({cell for cell in (*cells, *literals) if ":" in cell and not cell.startswith("set:")}))

    def known(self, pattern: str) -> bool:
        """Whether a pattern covers anything that can be asked for."""
        if pattern == "*" or pattern in self._tools or pattern in self._sets:
            return True
        kind = names.kind_of_cell(pattern)
        if kind is None or kind.instead or not kind.ruled:
            return False
        if kind is names.TOOLS:
            return any(pattern == f"{spec.server}.*" for spec in self._tools.values())
        return kind.has(pattern) or kind.covers(pattern) or pattern == f"{kind.prefix}*"

    def covered(self, pattern: str, tenant: str) -> Iterator[tuple[str, names.Kind]]:
        """The objects that stand for a pattern, in one tenant."""
        for name, spec in self._tools.items():
            fits = pattern in (name, f"{spec.server}.*", "*") or name in self._sets.get(pattern, ())
            if fits and tenant in spec.tenants:
                yield name, names.TOOLS
        for kind in names.KINDS:
            if kind.prefix and kind.ruled and not kind.instead:
                yield from ((name, kind) for name in self._of(kind, pattern))

    def of_kind(self, kind: names.Kind, pattern: str) -> Iterator[tuple[str, names.Kind]]:
        """The same, of one kind that is not registered anywhere."""
        yield from ((name, kind) for name in self._of(kind, pattern))

    def _of(self, kind: names.Kind, pattern: str) -> Iterator[str]:
        """Of one kind.  Raises ValueError for a pattern under which no object can be made up: nothing is known of it then."""
        if pattern != "*" and not pattern.startswith(kind.prefix):
            return
        if kind.has(pattern):
            yield pattern
            return
        start = kind.prefix if pattern == "*" else pattern.removesuffix("*")
        if kind.name in _CLOSED:
            yield from (f"{kind.prefix}{word}" for word in _CLOSED[kind.name] if f"{kind.prefix}{word}".startswith(start))
            return
        mine = [cell for cell in self._cells if cell.startswith(start)]
        yield from (cell for cell in mine if kind.has(cell))
        for node in dict.fromkeys((start, *(cell[:-1] for cell in mine if cell.endswith("*")))):
            yield self._stranger(kind, node)

    def _stranger(self, kind: names.Kind, node: str) -> str:
        """An object under this beginning that no rule names, and that is under no longer pattern."""
        nodes = [cell[:-1] for cell in self._cells if cell.endswith("*") and len(cell) - 1 > len(node)]
        for ending in _ENDINGS:
            for more in ("", "-x", "-x-x", "x1", "x2"):
                name = node + ending.replace(STRANGER, STRANGER + more)
                if kind.has(name) and name not in self._cells and not name.startswith(tuple(nodes)):
                    return name
        raise ValueError(f"no object under '{node}' could be made up")


class Under:
    """What stands for everything under a pattern of one server, at a price that other servers' rules do not raise."""

    def __init__(self, cells: Iterable[str]) -> None:
        """`cells` are the objects of rules."""
        by_server: dict[str, list[str]] = {}
        for cell in cells:
            prefix, colon, rest = cell.partition(":")
            if colon and prefix in _OF_SERVERS:
                by_server.setdefault(rest.partition("/")[0], []).append(cell)
        self._by_server = {server: Objects({}, {}, found, ()) for server, found in by_server.items()}
        self._none = Objects({}, {}, (), ())

    def of(self, pattern: str) -> Iterator[str]:
        """Objects, of which one is granted where anything under the pattern is; `ValueError` where none can be made up."""
        kind = names.kind_of_pattern(pattern)
        if kind is None:
            return
        server = pattern.removeprefix(kind.prefix).partition("/")[0]
        yield from (name for name, _ in self._by_server.get(server, self._none).of_kind(kind, pattern))


class Granted:
    """Whose names allow lines speak of at each server: whoever has none of them can do nothing there, and need not be asked
    what there is.  So a server that is hidden takes as long as one that is not there.
    """

    def __init__(self, lines: Iterable[tuple[str, str]], sets: Mapping[str, tuple[str, ...]]) -> None:
        """`lines` are (who, object) of every allow line."""
        found: dict[str, set[str]] = {}
        for who, cell in lines:
            for server in _servers(cell, sets):
                found.setdefault(server, set()).add(who)
        self._everywhere = frozenset(found.pop("", ()))
        self._by_server = {server: frozenset(names_) for server, names_ in found.items()}

    def anything(self, server: str, names_: AbstractSet[str]) -> bool:
        """Whether any of these names may have been granted anything of the server."""
        return not (self._by_server.get(server, _NOBODY).isdisjoint(names_) and self._everywhere.isdisjoint(names_))


_NOBODY: Final[frozenset[str]] = frozenset()


def _servers(cell: str, sets: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """The servers of which a rule with this object may grant something; "" for every one."""
    prefix, colon, rest = cell.partition(":")
    if prefix == "set" and colon:
        yield from (tool.partition(".")[0] for tool in sets.get(cell, ()))
        return
    if colon and f"{prefix}:" in names.PREFIXES and prefix not in _OF_SERVERS:
        return
    server, mark, _ = rest.partition("/") if colon else cell.partition(".")
    yield server if mark and names.SLUG.fullmatch(server) else ""
