"""`bailiwick serve` as a process with its sandbox on, real cages, upstreams that are scripted here, and the official client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from sandbox.interpreter import choose, own_uids
from sandbox.profiles import load_profiles
from tests.interaction.world import BUNDLE, Gateway, Peers

SHIPPED = "no-network-512mb"
RUNS = ("run_python", "run_shell", "run_javascript", "list_environments")
TOOLS = ("desk.read", "desk.slow", "desk.account", "desk.sign", "desk.seal", "vault.open", "down.read", "shut.read")

PEOPLE = """\
p, role:buyer,    acme, sandbox.*,      call, allow, -, -, BOX-1
p, role:buyer,    acme, profile:tooled, use,  allow, -, -, BOX-2
p, role:buyer,    acme, res:sandbox/*,  read, allow, -, -, BOX-3
p, role:marketer, acme, sandbox.*,      call, allow, -, -, BOX-4
p, role:marketer, acme, profile:tooled, use,  allow, -, -, BOX-15
p, role:marketer, acme, res:sandbox/*,  read, allow, -, -, BOX-17
p, role:auditor,  acme, sandbox.*,      call, allow, -, -, BOX-16
p, role:buyer,    acme, desk.seal,      call, allow, politely, -, BOX-18
p, role:buyer,    acme, old.read,       call, allow, -, -, BOX-30
p, role:buyer,    acme, side.read,      call, allow, -, -, BOX-35
p, role:auditor,  acme, admin:kills,    change, allow, -, -, BOX-31
p, role:marketer, acme, desk.read,      call, allow, politely, -, BOX-19
p, role:buyer,    acme, profile:hosts,  use,  allow, -, -, BOX-20
p, role:buyer,    acme, host:*,         connect, allow, -, -, BOX-21
p, *,             acme, host:denied.invalid:*, connect, deny, -, -, BOX-22
"""
PYTHON = choose(65534 if own_uids() else None).path
HOSTS = ("listed.invalid:443", "denied.invalid:443", "*.beneath.invalid:443")
"""What the profile `hosts` lists: names that resolve nowhere (RFC 6761)."""
ROLES = "g, idp:finance-controllers, role:auditor, acme\n"
AGENTS = """\
p, agent:sandbox, acme, set:open-desk,     call, allow, -, -, BOX-5
p, agent:sandbox, acme, vault.open,        call, allow, -, -, BOX-6
p, agent:sandbox, acme, down.read,         call, allow, -, -, BOX-7
p, agent:sandbox, acme, desk.seal,         call, allow, -, -, BOX-8
p, agent:sandbox, acme, sandbox.*,         call, allow, -, -, BOX-9
p, agent:sandbox, acme, profile:tooled,    use,  allow, -, -, BOX-10
p, agent:sandbox, acme, old.read,          call, allow, -, -, BOX-32
p, agent:sandbox, acme, side.read,         call, allow, -, -, BOX-36
p, agent:clerk,   acme, set:open-desk,     call, allow, -, -, BOX-11
p, agent:clerk,   acme, vault.open,        call, allow, -, -, BOX-12
p, agent:clerk,   acme, sandbox.*,         call, allow, -, -, BOX-33
p, agent:clerk,   acme, profile:tooled,    use,  allow, -, -, BOX-34
p, agent:clerk,   acme, down.read,         call, allow, -, -, BOX-13
p, agent:clerk,   acme, desk.seal,         call, allow, -, -, BOX-14
"""
OLD = """\
import json, sys
opened = False
for line in sys.stdin:
    message = json.loads(line)
    if message["method"] == "initialize":
        opened = True
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "old", "version": "1"}}
    else:
        result = {"content": [{"type": "text", "text": f"opened: {opened}"}]}
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""
"""A server that knows the era of handshakes alone."""
SCOPE = [*(f"{server}.*" for server in ("desk", "vault", "down", "shut", "old", "sandbox")), "profile:*"]
"""The most that code may touch, whatever policy grants `agent:sandbox`: `side` is not in it."""
REGISTERED = "".join(f"  {tool}: {{args: {{text: string}}, risk: low}}\n" for tool in ("old.read", "side.read")) + "".join(
    f"  sandbox.{tool}: {{args: {{code: string}}, risk: medium}}\n" for tool in RUNS
)


def _tooled(**changes: Any) -> str:
    """A profile in which code may call tools and keep files, as TOML."""
    shipped = load_profiles()[SHIPPED]
    limits = "".join(f"{name} = {value}\n" for name, value in (shipped.limits.to_dict() | changes).items())
    requires = "".join(f'{name} = "{strength.word}"\n' for name, strength in shipped.requires.items())
    languages = json.dumps(sorted(shipped.languages))
    return f"network = false\nlanguages = {languages}\ntools = true\nsession = true\n[limits]\n{limits}[requires]\n{requires}"


def sandboxed(folder: Path, peers: Peers, **settings: Any) -> Gateway:
    """A gateway with the sandbox, not started: the profile `tooled` lets code call tools and keep files for its workflow."""
    bundle = folder / "policies"
    (bundle / "grants").mkdir(parents=True)
    tools = BUNDLE["tools.yaml"].replace("sets:", REGISTERED + "sets:")
    texts = BUNDLE | {
        "grants/people.csv": BUNDLE["grants/people.csv"] + PEOPLE,
        "grants/agents.csv": BUNDLE["grants/agents.csv"] + AGENTS,
        "tools.yaml": tools,
        "roles.csv": BUNDLE["roles.csv"] + ROLES,
        "conditions.yaml": "politely: {if: 'args.text == \"please\"', say: asked politely}\n",
    }
    for name, text in texts.items():
        (bundle / name).write_text(text)
    (bundle / "model.conf").write_bytes((Path(__file__).parents[2] / "policies" / "default" / "model.conf").read_bytes())
    profiles = folder / "profiles"
    profiles.mkdir()
    (profiles / "tooled.toml").write_text(_tooled())
    (profiles / "hosts.toml").write_text(_tooled().replace("false", json.dumps(HOSTS), 1).replace('net_none = "hard"\n', ""))
    (profiles / "own-kernel.toml").write_text(_tooled() + 'own_kernel = "hard"\n')
    made = {"enabled": True, "profiles": str(profiles)} | settings
    gateway = Gateway(folder, peers, more={"sandbox": made})
    gateway.settings["mcp"]["old"] = {"command": [PYTHON, "-c", OLD]}
    gateway.settings["mcp"]["side"] = {"url": f"http://127.0.0.1:{peers.port}/mcp/side"}
    gateway.settings["agents"]["sandbox"] = {"scope": SCOPE}
    gateway.config.write_text(json.dumps(gateway.settings))
    return gateway


Told = Callable[[str], None]


@asynccontextmanager
async def client(gateway: Gateway, token: str, mode: str = "auto", path: str = "/mcp/sandbox") -> AsyncIterator[Client]:
    """The official MCP client, connected to the built-in server, or to what is elsewhere."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False, verify=False) as http:
        transport = streamable_http_client(f"{gateway.url}{path}", http_client=http)
        async with Client(transport, mode=mode) as connected:
            yield connected


async def ran(gateway: Gateway, token: str, code: str, tool: str = "run_python", mode: str = "auto", **more: Any) -> Any:
    """The result of one run."""
    async with client(gateway, token, mode) as connected:
        return await connected.call_tool(tool, {"code": code} | more)


def calling(*tools: str, arguments: Mapping[str, Any] | None = None) -> str:
    """Code that calls each of these tools, and prints for each the code of a refusal, or `ok`."""
    return f"""\
import json
from bailiwick_tools import ToolError, call
said = {{}}
for tool in {list(tools)!r}:
    try:
        call(tool, {dict(arguments or {"text": "hello"})!r})
        said[tool] = "ok"
    except ToolError as error:
        said[tool] = error.code
print(json.dumps(said))
"""
