"""`bailiwick serve` with no sandbox for code, and an MCP server that it starts: caged all the same, and gone with its gateway."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.engine import CagedRunner
from tests.interaction.world import Gateway, Peers
from tests.interaction.world import peers as scripted
from tests.sandbox_road.world import sandboxed
from tests.stdio.test_attacks import OUTLIVES, marked
from tests.stdio.world import PYTHON, SPEAKER


@pytest.fixture
def peers() -> Iterator[Peers]:
    with scripted() as world:
        yield world


OBEYS = SPEAKER.replace('["code"]', '["text"]')  # under the name that policy knows
REMEMBERS = "import os; open(os.environ['HOME'] + '/note', 'a').write('forty-two'); said['home'] = os.environ['HOME']"
RECALLS = "import os; p = os.environ['HOME'] + '/note'; said['note'] = open(p).read() if os.path.exists(p) else None"


def gateway(folder: Path, peers: Peers, backend: str, mark: str, folders: Path) -> Gateway:
    """Not started; `old` is caged and has a folder for each person, `side` has no cage; both carry the mark."""
    made = sandboxed(folder, peers, enabled=False, backend=backend, folders=str(folders))
    made.settings["agents"].pop("sandbox")
    shared = {"command": [PYTHON, "-c", OBEYS], "variables": {"MARK": mark}}
    made.settings["mcp"]["old"] = {**shared, "folder": "per-user"}
    made.settings["mcp"]["side"] = {**shared, "sandbox": "off", "era": "legacy"}
    made.config.write_text(json.dumps(made.settings))
    grants = folder / "policies" / "grants" / "people.csv"
    grants.write_text(grants.read_text() + "p, role:marketer, acme, old.read, call, allow, -, -, OWN-1\n")
    return made


class Asking:
    """A session of one person's with one server."""

    def __init__(self, running: Gateway, person: str, server: str) -> None:
        self.running, self.server = running, server
        self.headers = {"mcp-protocol-version": "2025-11-25", "authorization": f"Bearer {running.token(person)}"}
        self.headers |= {"accept": "application/json, text/event-stream"}
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        opened = running.post(
            f"/mcp/{server}", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}, self.headers
        )
        assert opened.status_code == 200, opened.text
        self.headers["mcp-session-id"] = opened.headers["mcp-session-id"]

    def does(self, code: str) -> dict[str, Any]:
        """What the server says that came of this code of its own."""
        call = {"method": "tools/call", "params": {"name": "read", "arguments": {"text": code}}}
        said = self.running.post(f"/mcp/{self.server}", {"jsonrpc": "2.0", "id": 2, **call}, self.headers)
        found: dict[str, Any] = json.loads(said.json()["result"]["content"][0]["text"])
        return found


def test_servers_and_all_that_they_started_die_with_a_killed_gateway_and_the_next_one_finds_what_they_kept(
    tmp_path: Path, peers: Peers, runner: CagedRunner, reachable: Path
) -> None:
    mark = f"of-a-whole-path-by-{runner.name}"
    made = gateway(tmp_path, peers, runner.name, mark, reachable / "folders")
    try:
        running = made.start()
        old, bare = Asking(running, "paul", "old"), Asking(running, "paul", "side")
        home = old.does(REMEMBERS)["home"]
        assert old.does(OUTLIVES) == bare.does(OUTLIVES) == {"done": 1}
        (start,) = [start for start in running.records(kind="sandbox.start") if start.leaf["server"] == "old"]
        assert (start.leaf["profile"], start.leaf["backend"], start.leaf["folder"]) == ("mcp-stdio", runner.name, True)
        assert (start.leaf["guarantees"]["fs_read"], start.leaf["guarantees"]["folder"]) == ("hard", "hard")
        told = running.audit("trace", str(start.leaf["workflow"])).stdout
        assert f"ran server old {start.leaf['command_sha256'][:12]} under mcp-stdio by {runner.name}: under way" in told
        assert len(marked(f"MARK={mark}")) >= 6  # of each the server, a child that ignores signals, and a daemon
        gauges = running.http.get("/metrics").text
        assert 'bailiwick_stdio_processes{server="old"} 1' in gauges
        running.kill()
        gone(mark)
        running = made.start()
        assert Asking(running, "paul", "old").does(RECALLS) == {"note": "forty-two"}
        other = Asking(running, "mia", "old")
        assert other.does(RECALLS) == {"note": None}
        assert other.does(f"import os; said['seen'] = os.path.exists({home!r} + '/note')")["seen"] is False
        running.stop()
        gone(mark)
    finally:
        made.stop()


def gone(mark: str) -> None:
    until = time.monotonic() + 20
    while marked(f"MARK={mark}"):
        assert time.monotonic() < until


def test_a_gateway_whose_program_could_read_its_data_does_not_start(tmp_path: Path, peers: Peers) -> None:
    made = sandboxed(tmp_path, peers, enabled=False)
    made.settings["agents"].pop("sandbox")
    made.settings["mcp"]["old"]["cwd"] = str(tmp_path)
    made.config.write_text(json.dumps(made.settings))
    assert made.attempt() not in {None, 0}
    assert "mcp.old.cwd: the program could read the gateway's own data" in made.log.read_text()
