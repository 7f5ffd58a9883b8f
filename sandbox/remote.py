"""A runner that is elsewhere: the same jobs and answers, over a socket to a process that holds no secret of the gateway's.

What it reports must cover the profile before the code leaves, and what its run attested before anything of the run is believed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from sandbox.ending import to_its_end
from sandbox.model import Guarantee, IsolationUnprovenError, Job, NotOfferedError, Profile, Reason, SandboxBusyError, Strength
from sandbox.names import file_names, plainly
from sandbox.relayed import WAITING, Relaying, join
from sandbox.result import Artifact, Run
from sandbox.runner import Hooks, Program, Report, Served, shortfall
from sandbox.wire import (
    PIECE,
    SMALL,
    VERSION,
    Done,
    Fetch,
    FromRunner,
    Kill,
    Opened,
    Output,
    Refusal,
    Tools,
    Welcome,
    WireError,
    execute,
    frame,
    from_runner,
    raised,
)

CONNECT_SECONDS: Final = 5.0
PROBE_SECONDS: Final = 60.0
"""The first who asks a runner waits for its probe."""
END_SECONDS: Final = 20.0
WAIT_SECONDS: Final = 600.0
"""Longest that a run may wait for its turn at the runner."""


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket on this machine, or on a volume that two containers share; `uid` is whose process must be behind it."""

    path: Path
    uid: int


@dataclass(frozen=True, slots=True)
class TlsAddress:
    """A host and port.  `name` must stand in the runner's certificate, which `tls` verifies, and shows the gateway's own."""

    host: str
    port: int
    name: str
    tls: ssl.SSLContext


