"""Which addresses are reached, which requests can be sent, how event streams come apart, what settings become."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.model import UpstreamError
from gateway.settings import Secret, Settings
from gateway.upstream.address import forbidden
from gateway.upstream.client import HttpRequest, Upstreams, Url, header_block
from gateway.upstream.events import EventParser
from gateway.upstream.registry import agent_targets, mcp_targets

NEVER = [
    "169.254.169.254",
    "169.254.170.2",
    "fe80::1",
    "fe80::1%eth0",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "100.100.100.200",
    "168.63.129.16",
    "fd00:ec2::254",
    "fd20:ce::254",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "::ffff:0.0.0.0",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "240.0.0.1",
    "not an address",
]
PRIVATE = [
    *("127.0.0.1", "127.8.8.8", "::1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "fd12::1", "100.64.0.1", "::ffff:10.0.0.1"),
    *("fec0::1", "3fff::1", "2001:db8::1", "192.0.0.8", "192.88.99.1", "198.18.0.1", "64:ff9b::a00:1", "2002:a00:1::1"),
]


@pytest.mark.parametrize("address", NEVER)
def test_link_local_and_metadata_addresses_are_never_reached(address: str) -> None:
    assert forbidden(address, allow_private=True)
    assert forbidden(address, allow_private=False)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_reached_only_where_allowed(address: str) -> None:
    assert forbidden(address, allow_private=False)
    assert not forbidden(address, allow_private=True)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822", "::ffff:93.184.216.34"])
def test_public_addresses_are_reached(address: str) -> None:
    assert not forbidden(address, allow_private=False)


async def test_the_address_that_was_judged_is_the_one_that_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to something else the second time (DNS rebinding) is asked only once."""
    answers = iter(["127.0.0.1", "169.254.169.254"])
    connected: list[str] = []
    standing = asyncio.Event()
    loop = asyncio.get_running_loop()
    real = loop.create_connection

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    async def connect(factory: Any, host: str, port: int, **options: Any) -> Any:
        connected.append(host)
        standing.set()
        return await real(factory, host, port, **options)

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    monkeypatch.setattr(loop, "create_connection", connect)
    client = Upstreams(connect_seconds=1)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = Url.parse(f"http://rebind.test:{sock.getsockname()[1]}/", allow_private=True)
        task = asyncio.create_task(client.send(HttpRequest(url)))
        await asyncio.wait_for(standing.wait(), 10)
        task.cancel()
        with pytest.raises(UpstreamError, match="link-local"):
            await client.send(HttpRequest(Url.parse("http://rebind.test:1/", allow_private=True)))
    assert connected == ["127.0.0.1"]
    await client.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "//example.com/",
        "http:///path",
        "http://user@example.com/",
        "http://user:pass@example.com/",
        "http://example.com/#part",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://exam ple.com/",
        "http://example.com/a b",
        "http://example.com/\r\nx: y",
        "http://example.com\\@evil.test/",
        "http://bücher.example/",
    ],
)
def test_a_url_that_could_mean_something_else_is_none(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Url.parse(url)


def test_a_url_is_taken_apart_once() -> None:
    url = Url.parse("https://Example.com:8443/a?b=c")
    assert (url.host, url.port, url.authority, url.target) == ("example.com", 8443, b"example.com:8443", b"/a?b=c")
    assert Url.parse("http://[::1]/").authority == b"[::1]"
    assert Url.parse("https://example.com").target == b"/"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x", b"a\r\nhost: evil"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\0b"),
        (b"x", b" a"),
        (b"x", b"a "),
        (b"x\r\ny", b"a"),
        (b"x y", b"a"),
        (b"x:", b"a"),
        (b"", b"a"),
        (b"Host", b"evil"),
        (b"Content-Length", b"0"),
        (b"transfer-encoding", b"chunked"),
        (b"Connection", b"upgrade"),
        (b"expect", b"100-continue"),
        (b"accept-encoding", b"gzip"),
    ],
)
def test_a_header_cannot_become_another_header_or_change_the_framing(name: bytes, value: bytes) -> None:
    with pytest.raises(ValueError, match=r"header"):
        header_block([(name, value)])


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=20)), max_size=4))
def test_whatever_the_headers_are_the_request_has_one_head(headers: list[tuple[bytes, bytes]]) -> None:
    request = HttpRequest(Url.parse("http://example.com/"), b"body", tuple(headers))
    try:
        sent = request.to_bytes()
    except ValueError:
        return
    assert sent.count(b"\r\n\r\n") == 1
    assert sent.endswith(b"content-length: 4\r\n\r\nbody")
    assert len(sent.partition(b"\r\n\r\n")[0].split(b"\r\n")) == 4 + len(headers)


