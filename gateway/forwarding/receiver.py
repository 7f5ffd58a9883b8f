"""What a forwarder hands records to.  A copy: the ledger alone is the truth, and each row says where it stands there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from audit.reader import Record
from audit.verify import ROWS, Row


class NotTakenError(Exception):
    """The receiver cannot be reached, or says that it cannot now: it is asked again."""


class RefusedError(Exception):
    """The receiver will not take these records, however often it is asked.

    some  how many of them it refused; it took the others.  None: it refused them as a whole, and each may be tried alone.
    """

    def __init__(self, why: str, some: int | None = None) -> None:
        super().__init__(why)
        self.some = some


class Receiver(Protocol):
    """Takes records, in the order of the log, each at least once."""

    async def take(self, log: str, records: Sequence[Record]) -> None:
        """Taken on return, as far as the receiver's protocol says so.  `NotTakenError`, `RefusedError`."""

    async def close(self) -> None:
        """Let it go."""


def row_of(form: str, log: str, record: Record) -> str:
    """A record as one line of a format, the same as in an export."""
    _, make = ROWS[form]
    return make(Row(log, record.index, record.hash.hex(), record.data, record.leaf)).rstrip("\r")
