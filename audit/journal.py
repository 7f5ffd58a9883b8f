"""The way into the ledger: `append` returns when the record is durable, or raises.  There is no third way, and no best effort.

One thread writes: it commits whatever queued up while its last commit ran, so nobody waits for a timer and a batch is as large
as the load.  Another thread signs.  Both hold the interpreter briefly; the disk is waited for without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import leaf
from audit.checkpoint import Vkey
from audit.inlet import Inlet
from audit.kept import Kept
from audit.leaf import Kind
from audit.model import Entry, LedgerUnavailableError, Receipt, TamperedError
from audit.opening import Begun, begin, left_open
from audit.privacy import SealKey
from audit.pulse import HEARTBEAT_SECONDS, Pulse
from audit.receipt import Voucher
from audit.spool import SpoolLimits
from audit.spooling import AWAY, OVER
from audit.store import StoreError
from audit.waiting import MAX_QUEUED_BYTES, Health, Waiting, drain
from audit.writer import Result, Writer, closing, record_id, shredding

_PROBE_SECONDS: Final = 1.0
_SETTLE_SECONDS: Final = 0.01  # without a record, until those that are durable go into the tables
_START, _BEAT = Kind.CALL_START.value, Kind.WRITER_HEARTBEAT.value

Alarm = Callable[[str], None]


def _mono() -> int:
    return time.monotonic_ns() // 1000


class Journal:
    """One writer of one log.  Made by `open`; used in the event loop that opened it."""

    def __init__(self, begun: Begun, clock: Callable[[], int], pulse: Pulse, alarm: Alarm, *, queue: int, stall: float) -> None:
        self._begun = begun
        self._store, self._writer, self._signer, self._into = begun
        self._clock = clock
        self._pulse = pulse
        self._alarm = alarm
        self._beats: asyncio.TimerHandle | None = None
        self._sweep = False  # the writing thread is to look for what dead writers left open
        self._limit = queue
        self._stall = stall
        self._loop = asyncio.get_running_loop()
        self._fresh: list[Waiting] = []  # of this turn of the loop: the writer is woken once for all of them
        self._inlet: Inlet[list[Waiting]] = Inlet()  # an empty list is the last
        self._waiting: set[Waiting] = set()
        self._bytes = 0
        self._progress = 0
        self._watch: asyncio.TimerHandle | None = None
        self._closed = False
        self._stalled = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._failure = ""  # of the last batch; the next good one clears it
        self._failing = False  # the same, as the writing thread knows it
        self._unsigned_why = ""  # the last checkpoint could not be signed
        self._tampered = ""  # for good: somebody has to look
        self._unsigned = threading.Event()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.vkey = ""
        self._voucher: Voucher

    @classmethod
    async def open(
        cls,
        *,
        url: str,
        origin: str,
        signing_key: Ed25519PrivateKey,
        seal_key: bytes,
        writer: str,
        clock: Callable[[], int],
        queue: int = 10_000,
        checkpoint_seconds: float = 1.0,
        stall_seconds: float = 15.0,
        kept: Path | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        spool: SpoolLimits | None = None,
        alarm: Alarm = lambda _: None,
    ) -> Self:
        """Open the log at `url` (made if there is none), check it against what was signed last, and start to write.

        writer  this process's name among the log's writers; no two at a time have the same.
        clock   UTC microseconds.
        queue   how many records may wait; more are refused at once.
        kept    a file of this process that remembers the last signed head, where a backup of the store would take it back.
        checkpoint_seconds, stall_seconds   at most one checkpoint in so long; a store that is silent for so long is given up on.
        heartbeat_seconds   how often it gives a sign of life, and looks for writers that died meanwhile.
        spool   where entries that say so stand while the store is away; what is left there of earlier runs is written first.
        alarm   is told, in the loop, why records cannot be written; "" when they can be again.

        Calls that dead writers left open are closed by `call.orphaned` before this returns.  `LedgerUnavailableError` where the
        store does not answer, another process writes under this name, the log has another name or key, or it was tampered with;
        `ValueError` for arguments that can never be right.
        """
        vkey = Vkey.of(origin, signing_key)
        seal = SealKey(origin, seal_key)
        if queue < 1 or not writer or not writer.isascii() or len(writer) > 64:
            msg = "a writer has a short ASCII name, and its queue has room"
            raise ValueError(msg)
        pulse = Pulse(clock, _mono, heartbeat_seconds)
        begun = await asyncio.to_thread(
            begin, url, vkey, signing_key, lambda store: Writer(store, origin, seal, writer, _mono), clock, kept, pulse.promise,
            spool, seal,
        )  # fmt: skip
        try:
            journal = cls(begun, clock, pulse, alarm, queue=queue, stall=stall_seconds)
        except OSError as error:  # no descriptors left for the way to the thread
            await asyncio.to_thread(begun.close)
            raise LedgerUnavailableError(f"the writer cannot be started: {error.strerror}") from error
        begun.writer.may_wait = True  # from here on there is who settles
        journal.vkey, journal._voucher = str(vkey), Voucher(origin, signing_key)
        journal._start(checkpoint_seconds)
        return journal

    @property
    def healthy(self) -> Health:
        """Whether records can be written now, as far as the last attempt shows."""
        reason = self._tampered or ("closed" if self._closed else self._failure)
        return Health(not reason, reason or self._unsigned_why, reason.startswith(AWAY))

    @property
    def spooled(self) -> int:
        """How many records are in the spool, and not in the log yet."""
        return self._into.records

    @property
    def queued(self) -> int:
        """How many records wait for their commit."""
        return len(self._waiting)

    def checkpoint(self) -> str | None:
        """The newest signed head of the log (a C2SP signed note) as this process knows it; None before the first."""
        return self._signer.newest

    def vouch(self, receipt: Receipt) -> Mapping[str, object]:
        """The receipt as the record's caller may keep it (`audit/receipt.py`)."""
        return self._voucher.vouch(receipt)

    async def append(self, entry: Entry) -> Receipt:
        """Write one record: durable when this returns.

        `LedgerUnavailableError` where it is not, or where that cannot be known; at once where too much waits already.
        `ValueError` for an entry that is none.  A caller that is cancelled here may find its record in the log; a `call.start`
        nobody was told of is closed by `call.orphaned`.
        """
        future: asyncio.Future[Receipt] = self._loop.create_future()
        self._submit(entry, future)
        try:
            return await future
        except asyncio.CancelledError:
            if entry.kind == _START and future.done() and not future.cancelled() and future.exception() is None:
                # Cancelled in the very turn in which it was told: `_resolve` took it for delivered, and nobody will send it.
                self._enqueue(Waiting(closing(entry, future.result().index, "nobody waited"), None))
            raise

    def submit(self, entry: Entry) -> Kept:
        """As `append`, for who waits to the end whatever comes: the entry is on its way, and its result will be in the future.

        For `call.start` only where whoever sends the call waits for the record before it lets anything of the answer out.
        """
        future = Kept(loop=self._loop)
        self._submit(entry, future)
        return future

    def _submit(self, entry: Entry, future: asyncio.Future[Receipt]) -> None:
        leaf.check(entry)
        if self._closed or self._tampered or self._stalled:
            raise LedgerUnavailableError(self.healthy.reason)
        if len(self._waiting) >= self._limit or self._bytes > MAX_QUEUED_BYTES:
            raise LedgerUnavailableError("too many records wait to be written")
        self._enqueue(Waiting(entry, future))

    async def shred(self, subject: str, *, request: str, approver: str) -> Receipt:
        """Destroy a person's key, in one transaction with the `key.shred` record that names only the pseudonym.

        What was sealed for them (and their name) cannot be opened any more, the log verifies as before.  They get a new pseudonym
        when they come back.  `LookupError` where the log knows nobody of that name, `HeldError` under a legal hold.
        """
        return await self.append(shredding(subject, request, approver, self._clock()))

    async def close(self) -> None:
        """Write what waits and `writer.stop`, sign, let go.  Never raises for a store that is gone."""
        if self._closed:
            return
        self._closed = True  # nothing new comes in
        if self._beats is not None:
            self._beats.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._stall):
                await self._idle.wait()
                at = self._clock()
                stopped: asyncio.Future[Receipt] = self._loop.create_future()
                self._enqueue(Waiting(Entry(Kind.WRITER_STOP, record_id(at), at), stopped))
                with contextlib.suppress(LedgerUnavailableError):
                    await stopped
        if self._watch is not None:
            self._watch.cancel()
        self._hand_over()
        self._inlet.put([])
        self._stop.set()
        self._unsigned.set()
        await asyncio.to_thread(self._finish)

    def _start(self, checkpoint_seconds: float) -> None:
        self._threads = [
            threading.Thread(target=self._write_on, name="ledger-writer", daemon=True),
            threading.Thread(target=self._sign_on, args=(checkpoint_seconds,), name="ledger-signer", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._beats = self._loop.call_later(self._pulse.seconds, self._beat)

    def _beat(self) -> None:
        """In the loop, now and then: a sign of life, and a look for writers that gave none."""
        self._beats = self._loop.call_later(self._pulse.seconds, self._beat)
        self._sweep = True
        self._say_so()

    def _say_so(self) -> None:
        if not self._closed and not self._stalled and len(self._waiting) < self._limit:
            for entry in self._pulse.beat():
                self._enqueue(Waiting(entry, None))

    def _judge(self, failure: str) -> None:
        """In the loop: whether records can be written.  Who looks after the gateway hears of each change, and so does the log."""
        was, self._failure = self._failure, failure
        if failure:
            self._pulse.failing()
            if not was or (failure.startswith(OVER) and not was.startswith(OVER)):
                self._alarm(failure)
        elif self._pulse.works():
            self._alarm("")
            self._say_so()

    def _finish(self) -> None:
        for thread in self._threads:
            thread.join(self._stall)
        if not any(thread.is_alive() for thread in self._threads):  # one that hangs in the store keeps its connection
            self._sign()
            self._begun.close()
            self._inlet.close()

    def _enqueue(self, waiting: Waiting) -> None:
        self._waiting.add(waiting)
        self._bytes += waiting.weight
        self._idle.clear()
        if self._watch is None:
            self._watch = self._loop.call_later(self._stall, self._look, self._progress)
        if not self._fresh:
            self._loop.call_soon(self._hand_over)
        self._fresh.append(waiting)

    def _hand_over(self) -> None:
        fresh, self._fresh = self._fresh, []
        if fresh:
            self._inlet.put(fresh)

    def _resolve(self, batch: Sequence[Waiting], results: Sequence[Result], failure: str) -> None:
        """In the loop: tell everybody of a batch.  A start that nobody waits for any more will never be sent: it is closed."""
        self._progress += 1
        self._stalled = False
        self._judge(failure)
        for waiting, result in zip(batch, results, strict=True):
            self._waiting.discard(waiting)
            self._bytes -= waiting.weight
            if waiting.future is not None and not waiting.future.done():
                if isinstance(result, Receipt):
                    waiting.future.set_result(result)
                else:
                    waiting.future.set_exception(result)
            elif not isinstance(result, Receipt):
                continue
            elif waiting.entry.kind == _BEAT:
                self._pulse.told()
            elif waiting.entry.kind == _START:
                self._enqueue(Waiting(closing(waiting.entry, result.index, "nobody waited"), None))
        if not self._waiting:
            self._idle.set()

    def _look(self, progress: int) -> None:
        """In the loop, now and then while something waits: a store that hangs must not hang its callers."""
        self._watch = None
        if not self._waiting:
            return
        if self._progress == progress:
            self._give_up("the store does not answer")
        self._watch = self._loop.call_later(self._stall, self._look, self._progress)

    def _give_up(self, reason: str) -> None:
        if self._stop.is_set() and not self._waiting:
            return  # closed in good order: the writer has ended as it should, and that is no alarm
        self._stalled = True
        self._judge(reason)
        for waiting in self._waiting:
            if waiting.future is not None and not waiting.future.done():
                waiting.future.set_exception(LedgerUnavailableError(reason))

    def _write_on(self) -> None:
        """The writing thread.  Should it ever die of a mistake of ours, everybody who waits is told."""
        try:
            while first := self._next():
                os.sched_yield()  # a loop on the same processor ends its turn first: the batch grows, and one commit does for it
                batch, last = drain(self._inlet, first)
                results, failure = self._flush([waiting.entry for waiting in batch])
                self._failing = bool(failure)
                self._tell(self._resolve, batch, results, failure)  # last: the loop wakes up, and wants the interpreter
                if self._store.due or not self._store.unsettled:
                    self._settle()
                if self._sweep and not failure:
                    self._close_orphans()
                if last:
                    break
            self._settle()
        finally:
            self._tell(self._give_up, "the writer has ended")

    def _next(self) -> list[Waiting]:
        """What came first.  After a failure the store is asked now and then whether it is back: who is told that nothing can be
        recorded sends no calls, so none may be needed to notice.
        """
        while not self._inlet.wait(_PROBE_SECONDS if self._failing else _SETTLE_SECONDS if self._store.unsettled else None):
            if self._failing:
                _, failure = self._flush([])
                self._failing = bool(failure)
                self._tell(self._judge, failure)
            if not self._failing:
                self._settle()  # and an empty turn may have closed calls of a batch whose commit was not answered
        return self._inlet.take() or []

    def _settle(self) -> None:
        """Put into the store's tables what is durable ahead of them.  Where it fails nothing is lost, nor anything new taken."""
        try:
            self._writer.settle()
            self._unsigned.set()
        except StoreError as error:
            self._failing = True
            self._tell(self._judge, str(error))
        except TamperedError as error:
            self._tampered = f"the ledger was tampered with: {error}"
            self._tell(self._judge, self._tampered)

    def _close_orphans(self) -> None:
        """Close what writers left open that died since the last look; where the store fails, the next look does."""
        self._sweep = False
        with contextlib.suppress(StoreError, TamperedError):
            if found := left_open(self._store, self._writer, self._clock()):
                self._flush(found)

    def _flush(self, entries: Sequence[Entry]) -> tuple[Sequence[Result], str]:
        """Write a batch.  Results, and why there are none."""
        if self._tampered:
            return [LedgerUnavailableError(self._tampered)] * len(entries), ""
        try:
            return self._into.write(entries)
        except TamperedError as error:
            self._tampered = f"the ledger was tampered with: {error}"
        return [LedgerUnavailableError(self._tampered) for _ in entries], self._tampered

    def _sign_on(self, seconds: float) -> None:
        """The signing thread: at most one checkpoint in so many seconds, and only where something was written."""
        while not self._stop.wait(seconds):  # the log was signed when it was opened
            self._unsigned.wait()
            if self._stop.is_set():
                return
            self._unsigned.clear()
            self._sign()

    def _sign(self) -> None:
        try:
            self._signer.sign()
            self._unsigned_why = ""
        except StoreError as error:
            self._unsigned_why = f"no checkpoint can be signed: {error}"
            self._unsigned.set()  # nothing is lost: the next round tries again
        except TamperedError as error:
            self._tampered = f"the ledger was tampered with: {error}"

    def _tell(self, callback: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended before us
            self._loop.call_soon_threadsafe(callback, *args)
