"""Runs code under a profile where its isolation is proven, or refuses: turn, cage, record, files, in this order and no other."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from types import MappingProxyType
from typing import Any, Final

from gateway import signals
from gateway.model import Intent, Permit, Refused
from gateway.prometheus import Family, Sample
from gateway.reasons import Code
from gateway.sandbox.asked import Asked, WrongError
from gateway.sandbox.calls import Calls, Means
from gateway.sandbox.choice import Choice, tightened
from gateway.sandbox.folders import Folders, Session
from gateway.sandbox.kept import File, Kept
from gateway.sandbox.queue import FairQueue
from gateway.sandbox.records import Beside, Cut, RunRecords
from sandbox.model import MAIN, IsolationUnprovenError, Job, Language, NotOfferedError, Profile, Reason, SandboxBusyError
from sandbox.result import Run
from sandbox.runner import Hooks, Runner, Stream, best

log = logging.getLogger("gateway.sandbox")

Output = Callable[[Stream, bytes], None]
Connections = Callable[[], int]
Network = Callable[[Intent, Profile], tuple[Callable[[socket], Awaitable[None]], Connections]]
"""For one run of a profile with a network: what serves its connections, and how many there have been."""

_INSIDE: Final = Path(__file__).parent / "inside"
TOOLS_MODULES: Final[Mapping[Language, tuple[str, bytes]]] = MappingProxyType(
    {
        language: (name, (_INSIDE / name).read_bytes())
        for language, name in ((Language.PYTHON, "bailiwick_tools.py"), (Language.JAVASCRIPT, "bailiwick_tools.mjs"))
    }
)
"""By which code calls tools: language → the module's file, and its source."""
_MODULE_NAMES: Final = frozenset(name for name, _ in TOOLS_MODULES.values())
_OWN_NAMES: Final = _MODULE_NAMES | set(MAIN.values())
"""What no run finds in its session: the code's own file, and the gateway's."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a run.

    files    that can be read for a while; not_kept: names of others that it left, and why they cannot.
    beside   what it did through the gateway.
    """

    run: Run
    profile: Profile
    files: tuple[File, ...]
    not_kept: tuple[tuple[str, str], ...]
    beside: Beside


@dataclass(frozen=True, slots=True)
class Parts:
    """What runs are made of; `calls` and `network` None where code can never call back, or reach a host."""

    profiles: Mapping[str, Profile]
    runners: Sequence[Runner]
    choice: Choice
    queue: FairQueue
    records: RunRecords
    kept: Kept
    folders: Folders
    agent: str
    calls: Means | None = None
    network: Network | None = None


