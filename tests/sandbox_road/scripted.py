"""The sandbox's server on a real socket over a runner that is told what to do: for what a cage has no part in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gateway.model import Permit, Principal, wall_clock
from gateway.sandbox.choice import Choice
from gateway.sandbox.folders import Folders
from gateway.sandbox.kept import Kept
from gateway.sandbox.queue import FairQueue
from gateway.sandbox.records import RunRecords
from gateway.sandbox.runs import Parts, Sandboxed
from gateway.sandbox.server import SandboxServer
from gateway.upstream.registry import McpTarget
from sandbox.model import Guarantee, IsolationUnprovenError, Job, Language, Profile, Reason, Strength
from sandbox.profiles import load_profiles
from sandbox.result import Artifact, Run, Usage
from sandbox.runner import Finding, Hooks, Offer, Program, Report, Served
from tests.mcp.world import World, gateway

DEFAULT = "no-network-512mb"
SHIPPED = load_profiles()[DEFAULT]
Script = Callable[[Job, Hooks], Awaitable[Run]]


def ended(job: Job, **changes: Any) -> Run:
    """A run that ended well, but for `changes`."""
    run = Run(
        id=job.id, reason=Reason.OK, exit_code=0, signal=None, stdout=b"", stderr=b"", stdout_truncated=False,
        stderr_truncated=False, usage=Usage(), guarantees=job.profile.wanted, layers={}, code_sha256=job.code_sha256,
        backend="scripted", probe_id="p", profile_digest=job.profile.digest, inputs_digest=job.inputs_digest(),
    )  # fmt: skip
    return replace(run, **changes)


async def prints_one(job: Job, _hooks: Hooks) -> Run:
    return ended(job, stdout=b"1\n")


@dataclass
class Scripted:
    """A runner that proves everything, and does what `script` says."""

    script: Script = prints_one
    ran: list[Job] = field(default_factory=list)
    name: str = "scripted"
    strength: Strength = Strength.HARD
    languages: frozenset[Language] = frozenset(Language)

    async def probe(self) -> Report:
        findings = {guarantee: Finding(self.strength) for guarantee in Guarantee}
        offers = MappingProxyType({language: Offer("/bin/true", "1", "0" * 64) for language in self.languages})
        return Report(self.name, findings, {}, 0.0, languages=offers)

    async def run(self, job: Job, hooks: Hooks = Hooks()) -> Run:  # noqa: B008
        (await self.probe()).require(job.profile)
        self.ran.append(job)
        return await self.script(job, hooks)

    async def serve(self, program: Program, hooks: Hooks = Hooks()) -> Served:  # noqa: B008
        raise NotImplementedError

    def forget(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


@dataclass
class Scene:
    """The gateway, the runner behind it, and what the sandbox keeps."""

    world: World
    runner: Scripted
    sandboxed: Sandboxed
    queue: FairQueue
    kept: Kept

    async def call(self, tool: str = "run_python", person: str = "anna", meta: Any = None, **arguments: Any) -> dict[str, Any]:
        """The JSON-RPC answer to one call in the stateless era."""
        from tests.mcp.world import answer_of

        answer = await self.world.modern(person, "tools/call", server="sandbox", meta=meta, name=tool, arguments=arguments)
        return answer_of(answer)

    async def result(self, tool: str = "run_python", person: str = "anna", **arguments: Any) -> dict[str, Any]:
        """Its result."""
        result: dict[str, Any] = (await self.call(tool, person, **arguments))["result"]
        return result

    def entries(self, kind: str) -> list[Any]:
        """What is on record of that kind."""
        return [entry for entry in self.world.ledger.entries if entry.kind == kind]


@asynccontextmanager
async def scene(
    folder: Path, profiles: Mapping[str, Profile] | None = None, *, concurrency: int = 4, waiting: int = 64, of_one: int = 16
) -> AsyncIterator[Scene]:
    """A gateway whose `sandbox` server runs what a test scripts."""
    runner, held = Scripted(), []
    known = {DEFAULT: SHIPPED} | dict(profiles or {})

    def judge(_principal: Principal) -> Any:
        return held[0].decide

    async def duties(permit: Permit) -> Permit:
        from gateway.obligations import fulfil

        return await fulfil(permit)

    async def append(entry: Any) -> Any:
        return await held[0].ledger.append(entry)

    queue, kept = FairQueue(concurrency, waiting, of_one), Kept(900, 1 << 20, 8 << 20)
    choice = Choice(known, DEFAULT, judge, duties)
    folders = Folders(folder / "sessions", b"k" * 32, wall_clock, most=8, most_of_one=4)
    records = RunRecords(append, wall_clock)
    sandboxed = Sandboxed(Parts(known, (runner,), choice, queue, records, kept, folders, "sandbox"))
    targets = {"sandbox": McpTarget("sandbox", "builtin")}
    others = {"sandbox": SandboxServer(sandboxed)}
    async with gateway(folder, targets, others=others, further=sandboxed.fulfil) as world:
        held.append(world)
        yield Scene(world, runner, sandboxed, queue, kept)


def left(**files: bytes) -> tuple[Artifact, ...]:
    """Files that a run leaves; `__` in a name stands for a dot."""
    return tuple(Artifact.of(name.replace("__", "."), data) for name, data in files.items())


async def until_cancelled(job: Job, _hooks: Hooks) -> Run:
    """A run that never ends by itself."""
    await asyncio.Event().wait()
    return ended(job)


__all__ = ["DEFAULT", "SHIPPED", "IsolationUnprovenError", "Scene", "Scripted", "ended", "left", "scene", "until_cancelled"]
