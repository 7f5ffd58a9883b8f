"""Code that wants further than it may: each attempt by name, from inside a network namespace, against real sockets."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.egress.dial import ClosedError, Exempt, judged
from tests.egress.hellos import ECH, made, message, real, records, retry_request, server_hello, server_name
from tests.egress.test_egress import API, PROXY, URLLIB
from tests.egress.world import HERE, World, echo

Certificate = Callable[[str], tuple[ssl.SSLContext, Path]]
EVIL = "evil.test"


async def refused(outside: World, target: str, sent: bytes, *, pieces: int = 0) -> bytes:
    """Connect to a listed target, send this first, and give what comes back; the destination got nothing of it."""
    client = await outside.client()
    assert (await client.connect(target)).startswith(b"HTTP/1.1 200 ")
    for at in range(0, len(sent), pieces or len(sent)):
        try:
            await client.say(sent[at : at + (pieces or len(sent))])
        except ConnectionError:
            break
    answer = await client.rest()
    await outside.written("egress.end")
    assert outside.records()[-1].leaf["egress"]["end"] == "refused"
    assert outside.records()[-1].leaf["egress"]["sent"] == 0
    return answer


FIRST_BYTES = {
    "sni of another host": made(EVIL.encode()),
    "sni of another host, as OpenSSL says it": real(EVIL),
    "sni with a NUL": made(API.encode() + b"\0." + EVIL.encode()),
    "two names": records(message([server_name(API.encode(), EVIL.encode())])),
    "two extensions with names": records(message([server_name(API.encode()), server_name(EVIL.encode())])),
    "the name hidden by ECH": made(API.encode(), (ECH, b"\0" * 200)),
    "no name": records(message([])),
    "http instead of tls": b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    "connect inside connect": f"CONNECT {EVIL}:443 HTTP/1.1\r\nHost: {EVIL}:443\r\n\r\n".encode(),
    "socks inside connect": b"\x05\x01\x00",
    "ssh": b"SSH-2.0-x\r\n",
    "a name in a second record": records(message([server_name(EVIL.encode())]), 40),
    "data before the hello": records(b"\0" * 20, kind=23) + made(API.encode()),
}


async def test_domain_fronting_and_everything_else_that_is_not_tls_to_the_name(outside: World) -> None:
    got = bytearray()

    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            got.extend(data)

    async with outside.listening(API, listens) as target:
        outside.start()
        answers = {name: await refused(outside, target, sent) for name, sent in FIRST_BYTES.items()}
        trickled = {name: await refused(outside, target, sent, pieces=1) for name, sent in FIRST_BYTES.items()}
    assert {*answers.values(), *trickled.values()} <= {b"", bytes.fromhex("15030300020231")}
    assert got == b""


async def test_a_second_hello_that_names_another_host(outside: World) -> None:
    """A server that asks for another hello is answered in clear: with a name that nobody read, if nobody looked."""
    got: list[bytes] = []
    hello, second = made(API.encode()), records(b"\x01", kind=20) + made(EVIL.encode())

    async def asks_again(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readexactly(len(hello)))
        writer.write(retry_request())
        await writer.drain()
        got.append(await reader.read())

    async with outside.listening(API, asks_again) as target:
        outside.start()
        for first, then in ((hello, second), (hello + second, b"")):  # and without waiting to be asked
            client = await outside.client()
            await client.connect(target)
            await client.say(first)
            assert await client.reader.readexactly(len(retry_request())) == retry_request()
            if then:
                await client.say(then)
            await client.rest()
            await outside.written("egress.end")
            assert outside.records()[-1].leaf["egress"]["end"] == "refused"
    assert got == [hello, b""] * 2


async def test_a_second_hello_that_is_cut_so_that_its_name_comes_last(outside: World) -> None:
    whole = message([(43, b"\x02\x03\x04"), server_name(EVIL.encode())])
    got: list[bytes] = []

    async def asks_again(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(made(API.encode())))
        writer.write(retry_request())
        await writer.drain()
        got.append(await reader.read())

    async with outside.listening(API, asks_again) as target:
        outside.start()
        client = await outside.client()
        await client.connect(target)
        await client.say(made(API.encode()))
        await client.reader.readexactly(len(retry_request()))
        await client.say(records(whole, 1, 5))
        await client.rest()
    assert got == [b""]


ANSWERS = {
    "loopback": ["127.0.0.1"],
    "loopback, another": ["127.9.9.9"],
    "loopback of IPv6": ["::1"],
    "private": ["10.1.2.3"],
    "private, last in line": ["203.0.114.7", "192.168.0.1"],
    "carrier": ["100.64.0.1"],
    "link-local": ["169.254.1.1"],
    "metadata": ["169.254.169.254"],
    "metadata of Azure": ["168.63.129.16"],
    "metadata of AWS, IPv6": ["fd00:ec2::254"],
    "link-local of IPv6": ["fe80::1"],
    "a zone": ["fe80::1%eth0"],
    "unique local": ["fd12::1"],
    "site-local": ["fec0::1"],
    "this network": ["0.0.0.0"],
    "any of IPv6": ["::"],
    "multicast": ["224.0.0.1"],
    "broadcast": ["255.255.255.255"],
    "reserved": ["240.0.0.1"],
    "benchmarks": ["198.18.0.1"],
    "documentation of IPv6": ["2001:db8::1"],
    "mapped": ["::ffff:127.0.0.1"],
    "mapped metadata": ["::ffff:a9fe:a9fe"],
    "compatible": ["::7f00:1"],
    "NAT64": ["64:ff9b::7f00:1"],
    "NAT64 of one's own": ["64:ff9b:1::7f00:1"],
    "6to4": ["2002:7f00:1::1"],
    "Teredo": ["2001:0:7f00:1::1"],
    "no address": ["evil.test"],
    "none": [],
    "hundreds": [f"198.51.{n // 250}.{n % 250}" for n in range(300)],
}


async def test_a_listed_name_that_leads_inside(outside: World) -> None:
    target = outside.host(API, 443)
    outside.exempt.clear()
    outside.start()
    heads, learnt = {}, {}
    for name, addresses in ANSWERS.items():
        outside.names[API] = [addresses]
        client = await outside.client()
        heads[name] = (await client.connect(target))[:12]
        body = await client.rest()
        learnt[name] = [address for address in addresses if address.encode() in body]
        assert outside.records()[-1].leaf["refused"]["code"] == "destination-refused", name
    assert heads == dict.fromkeys(ANSWERS, b"HTTP/1.1 403")
    assert not any(learnt.values())


async def test_dns_rebinding(outside: World) -> None:
    """The name leads outside when it is judged, and inside a moment later: it is asked once, and that address is dialled."""
    async with outside.listening(API, echo, plain=True) as target:
        outside.names[API] = [["127.0.0.1"], ["127.0.0.2"], ["169.254.169.254"]]
        outside.start()
        assert (await (await outside.client()).connect(target)).startswith(b"HTTP/1.1 200 ")
        assert outside.lookups == [API]
        await outside.stop()
        assert outside.records()[-1].leaf["egress"]["address"] == "127.0.0.1"
        outside.names[API] = [["169.254.169.254"]]
        outside.start()
        assert (await (await outside.client()).connect(target)).startswith(b"HTTP/1.1 403 ")


def test_an_internal_range_that_the_operator_names_opens_that_range_and_no_metadata() -> None:
    assert judged(["127.0.0.1"], Exempt(networks=HERE)) == ["127.0.0.1"]
    for address in ("10.0.0.1", "169.254.169.254"):
        with pytest.raises(ClosedError):
            judged([address], Exempt(networks=HERE))
    with pytest.raises(ClosedError):
        judged(["169.254.169.254"], Exempt(networks=(ip_network("0.0.0.0/0"),)))


def test_the_machines_own_public_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """What listens on all of the gateway's addresses is not for code, whatever name leads there."""
    monkeypatch.setattr("gateway.egress.dial.forbidden", lambda *_, **__: "")  # as if 127.0.0.1 were a public address
    with pytest.raises(ClosedError, match="own addresses"):
        judged(["127.0.0.1"], Exempt())
    assert judged(["203.0.113.9"], Exempt()) == ["203.0.113.9"]


