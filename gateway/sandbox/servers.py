"""MCP servers that the gateway starts run in cages, each session's child in one of its own: on record, proven, or not started.

There is no way from a cage that cannot be had to none at all: only an operator's `sandbox: off` starts a program without one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from socket import socket
from typing import TYPE_CHECKING, Final

from gateway.mcp.crew import Sharing, Start, Terms
from gateway.mcp.process import Started, Uncaged
from gateway.mcp.stdio import StdioServer
from gateway.model import Clock, Intent, Refused, UpstreamError
from gateway.prometheus import Family
from gateway.reasons import Code
from gateway.sandbox.program import Command, UnfitError, closed_to_others, command_of, exposed, unread
from gateway.sandbox.records import Append
from gateway.sandbox.runs import Network
from gateway.sandbox.server_gauges import Gauges
from gateway.sandbox.server_records import Ledger
from gateway.sandbox.user_folders import UserFolders, place_of
from gateway.settings_outbound import UNCAGED
from gateway.upstream.registry import McpTarget
from sandbox.model import IsolationUnprovenError, NotOfferedError, Profile, Reason, SandboxBusyError, SandboxFailedError
from sandbox.profiles import load_profiles
from sandbox.result import Run
from sandbox.runner import Hooks, Lasting, Program, Runner, Served, best, shipped

if TYPE_CHECKING:
    from gateway.settings import Limits, Settings

log = logging.getLogger("gateway.sandbox")

PROGRAMS: Final = 128
"""Most children in cages at once, of all servers together; where one server may have more, so many."""
_DETAIL: Final = 500


class Servers:
    """Starts the programs of configured servers.  `network` None where none can have one; `folders` where none lasts."""

    def __init__(
        self,
        profiles: Mapping[str, Profile],
        runners: Sequence[Runner],
        ledger: Ledger,
        network: Network | None = None,
        folders: UserFolders | None = None,
    ) -> None:
        self._folders = folders
        self._profiles = profiles
        self._runners = runners
        self._ledger = ledger
        self._network = network
        self._chosen: dict[str, Runner] = {}
        self._choosing = asyncio.Lock()
        self._made: list[StdioServer] = []
        self._gauges = Gauges()

    async def aclose(self) -> None:
        """End every program."""
        await self._gauges.aclose()
        for server in self._made:
            await server.aclose()
        for runner in self._runners:
            await runner.aclose()

    def forget(self) -> None:
        """Believe no probe that was made before now, and choose anew among what is proven then."""
        self._chosen.clear()
        for runner in self._runners:
            runner.forget()
        for server in self._made:
            server.forget()

    async def erase(self, subject: str) -> int:
        """End the processes that are this person's alone and remove every folder that they kept; how many folders there were.

        `Refused(OVERLOADED)` while another process has one of them; doing it again does no harm.  Whoever asks records it.
        """
        if self._folders is None:
            return 0
        await asyncio.gather(*(server.leave(subject) for server in self._made))
        try:
            return await asyncio.to_thread(self._folders.erase, subject)
        except SandboxBusyError as error:
            raise Refused(Code.OVERLOADED, str(error)) from error

    async def begun(self, targets: Iterable[McpTarget], limits: Limits) -> dict[str, StdioServer]:
        """What carries calls to each server that is a program; the log says under what it will run, or that it will not."""
        programs = [target for target in targets if target.kind == "stdio"]
        await self._announce(programs)
        made = {target.id: StdioServer(target.id, self.starter(target), self.terms(target, limits)) for target in programs}
        self._made += made.values()
        self._gauges.watch(made.values())
        return made

    def families(self) -> Iterator[Family]:
        """For who scrapes: processes, how they fare, what they use."""
        return self._gauges.families()

    async def _announce(self, targets: Sequence[McpTarget]) -> None:
        for target in targets:
            if target.sandbox == UNCAGED:
                log.warning("mcp.%s: sandbox is off: the program has all rights of the gateway, and no cage", target.id)
                continue
            profile = self._profiles[target.sandbox]
            try:
                runner = await self._runner(profile)
            except IsolationUnprovenError as error:
                log.error("mcp.%s will not be started here: %s.  %s", target.id, error, error.help)
            else:
                log.info("mcp.%s runs under %s, by %s", target.id, profile.name, runner.name)

    def terms(self, target: McpTarget, limits: Limits) -> Terms:
        """How its processes are kept.  What has a network is shared by nobody: each connection is decided for somebody."""
        keeping = target.keeping
        network = target.sandbox != UNCAGED and bool(self._profiles[target.sandbox].network)
        legacy, modern = Sharing.PRINCIPAL, Sharing.PRINCIPAL if network else Sharing.TENANT
        if keeping.own_bytes:
            legacy = modern = Sharing.PERSON
        elif keeping.shared is not None:
            legacy = modern = Sharing.TENANT if keeping.shared else Sharing.PRINCIPAL
        elif keeping.per_session:
            legacy = Sharing.SESSION
        return Terms(
            target.era, legacy, modern, limits.upstream_idle_seconds, keeping.start_seconds, limits.response_bytes,
            keeping.idle_seconds, keeping.children, keeping.children_per_caller,
        )  # fmt: skip

    def starter(self, target: McpTarget) -> Start:
        """What starts this server for a session."""

        async def start(intent: Intent) -> Started:
            return await self.start(target, intent)

        return start

    async def start(self, target: McpTarget, intent: Intent | None) -> Started:
        """A child for the session that this call opens; `intent` None where there are no records.

        `Refused`: ISOLATION_UNPROVEN where the profile's guarantees are not proven here, OVERLOADED where too many programs go
        on, LEDGER_UNAVAILABLE.  `UpstreamError("connect")` where the program does not start.
        """
        if target.sandbox == UNCAGED:
            return await self._uncaged(target, intent)
        profile = self._profiles[target.sandbox]
        try:
            command = await asyncio.to_thread(command_of, target, network=bool(profile.network))
        except UnfitError as error:
            log.error("mcp.%s is not started: %s; %s", target.id, error, error.help)
            raise UpstreamError("connect", str(error)) from None
        book = self._ledger.book(intent, target.id, profile)
        hooks, connections = self._hooks(profile, intent)
        try:
            program = replace(_program(target, command, profile, intent), folder=await self._folder(target, intent))
            runner = await self._runner(profile)
            await book.start(command.line, runner.name, await runner.probe(), folder=program.folder is not None)
            served = await runner.serve(program, hooks)
        except IsolationUnprovenError as error:
            self._chosen.pop(profile.digest, None)  # the next start asks anew who proves the profile
            log.error("mcp.%s is not started: %s.  %s", target.id, error, error.help)
            await book.refused(error)
            raise Refused(Code.ISOLATION_UNPROVEN, str(error)) from error
        except SandboxBusyError as error:
            await book.cut("refused", str(error))
            raise Refused(Code.OVERLOADED, "sandbox") from error
        except (NotOfferedError, SandboxFailedError, OSError) as error:
            log.error("mcp.%s is not started: %s%s", target.id, str(error)[:_DETAIL], _hint(target, command))
            await book.cut("sandbox_error", str(error))
            raise UpstreamError("connect", "the cage did not come up") from error
        except asyncio.CancelledError:
            await asyncio.shield(book.cut("cancelled"))
            raise

        async def over(run: Run) -> None:
            if run.reason not in {Reason.OK, Reason.CANCELLED}:
                log.warning("mcp.%s ended: %s%s", target.id, _said(run), _hint(target, command))
            await book.end(served, run, connections())

        return _Caged(served, over)

    async def _folder(self, target: McpTarget, intent: Intent | None) -> Lasting | None:
        """This person's with this server; a look at a server on nobody's behalf has one that goes with it."""
        if intent is None or not target.keeping.own_bytes or self._folders is None:
            return None
        whose = intent.permit.principal
        return await asyncio.to_thread(self._folders.of, whose.tenant, whose.subject, target.id, target.keeping.own_bytes)

    def _hooks(self, profile: Profile, intent: Intent | None) -> tuple[Hooks, Callable[[], int]]:
        if not profile.network:
            return Hooks(), _none
        if intent is None or self._network is None:
            return Hooks(network=_nowhere), _none
        serving, connections = self._network(intent, profile)
        return Hooks(network=serving), connections

    async def _uncaged(self, target: McpTarget, intent: Intent | None) -> Started:
        log.warning("mcp.%s is started WITHOUT A CAGE, with all rights of the gateway: its setting `sandbox` is off", target.id)
        book = self._ledger.book(intent, target.id, None)
        await book.start(target.command)
        try:
            process = await Uncaged.start(target)
        except BaseException as error:
            await asyncio.shield(book.cut("error", type(error).__name__))
            raise
        return _Watched(process, lambda how: book.cut("ended", how))

    async def _runner(self, profile: Profile) -> Runner:
        async with self._choosing:
            runner = self._chosen.get(profile.digest)
            if runner is None:
                runner = self._chosen[profile.digest] = await best(profile, self._runners)
            return runner


def opened(
    settings: Settings, append: Append | None, clock: Clock, network: Network | None, key: bytes | None = None
) -> Servers:  # fmt: skip
    """Made of settings; `append` None: nothing is recorded; `key` None: nobody has folders that last.

    They run on this machine whether or not `sandbox.enabled` lets code of others run, and wherever `sandbox.runner` lets it run.
    ValueError for a profile that there is not, and for a program that would be given the gateway's own data to read.
    """
    profiles = load_profiles(settings.sandbox.profiles)
    for name, server in settings.mcp.items():
        if server.command is not None and server.sandbox not in {UNCAGED, *profiles}:
            raise ValueError(f"mcp.{name}.sandbox: there is no profile '{server.sandbox}'")
        if server.command is not None and server.shared and server.sandbox != UNCAGED and profiles[server.sandbox].network:
            raise ValueError(f"mcp.{name}.shared: its profile has a network, and each connection is decided for somebody")
    for name, setting in exposed(settings):
        raise ValueError(f"mcp.{name}.{setting}: the program could read the gateway's own data")
    folders = _folders(settings, key)
    wanted = settings.sandbox.backend if settings.sandbox.runner is None else None
    most = max(PROGRAMS, *(server.children for server in settings.mcp.values()), 0)
    runners = [runner for runner in shipped(programs=most) if wanted in {None, runner.name}]
    return Servers(profiles, runners, Ledger(append, clock), network, folders)


def _folders(settings: Settings, key: bytes | None) -> UserFolders | None:
    if key is None or not any(server.folder for server in settings.mcp.values()):
        return None
    folders = UserFolders(place_of(settings), key)
    if folders.unfit():
        raise ValueError(folders.unfit())
    return folders


class _Caged:
    """Implements `gateway.mcp.process.Started`."""

    def __init__(self, served: Served, over: Callable[[Run], Awaitable[None]]) -> None:
        self.stdin, self.stdout, self.pid = served.stdin, served.stdout, served.pid
        self.stderr: AsyncIterator[bytes] = _whole(served.stderr)
        self._served, self._over = served, over
        self._ended = ""
        self._watching = asyncio.create_task(self._watch())

    @property
    def ended(self) -> str:
        """See `Started.ended`."""
        return self._ended

    async def end(self) -> None:
        """See `Started.end`."""
        try:
            await self._served.end()
        finally:
            await asyncio.wait({self._watching})

    async def _watch(self) -> None:
        run = await self._served.wait()
        self._ended = _said(run)
        await self._over(run)


class _Watched(Uncaged):
    """A process without a cage whose end is told."""

    def __init__(self, process: Uncaged, over: Callable[[str], Awaitable[None]]) -> None:
        super().__init__(process.process, process.lifeline, process.patience)
        self._watching = asyncio.create_task(self._watch(over))

    async def end(self) -> None:
        """See `Started.end`."""
        await super().end()
        await asyncio.wait({self._watching})

    async def _watch(self, over: Callable[[str], Awaitable[None]]) -> None:
        await over(await self.wait())


def _program(target: McpTarget, command: Command, profile: Profile, intent: Intent | None) -> Program:
    name = target.id if intent is None else intent.permit.call.arrival.id
    return Program(name, command.line, profile, command.environment, read=command.read, cwd=target.folder)


def _said(run: Run) -> str:
    how = f"exit code {run.exit_code}" if run.exit_code is not None else f"signal {run.signal}" if run.signal else str(run.reason)
    return f"{how}, {run.reason}" if run.reason not in {Reason.OK, Reason.ERROR, Reason.SIGNAL} and how != run.reason else how


def _hint(target: McpTarget, command: Command) -> str:
    """What an operator may have forgotten."""
    said = [f"{path} is an argument, and is not among what it may read: mcp.{target.id}.read" for path in unread(target, command)]
    closed = closed_to_others(command) if os.geteuid() == 0 else None
    if closed is not None:
        said.append(f"{closed} is closed to the user id that a child has of its own: chmod o+rX, or run as a plain user")
    return "".join(f"; help: {text}" for text in said)


async def _whole(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for line in lines:
        yield line + b"\n"


def _none() -> int:
    return 0


async def _nowhere(listener: socket) -> None:
    """For a look at a server on nobody's behalf: whatever it wants to reach, it does not."""
    listener.close()
