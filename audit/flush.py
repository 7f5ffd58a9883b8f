"""A batch's way into the store, and what is left of it where the store cannot take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from audit.ballast import Ballast
from audit.leaf import Kind
from audit.model import Entry, LedgerUnavailableError
from audit.store import FullError, IdentityError, StoreError
from audit.writer import Result, Writer

_CLOSING: Final = frozenset({Kind.CALL_END, Kind.CALL_ORPHANED, Kind.EGRESS_END, Kind.SANDBOX_END, Kind.WRITER_STOP})
_FULL: Final = "the disk is full: what was begun is closed, and nothing new is recorded"


class Flush:
    """Writes batches.  Used by the thread that writes."""

    def __init__(self, writer: Writer, ballast: Ballast | None) -> None:
        """ballast  room that is given up for records that close something, and taken (again) before anything else is written."""
        self._writer = writer
        self._ballast = ballast
        self.away = False  # the last batch met no store; it is the one that was opened, and has room
        self._spent = True  # until the first batch takes it

    def write(self, entries: Sequence[Entry]) -> tuple[Sequence[Result], str]:
        """Write a batch; once more where the store failed (a server that restarted).  Results, and why there are none.

        `TamperedError` where the log is not what it was.
        """
        self.away = False
        if self._spent and self._ballast is not None:
            if not self._ballast.keep():
                return self._close(entries)
            self._spent = False
        try:
            return self._twice(entries), ""
        except FullError as error:
            if self._ballast is None:
                return _refused(entries, str(error))
            self._ballast.let_go()
            self._spent = True
            return self._close(entries)
        except StoreError as error:
            self.away = not isinstance(error, IdentityError)
            return _refused(entries, str(error))

    def _twice(self, entries: Sequence[Entry]) -> list[Result]:
        try:
            return self._writer.write(entries)
        except FullError:
            raise
        except StoreError:
            return self._writer.write(entries)

    def _close(self, entries: Sequence[Entry]) -> tuple[Sequence[Result], str]:
        """Of a batch only what closes something."""
        closing = [entry for entry in entries if entry.kind in _CLOSING]
        try:
            written = iter(self._twice(closing) if closing else ())
        except StoreError as error:
            return _refused(entries, f"{_FULL} ({error})")
        return [next(written) if entry.kind in _CLOSING else LedgerUnavailableError(_FULL) for entry in entries], _FULL


def _refused(entries: Sequence[Entry], why: str) -> tuple[Sequence[Result], str]:
    return [LedgerUnavailableError(why) for _ in entries], why
