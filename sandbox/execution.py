"""One job in a cage that has attested: hand it over, pass on what it says while it runs, take what it leaves.

Whatever the warden sends is held to the profile's limits once more: a cage that was broken gets nothing larger out.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from sandbox.cage import RESULT_BYTES, Cage, CageError, parsed
from sandbox.model import MAIN, Job, Limits, Reason
from sandbox.names import file_name, plainly
from sandbox.result import Artifact, Run, Usage
from sandbox.runner import Hooks
from sandbox.toolsets import Toolset

GRACE_SECONDS = 10
_STREAMS = {b"O": "stdout", b"E": "stderr"}
_NAME = 1 << 11


def order(job: Job, toolset: Toolset, *, tools: bool) -> bytes:
    """What the warden is told to run, and the bytes of its files."""
    files = {MAIN[job.language]: job.code.encode("utf-8"), **job.files}
    head = {
        "command": toolset.command_for(job),
        "environment": dict(toolset.environment),
        "files": [[name, len(data)] for name, data in files.items()],
        "stdin": len(job.stdin),
        "tools": tools,
        "cwd": None,
        "wall": job.profile.limits.wall_seconds,
        "idle": None,
    }
    return framed(head, *files.values(), job.stdin)


def framed(head: Mapping[str, object], *blobs: bytes) -> bytes:
    """Header and bytes of an order."""
    text = json.dumps(head, separators=(",", ":")).encode()
    return struct.pack(">I", len(text)) + text + b"".join(blobs)


async def execute(cage: Cage, job: Job, toolset: Toolset, hooks: Hooks) -> tuple[Mapping[str, Any], Taken]:
    """Run it to its end: (the warden's result, what came out).  CageError where the cage fails or breaks its protocol."""
    limits = job.profile.limits
    taken = Taken(limits, hooks)
    try:
        async with asyncio.timeout(limits.wall_seconds + GRACE_SECONDS), way_back(cage, hooks) as back:
            await cage.send(b"J", order(job, toolset, tools=hooks.tools is not None))
            patience = asyncio.get_running_loop().time() + limits.wall_seconds
            async for kind, payload in cage.frames(max(limits.artifact_bytes + _NAME, RESULT_BYTES)):
                if kind == b"R":
                    return parsed(payload), taken
                if kind == b"T" and back is not None:
                    # A gateway that does not read holds the code back until its time is up, and no longer: how it ended is told.
                    with suppress(TimeoutError):
                        async with asyncio.timeout_at(patience):
                            await passed_on(back, payload)
                else:
                    taken.add(kind, payload)
    except TimeoutError as error:
        raise CageError("the warden did not end the run in time") from error
    raise CageError("the warden sent no result")


async def passed_on(writer: asyncio.StreamWriter, payload: bytes) -> None:
    """Bytes for the gateway's end, none for their end; one that has gone is no error here."""
    if writer.is_closing():
        return
    with suppress(OSError, RuntimeError):  # uvloop's word for a transport that was closed meanwhile
        writer.write(payload)
        if not payload and writer.can_write_eof():
            writer.write_eof()
        await writer.drain()


@asynccontextmanager
async def way_back(cage: Cage, hooks: Hooks) -> AsyncIterator[asyncio.StreamWriter | None]:
    """The bytes between the gateway's socket for calls back and the cage; closed at the end."""
    if hooks.tools is None:
        yield None
        return
    hooks.tools.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=hooks.tools)
    passing = asyncio.create_task(cage.pass_on(b"T", reader))
    try:
        yield writer
    finally:
        passing.cancel()
        with suppress(asyncio.CancelledError, CageError, ConnectionError):
            await passing
        if writer.transport.get_write_buffer_size():
            writer.transport.abort()  # nobody reads it, and the run is over
        else:
            writer.close()


class Taken:
    """What came out of a run so far."""

    def __init__(self, limits: Limits, hooks: Hooks) -> None:
        self._limits, self._output = limits, hooks.output
        self._streams = {kind: bytearray() for kind in _STREAMS}
        self._room = limits.artifact_bytes
        self._files: list[Artifact] = []
        self._skipped: list[tuple[str, str]] = []

    def add(self, kind: bytes, payload: bytes) -> None:
        """One frame; CageError for one that no warden sends."""
        if kind in self._streams:
            if len(self._streams[kind]) + len(payload) > self._limits.output_bytes:
                raise CageError("the warden sent more output than the profile allows")
            self._streams[kind] += payload
            if self._output is not None and payload:
                self._output("stdout" if kind == b"O" else "stderr", payload)
        elif kind == b"F":
            self._file(payload)
        else:
            raise CageError(f"the warden sent a frame of kind {kind!r}")

    def _file(self, payload: bytes) -> None:
        length = int.from_bytes(payload[:2], "big")
        raw, data = payload[2 : 2 + length], payload[2 + length :]
        self._room -= len(data)
        if self._room < 0 or len(self._files) >= self._limits.artifacts or len(raw) != length:
            raise CageError("the warden sent more files than the profile allows")
        try:
            self._files.append(Artifact.of(file_name(raw.decode("utf-8")), data))
        except ValueError:
            self._skipped.append((plainly(raw.decode("utf-8", "backslashreplace"))[:200], "its name is not one for everybody"))

    def run(self, job: Job, result: Mapping[str, Any]) -> Run:
        """How it ended; CageError where the result is not what a warden sends."""
        base = Run.without_output(job, Reason.SANDBOX_ERROR, "")
        try:
            peak = result["peak"]
            usage = Usage(result["wall_ms"], result["cpu_ms"], peak["memory"], peak["processes"], peak["scratch"])
            left = int(result["left"])
            skipped = [(plainly(str(name))[:1100], str(why)[:100]) for name, why in result["skipped"]][:100]
            gone = frozenset(map(str, result["gone"]))
            run = replace(
                base, reason=Reason(result["reason"]), exit_code=result["exit_code"], signal=result["signal"],
                stdout=bytes(self._streams[b"O"]), stderr=bytes(self._streams[b"E"]),
                stdout_truncated=bool(result["stdout_truncated"]), stderr_truncated=bool(result["stderr_truncated"]),
                usage=usage, files=tuple(self._files), files_skipped=(*self._skipped, *skipped),
                files_gone=tuple(sorted(gone & job.files.keys())),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise CageError(f"the result is not what a warden sends: {error!r}") from error
        return replace(run, reason=Reason.SANDBOX_ERROR, detail=f"{left} processes would not end") if left else run
