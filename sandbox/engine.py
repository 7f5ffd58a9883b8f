"""Runs jobs in cages, whatever the cages are made of: probe, claim, attest, hand over, see from outside that nothing is left.

What a backend adds is how a cage is started, what it may prove at most, and how its word is confirmed from outside.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import ParamSpec, TypeVar

from sandbox.backend import Backend, NotHereError
from sandbox.cage import CageError
from sandbox.cgroup import Bounds
from sandbox.ending import to_its_end
from sandbox.execution import execute
from sandbox.interpreter import NoInterpreterError, choose, own_uids
from sandbox.model import (
    Guarantee,
    IsolationUnprovenError,
    Job,
    Language,
    NotOfferedError,
    Profile,
    Reason,
    SandboxBusyError,
    SandboxFailedError,
    Strength,
)  # fmt: skip
from sandbox.network import connected
from sandbox.packages import PackagesError, load
from sandbox.plan import Plan
from sandbox.probe import Probe
from sandbox.ready import Cages, Ready
from sandbox.result import Run
from sandbox.runner import Hooks, Program, Report, Served, shortfall
from sandbox.scratch import UIDS, Scratch, ScratchError
from sandbox.served import ServedProgram
from sandbox.stock import Ground, Stock
from sandbox.toolsets import Kit, Toolset, for_program, offered

P = ParamSpec("P")
T = TypeVar("T")
Proven = Mapping[Guarantee, Strength]


@dataclass(frozen=True)
class _Known:
    """What the last probe found: the report, and how cages are made, where they can be."""

    report: Report
    plan: Plan | None
    toolsets: Mapping[Language, Toolset]
    until: float
    mark: str
    packages: dict[str, Toolset] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """The report's."""
        return self.report.id


