"""The spool's way of going on while the store is away: bounded in bytes and time, replayed before anything new.

Only records whose entry says so are kept, and this writer's own signs of life.  Everything else is refused, as it is without a
spool; so is everything where the store is there and is not the one that was opened, or was tampered with.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import orjson

from audit.draft import CLOSING
from audit.flush import Flush
from audit.leaf import Kind
from audit.model import Entry, LedgerUnavailableError, Receipt
from audit.spool import Frame, Head, Left, Spool, pieces
from audit.store import IdentityError, StoreError
from audit.writer import Result, Spooled, Writer, record_id

AWAY: Final = "the store is away"
"""How a failure begins in which new calls are taken."""
OVER: Final = "the spool takes no new calls any more"
"""How a failure begins that is an alarm of its own."""

_RIDING: Final = frozenset({Kind.WRITER_HEARTBEAT, Kind.CLOCK_STEP, Kind.WRITER_STOP})
_PAUSE: Final = 1.0  # seconds between two looks for the store,
_PATIENCE: Final = 4.0  # and so many times as long as the last one took: a store that hangs must not keep the spool waiting
_MOST_PAUSE: Final = 30.0


class Spooling:
    """Writes batches into the store, or into the spool.  Used by the thread that writes."""

    def __init__(self, flush: Flush, writer: Writer, spool: Spool | None) -> None:
        self._flush = flush
        self._writer = writer
        self._spool = spool
        self._head: Head | None = None  # of the spool, while there is one
        self._began = 0.0
        self._next = 0.0
        self._why = ""
        self._lost = False  # the store is back, and another one

    @property
    def records(self) -> int:
        """How many records are in the spool."""
        return self._spool.records if self._spool is not None and self._head is not None else 0

    def write(self, entries: Sequence[Entry]) -> tuple[Sequence[Result], str]:
        """As `Flush.write`; a failure with receipts among the results says that they are of the spool."""
        if self._head is not None and (time.monotonic() < self._next or not self._replayed()):
            return self._keep(entries, [LedgerUnavailableError(self._why) for _ in entries])
        results, self._why = self._flush.write(entries)
        if not self._why or self._spool is None or not self._flush.away or not any(entry.spool for entry in entries):
            return results, self._why
        return self._keep(entries, list(results))

    def close(self) -> None:
        """Let the spool go; what is in it is replayed at the next start."""
        if self._spool is not None:
            self._spool.close()

    def _replayed(self) -> bool:
        """Whether all of the spool is in the log now."""
        spool, head, began = self._spool, self._head, time.monotonic()
        if spool is None or head is None:
            return True
        try:
            spooled = replayed(Left(spool.limits.folder, head, spool.kept()))
            self._writer.write([spooled[0]], [spooled])
            spool.clear()
        except StoreError as error:
            self._why, self._lost = str(error), isinstance(error, IdentityError)
            now = time.monotonic()
            self._next = now + min(max(_PAUSE, _PATIENCE * (now - began)), _MOST_PAUSE)
            return False
        except OSError as error:  # all of it is in the log; a file that stays is known to be
            self._why = f"the spool cannot be removed: {error.strerror}"
        self._head = None
        return True

    def _keep(self, entries: Sequence[Entry], results: list[Result]) -> tuple[Sequence[Result], str]:
        """Put into the spool what may stand there."""
        spool, before = self._spool, self._writer.unanswered
        if spool is None or self._lost or (before is not None and (self._head is not None or not before.plain)):
            return results, self._why  # what became of that batch is to be known first
        over = self._over(spool)
        places = [
            number
            for number, entry in enumerate(entries)
            if (entry.spool or entry.kind in _RIDING) and (not over or entry.kind in CLOSING)
        ]
        if not places:
            return results, f"{OVER}: {over} ({self._why})" if over else self._said()
        draft, kept = self._writer.away([entries[number] for number in places])
        if not any(isinstance(result, Receipt) for result in kept):
            for number, result in zip(places, kept, strict=True):
                results[number] = result
            return results, self._why if self._head is None else self._said()
        frames = [each.frame() for each in (before, draft) if each is not None and each.batch.leaves]
        if sum(map(_weight, frames)) > spool.limits.bytes - spool.size:
            return results, f"{OVER}: it is full ({self._why})"
        try:
            self._put(spool, frames)
        except (OSError, StoreError) as error:
            return results, f"{OVER}: it cannot be written, {error} ({self._why})"
        self._writer.went_on(draft)
        for number, result in zip(places, kept, strict=True):
            results[number] = result
        return results, f"{OVER}: {over} ({self._why})" if over else self._said()

    def _put(self, spool: Spool, frames: Sequence[Frame]) -> None:
        if self._head is not None:
            for frame in frames:
                spool.append(frame)
            return
        [(_, data), *_] = pieces(frames)
        at = int(orjson.loads(data)["ts"])
        head = Head(self._writer.log, self._writer.id, self._writer.boot, record_id(at), at)
        spool.begin(head, frames)
        self._head, self._began = head, time.monotonic()
        self._next = self._began + _PAUSE

    def _over(self, spool: Spool) -> str:
        """Why no new call is taken; an eighth of the room is for the ends of those that were."""
        if self._head is None:
            return ""
        if time.monotonic() - self._began > spool.limits.seconds:
            return f"the store is away for more than {spool.limits.seconds:g} seconds"
        return "it is full" if spool.size > spool.limits.bytes * 7 // 8 else ""

    def _said(self) -> str:
        return f"{AWAY} ({self._why}), and calls that may are recorded in the spool"


def replayed(left: Left) -> Spooled:
    """What a spool holds, and the record that says so."""
    leaves = [orjson.loads(data) for _, data in pieces(left.frames)]
    first, last, head = leaves[0], leaves[-1], left.head
    fields: dict[str, object] = {
        "of": {"writer": head.writer, "boot": head.boot},
        "first": first["writer"]["wseq"],
        "last": last["writer"]["wseq"],
        "count": len(leaves),
        "unanswered": sum("spooled" not in each for each in leaves),
        "since": first["ts"],
        "until": last["ts"],
    }
    return Entry(Kind.SPOOL_REPLAYED, head.id, int(last["ts"]), None, fields), left.frames


def _weight(frame: Frame) -> int:
    return sum(len(data) + 256 for _, data in frame.leaves) + sum(len(sealed) + 64 for _, _, sealed in frame.openings)
