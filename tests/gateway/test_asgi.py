"""The ASGI floor: bounded reading, whose host, whose trace, who left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.asgi import (
    MAX_HEADERS,
    ClientGoneError,
    Disconnect,
    HostGuard,
    Slots,
    by_name,
    child_traceparent,
    headers_of,
    make_arrival,
    read_body,
    read_traceparent,
    send_json,
    trace_of,
)
from gateway.bodies import Bodies
from gateway.eventstream import EventStream
from gateway.model import Refused
from gateway.reasons import Code

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def scope(*headers: tuple[str, str], **more: Any) -> dict[str, Any]:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return {"type": "http", "method": "POST", "headers": raw, "path": "/", "query_string": b"", **more}


def receiving(*messages: dict[str, Any]) -> Any:
    left = iter(messages)

    async def receive() -> dict[str, Any]:
        message = next(left, None)
        if message is None:
            await asyncio.Event().wait()
        assert message is not None
        return message

    return receive


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


async def test_a_body_is_whole_whatever_its_pieces() -> None:
    assert await read_body(receiving(part(b"ab", True), part(b"", True), part(b"c")), 3) == b"abc"
    assert await read_body(receiving(part(b"")), 3) == b""


async def test_a_body_beyond_the_limit_is_refused_as_soon_as_it_is() -> None:
    with pytest.raises(Refused) as refused:
        await read_body(receiving(part(b"abc", True), part(b"d", True)), 3)
    assert refused.value.code is Code.TOO_LARGE


async def test_a_body_that_does_not_come_is_refused() -> None:
    bodies = Bodies(limit=3, most=2, seconds=0.01)
    for _ in range(2):  # and the place of the first is free again
        with pytest.raises(Refused) as refused:
            await bodies.read(receiving(part(b"a", True)))
        assert refused.value.code is Code.MALFORMED


async def test_a_client_that_leaves_before_its_body_is_whole_gets_no_answer() -> None:
    with pytest.raises(ClientGoneError):
        await read_body(receiving(part(b"a", True), GONE), 3)


def found(*headers: tuple[str, str]) -> Mapping[str, Sequence[str]]:
    return by_name(headers_of(scope(*headers)))


def test_headers_are_bounded_in_number_and_in_bytes() -> None:
    assert headers_of(scope(("X-A", "é"), ("x-a", "2"))) == (("x-a", "é"), ("x-a", "2"))
    for many in ([("a", "b")] * (MAX_HEADERS + 1), [("a", "b" * 70_000)]):
        with pytest.raises(Refused) as refused:
            headers_of(scope(*many))
        assert refused.value.code is Code.TOO_LARGE


def test_a_trace_goes_on_from_a_valid_traceparent() -> None:
    trace = trace_of(by_name((("traceparent", TRACEPARENT), ("tracestate", "a=1"), ("tracestate", "b=2"))))
    assert (trace.trace_id, trace.parent, trace.flags) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "01")
    assert trace.state == "a=1,b=2"
    assert trace.span_id != trace.parent
    onwards = read_traceparent(child_traceparent(trace))
    assert onwards is not None
    assert onwards[0] == trace.trace_id
    assert onwards[1] not in {trace.span_id, trace.parent}


@pytest.mark.parametrize(
    "text",
    [
        "",
        TRACEPARENT + "-00",
        TRACEPARENT.upper(),
        TRACEPARENT.replace("00-0a", "ff-0a"),
        TRACEPARENT[:-1],
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        TRACEPARENT.replace("-", "_"),
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0é",
    ],
)
def test_a_trace_that_is_not_valid_is_not_taken_over(text: str) -> None:
    assert read_traceparent(text) is None
    assert trace_of(by_name((("traceparent", text),))).parent == ""


def test_two_traceparents_are_none() -> None:
    assert trace_of(by_name((("traceparent", TRACEPARENT),) * 2)).parent == ""


def test_a_later_version_of_traceparent_is_read_as_far_as_it_is_known() -> None:
    assert read_traceparent("01" + TRACEPARENT[2:] + "-more") == read_traceparent(TRACEPARENT)


@given(st.text())
def test_reading_a_traceparent_never_fails(text: str) -> None:
    read_traceparent(text)


def test_an_arrival_says_what_came() -> None:
    framed = make_arrival(
        scope(("Host", "x"), query_string=b"a=1", client=("10.0.0.1", 5)),
        b"body",
        protocol="a2a",
        target="ref",
        path="",
        clock=lambda: 1_700_000_000_000_000,
    )
    assert (framed.target, framed.body, framed.query, framed.peer) == ("ref", b"body", "a=1", "10.0.0.1")
    assert framed.header("host") == "x"
    assert framed.at == 1_700_000_000_000_000


GUARD = HostGuard("https://gate.example", ["other.example", "exact.example:81"], ["https://app.example"])


@pytest.mark.parametrize(
    "host", ["gate.example", "GATE.example:443", "localhost", "127.0.0.1:5", "[::1]:8080", "other.example:9", "exact.example:81"]
)
def test_our_own_hosts_are_let_in(host: str) -> None:
    GUARD.check(found(("host", host)))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "gate.example:80",
        "gate.example.evil.example",
        "exact.example:82",
        "",
        "127.0.0.1.evil.example",
        "localhost:x",
        "gate.example:443:443",
    ],
)
def test_another_host_is_refused(host: str) -> None:
    with pytest.raises(Refused):
        GUARD.check(found(("host", host)))


@pytest.mark.parametrize("hosts", [[], ["gate.example", "gate.example"]])
def test_there_is_exactly_one_host(hosts: Iterable[str]) -> None:
    with pytest.raises(Refused):
        GUARD.check(found(*(("host", host) for host in hosts)))


@pytest.mark.parametrize(
    ("host", "origin", "welcome"),
    [
        ("gate.example", "https://gate.example", True),
        ("gate.example", "https://app.example", True),
        ("localhost:8080", "http://localhost:8080", True),
        ("localhost:8080", "http://localhost:3000", False),
        ("gate.example", "null", False),
        ("gate.example", "https://gate.example.evil.example", False),
        ("gate.example", "", False),
    ],
)
def test_an_origin_is_ours_or_refused(host: str, origin: str, welcome: bool) -> None:
    request = scope(("host", host), ("origin", origin))
    if welcome:
        GUARD.check(by_name(headers_of(request)))
    else:
        with pytest.raises(Refused) as refused:
            GUARD.check(by_name(headers_of(request)))
        assert refused.value.code is Code.BAD_ORIGIN


def test_a_slot_is_given_back_even_after_a_failure() -> None:
    slots = Slots(1)
    with suppress(KeyError), slots:
        with pytest.raises(Refused) as refused:
            slots.__enter__()
        assert refused.value.code is Code.OVERLOADED
        raise KeyError
    with slots:
        pass


class Sent(list[dict[str, Any]]):
    async def __call__(self, message: Any) -> None:
        self.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self[0]["headers"])


async def test_an_answer_is_not_cacheable_unless_it_says_so() -> None:
    sent = Sent()
    await send_json(sent, 200, b"{}")
    assert sent.headers == {b"content-length": b"2", b"content-type": b"application/json", b"cache-control": b"no-store"}
    sent = Sent()
    await send_json(sent, 304, b"", (("Cache-Control", "private"),))
    assert sent.headers == {b"content-length": b"0", b"cache-control": b"private"}


async def test_a_header_value_cannot_become_two_headers() -> None:
    with pytest.raises(ValueError, match="line break"):
        await send_json(Sent(), 200, b"{}", (("X", "a\r\nSet-Cookie: b"),))


async def test_an_event_stream_begins_once_and_ends_in_good_order() -> None:
    sent = Sent()
    async with EventStream(sent) as stream:
        assert not stream.started
        await stream.start((("X", "y"),))
        await stream.event(b'{"a":1}', event="error", id="7")
        await stream.event(b"two\nlines")
        await stream.comment()
    assert sent.headers[b"content-type"] == b"text/event-stream"
    assert sent.body == b'event: error\r\nid: 7\r\ndata: {"a":1}\r\n\r\ndata: two\r\ndata: lines\r\n\r\n:\r\n\r\n'
    assert not sent[-1].get("more_body", False)


async def test_a_stream_that_fails_is_left_unfinished() -> None:
    sent = Sent()
    with suppress(KeyError):
        async with EventStream(sent) as stream:
            await stream.start()
            raise KeyError
    assert all(message.get("more_body", True) for message in sent)


async def test_a_stream_that_never_began_sends_nothing() -> None:
    sent = Sent()
    async with EventStream(sent):
        pass
    assert sent == []


async def test_work_is_cancelled_when_the_client_leaves_and_the_task_lives_on() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    watcher = Disconnect()
    await watcher.guard(receiving(GONE), work())
    assert watcher.gone
    assert ended == [True]
    await asyncio.sleep(0)  # a cancellation left behind would strike here


async def test_work_that_ends_first_is_left_alone() -> None:
    async def work() -> None:
        await asyncio.sleep(0)

    watcher = Disconnect()
    await watcher.guard(receiving(), work())
    assert not watcher.gone
    await asyncio.sleep(0)


async def test_a_cancellation_from_elsewhere_goes_on() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(Disconnect().guard(receiving(), work()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_work_raises_goes_on() -> None:
    async def work() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await Disconnect().guard(receiving(), work())
