"""A profile with destinations: code reaches the gateway's proxy, and nothing else, not even the machine that it runs on."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from sandbox.bwrap import BwrapRunner
from sandbox.landlock import LandlockRunner
from sandbox.model import Guarantee, IsolationUnprovenError, Job, NotOfferedError, Profile, Reason, Strength
from sandbox.names import Destination
from sandbox.profiles import load_profiles
from sandbox.runner import Hooks

SHIPPED = load_profiles()["no-network-512mb"]
REQUIRES = {name: strength for name, strength in SHIPPED.requires.items() if name is not Guarantee.NET_NONE}
LISTED = Profile("listed", SHIPPED.limits, network=(Destination.parse("example.com:443"),), requires=REQUIRES)


@pytest.fixture
async def bwrap(boxes: Any) -> AsyncIterator[BwrapRunner]:
    boxes("own", "bwrap")  # skips where there is none
    runner = BwrapRunner()
    yield runner
    await runner.aclose()


class Proxy:
    """Stands where the gateway's proxy will: keeps what it was asked, answers every request alike."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.ended = asyncio.Event()
        self.listener: socket.socket | None = None

    async def serve(self, listener: socket.socket) -> None:
        self.listener = listener
        server = await asyncio.start_server(self._answer, sock=listener)
        try:
            await server.serve_forever()
        finally:
            self.ended.set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nby proxy\n")
        await writer.drain()
        writer.close()


async def test_ordinary_clients_find_the_gateways_proxy(bwrap: BwrapRunner) -> None:
    proxy = Proxy()
    program = "import urllib.request\nprint(urllib.request.urlopen('http://example.com/page').read().decode(), end='')"
    run = await bwrap.run(Job("1", program, LISTED), Hooks(network=proxy.serve))
    assert (run.reason, run.stdout) == (Reason.OK, b"by proxy\n"), run.stderr
    assert proxy.asked[0].startswith(b"GET http://example.com/page HTTP/1.1\r\n")
    assert run.guarantees[Guarantee.NET_ALLOWLIST] is Strength.HARD
    assert run.guarantees[Guarantee.NET_NONE] is Strength.ABSENT
    await asyncio.wait_for(proxy.ended.wait(), 10)
    assert proxy.listener is not None
    assert proxy.listener.fileno() == -1, "nothing of the way out is left when the run has ended"


async def test_nothing_else_is_reached_and_nothing_else_can_be_made(bwrap: BwrapRunner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"""
import errno, json, socket
def attempt(action):
    try: action()
    except OSError as error: return errno.errorcode.get(error.errno, str(error.errno))
    return "open"
def connect(address, family=socket.AF_INET):
    with socket.socket(family) as client:
        client.settimeout(2); client.connect(address)
def serve(address):
    with socket.socket() as server:
        server.bind(address); server.listen()
print(json.dumps([
    attempt(lambda: connect(("127.0.0.1", {server.getsockname()[1]}))), attempt(lambda: connect(("127.0.0.2", 3128))),
    attempt(lambda: connect(("192.0.2.1", 443))), attempt(lambda: connect(("::1", 3128), socket.AF_INET6)),
    attempt(lambda: serve(("127.0.0.1", 8080))), attempt(lambda: serve(("0.0.0.0", 3128))),
    attempt(lambda: socket.getaddrinfo("example.com", 443)),
    *[attempt(lambda: socket.socket(family, kind).close()) for family in range(64) for kind in range(1, 7)
      if (family, kind) not in ((2, 1), (10, 1))],
]))
"""
        run = await bwrap.run(Job("1", program, LISTED), Hooks(network=Proxy().serve))
    assert run.reason is Reason.OK, run.stderr
    found = json.loads(run.stdout)
    assert set(found[:4]) <= {"EACCES", "ECONNREFUSED", "ENETUNREACH", "EADDRNOTAVAIL"}, found[:4]
    assert found[4:6] == ["EPERM", "EPERM"]
    assert found[6] != "open", "no name server is asked"
    assert set(found[7:]) == {"EPERM"}


async def test_the_probe_shows_that_the_proxy_alone_is_reached(bwrap: BwrapRunner) -> None:
    finding = (await bwrap.probe()).findings[Guarantee.NET_ALLOWLIST]
    assert finding.strength is Strength.HARD
    assert "the gateway's proxy on 127.0.0.1:3128: reached" in finding.evidence
    assert any(line.startswith("connect to a listener outside: open outside, E") for line in finding.evidence)


async def test_two_runs_do_not_meet(bwrap: BwrapRunner) -> None:
    proxies = [Proxy(), Proxy()]
    program = "import urllib.request, sys\nfor _ in range(3): urllib.request.urlopen('http://example.com/NAME').read()"
    jobs = [Job(name, program.replace("NAME", name), LISTED) for name in ("a", "b")]
    await asyncio.gather(*(bwrap.run(job, Hooks(network=proxy.serve)) for job, proxy in zip(jobs, proxies, strict=True)))
    for job, proxy in zip(jobs, proxies, strict=True):
        assert len(proxy.asked) == 3
        assert all(f"/{job.id} ".encode() in request for request in proxy.asked)


async def test_a_way_out_that_fails_cuts_the_code_off_and_nothing_more(bwrap: BwrapRunner) -> None:
    async def fails(listener: socket.socket) -> None:
        listener.close()
        raise RuntimeError("no proxy today")

    program = "import socket\ntry: socket.create_connection(('127.0.0.1', 3128), 1).recv(1)\nexcept OSError: print('cut off')"
    run = await bwrap.run(Job("1", program, LISTED), Hooks(network=fails))
    assert run.reason is Reason.OK
    assert run.stdout == b"cut off\n"


async def test_where_there_is_no_network_there_is_no_proxy_and_no_socket(bwrap: BwrapRunner) -> None:
    program = (
        "import os, socket\nprint('HTTP_PROXY' in os.environ)\ntry: socket.socket()\nexcept OSError as error: print(error.errno)"
    )
    assert (await bwrap.run(Job("1", program, SHIPPED))).stdout == b"False\n1\n"


async def test_a_profile_with_destinations_needs_the_gateways_proxy_and_no_other_profile_gets_one(bwrap: BwrapRunner) -> None:
    with pytest.raises(NotOfferedError):
        await bwrap.run(Job("1", "pass", LISTED))
    with pytest.raises(NotOfferedError):
        await bwrap.run(Job("1", "pass", SHIPPED), Hooks(network=Proxy().serve))


async def test_the_cage_without_namespaces_refuses_destinations() -> None:
    runner = LandlockRunner()
    with pytest.raises(IsolationUnprovenError) as refused:
        await runner.run(Job("1", "pass", replace(LISTED, requires={})), Hooks(network=Proxy().serve))
    assert refused.value.missing == {Guarantee.NET_ALLOWLIST: (Strength.HARD, Strength.ABSENT)}
    assert "bwrap" in refused.value.help
    await runner.aclose()
