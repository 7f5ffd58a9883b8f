"""Code calls tools back through the gateway: one more actor, the same policy, the same ledger, and no second door."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.interaction.world import Gateway, Heard, Peers, done
from tests.sandbox_road.world import calling, ran, sandboxed

UNDER = {"profile": "tooled"}


async def printed(box: Gateway, token: str, code: str, **more: Any) -> Any:
    """What a run printed, as JSON; it must end well."""
    run = (await ran(box, token, code, **UNDER | more)).structured_content
    assert run["reason"] == "ok", run
    return json.loads(run["stdout"])


async def test_a_call_that_is_allowed_returns_the_tools_result_and_is_on_record_below_the_run(box: Gateway, peers: Peers) -> None:
    peers.tools["desk.read"] = lambda heard: done(f"heard {heard.message['params']['arguments']['text']}")
    token = box.token("paul")
    code = "from bailiwick_tools import call\nimport json\nprint(json.dumps(call('desk.read', {'text': 'it'})))"
    result = (await ran(box, token, code, **UNDER)).structured_content
    assert json.loads(result["stdout"]) == "heard it"
    assert result["calls"] == {"made": 1, "refused": 0}
    (inner,) = box.records(kind="call.start", resource="desk.read", caused_by=result["id"])
    (outer,) = box.records(kind="call.start", id=result["id"])
    assert [who for _, who in inner.leaf["chain"]][1:] == ["agent:sandbox"]
    assert inner.leaf["auth"]["method"] == "delegation+sandbox"
    assert (inner.leaf["workflow"], inner.leaf["trace"]) == (outer.leaf["workflow"], outer.leaf["trace"])
    told = box.audit("trace", outer.leaf["workflow"]).stdout
    assert told.index("run_python") < told.index("1 calls back, 0 of them refused") < told.index("call desk.read")


async def test_a_structured_result_comes_back_as_it_is(box: Gateway, peers: Peers) -> None:
    peers.tools["desk.read"] = lambda _: done("x") | {"structuredContent": {"rows": [1, 2.5, None, "ä"]}}
    code = "from bailiwick_tools import call\nimport json\nprint(json.dumps(call('desk.read', {'text': 'it'})['rows']))"
    assert await printed(box, box.token("paul"), code) == [1, 2.5, None, "ä"]


async def test_a_refusal_raises_with_the_stable_code_and_the_decision(box: Gateway) -> None:
    code = """\
from bailiwick_tools import ToolError, call
import json
try:
    call("desk.read", {"text": "x"})
except ToolError as error:
    print(json.dumps([error.code, error.decision]))
"""
    said, decision = await printed(box, box.token("mia"), code)
    assert said == "user-lacks-right"
    (refused,) = box.records(kind="decision.deny", id=decision)
    assert [who for _, who in refused.leaf["chain"]][1:] == ["agent:sandbox"]


async def test_a_duty_narrows_what_code_sees_as_it_does_for_anybody(box: Gateway, peers: Peers) -> None:
    peers.tools["desk.account"] = lambda _: done("x") | {"structuredContent": {"owner": "Ann", "iban": "DE1"}}
    code = "from bailiwick_tools import call\nimport json\nprint(json.dumps(call('desk.account', {'text': 'x'})))"
    assert await printed(box, box.token("paul"), code) == {"owner": "Ann", "iban": "[redacted by policy]"}


async def test_code_reaches_nothing_outside_the_scope_that_the_settings_give_the_sandbox(box: Gateway) -> None:
    token = box.token("paul")
    assert verdict(called(box, box.http, "side.read", token)) == "ok"
    assert await printed(box, token, calling("side.read", "desk.read")) == {"side.read": "not-available", "desk.read": "ok"}
    refused = box.records(kind="decision.deny", resource="side.read")[-1]
    assert refused.leaf["refused"]["code"] == "insufficient-scope"  # to the code, a server outside its scope is none at all


async def test_a_tool_that_fails_raises(box: Gateway, peers: Peers) -> None:
    peers.tools["desk.read"] = lambda _: {"content": [{"type": "text", "text": "no such order"}], "isError": True}
    code = """\