class CagedRunner:
    """Implements `sandbox.runner.Runner` with the cages of one backend.

    base          folder for the runs' scratch folders; defaults to one of this user's in the system's temporary folder.
    concurrency   runs at once; `queue` more may wait.  `programs` that go on are counted by themselves.
    warm          cages that wait, attested, for the next run of what ran last; each is used once.
    packages      folder of the sets of packages that profiles may name.
    probe_seconds how long a probe is believed.
    interpreters  paths to choose among, the first that works; defaults to those of `sandbox.interpreter.candidates`.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        base: Path | None = None,
        concurrency: int = 4,
        queue: int = 64,
        programs: int = 64,
        warm: int = 0,
        packages: Path | None = None,
        probe_seconds: float = 3600,
        interpreters: Sequence[str] | None = None,
    ) -> None:
        self._backend = backend
        self._scratch = Scratch(base, own_uids=own_uids())
        self._concurrency, self._queue, self._ttl = concurrency, queue, probe_seconds
        self._interpreters, self._packages = interpreters, packages
        self._pool = ThreadPoolExecutor(concurrency * 2 + 2, thread_name_prefix="sandbox")
        self._cages = Cages(backend, self._scratch, self._pool)
        self._attempts = Probe(backend, self._cages, self._scratch, self._carried_out)
        self._stock = Stock(self._cages, warm)
        self._slots, self._probing = asyncio.Semaphore(concurrency), asyncio.Lock()
        self._known: _Known | None = None
        self._tasks: set[asyncio.Task[Run]] = set()
        self._programs: set[asyncio.Task[Run]] = set()
        self._most_programs = programs
        self._closed = False

    @property
    def name(self) -> str:
        """See `Runner.name`."""
        return self._backend.name

    async def probe(self) -> Report:
        """See `Runner.probe`."""
        return (await self._knowledge()).report

    async def run(self, job: Job, hooks: Hooks = Hooks()) -> Run:  # noqa: B008  frozen
        """See `Runner.run`."""
        if self._closed or len(self._tasks) >= self._concurrency + self._queue:
            raise SandboxBusyError("the sandbox is closed" if self._closed else "too many runs wait")
        # A task of its own: however impatiently the caller is cancelled, cleaning up is gone through once and to its end.
        task = asyncio.create_task(self._run(job, hooks))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await to_its_end(task)
        finally:
            if hooks.tools is not None:
                hooks.tools.close()

    async def serve(self, program: Program, hooks: Hooks = Hooks()) -> Served:  # noqa: B008  frozen
        """See `Runner.serve`."""
        try:
            return await self._serve(program, hooks)
        except BaseException:
            if hooks.tools is not None:
                hooks.tools.close()
            raise

    async def _serve(self, program: Program, hooks: Hooks) -> Served:
        known = await self._knowledge()
        wanted = _wanted(program)
        plan = _proven(known, wanted)
        _hooked(program.profile, hooks)
        if hooks.output is not None:
            raise NotOfferedError("output by a call: not offered for programs that go on")
        if program.profile.packages is not None:
            raise NotOfferedError(f"packages {program.profile.packages}: a program that goes on brings its own")
        if self._closed or len(self._programs) >= self._most_programs:
            raise SandboxBusyError("the sandbox is closed" if self._closed else "too many programs go on")
        kit = _kit(program.profile, for_program(program))
        try:
            ready = await self._cages.raised(plan, kit, known.report.guarantees, program.folder)
        except (OSError, ScratchError, CageError) as error:
            raise SandboxFailedError(str(error)) from error
        put_away = partial(self._cages.put_away, ready)
        try:
            _attested(wanted, ready)
        except IsolationUnprovenError:
            await put_away()
            raise
        served = ServedProgram(program, ready, self._layers(plan, ready), put_away)
        await served.start(program, hooks, self._track)
        return served

    def _track(self, task: asyncio.Task[Run]) -> None:
        self._programs.add(task)
        task.add_done_callback(self._programs.discard)

    def forget(self) -> None:
        """See `Runner.forget`."""
        self._known = None

    async def aclose(self) -> None:
        """See `Runner.aclose`."""
        self._closed = True
        going = {*self._tasks, *self._programs}
        for task in going:
            task.cancel()
        if going:
            await asyncio.wait(going)
        await self._stock.close()
        self._pool.shutdown(wait=False)

    async def _run(self, job: Job, hooks: Hooks) -> Run:
        known = await self._knowledge()
        plan = _proven(known, job.profile)
        _hooked(job.profile, hooks)
        toolset = await self._with_packages(known, job, _toolset(known.toolsets, job))
        kit, ground = _kit(job.profile, toolset), Ground(known.id, plan, known.report.guarantees)
        async with self._slots:
            try:
                ready = await self._stock.take(kit, ground) or await self._cages.raised(plan, kit, ground.proven)
            except (OSError, ScratchError) as error:
                return Run.without_output(job, Reason.SANDBOX_ERROR, f"no scratch folder: {error}")
            except CageError as error:
                return Run.without_output(job, Reason.SANDBOX_ERROR, str(error))
            try:
                return replace(await self._carried_out(job, ready, plan, hooks), probe_id=known.id)
            finally:
                self._stock.refill(kit)

    async def _with_packages(self, known: _Known, job: Job, toolset: Toolset) -> Toolset:
        """Python with the profile's packages, whose digest is looked at once for each probe; other languages have none."""
        name = job.profile.packages
        if name is None or job.language is not Language.PYTHON:
            return toolset
        if name not in known.packages and known.plan is not None:
            uid = UIDS.start if self._scratch.own_uids else None
            try:
                found = await self._cages.in_pool(load, name, self._packages, known.plan.interpreter, uid)
            except PackagesError as error:
                raise NotOfferedError(str(error)) from error
            known.packages[name] = found.added_to(toolset)
        return known.packages[name]

    async def warmed(self) -> None:
        """Until as many cages wait as are to."""
        await self._stock.full()

    async def _carried_out(self, job: Job, ready: Ready, plan: Plan, hooks: Hooks, bystanders: Collection[int] = ()) -> Run:
        """One job in a cage that is gone afterwards."""
        try:
            _attested(job.profile, ready)
            async with connected(ready.cage.listener, hooks):
                result, taken = await execute(ready.cage, job, ready.kit.toolset, hooks)
            run = taken.run(job, result)
            if run.reason is Reason.SIGNAL and ready.group is not None and await self._cages.in_pool(ready.group.out_of_memory):
                run = replace(run, reason=Reason.OOM)
        except CageError as error:
            run = Run.without_output(job, Reason.SANDBOX_ERROR, str(error))
        finally:
            amiss = await self._cages.put_away(ready, bystanders)
        packages = ready.kit.toolset.packages
        run = replace(
            run, guarantees=ready.proven, layers=self._layers(plan, ready), backend=self.name, packages=packages,
            inputs_digest=job.inputs_digest(packages),
        )  # fmt: skip
        return replace(run, reason=Reason.SANDBOX_ERROR, detail=amiss) if amiss else run

    def _layers(self, plan: Plan, ready: Ready) -> Mapping[str, str]:
        uid, offer = ready.folder.uid, ready.kit.toolset.offer
        return MappingProxyType({
            **plan.layers(ready.kit),
            **self._backend.layers(),
            "interpreter": f"{offer.path} {offer.version}",
            "uid": str(os.getuid()) if uid is None else f"{uid}, its own",
            **({"cgroup": str(ready.group.folder)} if ready.group is not None else {}),
        })  # fmt: skip

    # -- the probe -------------------------------------------------------------------------------------------------------------

    async def _knowledge(self) -> _Known:
        async with self._probing:
            known = self._known
            if known is None or time.monotonic() >= known.until or known.mark != self._backend.mark():
                known = self._known = await self._probe()
            return known

    async def _probe(self) -> _Known:
        until, mark = time.monotonic() + self._ttl, self._backend.mark()
        try:
            plan, toolsets = await self._cages.in_pool(self._plan)
            self._cages.bounds = await self._cages.in_pool(self._bounds, plan)
            findings, layers = await self._attempts.made(plan, toolsets[Language.PYTHON])
        except (OSError, ValueError, KeyError, CageError, ScratchError, NoInterpreterError, NotHereError) as error:
            nothing = Report(self.name, MappingProxyType({}), MappingProxyType({}), time.time(), str(error))
            return _Known(nothing, None, {}, until, mark)
        languages = MappingProxyType({language: toolset.offer for language, toolset in toolsets.items()})
        report = Report(self.name, MappingProxyType(findings), MappingProxyType(layers), time.time(), "", languages)
        return _Known(report, plan, toolsets, until, mark)

    def _plan(self) -> tuple[Plan, Mapping[Language, Toolset]]:
        self._scratch.sweep()
        folder = self._scratch.claim()
        try:
            interpreter = choose(folder.uid, self._interpreters)
            toolsets = offered(interpreter, folder.uid)
            return self._backend.plan(interpreter, self._scratch.sentinel, folder), toolsets
        finally:
            self._scratch.release(folder)

    def _bounds(self, plan: Plan) -> Bounds | None:
        return Bounds.found(plan.interpreter.path, self._backend.candidates(plan, own_uid=self._scratch.own_uids))