async def test_a_redirect_leads_nowhere_else(outside: World, certificate: Certificate) -> None:
    async def redirects(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 302 Found\r\nLocation: https://169.254.169.254/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        await writer.drain()

    server, trusted = certificate(API)
    async with outside.listening(API, redirects, tls=server) as target:
        outside.start()
        environment = {"https_proxy": PROXY, "SSL_CERT_FILE": str(trusted), "CURL_CA_BUNDLE": str(trusted)}
        python = await outside.cage.run(sys.executable, "-I", "-c", URLLIB, f"https://{target}/", environment=environment)
        curl = await outside.cage.run("curl", "-sSL", f"https://{target}/", environment=environment)
    assert python[0] == 1
    assert "403" in python[2]
    assert curl[0] == 56
    assert outside.reached == [API, API]


NOT_CONNECT = {
    "absolute form": b"GET http://169.254.169.254/latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
    "origin form": b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
    "socks5": b"\x05\x01\x00",
    "socks4": b"\x04\x01\x01\xbb\x7f\x00\x00\x01\x00",
    "socks5 with a NUL in the name": b"\x05\x01\x00\x03\x10api.example.com\0\x01\xbb",
    "tls": real(API),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "smuggled length": b"CONNECT api.example.com:443 HTTP/1.1\r\nContent-Length: 40\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "smuggled host": b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\nHost: evil.test\r\n\r\n",
    "smuggled line": b"CONNECT api.example.com:443\nX: y HTTP/1.1\r\n\r\n",
    "pipelined": b"CONNECT api.example.com:443 HTTP/1.1\r\n\r\nCONNECT evil.test:443 HTTP/1.1\r\n\r\n",
    "NUL in the name": b"CONNECT api.example.com\0.evil.test:443 HTTP/1.1\r\n\r\n",
    "user": b"CONNECT api.example.com:443@evil.test:443 HTTP/1.1\r\n\r\n",
    "unicode dots": "CONNECT api。example。com:443 HTTP/1.1\r\n\r\n".encode(),
    "IPv6 zone": b"CONNECT [fe80::1%25lo]:443 HTTP/1.1\r\n\r\n",
    "decimal address": b"CONNECT 2130706433:443 HTTP/1.1\r\n\r\n",
    "octal address": b"CONNECT 0177.0.0.01:443 HTTP/1.1\r\n\r\n",
    "trailing dot": b"CONNECT api.example.com.:443 HTTP/1.1\r\n\r\n",
    "endless head": b"CONNECT api.example.com:443 HTTP/1.1\r\n" + b"X: y\r\n" * 3000,
}


async def test_what_is_not_one_plain_connect_is_answered_and_opens_nothing(outside: World) -> None:
    async with outside.listening(API, echo) as target:
        outside.start()
        answers = {}
        for name, sent in NOT_CONNECT.items():
            asked = sent.replace(f"{API}:443".encode(), target.encode())
            answers[name] = (await (await outside.client()).asked(asked))[:12]
        assert outside.lookups == []
        assert outside.reached == []
    said = {b"HTTP/1.1 400", b"HTTP/1.1 403", b"HTTP/1.1 405", b"HTTP/1.1 431"}
    assert {name: answer for name, answer in answers.items() if answer not in said} == {}


async def test_slowloris(outside: World) -> None:
    """Heads and hellos that trickle in are cut off after their time, and hold up nobody else's."""
    async with outside.listening(API, echo, plain=True) as target, outside.listening("tls.example.com", echo) as tls:
        outside.start(head_seconds=1.5)
        slow = [await outside.client() for _ in range(8)]
        for client in slow[:4]:
            await client.say(b"CONNECT api.exam")
        for client in slow[4:]:
            await client.connect(tls)
            await client.say(b"\x16\x03\x01")
        assert (await (await outside.client()).connect(target)).startswith(b"HTTP/1.1 200 ")
        answers = await asyncio.gather(*(client.rest() for client in slow))
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers[:4])
    assert all(answer in (b"", bytes.fromhex("15030300020231")) for answer in answers[4:])


