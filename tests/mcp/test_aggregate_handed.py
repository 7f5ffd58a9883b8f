"""`/mcp` at two replicas without stickiness: a call that one of them holds is gone on with at whichever its client comes to."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace as with_stages
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.mcp.aggregate.handed import Back
from gateway.model import Refused
from gateway.reasons import Code
from tests.mcp.aggregate_world import Heard, of_era
from tests.mcp.scripted import FORM_QUESTION, SSE, done, event, scripted, where
from tests.mcp.test_aggregate_held import ACCEPT, CAN, again, asked
from tests.mcp.test_aggregate_questions import both
from tests.mcp.test_aggregate_replicas import postgres, replicas, url
from tests.mcp.world import modern_body, modern_headers
from tests.upstream.wire import Reader, Upstream, Writer, upstream

__all__ = ["postgres", "url"]
LEGACY = "legacy"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No replica is given more than a moment to take a client's word."""
    monkeypatch.setattr("gateway.mcp.aggregate.handed.TAKEN_SECONDS", 0.5)


def asking(times: int, *, size: int = 1) -> Any:
    """A server with sessions that asks so often within one call, tells how it goes on, and answers with so much."""
    answers: asyncio.Queue[Any] = asyncio.Queue()

    def progress(n: int) -> bytes:
        return event({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": "t", "progress": n}})

    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        writer.write(SSE)
        for n in range(times):
            writer.write(progress(n) + event({**FORM_QUESTION, "id": n}))
            await answers.get()
        said = done(body["id"])
        said["result"]["content"] = [{"type": "text", "text": "x" * size}]
        writer.write(progress(times) + event(said) + b"0\r\n\r\n")

    base = scripted(say)

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        async def watched(reader: Reader) -> bytes:
            request = await Upstream.request(there, reader)
            content = request.partition(b"\r\n\r\n")[2]
            if content and b'"method"' not in content:
                answers.put_nowait(json.loads(content))
            return request

        there.request = watched  # type: ignore[method-assign]
        await base(there, reader, writer)

    return script


async def told(world: Any, token: str | None, **more: Any) -> list[Any]:
    """All that one request for the tool is answered with."""
    body = modern_body("tools/call", 7, CAN | ({"progressToken": token} if token else {}), name="srv__t", arguments={}, **more)
    headers = modern_headers("tools/call", name="srv__t") | world.token("anna")
    headers |= {"accept": "application/json, text/event-stream"}
    heard = []
    async with asyncio.timeout(30), world.client.stream("POST", "/mcp", json=body, headers=headers) as response:
        if "event-stream" not in response.headers["content-type"]:
            return [json.loads(await response.aread())]
        stream = Heard(response)
        while said := await stream.next():
            heard.append(said)
    return heard


async def test_a_call_goes_on_at_another_replica_as_at_its_own_and_is_one_call_to_the_server(
    tmp_path: Path, server_url: str, url: str
) -> None:
    async with replicas(tmp_path, url, both(server_url)) as (first, second, _):
        for here, there in ((first, second), (second, first)):
            question = await asked(here)
            assert "Ada" in json.dumps(await asked(there, **again(question)))
        calls = [
            entry
            for world in (first, second)
            for entry in world.ledger.entries
            if entry.kind == "call.start" and entry.fields.get("tool") == "test_elicitation"
        ]
        assert len(calls) == 2


async def test_what_is_said_between_questions_comes_to_whichever_request_is_open_and_a_long_answer_comes_whole(
    tmp_path: Path, url: str
) -> None:
    size = 700_000
    async with (
        upstream(asking(3, size=size)) as there,
        replicas(tmp_path, url, {"srv": of_era("srv", where(there), LEGACY)}) as (first, second, _),
    ):
        heard: list[Any] = []
        more: dict[str, Any] = {}
        for number, world in enumerate((first, second, second, first)):
            heard.append(await told(world, f"t-{number}", **more))
            if "inputRequests" in heard[-1][-1]["result"]:
                more = again(heard[-1][-1]["result"])
    progress = [said[0]["params"] for said in heard]
    assert [(each["progress"], each["progressToken"]) for each in progress] == [(n, f"t-{n}") for n in range(4)]
    assert [said[-1]["id"] for said in heard] == [7] * 4
    assert [len(said) for said in heard] == [2] * 4
    (content,) = heard[-1][-1]["result"]["content"]
    assert len(content["text"]) == size


async def test_at_another_replica_what_is_no_answer_is_refused_and_the_call_still_waits(
    tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.mcp.aggregate.elsewhere.POLL_SECONDS", 0.02)
    async with replicas(tmp_path, f"sqlite:///{tmp_path}/state.db", both(server_url)) as (first, second, _):
        question = await asked(first)
        assert (await asked(second, **again(question, {"action": "maybe"})))["code"] == -32602
        other = {"arguments": {"message": "another call"}}
        assert (await asked(second, **again(question, ACCEPT, **other)))["code"] == -32602
        repeated = await asked(second, requestState=question["requestState"])
        assert [*repeated["inputRequests"].values()] == [*question["inputRequests"].values()]
        assert "Ada" in json.dumps(await asked(second, **again(repeated)))


@pytest.mark.usefixtures("quick")
async def test_attack_at_another_replica_nobody_else_goes_on_and_nobody_twice_and_what_is_left_is_sealed(
    tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.mcp.aggregate.elsewhere.POLL_SECONDS", 0.02)
    async with replicas(tmp_path, f"sqlite:///{tmp_path}/state.db", both(server_url)) as (first, second, _):
        question = await asked(first)
        assert (await asked(second, person="ben", **again(question)))["code"] == -32602
        assert "Ada" in json.dumps(await asked(second, **again(question)))
        for world in (second, first, second):
            assert (await asked(world, **again(question)))["code"] == -32602
        kept = await asyncio.to_thread((tmp_path / "state.db-wal").read_bytes)
        assert b"Ada" not in kept
        assert question["requestState"].encode() not in kept
        # two replicas at once: one of them goes on, the other is refused
        question = await asked(first)
        said = await asyncio.gather(*(asked(world, **again(question)) for world in (second, second)))
        assert sorted("Ada" in json.dumps(each) for each in said) == [False, True]


@pytest.mark.usefixtures("quick")
async def test_where_the_replica_of_a_call_has_gone_another_says_so_soon(
    tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.mcp.aggregate.elsewhere.POLL_SECONDS", 0.02)
    async with replicas(tmp_path, f"sqlite:///{tmp_path}/state.db", both(server_url)) as (first, second, state):
        question = await asked(first)
        monkeypatch.setattr("gateway.mcp.aggregate.held.ANSWER_SECONDS", 0.0)
        await asked(first, requestState=question["requestState"])  # asked again, and given up at once
        await first.ledger.until("decision.deny")
        assert (await asked(second, **again(question)))["code"] == -32602
        await state.close()
        assert (await asked(second, **again(question)))["code"] == -32603
    assert "decision.deny" in second.ledger.kinds()


async def test_a_client_that_hangs_up_at_another_replica_has_cancelled_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.mcp.aggregate.elsewhere.POLL_SECONDS", 0.02)

    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        if body["method"] != "tools/call":
            return
        writer.write(SSE + event(FORM_QUESTION))
        await asyncio.sleep(0.3)
        writer.write(event({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}}))
        await asyncio.sleep(60)

    async with (
        upstream(scripted(say)) as there,
        replicas(tmp_path, f"sqlite:///{tmp_path}/state.db", {"srv": of_era("srv", where(there), LEGACY)}) as (first, second, _),
    ):
        (question,) = await told(first, None)
        body = modern_body("tools/call", 1, CAN | {"progressToken": 1}, name="srv__t", arguments={}, **again(question["result"]))
        headers = modern_headers("tools/call", name="srv__t") | second.token("anna")
        headers |= {"accept": "application/json, text/event-stream"}
        async with asyncio.timeout(20), second.client.stream("POST", "/mcp", json=body, headers=headers) as response:
            await Heard(response).next()
        async with asyncio.timeout(10):
            while not any(b"notifications/cancelled" in request for request in there.requests):  # noqa: ASYNC110  what a server has heard wakes nobody
                await asyncio.sleep(0.02)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fails", [True, False])
async def test_attack_a_call_whose_client_leaves_before_it_is_told_that_it_was_taken_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr("gateway.mcp.aggregate.elsewhere.POLL_SECONDS", 0.02)

    async def taken(*_: object) -> None:
        if fails:
            raise Refused(Code.LEDGER_UNAVAILABLE, "the store is away")
        await asyncio.sleep(60)  # it is slow: the client is gone by then

    monkeypatch.setattr(Back, "taken", taken)

    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        if body["method"] == "tools/call":
            writer.write(SSE + event(FORM_QUESTION))
            await asyncio.sleep(60)

    async with (
        upstream(scripted(say)) as there,
        replicas(tmp_path, f"sqlite:///{tmp_path}/state.db", {"srv": of_era("srv", where(there), LEGACY)}) as (first, second, _),
    ):
        (question,) = await told(first, None)
        assert "error" in (await told(second, None, **again(question["result"])))[-1]
        async with asyncio.timeout(5):
            while not any(b"notifications/cancelled" in request for request in there.requests):  # noqa: ASYNC110  as above
                await asyncio.sleep(0.02)


async def test_a_call_that_goes_on_at_another_replica_ends_in_time_though_nobody_says_that_its_client_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.mcp.aggregate.elsewhere.POLL_SECONDS", 0.02)

    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        if body["method"] == "tools/call":
            writer.write(SSE + event(FORM_QUESTION))
            await asyncio.sleep(60)

    async with (
        upstream(scripted(say)) as there,
        replicas(tmp_path, f"sqlite:///{tmp_path}/state.db", {"srv": of_era("srv", where(there), LEGACY)}) as (first, second, _),
    ):
        (question,) = await told(first, None)
        first.aggregate._held._seconds = 0.3
        (answer,) = await told(second, None, **again(question["result"]))
        assert answer["error"]["data"]["code"] == "upstream-timeout"
        async with asyncio.timeout(5):
            while not any(b"notifications/cancelled" in request for request in there.requests):  # noqa: ASYNC110  as above
                await asyncio.sleep(0.02)


async def test_attack_a_credential_of_another_scope_does_not_go_on_with_a_call_that_another_replica_holds(
    tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.mcp.aggregate.elsewhere.POLL_SECONDS", 0.02)
    async with replicas(tmp_path, f"sqlite:///{tmp_path}/state.db", both(server_url)) as (first, second, _):
        question = await asked(first)
        authenticate = second.stages.authenticate

        async def narrower(arrival: Any) -> Any:
            return replace(await authenticate(arrival), scope=("mcp://old/another",))

        second.aggregate.enforce(with_stages(second.stages, authenticate=narrower), lambda *_: True)
        assert (await asked(second, **again(question)))["code"] == -32602
        assert "Ada" in json.dumps(await asked(first, **again(question)))
