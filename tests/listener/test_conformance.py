"""One suite for both listeners: where uvicorn is right, ours behaves as it does.  Raw bytes in and out, on real sockets."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from gateway.asgi import whole_body as here
from tests.listener.wire import BOTH, Receive, Scope, Send, answer, answering, connected, echo, request, serving, whole_body

pytestmark = pytest.mark.parametrize("kind", BOTH)


async def ask(kind: str, *pieces: bytes) -> dict[str, Any]:
    """What the application behind it was asked."""
    async with serving(kind, echo) as port, connected(port) as client:
        await client.send(*pieces)
        reply = await client.reply()
        assert reply.status == 200
        return reply.json


async def test_a_request_is_told_as_it_was_made(kind: str) -> None:
    told = await ask(kind, request("POST", "/a%2Fb/%C3%BC?x=%20y&z", "X-Mixed: One", "x-mixed: two", "Empty:", body=b"hello"))
    assert told == {
        "method": "POST",
        "path": "/a/b/ü",
        "raw_path": "/a%2Fb/%C3%BC",
        "query": "x=%20y&z",
        "version": "1.1",
        "scheme": "http",
        "headers": [["host", "a"], ["x-mixed", "One"], ["x-mixed", "two"], ["empty", ""], ["content-length", "5"]],
        "body": "hello",
    }


@pytest.mark.parametrize(
    "target", ["/", "//", "//a/b", "/?", "/?a?b", "/a;b=c", "/%", "/%zz", "/a%00b", "/a:b@c", "/..//../x", "/~!$&'()*+,"]
)
async def test_a_path_is_told_as_it_came(kind: str, target: str) -> None:
    told = await ask(kind, request("GET", target))
    assert (told["raw_path"], told["query"]) == (target.partition("?")[0], target.partition("?")[2])


async def test_the_clients_address_is_the_connections(kind: str) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await answering(204, [])(scope, receive, send)

    async with serving(kind, app) as port, connected(port) as client:
        await client.send(request("GET", "/", "X-Forwarded-For: 10.0.0.1", "Forwarded: for=10.0.0.1"))
        assert (await client.reply()).status == 204
        name = client.writer.get_extra_info("sockname")
    assert (seen[0]["client"], seen[0]["server"]) == (name, ("127.0.0.1", port))
    assert (seen[0]["type"], seen[0]["root_path"]) == ("http", "")


async def test_a_body_may_come_byte_by_byte(kind: str) -> None:
    whole = request("POST", "/x", body=b"hello")
    assert await ask(kind, *[whole[n : n + 1] for n in range(len(whole))]) == await ask(kind, whole)


async def test_only_a_body_that_is_here_is_said_to_be_whole_and_then_nobody_waits_for_it(kind: str) -> None:
    seen: list[tuple[bytes | None, object]] = []
    begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        said, first = here(scope), receive()
        if said is not None:
            with pytest.raises(StopIteration) as ended:
                first.send(None)  # type: ignore[attr-defined]  # a coroutine: one step, in which it must come to its end
            seen.append((said, ended.value.value))
        else:
            seen.append((said, await first))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent = request("POST", "/x", body=b"hello")
    async with serving(kind, app) as port, connected(port) as client:
        await client.send(sent)
        assert (await client.reply()).status == 204
        begun.clear()
        await client.send(sent[:-5])
        await begun.wait()
        await client.send(sent[-5:])
        assert (await client.reply()).status == 204
    whole = {"type": "http.request", "body": b"hello", "more_body": False}
    assert seen == [(b"hello" if kind == "lean" else None, whole), (None, whole)]


@pytest.mark.parametrize(
    "chunks", [b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"1\r\nh\r\n4\r\nello\r\n0\r\n\r\n", b"A\r\n0123456789\r\n00\r\n\r\n"]
)
async def test_a_body_in_chunks_is_put_together(kind: str, chunks: bytes) -> None:
    whole = request("POST", "/x", "Transfer-Encoding: Chunked") + chunks
    told = await ask(kind, whole)
    assert told == await ask(kind, *[whole[n : n + 1] for n in range(len(whole))])
    assert told["body"] in {"", "hello", "0123456789"}


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
async def test_a_large_body_arrives_whole_and_so_does_its_answer(kind: str, size: int) -> None:
    body = hashlib.shake_128(b"seed").digest(size)

    async def back(scope: Scope, receive: Receive, send: Send) -> None:
        text = await whole_body(receive)
        assert text is not None
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
        await send({"type": "http.response.body", "body": text})

    async with serving(kind, back) as port, connected(port) as client:
        for _ in range(2):
            sending = asyncio.create_task(client.send(request("POST", "/", body=body)))
            assert (await client.reply()).body == body
            await sending


async def test_requests_in_one_segment_are_answered_in_order(kind: str) -> None:
    async with serving(kind, echo) as port, connected(port) as client:
        await client.send(request("POST", "/1", body=b"one") + request("GET", "/2") + request("POST", "/3", body=b"three"))
        told = [(await client.reply()).json for _ in range(3)]
    assert [(each["path"], each["body"]) for each in told] == [("/1", "one"), ("/2", ""), ("/3", "three")]


async def test_a_second_request_waits_until_the_first_is_answered(kind: str) -> None:
    go, order = asyncio.Event(), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        order.append(scope["path"])
        if scope["path"] == "/1":
            await go.wait()
        await answering(200, [(b"content-length", b"2")], scope["path"].encode())(scope, receive, send)

    async with serving(kind, app) as port, connected(port) as client:
        await client.send(request("GET", "/1"), request("GET", "/2"))
        assert order == ["/1"]
        go.set()
        assert [(await client.reply()).body for _ in range(2)] == [b"/1", b"/2"]


async def test_a_connection_serves_many_requests(kind: str) -> None:
    async with serving(kind, echo) as port, connected(port) as client:
        for n in range(50):
            await client.send(request("POST", f"/{n}", body=b"x" * n))
            assert (await client.reply()).json["path"] == f"/{n}"


@pytest.mark.parametrize("wish", ["Connection: close", "connection: Close", "Connection: keep-alive, close"])
async def test_a_client_that_wants_the_connection_closed_gets_it_closed(kind: str, wish: str) -> None:
    async with serving(kind, echo) as port, connected(port) as client:
        await client.send(request("GET", "/", wish) + request("GET", "/never"))
        reply = await client.reply()
        assert (reply.json["path"], reply.header(b"connection")) == ("/", b"close")
        assert await client.ended() == b""


@pytest.mark.parametrize("field", ["Host: a", "Connection: keep-alive"])
async def test_http_1_0_is_answered_and_closed(kind: str, field: str) -> None:
    async with serving(kind, echo) as port, connected(port) as client:
        await client.send(f"GET /old HTTP/1.0\r\n{field}\r\n\r\n".encode())
        reply = await client.reply()
        assert (reply.json["version"], reply.header(b"connection")) == ("1.0", b"close")
        assert await client.ended() == b""


async def test_empty_lines_before_a_request_are_skipped(kind: str) -> None:
    assert (await ask(kind, b"\r\n\r\n" + request("GET", "/x")))["path"] == "/x"


async def test_a_client_that_waits_for_100_continue_gets_it_once_its_body_is_wanted(kind: str) -> None:
    wanted = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await wanted.wait()
        await echo(scope, receive, send)

    async with serving(kind, app) as port, connected(port) as client:
        await client.send(request("POST", "/", "Expect: 100-continue", "Content-Length: 5"))
        reply = asyncio.create_task(client.reply())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not reply.done()
        wanted.set()
        assert (await reply).status == 100
        await client.send(b"hello")
        assert (await client.reply()).json["body"] == "hello"


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_has_none(kind: str, status: int) -> None:
    async with serving(kind, answering(status, [(b"x", b"y")])) as port, connected(port) as client:
        for _ in range(2):
            await client.send(request("GET", "/"))
            reply = await client.reply()
            assert (reply.status, reply.header(b"x"), reply.header(b"transfer-encoding")) == (status, b"y", None)


async def test_head_is_answered_with_the_head_alone(kind: str) -> None:
    async with serving(kind, answering(200, [(b"content-length", b"5")], b"hello")) as port, connected(port) as client:
        await client.send(request("HEAD", "/") + request("GET", "/"))
        assert (await client.reply("HEAD")).header(b"content-length") == b"5"
        assert (await client.reply()).body == b"hello"


async def test_an_answer_of_unknown_length_comes_in_chunks(kind: str) -> None:
    async with serving(kind, answering(200, [], b"one", b"", b"two", b"")) as port, connected(port) as client:
        await client.send(request("GET", "/") + request("GET", "/"))
        for _ in range(2):
            reply = await client.reply()
            assert (reply.body, reply.header(b"transfer-encoding"), reply.whole) == (b"onetwo", b"chunked", True)


async def test_an_event_is_on_its_way_before_the_next_is_made(kind: str) -> None:
    steps: asyncio.Queue[bytes] = asyncio.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        while data := await steps.get():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with serving(kind, app) as port, connected(port) as client:
        await client.send(request("GET", "/"))
        head = await client.head()
        assert head.header(b"content-type") == b"text/event-stream", "the head comes before there is an event"
        for data in (b"data: 1\r\n\r\n", b"data: 2\r\n\r\n"):
            steps.put_nowait(data)
            assert await client.chunk() == data
        steps.put_nowait(b"")
        assert await client.chunk() == b""


async def test_an_application_learns_that_its_client_hung_up(kind: str) -> None:
    learnt: asyncio.Queue[str] = asyncio.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        learnt.put_nowait("begun")
        learnt.put_nowait((await receive())["type"])
        await answer(send, 200, [], b"in vain")  # harmless
        learnt.put_nowait((await receive())["type"])

    async with serving(kind, app) as port:
        async with connected(port) as client:
            await client.send(request("GET", "/"))
            assert await learnt.get() == "begun"
        assert [await learnt.get(), await learnt.get()] == ["http.disconnect"] * 2


async def test_an_application_learns_that_its_client_hung_up_within_the_body(kind: str) -> None:
    learnt: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        learnt.put_nowait(b"begun")
        learnt.put_nowait(await whole_body(receive))

    async with serving(kind, app) as port:
        async with connected(port) as client:
            await client.send(request("POST", "/", "Content-Length: 10") + b"hal")
            assert await learnt.get() == b"begun"
        assert await learnt.get() is None


async def test_whoever_asks_after_the_answer_is_told_that_it_is_over(kind: str) -> None:
    learnt: asyncio.Queue[str] = asyncio.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering(200, [(b"content-length", b"0")])(scope, receive, send)
        learnt.put_nowait((await receive())["type"])

    async with serving(kind, app) as port, connected(port) as client:
        await client.send(request("GET", "/"))
        assert (await client.reply()).status == 200
        assert await learnt.get() == "http.disconnect"


async def test_an_application_that_fails_costs_its_own_answer(kind: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fails":
            raise LookupError("secret")
        await echo(scope, receive, send)

    async with serving(kind, app) as port:
        async with connected(port) as client:
            await client.send(request("GET", "/fails"))
            reply = await client.reply()
            assert (reply.status, b"secret" in reply.body, reply.header(b"connection")) == (500, False, b"close")
            assert await client.ended() == b""
        async with connected(port) as client:
            await client.send(request("GET", "/"))
            assert (await client.reply()).status == 200


async def test_an_application_that_says_nothing_is_answered_for(kind: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return

    async with serving(kind, app) as port, connected(port) as client:
        await client.send(request("GET", "/"))
        assert (await client.reply()).status == 500


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"10")]])
async def test_an_answer_that_breaks_off_is_seen_to_be_cut(kind: str, headers: list[tuple[bytes, bytes]]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise LookupError("x")

    async with serving(kind, app) as port, connected(port) as client:
        await client.send(request("GET", "/"))
        try:
            whole = (await client.reply()).whole
        except ConnectionError:
            whole = False
        assert not whole


@pytest.mark.parametrize("line", [b"a\r\nx: y", b"a\nx: y", b"a\r", b"a\0", b"a\x0b", b"\x7f"])
async def test_a_value_cannot_begin_a_header_of_its_own(kind: str, line: bytes) -> None:
    async with serving(kind, answering(200, [(b"x-value", line)], b"hi")) as port, connected(port) as client:
        await client.send(request("GET", "/", "Connection: close"))
        rest = await client.ended()
        assert (rest == b"" or b" 500 " in rest, b"x: y" in rest) == (True, False)


@pytest.mark.parametrize("name", [b"a:b", b"a b", b"a\r\nb", b"a\tb", b"(a)"])
async def test_a_name_that_is_no_token_is_not_sent(kind: str, name: bytes) -> None:
    async with serving(kind, answering(200, [(name, b"v")], b"hi")) as port, connected(port) as client:
        await client.send(request("GET", "/", "Connection: close"))
        rest = await client.ended()
        assert rest == b"" or b" 500 " in rest


@pytest.mark.parametrize("value", [b"a\tb", "ü".encode("latin-1"), b"\xa0\x80", b'"quoted"', b"", b" "])
async def test_a_value_of_any_other_bytes_is_sent_as_it_is(kind: str, value: bytes) -> None:
    async with serving(kind, answering(200, [(b"x-value", value)], b"hi")) as port, connected(port) as client:
        await client.send(request("GET", "/"))
        assert (await client.reply()).header(b"x-value") == value


MALFORMED = {
    "content-length and transfer-encoding": request("POST", "/", "Content-Length: 5", "Transfer-Encoding: chunked")
    + b"0\r\n\r\n",
    "transfer-encoding and content-length": request("POST", "/", "Transfer-Encoding: chunked", "Content-Length: 5")
    + b"0\r\n\r\n",
    "two lengths that agree": request("POST", "/", "Content-Length: 5", "Content-Length: 5") + b"hello",
    "two lengths that do not": request("POST", "/", "Content-Length: 5", "Content-Length: 6") + b"hello",
    "a list of lengths": request("POST", "/", "Content-Length: 5, 5") + b"hello",
    "a signed length": request("POST", "/", "Content-Length: +5") + b"hello",
    "a negative length": request("POST", "/", "Content-Length: -5") + b"hello",
    "a hexadecimal length": request("POST", "/", "Content-Length: 0x5") + b"hello",
    "an empty length": request("POST", "/", "Content-Length: ") + b"hello",
    "a length in two words": request("POST", "/", "Content-Length: 1 2") + b"hello",
    "a length beyond counting": request("POST", "/", "Content-Length: 99999999999999999999") + b"hello",
    "a space before the colon": request("POST", "/", "Transfer-Encoding : chunked") + b"0\r\n\r\n",
    "a folded line": request("GET", "/", "X: a\r\n b"),
    "a folded first line": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "a bare line feed": b"GET / HTTP/1.1\nHost: a\n\n",
    "a bare line feed among fields": request("GET", "/", "X: a\nY: b"),
    "a bare carriage return": request("GET", "/", "X: a\rY: b"),
    "a NUL in a value": request("GET", "/", "X: a\0b"),
    "a control character in a value": request("GET", "/", "X: a\x01b"),
    "a NUL in a name": request("GET", "/", "X\0: b"),
    "no name": request("GET", "/", ": b"),
    "no colon": request("GET", "/", "X"),
    "a tab after the method": b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space after the version": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "a method in small letters": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method unheard of": b"FETCH / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target with a control character": b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target that is not ASCII": "GET /ü HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    "a version unheard of": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "another protocol": b"GET / HTTQ/1.1\r\nHost: a\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "the beginning of TLS": bytes.fromhex("1603010200010001fc0303"),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_malformed_is_refused_once_and_the_connection_closed(kind: str, name: str) -> None:
    async with serving(kind, echo) as port, connected(port) as client:
        await client.send(MALFORMED[name] + request("GET", "/smuggled"))
        reply = await client.reply()
        assert (reply.status, reply.header(b"connection"), b"smuggled" in reply.body) == (400, b"close", False)
        assert await client.ended() == b""


BAD_CHUNKS = {
    "a size with a prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "a size beyond counting": b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "a space after the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "a bare line feed after the size": b"5\nhello\r\n0\r\n\r\n",
    "a bare line feed in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "no line end after the data": b"5\r\nhelloX0\r\n\r\n",
    "more data than said": b"5\r\nhello!\r\n0\r\n\r\n",
    "a length among the trailers": b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    "a coding among the trailers": b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
async def test_chunks_that_are_malformed_are_refused_and_nothing_after_them_is_a_request(kind: str, name: str) -> None:
    async with serving(kind, echo) as port, connected(port) as client:
        await client.send(request("POST", "/", "Transfer-Encoding: chunked") + BAD_CHUNKS[name] + request("GET", "/smuggled"))
        rest = await client.ended()
        assert rest.startswith(b"HTTP/1.1 400 ")
        assert (rest.count(b"HTTP/1.1 "), b"smuggled" in rest) == (1, False)
