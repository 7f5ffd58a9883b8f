"""What the ledger says of a run: which code, under which profile, what was proven, how it ended.  Digests, never the code itself.

The probe that a run relies on is durable before the run's start, that before its code is handed over, its end before anything
of it is released.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256

import orjson

from audit.model import Entry, LedgerUnavailableError, Receipt, Value
from gateway.decided import SUBJECT
from gateway.model import Clock, Intent, Refused, new_id
from gateway.reasons import Code
from sandbox.model import IsolationUnprovenError, Job, words
from sandbox.result import Run
from sandbox.runner import Report

Append = Callable[[Entry], Awaitable[Receipt]]


_TOLD = 64
"""Probes that are remembered as recorded; one that was forgotten is recorded again."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What a run did through the gateway: calls back, and connections of its network, with how many of them were refused."""

    calls: int = 0
    refused: int = 0
    connections: int = 0


class Cut(Enum):
    """Why a run had no end of its own; the reasons are the sandbox's."""

    CANCELLED = "cancelled"
    REFUSED = "refused"
    FAILED = "sandbox_error"


class RunRecords:
    """Writes `sandbox.probe`, `sandbox.start` and `sandbox.end`; `Refused(LEDGER_UNAVAILABLE)` where they are not durable."""

    def __init__(self, append: Append, clock: Clock) -> None:
        self._append = append
        self._clock = clock
        self._told: dict[tuple[str, str], None] = {}
        self._telling = asyncio.Lock()

    async def relied(self, report: Report, tenant: str) -> str:
        """The id of a probe that is on record for a tenant with all that it found: from now on, where it was not yet."""
        found = report.id
        async with self._telling:
            if (tenant, found) not in self._told:
                fields = {
                    "probe": found,
                    "backend": report.backend,
                    "guarantees": words(report.guarantees),
                    "layers": dict(report.layers),
                    "languages": {str(name): offer.version for name, offer in report.languages.items()},
                    "problem": report.problem[:256],
                }
                values = (Value("report", orjson.dumps(report.to_dict())),)
                await self._appended("sandbox.probe", None, tenant, fields, values)
                self._told[tenant, found] = None
                if len(self._told) > _TOLD:
                    del self._told[next(iter(self._told))]
        return found

    async def start(self, intent: Intent, job: Job, backend: str, report: Report) -> str:
        """Before the code is handed over; the record's id."""
        profile, probe = job.profile, await self.relied(report, intent.permit.principal.tenant)
        fields = whose(intent) | _which(job) | {
            "backend": backend,
            "probe": probe,
            "limits": profile.limits.to_dict(),
            "requires": words(profile.wanted),
            "packages": profile.packages or "",
            "network": len(profile.network),
            "tools": profile.tools,
            "files": len(job.files),
        }  # fmt: skip
        given = {name: sha256(data).hexdigest() for name, data in job.files.items()}
        values = (Value("inputs", orjson.dumps(given)),) if given else ()
        return await self._write("sandbox.start", intent, fields, values)

    async def end(self, intent: Intent, start: str, job: Job, run: Run, beside: Beside) -> None:
        """How it ended."""
        fields = whose(intent) | _which(job) | {
            "start": start,
            "backend": run.backend,
            "probe": run.probe_id,
            "reason": str(run.reason),
            "detail": run.detail[:256],
            "exit_code": run.exit_code,
            "signal": run.signal,
            "usage": run.usage.to_dict(),
            "guarantees": words(run.guarantees),
            "layers": dict(run.layers),
            "packages": run.packages,
            "inputs_digest": run.inputs_digest,
            "outputs_digest": run.outputs_digest,
            "stdout": _digest(run.stdout, cut=run.stdout_truncated),
            "stderr": _digest(run.stderr, cut=run.stderr_truncated),
            "files": {
                "count": len(run.files), "bytes": sum(file.size for file in run.files), "skipped": len(run.files_skipped)
            },
            "calls": {"made": beside.calls, "refused": beside.refused},
            "connections": beside.connections,
        }  # fmt: skip
        left = {file.name: file.sha256 for file in run.files}
        values = (Value("outputs", orjson.dumps(left)),) if left else ()
        await self._write("sandbox.end", intent, fields, values)

    async def cut(  # noqa: PLR0917  what a record of it says, in its order
        self, intent: Intent, start: str, job: Job, beside: Beside, why: Cut, detail: str
    ) -> None:
        """That it had no end of its own."""
        said = {"reason": why.value, "detail": detail[:256], "calls": {"made": beside.calls, "refused": beside.refused}}
        await self._write("sandbox.end", intent, whose(intent) | _which(job) | {"start": start} | said)

    async def unproven(self, intent: Intent, start: str, job: Job, error: IsolationUnprovenError) -> None:
        """That nothing was run, since isolation was not proven; `start` is "" where not even a cage was tried."""
        missing = {str(name): f"wanted {want.word}, got {got.word}" for name, (want, got) in error.missing.items()}
        said: dict[str, object] = {"start": start, "reason": "refused", "missing": missing, "detail": error.help[:256]}
        await self._write("sandbox.end", intent, whose(intent) | _which(job) | said)

    async def _write(self, kind: str, intent: Intent, fields: Mapping[str, object], values: tuple[Value, ...] = ()) -> str:
        principal = intent.permit.principal
        return await self._appended(kind, principal.subject, principal.tenant, fields, values)

    async def _appended(
        self, kind: str, subject: str | None, tenant: str, fields: Mapping[str, object], values: tuple[Value, ...]
    ) -> str:
        now = self._clock()
        entry = Entry(kind, new_id(now), now, subject, fields, values, tenant=tenant)
        try:
            await self._append(entry)
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error
        return entry.id


def whose(intent: Intent) -> dict[str, object]:
    """The call, the workflow and the trace that it belongs to."""
    call, principal = intent.permit.call, intent.permit.principal
    return {
        "call": call.arrival.id,
        **({"start_index": intent.start_index} if intent.start_index >= 0 else {}),
        "workflow": principal.workflow,
        "tenant": principal.tenant,
        "chain": [("user", SUBJECT), *[("agent", actor) for actor in principal.actors]],
        "trace": call.trace.trace_id,
        "span": call.trace.span_id,
    }


def _which(job: Job) -> dict[str, object]:
    return {
        "language": str(job.language),
        "code_sha256": job.code_sha256,
        "profile": job.profile.name,
        "profile_digest": job.profile.digest,
    }


def _digest(output: bytes, *, cut: bool) -> dict[str, object]:
    return {"sha256": sha256(output).hexdigest(), "bytes": len(output), "truncated": cut}
