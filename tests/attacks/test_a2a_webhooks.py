"""Webhooks that lead inside: each is refused before the agent hears of the task, or never reached."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.a2a.errors import RpcRefused
from gateway.a2a.webhook import Allowed
from tests.a2a.agents import Agent, Request, scripted, task
from tests.a2a.conformance.verdicts import WIRES
from tests.a2a.world import World, gateway
from tests.attacks.test_a2a_tricks import wire

pytestmark = pytest.mark.asyncio(loop_scope="module")

ATTACKS = {
    # loopback, in every spelling
    "loopback": "https://127.0.0.1/",
    "loopback by name": "https://localhost/",
    "loopback by a whole name": "https://localhost./",
    "loopback by a name below": "https://x.localhost/",
    "loopback with a dot at its end": "https://127.0.0.1./",
    "loopback elsewhere": "https://127.8.8.8/",
    "loopback in capitals": "https://LOCALHOST/",
    "loopback in IPv6": "https://[::1]/",
    "loopback in long IPv6": "https://[0:0:0:0:0:0:0:1]/",
    "this host": "https://0.0.0.0/",
    "this host, short": "https://0/",
    "this host in IPv6": "https://[::]/",
    "this network": "https://0.1.2.3/",
    "a decimal number": "https://2130706433/",
    "octal": "https://0177.0.0.1/",
    "octal in one": "https://017700000001/",
    "hexadecimal": "https://0x7f.1/",
    "hexadecimal in one": "https://0x7f000001/",
    "hexadecimal in four": "https://0x7f.0x0.0x0.0x1/",
    "short": "https://127.1/",
    "three parts": "https://127.0.1/",
    "digits of another width": "https://\uff11\uff12\uff17.0.0.1/",
    "dots of another script": "https://127\u30020\u30020\u30021/",
    "letters in circles": "https://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/",
    "percents": "https://%31%32%37.0.0.1/",
    # networks that are nobody else's business
    "a private network": "https://10.0.0.8/",
    "another private network": "https://192.168.1.1/",
    "a third private network": "https://172.16.0.1/",
    "a shared network": "https://100.64.0.1/",
    "a private network as a number": "https://167772168/",
    "a private network in IPv6": "https://[fd00::1]/",
    "a network of a site": "https://[fec0::1]/",
    "a network for benchmarks": "https://198.18.0.1/",
    "a network for documents": "https://203.0.113.1/",
    "a network for protocols": "https://192.0.0.8/",
    "a network kept back": "https://240.0.0.1/",
    "everybody": "https://255.255.255.255/",
    "a group": "https://224.0.0.1/",
    "a group in IPv6": "https://[ff02::1]/",
    "link-local": "https://169.254.1.1/",
    "link-local in IPv6": "https://[fe80::1]/",
    "link-local with a zone": "https://[fe80::1%25eth0]/",
    # what clouds tell their guests
    "cloud metadata": "https://169.254.169.254/latest/meta-data/",
    "cloud metadata as a number": "https://2852039166/",
    "cloud metadata in hexadecimal": "https://0xa9.0xfe.0xa9.0xfe/",
    "cloud metadata in IPv6": "https://[fd00:ec2::254]/",
    "Google's metadata in IPv6": "https://[fd20:ce::254]/",
    "Alibaba's metadata": "https://100.100.100.200/",
    "Azure's wire server": "https://168.63.129.16/",
    "Oracle's metadata": "https://192.0.0.192/",
    # addresses within addresses
    "mapped into IPv6": "https://[::ffff:127.0.0.1]/",
    "mapped in hexadecimal": "https://[::ffff:7f00:1]/",
    "mapped metadata": "https://[::ffff:169.254.169.254]/",
    "mapped private": "https://[::ffff:10.0.0.8]/",
    "compatible with IPv4": "https://[::127.0.0.1]/",
    "translated": "https://[::ffff:0:127.0.0.1]/",
    "6to4": "https://[2002:7f00:1::]/",
    "6to4 of metadata": "https://[2002:a9fe:a9fe::1]/",
    "6to4 of a private network": "https://[2002:c0a8:101::]/",
    "NAT64": "https://[64:ff9b::7f00:1]/",
    "NAT64 of metadata": "https://[64:ff9b::169.254.169.254]/",
    "NAT64 of one's own": "https://[64:ff9b:1::7f00:1]/",
    "Teredo": "https://[2001:0:7f00:1::]/",
    "Teredo of a client inside": "https://[2001:0:4136:e378:8000:63bf:80ff:fffe]/",
    # addresses that are read in two ways
    "a user in it": "https://user:pass@hooks.example.com/",
    "a user that looks like a host": "https://hooks.example.com@127.0.0.1/",
    "a user that looks like loopback": "https://127.0.0.1@hooks.example.com/",
    "two users": "https://a@b@127.0.0.1/",
    "a fragment": "https://hooks.example.com/#x",
    "a fragment before the host": "https://127.0.0.1#@hooks.example.com/",
    "a backslash": "https://hooks.example.com\\@127.0.0.1/",
    "backslashes": "https:\\\\127.0.0.1\\",
    "a line break": "https://hooks.example.com/\r\nX-Evil: 1",
    "a tab": "https://127.0\t.0.1/",
    "a space": "https://127.0.0.1 .example.com/",
    "a space before it": " https://127.0.0.1/",
    "a nought": "https://127.0.0.1\u0000.example.com/",
    "no host": "https:///x",
    "nothing but a host": "127.0.0.1",
    "no scheme": "//127.0.0.1/",
    "one slash": "https:/127.0.0.1/",
    "two colons": "https://127.0.0.1:443:80/",
    "a port that is none": "https://hooks.example.com:99999/",
    "port nought": "https://hooks.example.com:0/",
    "no port after its colon": "https://127.0.0.1:/",
    "a bracket too few": "https://[::1/",
    "a bracket too many": "https://::1]/",
    # other ways than https
    "plain http": "http://hooks.example.com/",
    "a file": "file:///etc/passwd",
    "gopher": "gopher://hooks.example.com/",
    "ftp": "ftp://hooks.example.com/",
    "a socket": "unix:///var/run/docker.sock",
    "a script": "javascript:alert(1)",
    "data": "data:text/plain,x",
    "web sockets": "wss://hooks.example.com/",
    # names
    "a name that there is not": "https://no-such-host.invalid/",
    "a name inside a cloud": "https://metadata.google.internal/",
    "an address that is too long": f"https://hooks.example.com/{'a' * 2048}",
}


Lookup = Callable[[int], list[str]]
"""By how often a name was asked for, its addresses."""


def looked_up(patch: pytest.MonkeyPatch, name: str, lookup: Lookup) -> list[str]:
    """Names with this end are looked up so; those that were."""
    asked: list[str] = []
    real = asyncio.BaseEventLoop.getaddrinfo

    async def getaddrinfo(loop: Any, host: Any, port: Any, **options: Any) -> Any:
        if not str(host).endswith(name):
            return await real(loop, host, port, **options)
        asked.append(str(host))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in lookup(len(asked))]

    patch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def any_host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, list[Any]]]:
    """A gateway that lets any host of the Internet be a webhook, and what its agent was told of webhooks."""
    told: list[Any] = []

    async def agent(request: Request) -> None:
        if "http" in json.dumps(request.rpc["params"]):
            told.append(request.rpc)
        await request.result(task("WORKING", "t1", "ctx"))

    folder = tmp_path_factory.mktemp("gateway")
    patch = pytest.MonkeyPatch()
    looked_up(patch, ".example.com", lambda _: ["93.184.216.34"])
    async with scripted(agent) as (url, _), gateway(folder, {"ref": url}, allowed=Allowed(hosts=("*",)), grpc=False) as world:
        await world.send("paul", "m")  # t1 is paul's
        yield world, told
    patch.undo()


async def said(world: World, config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (await world.rpc("paul", "SendMessage", inline(config))).json()
    return found


def inline(config: dict[str, Any]) -> dict[str, Any]:
    message = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}
    return {"message": message, "configuration": {"taskPushNotificationConfig": config}}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_webhook_that_leads_inside_is_refused_unsent(any_host: tuple[World, list[Any]], attack: str) -> None:
    """By every operation that takes one, over every binding."""
    world, told = any_host
    before = len(world.ledger.entries)
    config = {"url": ATTACKS[attack]}
    for binding in WIRES:
        async with wire(world, "paul", binding) as asking:
            answers = [
                await asking.ask("SendMessage", inline(config)),
                await asking.ask("CreateTaskPushNotificationConfig", config | {"taskId": "t1", "id": "one"}),
            ]
            async with asking.stream("SendStreamingMessage", inline(config)) as stream:
                assert [event async for event in stream.events] == []
            assert stream.answer is not None
            answers.append(stream.answer)
        assert {answer.reason for answer in answers} == {"INVALID_PARAMS"}, answers
        assert not any(ATTACKS[attack] in str(answer.whole) for answer in answers)
    assert told == []
    assert {entry.kind for entry in world.ledger.entries[before:]} == {"decision.deny"}


async def test_a_webhook_on_the_internet_is_taken(any_host: tuple[World, list[Any]]) -> None:
    """So that what is refused is refused for where it leads."""
    world, told = any_host
    for url in ("https://93.184.216.34/x", "https://[2606:4700::1111]:8443/", "https://hooks.example.com/"):
        assert "result" in await said(world, {"url": url})
        heard = told.pop()["params"]["configuration"]["taskPushNotificationConfig"]
        assert heard["url"].startswith(f"{world.url}/a2a-callback/")


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        (("hooks.example.com",), "https://hooks.example.com.evil.example/"),
        (("hooks.example.com",), "https://evil-hooks.example.com/"),
        (("hooks.example.com",), "https://example.com/"),
        (("*.example.com",), "https://example.com.evil.example/"),
        (("*.example.com",), "https://evilexample.com/"),
        (("*.example.com",), "https://example.com/"),
        ((), "https://93.184.216.34/"),
    ],
)
async def test_a_host_that_only_looks_like_an_allowed_one_is_refused(hosts: tuple[str, ...], url: str) -> None:
    with pytest.raises(RpcRefused):
        Allowed(hosts=hosts, private=("localhost:9000",)).url(url)


@pytest.mark.parametrize("url", ["http://localhost:9001/", "http://127.0.0.1:9000/", "http://[::1]:9000/", "http://localhost/"])
async def test_what_is_allowed_inside_is_one_name_and_one_port(url: str) -> None:
    allowed = Allowed(hosts=("*",), private=("localhost:9000",))
    assert allowed.url("http://localhost:9000/x").port == 9000
    with pytest.raises(RpcRefused):
        allowed.url(url)


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


@asynccontextmanager
async def news_for(folder: Path, patch: pytest.MonkeyPatch, lookup: Lookup) -> AsyncIterator[tuple[World, Agent, list[str]]]:
    """News for a webhook whose name is looked up as the test says: (gateway, host inside, what was looked up)."""
    told: dict[str, Any] = {}
    asked = looked_up(patch, "rebinding.example", lookup)

    async def agent(request: Request) -> None:
        told.update(request.rpc["params"]["configuration"]["taskPushNotificationConfig"])
        await request.result(task("WORKING", "t1", "ctx"))

    async def inside(request: Request) -> None:
        await request.reply(b"{}")

    async with scripted(inside) as (place, reached), scripted(agent) as (url, _):
        port = place.rpartition(":")[2]
        async with gateway(folder, {"ref": url}, allowed=Allowed(hosts=("*",))) as world:
            answer = await said(world, {"url": f"https://rebinding.example:{port}/"})
            if "result" in answer:
                event = {"task": {"id": "t1", "contextId": "ctx", "status": {"state": "TASK_STATE_COMPLETED"}}}
                shown = {"authorization": f"Bearer {told['authentication']['credentials']}", "content-type": "application/json"}
                took = await world.client.post(told["url"], content=json.dumps(event).encode(), headers=shown)
                assert took.status_code == 200
                await world.ledger.when(lambda entries: sum(each.kind == "call.end" for each in entries) >= 2)
            yield world, reached, asked


async def test_a_name_that_changes_its_mind_is_not_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: public when the webhook is given, loopback when it is used."""
    async with news_for(tmp_path, monkeypatch, lambda turn: ["93.184.216.34" if turn == 1 else "127.0.0.1"]) as found:
        world, inside, asked = found
        assert world.ledger.entries[-1].fields["outcome"]["status"] == "upstream-error"  # type: ignore[index]
        assert inside.requests == []
        assert len(asked) >= 2


