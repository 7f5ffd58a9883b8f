"""How a listener begins and ends: in good order, on signals, within its time; as a process where the promise is about one."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.listener.listener import Bounds, DeafError, Listener
from tests.listener.wire import Receive, Scope, Send, answering, connected, echo, request

ROOT = Path(__file__).resolve().parents[2]


async def test_an_end_lets_what_was_asked_be_answered_and_takes_nothing_new() -> None:
    go, begun = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await go.wait()
        await echo(scope, receive, send)

    listener = Listener(app)
    _, port = await listener.open("127.0.0.1", 0)
    async with connected(port) as busy, connected(port) as idle:
        await busy.send(request("GET", "/last") + request("GET", "/too-late"))
        await begun.wait()
        closing = asyncio.create_task(listener.close())
        assert await idle.ended() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        go.set()
        reply = await busy.reply()
        assert (reply.json["path"], reply.header(b"connection")) == ("/last", b"close")
        assert await busy.ended() == b""
    await closing
    assert not listener.connections


async def test_an_end_cuts_what_does_not_come_to_its_own_and_lets_it_clean_up() -> None:
    begun, cleaned = asyncio.Event(), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    listener = Listener(app, Bounds(grace=0.1))
    _, port = await listener.open("127.0.0.1", 0)
    async with connected(port) as client:
        await client.send(request("GET", "/"))
        await begun.wait()
        await listener.close()
        assert cleaned == [True]
        assert not (await client.ended()).endswith(b"0\r\n\r\n"), "a cut stream does not look whole"


async def test_whoever_is_in_a_hurry_does_not_wait_for_the_time_of_grace() -> None:
    begun, hurry = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await asyncio.Event().wait()

    listener = Listener(app, Bounds(grace=1000))
    _, port = await listener.open("127.0.0.1", 0)
    async with connected(port) as client:
        await client.send(request("GET", "/"))
        await begun.wait()
        hurry.set()
        await listener.close(hurry)
        assert (await client.ended()).startswith((b"HTTP/1.1 500 ", b""))


async def test_an_address_that_is_taken_is_said_to_be() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(DeafError):
        await Listener(echo).open("127.0.0.1", taken.getsockname()[1])


async def test_it_listens_on_ipv6() -> None:
    listener = Listener(echo)
    host, port = await listener.open("::1", 0)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request("GET", "/", "Connection: close"))
    assert b"200 OK" in await reader.read()
    writer.close()
    await listener.close()


async def test_a_port_can_be_listened_on_again_at_once() -> None:
    first = Listener(answering(204, []))
    _, port = await first.open("127.0.0.1", 0)
    async with connected(port) as client:
        await client.send(request("GET", "/", "Connection: close"))
        await client.ended()
    await first.close()
    second = Listener(answering(204, []))
    assert await second.open("127.0.0.1", port) == ("127.0.0.1", port)
    await second.close()


PROGRAM = """
import asyncio, logging, sys
from gateway.listener.listener import Bounds, run

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        print("opened", flush=True)
        if {failing!r} == "says so":
            await send({{"type": "lifespan.startup.failed", "message": ""}})
            return
        if {failing!r} == "raises":
            raise LookupError("no store")
        await send({{"type": "lifespan.startup.complete"}})
        assert (await receive())["type"] == "lifespan.shutdown"
        print("closed", flush=True)
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    print("asked", flush=True)
    try:
        await asyncio.Event().wait() if scope["path"] == "/hangs" else asyncio.sleep(0)
    finally:
        print("left", flush=True)
    await send({{"type": "http.response.start", "status": 204, "headers": []}})
    await send({{"type": "http.response.body", "body": b""}})

logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
done = run(app, "127.0.0.1", {port}, bounds=Bounds(grace=1000), settled=lambda: print("settled", flush=True))
print("returned", done, flush=True)
"""


@contextmanager
def program(port: int, failing: str = "") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM.format(port=port, failing=failing)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def until(process: subprocess.Popen[str], word: str) -> list[str]:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line.strip())
        if word in line:
            return said
    pytest.fail(f"never said {word}: {said}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order_and_is_passed_on(number: signal.Signals) -> None:
    port = free_port()
    with program(port) as process:
        assert until(process, "running on") == [
            "opened",
            "settled",
            f"Bailiwick running on http://127.0.0.1:{port} (Press CTRL+C to quit)",
        ]
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert out.split("\n")[:2] == ["shutting down", "closed"]
        assert process.returncode == -number
        assert "KeyboardInterrupt" in err if number == signal.SIGINT else not err


def test_a_second_signal_ends_it_at_once() -> None:
    port = free_port()
    with program(port) as process, socket.socket() as client:
        until(process, "running on")
        client.connect(("127.0.0.1", port))
        client.sendall(request("GET", "/hangs"))
        until(process, "asked")
        process.send_signal(signal.SIGTERM)
        until(process, "shutting down")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
        assert [line for line in out.split("\n") if line in {"left", "closed"}] == ["left", "closed"]
        assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("failing", ["says so", "raises"])
def test_an_application_that_does_not_start_is_not_served(failing: str) -> None:
    with program(free_port(), failing) as process:
        out, _ = process.communicate(timeout=30)
        assert "returned False" in out
        assert "running on" not in out
        assert ("no store" in out) is (failing == "raises")
        assert process.returncode == 0


def test_an_application_that_was_opened_is_closed_where_the_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, program(taken.getsockname()[1]) as process:
        out, err = process.communicate(timeout=30)
        assert out.split("\n")[0] == "opened"
        assert "closed" in out
        assert "DeafError" in err


async def test_these_tests_run_on_the_loop_that_serves() -> None:
    assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