from bailiwick_tools import ToolError, call
import json
try:
    call("desk.read", {"text": "x"})
except ToolError as error:
    print(json.dumps([error.code, str(error)]))
"""
    assert await printed(box, box.token("paul"), code) == ["tool-error", "tool-error: no such order"]


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
async def test_javascript_calls_tools_too(box: Gateway, peers: Peers) -> None:
    peers.tools["desk.read"] = lambda _: done("read")
    code = """\
import { call, ToolError } from "./bailiwick_tools.mjs";
const said = [call("desk.read", { text: "x" })];
try { call("desk.seal", { text: "x" }); } catch (error) { said.push(error.code); }
console.log(JSON.stringify(said));
"""
    assert await printed(box, box.token("paul"), code, tool="run_javascript") == ["read", "user-lacks-right"]


async def test_threads_call_at_once_and_each_gets_its_own_answer(box: Gateway, peers: Peers) -> None:
    peers.tools["desk.read"] = lambda heard: done(heard.message["params"]["arguments"]["text"])
    code = """\
from concurrent.futures import ThreadPoolExecutor
from bailiwick_tools import call
import json
with ThreadPoolExecutor(8) as pool:
    print(json.dumps(list(pool.map(lambda n: call("desk.read", {"text": str(n)}), range(24)))))
"""
    assert await printed(box, box.token("paul"), code) == [str(n) for n in range(24)]


async def test_the_code_finds_no_credential_anywhere(box: Gateway, peers: Peers) -> None:
    """In its environment, its folder and its descriptors, and in all that the module by which it calls ever held."""
    code = """\
from bailiwick_tools import call
import bailiwick_tools, json, os
heard, read = [], os.read
def listening(descriptor, size):
    heard.append(read(descriptor, size).decode(errors="replace"))
    return heard[-1].encode()
bailiwick_tools.os.read = listening
call("desk.read", {"text": "x"})
heard += [json.dumps(dict(os.environ)), *os.listdir("."), open("bailiwick_tools.py").read()]
mark = "ey" + "J"  # how every token begins
print(json.dumps([any("done" in text for text in heard), any(mark in text for text in heard)]))
"""
    assert await printed(box, box.token("paul"), code) == [True, False]
    heard = peers.heard[-1]
    assert "eyJ" not in json.dumps(dict(heard.headers)) + json.dumps(heard.message)


async def test_more_calls_than_a_run_may_make_are_refused(box: Gateway) -> None:
    code = """\
from bailiwick_tools import ToolError, call
import json
said = []
for _ in range(102):
    try:
        said.append(call("desk.read", {"text": "x"}))
    except ToolError as error:
        said.append(error.code)
print(json.dumps(said))
"""
    assert await printed(box, box.token("paul"), code) == [*["done"] * 100, "overloaded", "overloaded"]


@pytest.mark.parametrize(
    "frame",
    [
        r"b'\0\0\0\1x'",
        r"b'\xff\xff\xff\xff'",
        r"b'\0\0\0\2{}'",
        r"""(lambda d: len(d).to_bytes(4, 'big') + d)(b'{"id":1,"tool":"desk.read","arguments":{},"token":"x"}')""",
        r"""(lambda d: len(d).to_bytes(4, 'big') + d)(b'{"id":1,"id":2,"tool":"desk.read","arguments":{}}')""",
        r"""(lambda d: len(d).to_bytes(4, 'big') + d)(b'{"id":"1","tool":"desk.read","arguments":{}}')""",
    ],
)
async def test_what_is_no_call_closes_the_channel_and_nothing_else(box: Gateway, peers: Peers, frame: str) -> None:
    before = len(peers.heard)
    code = f"import os, json\nos.write(3, {frame})\nprint(json.dumps(len(os.read(3, 100))))"
    assert await printed(box, box.token("paul"), code) == 0
    assert len(peers.heard) == before


@pytest.mark.parametrize("padding", [1, 100_000])
async def test_code_that_asks_and_never_listens_holds_nobody_up(box: Gateway, peers: Peers, padding: int) -> None:
    """A flood of calls whose answers nobody reads: few are carried out, and the run ends as it would have."""
    peers.tools["desk.read"] = lambda _: done("x" * 100_000)
    before = len(peers.heard)
    code = f"""\
