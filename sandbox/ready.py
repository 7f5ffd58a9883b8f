"""Cages that have attested and have been handed nothing yet: raised, looked at again, put away.

A cage is used once.  Whatever becomes of it, it has ended when its folder and processes were seen, from outside, to be gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

from sandbox import lasting
from sandbox.attestation import attested
from sandbox.backend import Backend
from sandbox.cage import Cage, CageError, to_its_end
from sandbox.cgroup import Bounds, Group, NoGroupError
from sandbox.model import Guarantee, Strength
from sandbox.plan import Plan
from sandbox.runner import Lasting
from sandbox.scratch import Folder, Scratch, processes_of
from sandbox.toolsets import Kit

P = ParamSpec("P")
T = TypeVar("T")
Proven = Mapping[Guarantee, Strength]


@dataclass(frozen=True, slots=True)
class Ready:
    """A cage that has attested, in its claimed folder.

    facts   what it said of itself; proven: what that proves, no more than the probe did.
    alone   the same without what its control group adds; group: that group, which its code is in, where the machine has such.
    kept    the folder that lasts, claimed for it; inside: that folder's name in the cage, "" where there is none.
    """

    cage: Cage
    folder: Folder
    kit: Kit
    facts: Mapping[str, Any]
    proven: Proven
    alone: Proven
    group: Group | None = None
    kept: lasting.Claimed | None = None
    inside: str = ""


class Cages:
    """Makes and ends the cages of one backend."""

    def __init__(self, backend: Backend, scratch: Scratch, pool: Executor) -> None:
        self._backend, self._scratch, self._pool = backend, scratch, pool
        self.bounds: Bounds | None = None

    async def raised(self, plan: Plan, kit: Kit, proven: Proven, folder: Lasting | None = None) -> Ready:
        """A new cage, attested, with the folder that lasts; nothing is left of it where there is none to be had.

        OSError, ScratchError or CageError then, SandboxBusyError where another program has the folder.
        """
        if folder is None:
            return await self.raised_in(await self.claim(), plan, kit, proven)
        kept = await self._got(partial(lasting.claim, folder), lasting.release)
        try:
            scratch = await self.claim(kept.uid)
        except BaseException:
            lasting.release(kept)
            raise
        return await self.raised_in(scratch, plan, kit, proven, kept)

    async def raised_in(
        self, folder: Folder, plan: Plan, kit: Kit, proven: Proven, kept: lasting.Claimed | None = None
    ) -> Ready:  # fmt: skip
        """The same in a folder that is claimed already, with one that lasts that is claimed too."""
        cage: Cage | None = None
        groups: list[Group] = []  # filled in the thread, so that one is known of whenever its making was cancelled
        inside = ""
        try:
            if kept is not None:
                await self.in_pool(lasting.give, kept, folder.uid)
                kit = replace(kit, kept=str(kept.files), kept_bytes=kept.bytes)
                inside = self._backend.place(plan, folder, kit).kept
            cage = await Cage.start(self._backend, plan, folder, kit, self._pool, lock=-1 if kept is None else kept.lock)
            await cage.take_listener(self._pool)
            facts = await cage.attestation()
            most = proven if self.bounds is None else self.bounds.without(proven)
            alone = await self.in_pool(self._looked_at, cage, folder, kit, facts, most)
            strengths = alone
            if self.bounds is not None and any(alone.values()):
                code = await self.in_pool(self._backend.code_of, facts, cage.pid)
                strengths = await self.in_pool(self._bound, self.bounds, groups, alone, kit, code)
        except (NoGroupError, ValueError) as error:
            await self._ended(cage, folder, next(iter(groups), None), kept)
            raise CageError(f"no control group: {error}") from error
        except BaseException:
            await self._ended(cage, folder, next(iter(groups), None), kept)
            raise
        return Ready(cage, folder, kit, facts, strengths, alone, next(iter(groups), None), kept, inside)

    async def holds(self, ready: Ready) -> bool:
        """Whether a cage that has waited is still there, says of itself what it said, and the kernel too."""
        try:
            await ready.cage.send(b"P", b"")
            facts = await ready.cage.attestation()
        except CageError:
            return False
        confirmed = partial(self._backend.confirmed, started=ready.cage.pid, uid=ready.folder.uid, kit=ready.kit)
        again = await self.in_pool(
            attested, facts, ready.kit.limits, ready.folder.uid, ready.alone, confirmed, network=ready.kit.network
        )
        return again == ready.alone

    async def put_away(self, ready: Ready, bystanders: Collection[int] = ()) -> str:
        """End the cage and see that nothing is left.  What was found amiss, "" for nothing; raises nothing but cancellation.

        `bystanders` are processes of the run's uid that are not of the run.
        """
        return await self._ended(ready.cage, ready.folder, ready.group, ready.kept, bystanders)

    async def claim(self, prefer: int | None = None) -> Folder:
        """A new folder, of this user id where it is free; one that a cancelled caller no longer wants is given back."""
        return await self._got(partial(self._scratch.claim, prefer), self._scratch.release)

    async def _got(self, claim: Callable[[], T], give_back: Callable[[T], object]) -> T:
        claiming = asyncio.get_running_loop().run_in_executor(self._pool, claim)
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            await self.in_pool(give_back, await claiming)
            raise

    async def in_pool(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Something that blocks, off the loop, and to its end: who is cancelled meanwhile goes on when it is done."""
        return await to_its_end(asyncio.get_running_loop().run_in_executor(self._pool, partial(work, *args, **kwargs)))

    async def _ended(
        self,
        cage: Cage | None,
        folder: Folder,
        group: Group | None,
        kept: lasting.Claimed | None,
        bystanders: Collection[int] = (),
    ) -> str:
        """In one piece off the loop: whoever is cancelled meanwhile, it is gone through to its end."""
        if cage is not None:
            cage.close()
        return await self.in_pool(self._finish, cage, folder, group, kept, frozenset(bystanders))

    def _bound(self, bounds: Bounds, groups: list[Group], alone: Proven, kit: Kit, code: int) -> Proven:
        files = self._backend.in_memory(kit)
        group, strengths = bounds.applied(alone, kit.limits, code, files=files, throttle=kit.throttled)
        groups.append(group)
        return strengths

    def _looked_at(self, cage: Cage, folder: Folder, kit: Kit, facts: Mapping[str, Any], most: Proven) -> Proven:
        """What the cage's word proves, beside what the kernel says of it."""
        cage.ends_with(self._backend.end_of(cage.pid))
        confirmed = partial(self._backend.confirmed, started=cage.pid, uid=folder.uid, kit=kit)
        return attested(facts, kit.limits, folder.uid, most, confirmed, network=kit.network, kept=bool(kit.kept))

    def _finish(
        self, cage: Cage | None, folder: Folder, group: Group | None, kept: lasting.Claimed | None, bystanders: frozenset[int]
    ) -> str:  # fmt: skip
        amiss = ""
        if cage is not None:
            try:
                cage.gone()
            except CageError as error:
                amiss = str(error)
        if group is not None and not group.close():
            amiss = "the run's control group is still there"
        try:
            return self._clean_up(folder, bystanders) or amiss
        finally:
            if kept is not None:
                lasting.release(kept)  # last: until nothing of the program is left, nobody else has its folder

    def _clean_up(self, folder: Folder, bystanders: frozenset[int]) -> str:
        """See from outside that nothing of the run is left, and take away what is.  What was found amiss, "" for nothing."""
        amiss = ""
        if folder.uid is not None:
            for _ in range(100):
                left = [pid for pid in processes_of(folder.uid) if pid not in bystanders]
                if not left:
                    break
                amiss = "processes of the run were left and had to be killed"
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.01)
        try:
            gone = self._scratch.release(folder)
        except OSError as error:
            return f"the scratch folder could not be removed: {error}"
        return amiss if gone else "the scratch folder is still there"
