"""One round of `bench.crashes`, in a process that may die at any moment: calls go down the real road into the real ledger.

What the upstream executed and what the caller was given is told by a pipe as it happens, so that it outlives the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from audit import journal as journal_module
from audit import opening, spooling
from audit.ahead import Ahead
from audit.ahead_file import START
from audit.checkpoint import Vkey
from audit.journal import Journal
from audit.kept import Kept
from audit.model import Entry, LedgerUnavailableError, Receipt
from audit.privacy import SealKey
from audit.spool import Frame, Head, Left, Spool, SpoolLimits
from audit.store_sql import SqlStore, _Turning
from audit.store_turn import SqlTurn
from audit.writer import Writer
from bench.crash_faults import Fault, Points, Watched, watch_syncs
from gateway import model
from gateway.model import Arrival, Call, Intent, Outcome, Permit, Principal, Refused, Reply, Said, Trace, new_id
from gateway.pipeline import Stages, govern
from gateway.record import Recorder
from policies.model import AccessRequest, Decision, Effect, Reason

ORIGIN: Final = "example.org/crashes"
KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEY: Final = str(Vkey.of(ORIGIN, KEY))
SEAL: Final = bytes(range(32, 64))
SPOOL_KEY: Final = SealKey(ORIGIN, SEAL).spool_key
CALLERS: Final = 3
CALLS: Final = 3
CLEAN, NOT_OPENED = 0, 3

_UNANSWERED: Final = "an unanswered commit is forgotten"
PLANTS: Final = {
    "acknowledged before the commit": "a batch is committed when the next one begins",
    "sent before the intent is durable": "the road does not wait for the record",
    "released before the outcome is durable": "the road does not wait for the record",
    _UNANSWERED: "the writer does not look what became of it",
    "a batch is two transactions": "records are committed before the head",
}

AHEAD_PLANTS: Final = {
    "told and never written ahead": "only the tables have it, a moment later",
    "what a dead process left ahead is forgotten": "nobody looks",
    "the file ahead begins anew before its records are in the tables": "what was acknowledged is overwritten",
}


def planted(store: str) -> dict[str, str]:
    """The bugs that a campaign over such a store has to notice.

    In SQLite a commit moves what is durable already: whoever does not look what became of it does nothing twice.
    """
    return PLANTS if store != "sqlite" else {name: why for name, why in PLANTS.items() if name != _UNANSWERED} | AHEAD_PLANTS


SPOOL_PLANTS: Final = {
    "told before it is in the spool": "a frame is written when the next one comes",
    "a spool is removed before it is in the log": "its file goes when it was read",
    "an unanswered batch is left out of the spool": "only what comes after it is kept",
    "the spool of an earlier process is forgotten": "nobody looks what was left",
}

Tell = Callable[..., None]


def play(
    url: str, writer: str, fault: Fault | None, pipe: int, plant: str = "", spool: Path | None = None, *, overlap: bool = False
) -> int:
    """The round; returns how it ended where the process is still there then.  Runs in a forked process of its own."""
    gc.disable()
    store = "sqlite" if url.startswith("sqlite") else "postgresql"
    points = Points(store, fault, sqlite3.OperationalError if store == "sqlite" else psycopg.OperationalError)
    opening.SqlStore = _store_with(points, plant)
    if plant == _UNANSWERED:
        Writer._unsure = property(lambda _: None, lambda _, __: None)
    watch_syncs(points)
    _plant_ahead(plant)
    if spool is not None:
        spooling._PAUSE = journal_module._PROBE_SECONDS = 0.002  # type: ignore[misc]
        _plant_in_spool(plant)

    def tell(*words: object) -> None:
        os.write(pipe, (" ".join(map(str, words)) + "\n").encode())

    return asyncio.run(_round(url, writer, tell, plant, points, spool, overlap=overlap))


async def _round(url: str, writer: str, tell: Tell, plant: str, points: Points, spool: Path | None, *, overlap: bool) -> int:
    clock = model.wall_clock
    try:
        journal = await Journal.open(
            url=url, origin=ORIGIN, signing_key=KEY, seal_key=SEAL, writer=writer, clock=clock,
            checkpoint_seconds=0.005, stall_seconds=5.0, spool=SpoolLimits(spool) if spool is not None else None,
        )  # fmt: skip
    except LedgerUnavailableError as error:
        tell("n", error.detail)
        return NOT_OPENED
    stages = _stages(journal, tell, plant, overlap=overlap, spool=spool is not None)
    await asyncio.gather(*(_caller(stages, number, tell) for number in range(CALLERS)))
    await journal.close()
    tell("p", points.passed)
    return CLEAN


async def _caller(stages: Stages, number: int, tell: Tell) -> None:
    for _ in range(CALLS):
        at = model.wall_clock()
        arrival = Arrival(new_id(at), "mcp", "erp", (), b'{"amount": 1}' * 20, at, Trace(f"{number + 1:032x}", "0" * 15 + "1"))
        try:
            async for reply in govern(arrival, stages):
                if reply.is_final:
                    tell("r", arrival.id)
        except Refused as refusal:
            if refusal.code.value != "ledger-unavailable":
                tell("d", arrival.id)


def _stages(journal: Journal, tell: Tell, plant: str, *, overlap: bool, spool: bool = False) -> Stages:
    """The road's own records and order; what comes before a decision is of no matter here."""

    def heard(future: asyncio.Future[Receipt]) -> None:
        with contextlib.suppress(LedgerUnavailableError, asyncio.CancelledError):
            receipt = future.result()
            tell("a", receipt.index, receipt.id, receipt.leaf_hash.hex())

    async def append(entry: Entry) -> Receipt:
        receipt = await journal.append(entry)
        tell("a", receipt.index, receipt.id, receipt.leaf_hash.hex())
        return receipt

    def submit(entry: Entry) -> Kept:
        future = journal.submit(entry)
        future.add_done_callback(heard)
        return future

    recorder = Recorder(append, submit, model.wall_clock, overlaps=lambda _: overlap, spools=lambda _: spool)
    record_intent: Callable[[Permit], Awaitable[Intent]] = recorder.intent
    record_outcome: Callable[[Intent, Outcome], Awaitable[object]] = recorder.outcome
    if plant == "sent before the intent is durable":
        record_intent = partial(_hurried_intent, recorder)
    if plant == "released before the outcome is durable":
        record_outcome = partial(_hurried_outcome, recorder)

    async def authenticate(arrival: Arrival) -> Principal:
        return Principal(f"user:corp/{arrival.trace.trace_id[-1]}", ("agent:a",), "acme", "wf", 2**31, "bearer", "00")

    async def fulfil(permit: Permit) -> Permit:
        return permit

    async def messages(call: str) -> AsyncGenerator[Reply, None]:
        tell("o" if overlap else "x", call)
        await asyncio.sleep(0)
        yield Reply({"progress": 1}, is_final=False)
        yield Reply({"done": True}, is_final=True)

    async def forward(intent: Intent) -> Said:
        return messages(intent.permit.call.arrival.id)

    return Stages(
        authenticate=authenticate,
        parse=lambda arrival, _: Call(arrival, "tools/call", "erp", {}, arrival.trace, name="read"),
        normalise=lambda call, _: AccessRequest(
            "user:corp/1", ("agent:a",), "acme", "call", "erp.read", call.arrival.at // 10**6
        ),
        decide=_decide,
        fulfil=fulfil,
        record_intent=record_intent,
        forward=forward,
        filter=lambda reply, _: replace(reply, body=b"the answer"),
        record_outcome=record_outcome,
        record_refusal=recorder.refusal,
        observe=lambda *_: None,
        settled=recorder.settled,
    )


