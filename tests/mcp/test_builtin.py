"""The built-in sandbox server answers both eras itself, and runs only what it was asked to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.builtin import BuiltinServer
from gateway.model import Refused
from gateway.reasons import Code
from gateway.upstream.registry import McpTarget
from tests.mcp.world import World, allow_with, answer_of, connected, gateway

ARGUMENTS = {"code": "print(1)", "network": False, "memory_mb": 64}


class Cage:
    """Stands for the sandbox: remembers what it ran, and says what it is told to."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, str | None, str]] = []
        self.outcome: dict[str, Any] | Refused = {"reason": "ok", "exit_code": 0, "stdout": "1\n", "stderr": "", "guarantees": {}}

    async def run(self, code: str, profile: str | None, job_id: str) -> Mapping[str, Any]:
        self.ran.append((code, profile, job_id))
        if isinstance(self.outcome, Refused):
            raise self.outcome
        return self.outcome


@pytest.fixture
async def caged(tmp_path: Path) -> AsyncIterator[tuple[World, Cage]]:
    cage = Cage()
    targets = {"sandbox": McpTarget("sandbox", "builtin")}
    async with gateway(tmp_path, targets, others={"sandbox": BuiltinServer(cage.run)}) as world:
        yield world, cage


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_runs_code(caged: tuple[World, Cage], mode: str) -> None:
    world, cage = caged
    async with connected(world, mode, server="sandbox") as client:
        (tool,) = (await client.list_tools()).tools
        result = await client.call_tool("run_python", ARGUMENTS)
    assert set(tool.input_schema["required"]) == set(ARGUMENTS)
    assert not result.is_error
    assert result.structured_content["stdout"] == "1\n"
    started = next(entry for entry in world.ledger.entries if entry.fields.get("tool") == "run_python")
    assert cage.ran == [("print(1)", None, started.id)]


async def call(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    answer = await world.modern("anna", "tools/call", server="sandbox", name="run_python", arguments=arguments)
    result: dict[str, Any] = answer_of(answer)["result"]
    return result


async def test_the_profile_that_a_duty_names_is_the_one_it_runs_under(caged: tuple[World, Cage]) -> None:
    world, cage = caged
    world.verdicts["*", "sandbox.run_python"] = allow_with("sandbox", profile="strict")
    await call(world, ARGUMENTS)
    assert cage.ran[0][1] == "strict"


async def test_a_run_that_fails_is_a_tool_error(caged: tuple[World, Cage]) -> None:
    world, cage = caged
    cage.outcome = {"reason": "timeout", "exit_code": None, "stdout": "", "stderr": ""}
    result = await call(world, ARGUMENTS)
    assert result["isError"]
    assert "timeout" in result["content"][0]["text"]
    assert world.ledger.entries[-1].fields["outcome"]["status"] == "tool-error"  # type: ignore[index]


async def test_unproven_isolation_is_a_refusal(caged: tuple[World, Cage]) -> None:
    world, cage = caged
    cage.outcome = Refused(Code.ISOLATION_UNPROVEN, "net_none")
    result = await call(world, ARGUMENTS)
    assert result["isError"]
    assert "isolation-unproven" in result["content"][0]["text"]
    assert "net_none" not in str(result)


@pytest.mark.parametrize(
    "changes",
    [
        {"code": 1},
        {"network": True},
        {"network": 0},
        {"memory_mb": 513},
        {"memory_mb": 0},
        {"memory_mb": True},
        {"memory_mb": "64"},
        {"extra": 1},
        {"code": None},
    ],
)
async def test_arguments_that_do_not_fit_run_nothing(caged: tuple[World, Cage], changes: dict[str, Any]) -> None:
    world, cage = caged
    assert (await call(world, ARGUMENTS | changes))["isError"]
    assert cage.ran == []


async def test_every_argument_is_asked_for(caged: tuple[World, Cage]) -> None:
    world, cage = caged
    for name in ARGUMENTS:
        assert (await call(world, {key: value for key, value in ARGUMENTS.items() if key != name}))["isError"]
    assert cage.ran == []
