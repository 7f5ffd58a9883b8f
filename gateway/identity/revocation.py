"""Who may act no more, on every replica: a kill is on record before it is in force, and in force before anybody is told so.

What is asked for every call is memory alone.  What it was read from is read again at every notice and every few seconds; where
that fails for too long, nobody is known to be alive, and everything is refused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from audit.model import Entry, LedgerUnavailableError, Receipt, Value
from gateway.identity.killed import Killed, Names
from gateway.model import Intent, Principal, Refused
from gateway.reasons import Code
from gateway.running import Running
from gateway.state.kills import LIFT, OFFLINE, SELF, Kill, KillRows, Lift, Mark
from gateway.state.used import key_of

if TYPE_CHECKING:
    from gateway.running import Watched

log = logging.getLogger("gateway.identity")

READ_SECONDS: Final = 15.0
MANY: Final = 1000
"""Kills whose index is made beside the event loop."""
SUBJECT: Final = "@subject"
Append = Callable[[Entry], Awaitable[Receipt]]


class Kills:
    """Asked for every call; told by people, events and other replicas."""

    def __init__(
        self,
        rows: KillRows,
        append: Append,
        *,
        names: Names,
        issuers: Sequence[str] = (),
        poll_seconds: float = 5,
        stale_seconds: float = 60,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`append` is the ledger's; access tokens of `issuers` (`iss`) begin workflows.  Nobody is alive before `refresh`."""
        self.running = Running()
        self.names = names
        self._rows = rows
        self._append = append
        self._issuers = tuple(issuers)
        self._poll = poll_seconds
        self._stale = stale_seconds
        self._monotonic = monotonic
        self._fresh_until = float("-inf")
        self._said_stale = False
        self._mark: Mark | None = None
        self._kills: dict[str, Kill] = {}
        self._killed: Killed | None = None  # None: nobody is
        self._unrecorded: dict[str, Kill] = {}
        self._recorded: set[str] = set()
        self._lock = asyncio.Lock()
        self._woken = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None

    # what is asked for every call

    def alive(self, principal: Principal) -> None:
        """Return where nobody of the chain was killed; `Refused(REVOKED)` otherwise.

        `Refused(INTERNAL_ERROR)` where it is not known.
        """
        if self._monotonic() >= self._fresh_until:
            raise _of(_unknown(), principal)
        if self._killed is not None:
            kill = self._killed.of(principal)
            if kill is not None:
                raise _of(_revoked(kill), principal)

    def dead(self, principal: Principal) -> bool:
        """Whether anybody of the chain was killed, for who only asks; `Refused(INTERNAL_ERROR)` where it is not known."""
        try:
            self.alive(principal)
        except Refused as refusal:
            if refusal.code is not Code.REVOKED:
                raise
            return True
        return False

    def watch(self, intent: Intent) -> Watched:
        """What a call runs within from the moment it is sent; asks `alive` once more, and of the agent that is called too."""
        principal = intent.permit.principal
        if intent.permit.call.arrival.protocol == "a2a":
            principal = replace(principal, actors=(*principal.actors, f"agent:{intent.permit.call.target}"))
        self.alive(principal)
        return self.running.watch(principal)

    @property
    def fault(self) -> str:
        """Why nothing is decided; "" where that is not so."""
        return "kills cannot be read" if self._monotonic() >= self._fresh_until else ""

    # what changes it

    async def kill(self, kill: Kill, *, about: str | None, request: str = "") -> Kill:
        """On record, then durable, then in force here: the kill that stands, which may be one that covers this one.

        `about` is the person that it is about, if there is one; `request` the record of the wish.  Refused(LEDGER_UNAVAILABLE),
        or what `KillRows.add` raises.
        """
        await self._record(_entry(kill, about, request))
        async with self._lock:
            stands = await self._rows.add(kill)
            self._kills[stands.id] = stands
            await self._take()
        return stands

    async def lift(self, kill_id: str, at: int) -> Kill | None:
        """Durable, then no more in force here; the wish is on record already.  None where there is no such kill."""
        await self.refresh()  # one that was written beside the gateway is on record before it is lifted
        async with self._lock:
            lifted = await self._rows.lift(kill_id, at)
            if lifted is not None:
                self._kills.pop(kill_id, None)
                await self._take()
        return lifted

    async def apply(  # noqa: PLR0917  one event
        self, scope: str, jti: str, until: int, kills: Sequence[Kill], lifts: Sequence[Lift], entries: Sequence[Entry], at: int
    ) -> bool:
        """All that an event leads to: on record, then durable together with its being used; False where it was used before."""
        for entry in entries:
            await self._record(entry)
        async with self._lock:
            done = await self._rows.apply(key_of(scope, jti), until, kills, lifts, at)
            if done is None:
                return False
            stand, lifted = done
            for kill in stand:
                self._kills[kill.id] = kill
            for kill in lifted:
                self._kills.pop(kill.id, None)
            await self._take()
        for kill in lifted:
            said = {"source": kill.source, "by": kill.by, "event": jti[:128]}
            await self._record(_lifted(kill, at, f"lift-{kill.id}", said))
        return True

    async def one(self, kill_id: str) -> Kill | None:
        """The kill of that id, lifted or not."""
        return await self._rows.one(kill_id)

    async def listed(self, most: int, *, lifted: bool = False, by: str | None = None) -> list[Kill]:
        """See `KillRows.listed`."""
        return await self._rows.listed(most, lifted=lifted, by=by)

    # how it stays what the table says

    def start(self) -> None:
        """Follow the table until `close`."""
        self._follower = asyncio.create_task(self._follow(), name="kills")
        self._follower.add_done_callback(self._ended)

    async def close(self) -> None:
        """End that."""
        if self._again is not None:
            self._again.cancel()
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)

    def wake(self) -> None:
        """Have the table read now."""
        self._woken.set()

    async def refresh(self) -> None:
        """Read the table, where it changed.  Where it cannot be read, what is known stays in force until it is too old."""
        async with self._lock:
            begun = self._monotonic()
            try:
                async with asyncio.timeout(READ_SECONDS):
                    mark, found = await self._rows.read(self._mark)
                if found is not None:
                    self._kills = {kill.id: kill for kill in found}
                    await self._take()
            except (Refused, TimeoutError, ValueError) as error:
                self._grown_old(error)
                return
            if self._said_stale:
                log.warning("kills can be read again")
            self._fresh_until, self._mark, self._said_stale = begun + self._stale, mark, False
        await self._record_offline()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A defect of ours must not mean that nobody is killed any more, nor that what is under way goes on unlooked at."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the watch of kills failed, and begins again", exc_info=error)
            self._again = asyncio.get_running_loop().call_later(self._poll, self.start)

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._poll):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            await self.refresh()

    async def _take(self) -> None:
        """What is known comes into force, for the calls that are under way as well.  Nobody else changes it meanwhile."""
        kills = tuple(kill for kill in self._kills.values() if kill.kind != LIFT)
        killed = Killed(kills, self._issuers) if len(kills) < MANY else await asyncio.to_thread(Killed, kills, self._issuers)
        self._killed = killed if kills else None
        self._unrecorded |= {kill.id: kill for kill in kills if kill.source == OFFLINE and kill.id not in self._recorded}
        if not kills or not len(self.running):
            return

        def refusal_of(principal: Principal) -> Refused | None:
            kill = killed.of(principal)
            return None if kill is None else _revoked(kill)

        ended = self.running.end(refusal_of)
        if ended:
            log.warning("%d calls under way were ended by a kill", ended)

    def _grown_old(self, error: Exception) -> None:
        if self._monotonic() < self._fresh_until:
            return
        if not self._said_stale:
            log.error("kills cannot be read (%s): nothing is decided until they can", error)
            self._said_stale = True
        self.running.end(lambda _: _unknown())

    async def _record(self, entry: Entry) -> None:
        try:
            await self._append(entry)
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error

    async def _record_offline(self) -> None:
        """What was written beside the gateway is recorded by whoever reads it; several do, and there is one record."""
        for kill in list(self._unrecorded.values()):
            try:
                await self._record(_entry(kill, kill.target if kill.kind == "user" else None, ""))
            except Refused:
                return  # at the next look
            self._recorded.add(kill.id)
            del self._unrecorded[kill.id]
        for wish in [kill for kill in self._kills.values() if kill.kind == LIFT]:
            try:
                await self._obey(wish)
            except Refused:
                return

    async def _obey(self, wish: Kill) -> None:
        """A wish that was written beside the gateway is on record before the kill is taken back, as everybody's is."""
        kill = await self._rows.one(wish.target)
        if kill is not None:
            await self._record(_lifted(kill, wish.created_at, wish.id, {"source": OFFLINE, "by": wish.by}))
        async with self._lock:
            await self._rows.obey(wish, wish.created_at)
            for name in (wish.id, wish.target):
                self._kills.pop(name, None)
            await self._take()


