"""Code in a real cage with the gateway's own proxy: what is listed and allowed is reached by real clients, nothing else is."""

from __future__ import annotations

import json
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from sandbox.bwrap import BwrapRunner
from sandbox.model import Guarantee, Job, Language, Profile, Reason, Strength
from sandbox.profiles import load_profiles
from sandbox.remote import RemoteRunner, own_address
from sandbox.result import Run
from sandbox.runner import Hooks
from sandbox.serving import Serving, by_uid, on_unix
from tests.egress.world import World, echo

Certificate = Callable[[str], tuple[ssl.SSLContext, Path]]
API = "api.example.com"
SHIPPED = load_profiles()["no-network-512mb"]
REQUIRES = MappingProxyType({name: strength for name, strength in SHIPPED.requires.items() if name is not Guarantee.NET_NONE})

PYTHON = """
import ssl, sys, urllib.request
trusted = ssl.create_default_context(cafile="ca.pem")
print(urllib.request.urlopen(sys.argv[1], context=trusted, timeout=20).read().decode())
"""
SHELL = 'exec curl -sS --cacert ca.pem "$1"'
NODE = """
import http from 'node:http'; import tls from 'node:tls'; import fs from 'node:fs';
const to = new URL(process.argv[2]), proxy = new URL(process.env.https_proxy);
const asked = {host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: to.host};
http.request(asked).on('connect', (answer, socket) => {
  if (answer.statusCode !== 200) { console.log(answer.statusCode); process.exit(1); }
  const secure = tls.connect({socket, servername: to.hostname, ca: fs.readFileSync('ca.pem')}, () =>
    secure.write(`GET / HTTP/1.1\\r\\nHost: ${to.host}\\r\\nConnection: close\\r\\n\\r\\n`));
  secure.on('data', piece => process.stdout.write(String(piece).split('\\r\\n\\r\\n').pop()));
}).end();
"""
PROGRAMS = {Language.PYTHON: PYTHON, Language.SHELL: SHELL, Language.JAVASCRIPT: NODE}


@pytest.fixture
async def bwrap() -> AsyncIterator[BwrapRunner]:
    runner = BwrapRunner()
    try:
        if (await runner.probe()).guarantees[Guarantee.NET_ALLOWLIST] is not Strength.HARD:
            pytest.skip("no cage with a network of its own here")
        yield runner
    finally:
        await runner.aclose()


async def ran(
    outside: World, runner: BwrapRunner | RemoteRunner, code: str, language: Language = Language.PYTHON, **job: object
) -> Run:
    """The code in a cage whose profile lists the world's destinations, with the gateway's proxy."""
    profile = Profile("some-hosts", SHIPPED.limits, tuple(outside.destinations), REQUIRES, frozenset(Language))
    asked = replace(Job(outside.run, code, profile, language), **job)
    return await runner.run(asked, Hooks(network=outside.serving()))


@pytest.mark.parametrize("language", [Language.PYTHON, Language.SHELL, Language.JAVASCRIPT])
async def test_urllib_curl_and_node_reach_a_listed_host_from_the_cage(
    outside: World, bwrap: BwrapRunner, certificate: Certificate, language: Language
) -> None:
    if shutil.which({Language.SHELL: "curl", Language.JAVASCRIPT: "node"}.get(language, "sh")) is None:
        pytest.skip("not on this machine")
    server, trusted = certificate(API)
    async with outside.listening(API, tls=server) as target:
        files = {"ca.pem": trusted.read_bytes()}
        run = await ran(outside, bwrap, PROGRAMS[language], language, files=files, arguments=(f"https://{target}/",))
    assert (run.reason, run.stdout.strip()) == (Reason.OK, b"hello"), run.stderr
    assert run.guarantees[Guarantee.NET_ALLOWLIST] is Strength.HARD
    assert outside.kinds() == ["egress.start", "egress.end"]
    assert outside.records()[0].leaf["egress"]["run"] == outside.run