_decided = [0]


def _decide(_request: AccessRequest) -> Decision:
    _decided[0] += 1
    if _decided[0] % 3:
        return Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0")
    return Decision(Effect.DENY, Reason.USER_LACKS_RIGHT, "sha256:0", missing=("user:corp/1",))


# ------------------------------------------------------------------------------------------------------- planted bugs
async def _hurried_intent(recorder: Recorder, permit: Permit) -> Intent:
    task = asyncio.ensure_future(recorder.intent(permit))
    task.add_done_callback(lambda done: done.exception())
    return Intent(permit, 0, model._RECORDED)


async def _hurried_outcome(recorder: Recorder, intent: Intent, outcome: Outcome) -> None:
    asyncio.ensure_future(recorder.outcome(intent, outcome)).add_done_callback(lambda done: done.exception())


def _plant_ahead(plant: str) -> None:
    real = os.pwrite

    def never(file: int, data: bytes, at: int) -> int:
        return len(data) if data.startswith(b"bwf1") else real(file, data, at)

    begin = _Turning._begin

    def early(self: _Turning) -> SqlTurn:
        ahead = self._store._ahead
        if ahead is not None and ahead._file is not None and ahead.pending:
            real(ahead._file, bytes(64), START)
        return begin(self)

    if plant == "told and never written ahead":
        os.pwrite = never  # type: ignore[assignment]
    elif plant == "what a dead process left ahead is forgotten":
        Ahead.left = lambda _, __: []  # type: ignore[method-assign]
    elif plant == "the file ahead begins anew before its records are in the tables":
        _Turning._begin = early  # type: ignore[method-assign]


