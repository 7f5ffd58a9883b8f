"""The addresses of gRPC: agents by port and by authority, TLS, what the settings may say, and an end in good order."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from a2a.types.a2a_pb2_grpc import A2AServiceStub
from pydantic import ValidationError

from gateway.a2a.grpc_server import Certificate, DeafError, Door, GrpcFace
from gateway.serving_grpc import authorities
from gateway.settings import Grpc, Limits
from tests.a2a.agents import Request, scripted, task
from tests.a2a.calls import asking, error_of, metadata, said, stub
from tests.a2a.world import DENY, World, gateway
from tests.upstream.certificates import self_signed

NAMES = {"one.example": "one", "one.example:443": "one", "two.example": "two"}


async def one(request: Request) -> None:
    await request.result(task("COMPLETED", "of-one"))


async def two(request: Request) -> None:
    await request.result(task("COMPLETED", "of-two"))


@asynccontextmanager
async def two_agents(folder: Path, **options: Any) -> AsyncIterator[World]:
    async with (
        scripted(one) as (first, _),
        scripted(two) as (second, _),
        gateway(folder, {"one": first, "two": second}, **{"grpc": False} | options) as world,
    ):
        yield world


async def whose(world: World, agent: str, *lines: tuple[str, str]) -> str:
    async with stub(world, agent) as client:
        return str((await client.SendMessage(asking("m"), metadata=metadata(world, "paul", *lines))).task.id)


async def test_agents_are_told_apart_by_their_ports(tmp_path: Path) -> None:
    async with two_agents(tmp_path) as world:
        assert await whose(world, "one") == "of-one"
        assert await whose(world, "two", ("x-forwarded-host", "one.example")) == "of-two"
        world.verdicts["*", "a2a:two"] = DENY
        async with stub(world, "two") as client:
            error = await error_of(client.SendMessage(asking("m"), metadata=metadata(world, "paul")))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert world.ledger.entries[-1].fields["target"] == "two"


async def test_agents_at_one_port_are_told_apart_by_authority(tmp_path: Path) -> None:
    async with two_agents(tmp_path, door=Door("127.0.0.1", 0, NAMES, {})) as world:
        for host, agent in (("one.example", "of-one"), ("ONE.example:443", "of-one"), ("two.example", "of-two")):
            assert await whose(world, "one", ("x-forwarded-host", host)) == agent
        for lines in ((), (("x-forwarded-host", "evil.example"),), (("x-forwarded-host", "two.example:443"),),
                      (("x-forwarded-host", "one.example, two.example"),)):  # fmt: skip
            async with stub(world, "one") as client:
                error = await error_of(client.SendMessage(asking("m"), metadata=metadata(world, "paul", *lines)))
            assert said(error)[:2] == ("NOT_FOUND", "UNKNOWN_AGENT")


async def test_a_certificate_is_served_and_its_successor_without_a_restart(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "localhost")
    async with two_agents(tmp_path, grpc=Certificate(certificate, key)) as world:

        async def trusted(root: bytes) -> str:
            address = f"localhost:{world.doors['one']}"
            async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(root)) as channel:
                client: Any = A2AServiceStub(channel)  # type: ignore[no-untyped-call]
                return str((await client.SendMessage(asking("m"), metadata=metadata(world, "paul"), timeout=20)).task.id)

        old = certificate.read_bytes()
        assert await trusted(old) == "of-one"
        async with stub(world, "one") as plain:
            error = await error_of(plain.SendMessage(asking("m"), metadata=metadata(world, "paul"), timeout=20))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        self_signed(tmp_path, "localhost")
        os.utime(certificate, (0, 0))  # another time, however coarse the clock of the file system
        assert await trusted(certificate.read_bytes()) == "of-one"
        with pytest.raises(grpc.aio.AioRpcError):
            await trusted(old)
        certificate.unlink()  # what cannot be read changes nothing
        with pytest.raises(grpc.aio.AioRpcError):
            await trusted(old)


async def test_an_address_that_is_taken_and_a_certificate_that_is_none_are_said(tmp_path: Path) -> None:
    async with two_agents(tmp_path) as world:
        face = GrpcFace(lambda: pytest.fail("called"), limits=Limits())
        with pytest.raises(DeafError):
            await face.open(Door("127.0.0.1", world.doors["one"], {"a": "a"}, {}))
        (tmp_path / "no.pem").write_text("no certificate")
        with pytest.raises(DeafError):
            await face.open(Door("127.0.0.1", 0, {"a": "a"}, {}), Certificate(tmp_path / "no.pem", tmp_path / "no.pem"))
        await face.close(0)


async def test_no_more_connections_are_held_than_are_let_in(tmp_path: Path) -> None:
    async with two_agents(tmp_path) as world:
        face = GrpcFace(lambda: pytest.fail("called"), limits=Limits(), connections=1)
        port = await face.open(Door("127.0.0.1", 0, {"a": "a"}, {}))
        held = await asyncio.open_connection("127.0.0.1", port)
        assert (await held[0].read(9))[3:4] == b"\x04"  # SETTINGS: it is served
        other = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(other[0].read(), 20) == b""
        for _, writer in (held, other):
            writer.close()
        await face.close(0)
        assert world.ledger.entries == []


async def test_the_end_waits_for_calls_and_their_records(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def answer(request: Request) -> None:
        if request.rpc["params"]["message"]["messageId"] == "slow":
            await request.gone()
        await go_on.wait()
        await request.result(task("COMPLETED"))

    async with scripted(answer) as (url, agent), gateway(tmp_path, {"ref": url}, grpc=False) as world, stub(world) as client:
        assert world.face is not None
        slow = client.SendMessage(asking("slow"), metadata=metadata(world, "paul"))
        ends = client.SendMessage(asking("ends"), metadata=metadata(world, "paul"))
        await agent.got(2)
        closing = asyncio.create_task(world.face.close(2))
        go_on.set()
        assert (await ends).task.id == "t-1"
        assert (await error_of(slow)).code() is grpc.StatusCode.UNAVAILABLE
        await closing
        assert sorted(entry.fields["outcome"]["status"] for entry in world.ledger.entries if entry.kind == "call.end") == [
            "interrupted", "ok",
        ]  # fmt: skip


AGENTS = {"clerk": {"port": 9090, "public_url": "https://clerk.example"}, "buyer": {"port": 9090}}


@pytest.mark.parametrize(
    "settings",
    [
        {"agents": {}},
        {"agents": AGENTS},  # one that shares its port, and has no name
        {"agents": {name: {"port": 9090, "public_url": "https://clerk.example"} for name in ("clerk", "buyer")}},
        {"agents": {"clerk": {"port": 9090, "public_url": "https://clerk.example/path"}}},
        {"agents": {"clerk": {"port": 0}}},
        {"host": "0.0.0.0", "agents": {"clerk": {"port": 9090}}},
        {"certificate": "a.pem", "agents": {"clerk": {"port": 9090}}},
        {"certificate": "a.pem", "key": "a.key", "plain": True, "agents": {"clerk": {"port": 9090}}},
    ],
)
def test_settings_that_leave_it_open_who_is_meant_or_who_listens_in_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Grpc.model_validate(settings)


def test_an_agent_has_the_address_that_its_settings_say() -> None:
    agents = {"clerk": {"port": 9090, "public_url": "https://Clerk.example"}, "buyer": {"port": 9091}}
    asked = Grpc.model_validate({"agents": agents})
    assert (asked.url("clerk"), asked.authority("clerk")) == ("https://clerk.example:443", "clerk.example:443")
    assert authorities(asked, "clerk") == ("clerk.example:443", "clerk.example")
    assert (asked.url("buyer"), asked.authority("buyer")) == ("http://127.0.0.1:9091", "127.0.0.1:9091")
    assert authorities(asked, "buyer") == ("127.0.0.1:9091",)


def test_without_the_extra_the_gateway_is_whole_and_says_what_to_install_where_grpc_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("agents: {clerk: {url: 'http://127.0.0.1:1/'}}\n")
    (tmp_path / "grpc.yaml").write_text(
        "agents:\n  clerk: {url: 'http://127.0.0.1:1/'}\n  buyer: {url: 'grpc://127.0.0.1:1'}\n"
        "a2a: {grpc: {agents: {clerk: {port: 9090}}}}\n"
    )
    program = (
        "import importlib.util, sys\nfrom pathlib import Path\n"
        "class Gone:\n    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] == 'grpc': raise ModuleNotFoundError(name)\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'grpc' else found(name)\n"
        "sys.meta_path.insert(0, Gone())\n"
        "import gateway.app\nfrom gateway.configuration import load\n"
        f"load(Path({str(tmp_path / 'plain.yaml')!r}), {{}})\nprint('starts')\n"
        f"try: load(Path({str(tmp_path / 'grpc.yaml')!r}), {{}})\nexcept Exception as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("starts")
    assert done.stdout.count("pip install 'bailiwick[grpc]'") == 2
    assert "grpc.yaml:3:" in done.stdout
    assert "grpc.yaml:4:" in done.stdout
