"""The attempts of a probe: outside first, where they must succeed to count, then in real cages."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from sandbox import lasting
from sandbox.backend import Backend
from sandbox.cage import CageError
from sandbox.inside import attempts, keeping, outward
from sandbox.layers import Bait, Tried, findings, lasting_finding, outward_finding
from sandbox.model import Guarantee, Job, Limits, Profile, Reason, Strength
from sandbox.network import greet
from sandbox.plan import Plan
from sandbox.ready import Cages, Ready
from sandbox.result import Run
from sandbox.runner import Finding, Hooks
from sandbox.scratch import Scratch
from sandbox.toolsets import Kit, Toolset

_PROFILE = Profile("probe", Limits(10, 20, 256 << 20, 16, 1 << 20, 4 << 20, 1 << 18, 64))
CarryOut = Callable[[Job, Ready, Plan, Hooks, Collection[int]], Awaitable[Run]]
"""One job in a cage that is gone afterwards; the last are processes of its uid that are not of the run."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What came of a program of attempts: outside, in its cage, and of what it went for."""

    outside: Mapping[str, Any]
    run: Run
    daemon_gone: bool
    untouched: bool
    left: bool


class Probe:
    """The attempts in cages of one backend."""

    def __init__(self, backend: Backend, cages: Cages, scratch: Scratch, carry_out: CarryOut) -> None:
        self._backend, self._cages, self._scratch, self._carry_out = backend, cages, scratch, carry_out

    async def made(self, plan: Plan, toolset: Toolset) -> tuple[Mapping[Guarantee, Finding], Mapping[str, str]]:
        """(what is proven, facts of the mechanisms); CageError where the attempts do not come to their end."""
        bounds = self._cages.bounds.proven if self._cages.bounds is not None else {}
        most = {
            **self._backend.candidates(plan, own_uid=self._scratch.own_uids),
            **dict.fromkeys(bounds, Strength.HARD),
        }
        seen = await self._tried(plan, Kit(_PROFILE.limits, toolset, throttled=bool(bounds)), most, attempts, Hooks())
        run = seen.run
        if run.reason is not Reason.OK:
            said = run.stderr.decode("utf-8", "backslashreplace").strip()[-500:]
            raise CageError(f"the probe ended with {run.reason}: {run.detail or said}")
        found = findings(
            Tried(seen.outside, json.loads(run.stdout)), run.guarantees, self._backend.help,
            daemon_gone=seen.daemon_gone, untouched=seen.untouched, bounds=bounds,
        )  # fmt: skip
        found = {**found, Guarantee.FOLDER: await self._lasting(plan, toolset, most)}
        if most.get(Guarantee.NET_ALLOWLIST) is Strength.HARD:
            found = {**found, Guarantee.NET_ALLOWLIST: await self._outward(plan, toolset, most)}
        return found, run.layers

    async def _outward(self, plan: Plan, toolset: Toolset, most: Mapping[Guarantee, Strength]) -> Finding:
        """What a cage with a way to the gateway's proxy reaches."""
        seen = await self._tried(plan, Kit(_PROFILE.limits, toolset, network=True), most, outward, Hooks(network=greet))
        inside = json.loads(seen.run.stdout) if seen.run.reason is Reason.OK else {}
        return outward_finding(
            seen.outside, inside, seen.run.guarantees, self._backend.help.get(Guarantee.NET_ALLOWLIST, "")
        )  # fmt: skip

    async def _lasting(self, plan: Plan, toolset: Toolset, most: Mapping[Guarantee, Strength]) -> Finding:
        """What a cage with a folder that lasts reaches of another's."""
        seen = await self._tried(plan, Kit(_PROFILE.limits, toolset), most, keeping, Hooks())
        inside = json.loads(seen.run.stdout) if seen.run.reason is Reason.OK else {}
        help_text = self._backend.help.get(Guarantee.FOLDER, "")
        return lasting_finding(seen.outside, inside, seen.run.guarantees, help_text, left=seen.left)

    async def _tried(
        self, plan: Plan, kit: Kit, most: Mapping[Guarantee, Strength], program: ModuleType, hooks: Hooks
    ) -> _Seen:  # fmt: skip
        in_pool = self._cages.in_pool
        folder = await self._cages.claim()
        bait: Bait | None = None
        kept: lasting.Claimed | None = None
        try:
            try:
                bait = await in_pool(Bait, self._scratch, folder.uid, plan.interpreter.path)
                outside = await in_pool(bait.control, program)
                source = await in_pool(bait.lay, "caged", caged=True, program=program)
                if program is keeping:
                    kept = await in_pool(lasting.claim, bait.lasting)
            except BaseException:
                await in_pool(self._scratch.release, folder)
                raise
            ready = await self._cages.raised_in(folder, plan, kit, most, kept)
            run = await self._carry_out(Job("probe", source, _PROFILE), ready, plan, hooks, {bait.victim})
            left = program is keeping and await in_pool(bait.left)
            return _Seen(outside, run, not await in_pool(bait.daemon_lives), await in_pool(bait.untouched, "caged"), left)
        finally:
            if bait is not None:
                await in_pool(bait.close)
