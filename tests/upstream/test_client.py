"""The only door out, against upstreams that break, lie, stall and die."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model import UpstreamError
from gateway.upstream.client import HttpRequest, Upstreams, Url
from tests.upstream.wire import Reader, Script, Upstream, Writer, saying, upstream

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"4\r\nwiki\r\n5;name=value\r\npedia\r\nA\r\n0123456789\r\n0\r\ntrailer: x\r\n\r\n"
)
TILL_END = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nuntil the end"


@pytest.fixture
async def client() -> AsyncIterator[Upstreams]:
    upstreams = Upstreams(connect_seconds=2, idle_seconds=0.4)
    yield upstreams
    await upstreams.aclose()


async def ask(client: Upstreams, there: Upstream, limit: int = 1_000_000, **fields: object) -> bytes:
    response = await client.send(HttpRequest(there.url(), b"{}", **fields))  # type: ignore[arg-type]
    return await response.read(limit)


async def kind_of(client: Upstreams, script: Script) -> str:
    """How a call fails; the connection is never used again."""
    async with upstream(script) as there:
        with pytest.raises(UpstreamError) as raised:
            await ask(client, there)
    assert client.open_connections() == 0
    return raised.value.kind


async def test_what_is_sent_is_one_request_with_our_framing(client: Upstreams) -> None:
    async with upstream(saying(OK)) as there:
        request = HttpRequest(there.url("/mcp?x=1"), b"body", headers=((b"traceparent", b"00-1"),))
        await (await client.send(request)).read(10)
    assert there.requests == [
        b"POST /mcp?x=1 HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept-encoding: identity\r\ntraceparent: 00-1\r\n"
        b"content-length: 4\r\n\r\nbody" % there.port
    ]


@pytest.mark.parametrize(
    ("answer", "body", "reused"),
    [(OK, b"{}", True), (CHUNKED, b"wikipedia0123456789", True), (TILL_END, b"until the end", False)],
    ids=["length", "chunked", "until the end"],
)
async def test_an_answer_split_at_any_byte_is_the_same_answer(
    client: Upstreams, answer: bytes, body: bytes, reused: bool
) -> None:
    for at in range(1, len(answer)):
        async with upstream(saying(answer[:at], answer[at:], close=not reused)) as there:
            assert await ask(client, there) == body
            if reused:
                assert await ask(client, there) == body
                assert there.connections == 1


async def test_an_answer_byte_by_byte_is_the_same_answer(client: Upstreams) -> None:
    async with upstream(saying(*(bytes([byte]) for byte in CHUNKED), close=False)) as there:
        assert await ask(client, there) == b"wikipedia0123456789"


async def test_interim_answers_are_not_the_answer(client: Upstreams) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    async with upstream(saying(interim, OK, close=False)) as there:
        response = await client.send(HttpRequest(there.url(), b"{}"))
        assert response.status == 200
        assert response.header(b"link") is None
        assert await response.read(10) == b"{}"
        assert await ask(client, there) == b"{}"


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_has_none(client: Upstreams, status: int) -> None:
    async with upstream(saying(b"HTTP/1.1 %d X\r\n\r\n" % status, close=False)) as there:
        assert await ask(client, there) == b""
        assert await ask(client, there) == b""
        assert there.connections == 1


async def test_a_redirect_is_an_answer_and_not_followed(client: Upstreams) -> None:
    async with upstream(saying(b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n")) as there:
        response = await client.send(HttpRequest(there.url(), b"{}"))
        assert response.status == 302
        await response.aclose()
        assert len(there.requests) == 1


HEAD = b"HTTP/1.1 200 OK\r\n"
SMUGGLED = {
    "both lengths": HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunked, then a length": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two lengths": HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
    "the same length twice": HEAD + b"content-length: 2\r\ncontent-length: 2\r\n\r\n{}",
    "a list of lengths": HEAD + b"content-length: 2, 2\r\n\r\n{}",
    "a signed length": HEAD + b"content-length: +2\r\n\r\n{}",
    "a negative length": HEAD + b"content-length: -2\r\n\r\n{}",
    "a hexadecimal length": HEAD + b"content-length: 0x2\r\n\r\n{}",
    "an endless length": HEAD + b"content-length: 99999999999999999999999\r\n\r\n{}",
    "another coding": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunked twice": HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunked in disguise": HEAD + b"transfer-encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a space before the colon": HEAD + b"content-length : 2\r\n\r\n{}",
    "a folded header": HEAD + b"x: a\r\n content-length: 9\r\ncontent-length: 2\r\n\r\n{}",
    "a NUL in a header": HEAD + b"x: a\0b\r\ncontent-length: 2\r\n\r\n{}",
    "a bare CR in a header": HEAD + b"x: a\rb: c\r\ncontent-length: 2\r\n\r\n{}",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 2\n\n{}",
    "a bad chunk size": HEAD + b"transfer-encoding: chunked\r\n\r\n2x\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than it says": HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    "compressed": HEAD + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    "a status of 999": b"HTTP/1.1 999 X\r\ncontent-length: 2\r\n\r\n{}",
    "interim answers without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
}


@pytest.mark.parametrize("answer", SMUGGLED.values(), ids=SMUGGLED.keys())
async def test_an_answer_with_two_readings_is_none(client: Upstreams, answer: bytes) -> None:
    assert await kind_of(client, saying(answer)) in {"protocol", "closed"}


async def test_bytes_after_an_answer_never_answer_the_next_call(client: Upstreams) -> None:
    poisoned = OK + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"
    async with upstream(saying(poisoned, close=False)) as there:
        for _ in range(3):
            assert await ask(client, there) == b"{}"
        assert there.connections == 3


async def test_bytes_that_nobody_asked_for_end_the_connection(client: Upstreams) -> None:
    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        await there.request(reader)
        writer.write(OK)
        if there.connections == 1:
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
            await there.request(reader)
            raise ConnectionError

    async with upstream(script) as there:
        assert await ask(client, there) == b"{}"
        await there.closed.wait()
        assert await ask(client, there) == b"{}"
        assert there.connections == 2


async def test_an_upstream_that_dies_within_its_answer_is_an_error(client: Upstreams) -> None:
    for cut in (b"", OK[:9], OK[:40], OK[:-1], CHUNKED[:-2], CHUNKED[:-20]):
        assert await kind_of(client, saying(cut)) == "closed"


async def test_a_silent_upstream_times_out_at_every_point(client: Upstreams) -> None:
    def stalling(part: bytes) -> Script:
        async def stall(there: Upstream, reader: Reader, writer: Writer) -> None:
            await there.request(reader)
            writer.write(part)
            await there.request(reader)

        return stall

    for part in (b"", OK[:20], OK[:-1]):
        assert await kind_of(client, stalling(part)) == "timeout"


async def test_a_slow_upstream_that_keeps_talking_is_waited_for(client: Upstreams) -> None:
    async def drip(there: Upstream, reader: Reader, writer: Writer) -> None:
        await there.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n")
        for _ in range(12):
            await asyncio.sleep(0.1)
            writer.write(b"x")

    async with upstream(drip) as there:
        assert await ask(client, there) == b"x" * 12


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"x" * 100,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"40\r\n" + b"x" * 64 + b"\r\n" * 1,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100,
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
    ids=["length", "chunked", "until the end", "many headers", "a big header"],
)
async def test_too_much_is_an_error(client: Upstreams, answer: bytes) -> None:
    async with upstream(saying(answer)) as there:
        with pytest.raises(UpstreamError) as raised:
            await ask(client, there, limit=50)
    assert raised.value.kind == "too-large"


async def test_framing_without_body_does_not_go_on_for_ever(client: Upstreams) -> None:
    async def extend(there: Upstream, reader: Reader, writer: Writer) -> None:
        await there.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    assert await kind_of(client, extend) == "protocol"


async def test_who_does_not_read_holds_the_upstream_back(client: Upstreams) -> None:
    written = 0

    async def flood(there: Upstream, reader: Reader, writer: Writer) -> None:
        nonlocal written
        await there.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    async with upstream(flood) as there:
        response = await client.send(HttpRequest(there.url(), b"{}"))
        await asyncio.sleep(0.3)
        assert written < 32_000_000
        size = 0
        async with aclosing(response.chunks()) as chunks:
            async for chunk in chunks:
                size += len(chunk)
        assert size == 65_536_000


async def test_leaving_a_stream_hangs_up(client: Upstreams) -> None:
    async def talk(there: Upstream, reader: Reader, writer: Writer) -> None:
        await there.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        await there.request(reader)

    async with upstream(talk) as there:
        response = await client.send(HttpRequest(there.url(), b"{}"))
        async with aclosing(response.chunks()) as chunks:
            assert await anext(chunks) == b"x"
        await there.closed.wait()
        assert client.open_connections() == 0


async def test_cancelling_while_the_head_is_awaited_hangs_up(client: Upstreams) -> None:
    asked = asyncio.Event()

    async def silent(there: Upstream, reader: Reader, writer: Writer) -> None:
        await there.request(reader)
        asked.set()
        await there.request(reader)

    async with upstream(silent) as there:
        task = asyncio.create_task(client.send(HttpRequest(there.url(), b"{}")))
        await asked.wait()
        task.cancel()
        await there.closed.wait()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.open_connections() == 0


async def test_an_answer_left_before_its_end_gives_its_connection_back(client: Upstreams) -> None:
    async def events(there: Upstream, reader: Reader, writer: Writer) -> None:
        while await there.request(reader):
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
            await asyncio.sleep(0.02)
            writer.write(b"0\r\n\r\n")

    async with upstream(events) as there:
        for _ in range(3):
            response = await client.send(HttpRequest(there.url(), b"{}"))
            async with aclosing(response.chunks()) as chunks:
                assert await anext(chunks) == b"x"
                response.leave()
            await asyncio.sleep(0.1)
        assert there.connections == 1


async def test_a_call_is_not_sent_twice_unless_it_may_be(client: Upstreams) -> None:
    async def once(there: Upstream, reader: Reader, writer: Writer) -> None:
        await there.request(reader)
        writer.write(OK)
        await there.request(reader)  # the second one on this connection is never answered

    async with upstream(once) as there:
        assert await ask(client, there) == b"{}"
        with pytest.raises(UpstreamError) as raised:
            await ask(client, there)
        assert raised.value.kind == "closed"
        assert len(there.requests) == 2
        assert await ask(client, there) == b"{}"
        assert await ask(client, there, replay=True) == b"{}"
        assert len(there.requests) == 5
    async with upstream(saying()) as never:  # a new connection that dies is not tried again
        with pytest.raises(UpstreamError):
            await ask(client, never, replay=True)
        assert len(never.requests) == 1


async def test_an_unused_connection_that_the_upstream_closed_is_noticed(client: Upstreams) -> None:
    async def once(there: Upstream, reader: Reader, writer: Writer) -> None:
        await there.request(reader)
        writer.write(OK)

    async with upstream(once) as there:
        for _ in range(5):
            assert await ask(client, there) == b"{}"
            await asyncio.sleep(0.02)
        assert there.connections == 5


async def test_an_upstreams_own_keep_alive_is_believed() -> None:
    answer = OK.replace(b"content-length", b"keep-alive: timeout=1, max=5\r\ncontent-length")
    client = Upstreams()
    async with upstream(saying(answer, close=False)) as there:
        await ask(client, there)
        await ask(client, there)
        assert there.connections == 2  # one second less one for the way leaves none
    await client.aclose()


async def test_so_many_connections_and_no_more() -> None:
    client = Upstreams(connections=3, waiting=4)
    gate = asyncio.Event()

    async def held(there: Upstream, reader: Reader, writer: Writer) -> None:
        while await there.request(reader):
            await gate.wait()
            writer.write(OK)

    async with upstream(held) as there:
        calls = [asyncio.create_task(ask(client, there)) for _ in range(8)]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(done.pop().exception(), UpstreamError)  # the eighth finds no place to wait
        gate.set()
        await asyncio.wait(calls)
        assert sum(call.exception() is None for call in calls) == 7
        assert there.connections == 3
        assert client.open_connections() == 3
    await client.aclose()


async def test_a_waiter_that_gives_up_takes_nothing_with_it() -> None:
    client = Upstreams(connections=1, connect_seconds=0.2)
    gate = asyncio.Event()

    async def held(there: Upstream, reader: Reader, writer: Writer) -> None:
        while await there.request(reader):
            await gate.wait()
            writer.write(OK)

    async with upstream(held) as there:
        first = asyncio.create_task(ask(client, there))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(ask(client, there))
        with pytest.raises(UpstreamError, match="no connection"):
            await second
        third = asyncio.create_task(ask(client, there))
        await asyncio.sleep(0)
        third.cancel()
        gate.set()
        assert await first == b"{}"
        assert await ask(client, there) == b"{}"
        assert client.open_connections() == 1
    await client.aclose()


async def test_nobody_there_is_a_connect_error(client: Upstreams) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(UpstreamError) as raised:
        await client.send(HttpRequest(Url.parse(f"http://127.0.0.1:{port}/", allow_private=True)))
    assert raised.value.kind == "connect"
    assert client.open_connections() == 0


async def test_fetch_is_bounded_and_wants_200(client: Upstreams) -> None:
    async with upstream(saying(OK)) as there:
        assert await client.fetch(there.url("/jwks")) == b"{}"
        assert there.requests[0].startswith(b"GET /jwks HTTP/1.1\r\n")
        with pytest.raises(UpstreamError, match="too-large"):
            await client.fetch(there.url(), limit=1)
        with pytest.raises(UpstreamError, match="loopback"):
            await client.fetch(f"http://127.0.0.1:{there.port}/")
    async with upstream(saying(OK.replace(b"200", b"404"))) as there:
        with pytest.raises(UpstreamError, match="status"):
            await client.fetch(there.url())


async def test_fetch_ends_in_time_even_where_bytes_keep_dripping() -> None:
    client = Upstreams()

    async def drip(there: Upstream, reader: Reader, writer: Writer) -> None:
        await there.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.02)

    async with upstream(drip) as there:
        with pytest.raises(UpstreamError, match="timeout"):
            await client.fetch(there.url(), seconds=0.2)
    await client.aclose()


async def test_a_certificate_of_somebody_else_is_refused(tmp_path: Path) -> None:
    from tests.upstream.certificates import self_signed

    certificate, key = self_signed(tmp_path, "localhost")
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate, key)

    async def serve(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cafile=str(certificate))
    try:
        for name, tls, works in (("localhost", None, False), ("127.0.0.1", trusting, False), ("localhost", trusting, True)):
            client = Upstreams(tls=tls)
            url = Url.parse(f"https://{name}:{port}/", allow_private=True)
            if works:
                assert await client.fetch(url) == b"{}"
            else:
                with pytest.raises(UpstreamError) as raised:
                    await client.fetch(url)
                assert raised.value.kind == "connect"
            await client.aclose()
    finally:
        server.close()
        await server.wait_closed()


MUTATIONS = [b"\r\n", b"\n", b"\0", b":", b"9", b"\xff", b""]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_whatever_an_upstream_says_ends_in_an_answer_or_an_upstream_error(data: st.DataObject) -> None:
    """Valid answers, mutated at random places and cut at random places: nothing else is raised and nothing is left open."""
    answer = bytearray(data.draw(st.sampled_from([OK, CHUNKED, TILL_END, *SMUGGLED.values()])))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(answer) - 1))
        answer[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(MUTATIONS))
    cut = data.draw(st.integers(0, len(answer)))
    client = Upstreams(idle_seconds=2)
    async with upstream(saying(bytes(answer[:cut]), bytes(answer[cut:]))) as there:
        try:
            response = await client.send(HttpRequest(there.url(), b"{}"))
            assert 200 <= response.status < 600
            assert len(await response.read(1000)) <= 1000
        except UpstreamError:
            pass
    await client.aclose()
    assert client.open_connections() == 0
