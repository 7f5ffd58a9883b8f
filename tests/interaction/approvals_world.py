"""A gateway whose policy asks for people's approval, and the ways in which a call can be asked for, over either protocol."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from audit.reader import Record
from tests.interaction.world import BUNDLE, LEGACY, MODERN, ROOT, Gateway, Heard, Peers

PATIENCE = 40
"""Seconds that a test looks for what must come; nothing is asserted about how soon it does."""

TOOLS = ("read", "pay", "brief", "swap", "both", "hold", "peer", "mine", "plain")
URL: dict[str, Any] = {"elicitation": {"url": {}}}
FORM: dict[str, Any] = {"elicitation": {"form": {}}}
FILES = {
    **BUNDLE,
    "roles.csv": """\
g, idp:procurement-managers, role:buyer,      acme
g, idp:finance-controllers,  role:controller, acme
g, idp:marketing-managers,   role:auditor,    acme
""",
    "conditions.yaml": "above: {if: args.amount > 100, say: above 100}\nnothing: {if: args.amount > 1000000, say: a million}\n",
    "obligations.yaml": """\
by-finance:  {type: human-approval, by: [role:controller], within: 1h}
by-audit:    {type: human-approval, by: role:auditor, within: 4h}
by-either:   {type: human-approval, by: [role:controller, role:auditor, role:buyer], within: 1h}
in-a-second: {type: human-approval, by: role:controller, within: 1s}
held-open:   {type: human-approval, by: role:controller, within: 1h, wait: 30s}
by-oneself:  {type: human-approval, by: role:buyer, within: 1h, not_same_user: false}
by-error:    {type: human-approval, by: [role:controller], within: 1h, asks: error}
""",
    "tools.yaml": "tenants: [acme]\ntools:\n"
    + "".join(f"  desk.{tool}: {{args: {{text: string, amount: number}}, risk: low}}\n" for tool in TOOLS),
    "grants/people.csv": """\
p, role:buyer,      acme, desk.*,      call,   allow, -, -, BUY-1
p, role:buyer,      acme, a2a:*,       send,   allow, -, -, BUY-2
p, role:controller, acme, a2a:clerk,   send,   allow, -, -, FIN-1
p, role:controller, acme, admin:kills, change, allow, -, -, FIN-2
p, role:auditor,    acme, admin:kills, change, allow, -, -, AUD-1
p, role:controller, acme, admin:policy, change, allow, -, -, FIN-3
""",
    "grants/agents.csv": """\
p, agent:clerk, acme, desk.*,     call,    allow, -, -, AGT-1
p, agent:clerk, acme, approval:*, approve, allow, -, -, AGT-2
""",
    "grants/guardrails.csv": """\
p, *, acme, desk.pay,   call, require, above, by-finance,  SEC-1
p, *, acme, desk.brief, call, require, -,     in-a-second, SEC-2
p, *, acme, desk.swap,  call, require, -,     by-either,   SEC-3
p, *, acme, desk.both,  call, require, -,     by-finance,  SEC-4
p, *, acme, desk.both,  call, require, -,     by-audit,    SEC-5
p, *, acme, desk.hold,  call, require, -,     held-open,   SEC-6
p, *, acme, a2a:hermit, send, require, -,     by-error,    SEC-7
p, *, acme, a2a:porter, send, require, -,     by-finance,  SEC-10
p, *, acme, desk.mine,  call, require, -,     by-oneself,  SEC-8
p, *, acme, desk.plain, call, require, -,     by-error,    SEC-9
""",
}


def with_policy(gateway: Gateway, **changes: str) -> Gateway:
    """The same gateway with this bundle in its folder; `changes` are files of it."""
    agents = gateway.settings["agents"]
    if "porter" not in agents:  # whose messages are asked for as its protocol has it
        url = agents["hermit"]["url"].replace("hermit", "porter")
        agents["porter"] = {
            "url": url,
            "versions": ["1.0", "0.3"],
            "auth": {"secret_sha256": [hashlib.sha256(b"porter's own").hexdigest()]},
        }
        gateway.config.write_text(json.dumps(gateway.settings))
    for name, text in (FILES | changes).items():
        (gateway.folder / "policies" / name).write_text(text)
    return gateway


@dataclass(frozen=True)
class Said:
    """How a call was answered: `done`, or a code; with the approval that it waits for."""

    word: str
    approval: str = ""
    text: str = ""


Ask = Callable[..., Said]


def by_mcp(gateway: Gateway, token: str, tool: str = "pay", text: str = "chairs", version: str = LEGACY, **more: Any) -> Said:
    """Call the tool for 500."""
    answer = gateway.call(f"desk.{tool}", token, version=version, arguments={"text": text, "amount": 500}, **more)
    body = answer.json()
    if "error" in body:
        return Said(str(body["error"]["data"]["code"]))
    result = body["result"]
    if not result.get("isError"):
        return Said("done")
    meta = result["_meta"]
    return Said(meta["bailiwick/code"], meta.get("bailiwick/approval", {}).get("approval", ""), result["content"][0]["text"])


def by_modern_mcp(gateway: Gateway, token: str, tool: str = "pay", text: str = "chairs", **more: Any) -> Said:
    """The same in the stateless era."""
    return by_mcp(gateway, token, tool, text, MODERN, **more)


def by_a2a(gateway: Gateway, token: str, tool: str = "pay", text: str = "chairs", **more: Any) -> Said:
    """Send a message to the agent whose messages need an approval."""
    del tool
    answer = gateway.send("hermit", token, text, **more)
    body = answer.json()
    if "error" not in body:
        return Said("done")
    told = body["error"]["data"][0]["metadata"]
    return Said(told["code"], told.get("approval", ""), body["error"]["message"])


_states: dict[tuple[str, ...], str] = {}
"""The last state of each call that was asked about, as its client keeps it."""


def ask_by_url(gateway: Gateway, token: str, tool: str = "pay", text: str = "chairs", **more: Any) -> dict[str, Any]:
    """The answer to the call of a client that can lead its person to a page."""
    arguments = {"text": text, "amount": 500}
    return dict(gateway.call(f"desk.{tool}", token, version=MODERN, arguments=arguments, capabilities=URL, **more).json())


def retry(state: str, action: str = "accept", **content: Any) -> dict[str, Any]:
    """What a call says besides, when it comes back with its person's answer."""
    answer = {"action": action} | ({"content": content} if content else {})
    return {"requestState": state, "inputResponses": {"bailiwick/approval": answer}}


