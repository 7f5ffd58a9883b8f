"""One cage from outside: start the warden, take its attestation, exchange frames with it, end it.

The cage is told nothing that it could use against us: its environment is fixed, its one descriptor is a socket to this process.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from typing import IO, Any, TypeVar

from sandbox.backend import Backend
from sandbox.interpreter import ENVIRONMENT, identity
from sandbox.plan import PORT, Plan
from sandbox.scratch import Folder
from sandbox.toolsets import Kit

T = TypeVar("T")
_SHORT = 1 << 16
_WARDEN = ("-I", "-S", "-B", "-X", "utf8", "-c")
_PIECE = 1 << 16
RESULT_BYTES = 1 << 18
START_SECONDS, END_SECONDS = 20, 3
_SO_NETNS_COOKIE = 71  # since Linux 5.14

# What the interpreter is given on its command line: take the warden's modules from the socket, and run them.  They were compiled
# by this interpreter (`sandbox/inside/discover.py`): compiling them anew would cost more than the whole run.
_BOOT = """
import marshal, os, sys
def take(count):
    data = b""
    while len(data) < count:
        piece = os.read(0, count - len(data))
        if not piece:
            sys.exit(0)
        data += piece
    return data
for name, code in marshal.loads(take(int.from_bytes(take(4), "big"))):
    module = type(sys)(name)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    exec(code, module.__dict__)
try:
    module.main()
except (EOFError, BrokenPipeError, ConnectionResetError):
    os._exit(0)
os._exit(0)
"""


class CageError(Exception):
    """The cage did not come up or broke its protocol; the message may quote what the warden said on stderr."""


class Cage:
    """One warden and what it watches.  Start it with `start`; always `end` it."""

    def __init__(
        self, process: subprocess.Popen[bytes], stderr: IO[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process, self._stderr, self._reader, self._writer = process, stderr, reader, writer
        self._end: int | None = None
        self._passing: socket.socket | None = None
        self._listener: socket.socket | None = None

    @classmethod
    async def start(cls, backend: Backend, plan: Plan, folder: Folder, kit: Kit, pool: Executor, *, lock: int = -1) -> Cage:
        """Start a warden in `folder`, which keeps the descriptor `lock` open while it is there; CageError where it cannot be."""
        ours, theirs = socket.socketpair()
        given, giving = socket.socketpair() if kit.network else (None, None)
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection(sock=ours)
        command = [*backend.command(plan, folder, kit), plan.interpreter.path, *_WARDEN, _BOOT]
        spawning = loop.run_in_executor(pool, _spawn, command, folder, theirs, giving, lock)
        try:
            process, stderr = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            cage = cls(*await spawning, reader, writer)  # it has come up meanwhile, and goes at once
            cage._passing = given
            await cage.end(pool)
            raise
        except (OSError, subprocess.SubprocessError) as error:
            writer.close()
            if given is not None:
                given.close()
            raise CageError(f"the warden could not be started: {error}") from error
        finally:
            theirs.close()
            passing = -1 if giving is None else giving.fileno()
            if giving is not None:
                giving.close()
        cage = cls(process, stderr, reader, writer)
        cage._passing = given
        modules = plan.interpreter.modules
        setup = json.dumps(plan.setup(folder, backend.place(plan, folder, kit), kit, passing), separators=(",", ":")).encode()
        writer.write(struct.pack(">I", len(modules)) + modules + struct.pack(">cI", b"S", len(setup)) + setup)
        return cage

    @property
    def pid(self) -> int:
        """Of the process that was started: the warden, or what built the cage around it."""
        return self._process.pid

    def ends_with(self, end: int | None) -> None:
        """`end` is `Backend.end_of` this cage: `end` waits for it, and closes it."""
        self._end = end

    async def attestation(self) -> Mapping[str, Any]:
        """What the cage says of itself, parsed but not believed; CageError where it does not come up."""
        try:
            async with asyncio.timeout(START_SECONDS):
                kind, payload = await self._receive(_SHORT)
        except TimeoutError as error:
            raise CageError("the warden did not attest in time") from error
        if kind != b"A":
            raise CageError(f"the warden sent a frame of kind {kind!r} instead of its attestation")
        return _object(payload)

    async def take_listener(self, pool: Executor) -> None:
        """Take what the warden gives out where the kit has a network; CageError for anything but its listening socket."""
        if self._passing is not None:
            await to_its_end(asyncio.get_running_loop().run_in_executor(pool, self._take, self._passing))

    def _take(self, passing: socket.socket) -> None:
        self._listener = _received(passing)  # kept at once: whoever waits for it may be cancelled meanwhile

    @property
    def listener(self) -> socket.socket | None:
        """What listens inside where the code looks for the gateway's proxy, None without network; the cage's to close."""
        return self._listener

    async def send(self, kind: bytes, data: bytes) -> None:
        """One frame; returns when there is room for more.  CageError where the warden has gone."""
        try:
            self._writer.write(struct.pack(">cI", kind, len(data)) + data)
            await self._writer.drain()
        except ConnectionError as error:
            raise CageError(f"the warden has gone; {self._said()}") from error

    async def pass_on(self, kind: bytes, reader: asyncio.StreamReader) -> None:
        """All that comes from the reader, as frames; an empty one at its end."""
        while data := await reader.read(_PIECE):
            await self.send(kind, data)
        await self.send(kind, b"")

    async def frames(self, most: int) -> AsyncIterator[tuple[bytes, bytes]]:
        """The warden's frames, none of more than `most` bytes, up to its result (R).  CageError where it goes before."""
        while True:
            kind, payload = await self._receive(most)
            yield kind, payload
            if kind == b"R":
                return

    def hang_up(self) -> None:
        """Say that nothing more is wanted: the warden ends the run, and tells how it ended."""
        if self._writer.can_write_eof() and not self._writer.is_closing():
            self._writer.write_eof()

    async def end(self, pool: Executor) -> None:
        """End the warden, and with it everything in the cage.  Returns when it is gone; CageError where it would not go."""
        self.close()
        await asyncio.get_running_loop().run_in_executor(pool, self.gone)

    def close(self) -> None:
        """Let go of it: it sees the end of its frames, kills all that is below it, and goes.  `gone` waits for that."""
        self._writer.close()

    def gone(self) -> None:
        """Wait until it has gone.  Blocks; CageError where it would not."""
        try:
            _await_end(self._process, self._end)
        finally:
            self._stderr.close()
            for passed in (self._passing, self._listener):
                if passed is not None:
                    passed.close()
            if self._end is not None:
                os.close(self._end)

    async def _receive(self, most: int) -> tuple[bytes, bytes]:
        try:
            kind, length = struct.unpack(">cI", await self._reader.readexactly(5))
            if length > most:
                raise CageError(f"the warden sent a frame of kind {kind!r} and {length} bytes")
            return kind, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise CageError(f"the warden has gone; {self._said()}") from error

    def _said(self) -> str:
        self._stderr.seek(0)
        text = self._stderr.read(_SHORT).decode("utf-8", "backslashreplace").strip()
        return f"its last words: {text.rsplit(chr(10), 1)[-1][:500]}" if text else "it said nothing"