async def test_a_name_with_one_address_inside_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with news_for(tmp_path, monkeypatch, lambda _: ["93.184.216.34", "127.0.0.1"]) as (world, inside, _):
        assert world.ledger.kinds() == ["decision.deny"]
        assert inside.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_webhook_that_sends_its_news_elsewhere_is_not_followed(tmp_path: Path, status: int) -> None:
    async def inside(request: Request) -> None:
        await request.reply(b"{}")

    async with scripted(inside) as (where, reached):

        async def away(request: Request) -> None:
            await request.reply(b"", status=status, location=f"{where}/admin")

        told: dict[str, Any] = {}

        async def agent(request: Request) -> None:
            told.update(request.rpc["params"]["configuration"]["taskPushNotificationConfig"])
            await request.result(task("WORKING", "t1", "ctx"))

        async with scripted(away) as (webhook, sent), scripted(agent) as (url, _):
            allowed = Allowed(private=(webhook.removeprefix("http://"), where.removeprefix("http://")))
            async with gateway(tmp_path, {"ref": url}, allowed=allowed) as world:
                assert "result" in await said(world, {"url": webhook, "token": "t-0"})
                event = {"task": {"id": "t1", "contextId": "ctx", "status": {"state": "TASK_STATE_COMPLETED"}}}
                shown = {"authorization": f"Bearer {told['authentication']['credentials']}", "content-type": "application/json"}
                await world.client.post(told["url"], content=json.dumps(event).encode(), headers=shown)
                await world.ledger.when(lambda entries: sum(each.kind == "call.end" for each in entries) >= 2)
                assert world.ledger.entries[-1].fields["outcome"]["status"] == "upstream-error"  # type: ignore[index]
                assert len(sent.requests) == 1
                assert reached.requests == []


async def test_what_a_client_gives_for_its_webhook_stands_in_no_record(any_host: tuple[World, list[Any]]) -> None:
    world, told = any_host
    before = len(world.ledger.entries)
    secrets = {"token": "tok-8812", "authentication": {"scheme": "Bearer", "credentials": "cred-9943"}}
    assert "result" in await said(world, {"url": "https://93.184.216.34/path-7731?key=k-5521", **secrets})
    assert "error" in await said(world, {"url": "https://127.0.0.1/path-7731?key=k-5521", **secrets})
    written = str([(entry.fields, entry.subject) for entry in world.ledger.entries[before:]])
    assert not [word for word in ("tok-8812", "cred-9943", "k-5521") if word in written]
    heard = json.dumps(told.pop())
    assert not [word for word in ("tok-8812", "cred-9943", "path-7731", "k-5521") if word in heard]