STREAM = (
    b"\xef\xbb\xbf: hello\r\nevent: message\ndata: one\r\n\r\ndata:two\rdata: lines\r\r"
    b"id: 7\nretry: 5\n\ndata\n\ndata:  three \n\nunknown: x\ndata: four"
)
EVENTS = [b"one", b"two\nlines", b"", b" three "]


def test_an_event_stream_cut_anywhere_holds_the_same_events() -> None:
    for first in range(len(STREAM) + 1):
        for second in range(first, len(STREAM) + 1):
            parser = EventParser(1000)
            found = [e for piece in (STREAM[:first], STREAM[first:second], STREAM[second:]) for e in parser.feed(piece)]
            assert found == EVENTS


def test_an_event_beyond_its_bound_is_refused_before_it_is_whole() -> None:
    for pieces in ([b"data: " + b"x" * 200], [b"data: x\n"] * 200, [b"x"] * 200):
        parser = EventParser(100)
        with pytest.raises(UpstreamError, match="too-large"):
            _ = [parser.feed(piece) for piece in pieces]


def settings(**groups: Any) -> Settings:
    return Settings.model_validate(groups)


def test_targets_hold_their_secrets_and_never_show_them() -> None:
    configured = settings(
        mcp={
            "erp": {"url": "http://127.0.0.1:9/mcp", "headers": {"Authorization": {"env": "ERP", "prefix": "Bearer "}}},
            "files": {"command": ["node", "x.js"], "env": {"TOKEN": {"env": "ERP"}}, "cwd": "/srv"},
        },
        agents={"risk": {"url": "http://127.0.0.1:8/", "headers": {"X-Key": {"env": "ERP"}}}, "caller": {}},
        sandbox={"enabled": True},
    )
    targets = mcp_targets(configured, lambda _: "s3cret")
    agents = agent_targets(configured, lambda _: "s3cret")
    assert targets["erp"].static.endswith(b"authorization: Bearer s3cret\r\n")
    assert targets["files"].environment == {"TOKEN": "s3cret"}
    assert targets["files"].folder == Path("/srv")
    assert targets["sandbox"].kind == "builtin"
    assert agents["risk"].headers == ((b"x-key", b"s3cret"),)
    assert set(agents) == {"risk"}
    assert "s3cret" not in repr(targets) + repr(agents)


@pytest.mark.parametrize("name", ["Mcp-Session-Id", "Accept", "Cookie", "traceparent", "Mcp-Param-X", "Host", "Content-Length"])
def test_a_configured_header_cannot_be_one_that_the_gateway_sets(name: str) -> None:
    configured = settings(mcp={"erp": {"url": "http://127.0.0.1:9/", "headers": {name: {"env": "X"}}}})
    with pytest.raises(ValueError, match=f"{name.lower()}|{name}"):
        mcp_targets(configured, lambda _: "value")


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "ключ", "a\0"])
def test_a_secret_that_cannot_stand_in_a_header_is_an_error_that_does_not_show_it(value: str) -> None:
    configured = settings(mcp={"erp": {"url": "http://127.0.0.1:9/", "headers": {"X-Key": {"env": "X"}}}})
    with pytest.raises(ValueError, match=r"(?i)x-key") as raised:
        mcp_targets(configured, lambda _: value)
    assert value not in str(raised.value)


def test_the_built_in_servers_name_is_taken() -> None:
    configured = settings(mcp={"sandbox": {"url": "http://127.0.0.1:9/"}}, sandbox={"enabled": True})
    with pytest.raises(ValueError, match="sandbox"):
        mcp_targets(configured, lambda _: "")


def test_a_secret_is_one_reference() -> None:
    with pytest.raises(ValidationError):
        Secret()