import json, os, struct
frame = json.dumps({{"id": 1, "tool": "desk.read", "arguments": {{"text": "x" * {padding}}}}}).encode()
sent = 0
try:
    while sent < 2000:
        view = memoryview(struct.pack(">I", len(frame)) + frame)
        while view:
            view = view[os.write(3, view):]
        sent += 1
except BrokenPipeError:
    pass
print(json.dumps(sent > 10))
"""
    assert await printed(box, box.token("paul"), code) is True
    assert len(peers.heard) - before <= 100


async def test_code_without_the_right_profile_has_no_way_back(box: Gateway) -> None:
    code = """\
import json, os
try:
    os.fstat(3)
    said = "open"
except OSError:
    said = "closed"
print(json.dumps([said, os.environ.get("BAILIWICK_TOOLS")]))
"""
    run = (await ran(box, box.token("paul"), code)).structured_content
    assert json.loads(run["stdout"]) == ["closed", None]


INNER = """\
from bailiwick_tools import ToolError, call
try:
    print(call("desk.read", {"text": "x"}))
except ToolError as error:
    print(error.code)
"""


async def test_code_may_run_code_but_the_inner_one_has_no_way_further(box: Gateway) -> None:
    code = f"""\
from bailiwick_tools import call
import json
inner = call("sandbox.run_python", {{"code": {INNER!r}, "profile": "tooled"}})
print(json.dumps([inner["reason"], inner["stdout"]]))
"""
    assert await printed(box, box.token("paul"), code) == ["ok", "delegation-loop\n"]


async def test_calls_end_with_the_run(box: Gateway, peers: Peers) -> None:
    """What code had asked for when it ended is cut off, and on record as that."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: Heard) -> dict[str, Any]:
        begun.set()
        assert go_on.wait(60)
        return done("late")

    def read(_: Heard) -> dict[str, Any]:
        assert begun.wait(60)
        return done("the slow one has begun")

    peers.tools |= {"desk.slow": slow, "desk.read": read}
    code = """\
import os, threading
from bailiwick_tools import call
threading.Thread(target=call, args=("desk.slow", {"text": "x"}), daemon=True).start()
call("desk.read", {"text": "x"})
os._exit(0)
"""
    run = (await ran(box, box.token("paul"), code, **UNDER)).structured_content
    go_on.set()
    assert run["reason"] == "ok"
    (inner,) = box.records(kind="call.start", resource="desk.slow", caused_by=run["id"])
    (end,) = box.records(kind="call.end", call=inner.id)
    assert end.leaf["outcome"]["status"] == "interrupted"


async def test_a_server_of_the_older_era_is_greeted_first(box: Gateway) -> None:
    code = "from bailiwick_tools import call\nimport json\nprint(json.dumps([call('old.read', {'text': 'x'}) for _ in range(2)]))"
    assert await printed(box, box.token("paul"), code) == ["opened: True"] * 2


def by_code_of_clerk(box: Gateway, said: list[Any]) -> Callable[[Heard], str]:
    """The agent clerk, which runs code on behalf of whoever asked it; what came back."""

    def runs(heard: Heard) -> str:
        delegation = heard.headers["authorization"].removeprefix("Bearer ")
        arguments = {"code": calling("desk.read", "old.read"), **UNDER}
        with httpx.Client(base_url=box.url, trust_env=False, timeout=60) as http:
            said.append(called(box, http, "sandbox.run_python", box.agent_secrets["clerk"], delegation, arguments).json())
        return "done"

    return runs


