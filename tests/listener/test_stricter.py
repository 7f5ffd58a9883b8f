"""Where our listener is stricter than uvicorn on purpose: each difference, both sides of it.  The decision record lists them."""

from __future__ import annotations

import asyncio

import pytest

from gateway.listener.listener import Bounds
from tests.listener.wire import Receive, Scope, Send, answering, connected, echo, request, serving, whole_body

CHUNKED = request("POST", "/", "Transfer-Encoding: chunked")
LONG = "/" + "a" * 8192

# name: (bytes, our status, what uvicorn makes of the same bytes)
REFUSED: dict[str, tuple[bytes, int, int]] = {
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400, 200),
    "two Hosts": (request("GET", "/", "Host: b"), 400, 200),
    "an absolute target": (request("GET", "http://b/c"), 400, 200),
    "a fragment in the target": (request("GET", "/a#b"), 400, 200),
    "two spaces before the target": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, 200),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505, 200),
    "HTTP/0.9 in two words": (b"GET /\r\n\r\n", 400, 200),
    "HTTP/2.0 in the request line": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, 200),
    "RTSP": (b"GET / RTSP/1.0\r\nHost: a\r\n\r\n", 400, 200),
    "chunks in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, 200),
    "a coding before chunked": (request("POST", "/", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 501, 200),
    "a tab before a length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\t5\r\n\r\nhello", 400, 200),
    "a tab before a coding": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n", 400, 200),
    "an extension of a chunk": (CHUNKED + b"5;a=b\r\nhello\r\n0\r\n\r\n", 400, 200),
    "a size with twenty zeros": (CHUNKED + b"0" * 20 + b"5\r\nhello\r\n0\r\n\r\n", 400, 200),
    "a trailer that is no field": (CHUNKED + b"0\r\nX(: y\r\n\r\n", 400, 400),
    "a wish to close among the trailers": (CHUNKED + b"0\r\nConnection: close\r\n\r\n", 400, 200),
    "a Host among the trailers": (CHUNKED + b"0\r\nHost: b\r\n\r\n", 400, 200),
    "trailers without end": (CHUNKED + b"0\r\n" + b"X: y\r\n" * 2000 + b"\r\n", 400, 200),
    "another expectation": (request("GET", "/", "Expect: 200-ok"), 417, 200),
    "a target of more than 8 KiB": (request("GET", LONG), 414, 200),
    "129 header fields": (request("GET", "/", *["X: y"] * 128), 431, 200),
    "a head of more than 64 KiB": (request("GET", "/", *[f"X-{n}: {'y' * 1000}" for n in range(66)]), 431, 200),
    "one field of more than 64 KiB": (request("GET", "/", "X: " + "y" * 70_000), 431, 200),
    "empty lines instead of a request": (b"\r\n" * 5 + request("GET", "/"), 400, 200),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_it_is_refused_here_and_the_connection_ends(name: str) -> None:
    data, ours, theirs = REFUSED[name]
    for pieces in ([data], [data[n : n + 997] for n in range(0, len(data), 997)]):
        async with serving("lean", echo) as port, connected(port) as client:
            await client.send(*pieces, request("GET", "/smuggled"))
            reply = await client.reply()
            assert (reply.status, reply.header(b"connection")) == (ours, b"close")
            assert reply.header(b"content-type") == b"application/problem+json"
            assert reply.json["status"] == ours
            assert await client.ended() == b""
    async with serving("uvicorn", echo) as port, connected(port) as client:
        await client.send(data)
        assert (await client.reply()).status == theirs, "the other side of the difference is still what the record says"


