"""What the ledger says of an MCP server that the gateway started: for whose session, under which profile, what was proven.

A start is durable before the program is started.  An end that cannot be recorded is told in the log: the next start is refused.
"""

from __future__ import annotations

import logging
from typing import Final

from gateway.model import Clock, Intent, Refused
from gateway.sandbox.records import Append, RunRecords, whose
from gateway.settings_outbound import UNCAGED
from sandbox.model import IsolationUnprovenError, Profile, words
from sandbox.names import canonical_digest
from sandbox.result import Run
from sandbox.runner import Report, Served

log = logging.getLogger("gateway.sandbox")

_TEXT: Final = 256


class Ledger:
    """Where the records of children go: nowhere without `append`."""

    def __init__(self, append: Append | None, clock: Clock) -> None:
        self._records = None if append is None else ChildRecords(append, clock)

    def book(self, intent: Intent | None, server: str, profile: Profile | None) -> Book:
        """For one child; a `profile` None is no cage.  Without an intent it is nobody's, and nothing is recorded."""
        return Book(None if self._records is None or intent is None else (self._records, intent), server, profile)


class Book:
    """The records of one child."""

    def __init__(self, to: tuple[ChildRecords, Intent] | None, server: str, profile: Profile | None) -> None:
        self._to = to
        named = {"profile": UNCAGED} if profile is None else {"profile": profile.name, "profile_digest": profile.digest}
        self._about: dict[str, object] = {"server": server, **named}
        self._profile = profile
        self._start = ""

    async def start(
        self, line: tuple[str, ...], backend: str = "none", by: Report | None = None, *, folder: bool = False
    ) -> None:
        """Before it is started, with a folder that lasts or without; `Refused(LEDGER_UNAVAILABLE)` where that is not durable."""
        said: dict[str, object] = {"command_sha256": canonical_digest({"command": line}), "backend": backend}
        if by is None or self._profile is None:
            said |= {"guarantees": {}, "layers": {}}
        else:
            said |= {
                "probe": "" if self._to is None else await self._to[0].relied(by, self._to[1].permit.principal.tenant),
                "limits": self._profile.limits.to_dict(),
                "requires": words(self._profile.wanted),
                "guarantees": words(by.guarantees),
                "layers": dict(by.layers),
                "network": len(self._profile.network),
                "folder": folder,
            }
        self._start = await self._write("sandbox.start", said)

    async def refused(self, error: IsolationUnprovenError) -> None:
        """That it was not started, since isolation was not proven: where not even a cage was tried, it has no start."""
        missing = {str(name): f"wanted {want.word}, got {got.word}" for name, (want, got) in error.missing.items()}
        await self._write("sandbox.end", self._ending("refused", error.help) | {"missing": missing})

    async def cut(self, reason: str, detail: str = "") -> None:
        """That it ended, or came to nothing, where no cage says how."""
        if self._start:
            await self._written(self._ending(reason, detail))

    async def end(self, served: Served, run: Run, connections: int) -> None:
        """How it ended."""
        await self._written(self._ending(str(run.reason), run.detail) | {
            "exit_code": run.exit_code,
            "signal": run.signal,
            "usage": run.usage.to_dict(),
            "guarantees": words(served.guarantees),
            "layers": dict(served.layers),
            "connections": connections,
        })  # fmt: skip

    def _ending(self, reason: str, detail: str) -> dict[str, object]:
        return {"start": self._start, "reason": reason, "detail": detail[:_TEXT]}

    async def _written(self, fields: dict[str, object]) -> None:
        try:
            await self._write("sandbox.end", fields)
        except Refused as error:
            log.error("the end of mcp.%s could not be recorded: %s", self._about["server"], error)

    async def _write(self, kind: str, fields: dict[str, object]) -> str:
        if self._to is None:
            return ""
        records, intent = self._to
        return await records.child(kind, intent, self._about | fields)


class ChildRecords(RunRecords):
    """Writes `sandbox.start` and `sandbox.end` with a server's id, and the probes that they rely on."""

    async def child(self, kind: str, intent: Intent, fields: dict[str, object]) -> str:
        """One of them, for the call that opened the session; the record's id."""
        return await self._write(kind, intent, whose(intent) | fields)
