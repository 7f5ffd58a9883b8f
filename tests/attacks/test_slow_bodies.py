"""Strangers who begin requests and never end them: nobody is authenticated yet, and everybody else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.asgi import small_body
from gateway.bodies import Bodies
from gateway.model import Refused
from gateway.reasons import Code
from gateway.settings import Limits
from tests.mcp.world import World, gateway, reference_server

LIMITS = Limits(concurrent_calls=4)
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def unfinished(world: World) -> AsyncIterator[Connection]:
    """A request whose body does not come to its end."""
    parts = urlsplit(world.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"POST /mcp/ref HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-length: 100\r\n\r\n{{".encode())
        await writer.drain()
        yield reader, writer
    finally:
        writer.close()


async def test_strangers_with_unfinished_requests_take_nobodys_place(tmp_path: Path) -> None:
    with reference_server() as url:
        async with gateway(tmp_path, {"ref": url}, limits=LIMITS) as world, AsyncExitStack() as stack:
            slow = [await stack.enter_async_context(unfinished(world)) for _ in range(4 * LIMITS.concurrent_calls)]
            assert b" 503 " in await slow[0][0].readline(), "the one that has taken longest made room"
            for _ in range(3):
                answer = await world.modern("anna", "tools/list")
                assert answer.status_code == 200, answer.text


Parts = asyncio.Queue[MutableMapping[str, Any]]


def part(body: bytes, more: bool = True) -> MutableMapping[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def begun(bodies: Bodies, *parts: bytes) -> tuple[asyncio.Task[bytes], Parts]:
    """A body of which these parts have come, and been taken."""
    queue: Parts = asyncio.Queue()
    for each in parts:
        queue.put_nowait(part(each))
    task = asyncio.create_task(bodies.read(queue.get))
    while not queue.empty():  # noqa: ASYNC110  the queue has no event for it
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task, queue


async def refused(task: asyncio.Task[bytes]) -> Code:
    with pytest.raises(Refused) as caught:
        await task
    assert task.cancelling() == 0
    return caught.value.code


async def test_of_too_many_unfinished_bodies_the_oldest_is_given_up_and_the_others_come_to_their_end() -> None:
    bodies = Bodies(limit=10, most=2)
    oldest, _ = await begun(bodies, b"a")
    second, its = await begun(bodies, b"b")
    third, last = await begun(bodies)
    assert await refused(oldest) is Code.OVERLOADED
    its.put_nowait(part(b"c", more=False))
    last.put_nowait(part(b"d", more=False))
    assert (await second, await third) == (b"bc", b"d")


async def test_unfinished_bodies_hold_no_more_memory_than_they_may() -> None:
    bodies = Bodies(limit=10, most=100, most_bytes=0)  # four of the largest fit all the same
    tasks = [await begun(bodies, b"x" * 10) for _ in range(5)]
    assert await refused(tasks[0][0]) is Code.OVERLOADED
    for task, queue in tasks[1:]:
        queue.put_nowait(part(b"", more=False))
        assert await task == b"x" * 10


async def test_a_caller_that_is_cancelled_from_outside_stays_cancelled() -> None:
    bodies = Bodies(limit=10, most=1)
    first, _ = await begun(bodies, b"a")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second, its = await begun(bodies, b"b")
    its.put_nowait(part(b"", more=False))
    assert await second == b"b"


async def test_a_body_of_the_api_that_never_comes_whole_is_given_up() -> None:
    async def dripping() -> dict[str, object]:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": True}

    async def gone() -> dict[str, object]:
        return {"type": "http.disconnect"}

    for receive in (dripping, gone):
        with pytest.raises(Refused) as refused:
            await small_body(receive, 100, seconds=0.05)
        assert refused.value.code is Code.MALFORMED
