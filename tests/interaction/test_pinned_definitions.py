"""A server that changes its word: from the first list to an approval while the gateway serves, and over a restart, on record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policies.canonical import digest_of
from policies.lock import NAME, Approved, Key, Lock, render
from tests.interaction.world import Gateway, Peers
from tests.mcp.liar import liar, tool

META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}


def listed(gateway: Gateway, token: str, path: str = "/mcp/desk") -> list[str]:
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
    answer = gateway.post(path, message, headers | {"Authorization": f"Bearer {token}"})
    return [each["name"] for each in answer.json()["result"]["tools"]]


def until(gateway: Gateway, token: str, names: list[str]) -> None:
    """Wait until the watch has put in force what lists these."""
    for _ in range(3000):
        if listed(gateway, token) == names:
            return
    raise AssertionError(f"{names} never came: {listed(gateway, token)}")


def passes(gateway: Gateway, token: str, name: str) -> bool:
    answer: dict[str, Any] = gateway.call(f"desk.{name}", token, version="2026-07-28").json()
    return "result" in answer


def test_a_change_is_hidden_until_it_is_approved_and_an_approval_outlives_a_restart(tmp_path: Path, peers: Peers) -> None:
    with liar() as server:
        policy = {"require_tests": False, "watch_seconds": 0.05, "settle_seconds": 0.02}
        gateway = Gateway(tmp_path, peers, more={"mcp": {"desk": {"url": f"{server.url}/desk"}}, "policy": policy})
        server.tools["desk"] = [tool("read"), tool("slow")]
        gateway.start()
        try:
            token = gateway.token()
            assert listed(gateway, token) == ["read", "slow"]
            server.tools["desk"] = [tool("read", "Reads all books."), tool("slow")]
            assert listed(gateway, token) == ["slow"]
            assert listed(gateway, token, "/mcp") == ["desk__slow"]
            assert (passes(gateway, token, "read"), passes(gateway, token, "slow")) == (False, True)

            keys: dict[Key, Approved] = {
                ("tool", each["name"]): Approved(each, digest_of(each), "anna", "2026-11-22T18:00:00Z")
                for each in server.tools["desk"]
            }
            (gateway.folder / "policies" / NAME).write_text(render(Lock({"desk": keys})))
            until(gateway, token, ["read", "slow"])
            assert passes(gateway, token, "read")
            gateway.stop()

            server.tools["desk"].append(tool("seal"))
            gateway.start()
            token = gateway.token()
            assert (passes(gateway, token, "read"), passes(gateway, token, "seal")) == (True, False)
            assert server.calls("desk") == ["slow", "read", "read"]
        finally:
            gateway.stop()
        kinds = [record.leaf["kind"] for record in gateway.records() if str(record.leaf["kind"]).startswith("definition.")]
        assert kinds == [f"definition.{each}" for each in ("seen", "changed", "approved", "quarantined")]
        (approved,) = gateway.records(kind="definition.approved")
        assert {(each["target"], each["name"], each["by"]) for each in approved.leaf["definitions"]} == {
            ("desk", "read", "anna"),
            ("desk", "slow", "anna"),
        }
        (changed,) = gateway.records(kind="definition.changed")
        assert "the tool read of desk is held back: changed" in gateway.log.read_text()
        assert b"Reads all books." in gateway.opened(changed, "said")
        assert gateway.audit("verify").returncode == 0
