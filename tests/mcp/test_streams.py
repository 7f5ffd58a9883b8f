"""Streams that stand, answers that are resumed, cancellations, silence; what other gateways got wrong, by name."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.sealed import Sealed
from gateway.mcp.standing import StreamTerms
from gateway.model import Refused
from gateway.reasons import Code
from gateway.settings import Limits
from gateway.upstream.client import Upstreams
from tests.mcp.scripted import (
    ELICITS,
    END,
    FORM_QUESTION,
    SSE,
    Lines,
    done,
    event,
    in_session,
    listening,
    next_comment,
    next_event,
    next_message,
    opened,
    scripted,
    simple,
    streamed,
    where,
    whole,
)
from tests.mcp.world import DENY, MODERN, World, answer_of, gateway, modern_body, modern_headers
from tests.upstream.wire import Reader, Upstream, Writer, saying, upstream

CHANGED = "notifications/tools/list_changed"
KEY = Sealed([b"k" * 32])


def get(session: str, last: str = "") -> dict[str, str]:
    return in_session(session) | {"accept": "text/event-stream"} | ({"last-event-id": last} if last else {})


async def ended(lines: Lines) -> bool:
    try:
        while True:
            await next_event(lines)
    except StopAsyncIteration:
        return True


# --- streams for notices


async def test_a_standing_stream_shows_that_it_stands_at_once_in_both_eras(world: World) -> None:
    """A standalone GET that is never flushed looks like one that never opened."""
    session = await world.handshake("anna")
    async with opened(world, "GET", "anna", get(session)) as lines:
        await next_comment(lines, 5)
        assert lines.response.headers["content-type"] == "text/event-stream"
    async with listening(world, toolsListChanged=True) as lines:
        assert (await next_message(lines))["method"] == "notifications/subscriptions/acknowledged"
        assert lines.comments >= 1


@pytest.mark.parametrize("era", ["legacy", MODERN])
async def test_a_list_that_the_server_changed_is_told_and_the_next_list_is_the_new_one(world: World, era: str) -> None:
    session = await world.handshake("anna") if era == "legacy" else ""

    async def tools() -> set[str]:
        ask = world.legacy("anna", "tools/list", session=session) if session else world.modern("anna", "tools/list")
        return {tool["name"] for tool in answer_of(await ask)["result"]["tools"]}

    before = await tools()
    stream = opened(world, "GET", "anna", get(session)) if session else listening(world, toolsListChanged=True)
    async with stream as lines:
        await (next_comment(lines) if session else next_message(lines))
        trigger = {"name": "test_trigger_tool_change", "arguments": {}}
        await (
            world.legacy("anna", "tools/call", session=session, **trigger)
            if session
            else world.modern("anna", "tools/call", **trigger)
        )
        told = await next_message(lines)
    assert told["method"] == CHANGED
    if not session:
        assert told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "l-1"
    assert await tools() ^ before == {"gw_dynamic"}


async def test_listening_is_for_what_the_caller_may_read_in_its_own_spelling_and_the_acknowledgement_says_so(
    world: World,
) -> None:
    world.verdicts["user:dev/anna", "res:ref/test://static-text"] = DENY
    asked = ["test://static-text", "TEST://watched-resource", "test://a/../b", "not a uri"]
    async with listening(world, rpc_id=7, resourceSubscriptions=asked, promptsListChanged=True, unheardOf=True) as lines:
        said = await next_message(lines)
        assert said["params"]["notifications"] == {
            "promptsListChanged": True,
            "resourceSubscriptions": ["TEST://watched-resource"],
        }
        for uri in ("test://static-text", "TEST://watched-resource"):
            await world.modern("anna", "tools/call", name="gw_touch_resource", arguments={"uri": uri})
        told = await next_message(lines)
        assert told["params"]["uri"] == "TEST://watched-resource"
        assert told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == 7
    started = next(entry for entry in world.ledger.entries if entry.fields.get("method") == "subscriptions/listen")
    asked_of_policy = [each["resource"] for each in started.fields["further"]]  # type: ignore[index, union-attr, call-overload]
    assert asked_of_policy == ["res:ref/test://watched-resource"] * 2


async def test_an_update_of_what_may_no_longer_be_read_is_not_told(world: World) -> None:
    uri = "test://watched-resource"
    async with listening(world, resourceSubscriptions=[uri], toolsListChanged=True) as lines:
        await next_message(lines)
        world.verdicts["user:dev/anna", f"res:ref/{uri}"] = DENY
        await world.modern("anna", "tools/call", name="gw_touch_resource", arguments={"uri": uri})
        await world.modern("anna", "tools/call", name="test_trigger_tool_change", arguments={})
        assert (await next_message(lines))["method"] == CHANGED


@pytest.mark.parametrize("era", ["legacy", MODERN])
async def test_a_change_of_policy_is_told_to_those_whose_lists_it_changed_and_to_nobody_else(world: World, era: str) -> None:
    def stream(person: str, session: str) -> Any:
        return opened(world, "GET", person, get(session)) if session else listening(world, person, toolsListChanged=True)

    sessions = {person: await world.handshake(person) if era == "legacy" else "" for person in ("anna", "ben")}
    async with stream("anna", sessions["anna"]) as annas, stream("ben", sessions["ben"]) as bens:
        for lines in (annas, bens):
            await (next_comment(lines) if era == "legacy" else next_message(lines))
        world.change_policy({("user:dev/anna", "ref.gw_big"): DENY}, [("tools", "ref.gw_big"), ("tools", "ref.gw_echo")])
        assert (await next_message(annas))["method"] == CHANGED
        world.change_policy({("*", "ref.gw_echo"): DENY}, [("tools", "ref.gw_echo")])
        assert [(await next_message(lines))["method"] for lines in (annas, bens)] == [CHANGED] * 2  # ben's first


@pytest.mark.parametrize("era", ["legacy", MODERN])
async def test_a_stream_ends_where_policy_no_longer_lets_it_stand(world: World, era: str) -> None:
    session = await world.handshake("anna") if era == "legacy" else ""
    stream = opened(world, "GET", "anna", get(session)) if session else listening(world, toolsListChanged=True)
    async with stream as lines:
        await (next_comment(lines) if session else next_message(lines))
        world.change_policy({("user:dev/anna", "ref"): DENY}, [])
        assert await ended(lines)
    over = [entry for entry in world.ledger.entries if entry.kind == "call.end" and "policy" in str(entry.fields["outcome"])]
    assert [entry.fields["outcome"]["status"] for entry in over] == ["interrupted"]  # type: ignore[index, call-overload]


@pytest.mark.parametrize("era", ["legacy", MODERN])
async def test_a_stream_ends_in_good_order_with_the_authority_for_it(tmp_path: Path, server_url: str, era: str) -> None:
    async with gateway(tmp_path, {"ref": server_url}, streams=StreamTerms(seconds=0.5)) as world:
        session = await world.handshake("anna") if era == "legacy" else ""
        stream = opened(world, "GET", "anna", get(session)) if session else listening(world, toolsListChanged=True)
        async with stream as lines:
            if session:
                assert await ended(lines)
            else:
                await next_message(lines)
                assert (await next_message(lines))["result"]["resultType"] == "complete"
        end = await asyncio.wait_for(world.ledger.until("call.end"), 10)
    assert end.fields["outcome"]["status"] == "ok"  # type: ignore[index, call-overload]


async def test_an_idle_stream_stays_up_for_longer_than_a_server_may_be_silent_during_a_call(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        acknowledged = {"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {"notifications": {}}}
        writer.write(SSE + event(acknowledged | {"params": {"notifications": {"toolsListChanged": True}}}))
        await go_on.wait()
        writer.write(event({"jsonrpc": "2.0", "method": CHANGED}))
        await asyncio.sleep(30)

    beside = Upstreams(idle_seconds=60, probe=True)
    terms = StreamTerms(upstreams=beside)
    async with upstream(scripted(say)) as there:
        options: dict[str, Any] = {"upstreams": Upstreams(idle_seconds=0.2), "heartbeat": 0.05, "streams": terms}
        async with gateway(tmp_path, {"ref": where(there)}, **options) as world, listening(world, toolsListChanged=True) as lines:
            await next_message(lines)
            for _ in range(10):  # ten heartbeats: more than twice the silence that ends a call
                await next_comment(lines)
            go_on.set()
            assert (await next_message(lines))["method"] == CHANGED
    await beside.aclose()


@pytest.mark.parametrize("era", ["legacy", MODERN])
async def test_an_upstream_that_is_gone_is_noticed_and_the_stream_does_not_pretend(tmp_path: Path, era: str) -> None:
    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        writer.write(
            SSE + event({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {"notifications": {}}})
        )
        await writer.drain()
        writer.transport.abort()

    async with upstream(scripted(say)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        session = await world.handshake("anna") if era == "legacy" else ""
        stream = opened(world, "GET", "anna", get(session)) if session else listening(world, toolsListChanged=True)
        async with stream as lines:
            assert await ended(lines)
        end = [entry for entry in world.ledger.entries if entry.kind == "call.end"][-1]
    assert end.fields["outcome"]["status"] == "upstream-error"  # type: ignore[index, call-overload]


async def test_hanging_up_ends_the_upstreams_side_of_a_silent_stream(tmp_path: Path) -> None:
    async def say(there: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        writer.write(
            SSE + event({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {"notifications": {}}})
        )

    async with upstream(scripted(say)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        async with listening(world, toolsListChanged=True) as lines:
            await next_message(lines)
        await asyncio.wait_for(there.closed.wait(), 10)


async def test_streams_that_stand_keep_no_call_waiting_and_no_answer_waits_behind_calls(tmp_path: Path) -> None:
    """Long streams in the pool of calls starve it; an answer that queues behind the call that waits for it is a deadlock."""
    told = asyncio.Event()

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while request := await there.request(reader):
            head, _, content = request.partition(b"\r\n\r\n")
            body = json.loads(content or b"{}")
            if head.startswith(b"GET"):
                writer.write(SSE)
            elif body.get("method") == "tools/call":
                writer.write(SSE + event(FORM_QUESTION))
                await told.wait()
                writer.write(event(done(body["id"])) + END)
            else:
                if "method" not in body:
                    told.set()
                writer.write(simple(body))

    beside = Upstreams()
    options: dict[str, Any] = {"upstreams": Upstreams(connections=1, connect_seconds=2), "streams": StreamTerms(upstreams=beside)}
    options["limits"] = Limits(concurrent_calls=2, concurrent_streams=3)
    async with upstream(script) as there, gateway(tmp_path, {"ref": where(there)}, **options) as world:
        session = await world.handshake("anna", capabilities={"elicitation": {}})
        async with (
            opened(world, "GET", "anna", get(session)) as one,
            opened(world, "GET", "anna", get(session)) as two,
            opened(world, "GET", "anna", get(session)) as three,
        ):
            for lines in (one, two, three):
                await next_comment(lines)
            fourth = await world.client.get("/mcp/ref", headers=world.token("anna") | get(session))
            async with streamed(world, session, "tools/call", name="t", arguments={}) as call:
                question = await next_message(call)  # the pool of calls is full now
                answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "cancel"}}
                assert (await world.post("anna", answer, headers=in_session(session))).status_code == 202
                assert (await next_message(call))["result"]["content"][0]["text"] == "went on"
    await beside.aclose()
    assert fourth.status_code == 503


# --- cancelling, silence, the end of a session


@pytest.mark.parametrize("when", ["silent", "mid-stream"])
async def test_a_cancellation_reaches_the_server_while_its_request_is_open(tmp_path: Path, when: str) -> None:
    cancelled = asyncio.Event()
    seen: list[dict[str, Any]] = []

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while request := await there.request(reader):
            body = json.loads(request.partition(b"\r\n\r\n")[2] or b"{}")
            if body.get("method") == "tools/call":
                progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}}
                writer.write(SSE + (event(progress) if when == "mid-stream" else b""))
                await cancelled.wait()
                writer.write(event({"jsonrpc": "2.0", "id": body["id"], "error": {"code": -32800, "message": "cancelled"}}) + END)
                continue
            if body.get("method") == "notifications/cancelled":
                seen.append(body["params"])
                cancelled.set()
            writer.write(simple(body))

    async with upstream(script) as there, gateway(tmp_path, {"ref": where(there)}, heartbeat=0.05) as world:
        session = await world.handshake("anna")
        async with streamed(world, session, "tools/call", name="t", arguments={}) as lines:
            if when == "mid-stream":
                await next_message(lines)
            await world.legacy("anna", "notifications/cancelled", session=session, rpc_id=None, requestId=1, reason="no more")
            final = await next_message(lines)
    assert seen == [{"requestId": 1, "reason": "no more"}]
    assert final["error"]["code"] == -32800


async def test_a_silent_tool_outlives_every_clients_patience_by_heartbeats(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        await go_on.wait()
        writer.write(simple(body))

    async with upstream(scripted(say)) as there, gateway(tmp_path, {"ref": where(there)}, heartbeat=0.05) as world:
        headers = modern_headers("tools/call", name="t")
        async with opened(world, "POST", "anna", headers, modern_body("tools/call", name="t", arguments={})) as lines:
            for _ in range(5):
                await next_comment(lines)
            go_on.set()
            assert (await next_message(lines))["id"] == 1


async def test_a_session_is_ended_at_the_server_and_its_id_is_unknown_from_then_on(world: World) -> None:
    session = await world.handshake("anna")
    gone = await world.client.delete("/mcp/ref", headers=world.token("anna") | in_session(session))
    after = await world.legacy("anna", "tools/list", session=session)
    assert (gone.status_code, after.status_code) == (200, 404)


async def test_a_server_without_a_stream_says_405_and_so_does_the_gateway(tmp_path: Path) -> None:
    async def say(_: Upstream, body: dict[str, Any], head: bytes, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 405 Method Not Allowed\r\nallow: POST\r\ncontent-length: 0\r\n\r\n")

    async with upstream(scripted(say)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        session = await world.handshake("anna")
        answer = await world.client.get("/mcp/ref", headers=world.token("anna") | get(session))
    assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "POST", b"")


# --- resumption


async def test_an_answer_is_resumed_at_another_replica_and_governed_as_it_began(tmp_path: Path, server_url: str) -> None:
    async with (
        gateway(tmp_path / "a", {"ref": server_url}, sealed=KEY) as one,
        gateway(tmp_path / "b", {"ref": server_url}, sealed=KEY) as other,
    ):
        session = await one.handshake("anna")
        async with streamed(one, session, "tools/call", name="test_reconnection", arguments={}) as lines:
            assert await next_event(lines) is None
            assert lines.retry == 100
            assert await ended(lines)  # the server closed it, and says the rest to whoever resumes
        last = lines.last_id
        for _ in range(20):
            async with opened(other, "GET", "anna", get(session, last)) as rest:
                try:
                    final = await next_message(rest)
                    break
                except StopAsyncIteration:
                    last = rest.last_id or last
        resumed = next(entry for entry in other.ledger.entries if entry.fields.get("direction") == "resume")
        closed = [entry for entry in one.ledger.entries if entry.kind == "call.end"][-1]
        first = next(entry for entry in one.ledger.entries if entry.fields.get("method") == "tools/call")
    assert final["result"]["content"][0]["text"] == "Reconnection test completed"
    assert (resumed.fields["resource"], resumed.fields["about"]) == ("ref.test_reconnection", [first.id])
    assert closed.fields["outcome"]["status"] == "interrupted"  # type: ignore[index, call-overload]


# --- what policy's own watch does


async def test_a_kill_ends_a_stream_that_stands(tmp_path: Path, server_url: str) -> None:
    async with gateway(tmp_path, {"ref": server_url}) as world, listening(world, toolsListChanged=True) as lines:
        await next_message(lines)
        world.running.end(lambda _: Refused(Code.REVOKED, "killed"))
        assert await ended(lines)
        end = await asyncio.wait_for(world.ledger.until("call.end"), 10)
    assert end.fields["outcome"]["status"] == "interrupted"  # type: ignore[index, call-overload]


async def test_log_messages_below_the_servers_level_go_no_further(tmp_path: Path, server_url: str) -> None:
    async with gateway(tmp_path, {"ref": server_url}, streams=StreamTerms(levels={"ref": "warning"})) as world:
        session = await world.handshake("anna")
        answer = await world.legacy("anna", "tools/call", session=session, name="test_tool_with_logging", arguments={})
    assert "notifications/message" not in answer.text
    assert answer_of(answer)["result"]["content"][0]["text"] == "logged"


@pytest.mark.parametrize(
    ("asked", "heard"), [("debug", "warning"), ("info", "warning"), ("warning", "warning"), ("alert", "alert")]
)
async def test_a_server_is_asked_for_no_log_messages_that_would_not_be_passed_on(tmp_path: Path, asked: str, heard: str) -> None:
    answers = saying(whole({"jsonrpc": "2.0", "id": 1, "result": {"content": [], "resultType": "complete"}}), close=False)
    terms = StreamTerms(levels={"ref": "warning"})
    async with upstream(answers) as there, gateway(tmp_path, {"ref": where(there)}, streams=terms) as world:
        await world.legacy("anna", "logging/setLevel", level=asked)
        meta = {"io.modelcontextprotocol/logLevel": asked}
        await world.modern("anna", "tools/call", meta=meta, name="t", arguments={"level": "debug"})
    set_level, call = [json.loads(request.partition(b"\r\n\r\n")[2])["params"] for request in there.requests]
    assert set_level["level"] == heard
    assert call["_meta"]["io.modelcontextprotocol/logLevel"] == heard
    assert call["arguments"] == {"level": "debug"}


async def test_two_workers_without_stickiness_carry_a_question_and_its_answer(tmp_path: Path, server_url: str) -> None:
    async with (
        gateway(tmp_path / "a", {"ref": server_url}, sealed=KEY) as one,
        gateway(tmp_path / "b", {"ref": server_url}, sealed=KEY) as other,
    ):
        session = await one.handshake("anna", capabilities={"elicitation": {}})
        async with streamed(other, session, "tools/call", name="test_elicitation", arguments={"message": "x"}) as lines:
            question = await next_message(lines)
            answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}
            assert (await one.post("anna", answer, headers=in_session(session))).status_code == 202
            assert "decline" in (await next_message(lines))["result"]["content"][0]["text"]
        params = {"name": "test_input_required_result_request_state", "arguments": {}}
        asked = answer_of(await one.modern("anna", "tools/call", meta=ELICITS, **params))["result"]
        again = {
            "inputResponses": {"confirm": {"action": "accept", "content": {"ok": True}}},
            "requestState": asked["requestState"],
        }
        final = answer_of(await other.modern("anna", "tools/call", meta=ELICITS, **params, **again))["result"]
    assert final["content"][0]["text"] == "state-ok"


async def test_what_is_listened_to_is_asked_for_as_it_was_written_and_known_again_in_any_spelling(tmp_path: Path) -> None:
    written = "http://example.com/it's"
    sent: list[Any] = []

    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        sent.append(body["params"]["notifications"])
        acknowledged = {
            "jsonrpc": "2.0",
            "method": "notifications/subscriptions/acknowledged",
            "params": {"notifications": sent[0]},
        }
        told = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "http://example.com/it%27s"}}
        end = {"jsonrpc": "2.0", "id": body["id"], "result": {"resultType": "complete"}}
        writer.write(SSE + event(acknowledged) + event(told) + event(end) + END)

    async with (
        upstream(scripted(say)) as there,
        gateway(tmp_path, {"ref": where(there)}) as world,
        listening(world, resourceSubscriptions=[written]) as lines,
    ):
        assert (await next_message(lines))["params"]["notifications"] == {"resourceSubscriptions": [written]}
        assert (await next_message(lines))["params"]["uri"] == written
    assert sent[0]["resourceSubscriptions"][0].endswith("/it's")
