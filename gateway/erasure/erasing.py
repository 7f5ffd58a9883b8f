"""Erasing a person, agreed by two: first what other stores hold of them, then the key of all that the ledger sealed for them.

Crash story: each store is erased and recorded while the key is still there, so an erasure that was cut off is begun again; once
the key is destroyed everything sealed is closed for good, and deleting it goes on by itself (`audit/erasure.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeVar

from audit.erasure import Sweeper
from audit.leaf import Kind
from audit.model import Entry, HeldError, LedgerUnavailableError, Value
from audit.privacy import LOG
from audit.reader import Ledger, Record
from audit.store import StoreError
from gateway.ledger_opening import Shred
from gateway.model import Clock, Refused, new_id
from gateway.reasons import Code
from gateway.record import Append

log = logging.getLogger("gateway.erasure")
T = TypeVar("T")

Eraser = Callable[[str], Awaitable[int]]
"""Erases what one store holds of a person, given in clear; how many things that were.  Erasing twice does no harm."""

VALID_US: Final = 7 * 24 * 3600 * 1_000_000
"""A wish that nobody agreed to for so long is none any more."""
_SWEEP_SECONDS: Final = 60.0


class Why(StrEnum):
    """Why nothing is erased, or held."""

    UNKNOWN_PERSON = "unknown-person"
    UNKNOWN_REQUEST = "unknown-request"
    UNKNOWN_HOLD = "unknown-hold"
    SAME_PERSON = "same-person"
    HELD = "held"


class NotErasedError(Exception):
    """Nothing was erased.  `detail` repeats no name."""

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(detail)
        self.why = why
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Erased:
    """What came of it.

    stores  how much each other store held.
    values  how many sealed values were deleted; None where deleting them is still under way.
    """

    request: str
    pseudonym: str
    stores: Mapping[str, int]
    values: int | None


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold in force.  pseudonym is `log` where it is about everybody."""

    id: str
    pseudonym: str
    subject: str
    at: int


@dataclass(frozen=True, slots=True)
class Log:
    """One log of the ledger.  tenant: whose it is, "" the gateway's own."""

    tenant: str
    url: str
    shred: Shred = field(compare=False)


