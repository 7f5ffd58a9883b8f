"""`limit`: how many calls in a time, how many at once, how large; counted for all replicas together.

Failure story: what the store cannot count is refused.  A replica that dies keeps its slots for `LEASE_SECONDS` at most; one that
cannot reach the store for so long while its calls go on may find its slots taken by others.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from gateway.model import Clock, Permit, Refused
from gateway.obligations.duty import Params, WrongParameterError, fulfilled, only, seconds, terms, whole, words
from gateway.reasons import Code
from gateway.state.limits import Rate, Slots
from policies.model import Obligation

log = logging.getLogger("gateway.limits")

TYPE: Final = "limit"
LEASE_SECONDS: Final = 30
PER: Final = ("subject", "agent", "tool", "workflow")
_MOST_CALLS: Final = 1_000_000
_MOST_BYTES: Final = 1 << 30


class Terms(NamedTuple):
    """What a duty of this kind says; None: nothing of that."""

    per: tuple[str, ...]
    rate: tuple[int, int] | None  # microseconds a call, burst
    at_once: int | None
    request_bytes: int | None
    answer_bytes: int | None


def read(params: Params) -> Terms:
    """`{calls, within, burst, at_once, per, request_bytes, answer_bytes}`; see docs/reference/duties.md."""
    only(params, "calls", "within", "burst", "at_once", "per", "request_bytes", "answer_bytes")
    calls, within = whole(params, "calls", _MOST_CALLS), seconds(params, "within")
    burst, at_once = whole(params, "burst", _MOST_CALLS), whole(params, "at_once", _MOST_CALLS)
    found = Terms(
        tuple(sorted(words(params, "per", PER))),
        None,
        at_once,
        whole(params, "request_bytes", _MOST_BYTES),
        whole(params, "answer_bytes", _MOST_BYTES),
    )
    if (calls is None) != (within is None):
        raise WrongParameterError("calls" if within is None else "within", "calls and within go together: so many within a time")
    if calls is None or within is None:
        if burst is not None:
            raise WrongParameterError("burst", "burst is of a rate: calls and within are missing")
        if found.per and at_once is None:
            raise WrongParameterError("per", "per says whose calls are counted: calls and within, or at_once, are missing")
        if found[2:] == (None, None, None):
            raise WrongParameterError("", "nothing is limited: calls and within, at_once, request_bytes or answer_bytes")
        return found
    return found._replace(rate=(max(within * 1_000_000 // calls, 1), burst or calls))


class Rows(Protocol):
    """Where it is counted: see `gateway.state.limits.LimitRows`."""

    async def take(self, rates: Sequence[Rate], slots: Sequence[Slots], holder: str, now: int, until: int) -> None:
        """All of it or nothing."""

    async def renew(self, holders: Sequence[str], until: int) -> None:
        """These go on."""

    async def give_back(self, holders: Sequence[str]) -> None:
        """These are over."""


class Limits:
    """Takes what a call needs, and gives its slots back when it is over.  key: of the digests by which it is counted."""

    def __init__(self, rows: Rows, key: bytes, clock: Clock, lease: float = LEASE_SECONDS) -> None:
        self._rows = rows
        self._key = key
        self._clock = clock
        self._lease = lease
        self.held: set[str] = set()
        """Ids of the calls that hold slots."""
        self._renewing: asyncio.Task[None] | None = None
        self._giving: set[asyncio.Task[None]] = set()

    async def fulfil(self, permit: Permit, obligation: Obligation) -> Permit:
        """All duties of this kind at once, so that a call which one of them refuses uses up nothing of another."""
        if obligation.name in permit.fulfilled:
            return permit
        most, rates, slots = permit.answer_bytes, [], []
        for each in permit.decision.obligations:
            if each.type != TYPE:
                continue
            found = terms(permit, each, read)
            if found.request_bytes is not None and len(permit.call.arrival.body) > found.request_bytes:
                raise Refused(Code.LIMIT_REACHED, f"{each.name}: the request is larger", decision=permit.decision)
            if found.answer_bytes is not None:
                most = min(most or found.answer_bytes, found.answer_bytes)
            if found.rate is not None:
                rates.append(Rate(self._counted("rate", each.name, found.per, permit), *found.rate, each.name))
            if found.at_once is not None:
                slots.append(Slots(self._counted("slots", each.name, found.per, permit), found.at_once, each.name))
            permit = fulfilled(permit, each, answer_bytes=most)
        if rates or slots:
            await self._take(permit, rates, slots)
        return permit

    async def _take(self, permit: Permit, rates: list[Rate], slots: list[Slots]) -> None:
        call, now = permit.call.arrival.id, self._clock()
        if slots:
            self.held.add(call)  # before it is waited for: a caller that leaves meanwhile must not keep what it gets
            if self._renewing is None:
                self._renewing = asyncio.create_task(self._renew())
        try:
            await self._rows.take(rates, slots, call, now, now + int(self._lease * 1_000_000))
        except Refused as refusal:
            refusal.decision = permit.decision
            raise

    def over(self, call: str) -> None:
        """The call is over, however it ended: what it holds is given back, in the background.  Does not block, does not raise."""
        if call not in self.held:
            return
        self.held.discard(call)
        task = asyncio.get_running_loop().create_task(self._give_back(call))
        self._giving.add(task)
        task.add_done_callback(self._giving.discard)

    async def aclose(self) -> None:
        """Give back everything."""
        for call in tuple(self.held):
            self.over(call)
        if self._renewing is not None:
            self._renewing.cancel()
        await asyncio.gather(*self._giving, return_exceptions=True)

    def _counted(self, kind: str, name: str, per: tuple[str, ...], permit: Permit) -> str:
        """The digest under which this call is counted: by the duty's name, so that it goes on where the numbers change."""
        principal = permit.principal
        of = {
            "subject": principal.subject,
            "agent": principal.actors[-1] if principal.actors else "",
            "tool": permit.request.resource,
            "workflow": principal.workflow,
        }
        said = "\0".join([kind, name, principal.tenant, *(part for word in per for part in (word, of[word]))])
        return hmac.digest(self._key, said.encode("utf-8", "backslashreplace"), "sha256").hex()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            if self.held:
                try:
                    await self._rows.renew(sorted(self.held), self._clock() + int(self._lease * 1_000_000))
                except Refused as refusal:
                    log.error("slots of running calls could not be renewed: %s", refusal)

    async def _give_back(self, call: str) -> None:
        with contextlib.suppress(Refused):  # it is free when its lease ends
            await self._rows.give_back([call])