async def test_code_in_a_cage_of_a_runner_elsewhere_reaches_a_listed_host_through_the_same_proxy(
    outside: World, bwrap: BwrapRunner, certificate: Certificate, tmp_path: Path
) -> None:
    server, trusted = certificate(API)
    serving = Serving(bwrap, by_uid({os.geteuid()}))
    listening = await on_unix(tmp_path / "runner.sock", {os.geteuid()})(serving)
    remote = RemoteRunner(own_address(tmp_path / "runner.sock"))
    async with outside.listening(API, tls=server) as target:
        arguments = (f"https://{target}/",)
        run = await ran(outside, remote, PYTHON, files={"ca.pem": trusted.read_bytes()}, arguments=arguments)
        wrong = f"https://{target.replace('api', 'evil')}/"
        refused = await ran(outside, remote, PYTHON, files={"ca.pem": trusted.read_bytes()}, arguments=(wrong,))
    listening.close()
    assert (run.reason, run.stdout.strip()) == (Reason.OK, b"hello"), run.stderr
    assert run.guarantees[Guarantee.NET_ALLOWLIST] is Strength.HARD
    assert b"403" in refused.stderr
    assert outside.kinds()[0] == "egress.start"
    assert "decision.deny" in outside.kinds()


REACHES = """
import json, socket, sys, urllib.request
listed, unlisted, port = sys.argv[1:]
said = {}
def tried(name, attempt):
    try:
        said[name] = "reached " + repr(attempt())
    except OSError as error:
        said[name] = str(error)
def by_proxy(target):
    with socket.create_connection(("127.0.0.1", 3128), 10) as proxy:
        proxy.sendall(f"CONNECT {target} HTTP/1.1\\r\\n\\r\\n".encode())
        answer = proxy.recv(1000)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise OSError(answer.split(b"\\r\\n")[0].decode())
        proxy.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
        return proxy.recv(1000)  # nothing of the destination's: an alert of TLS at most
tried("unlisted", lambda: urllib.request.urlopen(f"https://{unlisted}/", timeout=10))
tried("plain http", lambda: urllib.request.urlopen(f"http://{listed}/", timeout=10))
tried("not TLS", lambda: by_proxy(listed).hex())
tried("address", lambda: by_proxy("127.0.0.1:" + port))
tried("metadata", lambda: by_proxy("169.254.169.254:80"))
tried("the gateway's own loopback", lambda: socket.create_connection(("127.0.0.1", int(port)), 5))
tried("the world", lambda: socket.create_connection(("192.0.2.1", 443), 5))
tried("a name", lambda: socket.getaddrinfo("api.example.com", 443))
tried("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
tried("a socket file", lambda: socket.socket(socket.AF_UNIX))
print(json.dumps(said))
"""


async def test_everything_else_fails_from_the_cage(outside: World, bwrap: BwrapRunner) -> None:
    async with outside.listening(API, echo) as target, outside.listening("other.example.com", echo) as other:
        outside.destinations = [each for each in outside.destinations if str(each) == target]
        run = await ran(outside, bwrap, REACHES, arguments=(target, other, target.rpartition(":")[2]))
        assert outside.reached == [API]  # dialled once, and nothing sent: what came was no TLS
    assert run.reason is Reason.OK, run.stderr
    said = json.loads(run.stdout)
    assert said.pop("not TLS") in ("reached ''", "reached '15030300020231'", "[Errno 104] Connection reset by peer")
    assert {name: how for name, how in said.items() if how.startswith("reached")} == {}
    assert "403" in said["unlisted"]
    assert "405" in said["plain http"]
    assert outside.records()[-1].leaf["egress"].get("sent", 0) == 0


async def test_a_run_that_ends_takes_its_connections_with_it(outside: World, bwrap: BwrapRunner) -> None:
    code = """
import socket
one = socket.create_connection(("127.0.0.1", 3128))
one.sendall(b"CONNECT TARGET HTTP/1.1\\r\\n\\r\\n")
print(one.recv(100).decode().split()[1])
"""
    async with outside.listening(API, echo, plain=True) as target:
        run = await ran(outside, bwrap, code.replace("TARGET", target))
    assert run.stdout.strip() == b"200", run.stderr
    assert outside.kinds() == ["egress.start", "egress.end"]
