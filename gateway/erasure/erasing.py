"""Erasing a person, agreed by two: first what other stores hold of them, then the key of all that the ledger sealed for them.

Crash story: each store is erased and recorded while the key is still there, so an erasure that was cut off is begun again; once
the key is destroyed everything sealed is closed for good, and deleting it goes on by itself (`audit/erasure.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from audit.erasure import Sweeper
from audit.journal import Journal
from audit.leaf import Kind
from audit.model import Entry, HeldError, LedgerUnavailableError, Value
from audit.privacy import LOG
from audit.reader import Ledger, Record
from audit.store import StoreError
from gateway.model import Clock, Refused, new_id
from gateway.reasons import Code

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


class Erasing:
    """Asks, agrees and erases, on record.  `erasers` are the other stores, by name; more may be added before the first use."""

    def __init__(self, journal: Journal, url: str, seal_key: bytes, erasers: Mapping[str, Eraser], clock: Clock) -> None:
        self._journal = journal
        self._url = url
        self._seal_key = seal_key
        self.erasers = dict(erasers)
        self._clock = clock
        self._sweeping = asyncio.Lock()

    async def ask(self, subject: str, reason: str, by: str, **fields: object) -> str:
        """Record that somebody wants the person erased; the id by which another agrees."""
        await self._known(subject)
        return await self._record(Kind.ERASURE_ASK, fields, by, (Value("reason", reason.encode()),), {"target": subject})

    async def agree(self, request: str, subject: str, by: str, agreement: str = "") -> Erased:
        """Erase the person whom the request is about, on the word of somebody else than who asked.  `NotErasedError`.

        `agreement` is what they signed, where no gateway was there to know them: it is put on record before anything is erased.
        """
        wish = await self._reading(lambda ledger: ledger.get(request))
        now = self._clock()
        if wish is None or wish.kind != Kind.ERASURE_ASK or not 0 <= now - wish.at <= VALID_US:
            raise NotErasedError(Why.UNKNOWN_REQUEST, "there is no such request that still waits")
        pseudonym = await self._known(subject)
        if wish.leaf.get("target") != pseudonym:
            raise NotErasedError(Why.UNKNOWN_REQUEST, "the request is about somebody else")
        if _asker(wish) in {by, await self._reading(lambda ledger: ledger.pseudonym(by))} or by == subject:
            raise NotErasedError(Why.SAME_PERSON, "somebody else than who asked, and than who is erased, has to agree")
        for hold, whose in await self._reading(lambda ledger: ledger.holds()):
            if whose in {pseudonym, LOG}:
                raise NotErasedError(Why.HELD, f"the legal hold {hold} is in force")
        if agreement:
            await self._record(Kind.ERASURE_APPROVE, {"wanted": request, "agreement": agreement, "source": "offline"}, by)
        stores = {}
        for store, eraser in sorted(self.erasers.items()):
            stores[store] = rows = await eraser(subject)
            said: dict[str, object] = {"store": store, "rows": rows, "request": request}
            await self._record(Kind.ERASURE_STORE, said, None, (), {"target": subject})
        try:
            await self._journal.shred(subject, request=request, approver=by)
        except HeldError as error:
            raise NotErasedError(Why.HELD, str(error)) from None
        except LookupError:
            raise NotErasedError(Why.UNKNOWN_PERSON, "somebody else erased this person just now") from None
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error
        return Erased(request, pseudonym, stores, await self.sweep())

    async def hold(self, subject: str | None, reason: str, by: str, **fields: object) -> str:
        """Set a legal hold on a person (None: on everybody); its id."""
        if subject is not None:
            await self._known(subject)
        said = fields if subject is not None else fields | {"target": LOG}
        people = {"target": subject} if subject is not None else {}
        return await self._record(Kind.HOLD_SET, said, by, (Value("reason", reason.encode()),), people)

    async def clear(self, hold: str, reason: str, by: str, **fields: object) -> None:
        """Take a legal hold back."""
        try:
            await self._record(Kind.HOLD_CLEAR, {**fields, "hold": hold}, by, (Value("reason", reason.encode()),))
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

        return await self._reading(read)

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
        with contextlib.closing(Sweeper(self._url)) as sweeper:
            try:
                return sweeper.sweep() if sweeper.pending() else 0
            except StoreError as error:
                log.warning("what was sealed for an erased person is not all deleted yet: %s", error)
                return None

    async def pseudonym(self, subject: str) -> str:
        """How the ledger names a person; `NotErasedError` where it knows nobody of that name."""
        return await self._known(subject)

    async def _known(self, subject: str) -> str:
        found = await self._reading(lambda ledger: ledger.pseudonym(subject))
        if found is None:
            raise NotErasedError(Why.UNKNOWN_PERSON, "the ledger knows nobody of that name")
        return found

    async def _record(
        self,
        kind: Kind,
        fields: Mapping[str, object],
        by: str | None,
        values: tuple[Value, ...] = (),
        people: Mapping[str, str] | None = None,
    ) -> str:
        at = self._clock()
        person = by is not None and by.startswith(("user:", "svc:"))
        said = {**fields} if person or by is None else {**fields, "by": by}
        try:
            return (
                await self._journal.append(Entry(kind, new_id(at), at, by if person else None, said, values, people or {}))
            ).id
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error

    async def _reading(self, work: Callable[[Ledger], T]) -> T:
        def read() -> T:
            with Ledger.open(self._url, self._seal_key) as ledger:
                return work(ledger)

        try:
            return await asyncio.to_thread(read)
        except StoreError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, str(error)) from error


def _asker(wish: Record) -> str:
    return str(wish.subject or wish.leaf.get("by"))
