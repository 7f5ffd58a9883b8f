"""Output is told while the run goes on, to those who asked; whoever hangs up, or says so, ends the run, and that is on record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from sandbox.model import Job
from sandbox.result import Run
from sandbox.runner import Hooks
from tests.mcp.world import allow_with, connected, modern_body, modern_headers
from tests.sandbox_road.scripted import Scene, ended, scene

ARGUMENTS = {"code": "print(1)"}


@pytest.fixture
async def caged(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(tmp_path) as made:
        yield made


class Talks:
    """Says a word, and another one once it is told to go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.gone = asyncio.Event()
        self.started = asyncio.Event()

    async def __call__(self, job: Job, hooks: Hooks) -> Run:
        self.started.set()
        try:
            if hooks.output is not None:
                hooks.output("stdout", "erst ä".encode()[:-1])
                hooks.output("stdout", "ä".encode()[1:])
                hooks.output("stderr", b"!")
            await self.go_on.wait()
            if hooks.output is not None:
                hooks.output("stdout", b"then")
            return ended(job, stdout="erst äthen".encode(), stderr=b"!")
        finally:
            self.gone.set()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_output_is_told_before_the_run_has_ended(caged: Scene, mode: str) -> None:
    talks = caged.runner.script = Talks()
    heard: list[str] = []
    counts: list[float] = []

    async def told(progress: float, _total: float | None, message: str | None) -> None:
        counts.append(progress)
        heard.append(message or "")
        if "ä" in "".join(heard):
            talks.go_on.set()  # it goes on only because somebody has heard of its beginning

    async with connected(caged.world, mode, server="sandbox") as client:
        result = await client.call_tool("run_python", ARGUMENTS, progress_callback=told)
    assert result.structured_content["stdout"] == "erst äthen"
    assert "".join(heard).replace("!", "") == "erst äthen"
    assert counts == sorted(set(counts))


async def test_nobody_is_told_who_has_not_asked(caged: Scene) -> None:
    talks = caged.runner.script = Talks()
    talks.go_on.set()
    answer = await caged.world.modern("anna", "tools/call", server="sandbox", name="run_python", arguments=ARGUMENTS)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"]["structuredContent"]["reason"] == "ok"


async def test_what_a_duty_redacts_is_not_told_on_the_way_either(caged: Scene) -> None:
    talks = caged.runner.script = Talks()
    talks.go_on.set()
    caged.world.verdicts["*", "sandbox.run_python"] = allow_with("redact-result", fields=["iban"])
    arguments: dict[str, Any] = {"name": "run_python", "arguments": ARGUMENTS}
    answer = await caged.world.modern("anna", "tools/call", server="sandbox", meta={"progressToken": "t"}, **arguments)
    assert answer.headers["content-type"] == "application/json"
    assert "notifications/progress" not in answer.text


async def test_a_caller_of_the_stateless_era_who_hangs_up_ends_the_run(caged: Scene) -> None:
    talks = caged.runner.script = Talks()
    params: dict[str, Any] = {"name": "run_python", "arguments": ARGUMENTS}
    body = modern_body("tools/call", 1, {"progressToken": 1}, **params)
    headers = modern_headers("tools/call", **params) | caged.world.token("anna")
    headers |= {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    async with caged.world.client.stream("POST", "/mcp/sandbox", json=body, headers=headers) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                break
    await talks.gone.wait()
    end = await caged.world.ledger.until("sandbox.end")
    closed = await caged.world.ledger.until("call.end")
    assert end.fields["reason"] == "cancelled"
    assert closed.fields["outcome"]["status"] == "interrupted"


async def test_the_official_client_that_is_cancelled_ends_the_run(caged: Scene) -> None:
    talks = caged.runner.script = Talks()
    async with connected(caged.world, "auto", server="sandbox") as client:
        running = asyncio.create_task(client.call_tool("run_python", ARGUMENTS))
        await talks.started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await talks.gone.wait()
    assert (await caged.world.ledger.until("sandbox.end")).fields["reason"] == "cancelled"


async def legacy_run(caged: Scene, session: str, rpc_id: Any, person: dict[str, str]) -> Any:
    return await caged.world.post(
        None,
        {"jsonrpc": "2.0", "id": rpc_id, "method": "tools/call", "params": {"name": "run_python", "arguments": ARGUMENTS}},
        server="sandbox",
        headers={"mcp-protocol-version": "2025-11-25", "mcp-session-id": session} | person,
    )


async def cancel(caged: Scene, session: str, rpc_id: Any, person: dict[str, str]) -> int:
    body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": rpc_id}}
    headers = {"mcp-protocol-version": "2025-11-25"} | ({"mcp-session-id": session} if session else {}) | person
    return (await caged.world.post(None, body, server="sandbox", headers=headers)).status_code


async def opened(caged: Scene, person: dict[str, str]) -> str:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    answer = await caged.world.post(None, body, server="sandbox", headers=person)
    return str(answer.headers["mcp-session-id"])


async def test_only_the_session_that_began_a_run_cancels_it_and_by_its_very_id(caged: Scene) -> None:
    talks = caged.runner.script = Talks()
    anna = caged.world.token("anna")
    session, other = await opened(caged, anna), await opened(caged, anna)
    running = asyncio.create_task(legacy_run(caged, session, 7, anna))
    await talks.started.wait()
    assert await cancel(caged, other, 7, anna) == 202  # another session of the same person
    assert await cancel(caged, "", 7, anna) == 202  # none at all
    assert await cancel(caged, session, "7", anna) == 202  # a text is another id than a number
    assert await cancel(caged, session, 8, anna) == 202
    bert = caged.world.token("bert")
    assert await cancel(caged, await opened(caged, bert), 7, bert) == 202  # another person
    assert not talks.gone.is_set()
    assert await cancel(caged, session, 7, anna) == 202
    answer = (await running).json()
    assert answer["error"]["code"] == -32800
    assert talks.gone.is_set()
    assert (await caged.world.ledger.until("sandbox.end")).fields["reason"] == "cancelled"


async def test_a_caller_of_the_older_era_who_hangs_up_has_not_cancelled(caged: Scene) -> None:
    talks = caged.runner.script = Talks()
    anna = caged.world.token("anna")
    session = await opened(caged, anna)
    running = asyncio.create_task(legacy_run(caged, session, 7, anna))
    await talks.started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    talks.go_on.set()
    end = await caged.world.ledger.until("sandbox.end")
    assert end.fields["reason"] == "ok"


async def test_two_clients_of_one_person_hear_of_their_own_runs_alone(caged: Scene) -> None:
    async def says_its_code(job: Job, hooks: Hooks) -> Run:
        if hooks.output is not None:
            hooks.output("stdout", job.code.encode())
        return ended(job, stdout=job.code.encode())

    caged.runner.script = says_its_code
    heard: dict[str, list[str]] = {"one": [], "two": []}

    async def run(code: str, client: Client) -> None:
        async def told(_progress: float, _total: float | None, message: str | None) -> None:
            heard[code].append(message or "")

        await client.call_tool("run_python", {"code": code}, progress_callback=told)

    headers = caged.world.token("anna")
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http,
        Client(streamable_http_client(f"{caged.world.url}/mcp/sandbox", http_client=http)) as first,
        Client(streamable_http_client(f"{caged.world.url}/mcp/sandbox", http_client=http)) as second,
    ):
        await asyncio.gather(run("one", first), run("two", second))
    assert heard == {"one": ["one"], "two": ["two"]}