def client_tls(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """Shows `certificate`, believes what `authority` signed and nothing else; OSError or ssl.SSLError for files that are none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    return context


@dataclass(frozen=True, slots=True)
class _Line:
    """One connection, and what the runner says of itself."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    report: Report


class RemoteRunner:
    """Implements `sandbox.runner.Runner`.  `concurrency` bounds connections; the runner has bounds of its own."""

    name = "runner"

    def __init__(self, address: UnixAddress | TlsAddress, *, concurrency: int = 64) -> None:
        self._address = address
        self._concurrency = concurrency
        self._tasks: set[asyncio.Task[Run]] = set()
        self._closed = False

    async def probe(self) -> Report:
        """See `Runner.probe`: asked anew each time, as the runner may be another one by now."""
        try:
            async with self._line() as line:
                return line.report
        except WireError as error:
            return Report(self.name, MappingProxyType({}), MappingProxyType({}), time.time(), f"the runner: {error}")

    async def run(self, job: Job, hooks: Hooks = Hooks()) -> Run:  # noqa: B008  frozen
        """See `Runner.run`."""
        try:
            if bool(job.profile.network) != (_relaying(hooks) is not None):
                raise NotOfferedError("a network: a profile with destinations needs the gateway's proxy, and no other has one")
            if self._closed or len(self._tasks) >= self._concurrency:
                raise SandboxBusyError("the sandbox is closed" if self._closed else "too many runs wait")
            task = asyncio.create_task(self._run(job, hooks))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return await to_its_end(task)
        finally:
            if hooks.tools is not None:
                hooks.tools.close()

    async def serve(self, program: Program, hooks: Hooks = Hooks()) -> Served:  # noqa: ARG002, B008  frozen
        """See `Runner.serve`."""
        raise NotOfferedError("programs that go on: their folders are here, and the runner is elsewhere")

    def forget(self) -> None:
        """Nothing is remembered."""

    async def aclose(self) -> None:
        """See `Runner.aclose`."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, job: Job, hooks: Hooks) -> Run:
        handed_over = False
        try:
            async with self._line() as line:
                line.report.require(job.profile)  # before a byte of the code leaves
                handed_over = True
                run = await self._exchange(line, job, hooks)
        except WireError as error:
            if not handed_over:  # nothing is proven, and nothing was run
                wanted = job.profile.wanted or {Guarantee.FS_WRITE: Strength.HARD}
                nothing = {name: (strength, Strength.ABSENT) for name, strength in wanted.items()}
                raise IsolationUnprovenError(nothing, f"The runner: {error}.") from None
            return Run.without_output(job, Reason.SANDBOX_ERROR, f"the runner: {error}")
        missing = shortfall(job.profile, run.guarantees)
        if missing and run.reason is Reason.SANDBOX_ERROR:  # its cage failed before it attested: nothing of it is believed
            return Run.without_output(job, Reason.SANDBOX_ERROR, run.detail[:1000])
        if missing:
            raise IsolationUnprovenError(missing, "The run's own cage did not attest what the runner had reported.")
        return run

    async def _exchange(self, line: _Line, job: Job, hooks: Hooks) -> Run:
        """Hand the job over and take what comes; WireError where the runner breaks off or says what it may not."""
        network = _relaying(hooks)
        wants = {"output": hooks.output is not None, "tools": hooks.tools is not None, "network": network is not None}
        line.writer.write(frame(execute(job, **wants)))
        relaying = None if hooks.tools is None else asyncio.create_task(_tools_out(hooks.tools, line.writer))
        try:
            async with asyncio.timeout(WAIT_SECONDS + job.profile.limits.wall_seconds + END_SECONDS):
                async with self._served(network) as opened:
                    answer = await _answer(line, job, hooks, opened)
        except asyncio.CancelledError:
            await _kill(line, _most(job.profile))
            raise
        except TimeoutError:
            raise WireError("it did not end the run in time") from None
        finally:
            if relaying is not None:
                relaying.cancel()
                await asyncio.gather(relaying, return_exceptions=True)
        if isinstance(answer, Refusal):
            raise raised(answer)
        return believed(answer.run, job)

    @asynccontextmanager
    async def _served(self, network: Relaying | None) -> AsyncIterator[Callable[[bytes], None] | None]:
        """While the run goes on: what is told of each connection that waits to be fetched, None where there are none."""
        if network is None:
            yield None
            return
        arriving: asyncio.Queue[socket.socket] = asyncio.Queue()
        tasks = {asyncio.create_task(network.relayed(arriving))}

        def opened(key: bytes) -> None:
            if len(tasks) <= WAITING:  # the runner holds back more than that
                task = asyncio.create_task(self._fetch(key, arriving))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        try:
            yield opened
        finally:
            going = list(tasks)
            for task in going:
                task.cancel()
            await asyncio.gather(*going, return_exceptions=True)
            while not arriving.empty():
                arriving.get_nowait().close()

    async def _fetch(self, key: bytes, arriving: asyncio.Queue[socket.socket]) -> None:
        """One connection of the code, by a line of its own, to whoever serves the run."""
        with suppress(WireError, OSError):
            async with self._line() as line:
                line.writer.write(frame(Fetch(key)))
                ours, theirs = socket.socketpair()
                ours.setblocking(False)
                arriving.put_nowait(theirs)
                await join(ours, line.reader, line.writer)

    @asynccontextmanager
    async def _line(self) -> AsyncIterator[_Line]:
        """A connection on which the runner has said what it proved; WireError where there is none to be had."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await _connected(self._address)
        except (OSError, TimeoutError, ssl.CertificateError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise WireError(f"{_where(self._address)} cannot be reached: {why}") from None
        try:
            async with asyncio.timeout(PROBE_SECONDS) as timer:
                first = await from_runner(reader, SMALL)
            if not isinstance(first, Welcome) or first.version != VERSION:
                raise WireError("it has hung up" if first is None else "it does not speak as this version does")
            yield _Line(reader, writer, replace(first.report, backend=f"runner:{first.report.backend}"[:64]))
        except TimeoutError:
            if not timer.expired():
                raise
            raise WireError("it does not say what it proved") from None
        finally:
            writer.close()
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


def _relaying(hooks: Hooks) -> Relaying | None:
    """What serves connections of code, where it can serve those that come from elsewhere."""
    network: object = hooks.network
    return network if isinstance(network, Relaying) else None


def _where(address: UnixAddress | TlsAddress) -> str:
    return f"{address.host}:{address.port}" if isinstance(address, TlsAddress) else str(address.path)


async def _connected(address: UnixAddress | TlsAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, TlsAddress):
        reader, writer = await asyncio.open_connection(
            address.host, address.port, ssl=address.tls, server_hostname=address.name, ssl_handshake_timeout=CONNECT_SECONDS
        )
        keep_alive(writer)
        return reader, writer
    reader, writer = await asyncio.open_unix_connection(address.path)
    if peer_uid(writer) != address.uid:
        writer.close()
        raise WireError(f"the process behind {address.path} is not of uid {address.uid}")
    return reader, writer


def peer_uid(writer: asyncio.StreamWriter) -> int:
    """Whose process is at the other end of a unix socket, as the kernel says."""
    raw = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("3i", raw)[1])


def keep_alive(writer: asyncio.StreamWriter) -> None:
    """Have the kernel find out within half a minute that the other side is gone: its runs end with it."""
    line = writer.get_extra_info("socket")
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        line.setsockopt(socket.IPPROTO_TCP, option, value)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000)