def _revoked(kill: Kill) -> Refused:
    return Refused(Code.REVOKED, f"kill {kill.id} ({kill.kind})")


def _of(refusal: Refused, principal: Principal) -> Refused:
    """Told with whose it is: the person, though killed, is no stranger to the ledger."""
    refusal.principal = principal
    return refusal


def _unknown() -> Refused:
    return Refused(Code.INTERNAL_ERROR, "kills cannot be read: it is not known who is alive")


def _entry(kill: Kill, about: str | None, request: str) -> Entry:
    """The record of a kill; it has the kill's own id, so that there is one however often it is written."""
    fields: dict[str, object] = {
        "what": kill.kind,
        "target": SUBJECT if kill.target == about else kill.target,
        "before": kill.before,
        "source": kill.source,
    }
    if kill.source != SELF and not request:
        fields["by"] = kill.by
    if request:
        fields["request"] = request
    return Entry("identity.kill", kill.id, kill.created_at, about, fields, (Value("reason", kill.reason.encode()),))


def entries_of(kills: Iterable[Kill]) -> list[Entry]:
    """The records of kills that an event leads to; each is about the person that it kills."""
    return [_entry(kill, kill.target if kill.kind == "user" else None, "") for kill in kills]


def _lifted(kill: Kill, at: int, name: str, said: Mapping[str, object]) -> Entry:
    about = kill.target if kill.kind == "user" else None
    return Entry("identity.lift", name, at, about, {"kill": kill.id, "what": kill.kind, **said})