async def test_connect_and_an_authority_as_target_are_refused() -> None:
    for data, status in ((b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501), (b"GET a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400)):
        async with serving("lean", echo) as port, connected(port) as client:
            await client.send(data)
            assert (await client.reply()).status == status


async def test_an_asterisk_as_target_is_refused() -> None:
    async with serving("lean", echo) as port, connected(port) as client:
        await client.send(request("OPTIONS", "*"))
        assert (await client.reply()).status == 400


@pytest.mark.parametrize("offered", ["h2c", "websocket", "TLS/1.0"])
async def test_an_offer_to_upgrade_is_not_taken_up_and_the_body_stays_a_body(offered: str) -> None:
    inner = request("GET", "/smuggled")
    outer = request("POST", "/", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {offered}", "HTTP2-Settings: AA", body=inner)
    for pieces in ([outer], [outer[n : n + 1] for n in range(len(outer))]):
        async with serving("lean", echo) as port, connected(port) as client:
            await client.send(*pieces)
            first = await client.reply()
            assert (first.status, first.json["path"], first.json["body"]) == (200, "/", inner.decode())
            await client.send(request("GET", "/next"))
            assert (await client.reply()).json["path"] == "/next"


TRAILED = CHUNKED + b"5\r\nhello\r\n0\r\nAuthorization: Bearer mallory\r\nX-Late: y\r\n\r\n"


@pytest.mark.parametrize(("kind", "told"), [("lean", []), ("uvicorn", ["authorization", "x-late"])])
async def test_a_trailer_never_becomes_a_header(kind: str, told: list[str]) -> None:
    async with serving(kind, echo) as port, connected(port) as client:
        await client.send(TRAILED + request("GET", "/next"))
        first, second = (await client.reply()).json, (await client.reply()).json
    assert (first["body"], second["path"]) == ("hello", "/next")
    assert [name for name, _ in first["headers"] if name not in {"host", "transfer-encoding"}] == told


@pytest.mark.parametrize(("kind", "told"), [("lean", "b"), ("uvicorn", "b \t ")])
async def test_white_space_around_a_value_is_not_part_of_it(kind: str, told: str) -> None:
    async with serving(kind, echo) as port, connected(port) as client:
        await client.send(request("GET", "/", "X:  \t b \t "))
        assert ["x", told] in (await client.reply()).json["headers"]


async def test_a_body_that_does_not_wait_is_not_told_to_go_on() -> None:
    async with serving("lean", echo) as port, connected(port) as client:
        await client.send(request("POST", "/", "Expect: 100-Continue", body=b"hello"))
        assert (await client.reply()).json["body"] == "hello"


async def test_an_expectation_of_http_1_0_is_not_heard() -> None:
    async with serving("lean", echo) as port, connected(port) as client:
        await client.send(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", b"hello")
        assert (await client.reply()).json["body"] == "hello"


async def test_an_early_answer_ends_the_connection_and_reaches_a_client_that_is_still_sending() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering_at_once(send)

    async def answering_at_once(send: Send) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async with serving("lean", app) as port, connected(port) as client:
        await client.send(request("POST", "/", "Content-Length: 3000000"))
        for _ in range(20):
            await client.send(b"x" * 100_000)
        reply = await client.reply()
        assert (reply.status, reply.header(b"connection")) == (413, b"close")
        assert await client.ended() == b""


async def test_a_body_beyond_all_bounds_is_refused_by_its_length_and_by_its_chunks() -> None:
    bounds = Bounds(largest=1000)
    for data in (
        request("POST", "/", "Content-Length: 1001"),
        CHUNKED + b"3e9\r\n" + b"x" * 1001,
        CHUNKED + b"1\r\nx\r\n" * 1001,
    ):
        async with serving("lean", echo, bounds) as port, connected(port) as client:
            await client.send(data)
            assert (await client.reply()).status == 413
            assert await client.ended() == b""
    async with serving("lean", echo, bounds) as port, connected(port) as client:
        await client.send(CHUNKED + b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n")
        assert (await client.reply()).status == 200


async def test_chunks_that_break_within_an_answer_cut_it() -> None:
    begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        begun.set()
        assert await whole_body(receive) is None, "the application is told that there is nobody to answer"
        await send({"type": "http.response.body", "body": b"other half"})

    async with serving("lean", app) as port, connected(port) as client:
        await client.send(CHUNKED + b"5\r\nhel")
        await begun.wait()
        await client.send(b"loX")
        rest = await client.ended()
        assert b"other half" not in rest
        assert not rest.endswith(b"0\r\n\r\n")


async def test_http_1_0_gets_no_chunks() -> None:
    async with serving("lean", answering(200, [], b"one", b"two")) as port, connected(port) as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        reply = await client.reply()
        assert (reply.body, reply.header(b"transfer-encoding"), reply.header(b"connection")) == (b"onetwo", None, b"close")


@pytest.mark.parametrize("parts", [(b"much too long",), (b"sho", b"rt"), (b"x",), (b"12", b"345678")])
async def test_a_body_that_is_not_as_long_as_said_is_never_taken_for_a_whole_one(parts: tuple[bytes, ...]) -> None:
    async with serving("lean", answering(200, [(b"content-length", b"6")], *parts)) as port, connected(port) as client:
        await client.send(request("GET", "/"))
        try:
            reply = await client.reply()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        assert reply.status == 500 or not reply.whole


@pytest.mark.parametrize(
    "headers",
    [[(b"content-length", b"2"), (b"Content-Length", b"2")], [(b"content-length", b"+2")], [(b"content-length", b"2\r\nx: y")]],
)
async def test_an_answer_has_one_length(headers: list[tuple[bytes, bytes]]) -> None:
    async with serving("lean", answering(200, headers, b"hi")) as port, connected(port) as client:
        await client.send(request("GET", "/"))
        assert (await client.reply()).status == 500


async def test_what_frames_an_answer_is_not_the_applications_to_say() -> None:
    headers = [
        (b"transfer-encoding", b"gzip, chunked"),
        (b"connection", b"keep-alive, x"),
        (b"upgrade", b"h2c"),
        (b"keep-alive", b"max=1"),
    ]
    async with serving("lean", answering(200, headers, b"hi")) as port, connected(port) as client:
        await client.send(request("GET", "/"))
        reply = await client.reply()
        assert (reply.body, reply.headers) == (b"hi", [(b"transfer-encoding", b"chunked")])


async def test_a_204_has_no_length_and_no_body() -> None:
    app = answering(204, [(b"content-length", b"0")], b"never sent")
    async with serving("lean", app) as port, connected(port) as client:
        await client.send(request("GET", "/") + request("GET", "/"))
        for _ in range(2):
            reply = await client.reply()
            assert (reply.status, reply.headers) == (204, [])


@pytest.mark.parametrize("status", [99, 101, 199, 600])
async def test_a_status_that_is_no_answer_is_not_sent(status: int) -> None:
    async with serving("lean", answering(status, [], b"x")) as port, connected(port) as client:
        await client.send(request("GET", "/"))
        assert (await client.reply()).status == 500


async def test_messages_out_of_order_are_the_applications_fault() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": b"x"})

    async with serving("lean", app) as port, connected(port) as client:
        await client.send(request("HEAD", "/"))
        reply = await client.reply("HEAD")
        assert reply.status == 500
        assert await client.ended() == b"", "HEAD is answered without a body even then"


async def test_a_context_variable_of_one_request_is_unknown_to_the_next() -> None:
    import contextvars

    mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="clean")
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(mark.get())
        mark.set("dirty")
        await answering(200, [(b"content-length", b"0")])(scope, receive, send)

    async with serving("lean", app) as port, connected(port) as client:
        await client.send(request("GET", "/") * 3, request("POST", "/", body=b"x" * 200_000), request("GET", "/"))
        for _ in range(5):
            await client.reply()
    assert seen == ["clean"] * 5
