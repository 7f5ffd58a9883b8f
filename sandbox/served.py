"""A program that goes on in its cage, as an MCP server on stdio does: its streams are the gateway's, its end is the cage's.

Nothing waits for a reader that does not read: what is not taken from stdout holds the program back, of stderr the oldest goes.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from sandbox.cage import RESULT_BYTES, CageError, parsed
from sandbox.execution import Taken, framed, passed_on, way_back
from sandbox.model import Guarantee, Job, Language, Reason, Strength
from sandbox.network import connected
from sandbox.ready import Ready
from sandbox.result import Run
from sandbox.runner import Hooks, Program
from sandbox.toolsets import Toolset

_LINES, _LINE_BYTES = 1000, 8192
_PATIENCE = 2.0


class Lines:
    """Lines of untrusted text, the last thousand of them; a long one is cut.  Iterate to wait for more, until the end."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=_LINES)
        self._rest = b""
        self._more = asyncio.Event()
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Take what came; nothing is the end."""
        *lines, rest = (self._rest + data).split(b"\n")
        if not data and rest:
            lines.append(rest)
        self._rest, self._ended = rest[:_LINE_BYTES] if data else b"", self._ended or not data
        self._lines.extend(line[:_LINE_BYTES] for line in lines)
        self._more.set()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._lines:
            if self._ended:
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()
        return self._lines.popleft()


class _Closing(asyncio.StreamReaderProtocol):
    """Closes with its end: nobody is left to write to."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False


FOLDER = "{folder}"
"""In arguments and environment of a program: the folder that lasts, as the program finds it."""


def order(program: Program, toolset: Toolset, inside: str, *, tools: bool) -> bytes:
    """What the warden is told to run; `inside` is the folder that lasts, "" where there is none."""

    def told(text: str) -> str:
        return text.replace(FOLDER, inside) if inside else text

    cwd = inside or None if program.cwd is None else str(program.cwd)
    return framed({
        "command": (program.command[0], *map(told, program.command[1:])),
        "environment": {name: told(value) for name, value in toolset.environment.items()},
        "files": [],
        "stdin": None,
        "tools": tools,
        "wall": None,
        "idle": program.idle_seconds,
        "cwd": cwd,
    })  # fmt: skip


class ServedProgram:
    """Implements `sandbox.runner.Served`."""

    def __init__(self, program: Program, ready: Ready, layers: Mapping[str, str], put_away: Callable[[], Awaitable[str]]) -> None:
        self.guarantees: Mapping[Guarantee, Strength] = ready.proven
        self.layers = layers
        self._lines = Lines()
        self.stderr: AsyncIterator[bytes] = self._lines
        self.pid = ready.cage.pid
        self.stdin: asyncio.StreamWriter
        self.stdout: asyncio.StreamReader
        self._ready, self._put_away = ready, put_away
        profile = replace(program.profile, languages=frozenset({Language.PYTHON}))  # a run is told as a job's is
        self._job, self._digest = Job(program.id, "", profile), program.profile.digest
        self._ending = False
        self._inner: asyncio.StreamWriter
        self._task: asyncio.Task[Run]

    async def start(self, program: Program, hooks: Hooks, track: Callable[[asyncio.Task[Run]], None]) -> None:
        """Hand it over.  From now on it ends by itself, by `end`, or when its task, which `track` is given, is cancelled."""
        try:
            reader = await self._connected()
        except BaseException:
            await self._put_away()
            raise
        self._task = asyncio.create_task(self._carry(program, reader, hooks))
        track(self._task)
        try:
            await asyncio.sleep(0)  # a task that is cancelled before its first step would clear nothing away
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    async def _connected(self) -> asyncio.StreamReader:
        outer, inner = socket.socketpair()
        loop, self.stdout = asyncio.get_running_loop(), asyncio.StreamReader()
        protocol = _Closing(self.stdout)
        transport, _ = await loop.create_connection(lambda: protocol, sock=outer)
        self.stdin = asyncio.StreamWriter(transport, protocol, self.stdout, loop)
        reader, self._inner = await asyncio.open_connection(sock=inner)
        return reader

    async def wait(self) -> Run:
        """See `Served.wait`."""
        return await asyncio.shield(self._task)

    async def end(self) -> Run:
        """See `Served.end`."""
        if not self._ending and self.stdin.can_write_eof():
            with suppress(OSError):
                self.stdin.write_eof()
        self._ending = True
        await asyncio.wait({self._task}, timeout=_PATIENCE)
        self._ready.cage.hang_up()
        self._inner.transport.abort()  # nobody reads what it still has to say
        try:
            return await self.wait()
        finally:
            self.stdin.close()

    async def _carry(self, program: Program, reader: asyncio.StreamReader, hooks: Hooks) -> Run:
        cage, giving = self._ready.cage, None
        try:
            async with way_back(cage, hooks) as back, connected(cage.listener, hooks):
                await cage.send(b"J", order(program, self._ready.kit.toolset, self._ready.inside, tools=hooks.tools is not None))
                giving = asyncio.create_task(cage.pass_on(b"I", reader))
                run = await self._passed(back)
        except CageError as error:
            run = Run.without_output(self._job, Reason.SANDBOX_ERROR, str(error))
        finally:
            if giving is not None:
                giving.cancel()
                with suppress(asyncio.CancelledError, CageError):
                    await giving
            self._inner.close()
            self._lines.feed(b"")
            amiss = await self._put_away()
        run = run if not amiss else Run.without_output(self._job, Reason.SANDBOX_ERROR, amiss)
        return replace(run, profile_digest=self._digest)

    async def _passed(self, back: asyncio.StreamWriter | None) -> Run:
        writers = {b"O": self._inner, b"T": back}
        async for kind, payload in self._ready.cage.frames(RESULT_BYTES):
            if kind == b"R":
                return Taken(self._ready.kit.limits, Hooks()).run(self._job, parsed(payload))
            if kind == b"E":
                if payload:
                    self._lines.feed(payload)
                continue
            writer = writers.get(kind)
            if writer is None:
                raise CageError(f"the warden sent a frame of kind {kind!r}")
            if payload or kind == b"T":  # that it has closed its stdout is not yet its end
                await passed_on(writer, payload)
        raise CageError("the warden sent no result")
