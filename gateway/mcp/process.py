"""What a child of the gateway's needs of its process, and the process without a cage: an explicit choice, never a default.

It is started without a shell, in a session of its own, with an environment that holds nothing it was not given, and a keeper.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from gateway.model import UpstreamError
from gateway.upstream.registry import McpTarget

STOP_SECONDS: Final = 2.0
_INHERITED: Final = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER")
_PIECE: Final = 4096
_KEEPER: Final = str(Path(__file__).with_name("keeper.py"))
_SPAWN_SECONDS: Final = 20.0


class Started(Protocol):
    """A program that goes on, with its streams."""

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: AsyncIterator[bytes]  # in pieces; to be read, or the program may be held back
    pid: int  # of the process that was started: the program and all that it starts lie beneath it

    @property
    def ended(self) -> str:
        """How it ended, in words; "" while it goes on."""
        ...

    async def end(self) -> None:
        """End it within bounds: its input is closed, it gets a little while, then it goes.  Nothing that it started is left."""
        ...


class Uncaged:
    """Implements `Started` for a process of the gateway's own rights, kept by `keeper.py`: neither outlives the gateway.

    patience  seconds between the end of its input, SIGTERM and SIGKILL.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, lifeline: socket.socket, patience: float = STOP_SECONDS
    ) -> None:  # fmt: skip
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise ValueError("a process without its streams")
        self.stdin, self.stdout, self.pid = process.stdin, process.stdout, process.pid
        self.stderr = _pieces(process.stderr)
        self.process = process
        self.lifeline = lifeline
        self.patience = patience

    @classmethod
    async def start(cls, target: McpTarget, patience: float = STOP_SECONDS) -> Uncaged:
        """Start the server; `UpstreamError("connect")` where that cannot be."""
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        pipe = asyncio.subprocess.PIPE
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-I", "-S", "-B", _KEEPER, str(theirs.fileno()), *target.command, stdin=pipe, stdout=pipe,
                    stderr=pipe, env={**inherited, **target.environment}, cwd=target.folder, start_new_session=True,
                    pass_fds=(theirs.fileno(),),
                )  # fmt: skip
        except OSError as error:
            ours.close()
            raise UpstreamError("connect", type(error).__name__) from None
        except BaseException:
            ours.close()
            raise
        started = cls(process, ours, patience)
        try:
            await started._up()
        except BaseException:
            ours.close()  # and with it the keeper goes
            await asyncio.shield(process.wait())
            raise
        return started

    async def _up(self) -> None:
        """Until the keeper has said that the program runs."""
        try:
            async with asyncio.timeout(_SPAWN_SECONDS):
                said = await asyncio.get_running_loop().sock_recv(self.lifeline, 16)
        except (OSError, TimeoutError) as error:
            raise UpstreamError("connect", type(error).__name__) from None
        if said != b"0":
            raise UpstreamError("connect", errno.errorcode.get(int(said or b"0"), "the keeper ended"))

    @property
    def ended(self) -> str:
        """See `Started.ended`."""
        return "" if self.process.returncode is None else f"exit code {self.process.returncode}"

    async def wait(self) -> str:
        """Until it has ended: how."""
        await self.process.wait()
        return self.ended

    async def end(self) -> None:
        """See `Started.end`: its input is closed, then its group is asked, then it and all that it started are killed."""
        self.stdin.close()
        for last in (None, self._ask, self.lifeline.close, self.process.kill):
            if last is not None:
                with suppress(OSError):  # it has gone meanwhile
                    last()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.patience):
                    await self.process.wait()
                    break
        self.lifeline.close()

    def _ask(self) -> None:
        self.lifeline.send(b"T")


async def _pieces(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while piece := await stream.read(_PIECE):
        yield piece
