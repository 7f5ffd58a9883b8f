"""The ledger's tables, the same in SQLite and PostgreSQL.  Triggers and history: `audit/migrations`."""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Text
from sqlmodel import Field, SQLModel

METADATA = MetaData()
# SQLite's row id must be declared INTEGER, which elsewhere would be 32 bits.
_Big = BigInteger().with_variant(Integer, "sqlite")


class _Table(SQLModel):
    metadata: ClassVar[MetaData] = METADATA


class LogRow(_Table, table=True):
    """One row: the log's origin and the key that signs for it."""

    __tablename__ = "ledger_log"
    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    origin: str = Field(sa_column=Column(Text, nullable=False))
    vkey: str = Field(sa_column=Column(Text, nullable=False))


class HeadRow(_Table, table=True):
    """One row, and the log's only lock."""

    __tablename__ = "ledger_head"
    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    size: int = Field(sa_column=Column(_Big, nullable=False))
    frontier: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    erasures: int = Field(sa_column=Column(_Big, nullable=False))


class LeafRow(_Table, table=True):
    """A leaf; never changed, never deleted."""

    __tablename__ = "ledger_leaves"
    idx: int = Field(sa_column=Column(_Big, primary_key=True, autoincrement=False))
    id: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    data: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class OpeningRow(_Table, table=True):
    """A sealed value of the leaf `idx`."""

    __tablename__ = "ledger_openings"
    idx: int = Field(sa_column=Column(_Big, primary_key=True, autoincrement=False))
    name: str = Field(sa_column=Column(Text, primary_key=True))
    sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class SubjectTableRow(_Table, table=True):
    """A subject's key, wrapped.  Deleting the row erases everything sealed under it."""

    __tablename__ = "ledger_subjects"
    pseudonym: str = Field(sa_column=Column(Text, primary_key=True))
    lookup: bytes = Field(sa_column=Column(LargeBinary, nullable=False, unique=True))
    dek: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    name: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class OpenCallRow(_Table, table=True):
    """A call without an end, so that a restart finds it without reading the log."""

    __tablename__ = "ledger_open_calls"
    id: str = Field(sa_column=Column(Text, primary_key=True))
    idx: int = Field(sa_column=Column(_Big, nullable=False))
    writer: str = Field(sa_column=Column(Text, nullable=False))
    boot: str = Field(sa_column=Column(Text, nullable=False))


class HoldRow(_Table, table=True):
    """A legal hold in force: by the record that set it, on a person's pseudonym (or `log`: on everybody)."""

    __tablename__ = "ledger_holds"
    id: str = Field(sa_column=Column(Text, primary_key=True))
    pseudonym: str = Field(sa_column=Column(Text, nullable=False))


class SweepRow(_Table, table=True):
    """An erased person whose sealed values are still to be deleted, from the leaf `idx` on."""

    __tablename__ = "ledger_sweeps"
    pseudonym: str = Field(sa_column=Column(Text, primary_key=True))
    idx: int = Field(sa_column=Column(_Big, nullable=False))


class NodeRow(_Table, table=True):
    """The complete subtree of height 8·level that is the idx-th of its height."""

    __tablename__ = "ledger_nodes"
    level: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    idx: int = Field(sa_column=Column(_Big, primary_key=True, autoincrement=False))
    hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class CheckpointRow(_Table, table=True):
    """A signed checkpoint; never changed, never deleted."""

    __tablename__ = "ledger_checkpoints"
    size: int = Field(sa_column=Column(_Big, primary_key=True, autoincrement=False))
    note: str = Field(sa_column=Column(Text, nullable=False))


class SignedRow(_Table, table=True):
    """One row, PostgreSQL only: the last signed head.  (Beside SQLite it is a file.)"""

    __tablename__ = "ledger_signed"
    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    size: int = Field(sa_column=Column(_Big, nullable=False))
    frontier: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    note: str = Field(sa_column=Column(Text, nullable=False))


class CosignatureRow(_Table, table=True):
    """A witness's line on the checkpoint of `size` leaves; never changed, never deleted."""

    __tablename__ = "ledger_cosignatures"
    size: int = Field(sa_column=Column(_Big, primary_key=True, autoincrement=False))
    witness: str = Field(sa_column=Column(Text, primary_key=True))
    line: str = Field(sa_column=Column(Text, nullable=False))


class TimestampRow(_Table, table=True):
    """An authority's RFC 3161 token on the checkpoint of `size` leaves; never changed, never deleted."""

    __tablename__ = "ledger_timestamps"
    size: int = Field(sa_column=Column(_Big, primary_key=True, autoincrement=False))
    authority: str = Field(sa_column=Column(Text, primary_key=True))
    token: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class AnchorRow(_Table, table=True):
    """How far an anchor has come: the size of the last checkpoint that it took, and when (UTC microseconds)."""

    __tablename__ = "ledger_anchors"
    name: str = Field(sa_column=Column(Text, primary_key=True))
    size: int = Field(sa_column=Column(_Big, nullable=False))
    at: int = Field(sa_column=Column(_Big, nullable=False))


class SegmentRow(_Table, table=True):
    """Records [start, stop), put into an archive; `retired` names the record that let them go, "" while they are here.

    carry  what the verifier knows after them (`audit.verify.Check.carry`).
    """

    __tablename__ = "ledger_segments"
    stop: int = Field(sa_column=Column(_Big, primary_key=True, autoincrement=False))
    start: int = Field(sa_column=Column(_Big, nullable=False))
    sealed: str = Field(sa_column=Column(Text, nullable=False))
    retired: str = Field(sa_column=Column(Text, nullable=False))
    carry: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