class Erasing:
    """Asks, agrees and erases, on record, in every log that knows the person; one id stands for it in all of them.

    logs      every log that there is, the gateway's own first; called in a thread.
    erasers   the other stores, by name; more may be added before the first use.
    """

    def __init__(
        self, append: Append, logs: Callable[[], Sequence[Log]], seal_key: bytes, erasers: Mapping[str, Eraser], clock: Clock
    ) -> None:
        self._append = append
        self._logs = logs
        self._seal_key = seal_key
        self.erasers = dict(erasers)
        self._clock = clock
        self._sweeping = asyncio.Lock()

    async def ask(self, subject: str, reason: str, by: str, **fields: object) -> str:
        """Record that somebody wants the person erased; the id by which another agrees."""
        known = await self._known(subject)
        return await self._record(known, Kind.ERASURE_ASK, fields, by, (Value("reason", reason.encode()),), {"target": subject})

    async def agree(self, request: str, subject: str, by: str, agreement: str = "") -> Erased:
        """Erase the person whom the request is about, on the word of somebody else than who asked.  `NotErasedError`.

        `agreement` is what they signed, where no gateway was there to know them: it is put on record before anything is erased.
        """
        now = self._clock()
        wishes = await self._reading(
            lambda ledger: None if (wish := ledger.get(request)) is None else (wish, ledger.pseudonym(by))
        )
        found = [
            (log, wish, own) for log, (wish, own) in wishes if wish.kind == Kind.ERASURE_ASK and 0 <= now - wish.at <= VALID_US
        ]
        if not found:
            raise NotErasedError(Why.UNKNOWN_REQUEST, "there is no such request that still waits")
        known = await self._known(subject)
        if not any(log in known for log, _, _ in found) or any(
            wish.leaf.get("target") != known[log] for log, wish, _ in found if log in known
        ):
            raise NotErasedError(Why.UNKNOWN_REQUEST, "the request is about somebody else")
        if by == subject or any(_asker(wish) in {by, own} for _, wish, own in found):
            raise NotErasedError(Why.SAME_PERSON, "somebody else than who asked, and than who is erased, has to agree")
        for log, holds in await self._reading(lambda ledger: ledger.holds()):
            for hold, whose in holds:
                if whose in {known.get(log), LOG}:
                    raise NotErasedError(Why.HELD, f"the legal hold {hold} is in force")
        if agreement:
            signed = {"wanted": request, "agreement": agreement, "source": "offline"}
            await self._record(known, Kind.ERASURE_APPROVE, signed, by)
        stores = {}
        for store, eraser in sorted(self.erasers.items()):
            stores[store] = rows = await eraser(subject)
            said: dict[str, object] = {"store": store, "rows": rows, "request": request}
            await self._record(known, Kind.ERASURE_STORE, said, None, (), {"target": subject})
        for log in known:
            await self._shred(log, subject, request, by)
        return Erased(request, ",".join(known.values()), stores, await self.sweep())

    async def _shred(self, log: Log, subject: str, request: str, by: str) -> None:
        try:
            await log.shred(subject, request=request, approver=by)
        except HeldError as error:
            raise NotErasedError(Why.HELD, str(error)) from None
        except LookupError:
            raise NotErasedError(Why.UNKNOWN_PERSON, "somebody else erased this person just now") from None
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error

    async def hold(self, subject: str | None, reason: str, by: str, **fields: object) -> str:
        """Set a legal hold on a person (None: on everybody); its id."""
        logs = await self._known(subject) if subject is not None else await self._everywhere()
        said = fields if subject is not None else fields | {"target": LOG}
        people = {"target": subject} if subject is not None else {}
        return await self._record(logs, Kind.HOLD_SET, said, by, (Value("reason", reason.encode()),), people)

    async def clear(self, hold: str, reason: str, by: str, **fields: object) -> None:
        """Take a legal hold back."""
        held = await self._reading(lambda ledger: True if any(hold == each for each, _ in ledger.holds()) else None)
        logs = [log for log, _ in held]
        try:
            if not logs:
                raise LookupError(hold)
            await self._record(logs, Kind.HOLD_CLEAR, {**fields, "hold": hold}, by, (Value("reason", reason.encode()),))
        except LookupError:
            raise NotErasedError(Why.UNKNOWN_HOLD, "there is no legal hold of that id in force") from None

    async def holds(self) -> list[Hold]:
        """Those in force, with whom they are about."""

        def read(ledger: Ledger) -> list[Hold]:
            return [
                Hold(hold, whose, "" if whose == LOG else str(ledger.subject_name(whose)), found.at)
                for hold, whose in ledger.holds()
                if (found := ledger.get(hold)) is not None
            ]

        found = {hold.id: hold for _, holds in await self._reading(read) for hold in holds}
        return [found[hold] for hold in sorted(found)]

    async def sweep(self) -> int | None:
        """Delete the sealed values of erased people; None where something keeps that from being complete now."""
        async with self._sweeping:
            return await asyncio.to_thread(self._sweep)

    async def run(self) -> None:
        """Go on with what is left, now and then, until cancelled."""
        while True:
            await self.sweep()
            await asyncio.sleep(_SWEEP_SECONDS)

    def _sweep(self) -> int | None:
        gone = 0
        try:
            for each in self._logs():
                with contextlib.closing(Sweeper(each.url)) as sweeper:
                    gone += sweeper.sweep() if sweeper.pending() else 0
        except StoreError as error:
            log.warning("what was sealed for an erased person is not all deleted yet: %s", error)
            return None
        return gone

    async def pseudonym(self, subject: str) -> str:
        """How the ledger names a person, in each log that does; `NotErasedError` where it knows nobody of that name."""
        return ",".join((await self._known(subject)).values())

    async def _everywhere(self) -> Sequence[Log]:
        try:
            return await asyncio.to_thread(self._logs)
        except StoreError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, str(error)) from error

    async def _known(self, subject: str) -> Mapping[Log, str]:
        """The person's pseudonyms, by log."""
        found = dict(await self._reading(lambda ledger: ledger.pseudonym(subject)))
        if not found:
            raise NotErasedError(Why.UNKNOWN_PERSON, "the ledger knows nobody of that name")
        return found

    async def _record(  # noqa: PLR0917  the parts of a record
        self,
        logs: Iterable[Log],
        kind: Kind,
        fields: Mapping[str, object],
        by: str | None,
        values: tuple[Value, ...] = (),
        people: Mapping[str, str] | None = None,
    ) -> str:
        """The same record in each log; its id."""
        at = self._clock()
        person = by is not None and by.startswith(("user:", "svc:"))
        said = {**fields} if person or by is None else {**fields, "by": by}
        name = new_id(at)
        try:
            for each in logs:
                subject = by if person else None
                await self._append(Entry(kind, name, at, subject, said, values, people or {}, tenant=each.tenant))
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error
        return name

    async def _reading(self, work: Callable[[Ledger], T | None]) -> list[tuple[Log, T]]:
        """What the logs have, those alone that have something."""

        def read() -> list[tuple[Log, T]]:
            found = []
            for each in self._logs():
                with Ledger.open(each.url, self._seal_key) as ledger:
                    if (said := work(ledger)) is not None:
                        found.append((each, said))
            return found

        try:
            return await asyncio.to_thread(read)
        except StoreError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, str(error)) from error


def _asker(wish: Record) -> str:
    return str(wish.subject or wish.leaf.get("by"))