async def test_one_byte_at_a_time(outside: World) -> None:
    async with outside.listening(API, echo, plain=True) as target:
        outside.start()
        client = await outside.client()
        for byte in f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode():
            await client.say(bytes([byte]))
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        await client.say(b"x")
        assert await client.reader.readexactly(1) == b"x"


async def test_a_flood_of_connections_waits_for_its_turn_and_then_for_nothing(outside: World) -> None:
    async with outside.listening(API, echo, plain=True) as target:
        outside.start(at_once=2, connections=5)
        held = [await outside.client() for _ in range(2)]
        for client in held:
            await client.connect(target)
        third = await outside.client()
        await third.say(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
        assert outside.reached == [API] * 2  # nobody listens to the third yet
        for client in held:
            client.writer.close()
        assert (await third.head()).startswith(b"HTTP/1.1 200 ")
        for _ in range(2):
            (await outside.client()).writer.close()
        third.writer.close()
        assert await (await outside.client()).asked(b"CONNECT") == b""  # five were let in
        assert [record.kind for record in outside.records()].count("egress.start") == 3


async def test_a_flood_of_refusals_fills_no_ledger(outside: World) -> None:
    outside.start()
    for n in range(40):
        client = await outside.client()
        await client.connect(f"x{n}.{EVIL}:443")
        client.writer.close()
    await outside.stop()
    found = [record.leaf["egress"].get("unrecorded") for record in outside.records()]
    assert found == [None] * 32 + [7]  # and the record that says so stands for one itself


async def test_bytes_are_bounded_over_all_connections_of_a_run(outside: World) -> None:
    async with outside.listening(API, echo, plain=True) as target:
        outside.start(bytes=100_000)
        first, second = await outside.client(), await outside.client()
        await first.connect(target)
        await first.say(b"x" * 40_000)
        assert await first.reader.readexactly(40_000) == b"x" * 40_000
        await second.connect(target)
        await second.say(b"x" * 40_000)
        assert len(await second.rest()) < 40_000
        await outside.written("egress.end")
    assert outside.records()[-1].leaf["egress"]["end"] == "limit"


async def test_a_connection_on_which_nothing_moves_is_ended(outside: World) -> None:
    async with outside.listening(API, echo, plain=True) as target:
        outside.start(idle_seconds=0.2)
        client = await outside.client()
        await client.connect(target)
        assert await client.rest() == b""
        await outside.written("egress.end")
    assert outside.records()[-1].leaf["egress"]["end"] == "idle"


async def test_a_name_server_that_does_not_answer_is_not_waited_for(outside: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_name: str) -> Sequence[str]:
        await asyncio.Event().wait()
        raise AssertionError

    target = outside.host(API, 443)
    monkeypatch.setattr(outside, "resolve", never)
    monkeypatch.setattr("gateway.egress.deciding.RESOLVE_SECONDS", 0.2)
    outside.start()
    assert (await (await outside.client()).connect(target)).startswith(b"HTTP/1.1 403 ")


async def test_the_answer_of_a_server_decides_whether_a_second_hello_is_due_however_it_is_cut(outside: World) -> None:
    got: list[bytes] = []

    async def trickles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(made(API.encode())))
        for byte in server_hello():
            writer.write(bytes([byte]))
            await writer.drain()
        got.append(await reader.read())

    async with outside.listening(API, trickles) as target:
        outside.start()
        client = await outside.client()
        await client.connect(target)
        await client.say(made(API.encode()) + records(b"\0" * 50, kind=23))
        assert await client.reader.readexactly(len(server_hello())) == server_hello()
        client.writer.write_eof()
        await client.rest()
    assert got == [records(b"\0" * 50, kind=23)]