async def _answer(line: _Line, job: Job, hooks: Hooks, opened: Callable[[bytes], None] | None) -> Done | Refusal:
    """Everything up to the last word; output and calls back go where they belong."""
    left = dict.fromkeys(("stdout", "stderr"), job.profile.limits.output_bytes)
    while (message := await from_runner(line.reader, _most(job.profile))) is not None:
        match message:
            case Done() | Refusal():
                return message
            case Output(stream, data) if hooks.output is not None and len(data) <= left[stream]:
                left[stream] -= len(data)
                hooks.output(stream, data)
            case Opened(key) if opened is not None and len(key) == 16:
                opened(key)
            case Tools(data) if hooks.tools is not None:
                await _tools_in(hooks.tools, data)
            case _:
                raise WireError("it says what it was not asked for")
    raise WireError("it has hung up")


async def _tools_in(channel: socket.socket, data: bytes) -> None:
    """Bytes of the code for the gateway."""
    with suppress(OSError):  # the gateway has closed its end: it wants no more calls of this run
        if data:
            await asyncio.get_running_loop().sock_sendall(channel, data)
        else:
            channel.shutdown(socket.SHUT_WR)


async def _tools_out(channel: socket.socket, writer: asyncio.StreamWriter) -> None:
    """Bytes of the gateway for the code, until either has gone."""
    channel.setblocking(False)
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while data := await loop.sock_recv(channel, PIECE):
            writer.write(frame(Tools(data)))
            await writer.drain()
        writer.write(frame(Tools(b"")))


async def _kill(line: _Line, most: int) -> None:
    """Have the run ended, and wait until it is: for its last word, or until the runner hangs up."""
    with suppress(WireError, OSError, TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            line.writer.write(frame(Kill()))
            message: FromRunner | None = Tools(b"")
            while message is not None and not isinstance(message, Done | Refusal):
                message = await from_runner(line.reader, most)


def _most(profile: Profile) -> int:
    limits = profile.limits
    return SMALL + 2 * limits.output_bytes + limits.artifact_bytes


def believed(run: Run, job: Job) -> Run:
    """The run, where it can be one of this job; WireError where it is of another, or larger than the profile allows."""
    limits = job.profile.limits
    if run.id != job.id or run.code_sha256 != job.code_sha256:
        raise WireError("it answered for another job")
    if max(len(run.stdout), len(run.stderr)) > limits.output_bytes:
        raise WireError("it sent more output than the profile allows")
    if len(run.files) > limits.artifacts or sum(file.size for file in run.files) > limits.artifact_bytes:
        raise WireError("it sent more files than the profile allows")
    try:
        file_names([file.name for file in run.files])
    except ValueError as error:
        raise WireError(f"it sent a file under a name that is none: {error}") from None
    files = tuple(Artifact.of(file.name, file.data) for file in run.files)
    skipped = tuple((plainly(name)[:1100], plainly(why)[:100]) for name, why in run.files_skipped[:200])
    return replace(
        run, backend=plainly(f"runner:{run.backend}")[:64], files=files, files_skipped=skipped, detail=plainly(run.detail)[:2000],
        profile_digest=job.profile.digest,
    )  # fmt: skip


def own_address(path: Path, uid: int | None = None) -> UnixAddress:
    """A socket whose process is of this uid; of the gateway's own where none is said."""
    return UnixAddress(path, os.geteuid() if uid is None else uid)
