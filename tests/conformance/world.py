"""A gateway that grants one person everything of a reference server behind it, as processes; for judges from outside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from policies.model import NOTHING
from tests.conformance.shim import authorized
from tests.interaction.world import ROOT, TENANT, Gateway, Peers, free_port
from tests.mcp.world import reference_server

GRANTS = {
    "res:{server}/*": ("read", "subscribe"),
    "prompt:{server}/*": ("get",),
    "sampling:{server}": ("create",),
    "elicitation:{server}": ("form", "url"),
    "roots:{server}": ("read",),
    "task:{server}": ("read", "update", "cancel"),
}
"""Every kind of object that MCP has beside tools, with every action on it."""


class Granting(Gateway):
    """`bailiwick serve` in front of these servers (by id, their settings), all of whose offers are granted to every buyer.

    tools    by server, the names of its tools.
    bounded  by `server.tool`, an argument that is a number, and the largest one that may be called with.
    without  `server.tool` that is registered, and granted to nobody.
    """

    def __init__(
        self,
        folder: Path,
        servers: Mapping[str, Mapping[str, Any]],
        tools: Mapping[str, list[str]],
        *,
        bounded: Mapping[str, tuple[str, int]] = NOTHING,
        without: frozenset[str] = frozenset(),
    ) -> None:
        self._servers = servers
        _bundle(folder / "policies", tools, bounded, without)
        super().__init__(folder, Peers(port=free_port()))

    def _settings(self, peers: Peers) -> dict[str, Any]:
        settings = super()._settings(peers)
        return settings | {"agents": {}, "mcp": {name: dict(said) for name, said in self._servers.items()}}


def _bundle(
    folder: Path, tools: Mapping[str, list[str]], bounded: Mapping[str, tuple[str, int]], without: frozenset[str]
) -> None:
    (folder / "grants").mkdir(parents=True)
    shutil.copy(ROOT / "policies" / "default" / "model.conf", folder)
    named = [f"{server}.{tool}" for server, names in tools.items() for tool in names]
    asked = [(tool, "call", f"bound-{bounded[tool][0]}" if tool in bounded else "-") for tool in named if tool not in without]
    asked += [
        (pattern.format(server=server), action, "-")
        for server in tools
        for pattern, actions in GRANTS.items()
        for action in actions
    ]
    rows = [
        f"p, role:buyer, {TENANT}, {what}, {action}, allow, {when}, -, ALL-{n}" for n, (what, action, when) in enumerate(asked)
    ]
    registered = {tool: {"args": {bounded[tool][0]: "number"} if tool in bounded else {}, "risk": "low"} for tool in named}
    conditions = {
        f"bound-{name}": {"if": f"args.{name} <= {most}", "say": f"{name} up to {most}"} for name, most in bounded.values()
    }
    files = {
        "grants/all.csv": "\n".join(rows) + "\n",
        "roles.csv": f"g, idp:procurement-managers, role:buyer, {TENANT}\n",
        "conditions.yaml": json.dumps(conditions),
        "obligations.yaml": "{}\n",
        "tools.yaml": json.dumps({"tenants": [TENANT], "tools": registered, "sets": {}}),
    }
    for name, text in files.items():
        (folder / name).write_text(text)


def tools_of(url: str) -> list[str]:
    """The names of a server's tools, asked for without any client library."""
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/list",
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    answer = httpx.post(url, json=body, headers=headers, trust_env=False, timeout=30).raise_for_status()
    text = answer.text
    if answer.headers["content-type"].startswith("text/event-stream"):
        text = next(line.removeprefix("data: ") for line in reversed(text.splitlines()) if line.startswith("data: "))
    return [tool["name"] for tool in json.loads(text)["result"]["tools"]]


@contextmanager
def side_by_side(folder: Path) -> Iterator[tuple[str, str]]:
    """Two URLs: of a reference server, and of a gateway in front of another one, which needs no token of those who ask it.

    The gateway is two processes of one installation, and each of them has every other request.
    """
    with ExitStack() as stack:
        direct, behind = (stack.enter_context(reference_server()) for _ in range(2))
        one = Granting(folder, {"ref": {"url": behind}}, {"ref": tools_of(behind)}).start()
        stack.callback(one.stop)
        two = one.twin("twin").start()
        stack.callback(two.stop)
        port = stack.enter_context(authorized([one.port, two.port], one.keeper()))
        yield direct, f"http://127.0.0.1:{port}/mcp/ref"
