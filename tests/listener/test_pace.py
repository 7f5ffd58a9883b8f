"""Clients that are slow, silent, greedy or many: each is waited for so long and no longer, and holds no more than it may."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway.listener.connection import Patience
from gateway.listener.listener import Bounds, Listener
from tests.listener.wire import (
    BOTH,
    Client,
    Receive,
    Scope,
    Send,
    answer,
    answering,
    connected,
    echo,
    request,
    serving,
    whole_body,
)

LONG = 60.0


def patience(**short: float) -> Bounds:
    """Endless patience but for these."""
    return Bounds(patience=Patience(**({"head": LONG, "idle": LONG, "body": LONG, "unread": LONG, "linger": LONG} | short)))


async def stuck(client: Client) -> None:
    """Until the client's own kernel takes no more of what it writes, and goes on so."""
    transport = client.writer.transport
    rest = -1
    while transport.get_write_buffer_size() != rest or rest == 0:
        rest = transport.get_write_buffer_size()
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.mark.parametrize("beginning", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
async def test_a_head_that_does_not_come_to_its_end_is_given_up(beginning: bytes) -> None:
    async with serving("lean", echo, patience(head=0.1)) as port, connected(port) as client:
        await client.send(beginning)
        rest = await client.ended()
        assert rest.startswith(b"HTTP/1.1 408 ")


async def test_bytes_that_trickle_do_not_buy_a_head_more_time() -> None:
    async with serving("lean", echo, patience(head=0.2)) as port, connected(port) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        ended = asyncio.create_task(client.ended())
        while not ended.done():
            client.writer.write(b"X: y\r\n")
            await asyncio.wait({ended}, timeout=0.02)
        assert (await ended).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("before", [b"", b"\r\n", request("GET", "/")])
async def test_a_connection_without_a_request_is_closed_after_a_while(before: bytes) -> None:
    async with serving("lean", answering(204, []), patience(idle=0.1)) as port, connected(port) as client:
        await client.send(before)
        assert await client.ended() in {b"", b"HTTP/1.1 204 No Content\r\n\r\n"}


async def test_a_body_that_does_not_come_is_given_up_and_the_application_told() -> None:
    told = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await whole_body(receive) is None
        told.set()

    async with serving("lean", app, patience(body=0.1)) as port, connected(port) as client:
        await client.send(request("POST", "/", "Content-Length: 10") + b"half")
        assert await client.ended() == b""
        await told.wait()


async def test_an_application_may_take_its_time() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(0.5, done.set)
        await done.wait()
        await echo(scope, receive, send)

    async with serving("lean", app, patience(head=0.05, idle=0.05, body=0.05, unread=0.05)) as port, connected(port) as client:
        await client.send(request("POST", "/", body=b"hello"))
        assert (await client.reply()).json["body"] == "hello"


async def test_a_stream_may_be_silent() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(0.4, done.set)
        await done.wait()
        await send({"type": "http.response.body", "body": b"late"})

    async with serving("lean", app, patience(head=0.05, idle=0.05, body=0.05, unread=0.05)) as port, connected(port) as client:
        await client.send(request("GET", "/"))
        assert (await client.reply()).body == b"late"


async def test_an_application_waits_for_a_client_that_does_not_read_and_is_freed_when_it_never_does() -> None:
    sent, over = [], asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await asyncio.wait_for(gone(receive), None)) is False:
            await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})
            sent.append(1)
        over.set()

    async def gone(receive: Receive) -> bool:
        asking = asyncio.ensure_future(receive())
        done, _ = await asyncio.wait({asking}, timeout=0)
        asking.cancel()
        return bool(done) and asking.result()["type"] == "http.disconnect"

    async with serving("lean", app, patience(unread=0.2)) as port, connected(port) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  a socket's transport can
        await client.send(request("GET", "/"))
        await over.wait()
        assert 0 < len(sent) < 50


