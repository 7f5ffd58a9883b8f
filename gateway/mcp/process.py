"""What a child of the gateway's needs of its process, and the process without a cage: an explicit choice, never a default.

It is started without a shell, in a process group of its own, with an environment that holds nothing it was not given.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Final, Protocol

from gateway.model import UpstreamError
from gateway.upstream.registry import McpTarget

STOP_SECONDS: Final = 2.0
_INHERITED: Final = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER")
_PIECE: Final = 4096


class Started(Protocol):
    """A program that goes on, with its streams."""

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: AsyncIterator[bytes]  # in pieces; to be read, or the program may be held back

    @property
    def ended(self) -> str:
        """How it ended, in words; "" while it goes on."""
        ...

    async def end(self) -> None:
        """End it within bounds: its input is closed, it gets a little while, then it goes.  Nothing that it started is left."""
        ...


class Uncaged:
    """Implements `Started` for a process of the gateway's own rights."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise ValueError("a process without its streams")
        self.stdin, self.stdout = process.stdin, process.stdout
        self.stderr = _pieces(process.stderr)
        self.process = process

    @classmethod
    async def start(cls, target: McpTarget) -> Uncaged:
        """Start the server; `UpstreamError("connect")` where that cannot be."""
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *target.command, stdin=pipe, stdout=pipe, stderr=pipe, env={**inherited, **target.environment},
                cwd=target.folder, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise UpstreamError("connect", type(error).__name__) from None
        return cls(process)

    @property
    def ended(self) -> str:
        """See `Started.ended`."""
        return "" if self.process.returncode is None else f"exit code {self.process.returncode}"

    async def wait(self) -> str:
        """Until it has ended: how."""
        await self.process.wait()
        return self.ended

    async def end(self) -> None:
        """See `Started.end`: ask its group, then make it."""
        self.stdin.close()
        for last in (None, signal.SIGTERM, signal.SIGKILL):
            if last is not None:
                self._signal(last)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self.process.wait()
                    break
        self._signal(signal.SIGKILL)  # what it started and left behind

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


async def _pieces(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while piece := await stream.read(_PIECE):
        yield piece
