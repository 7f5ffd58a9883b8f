"""What is handed to the ledger, and what it hands back.  No I/O, no clock, no keys."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Value(msgspec.Struct, frozen=True, gc=False):
    """Something received or returned: the leaf holds a salted commitment, the opening stands beside, sealed for its subject.

    name is the leaf's field, as `args`; data the raw bytes as they were on the wire.  of is the person for whom it is sealed, in
    clear, where that is not the record's subject: what is about several people stands in an envelope for each.
    """

    name: str
    data: bytes
    of: str | None = None


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One thing to record.  The journal adds log, writer, writer chain and the commitments of `values`.

    kind     dotted, from the closed list in `audit/leaf.py`.
    id       of the record: exactly once.
    at       UTC microseconds.
    subject  the person, in clear; the leaf holds a pseudonym.  None where nobody is meant.
    fields   further members of the leaf: ASCII keys; text, integers below 2^53, booleans, null, lists and objects of these.
    values   committed to, never in the leaf.
    people   further members of the leaf that name a person, in clear here; the leaf holds their pseudonyms.
    spool    whether it may stand in the spool while the store is away (`audit/spooling.py`).
    tenant   whose log it belongs to, where there are several; "" that of nobody.  A journal does not ask: it has one.
    """

    kind: str
    id: str
    at: int
    subject: str | None = None
    fields: Mapping[str, object] = msgspec.field(default_factory=dict)
    values: tuple[Value, ...] = ()
    people: Mapping[str, str] = msgspec.field(default_factory=dict)
    spool: bool = False
    tenant: str = ""


class Together:
    """The records of one commit, from index `first`: their leaf hashes, and (once somebody asked) their tree, signed."""

    __slots__ = ("first", "hashes", "signed")

    def __init__(self, first: int, hashes: list[bytes]) -> None:
        self.first = first
        self.hashes = hashes
        self.signed: tuple[list[list[str]], str] | None = None

    def __eq__(self, other: object) -> bool:
        """What was written beside a record makes no difference to where that stands."""
        return other is None or isinstance(other, Together)

    __hash__ = None  # type: ignore[assignment]


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """Durable: where the record stands.  `index` is the leaf's index in the log, `leaf_hash` RFC 9162's.

    A record that is in the spool has no index yet: then that is -1.

    together  what was committed with it; None where it was found in the log.
    """

    log: str
    id: str
    index: int
    leaf_hash: bytes
    together: Together | None = None


class LedgerUnavailableError(Exception):
    """The record is not durable.  Nothing that depended on it may happen; `detail` says why for the operator."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class HeldError(Exception):
    """A legal hold keeps what was to be erased; `hold` is the id of its record.  Nothing was erased."""

    def __init__(self, hold: str) -> None:
        super().__init__(f"the legal hold {hold} is in force")
        self.hold = hold


class TamperedError(Exception):
    """The stored ledger contradicts itself, or what was signed before.  Nothing is signed, appended or shown."""