async def test_every_agent_on_the_way_is_asked_and_stands_in_the_chain(box: Gateway, peers: Peers) -> None:
    said: list[Any] = []
    peers.agents["clerk"] = by_code_of_clerk(box, said)
    await asyncio.to_thread(box.send, "clerk", box.token("paul"))
    run = said[0]["result"]["structuredContent"]
    assert json.loads(run["stdout"]) == {"desk.read": "ok", "old.read": "not-available"}
    (refused,) = box.records(kind="decision.deny", resource="old.read", caused_by=run["id"])
    assert (
        refused.leaf["refused"]["code"] == "agent-lacks-right"
    )  # clerk may not pass it on, though code of paul's own may call it
    (inner,) = box.records(kind="call.start", resource="desk.read", caused_by=run["id"])
    assert [who for _, who in inner.leaf["chain"]][1:] == ["agent:clerk", "agent:sandbox"]
    assert [asked["action"] for asked in inner.leaf["decision"]["asked"]] == ["call", "relay", "call"]


async def test_a_chain_that_is_full_takes_no_code_that_calls(upstreams: Peers, peers: Peers, tmp_path: Path) -> None:
    shallow = sandboxed(tmp_path, upstreams)
    shallow.settings["delegation"] = {"max_depth": 1}
    shallow.config.write_text(json.dumps(shallow.settings))
    shallow.start()
    try:
        assert await printed(shallow, shallow.token("paul"), calling("desk.read")) == {"desk.read": "ok"}
        said: list[Any] = []
        peers.agents["clerk"] = by_code_of_clerk(shallow, said)
        await asyncio.to_thread(shallow.send, "clerk", shallow.token("paul"))
        run = said[0]["result"]["structuredContent"]
        assert json.loads(run["stdout"]) == dict.fromkeys(("desk.read", "old.read"), "delegation-too-deep")
        (refused, _) = shallow.records(kind="decision.deny", workflow=shallow.records(id=run["id"])[0].leaf["workflow"])
        assert refused.leaf["refused"]["code"] == "delegation-too-deep"
    finally:
        shallow.stop()


def kill(box: Gateway, kind: str, target: str) -> str:
    """The id of a kill that fiona makes, who may."""
    frame = {"Authorization": f"Bearer {box.token('fiona')}"}
    answer = box.http.post("/api/kills", json={"kind": kind, "target": target, "reason": "a test"}, headers=frame)
    assert answer.status_code in {200, 201}, answer.text
    return str(answer.json()["id"])


def lift(box: Gateway, kill_id: str) -> None:
    box.http.delete(f"/api/kills/{kill_id}", headers={"Authorization": f"Bearer {box.token('fiona')}"}).raise_for_status()


async def test_a_killed_sandbox_calls_nothing_while_code_still_runs(box: Gateway) -> None:
    token, killed = box.token("paul"), kill(box, "agent", "agent:sandbox")
    try:
        assert await printed(box, token, calling("desk.read")) == {"desk.read": "revoked"}
    finally:
        lift(box, killed)
    assert await printed(box, token, calling("desk.read")) == {"desk.read": "ok"}


async def test_a_killed_workflow_ends_the_code_that_runs_in_it(box: Gateway, peers: Peers) -> None:
    """The code waits for a tool that never answers; the kill ends both, and the ledger says so of both."""
    begun, go_on = threading.Event(), threading.Event()

    def waits(_: Heard) -> dict[str, Any]:
        begun.set()
        go_on.wait(60)
        return done("late")

    peers.tools["desk.slow"] = waits
    token = box.token("paul")
    arguments = {"code": calling("desk.slow"), **UNDER}
    running = asyncio.create_task(asyncio.to_thread(box.call, "sandbox.run_python", token, arguments=arguments))
    await asyncio.to_thread(begun.wait, 60)
    (outer,) = [each for each in box.records(kind="call.start", resource="sandbox.run_python") if not ended(box, each.id)]
    await asyncio.to_thread(kill, box, "workflow", str(outer.leaf["workflow"]))
    answer = await running
    go_on.set()
    assert (answer.status_code, answer.json()["error"]["data"]["code"]) == (401, "revoked")
    (end,) = box.records(kind="sandbox.end", call=outer.id)
    assert end.leaf["reason"] == "cancelled"
    assert ended(box, outer.id)[0].leaf["outcome"]["status"] == "interrupted"