class Sandboxed:
    """The sandbox of this gateway.  A profile that nothing here can prove refuses, again at every call."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._runners: dict[str, Runner] = {}
        self._choosing = asyncio.Lock()
        self._ended: Counter[tuple[str, str]] = Counter()

    def families(self) -> Iterator[Family]:
        """Runs by language and by how they ended, and how many wait: both labels are closed lists."""
        runs = [Sample({"language": language, "reason": reason}, n) for (language, reason), n in sorted(self._ended.items())]
        yield Family(signals.RUNS, "counter", "Runs in the sandbox, by how they ended.", runs)
        yield Family(signals.RUNS_WAITING, "gauge", "Runs that wait for their turn.", [Sample({}, self._parts.queue.waiting)])

    async def begin(self) -> None:
        """Try the default profile, so that the log says at the start what code will run under; sweep what is over."""
        await asyncio.to_thread(self._parts.folders.sweep)
        profile = self._parts.profiles[self._parts.choice.default]
        try:
            runner = await self._runner(profile)
        except IsolationUnprovenError as error:
            log.error("sandboxed code will be refused here: %s", error)
        else:
            log.info("sandboxed code runs under %s, by %s", profile.name, runner.name)

    async def erase(self, subject: str) -> int:
        """Remove what runs left for a person: files, and the folders of their workflows; how many."""
        return self._parts.kept.erase(subject) + await self._parts.folders.erase(subject)

    async def aclose(self) -> None:
        """End every run."""
        for runner in self._parts.runners:
            await runner.aclose()

    def forget(self) -> None:
        """Believe no probe that was made before now, and choose anew among what is proven then."""
        self._runners.clear()
        for runner in self._parts.runners:
            runner.forget()

    async def fulfil(self, permit: Permit) -> Permit:
        """See `Choice.fulfil`."""
        return await self._parts.choice.fulfil(permit)

    @property
    def kept(self) -> Kept:
        """Files of runs, for those whose they are."""
        return self._parts.kept

    async def run(self, intent: Intent, asked: Asked, output: Output | None) -> Ran:
        """Run it, each piece of output told as it comes; on record from before its start to its end.

        WrongError for what the caller can correct.  `Refused`: ISOLATION_UNPROVEN where the profile's guarantees are not proven
        here, OVERLOADED where too many wait, DUTY_FAILED for a profile that there is not.
        """
        permit = intent.permit
        name = permit.sandbox or self._parts.choice.default
        if asked.profile not in {None, name}:
            raise Refused(Code.DUTY_FAILED, "the profile was not decided")
        chosen = self._parts.profiles.get(name)
        if chosen is None:
            raise Refused(Code.DUTY_FAILED, f"there is no sandbox profile '{name[:64]}'")
        profile = tightened(chosen, asked)
        # Code that waits for code of its own holds a turn meanwhile: were the inner one to wait, all could wait for one another.
        wait = f"agent:{self._parts.agent}" not in permit.principal.actors
        async with AsyncExitStack() as stack:
            session = None
            if asked.session:  # before the turn: whoever waits for their own folder keeps nobody else waiting
                room = profile.limits.scratch_bytes
                session = await stack.enter_async_context(self._parts.folders.held(permit.principal, name, room, wait=wait))
            await stack.enter_async_context(self._parts.queue.turn(permit.principal.subject, wait=wait))
            return await self._run(intent, asked, profile, session, output)

    async def _run(self, intent: Intent, asked: Asked, profile: Profile, session: Session | None, output: Output | None) -> Ran:
        job, records = _job(intent, asked, profile, session), self._parts.records
        start = ""
        beside: Callable[[], Beside] = Beside
        try:
            runner = await self._runner(profile)
            start = await records.start(intent, job, runner.name, await runner.probe())
            async with self._hooks(intent, profile, output) as (hooks, beside):
                run = await runner.run(job, hooks)
        except IsolationUnprovenError as error:
            self._runners.pop(profile.digest, None)  # the next run asks anew who proves the profile
            self._ended[job.language, Reason.REFUSED] += 1
            await records.unproven(intent, start, job, error)
            raise Refused(Code.ISOLATION_UNPROVEN, str(error)) from error
        except (SandboxBusyError, NotOfferedError) as error:
            self._ended[job.language, Reason.REFUSED] += 1
            await records.cut(intent, start, job, beside(), Cut.REFUSED, str(error))
            if isinstance(error, SandboxBusyError):
                raise Refused(Code.OVERLOADED, "sandbox") from error
            raise WrongError(f"Not to be had here: {error}.") from error
        except BaseException as error:
            if start:
                cut = Cut.CANCELLED if isinstance(error, asyncio.CancelledError) else Cut.FAILED
                self._ended[job.language, cut.value] += 1
                await _to_the_end(records.cut(intent, start, job, beside(), cut, type(error).__name__))
            raise
        self._ended[job.language, run.reason] += 1
        await records.end(intent, start, job, run, beside())
        return self._left(intent.permit, job, run, session, beside())

    def _left(self, permit: Permit, job: Job, run: Run, session: Session | None, beside: Beside) -> Ran:
        """Its files: for the caller to read, and for the next run of a session."""
        not_kept = list(run.files_skipped)
        if session is not None:
            gone = set(run.files_gone)
            before = {name: data for name, data in job.files.items() if name not in gone}
            after = before | {file.name: file.data for file in run.files}
            dropped = session.leave({name: data for name, data in after.items() if name.split("/", 1)[0] not in _OWN_NAMES})
            not_kept += [(name, "does not fit into the session's folder") for name in dropped]
        files: tuple[File, ...] = ()
        if permit.redact:  # a file cannot be searched for what must not be seen
            not_kept += [(file.name, "withheld by policy") for file in run.files]
        else:
            files = self._parts.kept.keep(permit.principal, run.id, run.files)
            known = {file.name for file in files}
            not_kept += [(file.name, "cannot be kept") for file in run.files if file.name not in known]
        return Ran(run, job.profile, files, tuple(not_kept), beside)

    @asynccontextmanager
    async def _hooks(
        self, intent: Intent, profile: Profile, output: Output | None
    ) -> AsyncIterator[tuple[Hooks, Callable[[], Beside]]]:
        """What the gateway gives this run, for as long as it goes on; and what came of it."""
        parts, permit = self._parts, intent.permit
        async with AsyncExitStack() as stack:
            calls: Calls | None = None
            tools: socket | None = None
            if profile.tools and parts.calls is not None:
                calls = Calls(parts.calls, permit.call, permit.principal)
                tools = await stack.enter_async_context(calls.channel())
            network, connections = None, _none
            if profile.network and parts.network is not None:
                network, connections = parts.network(intent, profile)

            def beside() -> Beside:
                made, refused = (0, 0) if calls is None else (calls.made, calls.refused)
                return Beside(made, refused, connections())

            yield Hooks(output, tools, network), beside

    async def languages(self) -> frozenset[Language]:
        """What can be run here at all: some profile allows it, its isolation is proven, and there is an interpreter."""
        found: set[Language] = set()
        for profile in self._parts.profiles.values():
            if not profile.languages <= found:
                found |= await self._languages(profile)
        return frozenset(found)

    async def _languages(self, profile: Profile) -> frozenset[Language]:
        try:
            report = await (await self._runner(profile)).probe()
        except IsolationUnprovenError:
            return frozenset()
        return profile.languages & frozenset(report.languages)

    async def environments(self, permit: Permit) -> list[dict[str, Any]]:
        """The profiles that this caller may name, the default one first: what they allow, and whether it is proven here."""
        choice, said = self._parts.choice, []
        for name, profile in sorted(choice.offered(permit).items(), key=lambda item: (item[0] != choice.default, item[0])):
            entry = profile.to_dict() | {"default": name == choice.default, "digest": profile.digest}
            try:
                runner = await self._runner(profile)
            except IsolationUnprovenError as error:
                entry |= {"available": False, "languages": [], "missing": error.to_dict()["missing"]}
            else:
                report = await runner.probe()
                versions = {str(each): report.languages[each].version for each in profile.languages if each in report.languages}
                entry |= {"available": bool(versions), "languages": versions, "backend": runner.name}
            said.append(entry)
        return said

    async def _runner(self, profile: Profile) -> Runner:
        """Which runner proved this very profile, tightened as it may be."""
        async with self._choosing:
            runner = self._runners.get(profile.digest)
            if runner is None:
                runner = self._runners[profile.digest] = await best(profile, self._parts.runners)
            return runner


def _none() -> int:
    return 0


def _job(intent: Intent, asked: Asked, profile: Profile, session: Session | None) -> Job:
    """WrongError for what does not fit."""
    files = {**(session.files if session is not None else {}), **asked.files}
    if not _MODULE_NAMES.isdisjoint(asked.files):
        raise WrongError(f"{' and '.join(sorted(_MODULE_NAMES))} are the gateway's own names.")
    if profile.tools and asked.language in TOOLS_MODULES:
        name, source = TOOLS_MODULES[asked.language]
        files[name] = source
    try:
        return Job(
            id=intent.permit.call.arrival.id,
            code=asked.code,
            profile=profile,
            language=asked.language,
            files=files,
            arguments=asked.arguments,
            stdin=asked.stdin,
        )
    except ValueError as error:
        raise WrongError(f"{error}.") from error


async def _to_the_end(work: Awaitable[None]) -> None:
    """Also while the caller is being cancelled: what a hang-up ended is on record as that."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
    task.result()