def by_url(gateway: Gateway, token: str, tool: str = "pay", text: str = "chairs", **more: Any) -> Said:
    """The same by a client that can lead its person to a page, and comes back with the state that it was given."""
    known = gateway.public_url, token, tool, text
    params = retry(_states[known]) if known in _states else {}
    body = ask_by_url(gateway, token, tool, text, params=params, **more)
    if "error" in body:
        return Said(str(body["error"]["data"]["code"]))
    result = body["result"]
    if result.get("resultType", "complete") == "complete":
        word = result["_meta"]["bailiwick/code"] if result["isError"] else "done"
        return Said(word, result["_meta"].get("bailiwick/approval", {}).get("approval", ""))
    asked = result["inputRequests"]["bailiwick/approval"]
    assert (asked["method"], asked["params"]["mode"]) == ("elicitation/create", "url")
    _states[known] = result["requestState"]
    meta = result["_meta"]
    approval = str(meta["bailiwick/approval"]["approval"])
    assert asked["params"]["url"] == f"{gateway.public_url}/approvals/{approval}"
    return Said(meta["bailiwick/code"], approval, asked["params"]["message"])


def by_task(gateway: Gateway, token: str, tool: str = "pay", text: str = "chairs", **more: Any) -> Said:
    """The same of an agent whose messages wait as tasks: once one waits, by another message on it."""
    del tool
    known = gateway.public_url, token, "porter", text
    said = message("go on", taskId=_states[known]) if known in _states else message(text)
    body = gateway.ask("porter", "SendMessage", {"message": said}, token, **more).json()
    if "error" in body and body["error"]["code"] == -32004:  # its task is over: it is asked for anew
        body = gateway.ask("porter", "SendMessage", {"message": message(text)}, token, **more).json()
    if "error" in body:
        return Said(body["error"]["data"][0]["metadata"]["code"])
    task = body["result"]["task"]
    about = task.get("metadata", {}).get("bailiwick/approval")
    if about is None:
        return Said("done")
    _states[known] = task["id"]
    word = {"TASK_STATE_INPUT_REQUIRED": "approval-required", "TASK_STATE_REJECTED": "approval-denied"}[task["status"]["state"]]
    return Said(word, about["approval"], task["status"]["message"]["parts"][0]["text"])


def message(text: str, **more: str) -> dict[str, Any]:
    """A message of a user's."""
    return {"messageId": str(uuid.uuid4()), "role": "ROLE_USER", "parts": [{"text": text}], **more}


WAYS: dict[str, Ask] = {"mcp": by_mcp, "mcp-modern": by_modern_mcp, "mcp-url": by_url, "a2a": by_a2a, "a2a-task": by_task}


def arrived(peers: Peers) -> list[Heard]:
    """The calls and messages that reached an upstream."""
    return [each for each in peers.heard if each.message.get("method") in {"tools/call", "SendMessage"}]


def api(
    gateway: Gateway, method: str, path: str, credential: str, body: dict[str, Any] | None = None, **more: str
) -> httpx.Response:
    """One request to the API under `/api/approvals`."""
    headers = {"Authorization": f"Bearer {credential}", **more}
    return gateway.http.request(method, f"/api/approvals{path}", json=body, headers=headers)


def digest_of(gateway: Gateway, approval: str, credential: str) -> str:
    """As an approver sees it."""
    return str(api(gateway, "GET", f"/{approval}", credential).raise_for_status().json()["digest"])


def approve(gateway: Gateway, approval: str, person: str = "fiona", digest: str = "") -> httpx.Response:
    """Look at it, and say yes."""
    token = gateway.token(person)
    digest = digest or digest_of(gateway, approval, token)
    return api(gateway, "POST", f"/{approval}/approve", token, {"digest": digest})


def state_of(gateway: Gateway, approval: str, person: str = "paul") -> str:
    """Where it stands, as its requester sees it."""
    return str(api(gateway, "GET", f"/{approval}", gateway.token(person)).raise_for_status().json()["state"])


def kinds(gateway: Gateway, approval: str) -> list[str]:
    """Kinds of the records about an approval, in order."""
    return [record.kind for record in of(gateway, approval)]


def of(gateway: Gateway, approval: str) -> list[Record]:
    """The records about an approval."""
    return [record for record in gateway.records(approval=approval) if record.kind.startswith("approval.")]


def eventually(look: Callable[[], bool]) -> None:
    """Look until it is so."""
    end = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.05)


def verb(gateway: Gateway, person: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`bailiwick approvals WORDS`, as somebody."""
    command = [sys.executable, "-m", "gateway.cli", "approvals", *words, "--config", str(gateway.config), "--url", gateway.url]
    token = gateway.token(person) if person else ""
    environment = os.environ | {"BAILIWICK_TOKEN": token, "COLUMNS": "240", "NO_COLOR": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL
    )
