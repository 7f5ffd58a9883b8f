"""Calls that became tasks: their owner's alone, governed as the call was, for as long as they last; at any replica."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.errors import POLICY
from gateway.mcp.sealed import Sealed
from tests.mcp.scripted import END, SSE, TASKS, event, listening, next_message, scripted, where, whole
from tests.mcp.world import DENY, World, allow_with, answer_of, gateway, modern_body
from tests.upstream.wire import Upstream, Writer, upstream

KEY = Sealed([b"k" * 32])


async def called(world: World, tool: str, person: str = "anna", **arguments: Any) -> dict[str, Any]:
    said = answer_of(await world.modern(person, "tools/call", meta=TASKS, name=tool, arguments=arguments))
    result: dict[str, Any] = said["result"]
    return result


async def about(world: World, method: str, task: str, person: str = "anna", server: str = "ref", **params: Any) -> dict[str, Any]:
    """A request about a task; its id stands in `Mcp-Name` too."""
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": method, "mcp-name": task}
    return answer_of(
        await world.post(person, modern_body(method, 1, TASKS, taskId=task, **params), server=server, headers=headers)
    )


async def until(world: World, task: str, status: str) -> dict[str, Any]:
    for _ in range(200):
        said = (await about(world, "tasks/get", task))["result"]
        if said["status"] == status:
            return dict(said)
        await asyncio.sleep(0.02)
    raise AssertionError(f"never {status}")


async def test_a_task_is_followed_to_its_result_at_another_replica(tmp_path: Path, server_url: str) -> None:
    async with (
        gateway(tmp_path / "a", {"ref": server_url}, sealed=KEY) as one,
        gateway(tmp_path / "b", {"ref": server_url}, sealed=KEY) as other,
    ):
        made = await called(one, "slow_compute", seconds=0.1)
        assert (made["resultType"], made["status"]) == ("task", "working")
        over = await until(other, made["taskId"], "completed")
    assert over["taskId"] == made["taskId"]
    assert over["result"]["content"][0]["text"] == "computed for 0.1s"


async def test_a_task_asks_by_the_servers_name_under_the_same_key_at_every_look_and_goes_on_with_the_answer(world: World) -> None:
    task = (await called(world, "confirm_delete", filename="x.txt"))["taskId"]
    waiting = await until(world, task, "input_required")
    again = (await about(world, "tasks/get", task))["result"]
    (key,) = waiting["inputRequests"]
    assert list(again["inputRequests"]) == [key]
    assert waiting["inputRequests"][key]["params"]["message"] == "ref asks: Delete x.txt?"
    answers = {key: {"action": "accept", "content": {"confirm": True}}, "confirm-1.forged": {"action": "accept"}}
    assert (await about(world, "tasks/update", task, inputResponses=answers))["result"]["resultType"] == "complete"
    assert "true" in str((await until(world, task, "completed"))["result"])
    assert [entry.kind for entry in world.ledger.entries].count("question.ask") == 1  # however often it was shown
    update = [entry for entry in world.ledger.entries if entry.fields.get("method") == "tasks/update"][-1]
    assert update.fields["said"] == [{"question": "", "kind": "elicitation.form", "action": "accept"}]


async def test_a_question_of_a_task_that_policy_forbids_is_not_shown(world: World) -> None:
    world.verdicts["*", "elicitation:ref"] = DENY
    task = (await called(world, "confirm_delete", filename="x.txt"))["taskId"]
    for _ in range(100):
        said = await about(world, "tasks/get", task)
        if "error" in said:
            break
    assert said["error"]["code"] == POLICY
    assert "Delete" not in json.dumps(said)


@pytest.mark.parametrize("withdrawn", ["ref.slow_compute", "task:ref"])
async def test_a_right_that_ended_ends_the_tasks_results_too(world: World, withdrawn: str) -> None:
    task = (await called(world, "slow_compute", seconds=0))["taskId"]
    await until(world, task, "completed")
    world.verdicts["user:dev/anna", withdrawn] = DENY
    for method in ("tasks/get", "tasks/cancel"):
        said = await about(world, method, task)
        assert "computed" not in json.dumps(said)
        assert "result" not in said or said["result"].get("isError")


async def test_a_task_is_cancelled_by_its_owner(world: World) -> None:
    task = (await called(world, "slow_compute", seconds=30))["taskId"]
    assert (await about(world, "tasks/cancel", task))["result"]["resultType"] == "complete"
    await until(world, task, "cancelled")


async def test_what_a_duty_blanks_in_a_result_is_blanked_in_a_tasks_result(tmp_path: Path) -> None:
    inner = {"content": [{"type": "text", "text": "{}"}], "structuredContent": {"iban": "DE1", "name": "x"}}

    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        task = {"taskId": "t-1", "status": "completed", "statusMessage": "iban DE1"}
        result = (
            {**task, "resultType": "task"}
            if body["method"] == "tools/call"
            else {**task, "resultType": "complete", "result": inner}
        )
        writer.write(whole({"jsonrpc": "2.0", "id": body["id"], "result": result}))

    async def every(there: Upstream, reader: Any, writer: Writer) -> None:
        while request := await there.request(reader):
            await say(there, json.loads(request.partition(b"\r\n\r\n")[2]), b"", writer)

    async with upstream(every) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        world.verdicts["*", "ref.t"] = allow_with("redact-result", fields=["iban"])
        made = await called(world, "t")
        world.verdicts.clear()  # what was demanded when the call was made holds for its task
        said = await about(world, "tasks/get", made["taskId"])
    assert "DE1" not in json.dumps([made, said])
    assert said["result"]["result"]["structuredContent"]["name"] == "x"


async def test_a_client_without_the_extension_gets_no_task_and_no_look_at_one(world: World) -> None:
    task = (await called(world, "slow_compute", seconds=0))["taskId"]
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tasks/get", "mcp-name": task}
    said = answer_of(await world.post("anna", modern_body("tasks/get", 1, {}, taskId=task), headers=headers))
    assert said["error"]["code"] == -32021
    assert said["error"]["data"]["requiredCapabilities"] == {"extensions": {"io.modelcontextprotocol/tasks": {}}}


async def test_where_policy_grants_no_tasks_the_server_is_not_told_that_the_client_could_have_one(world: World) -> None:
    world.verdicts["*", "task:ref"] = DENY
    made = await called(world, "slow_compute", seconds=0)
    assert made["content"][0]["text"] == "computed for 0s"


async def test_notices_of_a_task_reach_its_owner_alone_under_the_owners_id(tmp_path: Path) -> None:
    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        if body["method"] == "tools/call":
            task = {"taskId": "t-1", "status": "working", "resultType": "task"}
            writer.write(whole({"jsonrpc": "2.0", "id": body["id"], "result": task}))
            return
        wanted = body["params"]["notifications"]
        told = {"jsonrpc": "2.0", "method": "notifications/tasks", "params": {"taskId": "t-1", "status": "completed"}}
        acknowledged = {
            "jsonrpc": "2.0",
            "method": "notifications/subscriptions/acknowledged",
            "params": {"notifications": wanted},
        }
        end = {"jsonrpc": "2.0", "id": body["id"], "result": {"resultType": "complete"}}
        writer.write(SSE + event(acknowledged) + event(told) + event(end) + END)

    async with upstream(scripted(say)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        task = (await called(world, "t"))["taskId"]
        async with listening(world, meta=TASKS, taskIds=[task]) as lines:
            assert (await next_message(lines))["params"]["notifications"] == {"taskIds": [task]}
            assert (await next_message(lines))["params"]["taskId"] == task
        async with listening(world, "ben", meta=TASKS, taskIds=[task, "t-1"]) as lines:
            assert (await next_message(lines))["params"]["notifications"] == {}
            assert "result" in await next_message(lines)
