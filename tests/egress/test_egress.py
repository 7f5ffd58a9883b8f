"""The way out of a cage: what is listed and allowed is reached by real clients, decided and recorded; nothing else is."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from audit.model import Entry
from audit.reader import Ledger
from audit.trace import build
from gateway.egress.proxy import NotApartError, apart
from gateway.model import Refused, wall_clock
from gateway.reasons import Code
from gateway.reproduce import Past, decisions
from policies.bundle import load
from policies.engine import Engine
from sandbox.names import Destination
from tests.egress.hellos import made, server_hello
from tests.egress.world import ANN, World, cage, echo, world

Certificate = Callable[[str], tuple[ssl.SSLContext, Path]]
API = "api.example.com"
PROXY = "http://127.0.0.1:3128"
URLLIB = "import sys, urllib.request\nprint(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())"
NODE = """
const [host, port, ca] = process.argv.slice(1);
const fs = require('fs'), http = require('http'), tls = require('tls');
http.request({host: '127.0.0.1', port: 3128, method: 'CONNECT', path: `${host}:${port}`}).on('connect', (answer, socket) => {
  if (answer.statusCode !== 200) { console.error(answer.statusCode); process.exit(1); }
  const secure = tls.connect({socket, servername: host, ca: fs.readFileSync(ca)}, () =>
    secure.write(`GET / HTTP/1.1\\r\\nHost: ${host}\\r\\nConnection: close\\r\\n\\r\\n`));
  secure.on('data', piece => process.stdout.write(piece));
}).end();
"""


async def test_urllib_curl_and_node_reach_a_listed_host_through_the_proxy(outside: World, certificate: Certificate) -> None:
    server, trusted = certificate(API)
    async with outside.listening(API, tls=server) as target:
        outside.start()
        url, port = f"https://{target}/", target.rpartition(":")[2]
        environment = {"https_proxy": PROXY, "SSL_CERT_FILE": str(trusted), "CURL_CA_BUNDLE": str(trusted)}
        python = await outside.cage.run(sys.executable, "-I", "-c", URLLIB, url, environment=environment)
        curl = await outside.cage.run("curl", "-sS", "--http1.1", url, environment=environment)
        older = ["curl", "-sS", "--http1.1", "--proxy1.0", "127.0.0.1:3128", "--tls-max", "1.2"]
        old = await outside.cage.run(*older, url, environment=environment)
        node = await outside.cage.run("node", "-e", NODE, API, port, str(trusted))
        await outside.stop()
    assert (python[0], python[1].strip()) == (0, "hello"), python
    assert curl[:2] == (0, "hello"), curl
    assert old[:2] == (0, "hello"), old
    assert node[0] == 0, node
    assert node[1].endswith("hello")
    assert outside.kinds() == ["egress.start", "egress.end"] * 4
    assert outside.lookups == [API] * 4  # nothing was looked up twice


async def test_a_connection_is_on_record_with_who_where_how_much_and_how_it_ended(
    outside: World, certificate: Certificate
) -> None:
    server, trusted = certificate(API)
    async with outside.listening(API, tls=server) as target:
        outside.start()
        await outside.cage.run("curl", "-sS", "-x", PROXY, f"https://{target}/", environment={"CURL_CA_BUNDLE": str(trusted)})
        await outside.written("egress.end")
    start, end = (record.leaf for record in outside.records())
    assert (start["action"], start["resource"]) == ("connect", f"host:{target}")
    assert start["chain"][1] == ["agent", "agent:coder"]
    assert start["workflow"] == "wf-1"
    assert start["egress"] == {
        "run": outside.run, "profile": "some-hosts", "listed": target, "addresses": ["127.0.0.1"], "tls": True,
    }  # fmt: skip
    assert [(asked["role"], asked["action"], asked["allow"]) for asked in start["decision"]["asked"]] == [
        ("subject", "connect", True), ("actor", "connect", True),
    ]  # fmt: skip
    assert end["call"] == start["id"]
    assert end["egress"]["address"] == "127.0.0.1"
    assert end["egress"]["end"] == "closed"
    assert end["egress"]["sent"] > 300  # a ClientHello and a request
    assert end["egress"]["received"] > 500  # a certificate and an answer


async def test_the_cage_has_no_other_way_out_and_no_names(outside: World) -> None:
    async with outside.listening(API, echo, plain=True) as target:
        outside.start()
        port = target.rpartition(":")[2]
        direct = f"import socket; socket.create_connection(('127.0.0.1', {port}), 3)"
        lookup = "import socket; socket.getaddrinfo('api.example.com', 443)"
        assert (await outside.cage.run(sys.executable, "-c", direct))[0] == 1
        assert (await outside.cage.run(sys.executable, "-c", lookup))[0] == 1
        assert outside.reached == []


async def test_a_host_that_the_profile_does_not_list_is_refused_and_not_even_looked_up(outside: World) -> None:
    outside.host(API, 443)
    outside.start()
    for target in ("evil.test:443", f"{API}:80", f"x.{API}:443", "example.com:443"):
        head = await (await outside.client()).connect(target)
        assert head.startswith(b"HTTP/1.1 403 ")
    assert outside.lookups == []
    assert [record.leaf["refused"]["code"] for record in outside.records()] == ["destination-refused"] * 4


async def test_what_the_profile_lists_and_policy_does_not_allow_is_refused_and_not_looked_up(tmp_path: Path) -> None:
    async with world(tmp_path, "p, user:dev/ann, acme, host:*, connect, allow, -, -, ANN-1\n") as made:
        made.host(API, 443)
        made.start()
        assert (await (await made.client()).connect(f"{API}:443")).startswith(b"HTTP/1.1 403 ")
        (record,) = made.records()
        assert record.kind == "decision.deny"
        assert record.leaf["refused"]["code"] == "agent-lacks-right"  # the person may, the agent of the chain may not
        assert made.lookups == []


async def test_a_deny_line_holds_against_the_profile(outside: World) -> None:
    outside.host("denied.example.com", 443)
    outside.start()
    assert (await (await outside.client()).connect("denied.example.com:443")).startswith(b"HTTP/1.1 403 ")
    assert outside.records()[0].leaf["refused"]["code"] == "guardrail"


async def test_an_earlier_agent_of_the_chain_is_asked_too(outside: World) -> None:
    outside.host(API, 443)
    outside.principal = msgspec.structs.replace(ANN, actors=("agent:planner", "agent:coder"))
    outside.start()
    assert (await (await outside.client()).connect(f"{API}:443")).startswith(b"HTTP/1.1 403 ")
    asked = outside.records()[0].leaf["decision"]["asked"]
    assert [(each["who"], each["action"], each["allow"]) for each in asked][1] == ("agent:planner", "relay", False)


async def test_a_workflow_that_was_begun_for_less_reaches_less(outside: World) -> None:
    outside.host(API, 443)
    outside.principal = msgspec.structs.replace(ANN, scope=("erp.read", "host:other.example.com:443"))
    outside.start()
    assert (await (await outside.client()).connect(f"{API}:443")).startswith(b"HTTP/1.1 403 ")
    assert outside.records()[0].leaf["refused"]["code"] == "insufficient-scope"


async def test_somebody_who_was_killed_connects_nowhere(outside: World) -> None:
    def dead(_: object) -> None:
        raise Refused(Code.REVOKED)

    outside.host(API, 443)
    outside.alive = dead
    outside.start()
    assert (await (await outside.client()).connect(f"{API}:443")).startswith(b"HTTP/1.1 403 ")
    assert outside.records()[0].leaf["refused"]["code"] == "revoked"


@pytest.mark.parametrize(("duty", "status"), [("full-audit", b"200"), ("blank", b"403")])
async def test_a_duty_that_no_connection_fulfils_refuses_it(tmp_path: Path, duty: str, status: bytes) -> None:
    grants = (
        "p, *, acme, host:*, connect, require, -, " + duty + ", SEC-2\n"
        "p, user:dev/ann, acme, host:*, connect, allow, -, -, ANN-1\np, agent:coder, acme, host:*, connect, allow, -, -, COD-1\n"
    )
    async with world(tmp_path, grants) as made, made.listening(API, echo, plain=True) as target:
        made.start()
        assert (await (await made.client()).connect(target)).split(b" ")[1] == status


async def test_a_wildcard_covers_names_beneath_and_not_itself(outside: World) -> None:
    outside.names["a.b.example.com"] = outside.names["example.com"] = [["203.0.113.1"]]
    outside.destinations.append(Destination.parse("*.example.com:443"))
    outside.start()
    await (await outside.client()).connect("example.com:443")
    await (await outside.client()).connect("a.b.example.com:443")
    assert outside.lookups == ["a.b.example.com"]


async def test_nothing_is_opened_that_is_not_on_record(outside: World) -> None:
    async with outside.listening(API, echo, plain=True) as target:
        outside.start()
        await outside.journal.close()
        assert (await (await outside.client()).connect(target)).startswith(b"HTTP/1.1 503 ")
        assert outside.reached == []


async def test_a_recorded_connection_can_be_decided_again_from_its_record(outside: World) -> None:
    async with outside.listening(API, echo, plain=True) as target:
        outside.start()
        await (await outside.client()).connect(target)
        await (await outside.client()).connect("denied.example.com:443")
        outside.host("denied.example.com", 444)
        await (await outside.client()).connect("denied.example.com:444")
        await outside.stop()
    with Ledger.open(outside.url, outside.seal) as log:
        found = [past for past in decisions(log) if isinstance(past, Past)]
    engine = Engine(load(outside.grants))
    assert [past.request.resource for past in found] == [f"host:{target}", "host:denied.example.com:444"]
    assert [engine.decide(past.request).allowed for past in found] == [True, False]


async def test_a_workflows_tree_shows_connections_below_the_call_whose_code_made_them(outside: World) -> None:
    chain = [["user", "@subject"], ["agent", "agent:coder"]]
    fields = {"workflow": "wf-1", "chain": chain, "proto": "mcp", "target": "sandbox", "resource": "sandbox.run_python"}
    await outside.journal.append(Entry("call.start", outside.run, wall_clock(), "user:dev/ann", fields))
    async with outside.listening(API, echo, plain=True) as target:
        outside.start()
        await (await outside.client()).connect(target)
        await (await outside.client()).connect("evil.test:443")
        await outside.stop()
    with Ledger.open(outside.url, outside.seal) as log:
        story = build("wf-1", log.workflow("wf-1"), log.open_value, log.subject_name)
    assert story is not None
    (call,) = story.root.children[0].children
    found = [(node.name, node.call.outcome, node.call.reason) for node in call.children if node.call is not None]
    assert found == [
        (f"host:{target}", "run-ended", "allowed"), ("host:evil.test:443", "refused", "destination-refused"),
    ]  # fmt: skip


async def test_each_side_may_stop_sending_while_the_other_goes_on(outside: World) -> None:
    async def answers_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read()
        writer.write(b"you said %d" % len(asked))
        await writer.drain()

    async with outside.listening(API, answers_at_the_end, plain=True) as target:
        outside.start()
        client = await outside.client()
        assert (await client.connect(target)).startswith(b"HTTP/1.1 200 ")
        await client.say(b"x" * 300_000)
        client.writer.write_eof()
        assert await client.rest() == b"you said 300000"
        await outside.written("egress.end")
    end = outside.records()[-1].leaf["egress"]
    assert (end["sent"], end["received"], end["end"]) == (300_000, 15, "closed")


async def test_the_end_of_the_run_ends_its_connections_and_records_it(outside: World) -> None:
    async with outside.listening(API, echo, plain=True) as target:
        outside.start()
        client = await outside.client()
        await client.connect(target)
        await client.say(b"x")
        assert await client.reader.readexactly(1) == b"x"
        await outside.stop()
        assert await client.rest() == b""
    assert outside.records()[-1].leaf["egress"]["end"] == "run-ended"


async def test_a_host_that_does_not_answer_is_a_bad_gateway(outside: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    target = outside.host(API, port)
    outside.start()
    assert (await (await outside.client()).connect(target)).startswith(b"HTTP/1.1 502 ")
    await outside.stop()
    assert [record.kind for record in outside.records()] == ["egress.start", "egress.end"]
    assert outside.records()[-1].leaf["egress"]["end"] == "unreachable"


async def test_a_server_may_ask_for_another_hello(outside: World, certificate: Certificate, tmp_path: Path) -> None:
    server, trusted = certificate(API)
    server.set_ecdh_curve("secp521r1")  # a client's first guess is another
    async with outside.listening(API, tls=server) as target:
        outside.start()
        code, out, err = await outside.cage.run(
            "curl", "-sS", "-x", PROXY, "--curves", "X25519:P-521", f"https://{target}/",
            environment={"CURL_CA_BUNDLE": str(trusted)},
        )  # fmt: skip
    assert (code, out) == (0, "hello"), err


async def test_early_bytes_wait_until_the_server_has_answered(outside: World) -> None:
    """What comes behind the hello goes on once it is known that no second hello is due, and not a byte of it is lost."""
    got = asyncio.Event()
    seen: list[bytes] = []
    hello = made(API.encode())

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readexactly(len(hello)))
        got.set()
        writer.write(server_hello())
        await writer.drain()
        seen.append(await reader.readexactly(3))

    async with outside.listening(API, script) as target:
        outside.start()
        client = await outside.client()
        await client.connect(target)
        await client.say(hello + b"\x17\x03\x03")
        await got.wait()
        assert await client.rest() == server_hello()
    assert seen == [hello, b"\x17\x03\x03"]


def test_the_proxy_serves_no_socket_but_one_in_a_network_of_the_runs_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as here, pytest.raises(NotApartError, match="own network namespace"):
        apart(here)
    with cage() as other:
        apart(other.listener)
        connected = other.connect()
        with connected, pytest.raises(NotApartError):
            apart(connected)


async def test_a_socket_in_the_gateways_own_network_ends_the_run(outside: World) -> None:
    outside.cage.listener.close()
    outside.cage.listener = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(NotApartError):
        await outside.start()
