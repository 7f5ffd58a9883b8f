"""The other side of `sandbox.remote`: runs jobs for a gateway elsewhere, knows no secret, and keeps nothing.

Who hangs up ends their run.  A caller is known by the kernel's word (its uid) or by its certificate, before a byte of it is read.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from sandbox.model import Guarantee, IsolationUnprovenError, NotOfferedError, Reason, SandboxBusyError, Strength
from sandbox.relayed import Waiting
from sandbox.remote import keep_alive, peer_uid
from sandbox.result import Run
from sandbox.runner import Finding, Hooks, Report, Runner, Stream
from sandbox.wire import (
    JOB,
    PIECE,
    SMALL,
    VERSION,
    Done,
    Execute,
    Fetch,
    FromRunner,
    Kill,
    Opened,
    Output,
    Tools,
    Welcome,
    WireError,
    frame,
    from_gateway,
    refusal,
)

ASK_SECONDS: Final = 10.0
"""How long a caller that was told what is proven may think before it asks for a run."""
CONNECTIONS: Final = 512

Admit = Callable[[asyncio.StreamWriter], bool]


@dataclass(frozen=True, slots=True)
class OwnKernel:
    """That code here runs on a kernel of its own: an operator says so, and `evidence` was found."""

    evidence: str


class Serving:
    """Serves one runner's jobs.

    admit       whether a caller, by its connection alone, may ask for anything.
    own_kernel  what is added to the runner's own report and to every run's guarantees; None for nothing.
    """

    def __init__(self, runner: Runner, admit: Admit, own_kernel: OwnKernel | None = None) -> None:
        self._runner, self._admit, self._own_kernel = runner, admit, own_kernel
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = Waiting()
        self._closing = False

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: at most one run, or one connection of a run's code."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            if len(self._tasks) <= CONNECTIONS and self._admit(writer):
                await self._serve(reader, writer)
        except (WireError, OSError, ssl.SSLError, TimeoutError):
            return  # the gateway has gone, or is none; its run has ended
        except asyncio.CancelledError:
            if not self._closing:
                raise
        finally:
            writer.close()
            with suppress(OSError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    async def aclose(self) -> None:
        """End every run."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._runner.aclose()

    async def report(self) -> Report:
        """What the runner proved, and what is said of the kernel."""
        report = await self._runner.probe()
        if self._own_kernel is None or report.problem:
            return report
        found = Finding(Strength.HARD, (self._own_kernel.evidence, "the operator says so"))
        return replace(report, findings=MappingProxyType({**report.findings, Guarantee.OWN_KERNEL: found}))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _say(writer, Welcome(VERSION, await self.report()))
        async with asyncio.timeout(ASK_SECONDS):
            asked = await from_gateway(reader, JOB)
        if asked is None:
            return
        if isinstance(asked, Fetch):
            await self._waiting.fetched(asked.key, reader, writer)
            return
        if not isinstance(asked, Execute) or asked.profile != asked.job.profile.digest:
            raise WireError("no run was asked for, or one that is not understood whole")
        if asked.inputs != asked.job.inputs_digest():
            raise WireError("the job is not understood whole")
        await _say(writer, await self._run(asked, reader, writer))

    async def _run(self, asked: Execute, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> FromRunner:
        def output(stream: Stream, data: bytes) -> None:
            writer.write(frame(Output(stream, data)))  # as much as the profile allows in all: nobody need wait for it

        async def network(listener: socket.socket) -> None:
            await self._waiting.announce(listener, lambda key: writer.write(frame(Opened(key))))

        channel, theirs = socket.socketpair() if asked.tools else (None, None)
        hooks = Hooks(output if asked.output else None, theirs, network if asked.network else None)
        running = asyncio.create_task(self._runner.run(asked.job, hooks))
        helping = [asyncio.create_task(_listen(reader, channel))]
        if channel is not None:
            channel.setblocking(False)
            helping.append(asyncio.create_task(_tools_out(channel, writer)))
        try:
            await asyncio.wait({running, helping[0]}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():  # killed, hung up, or out of its mind
                running.cancel()
                await asyncio.wait({running})
                if running.cancelled():
                    return Done(Run.without_output(asked.job, Reason.CANCELLED, ""))
            return self._told(running.result())
        except (IsolationUnprovenError, SandboxBusyError, NotOfferedError) as error:
            return refusal(error)
        finally:
            await _ended([running, *helping])
            if channel is not None:
                channel.close()

    def _told(self, run: Run) -> Done:
        if self._own_kernel is None or run.reason is Reason.SANDBOX_ERROR:
            return Done(run)
        return Done(replace(run, guarantees=MappingProxyType({**run.guarantees, Guarantee.OWN_KERNEL: Strength.HARD})))


async def _ended(tasks: Collection[asyncio.Task[object]]) -> None:
    """Cancel them and wait until they have gone, also while this task is being cancelled itself."""
    for task in tasks:
        task.cancel()
    cancelled = False
    while not all(task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            cancelled = True
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen
    if cancelled:
        raise asyncio.CancelledError


async def _listen(reader: asyncio.StreamReader, channel: socket.socket | None) -> None:
    """What the gateway says while its run goes on; returns when the run shall end."""
    loop = asyncio.get_running_loop()
    with suppress(WireError):
        while (message := await from_gateway(reader, SMALL)) is not None and not isinstance(message, Kill):
            if not isinstance(message, Tools) or channel is None:
                return
            with suppress(OSError):  # the code has closed its end
                if message.data:
                    await loop.sock_sendall(channel, message.data)
                else:
                    channel.shutdown(socket.SHUT_WR)


async def _tools_out(channel: socket.socket, writer: asyncio.StreamWriter) -> None:
    """Bytes of the code for the gateway, until either has gone."""
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while data := await loop.sock_recv(channel, PIECE):
            await _say(writer, Tools(data))
        await _say(writer, Tools(b""))


async def _say(writer: asyncio.StreamWriter, message: FromRunner) -> None:
    writer.write(frame(message))
    await writer.drain()


# --- who is let in, and where


def by_uid(uids: Collection[int]) -> Admit:
    """Processes of these users, as the kernel says."""
    return lambda writer: peer_uid(writer) in uids


def by_name(names: Collection[str]) -> Admit:
    """Certificates that say one of these names (DNS or URI): that they are valid, TLS has seen to."""

    def admit(writer: asyncio.StreamWriter) -> bool:
        keep_alive(writer)
        certificate = writer.get_extra_info("peercert") or {}
        said = {name for kind, name in certificate.get("subjectAltName", ()) if kind in ("DNS", "URI")}
        return bool(said & set(names))

    return admit


def server_tls(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """Shows `certificate`, and lets in whoever shows one that `authority` signed; OSError or ssl.SSLError for other files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    return context


Open = Callable[[Serving], Awaitable[asyncio.Server]]


def on_unix(path: Path, uids: Collection[int]) -> Open:
    """Listen at this path, which only processes of these users may use."""

    async def start(serving: Serving) -> asyncio.Server:
        listener = _bound(path, uids)
        return await asyncio.start_unix_server(serving, sock=listener, limit=PIECE)

    return start


def _bound(path: Path, uids: Collection[int]) -> socket.socket:
    _make_way(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    if set(uids) != {os.geteuid()}:
        path.chmod(0o666)  # who may use it is decided by `by_uid`, at each connection
    return listener


def _make_way(path: Path) -> None:
    """Take away a socket that nobody listens at; OSError for anything else that is there."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} is there, and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise FileExistsError(f"another process listens at {path}")


def on_tls(host: str, port: int, tls: ssl.SSLContext) -> Open:
    """Listen at this address, with TLS on both sides."""

    async def start(serving: Serving) -> asyncio.Server:
        return await asyncio.start_server(
            serving, host, port, ssl=tls, limit=PIECE, ssl_handshake_timeout=ASK_SECONDS, backlog=CONNECTIONS
        )

    return start
