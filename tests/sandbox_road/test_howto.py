"""The page for whoever lets an agent run code: its settings, its rules and its programs, as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.interaction.world import BUNDLE, ROOT, Gateway, Peers, done
from tests.sandbox_road.world import ran

PAGE = ROOT / "docs" / "how-to" / "run-code.md"
BLOCK = re.compile(r"```(\w+) ([^\n]+)\n(.*?)```", re.DOTALL)
BLOCKS: dict[str, str] = {}
for _, title, text in BLOCK.findall(PAGE.read_text()):
    BLOCKS[title] = BLOCKS.get(title, "") + text


@pytest.fixture(scope="module")
def gateway(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "policies" / "grants").mkdir(parents=True)
    texts = BUNDLE | {
        "roles.csv": "g, idp:procurement-managers, role:analyst, acme\n",
        "tools.yaml": BUNDLE["tools.yaml"].replace("sets:", BLOCKS["tools.yaml"] + "sets:"),
        "grants/people.csv": BLOCKS["grants/people.csv"],
        "grants/agents.csv": BLOCKS["grants/agents.csv"],
    }
    for name, text in texts.items():
        (folder / "policies" / name).write_text(text)
    (folder / "policies" / "model.conf").write_bytes((ROOT / "policies" / "default" / "model.conf").read_bytes())
    (folder / "profiles").mkdir()
    (folder / "profiles" / "reporting.toml").write_text(BLOCKS["profiles/reporting.toml"])
    running = Gateway(folder, upstreams, more=YAML(typ="safe", pure=True).load(BLOCKS["bailiwick.yaml"]))
    try:
        yield running.start()
    finally:
        running.stop()


async def test_the_agent_of_the_page_says_what_the_page_says(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(BLOCKS["agent.py"])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "agent.py", gateway.url, cwd=tmp_path, stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"TOKEN": gateway.token("paul")},
    )  # fmt: skip
    said, _ = await process.communicate()
    assert said.decode() == BLOCKS["output of agent.py"]


async def test_the_code_of_the_page_calls_a_tool_and_the_trace_shows_it(gateway: Gateway, peers: Peers) -> None:
    peers.tools["desk.read"] = lambda heard: done(f"heard {heard.message['params']['arguments']['text']}")
    run = (await ran(gateway, gateway.token("paul"), BLOCKS["code.py"], profile="reporting")).structured_content
    assert run["stdout"] == BLOCKS["output of code.py"]
    workflow = gateway.records(id=run["id"])[0].leaf["workflow"]
    told = gateway.audit("trace", workflow).stdout
    assert all(line in told for line in BLOCKS["output of the trace"].splitlines())


async def test_whoever_the_page_grants_nothing_runs_nothing(gateway: Gateway) -> None:
    answer = gateway.call("sandbox.run_python", gateway.token("mia"), arguments={"code": "print(1)"})
    assert answer.json()["error"]["data"]["code"] == "not-available"
    assert gateway.records(kind="sandbox.start", workflow=answer.headers["bailiwick-workflow"]) == []
