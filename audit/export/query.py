"""Which records an export holds: a range of the log, and of it all, or those that fit.  No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from audit.leaf import KINDS


@dataclass(frozen=True, slots=True)
class Query:
    """since, until: UTC microseconds, from (inclusive) and to (exclusive).  The others: any of the values; none: all.

    subjects   pseudonyms; `servers` by target or by the server of a resource.
    """

    since: int = 0
    until: int = 2**53 - 1
    subjects: tuple[str, ...] = ()
    workflows: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether every record of the range fits."""
        return not (self.subjects or self.workflows or self.agents or self.servers or self.kinds)

    def check(self) -> None:
        """`ValueError` for what can find nothing."""
        unknown = sorted(set(self.kinds) - KINDS)
        if unknown or self.since >= self.until:
            msg = f"there is no kind of record called {', '.join(unknown)}" if unknown else "the time ends before it begins"
            raise ValueError(msg)


@dataclass(slots=True)
class Chooser:
    """Chooses record by record, in the log's order: the end of a call that fits, fits too, though it says less."""

    query: Query
    open: set[str] = field(default_factory=set)

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Whether the record is one of them."""
        kind, query = str(record.get("kind")), self.query
        begun = str(record.get("call", ""))
        chosen = begun in self.open
        if kind in {"call.end", "call.orphaned", "egress.end"}:
            self.open.discard(begun)
        if query.kinds and kind not in query.kinds:
            return False
        if not chosen:
            chosen = self._fits(record)
        if chosen and kind in {"call.start", "egress.start"}:
            self.open.add(str(record.get("id")))
        return chosen

    def _fits(self, record: Mapping[str, Any]) -> bool:
        query = self.query
        if query.subjects and not {str(record.get(name)) for name in ("subject", "target", "of")} & set(query.subjects):
            return False
        if query.workflows and record.get("workflow") not in query.workflows:
            return False
        if query.agents and not _agents(record) & set(query.agents):
            return False
        resource = str(record.get("resource", ""))
        servers = {str(record.get("target", "")), resource.partition(".")[0], resource.partition(":")[2].partition("/")[0]}
        return not query.servers or bool(servers & set(query.servers))


def _agents(record: Mapping[str, Any]) -> set[str]:
    chain = record.get("chain")
    names = {str(link[1]) for link in chain if isinstance(link, list) and len(link) == 2} if isinstance(chain, list) else set()
    return names | {name.removeprefix("agent:") for name in names}