async def to_its_end(working: asyncio.Future[T]) -> T:
    """What a thread makes of it; whoever is cancelled meanwhile is told when it has ended, so that nothing of it is lost."""
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({working})
        if not working.cancelled():
            working.exception()  # seen
        raise


def _object(payload: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(payload)
    except ValueError as error:
        raise CageError("the warden sent something that is not JSON") from error
    if not isinstance(found, dict):
        raise CageError("the warden sent something that is not an object")
    return found


def parsed(payload: bytes) -> Mapping[str, Any]:
    """A result's payload; CageError for what no warden sends."""
    if len(payload) > RESULT_BYTES:
        raise CageError("the warden's result is too long")
    return _object(payload)


def _received(passing: socket.socket) -> socket.socket:
    """The one socket that comes through, if it is what it is to be: in another network than ours, and listening there."""
    passing.settimeout(START_SECONDS)
    try:
        _, descriptors, flags, _ = socket.recv_fds(passing, 1, 1)
    except OSError as error:
        raise CageError("the warden gave no listening socket") from error
    found = [socket.socket(fileno=fd) for fd in descriptors]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as own:
            ours = own.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        (listener,) = found
        right = (
            not flags & socket.MSG_CTRUNC
            and listener.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8) != ours
            and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            and listener.getsockname() == ("127.0.0.1", PORT)
        )
    except (OSError, ValueError):
        right = False
    if not right:
        for each in found:
            each.close()
        raise CageError("the warden gave something else than the cage's listening socket")
    return listener


def _spawn(
    command: list[str], folder: Folder, theirs: socket.socket, giving: socket.socket | None, lock: int
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed when the cage ends; a pipe that nobody reads could block the warden
    passed = (*(() if giving is None else (giving.fileno(),)), *((lock,) if lock >= 0 else ()))
    try:
        process = subprocess.Popen(  # noqa: S603  a proven interpreter, our own source
            command, env=ENVIRONMENT, cwd=folder.path, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=stderr,
            start_new_session=True, pass_fds=passed, **identity(folder.uid),
        )  # fmt: skip
    except BaseException:
        stderr.close()
        raise
    return process, stderr


def _await_end(process: subprocess.Popen[bytes], end: int | None) -> None:
    """Wait without looking again and again, as `Popen.wait` does where it has a timeout."""
    try:
        _wait(process, END_SECONDS + 5)  # the warden itself gives up after five seconds
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            _wait(process, END_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise CageError("the warden does not end") from error
    if end is not None and not select.select([end], [], [], END_SECONDS)[0]:
        raise CageError("something of the cage does not end")


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:  # refused by a container's filter
        process.wait(seconds)
        return
    try:
        if not select.select([fd], [], [], seconds)[0]:
            raise subprocess.TimeoutExpired("warden", seconds)
    finally:
        os.close(fd)
    process.wait()
