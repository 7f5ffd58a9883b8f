"""Code that an agent runs, from the client's call to the cage and back: real sockets, real cages, the official client."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal

import httpx
import pytest
from mcp import MCPError

from tests.interaction.world import MODERN, Gateway
from tests.sandbox_road.world import client, ran

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node here")

PROGRAMS = {
    "run_python": """\
import sys
print(6 * 7, sys.stdin.read(), sys.argv[1], open("in.txt").read())
open("out.txt", "w").write("left")
""",
    "run_shell": 'echo $((6 * 7)) "$(cat)" "$1" "$(cat in.txt)"; printf left > out.txt',
    "run_javascript": """\
import fs from "node:fs";
console.log(6 * 7, fs.readFileSync(0, "utf8"), process.argv[2], fs.readFileSync("in.txt", "utf8"));
fs.writeFileSync("out.txt", "left");
""",
}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("tool", ["run_python", "run_shell", pytest.param("run_javascript", marks=needs_node)])
async def test_each_language_takes_files_input_and_arguments_and_leaves_files(box: Gateway, tool: str, mode: str) -> None:
    token = box.token("paul")
    async with client(box, token, mode) as connected:
        assert tool in {each.name for each in (await connected.list_tools()).tools}
        arguments = {"code": PROGRAMS[tool], "stdin": "typed", "arguments": ["said"], "files": {"in.txt": "given"}}
        result = await connected.call_tool(tool, arguments)
        run = result.structured_content
        assert (run["reason"], run["stdout"]) == ("ok", "42 typed said given\n"), run
        (left,) = run["files"]
        assert (left["name"], left["text"]) == ("out.txt", "left")
        (contents,) = (await connected.read_resource(left["uri"])).contents
    assert contents.text == "left"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_built_in_server_is_part_of_all_servers_as_one(box: Gateway, mode: str) -> None:
    async with client(box, box.token("paul"), mode, "/mcp") as connected:
        assert "sandbox__run_python" in {each.name for each in (await connected.list_tools()).tools}
        result = await connected.call_tool("sandbox__run_python", {"code": "print(6 * 7)"})
    assert result.structured_content["stdout"] == "42\n"
    (start,) = box.records(kind="sandbox.start", call=result.structured_content["id"])
    assert start.leaf["code_sha256"] == result.structured_content["code_sha256"]


async def test_the_result_says_what_was_proven_and_the_ledger_the_same(box: Gateway) -> None:
    token = box.token("paul")
    run = (await ran(box, token, "print(1)")).structured_content
    (start,) = box.records(kind="sandbox.start", call=run["id"])
    (end,) = box.records(kind="sandbox.end", call=run["id"])
    assert run["guarantees"]["net_none"] == end.leaf["guarantees"]["net_none"] == "hard"
    assert run["backend"] == start.leaf["backend"] == end.leaf["backend"]
    assert run["inputs_digest"] == end.leaf["inputs_digest"]
    assert run["outputs_digest"] == end.leaf["outputs_digest"]
    assert run["code_sha256"] == start.leaf["code_sha256"]
    assert run["probe_id"] == start.leaf["probe"] == end.leaf["probe"]
    told = box.audit("trace", start.leaf["workflow"]).stdout
    assert f"ran python {run['code_sha256'][:12]} under no-network-512mb by {run['backend']}: ok" in told
    shown = box.audit("show", run["id"]).stdout
    assert "and of the code that it ran" in shown
    assert box.audit("verify").returncode == 0
    assert box.audit("reproduce").returncode == 0


async def test_sighup_has_isolation_proven_anew(box: Gateway) -> None:
    token = box.token("paul")
    before = (await ran(box, token, "print(1)")).structured_content["probe_id"]
    assert (await ran(box, token, "print(1)")).structured_content["probe_id"] == before, "a probe holds for a while"
    os.kill(box.pid, signal.SIGHUP)
    while (await ran(box, token, "print(1)")).structured_content["probe_id"] == before:
        pass  # until the signal has been seen


async def test_the_same_inputs_give_the_same_digests(box: Gateway) -> None:
    code = "print(sorted({'b', 'a'})); open('x', 'w').write('y')"
    first, second = [(await ran(box, box.token("paul"), code)).structured_content for _ in range(2)]
    assert (first["inputs_digest"], first["outputs_digest"]) == (second["inputs_digest"], second["outputs_digest"])
    assert first["id"] != second["id"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_output_is_heard_piece_by_piece(box: Gateway, mode: str) -> None:
    heard: list[str] = []

    async def told(_progress: float, _total: float | None, message: str | None) -> None:
        heard.append(message or "")

    code = "import sys\nfor n in range(3):\n    print(n, flush=True)\nprint('!', file=sys.stderr)"
    async with client(box, box.token("paul"), mode) as connected:
        result = await connected.call_tool("run_python", {"code": code}, progress_callback=told)
    assert result.structured_content["stdout"] == "0\n1\n2\n"
    assert sorted("".join(heard)) == sorted("0\n1\n2\n!\n")


async def test_a_profile_that_is_not_granted_runs_nothing(box: Gateway) -> None:
    token = box.token("fiona")
    result = await ran(box, token, "print('ran')", profile="tooled")
    assert result.is_error
    assert result.meta["bailiwick/code"] == "user-lacks-right"
    (refused,) = box.records(kind="decision.deny", id=result.meta["bailiwick/decision"])
    assert (refused.leaf["action"], refused.leaf["resource"]) == ("use", "profile:tooled")


async def test_isolation_that_is_not_proven_here_is_refused(box_with_wish: Gateway) -> None:
    token = box_with_wish.token("paul")
    result = await ran(box_with_wish, token, "print('ran')")
    assert result.is_error
    assert result.meta["bailiwick/code"] == "isolation-unproven"
    (end,) = box_with_wish.records(kind="sandbox.end")
    assert end.leaf["missing"]["own_kernel"].startswith("wanted hard")
    assert "ran nothing" in box_with_wish.audit("trace", end.leaf["workflow"]).stdout


async def test_environments_say_what_can_be_run_and_under_what(box: Gateway) -> None:
    async with client(box, box.token("paul")) as connected:
        said = (await connected.call_tool("list_environments", {})).structured_content["environments"]
    available = {each["name"]: each["available"] for each in said}
    assert (said[0]["name"], available["tooled"]) == ("no-network-512mb", True)
    assert "own-kernel" not in available  # nobody granted it
    assert said[0]["languages"]["python"].startswith("3.")


async def test_files_of_a_session_last_for_the_workflow_and_for_nobody_else(box: Gateway) -> None:
    token = box.token("paul")
    more = {"profile": "tooled", "session": True}
    await ran(box, token, "open('kept.txt', 'w').write('once')", **more)
    again = await ran(box, token, "print(open('kept.txt').read()); open('kept.txt', 'a').write(' more')", **more)
    assert again.structured_content["stdout"] == "once\n"
    third = await ran(box, token, "cat kept.txt", "run_shell", **more)
    assert third.structured_content["stdout"] == "once more"
    fourth = await ran(box, token, "rm kept.txt; echo x > other.txt", "run_shell", **more)
    assert fourth.structured_content["files_gone"] == ["kept.txt"]
    fifth = await ran(box, token, "ls", "run_shell", **more)
    assert fifth.structured_content["stdout"].split() == ["main.sh", "other.txt"]
    without = await ran(box, token, "ls", "run_shell", profile="tooled")
    assert "other.txt" not in without.structured_content["stdout"]
    other_workflow = await ran(box, box.token("paul"), "ls", "run_shell", **more)
    assert "other.txt" not in other_workflow.structured_content["stdout"]
    folder = box.folder / "data" / "sandbox-sessions"
    assert list(folder.iterdir())
    assert all(b"once" not in path.read_bytes() and b"kept" not in path.read_bytes() for path in folder.iterdir())


async def test_code_cannot_make_its_own_session_unusable(box: Gateway) -> None:
    """Files in the code's own name, in the gateway's, or as many as there can be, spoil no later run."""
    token, more = box.token("paul"), {"profile": "tooled", "session": True}
    names = ("main.py", "main.sh", "main.mjs", "bailiwick_tools.py", "bailiwick_tools.mjs")
    code = f"[open(name, 'w').write('print(0)') for name in {names}]"
    await ran(box, token, code, **more)
    again = await ran(
        box, token, "import bailiwick_tools, os; print(sorted(os.listdir()), bailiwick_tools.call.__name__)", **more
    )
    assert again.structured_content["stdout"] == "['bailiwick_tools.py', 'main.py'] call\n"
    await ran(box, token, "[open(f'{n}', 'wb').write(bytes(1 << 18)) for n in range(31)]", **more)
    last = await ran(box, token, "import os; print(len(os.listdir()) > 20)", **more)
    assert last.structured_content["stdout"] == "True\n"


async def test_a_file_is_its_callers_alone(box: Gateway) -> None:
    token = box.token("paul")
    run = (await ran(box, token, "open('a', 'w').write('b')")).structured_content
    uri = run["files"][0]["uri"]
    async with client(box, token) as connected:
        assert next(str(each.uri) for each in (await connected.list_resources()).resources) == uri
    said = []
    for person, wanted in (
        ("mia", uri),
        ("mia", f"{uri}x"),
        ("fiona", uri),
        ("fiona", f"{uri}x"),
    ):  # mia may read files, fiona none
        async with client(box, box.token(person)) as connected:
            assert (await connected.list_resources()).resources == []
            with pytest.raises(MCPError) as refused:
                await connected.read_resource(wanted)
        said.append((refused.value.code, refused.value.message, refused.value.data["code"]))
    assert set(said) == {(-32602, "Resource not found", "not-available")}


async def test_an_input_reaches_the_code_byte_for_byte(box: Gateway) -> None:
    code = "import sys, json; print(json.dumps(list(open('b', 'rb').read())))"
    run = (await ran(box, box.token("paul"), code, files={"b": {"base64": "AP8K"}})).structured_content
    assert json.loads(run["stdout"]) == [0, 255, 10]


FOREVER = "import time\nprint('here', flush=True)\nwhile True:\n    time.sleep(1)"


async def test_a_caller_who_hangs_up_ends_the_code(box: Gateway) -> None:
    """The code would go on for ever; its first word is heard, its caller leaves, and it is gone and on record as cancelled."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}, "progressToken": "t"
    }  # fmt: skip
    params = {"name": "run_python", "arguments": {"code": FOREVER}, "_meta": meta}
    headers = {"Authorization": f"Bearer {box.token('paul')}", "Accept": "application/json, text/event-stream"}
    headers |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "run_python"}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    async with (
        httpx.AsyncClient(base_url=box.url, trust_env=False, timeout=60) as http,
        http.stream("POST", "/mcp/sandbox", json=message, headers=headers) as answer,
    ):
        said = await anext(line async for line in answer.aiter_lines() if line.startswith("data: "))
        decision = answer.headers["bailiwick-decision"]
    assert json.loads(said.removeprefix("data: "))["params"]["message"] == "here\n"
    async with asyncio.timeout(60):
        while not (ends := await asyncio.to_thread(box.records, kind="sandbox.end", call=decision)):
            pass  # reading the ledger takes its time
    assert ends[0].leaf["reason"] == "cancelled"


async def test_two_runs_of_one_person_share_nothing(box: Gateway) -> None:
    """The second is in the midst of it while the first one's files are there, and finds none of them."""
    token = box.token("paul")
    code = "import os\nopen('mine', 'w').write('x')\nprint(sorted(os.listdir()))"
    both = await asyncio.gather(*(ran(box, token, code) for _ in range(2)))
    assert [run.structured_content["stdout"] for run in both] == ["['main.py', 'mine']\n"] * 2


async def test_runs_are_counted_by_language_and_end(box: Gateway) -> None:
    await ran(box, box.token("paul"), "exit 3", "run_shell")
    said = box.http.get("/metrics").text
    assert 'bailiwick_sandbox_runs_total{language="shell",reason="error"}' in said
    assert "bailiwick_sandbox_waiting 0" in said
