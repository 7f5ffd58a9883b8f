"""What the endpoint promises at its socket: hang-ups, streams, bounds, and answers when something is down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.settings import Limits
from gateway.upstream.client import Upstreams
from tests.mcp.world import DENY, MODERN, World, allow_with, answer_of, gateway, modern_body, modern_headers
from tests.upstream.wire import Reader, Script, Upstream, Writer, saying, upstream

JSON = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"done"}],"resultType":"complete"}}'
PROGRESS = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(data: bytes) -> bytes:
    return chunk(b"event: message\ndata: " + data + b"\n\n")


def answering(body: bytes, status: int = 200) -> Script:
    return saying(JSON % (status, len(body), body), close=False)


async def call(world: World, **params: Any) -> httpx.Response:
    return await world.modern("anna", "tools/call", name="t", arguments={}, **params)


@pytest.fixture
async def quiet() -> AsyncIterator[tuple[Upstream, asyncio.Event]]:
    """An upstream that takes a request and says nothing; the event fires when it has one."""
    asked = asyncio.Event()

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        await there.request(reader)
        asked.set()
        await there.request(reader)

    async with upstream(script) as there:
        yield there, asked


def where(there: Upstream) -> str:
    return f"http://127.0.0.1:{there.port}/mcp"


async def hang_up(world: World, headers: dict[str, str], body: dict[str, Any], asked: asyncio.Event) -> None:
    """Send a call, and close the connection once the upstream has it."""
    host, port = world.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(body).encode()
    lines = {"host": f"{host}:{port}", "content-type": "application/json", "content-length": str(len(content))}
    head = "".join(f"{name}: {value}\r\n" for name, value in (lines | world.token("anna") | headers).items())
    writer.write(f"POST /mcp/ref HTTP/1.1\r\n{head}\r\n".encode() + content)
    await asked.wait()
    writer.close()
    await writer.wait_closed()


async def test_hanging_up_in_the_stateless_era_cancels_the_call_and_the_upstream_notices(
    tmp_path: Path, quiet: tuple[Upstream, asyncio.Event]
) -> None:
    there, asked = quiet
    async with gateway(tmp_path, {"ref": where(there)}) as world:
        await hang_up(world, modern_headers("tools/call", name="t"), modern_body("tools/call", name="t"), asked)
        await asyncio.wait_for(there.closed.wait(), 10)
        ended = await asyncio.wait_for(world.ledger.until("call.end"), 10)
    assert ended.fields["outcome"]["status"] == "interrupted"  # type: ignore[index]


async def test_hanging_up_in_the_era_of_handshakes_lets_the_call_finish(tmp_path: Path) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        await there.request(reader)
        asked.set()
        await answer.wait()
        writer.write(JSON % (200, len(DONE), DONE))

    async with upstream(script) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t"}}
        await hang_up(world, {"mcp-protocol-version": "2025-11-25"}, body, asked)
        answer.set()
        ended = await asyncio.wait_for(world.ledger.until("call.end"), 10)
    assert ended.fields["outcome"]["status"] == "ok"  # type: ignore[index]


async def test_the_official_servers_tool_is_cancelled_when_its_caller_hangs_up(world: World) -> None:
    async with httpx.AsyncClient(base_url=world.url, trust_env=False, verify=False) as other:
        headers = modern_headers("tools/call", name="gw_sleep") | world.token("anna") | {"content-type": "application/json"}
        meta = {"progressToken": 1}
        body = modern_body("tools/call", 1, meta, name="gw_sleep", arguments={"seconds": 30, "tag": "mine"})
        async with other.stream("POST", "/mcp/ref", json=body, headers=headers) as response:
            assert response.headers["content-type"] == "text/event-stream"
            await anext(response.aiter_lines())
    await asyncio.wait_for(world.ledger.until("call.end"), 10)
    for _ in range(100):
        seen = answer_of(await world.modern("anna", "tools/call", name="gw_events", arguments={}))
        marks = [mark["what"] for mark in json.loads(seen["result"]["content"][0]["text"]) if mark["tag"] == "mine"]
        if marks == ["start", "cancelled"]:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"not cancelled: {marks}")


async def test_events_are_passed_on_as_they_come_and_the_last_waits_for_its_record(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        await there.request(reader)
        writer.write(SSE + event(PROGRESS))
        await go_on.wait()
        writer.write(event(PROGRESS) + event(DONE) + b"0\r\n\r\n")

    async with upstream(script) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        headers = modern_headers("tools/call", name="t") | world.token("anna") | {"content-type": "application/json"}
        body = modern_body("tools/call", 1, {"progressToken": 1}, name="t")
        async with world.client.stream("POST", "/mcp/ref", json=body, headers=headers) as response:
            lines = response.aiter_lines()
            first = [await anext(lines) for _ in range(2)]
            assert "notifications/progress" in first[1]
            assert response.headers["x-accel-buffering"] == "no"
            assert response.headers["cache-control"] == "no-store"
            assert response.headers["bailiwick-decision"]
            assert response.headers["bailiwick-workflow"]
            assert world.ledger.kinds() == ["call.start"]
            go_on.set()
            rest = [line async for line in lines if line.startswith("data: ")]
    assert [json.loads(line[6:]).get("id") for line in rest] == [None, 1]
    assert world.ledger.kinds() == ["call.start", "call.end"]


async def test_a_final_word_that_cannot_be_recorded_is_not_released(tmp_path: Path) -> None:
    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        await there.request(reader)
        world.ledger.down = True
        writer.write(JSON % (200, len(DONE), DONE))

    async with upstream(script) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        answer = await call(world)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == -31503
    assert answer.json()["id"] == 1
    assert "done" not in answer.text


async def test_what_cannot_be_recorded_is_not_sent(tmp_path: Path) -> None:
    async with upstream(answering(DONE)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        world.ledger.down = True
        answer = await call(world)
        assert answer.status_code == 503
        assert answer.json()["error"]["data"]["code"] == "ledger-unavailable"
        assert there.requests == []


async def test_a_silent_stream_gets_heartbeats(tmp_path: Path) -> None:
    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        await there.request(reader)
        writer.write(SSE + event(PROGRESS))
        await asyncio.sleep(0.3)
        writer.write(event(DONE) + b"0\r\n\r\n")

    async with upstream(script) as there, gateway(tmp_path, {"ref": where(there)}, heartbeat=0.05) as world:
        answer = await call(world)
    assert answer.text.count("\n:") >= 2


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (answering(b"{}"), "protocol"),
        (answering(b"[]"), "protocol"),
        (answering(b"not json"), "protocol"),
        (answering(DONE.replace(b'"id":1', b'"id":2')), "protocol"),
        (answering(DONE.replace(b'"id":1', b'"id":"1"')), "protocol"),
        (answering(DONE.replace(b'"id":1', b'"id":1.0')), "protocol"),
        (answering(DONE.replace(b'"id":1', b'"id":true')), "protocol"),
        (answering(DONE.replace(b'{"content"', b'[{"content"').replace(b'"complete"}', b'"complete"}]')), "protocol"),
        (answering(DONE, 500), "status"),
        (answering(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"no"}}', 401), "status"),
        (saying(b"HTTP/1.1 500 X\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nno"), "status"),
        (saying(b"HTTP/1.1 302 X\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"), "status"),
        (saying(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi"), "protocol"),
        (saying(b"HTTP/1.1 202 OK\r\ncontent-length: 0\r\n\r\n"), "status"),
        (saying(b""), "closed"),
        (saying(SSE + b"0\r\n\r\n"), "closed"),
        (saying(SSE + event(PROGRESS) + b"0\r\n\r\n"), "closed"),
        (saying(SSE + event(b"not json")), "protocol"),
        (saying(SSE + event(b'{"jsonrpc":"2.0","id":9,"method":"sampling/createMessage","params":{}}')), "protocol"),
        (saying(SSE + event(DONE.replace(b'"id":1', b'"id":2'))), "protocol"),
    ],
)
async def test_an_answer_that_is_none_is_an_upstream_failure_with_its_kind_alone(
    tmp_path: Path, script: Script, kind: str
) -> None:
    async with upstream(script) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        answer = answer_of(await call(world))
    assert answer["id"] == 1
    assert answer["error"]["code"] == -31502
    assert answer["error"]["data"]["code"] == f"upstream-{kind}"
    ended = world.ledger.entries[-1]
    assert ended.fields["outcome"]["status"] == "upstream-error"  # type: ignore[index]
    assert str(there.port) not in json.dumps(answer)


async def test_an_upstream_that_is_down_or_stalls_is_an_upstream_failure(
    tmp_path: Path, quiet: tuple[Upstream, asyncio.Event]
) -> None:
    there, _ = quiet
    impatient = Upstreams(idle_seconds=0.2)
    servers = {"ref": where(there), "down": "http://127.0.0.1:1/mcp"}
    async with gateway(tmp_path, servers, upstreams=impatient) as world:
        stalled = (await call(world)).json()
        down = (await call(world, server="down")).json()
    assert stalled["error"]["data"]["code"] == "upstream-timeout"
    assert down["error"]["data"]["code"] == "upstream-connect"


async def test_a_call_ends_when_its_time_is_up(tmp_path: Path, quiet: tuple[Upstream, asyncio.Event]) -> None:
    there, _ = quiet
    async with gateway(tmp_path, {"ref": where(there)}, limits=Limits(call_seconds=0.3)) as world:
        answer = (await call(world)).json()
        await asyncio.wait_for(there.closed.wait(), 10)
    assert answer["error"]["data"]["code"] == "upstream-timeout"


async def test_a_call_whose_time_is_up_is_answered_plainly_where_its_client_need_not_take_a_stream(
    tmp_path: Path, quiet: tuple[Upstream, asyncio.Event]
) -> None:
    there, _ = quiet
    async with gateway(tmp_path, {"ref": where(there)}, limits=Limits(call_seconds=0.3)) as world:
        answer = await world.legacy("anna", "tools/call", name="echo", arguments={})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["data"]["code"] == "upstream-timeout"


@pytest.mark.parametrize(("era", "status"), [("modern", 400), ("legacy", 200)])
async def test_an_upstreams_own_error_is_relayed(tmp_path: Path, era: str, status: int) -> None:
    error = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"bad thing","data":{"x":1},"extra":2},"more":3}'
    async with upstream(answering(error)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        answer = await (world.modern if era == "modern" else world.legacy)("anna", "tools/call", name="t")
    assert answer.status_code == status
    assert answer.json() == {
        "jsonrpc": "2.0",
        "id": 1,
        "error": {"code": -32602, "message": "bad thing", "data": {"x": 1}},
    }
    assert world.ledger.entries[-1].fields["outcome"]["status"] == "tool-error"  # type: ignore[index]


async def test_the_refusal_of_an_old_server_reaches_the_client_so_that_it_shakes_hands(tmp_path: Path) -> None:
    error = b'{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Bad Request: Missing session ID"}}'
    async with upstream(answering(error, 400)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        answer = await world.modern("anna", "server/discover")
    assert answer.status_code == 400
    assert answer.json()["id"] == 1
    assert answer.json()["error"]["code"] == -32600


@pytest.mark.parametrize("kind", ["task", "new"])
async def test_a_server_that_asks_instead_of_answering_is_told_no(tmp_path: Path, kind: str) -> None:
    asking = DONE.replace(b'"complete"', json.dumps(kind).encode()).replace(b'"content":', b'"requestState":"s","content":')
    async with upstream(answering(asking)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        result = (await call(world)).json()["result"]
    assert result["isError"]
    assert result["resultType"] == "complete"
    assert "requestState" not in result


async def test_half_a_character_in_an_answer_becomes_a_replacement_character(tmp_path: Path) -> None:
    async with (
        upstream(answering(DONE.replace(b"done", b"do\\ud83dne"))) as there,
        gateway(tmp_path, {"ref": where(there)}) as world,
    ):
        result = (await call(world)).json()["result"]
    assert result["content"][0]["text"] == "do\ufffdne"


async def test_credentials_reach_the_upstream_and_the_callers_do_not(tmp_path: Path) -> None:
    credentials = ((b"authorization", b"Bearer of-the-gateway"),)
    async with (
        upstream(answering(DONE)) as there,
        gateway(tmp_path, {"ref": where(there)}, credentials=credentials) as world,
    ):
        await call(world)
    sent = there.requests[0]
    assert b"authorization: Bearer of-the-gateway\r\n" in sent
    assert sent.lower().count(b"authorization") == 1


async def test_fields_that_a_duty_names_are_blanked_in_every_part_of_an_answer(tmp_path: Path) -> None:
    result = {
        "content": [{"type": "text", "text": '{"iban": "DE1", "name": "x"}'}, {"type": "text", "text": "IBAN DE1"}],
        "structuredContent": {"iban": "DE1", "rows": [{"IBAN": "DE1"}], "name": "x"},
        "resultType": "complete",
    }
    said = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()
    notice = PROGRESS.replace(b'"progress":1', b'"progress":1,"message":"DE1"')
    failing = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"DE1 is bad","data":"DE1"}}'
    for script in (answering(said), saying(SSE + event(notice) + event(said) + b"0\r\n\r\n"), answering(failing)):
        async with upstream(script) as there, gateway(tmp_path, {"ref": where(there)}) as world:
            world.verdicts["*", "ref.t"] = allow_with("redact-result", fields=["iban"])
            answer = await call(world)
            assert "DE1" not in answer.text
            assert b"DE1" not in world.ledger.entries[-1].values[0].data
        await asyncio.sleep(0)


async def test_a_result_that_cannot_be_blanked_is_withheld(tmp_path: Path) -> None:
    async with upstream(answering(DONE)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        world.verdicts["*", "ref.t"] = allow_with("no-such-duty")
        answer = (await call(world)).json()
    assert answer["result"]["isError"]
    assert "unknown-duty" in answer["result"]["content"][0]["text"]
    assert there.requests == []


@pytest.mark.parametrize("path", ["GET", "DELETE", "PUT", "OPTIONS"])
async def test_other_methods_are_not_allowed_and_only_after_a_credential(world: World, path: str) -> None:
    assert (await world.client.request(path, "/mcp/ref")).status_code == 401
    stateless = world.token("anna") | {"mcp-protocol-version": MODERN}  # there GET and DELETE mean nothing
    answer = await world.client.request(path, "/mcp/ref", headers=stateless)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("method", ["tools/List", "tasks/list", "elicitation/create", "sampling/createMessage", "x"])
async def test_a_method_that_is_not_served_is_unknown_in_both_eras(world: World, method: str) -> None:
    modern, legacy = await world.modern("anna", method), await world.legacy("anna", method)
    assert (modern.status_code, legacy.status_code) == (404, 200)
    for answer in (modern, legacy):
        assert answer.json()["error"]["code"] == -32601
        assert answer.json()["id"] == 1


async def test_a_ping_is_answered_here_and_recorded(world: World) -> None:
    assert (await world.legacy("anna", "ping", rpc_id="p")).json() == {"jsonrpc": "2.0", "id": "p", "result": {}}
    assert (await world.modern("anna", "ping")).status_code == 404
    assert world.ledger.kinds()[:2] == ["call.start", "call.end"]


async def test_notifications_are_accepted_without_an_answer(world: World) -> None:
    session = await world.handshake("anna")
    cancelled = await world.legacy("anna", "notifications/cancelled", rpc_id=None, session=session, requestId=5, reason="no more")
    assert (cancelled.status_code, cancelled.content) == (202, b"")
    body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}}
    modern = await world.post("anna", body, headers=modern_headers("notifications/cancelled"))
    assert (modern.status_code, modern.content) == (202, b"")


async def test_a_list_is_for_this_caller_alone(world: World) -> None:
    world.verdicts["user:dev/ben", "ref.gw_big"] = DENY
    anna, ben = [answer_of(await world.modern(person, "tools/list"))["result"] for person in ("anna", "ben")]
    names = [tool["name"] for tool in anna["tools"]]
    assert [tool["name"] for tool in ben["tools"]] == [name for name in names if name != "gw_big"]
    for result in (anna, ben):
        assert result["cacheScope"] == "private"
        assert 0 <= result["ttlMs"] <= 30_000
    legacy = answer_of(await world.legacy("anna", "tools/list", session=await world.handshake("anna")))["result"]
    assert not {"ttlMs", "cacheScope"} & set(legacy)


async def test_definitions_pass_untouched(tmp_path: Path) -> None:
    tool = {"name": "t", "x-vendor": {"a": 1.50}, "annotations": {"com.acme/risk": "high"}, "inputSchema": {"type": "object"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": [tool], "x": 1}}).encode()
    async with upstream(answering(body)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        result = (await world.modern("anna", "tools/list")).json()["result"]
    assert result["tools"] == [tool]
    assert result["x"] == 1


async def test_what_is_offered_is_what_is_served(world: World) -> None:
    discovered = answer_of(await world.modern("anna", "server/discover"))["result"]
    offered = discovered["capabilities"]
    assert set(offered) == {"tools", "resources", "prompts", "completions", "logging", "extensions"}
    assert offered["tools"] == offered["prompts"] == {"listChanged": True}
    assert offered["extensions"] == {"io.modelcontextprotocol/tasks": {}}
    assert discovered["cacheScope"] == "private"


async def test_bounds_of_a_request(tmp_path: Path, server_url: str) -> None:
    async with gateway(tmp_path, {"ref": server_url}, limits=Limits(body_bytes=2048)) as world:
        assert (await world.post("anna", b"{" + b" " * 3000)).status_code == 413
        many = {f"x-{n}": "1" for n in range(200)}
        assert (await world.post("anna", b"{}", headers=many)).status_code == 431
        assert (await world.post("anna", b"{}", headers={"content-type": "text/plain"})).status_code == 415
        assert (await world.post("anna", b"{}", headers={"content-encoding": "gzip"})).status_code == 415
        assert (await world.post("anna", b"{}", headers={"accept": "text/html"})).status_code == 406


async def test_one_call_too_many_is_refused_at_once(tmp_path: Path, quiet: tuple[Upstream, asyncio.Event]) -> None:
    there, asked = quiet
    limits = Limits(concurrent_calls=1, call_seconds=5)
    async with gateway(tmp_path, {"ref": where(there)}, limits=limits) as world:
        first = asyncio.create_task(call(world))
        await asked.wait()
        second = await call(world)
        assert second.status_code == 503
        assert second.headers["retry-after"] == "1"
        first.cancel()


async def test_an_ended_upstream_session_is_unknown_to_the_client_too(tmp_path: Path) -> None:
    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while request := await there.request(reader):
            body, status, extra = b"", 202, b""
            if b'"initialize"' in request:
                status, extra = 200, b"mcp-session-id: s1\r\n"
                result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}}
                body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()
            elif b"tools/list" in request:
                assert b"mcp-session-id: s1\r\n" in request
                status = 404
                body = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Session not found"}}'
            head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
            writer.write(head % (status, extra, len(body)) + body)

    async with upstream(script) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        session = await world.handshake("anna")
        answer = await world.legacy("anna", "tools/list", session=session)
    assert answer.status_code == 404
    assert answer.json()["id"] == 1
