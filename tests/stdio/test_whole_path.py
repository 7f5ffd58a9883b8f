"""`bailiwick serve` with no sandbox for code, and an MCP server that it starts: caged all the same, and gone with its gateway."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.engine import CagedRunner
from tests.interaction.world import Gateway, Peers
from tests.interaction.world import peers as scripted
from tests.sandbox_road.world import sandboxed
from tests.stdio.test_attacks import marked


@pytest.fixture
def peers() -> Iterator[Peers]:
    with scripted() as world:
        yield world


def gateway(folder: Path, peers: Peers, backend: str, mark: str) -> Gateway:
    """Not started; its server `old` carries the mark in its environment."""
    made = sandboxed(folder, peers, enabled=False, backend=backend)
    secret = folder / "mark"
    secret.write_text(mark)
    secret.chmod(0o600)
    made.settings["agents"].pop("sandbox")
    made.settings["mcp"]["old"]["env"] = {"MARK": {"file": str(secret)}}
    made.config.write_text(json.dumps(made.settings))
    return made


def test_without_a_sandbox_for_code_a_server_is_caged_and_dies_with_its_gateway(
    tmp_path: Path, peers: Peers, runner: CagedRunner
) -> None:
    mark = f"of-a-whole-path-by-{runner.name}"
    running = gateway(tmp_path, peers, runner.name, mark).start()
    try:
        said, headers = {"jsonrpc": "2.0", "id": 1}, {"mcp-protocol-version": "2025-11-25"}
        headers |= {"authorization": f"Bearer {running.token('paul')}", "accept": "application/json, text/event-stream"}
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        opened = running.post("/mcp/old", said | {"method": "initialize", "params": hello}, headers)
        assert opened.status_code == 200, opened.text
        headers["mcp-session-id"] = opened.headers["mcp-session-id"]
        call = {"method": "tools/call", "params": {"name": "read", "arguments": {"text": "hello"}}}
        assert "opened: True" in running.post("/mcp/old", said | call, headers).text
        (start,) = running.records(kind="sandbox.start")
        stateless = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "old__read"}
        meta = {
            f"io.modelcontextprotocol/{name}": value
            for name, value in (("protocolVersion", "2026-07-28"), ("clientCapabilities", {}))
        }
        through = {"name": "old__read", "arguments": {"text": "hello"}, "_meta": meta}
        headers.pop("mcp-session-id")
        all_as_one = running.post("/mcp", said | {"method": "tools/call", "params": through}, headers | stateless)
        assert "opened: True" in all_as_one.text
        assert running.http.get("/.well-known/oauth-protected-resource/mcp").json()["resource"] == f"{running.url}/mcp"
        assert (start.leaf["server"], start.leaf["profile"]) == ("old", "mcp-stdio")
        assert (start.leaf["backend"], start.leaf["guarantees"]["fs_read"]) == (runner.name, "hard")
        told = running.audit("trace", str(start.leaf["workflow"])).stdout
        assert f"ran server old {start.leaf['command_sha256'][:12]} under mcp-stdio by {runner.name}: under way" in told
        assert marked(f"MARK={mark}")
        running.kill()
    finally:
        running.stop()
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