def _wanted(program: Program) -> Profile:
    """The program's profile, and that a folder which lasts is its own alone."""
    if program.folder is None:
        return program.profile
    return replace(program.profile, requires={**program.profile.requires, Guarantee.FOLDER: Strength.HARD})


def _proven(known: _Known, profile: Profile) -> Plan:
    """How cages are made here, where the probe has proven what the profile asks for; IsolationUnprovenError elsewhere."""
    known.report.require(profile)
    if known.plan is None:
        raise IsolationUnprovenError({Guarantee.FS_WRITE: (Strength.HARD, Strength.ABSENT)}, known.report.problem)
    return known.plan


def _attested(profile: Profile, ready: Ready) -> None:
    missing = shortfall(profile, ready.proven)
    if missing:
        raise IsolationUnprovenError(missing, "This run's own cage did not attest what the probe had proven; see the log.")


def _hooked(profile: Profile, hooks: Hooks) -> None:
    """NotOfferedError for what is not to be had: refused, never passed over."""
    if hooks.tools is not None and not profile.tools:
        raise NotOfferedError(f"calls back: the profile {profile.name} does not allow them")
    if bool(profile.network) != (hooks.network is not None):
        raise NotOfferedError("a network: a profile with destinations needs the gateway's proxy, and no other has one")


def _kit(profile: Profile, toolset: Toolset) -> Kit:
    throttled = profile.wanted.get(Guarantee.CPU) is Strength.HARD
    return Kit(profile.limits, toolset, throttled, network=bool(profile.network))


def _toolset(toolsets: Mapping[Language, Toolset], job: Job) -> Toolset:
    """What runs the job's code; NotOfferedError where there is nothing."""
    if job.language not in toolsets:
        raise NotOfferedError(f"code in {job.language}: there is nothing on this machine that runs it")
    return toolsets[job.language]
