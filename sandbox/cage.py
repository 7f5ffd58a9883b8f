"""One cage from outside: start the warden, take its attestation, hand the code over, take the result, see that nothing is left.

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
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import IO, Any

from sandbox.backend import Backend
from sandbox.inside import __file__ as _inside
from sandbox.interpreter import ENVIRONMENT, identity
from sandbox.model import Limits
from sandbox.plan import Plan
from sandbox.scratch import Folder

_MODULES = ("confine", "watch", "warden")
_SHORT = 1 << 16
_WARDEN = ("-I", "-S", "-B", "-X", "utf8", "-c")
START_SECONDS, GRACE_SECONDS, END_SECONDS = 20, 10, 3

# What the interpreter is given on its command line: read the warden's modules from the socket, and run them.
_BOOT = """
import json, os, struct, sys, types
def take(count):
    data = b""
    while len(data) < count:
        piece = os.read(0, count - len(data))
        if not piece:
            sys.exit(0)
        data += piece
    return data
for name, source in json.loads(take(struct.unpack(">I", take(4))[0])):
    module = types.ModuleType(name)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    exec(compile(source, name, "exec"), module.__dict__)
try:
    module.main()
except (EOFError, BrokenPipeError):
    sys.exit(0)
"""


class CageError(Exception):
    """The cage did not come up or broke its protocol; the message may quote what the warden said on stderr."""


def _modules() -> bytes:
    folder = Path(_inside).parent
    packages = [("sandbox", ""), ("sandbox.inside", "")]
    modules = [(f"sandbox.inside.{name}", (folder / f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES]
    return json.dumps(packages + modules).encode()


class Cage:
    """One warden and what it watches.  Start it with `start`; always `end` it."""

    def __init__(
        self, process: subprocess.Popen[bytes], stderr: IO[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process, self._stderr, self._reader, self._writer = process, stderr, reader, writer
        self._end: int | None = None

    @classmethod
    async def start(cls, backend: Backend, plan: Plan, folder: Folder, limits: Limits, pool: Executor) -> Cage:
        """Start a warden in `folder`; CageError where that is not possible."""
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection(sock=ours)
        command = [*backend.command(plan, folder, limits), plan.interpreter.path, *_WARDEN, _BOOT]
        spawning = loop.run_in_executor(pool, _spawn, command, folder, theirs)
        try:
            process, stderr = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            cage = cls(*await spawning, reader, writer)  # it has come up meanwhile, and goes at once
            await cage.end(pool)
            raise
        except (OSError, subprocess.SubprocessError) as error:
            writer.close()
            raise CageError(f"the warden could not be started: {error}") from error
        finally:
            theirs.close()
        cage = cls(process, stderr, reader, writer)
        modules = _modules()
        setup = json.dumps(plan.setup(folder, limits, backend.place(plan, folder))).encode()
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
                return await self._object(b"A")
        except TimeoutError as error:
            raise CageError("the warden did not attest in time") from error

    async def execute(self, code: bytes, limits: Limits) -> tuple[Mapping[str, Any], bytes, bytes]:
        """Hand the code over: (the warden's result, stdout, stderr)."""
        try:
            async with asyncio.timeout(limits.wall_seconds + GRACE_SECONDS):
                self._writer.write(struct.pack(">cI", b"C", len(code)) + code)
                await self._writer.drain()
                out = await self._receive(b"O", limits.output_bytes)
                err = await self._receive(b"E", limits.output_bytes)
                return await self._object(b"R"), out, err
        except TimeoutError as error:
            raise CageError("the warden did not end the run in time") from error
        except ConnectionError as error:
            raise CageError(f"the warden has gone; {self._said()}") from error

    async def end(self, pool: Executor) -> None:
        """End the warden, and with it everything in the cage.  Returns when it is gone; CageError where it would not go."""
        self._writer.close()  # it sees the end of its frames, kills all that is below it, and goes
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(pool, _await_end, self._process, self._end)
        finally:
            self._stderr.close()
            if self._end is not None:
                os.close(self._end)

    async def _receive(self, kind: bytes, most: int) -> bytes:
        try:
            got, length = struct.unpack(">cI", await self._reader.readexactly(5))
            if got != kind or length > most:
                raise CageError(f"the warden sent a frame of kind {got!r} and {length} bytes instead of {kind!r}")
            return await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise CageError(f"the warden has gone; {self._said()}") from error

    async def _object(self, kind: bytes) -> Mapping[str, Any]:
        try:
            found = json.loads(await self._receive(kind, _SHORT))
        except ValueError as error:
            raise CageError("the warden sent something that is not JSON") from error
        if not isinstance(found, dict):
            raise CageError("the warden sent something that is not an object")
        return found

    def _said(self) -> str:
        self._stderr.seek(0)
        text = self._stderr.read(_SHORT).decode("utf-8", "backslashreplace").strip()
        return f"its last words: {text.rsplit(chr(10), 1)[-1][:500]}" if text else "it said nothing"


def _spawn(command: list[str], folder: Folder, theirs: socket.socket) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed when the cage ends; a pipe that nobody reads could block the warden
    try:
        process = subprocess.Popen(  # noqa: S603  a proven interpreter, our own source
            command, env=ENVIRONMENT, cwd=folder.path, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=stderr,
            start_new_session=True, **identity(folder.uid),
        )  # fmt: skip
    except BaseException:
        stderr.close()
        raise
    return process, stderr


def _await_end(process: subprocess.Popen[bytes], end: int | None) -> None:
    try:
        process.wait(END_SECONDS + 5)  # the warden itself gives up after five seconds
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise CageError("the warden does not end") from error
    if end is not None and not select.select([end], [], [], END_SECONDS)[0]:
        raise CageError("something of the cage does not end")