def _plant_in_spool(plant: str) -> None:
    append, begin, kept, left = Spool.append, Spool.begin, Spool.kept, Spool.left
    owed: list[Frame] = []

    def late(self: Spool, frame: Frame) -> None:
        owed.append(frame)
        if len(owed) > 1:
            append(self, owed.pop(0))

    def later(self: Spool, head: Head, frames: Sequence[Frame]) -> None:
        begin(self, head, [])
        owed.extend(frames)

    def marked(self: Spool, head: Head, frames: Sequence[Frame]) -> None:
        begin(self, head, [frame for frame in frames if b'"spooled":true' in frame.leaves[0][1]])

    def gone(self: Spool) -> list[Frame]:
        frames = kept(self)
        self._path.unlink()
        return frames

    def gone_too(self: Spool) -> list[Left]:
        found = left(self)
        for each in found:
            each.path.unlink()
        return found

    if plant == "told before it is in the spool":
        Spool.append, Spool.begin = late, later  # type: ignore[method-assign]
    elif plant == "a spool is removed before it is in the log":
        Spool.kept, Spool.left = gone, gone_too  # type: ignore[method-assign]
    elif plant == "an unanswered batch is left out of the spool":
        Spool.begin = marked  # type: ignore[method-assign]
    elif plant == "the spool of an earlier process is forgotten":
        Spool.left = lambda _: []  # type: ignore[method-assign]


def _store_with(points: Points, plant: str) -> type[SqlStore]:
    class Store(SqlStore):
        def _connect(self, role: str) -> Any:
            points.pass_one(done=False)
            connection = super()._connect(role)
            if role == "turn":
                watched = Watched(self._cursor, points, _descriptor_of(connection))
                self._cursor = _Planted(watched, plant) if plant else watched
            return connection

        def add_checkpoint(self, size: int, note: str) -> None:
            descriptor = _descriptor_of(self._connections.get("sign"))
            points.pass_one(done=False, descriptor=descriptor)
            super().add_checkpoint(size, note)
            points.pass_one(done=True, descriptor=descriptor)

    return Store


def _descriptor_of(connection: Any) -> int | None:
    """The socket of a connection to a server."""
    driver = connection.connection.driver_connection if connection is not None else None
    return driver.fileno() if isinstance(driver, psycopg.Connection) else None


class _Planted:
    """A cursor with a bug."""

    def __init__(self, real: Any, plant: str) -> None:
        self._real = real
        self._early = plant == "acknowledged before the commit"
        self._torn = plant == "a batch is two transactions"
        self._owed = False

    def execute(self, statement: str, parameters: Any = ()) -> Any:
        if self._early and statement == "COMMIT":
            self._owed = True
            return None
        if self._owed and statement.startswith("BEGIN"):
            self._owed = False
            self._real.execute("COMMIT")
        result = self._real.execute(statement, parameters)
        if self._torn and statement.startswith("INSERT INTO ledger_leaves"):
            self._real.execute("COMMIT")
            self._real.execute("BEGIN")
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def prepare(url: str) -> None:
    """Bring the schema up to date, and nothing else; in a forked process, for it imports much."""
    SqlStore(url).close()
