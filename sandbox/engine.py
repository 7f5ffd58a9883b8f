"""Runs jobs in cages, whatever the cages are made of: probe, claim, attest, hand over, see from outside that nothing is left.

What a backend adds is how a cage is started, what it may prove at most, and how its word is confirmed from outside.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from sandbox.attestation import attested
from sandbox.backend import Backend, NotHereError
from sandbox.cage import Cage, CageError
from sandbox.interpreter import NoInterpreterError, choose, own_uids
from sandbox.layers import Bait, Tried, findings
from sandbox.model import (
    Guarantee,
    IsolationUnprovenError,
    Job,
    Language,
    Limits,
    NotOfferedError,
    Profile,
    Reason,
    SandboxBusyError,
    Strength,
)  # fmt: skip
from sandbox.plan import Plan
from sandbox.result import Run, Usage
from sandbox.runner import Finding, Hooks, Program, Report, Served, shortfall
from sandbox.scratch import Folder, Scratch, ScratchError, processes_of

P = ParamSpec("P")
T = TypeVar("T")
Proven = Mapping[Guarantee, Strength]
_PROBE = Profile("probe", Limits(10, 20, 256 << 20, 16, 1 << 20, 4 << 20, 1 << 18, 64))


@dataclass(frozen=True, slots=True)
class _Known:
    """What the last probe found: the report, and how cages are made, where they can be."""

    report: Report
    plan: Plan | None
    until: float
    mark: str


class CagedRunner:
    """Implements `sandbox.runner.Runner` with the cages of one backend.

    base          folder for the runs' scratch folders; defaults to one of this user's in the system's temporary folder.
    concurrency   runs at once; `queue` more may wait.
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
        probe_seconds: float = 3600,
        interpreters: Sequence[str] | None = None,
    ) -> None:
        self._backend = backend
        self._scratch = Scratch(base, own_uids=own_uids())
        self._concurrency, self._queue, self._ttl = concurrency, queue, probe_seconds
        self._interpreters = interpreters
        self._pool = ThreadPoolExecutor(concurrency * 2 + 2, thread_name_prefix="sandbox")
        self._slots, self._probing = asyncio.Semaphore(concurrency), asyncio.Lock()
        self._known: _Known | None = None
        self._tasks: set[asyncio.Task[Run]] = set()
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
        _offered(job, hooks)
        if self._closed or len(self._tasks) >= self._concurrency + self._queue:
            raise SandboxBusyError("the sandbox is closed" if self._closed else "too many runs wait")
        # A task of its own: however impatiently the caller is cancelled, cleaning up is gone through once and to its end.
        task = asyncio.create_task(self._run(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            while not task.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # seen: the caller has gone
            raise

    async def serve(self, program: Program, hooks: Hooks = Hooks()) -> Served:  # noqa: ARG002, B008  frozen
        """See `Runner.serve`."""
        raise NotOfferedError("programs that go on are not offered yet")

    def forget(self) -> None:
        """See `Runner.forget`."""
        self._known = None

    async def aclose(self) -> None:
        """See `Runner.aclose`."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._pool.shutdown(wait=False)

    async def _run(self, job: Job) -> Run:
        known = await self._knowledge()
        known.report.require(job.profile)
        if known.plan is None:
            raise IsolationUnprovenError({Guarantee.FS_WRITE: (Strength.HARD, Strength.ABSENT)}, known.report.problem)
        async with self._slots:
            try:
                folder = await self._claim()
            except (OSError, ScratchError) as error:
                return Run.without_output(job, Reason.SANDBOX_ERROR, f"no scratch folder: {error}")
            return await self._caged(job, known.plan, folder, known.report.guarantees)

    async def _caged(self, job: Job, plan: Plan, folder: Folder, proven: Proven, bystanders: Collection[int] = ()) -> Run:
        """One job in one cage, in a claimed folder that is gone afterwards.

        `bystanders` are processes of the run's uid that are not of the run.
        """
        try:
            run = await self._in_cage(job, plan, folder, proven)
        except CageError as error:
            run = Run.without_output(job, Reason.SANDBOX_ERROR, str(error))
        finally:
            amiss = await self._in_pool(self._clean_up, folder, frozenset(bystanders))
        return replace(run, reason=Reason.SANDBOX_ERROR, detail=amiss) if amiss else run

    async def _in_cage(self, job: Job, plan: Plan, folder: Folder, proven: Proven) -> Run:
        limits = job.profile.limits
        cage = await Cage.start(self._backend, plan, folder, limits, self._pool)
        try:
            facts = await cage.attestation()
            cage.ends_with(await self._in_pool(self._backend.end_of, cage.pid))
            confirmed = partial(self._backend.confirmed, started=cage.pid, uid=folder.uid, limits=limits)
            strengths = await self._in_pool(attested, facts, limits, folder.uid, proven, confirmed)
            missing = shortfall(job.profile, strengths)
            if missing:
                raise IsolationUnprovenError(
                    missing, "This run's own cage did not attest what the probe had proven; see the log."
                )
            result, out, err = await cage.execute(job.code.encode("utf-8"), limits)
            layers = {
                **plan.layers(),
                **self._backend.layers(),
                "uid": str(os.getuid()) if folder.uid is None else f"{folder.uid}, its own",
            }
            return _finished(job, result, (out, err), strengths, layers)
        finally:
            await cage.end(self._pool)

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

    async def _claim(self) -> Folder:
        claiming = asyncio.get_running_loop().run_in_executor(self._pool, self._scratch.claim)
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            folder = await claiming
            await self._in_pool(self._scratch.release, folder)
            raise

    async def _in_pool(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Something that blocks, off the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(work, *args, **kwargs))

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
            plan = await self._in_pool(self._plan)
            findings, layers = await self._try_everything(plan)
        except (OSError, ValueError, KeyError, CageError, ScratchError, NoInterpreterError, NotHereError) as error:
            nothing = Report(self.name, MappingProxyType({}), MappingProxyType({}), time.time(), str(error))
            return _Known(nothing, None, until, mark)
        return _Known(Report(self.name, MappingProxyType(findings), MappingProxyType(layers), time.time()), plan, until, mark)

    def _plan(self) -> Plan:
        self._scratch.sweep()
        folder = self._scratch.claim()
        try:
            interpreter = choose(folder.uid, self._interpreters)
            return self._backend.plan(interpreter, self._scratch.sentinel, folder)
        finally:
            self._scratch.release(folder)

    async def _try_everything(self, plan: Plan) -> tuple[Mapping[Guarantee, Finding], Mapping[str, str]]:
        folder = await self._claim()
        bait: Bait | None = None
        try:
            try:
                bait = await self._in_pool(Bait, self._scratch, folder.uid, plan.interpreter.path)
                outside = await self._in_pool(bait.control)
                program = await self._in_pool(bait.lay, "caged", caged=True)
            except BaseException:
                await self._in_pool(self._scratch.release, folder)
                raise
            most = self._backend.candidates(plan, own_uid=folder.uid is not None)
            run = await self._caged(Job("probe", program, _PROBE), plan, folder, most, {bait.victim})
            daemon_gone = not await self._in_pool(bait.daemon_lives)
            untouched = await self._in_pool(bait.untouched, "caged")
        finally:
            if bait is not None:
                await self._in_pool(bait.close)
        if run.reason is not Reason.OK:
            said = run.stderr.decode("utf-8", "backslashreplace").strip()[-500:]
            raise CageError(f"the probe ended with {run.reason}: {run.detail or said}")
        inside = json.loads(run.stdout)
        tried = Tried(outside, inside)
        found = findings(tried, run.guarantees, self._backend.help, daemon_gone=daemon_gone, untouched=untouched)
        return found, run.layers


def _offered(job: Job, hooks: Hooks) -> None:
    """NotOfferedError for what is not built yet: refused, never passed over."""
    profile = job.profile
    asked = {
        f"code in {job.language}": job.language is not Language.PYTHON,
        "files": bool(job.files),
        "arguments": bool(job.arguments),
        "standard input": bool(job.stdin),
        "packages": profile.packages is not None,
        "calls back": hooks.tools is not None,
        "a network": bool(profile.network) or hooks.network is not None,
        "output as it comes": hooks.output is not None,
    }
    for what, wanted in asked.items():
        if wanted:
            raise NotOfferedError(f"{what}: not offered by this runner yet")


def _finished(job: Job, result: Mapping[str, Any], output: tuple[bytes, bytes], proven: Proven, layers: Mapping[str, str]) -> Run:
    try:
        peak = result["peak"]
        usage = Usage(result["wall_ms"], result["cpu_ms"], peak["memory"], peak["processes"], peak["scratch"])
        left = int(result["left"])
        run = Run(
            job.id, Reason(result["reason"]), result["exit_code"], result["signal"], *output,
            bool(result["stdout_truncated"]), bool(result["stderr_truncated"]), usage, proven, MappingProxyType(dict(layers)),
            job.code_sha256,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise CageError(f"the result is not what a warden sends: {error!r}") from error
    return replace(run, reason=Reason.SANDBOX_ERROR, detail=f"{left} processes would not end") if left else run
