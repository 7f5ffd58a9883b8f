"""How a bundle comes into force: read when it stands still, built aside, checked, kept, recorded, and only then swapped in.

Whatever fails on that way leaves in force what is in force, and is said loudly: in the log, the ledger, the metrics and the API.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

from audit.model import Entry, LedgerUnavailableError, Receipt
from gateway.model import Clock
from gateway.policy.archive import Archive, ArchiveError
from gateway.policy.checks import Checks, RefusedBundleError
from gateway.policy.in_force import InForce, Pair, Policy
from gateway.policy.memory import NAME, Memory, read_memory, write_memory
from gateway.policy.records import Append, Asked, activated, approved, refused
from gateway.policy.watch import Reading, glance, read_whole, settled, young
from gateway.problem import ProblemError
from policies.bundle import Bundle
from policies.finding import Finding

log = logging.getLogger("gateway.policy")

Role = Literal["active", "canary", "shadow"]
ACTIVE: Final[Role] = "active"
_REMEMBERED: Final = 64
"""Bundles of which it is known where they came into force."""
UNKEPT: Final = "not-recorded"


class Result(StrEnum):
    """What came of looking at a folder; the closed list of the metric's label."""

    ACTIVATED = "activated"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A bundle that was refused, and why.  `digest` is "" where it was not even a bundle; `mark` names what was read."""

    at: int
    cause: str
    mark: str
    digest: str
    findings: tuple[Finding, ...]

    @property
    def passing(self) -> bool:
        """Whether it was not for the bundle's own sake: the same may come into force later."""
        return self.findings[0].code == UNKEPT


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of it, with the digest that is in force afterwards."""

    result: Result
    digest: str
    rejected: Rejected | None = None


@dataclass(slots=True)
class Place:
    """A folder, and what of it has been seen: `mark` of what it said when that came into force, `glanced` when last looked at."""

    role: Role
    folder: Path
    mark: str = ""
    glanced: str = ""
    rejected: Rejected | None = None


async def _nowhere(_entry: Entry) -> Receipt:
    raise LedgerUnavailableError("policy is not in force yet")


@dataclass(slots=True)
class Activation:
    """All that may change what is in force.  One thing at a time; belongs to the event loop.

    append    the ledger's, from `begin` on; announce tells other replicas.
    counts    by role and result, since the start.
    """

    places: tuple[Place, ...]
    percent: float
    checks: Checks
    archive: Archive
    clock: Clock
    pause: float
    append: Append = _nowhere
    announce: Callable[[str], None] = lambda _digest: None
    counts: Counter[tuple[Role, Result]] = field(default_factory=Counter)
    _prepared: dict[Role, Pair] = field(default_factory=dict)
    _memory: Memory = field(default_factory=Memory)
    _in_force: InForce | None = None
    _since: dict[str, int] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    # --- the start

    async def prepare(self) -> None:
        """Read and check every folder.  ProblemError where one holds nothing that may decide: then nothing is served."""
        self._memory = await asyncio.to_thread(read_memory, self.archive.folder)
        for place in self.places:
            newest = _with(self._memory, self._prepared[ACTIVE], "") if ACTIVE in self._prepared else self._memory
            self._prepared[place.role] = await self._first(place, newest)

    async def begin(self, append: Append) -> InForce:
        """The first policy, kept and recorded.  LedgerUnavailableError or OSError where that fails."""
        self.append = append
        pairs, memory, self._prepared = self._prepared, self._memory, {}
        for place in self.places:
            pair = pairs[place.role]
            held = memory.instead_of if place.mark == memory.instead_of else ""
            await self._keep(pair, _with(memory, pair, held) if place.role == ACTIVE else None)
            await self._record(pair, place.role, Asked("start"), "")
            if place.role == ACTIVE and pair.digest != memory.digest:
                await self._approve(pair, await self._last(memory))
        policy = Policy(pairs[ACTIVE], pairs.get("canary"), pairs.get("shadow"), self.percent)
        self._in_force = InForce(await asyncio.to_thread(policy.watching))
        return self._in_force

    async def _first(self, place: Place, memory: Memory) -> Pair:
        from gateway.bundles import findings_as_problems  # noqa: PLC0415  only where something is wrong, or at the start

        place.glanced = await self._glance(place)
        recent = await asyncio.to_thread(young, place.folder, 4 * self.pause)
        reading = await (settled(place.folder, self.pause) if recent else asyncio.to_thread(read_whole, place.folder))
        place.mark = reading.mark
        try:
            if place.role == ACTIVE and memory.instead_of == reading.mark:
                log.warning("rolled back: %s instead of what %s says", memory.digest, place.folder)
                return await self._archived(memory.digest)
            return await self._built(place, reading, memory)
        except RefusedBundleError as error:
            raise ProblemError(*findings_as_problems(error.findings, place.folder)) from None

    # --- afterwards

    async def look(self, place: Place, asked: Asked) -> Looked:
        """Read a folder, and put in force what it says; what is in force stays where that may not be.

        Nobody's asking (`watch`, `replica`) does not try again what was refused already.
        """
        async with self._lock:
            glanced, place.glanced = await self._glance(place), ""  # an error on the way: it is looked at again
            looked = await self._look(place, asked)
            if looked.rejected is None or not looked.rejected.passing:
                place.glanced = glanced
            return looked

    async def _look(self, place: Place, asked: Asked) -> Looked:
        reading = await settled(place.folder, self.pause)
        try:
            memory = await asyncio.to_thread(read_memory, self.archive.folder)
            if place.role == ACTIVE and memory.instead_of and memory.instead_of == reading.mark:
                return await self._stand_back(place, reading, memory, asked)
            if place.mark == reading.mark and self._pair(place.role) is not None:
                return self._unchanged(place)
            if self._known(place, reading) and not asked.explicit:
                return self._done(place, Result.UNCHANGED)
            pair = await self._built(place, reading, memory)
            await self._enforce(place, pair, _with(memory, pair, ""), asked)
        except RefusedBundleError as error:
            return await self._refuse(place, reading.mark, error, asked)
        except (LedgerUnavailableError, OSError, ProblemError, ArchiveError) as error:
            return await self._refuse(place, reading.mark, _unkept(error), asked)
        place.mark, place.rejected = reading.mark, None
        return self._done(place, Result.ACTIVATED)

    async def roll_back(self, wanted: str, asked: Asked) -> Looked:
        """Put an archived bundle in force again, by digest or serial, through the same checks but for its serial's age.

        It stays until the folder says something else than it says now.  ArchiveError where nothing is meant by `wanted`.
        """
        place = self.places[0]
        async with self._lock:
            digest = await asyncio.to_thread(self.archive.find, wanted)
            reading = await settled(place.folder, self.pause)
            try:
                memory = await asyncio.to_thread(read_memory, self.archive.folder)
                pair = await self._archived(digest)
                await self._enforce(place, pair, _with(memory, pair, reading.mark), asked)
            except RefusedBundleError as error:
                return await self._refuse(place, reading.mark, error, asked)
            except (LedgerUnavailableError, OSError, ProblemError) as error:
                return await self._refuse(place, reading.mark, _unkept(error), asked)
            place.mark, place.rejected = reading.mark, None
            return self._done(place, Result.ACTIVATED)

    async def changed(self, place: Place) -> bool:
        """Whether the folder, or what is remembered of it, may say something else than when it was last looked at."""
        return place.glanced != await self._glance(place)

    def since(self, digest: str) -> int | None:
        """Index in the ledger of the record by which a bundle that decides came into force last; None for one long gone."""
        return self._since.get(digest)

    @property
    def policy(self) -> Policy:
        """What is in force."""
        if self._in_force is None:
            msg = "nothing is in force yet"
            raise RuntimeError(msg)
        return self._in_force.current

    @property
    def stale(self) -> bool:
        """Whether a folder says something that was refused: what is in force is not what somebody meant."""
        return any(place.rejected is not None for place in self.places)

    # --- the steps

    async def _glance(self, place: Place) -> str:
        others = (self.archive.folder / NAME,) if place.role == ACTIVE else ()
        return await asyncio.to_thread(glance, place.folder, *others)

    async def _built(self, place: Place, reading: Reading, memory: Memory) -> Pair:
        if reading.findings:
            raise RefusedBundleError(reading.findings)
        at, decides = self.clock(), place.role != "shadow"
        since = memory if place.role == ACTIVE else memory.beside()
        return await asyncio.to_thread(self.checks.build, reading.texts, at, since, decides=decides)

    async def _archived(self, digest: str) -> Pair:
        try:
            bundle = await asyncio.to_thread(self.archive.get, digest)
        except ArchiveError as error:
            raise RefusedBundleError((Finding("not-archived", "", 0, 0, str(error)),), digest) from None
        return await asyncio.to_thread(self.checks.build, bundle.texts, self.clock(), None)

    async def _stand_back(self, place: Place, reading: Reading, memory: Memory, asked: Asked) -> Looked:
        """Somebody rolled back, here or on a replica that shares this data: the folder is not followed until it changes."""
        if self.policy.active.digest != memory.digest:
            pair = await self._archived(memory.digest)
            await self._enforce(place, pair, memory, replace(asked, cause="rollback"))
            place.mark, place.rejected = reading.mark, None
            return self._done(place, Result.ACTIVATED)
        place.mark = reading.mark
        return self._unchanged(place)

    async def _enforce(self, place: Place, pair: Pair, memory: Memory, asked: Asked) -> None:
        """Kept, remembered, recorded, in force: in this order, so that a crash in between loses nothing that decided."""
        before = self._pair(place.role)
        assert self._in_force is not None  # noqa: S101  nothing is looked at before the start
        policy = await asyncio.to_thread(self._in_force.current.having(place.role, pair).watching)
        await self._keep(pair, memory if place.role == ACTIVE else None)
        await self._record(pair, place.role, asked, before.digest if before else "")
        if place.role == ACTIVE:
            await self._approve(pair, before.bundle if before else None)
        self._in_force.swap(policy)
        gc.collect(1)  # what reading left behind
        gc.freeze()  # as at the start: the collector need not walk through a bundle that stays, and a bundle is free without it
        log.info("policy bundle %s is in force (%s, %s)", pair.digest, place.role, asked.cause)
        if asked.cause != "replica":
            self.announce(pair.digest)

    async def _record(self, pair: Pair, role: Role, asked: Asked, before: str) -> None:
        receipt = await self.append(activated(pair, role, asked, before, self.clock()))
        if role != "shadow":
            self._since.pop(pair.digest, None)
            self._since[pair.digest] = receipt.index
            if len(self._since) > _REMEMBERED:
                del self._since[next(iter(self._since))]

    async def _approve(self, pair: Pair, before: Bundle | None) -> None:
        for entry in approved(pair, before, self.clock()):
            await self.append(entry)

    async def _last(self, memory: Memory) -> Bundle | None:
        """What was in force when the gateway last ran; None where that is not known."""
        try:
            return await asyncio.to_thread(self.archive.get, memory.digest)
        except ArchiveError:
            return None

    async def _keep(self, pair: Pair, memory: Memory | None) -> None:
        def keep() -> None:
            self.archive.put(pair.bundle)
            self.archive.weigh()
            if memory is not None:
                write_memory(self.archive.folder, memory)

        await asyncio.to_thread(keep)

    async def _refuse(self, place: Place, mark: str, error: RefusedBundleError, asked: Asked) -> Looked:
        known = place.rejected
        place.rejected = Rejected(self.clock(), asked.cause, mark, error.digest, error.findings)
        if known is None or known.mark != mark or known.findings != error.findings or asked.explicit:
            log.error("policy of %s refused, %s stays: %s", place.folder, self._digest(place.role), error.findings[0])
            try:
                await self.append(refused(place.rejected, place.role, asked, self._digest(place.role), self.clock()))
            except LedgerUnavailableError as failure:
                log.error("the refusal is not recorded: %s", failure.detail)
        return self._done(place, Result.REJECTED)

    @staticmethod
    def _known(place: Place, reading: Reading) -> bool:
        """Whether this very text was refused already, for what it says."""
        return place.rejected is not None and place.rejected.mark == reading.mark and not place.rejected.passing

    def _unchanged(self, place: Place) -> Looked:
        if place.rejected is not None:
            log.info("policy of %s says again what is in force", place.folder)
            place.rejected = None
        return self._done(place, Result.UNCHANGED)

    def _done(self, place: Place, result: Result) -> Looked:
        self.counts[place.role, result] += 1
        return Looked(result, self._digest(place.role), place.rejected)

    def _pair(self, role: Role) -> Pair | None:
        found: Pair | None = getattr(self.policy, role)
        return found

    def _digest(self, role: Role) -> str:
        pair = self._pair(role)
        return pair.digest if pair is not None else ""


def _with(memory: Memory, pair: Pair, instead_of: str) -> Memory:
    """What is remembered once this pair is in force."""
    newer = pair.serial is not None and pair.serial > memory.serial
    memory = replace(memory, digest=pair.digest, instead_of=instead_of)
    return replace(memory, serial=pair.serial or 0, serial_digest=pair.digest) if newer else memory


def _unkept(error: Exception) -> RefusedBundleError:
    """What could not be kept, remembered or recorded does not come into force."""
    detail = error.detail if isinstance(error, LedgerUnavailableError) else str(error)
    text = f"it cannot be kept and recorded: {detail}"
    return RefusedBundleError((Finding(UNKEPT, "", 0, 0, text, "it is tried again at the next look"),))
