"""What the ledger needs of a store, and what a store promises.  Trust: a store can lose or change everything; that must show.

A thief of the store learns sizes, times, agents, tools and pseudonyms, but no person and no payload: those need the seal key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from audit import leaf
from audit.ballast import Ballast
from audit.model import TamperedError
from audit.privacy import SubjectRow
from audit.store_guards import Guards
from audit.tree import Frontier, TileNode, leaf_hash


class StoreError(Exception):
    """The store did not do what was asked; whether a commit happened is unknown unless the next turn says so."""


class FullError(StoreError):
    """There is no room left.  Nothing was written."""


class IdentityError(StoreError):
    """The store is no longer the one that was opened."""


class DuplicateError(StoreError):
    """A record with one of these ids is there already.  Nothing was written."""


class ClosedError(StoreError):
    """A call that was to be closed is not open.  Nothing was written."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log ends: its size, the tree's frontier, how often a key was destroyed (so that others drop it from memory)."""

    size: int
    frontier: bytes
    erasures: int

    def tree(self) -> Frontier:
        """The tree's frontier; `TamperedError` where the head cannot be that of a tree."""
        with contextlib.suppress(ValueError, TypeError):
            return Frontier.decode(self.size, self.frontier)
        msg = "the stored head is not that of a tree"
        raise TamperedError(msg)


@dataclass(frozen=True, slots=True)
class StoredLeaf:
    """A leaf as it is stored: nothing of it is checked, not even (SQLite's columns take anything) its types."""

    index: int
    id: str
    hash: bytes
    data: bytes

    @property
    def intact(self) -> bool:
        """Whether the bytes have the hash."""
        try:
            return leaf_hash(self.data) == self.hash
        except TypeError:
            return False

    def record(self) -> dict[str, object]:
        """What the bytes say; `TamperedError` unless they have the hash and are a record."""
        if self.intact:
            with contextlib.suppress(ValueError):
                return leaf.parse(self.data)
        msg = f"record {self.index} ({self.id}): its bytes are not those that were stored"
        raise TamperedError(msg)


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call that was sent and has no end yet; or a run of code, or a connection of one."""

    id: str
    index: int
    writer: str
    boot: str


@dataclass(slots=True)
class Batch:
    """What one turn writes, all of it or nothing."""

    leaves: list[tuple[int, str, bytes, bytes]] = field(default_factory=list)  # index, id, hash, data
    openings: list[tuple[int, str, bytes]] = field(default_factory=list)  # index, name, sealed
    nodes: list[TileNode] = field(default_factory=list)
    opened: list[OpenCall] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)  # calls, all of which must be open
    ended: list[str] = field(default_factory=list)  # runs and connections, which may have been closed for their writer
    subjects: list[SubjectRow] = field(default_factory=list)
    destroyed: list[str] = field(default_factory=list)  # pseudonyms
    held: list[tuple[str, str]] = field(default_factory=list)  # legal holds: id of the record, pseudonym (or LOG: everybody)
    released: list[str] = field(default_factory=list)  # ids of holds


@dataclass(frozen=True, slots=True)
class Signed:
    """The last head that this log's key signed; kept apart from the leaves."""

    size: int
    frontier: bytes
    note: str


class Turn(Protocol):
    """The log, locked: nobody else can append until the turn ends."""

    @property
    def head(self) -> Head:
        """Where the log ends now."""

    def subject(self, lookup: bytes) -> SubjectRow | None:
        """The subject with this lookup."""

    def existing(self, ids: list[str]) -> dict[str, StoredLeaf]:
        """Those of the records that are in the log already."""

    def is_open(self, call: str) -> bool:
        """Whether the call has a start and no end."""

    def known(self, pseudonyms: list[str]) -> set[str]:
        """Those of the pseudonyms whose key is there."""

    def holds(self) -> list[tuple[str, str]]:
        """Legal holds in force: id of the record that set it, and whom it is about (a pseudonym, or `LOG`: everybody)."""

    def write(self, batch: Batch, size: int, frontier: bytes) -> None:
        """Write the batch; the log then ends at `size`.  `DuplicateError` where an id is taken,
        `ClosedError` where a call of `batch.closed` is not open."""


class Signing(Protocol):
    """The last signed head, locked: nobody else signs for this log until it is let go."""

    @property
    def last(self) -> Signed | None:
        """What was signed last; None where nothing was, or where its keeper lost it."""

    def save(self, signed: Signed) -> None:
        """Durable on return.  Called before anybody sees the checkpoint."""


class Store(Protocol):
    """One log.  Every method may raise `StoreError`; one that does has changed nothing, except where it says otherwise.

    A store is used by two threads at most: one that takes turns, and one that signs.  Each has a connection of its own.
    """

    @property
    def ballast(self) -> Ballast | None:
        """Room that is kept for last words; None where the store keeps its own."""

    def claim(self, origin: str, vkey: str) -> tuple[str, str]:
        """Name the log if it has no name yet; (origin, vkey) as they stand."""

    def turn(self, *, may_wait: bool = False) -> AbstractContextManager[Turn]:
        """One transaction under the log's only lock.  Left without an exception: committed, synced, and still the file that was
        opened.  `StoreError` on leaving: unknown.

        may_wait  it is enough that the batch is durable: into the tables it may come later (`settle`), with others.
        """

    @property
    def unsettled(self) -> int:
        """How many records are durable and not in the tables yet."""

    @property
    def due(self) -> bool:
        """Whether they should come into them now."""

    def settle(self) -> None:
        """Put into the tables what waits for that.  `StoreError`: it stays durable, and nothing else is written before it."""

    def lease(self, writer: str) -> bool:
        """Whether this process now holds the name of the writer, until `close` or its death.  False: another process does."""

    def free(self, writer: str) -> bool:
        """Whether no process holds the name of the writer."""

    def guards(self) -> Guards:
        """Whether the database still refuses to change what was written."""

    def open_calls(self) -> list[OpenCall]:
        """Calls without an end, in order."""

    def head(self) -> Head:
        """Where the log ends, without locking it."""

    def leaves(self, start: int, stop: int) -> Iterator[StoredLeaf]:
        """The stored leaves [start, stop) in order, as one consistent state; those that are missing are missing."""

    def signing(self) -> AbstractContextManager[Signing]:
        """Hold the last signed head."""

    def checkpoint(self) -> tuple[int, str] | None:
        """Size and note of the largest stored checkpoint."""

    def add_checkpoint(self, size: int, note: str) -> None:
        """Publish a checkpoint; one of that size that is there already stays."""

    def close(self) -> None:
        """Let everything go."""