@pytest.mark.parametrize("kind", BOTH)
async def test_a_body_that_nobody_takes_is_held_back_and_arrives_whole_once_it_is_taken(kind: str) -> None:
    take = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await take.wait()
        body = await whole_body(receive)
        assert body is not None
        await answer(send, 200, [(b"content-length", b"8")], b"%08d" % len(body))

    async with serving(kind, app) as port, connected(port) as client:
        client.writer.write(request("POST", "/", body=b"x" * 40_000_000))
        await stuck(client)
        take.set()
        assert (await client.reply()).body == b"40000000"


@pytest.mark.parametrize("kind", BOTH)
async def test_requests_that_come_too_early_are_held_back(kind: str) -> None:
    take, count = asyncio.Event(), 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal count
        await take.wait()
        count += 1
        await answering(204, [])(scope, receive, send)

    one = request("GET", "/", "X: " + "y" * 10_000)
    async with serving(kind, app) as port, connected(port) as client:
        client.writer.write(one * 3000)
        await stuck(client)
        take.set()
        for _ in range(3000):
            assert (await client.reply()).status == 204
        assert count == 3000


async def test_of_too_many_connections_the_oldest_that_waits_for_nothing_makes_room() -> None:
    async with serving("lean", echo, Bounds(most=3)) as port, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(port)) for _ in range(3)]
        for client in clients:
            await client.send(request("GET", "/"))
            await client.reply()
        await clients[0].send(request("POST", "/", "Content-Length: 5"))  # is in the middle of something
        fourth = await stack.enter_async_context(connected(port))
        await fourth.send(request("GET", "/4"))
        assert (await fourth.reply()).json["path"] == "/4"
        assert await clients[1].ended() == b""
        await clients[0].send(b"hello")
        assert (await clients[0].reply()).json["body"] == "hello"


async def test_where_every_connection_is_busy_one_more_is_turned_away() -> None:
    async with serving("lean", echo, Bounds(most=2)) as port, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(port)) for _ in range(2)]
        for client in clients:
            await client.send(request("POST", "/", "Content-Length: 5") + b"hell")
        third = await stack.enter_async_context(connected(port))
        await third.send(request("GET", "/"))
        assert await third.ended() == b""
        for client in clients:
            await client.send(b"o")
            assert (await client.reply()).json["body"] == "hello"


async def test_a_refused_client_that_does_not_leave_is_put_out() -> None:
    async with serving("lean", echo, patience(linger=0.1)) as port, connected(port) as client:
        await client.send(b"nonsense\r\n\r\n")
        assert (await client.reply()).status == 400
        assert await client.ended() == b""
        client.writer.write(b"x")
        while not client.writer.transport.is_closing():
            client.writer.write(b"x" * 1000)
            await asyncio.sleep(0.01)


async def test_nothing_is_left_behind_when_clients_are_gone() -> None:
    listener = Listener(answering(200, [], b"x"), patience())
    _, port = await listener.open("127.0.0.1", 0)
    for data in (
        request("GET", "/"),
        request("POST", "/", "Content-Length: 5"),
        b"GET",
        b"nonsense\r\n\r\n",
        request("GET", "/") * 9,
    ):
        async with connected(port) as client:
            await client.send(data)
    while listener.connections or listener.running:  # noqa: ASYNC110  nobody tells when the last one has left
        await asyncio.sleep(0.001)
    await listener.close()


@pytest.mark.parametrize("kind", BOTH)
async def test_a_client_that_hangs_up_while_the_answer_streams_ends_it(kind: str) -> None:
    over = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        watching = asyncio.create_task(receive())  # type: ignore[arg-type]  a coroutine in both
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not watching.done():
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
            await asyncio.sleep(0)
        assert watching.result()["type"] == "http.disconnect"
        over.set()

    async with serving(kind, app) as port:
        async with connected(port) as client:
            await client.send(request("GET", "/"))
            assert (await client.head()).status == 200
        await over.wait()


async def test_a_client_that_sent_the_next_request_already_is_still_seen_to_hang_up() -> None:
    begun, over = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        begun.set()
        assert (await receive())["type"] == "http.disconnect"
        over.set()

    async with serving("lean", app) as port:
        async with connected(port) as client:
            await client.send(request("GET", "/1") + request("GET", "/2"))
            await begun.wait()
        await over.wait()
