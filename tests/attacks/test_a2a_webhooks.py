"""Webhooks that lead inside: each is refused before the agent hears of the task, or never reached."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.a2a.webhook import Allowed
from tests.a2a.agents import Request, scripted, task
from tests.a2a.world import World, gateway

ATTACKS = {
    "loopback": "https://127.0.0.1/",
    "loopback by name": "https://localhost/",
    "loopback in IPv6": "https://[::1]/",
    "this host": "https://0.0.0.0/",
    "a private network": "https://10.0.0.8/",
    "another private network": "https://192.168.1.1/",
    "a shared network": "https://100.64.0.1/",
    "link-local": "https://169.254.1.1/",
    "cloud metadata": "https://169.254.169.254/latest/meta-data/",
    "cloud metadata in IPv6": "https://[fd00:ec2::254]/",
    "mapped into IPv6": "https://[::ffff:127.0.0.1]/",
    "mapped metadata": "https://[::ffff:169.254.169.254]/",
    "6to4": "https://[2002:7f00:1::]/",
    "NAT64": "https://[64:ff9b::7f00:1]/",
    "a decimal number": "https://2130706433/",
    "octal": "https://0177.0.0.1/",
    "hexadecimal": "https://0x7f.1/",
    "plain http": "http://hooks.example.com/",
    "another scheme": "file:///etc/passwd",
    "gopher": "gopher://hooks.example.com/",
    "a user in it": "https://user:pass@hooks.example.com/",
    "a fragment": "https://hooks.example.com/#x",
    "a backslash": "https://hooks.example.com\\@127.0.0.1/",
    "a line break": "https://hooks.example.com/\r\nX-Evil: 1",
    "no host": "https:///x",
    "a name that there is not": "https://no-such-host.invalid/",
}


@pytest.fixture
async def any_host(tmp_path: Path) -> AsyncIterator[tuple[World, list[Any]]]:
    """A gateway that lets any host of the Internet be a webhook, and what its agent was told."""
    told: list[Any] = []

    async def agent(request: Request) -> None:
        told.append(request.rpc)
        await request.result(task("WORKING", "t1", "ctx"))

    async with scripted(agent) as (url, _), gateway(tmp_path, {"ref": url}, allowed=Allowed(hosts=("*",))) as world:
        yield world, told


async def said(world: World, config: dict[str, Any]) -> dict[str, Any]:
    params = {
        "message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]},
        "configuration": {"taskPushNotificationConfig": config},
    }
    found: dict[str, Any] = (await world.rpc("paul", "SendMessage", params)).json()
    return found


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_webhook_that_leads_inside_is_refused_unsent(any_host: tuple[World, list[Any]], attack: str) -> None:
    world, told = any_host
    assert (await said(world, {"url": ATTACKS[attack]}))["error"]["code"] == -32602
    assert told == []
    assert world.ledger.kinds() == ["decision.deny"]


@pytest.mark.parametrize(
    "config",
    [
        {"url": "https://example.com/", "token": "a\r\nX-Evil: 1"},
        {"url": "https://example.com/", "authentication": {"scheme": "Bearer\nX", "credentials": "x"}},
        {"url": "https://example.com/", "token": "x" * 5000},
        {"url": "https://example.com/", "token": "ü"},
        {"url": ""},
    ],
)
async def test_what_no_header_can_carry_is_refused_unsent(any_host: tuple[World, list[Any]], config: dict[str, Any]) -> None:
    world, told = any_host
    assert (await said(world, config))["error"]["code"] == -32602
    assert told == []


async def test_a_name_that_changes_its_mind_is_not_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: public when the webhook is given, loopback when it is used."""
    told: dict[str, Any] = {}
    reached: list[Request] = []

    async def agent(request: Request) -> None:
        told.update(request.rpc["params"]["configuration"]["taskPushNotificationConfig"])
        await request.result(task("WORKING", "t1", "ctx"))

    async def inside(request: Request) -> None:
        reached.append(request)
        await request.reply(b"{}")

    real = asyncio.BaseEventLoop.getaddrinfo
    answers = {"first": "93.184.216.34", "then": "127.0.0.1"}
    asked: list[str] = []

    async def lookup(loop: Any, host: Any, port: Any, **options: Any) -> Any:
        if host != "rebinding.example":
            return await real(loop, host, port, **options)
        asked.append(str(host))
        address = answers["first"] if len(asked) == 1 else answers["then"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", lookup)
    async with scripted(inside) as (place, _), scripted(agent) as (url, _):
        port = place.rpartition(":")[2]
        async with gateway(tmp_path, {"ref": url}, allowed=Allowed(hosts=("*",))) as world:
            answer = await said(world, {"url": f"https://rebinding.example:{port}/"})
            assert "result" in answer, answer
            event = {"task": {"id": "t1", "contextId": "ctx", "status": {"state": "TASK_STATE_COMPLETED"}}}
            headers = {"authorization": f"Bearer {told['authentication']['credentials']}", "content-type": "application/json"}
            took = await world.client.post(told["url"], content=json.dumps(event).encode(), headers=headers)
            assert took.status_code == 200
            await world.ledger.when(lambda entries: sum(each.kind == "call.end" for each in entries) >= 2)
            assert world.ledger.entries[-1].fields["outcome"]["status"] == "upstream-error"  # type: ignore[index]
            assert reached == []
            assert len(asked) >= 2