def ended(box: Gateway, call_id: str) -> list[Any]:
    return box.records(kind="call.end", call=call_id)


# --- three doors, one decision

TOOLS = (
    "desk.read", "desk.account", "desk.sign", "desk.seal", "vault.open", "down.read", "shut.read", "desk.nothing", "nowhere.read",
)  # fmt: skip


def verdict(answer: httpx.Response) -> str:
    """The gateway's code for a call over HTTP, `ok` where it came through."""
    said = answer.json()
    if "error" in said:
        return str(said["error"].get("data", {}).get("code", "tool-error"))
    meta = said["result"].get("_meta") or {}
    return str(meta.get("bailiwick/code", "tool-error" if said["result"].get("isError") else "ok"))


def by_clerk(box: Gateway, said: dict[str, str]) -> Callable[[Heard], str]:
    """The agent clerk, which calls each tool on behalf of whoever asked it."""

    def calls(heard: Heard) -> str:
        delegation = heard.headers["authorization"].removeprefix("Bearer ")
        for tool in TOOLS:
            with httpx.Client(base_url=box.url, trust_env=False, timeout=60) as http:
                said[tool] = verdict(called(box, http, tool, box.agent_secrets["clerk"], delegation))
        return "done"

    return calls


def called(
    box: Gateway, http: httpx.Client, tool: str, credential: str, delegation: str = "", arguments: Any = None
) -> httpx.Response:
    server, name = tool.split(".")
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call"}
    headers |= {"Mcp-Name": name, "Authorization": f"Bearer {credential}"}
    headers |= {"Bailiwick-Delegation": delegation} if delegation else {}
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    params = {"name": name, "arguments": arguments or {"text": "hello"}, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return http.post(f"/mcp/{server}", json=message, headers=headers)


def on_record(box: Gateway, workflow: str) -> dict[str, str]:
    """What the ledger says of a workflow's calls of these tools: the code of each refusal, `allowed` of the others."""
    said = {}
    for record in box.records(workflow=workflow):
        resource = str(record.leaf.get("resource", ""))
        if resource in TOOLS and record.kind in {"call.start", "decision.deny"}:
            said[resource] = str(record.leaf["refused"]["code"]) if "refused" in record.leaf else "allowed"
    return said


@pytest.mark.parametrize("person", ["paul", "mia"])
async def test_three_doors_one_decision(box: Gateway, peers: Peers, person: str) -> None:
    """The verdict for a tool is the same by MCP, by an agent that was asked by A2A, and from sandboxed code."""
    token, workflows = box.token(person), []
    answers = {tool: called(box, box.http, tool, token) for tool in TOOLS}
    by_mcp = {tool: verdict(answer) for tool, answer in answers.items()}
    workflows.append(answers["desk.read"].headers["bailiwick-workflow"])
    by_a2a: dict[str, str] = {}
    peers.agents["clerk"] = by_clerk(box, by_a2a)
    sent = await asyncio.to_thread(box.send, "clerk", box.token(person))
    workflows.append(sent.headers["bailiwick-workflow"])
    run = (await ran(box, box.token(person), calling(*TOOLS), **UNDER)).structured_content
    by_code = json.loads(run["stdout"])
    workflows.append(box.records(id=run["id"])[0].leaf["workflow"])
    assert by_mcp == by_a2a == by_code
    assert set(by_mcp.values()) >= {"user-lacks-right", "not-available"}
    first, second, third = (on_record(box, workflow) for workflow in workflows)
    assert first == second == third
    assert first.keys() == set(TOOLS)  # of what is no server's, as much is asked as of what is hidden
    assert len(set(first.values())) >= (4 if person == "paul" else 2), first
