"""What `bench.crashes` holds a ledger against: what was seen of a round, and what the ledger says of it afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from audit.spool import pieces
from audit.spool import read as read_spool
from audit.tree import leaf_hash
from bench.crash_round import SPOOL_KEY


@dataclass
class Seen:
    """What outlived a round, told by its process while it lived."""

    executed: list[str] = field(default_factory=list)
    overlapping: list[str] = field(default_factory=list)  # executed while their record was being written
    released: list[str] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)
    acknowledged: list[tuple[int, str, str]] = field(default_factory=list)
    points: int = 0
    why: str = ""

    @classmethod
    def read(cls, told: bytes) -> Seen:
        """From the pipe."""
        seen = cls()
        plain = {"x": seen.executed, "o": seen.overlapping, "r": seen.released, "d": seen.denied}
        for line in told.decode().splitlines():
            kind, _, rest = line.partition(" ")
            if kind in plain:
                plain[kind].append(rest)
            elif kind == "a":
                index, record, digest = rest.split()
                seen.acknowledged.append((int(index), record, digest))
            elif kind == "p":
                seen.points = int(rest)
            else:
                seen.why = rest
        return seen


class Ledger:
    """One ledger that is written into until the rounds that it is for are over."""

    def __init__(
        self,
        url: str,
        rows: Callable[[int], list[tuple[Any, ...]]],
        verify: Callable[[], list[str]],
        ahead: Callable[[int], list[tuple[str, bytes]]] = lambda _: [],
    ) -> None:
        self.url = url
        self._rows = rows
        self._ahead = ahead  # records that are durable, and go into the tables when the log is opened: from this place on
        self.verify = verify
        self._size = 0
        self._ids: dict[str, tuple[int, str]] = {}
        self._ended: set[str] = set()
        self._kinds: dict[str, str] = {}
        self.acknowledged: list[tuple[int, str, str]] = []
        self.spool: Path | None = None  # where spools lie, if there are any

    def spooled(self) -> list[tuple[str, bytes]]:
        """Records that are in spools: durable, and not in the log yet unless they were replayed a moment ago."""
        found: list[tuple[str, bytes]] = []
        for path in self.spool.glob("*.spool") if self.spool is not None else ():
            held = read_spool(path.read_bytes(), SPOOL_KEY, str(path))
            found += pieces(held.frames) if held is not None else ()
        return found

    def amiss(self, seen: Seen) -> list[str]:
        """What of a round contradicts the ledger as it stands now."""
        found = []
        for index, record, digest, data in self._rows(self._size):
            if index != self._size or bytes(digest) != leaf_hash(bytes(data)):
                found.append(f"record {index} stands where {self._size} was to, or is not what was hashed")
            self._size = index + 1
            said = orjson.loads(bytes(data))
            if record in self._ids:
                found.append(f"record {index} has the id of record {self._ids[record][0]}")
            self._ids[record] = index, bytes(digest).hex()
            self._kinds[record] = said["kind"]
            if said["kind"] in {"call.end", "call.orphaned"}:
                self._ended.add(said["call"] + " " + said["kind"])
        self.acknowledged += seen.acknowledged
        kinds, ended, ids = dict(self._kinds), set(self._ended), dict(self._ids)
        waiting = [(self._size + number, *each) for number, each in enumerate(self._ahead(self._size))]
        for index, record, data in waiting + [(-1, *each) for each in self.spooled()]:
            said = orjson.loads(data)
            kinds[record] = said["kind"]
            ids.setdefault(record, (index, leaf_hash(data).hex()))
            if said["kind"] == "call.end":
                ended.add(said["call"] + " call.end")
        found += [f"executed without a durable start: {call}" for call in seen.executed if kinds.get(call) != "call.start"]
        found += [f"released without a durable end: {call}" for call in seen.released if f"{call} call.end" not in ended]
        found += [f"released without a durable start: {call}" for call in seen.released if kinds.get(call) != "call.start"]
        found += [f"denied without a durable record: {call}" for call in seen.denied if kinds.get(call) != "decision.deny"]
        lost = []
        for each in self.acknowledged:
            index, digest = ids.get(each[1], (-2, ""))
            if digest != each[2] or (each[0] != index and each[0] != -1):  # told from the spool, its place was not known
                lost.append(each)
        return found + [f"acknowledged and lost: {record}" for _, record, _ in lost]

    def open_calls(self) -> list[str]:
        """Calls with a start and no end."""
        closed = {each.split()[0] for each in self._ended}
        return [call for call, kind in self._kinds.items() if kind == "call.start" and call not in closed]
