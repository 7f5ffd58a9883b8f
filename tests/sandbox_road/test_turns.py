"""Runs at once are bounded, people take turns, and whoever is one too many is told so."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.model import Refused
from gateway.reasons import Code
from gateway.sandbox.queue import FairQueue
from sandbox.model import Job
from sandbox.result import Run
from sandbox.runner import Hooks
from tests.sandbox_road.scripted import ended, scene


async def played(queue: FairQueue, *subjects: str) -> list[str]:
    """In which order runs of these subjects, asked for in this order, are let through."""
    order: list[str] = []

    async def run(subject: str) -> None:
        async with queue.turn(subject):
            order.append(subject)

    async with queue.turn("first"):
        tasks = [asyncio.create_task(run(subject)) for subject in subjects]
        await asyncio.sleep(0)  # each begins to wait
        assert queue.waiting == len(subjects)
    await asyncio.gather(*tasks)
    return order


async def test_one_who_waits_with_many_delays_another_by_one() -> None:
    assert await played(FairQueue(1, 64, 64), *["busy"] * 5, "calm", "other") == ["busy", "calm", "other", *["busy"] * 4]


async def test_turns_go_round_and_round() -> None:
    assert await played(FairQueue(1, 64, 64), "a", "a", "b", "b", "c", "c") == ["a", "b", "c", "a", "b", "c"]


@pytest.mark.parametrize(("waiting", "of_one"), [(2, 64), (64, 2)])
async def test_one_too_many_is_refused_at_once(waiting: int, of_one: int) -> None:
    queue = FairQueue(1, waiting, of_one)
    async with queue.turn("a"):
        tasks = [asyncio.create_task(queue.turn("a").__aenter__()) for _ in range(2)]
        await asyncio.sleep(0)  # each begins to wait
        assert queue.waiting == 2
        with pytest.raises(Refused) as refused:
            async with queue.turn("a"):
                pass
        assert refused.value.code is Code.OVERLOADED
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    assert queue.waiting == 0


async def test_one_who_must_not_wait_is_refused_where_no_place_is_free() -> None:
    queue = FairQueue(1, 64, 64)
    async with queue.turn("a", wait=False):
        with pytest.raises(Refused):
            async with queue.turn("a", wait=False):
                pass
    async with queue.turn("a", wait=False):
        pass


async def test_whoever_leaves_the_queue_takes_no_place_with_them() -> None:
    queue = FairQueue(1, 64, 64)
    got: list[str] = []

    async def run(name: str) -> None:
        async with queue.turn(name):
            got.append(name)

    async with queue.turn("a"):
        tasks = [asyncio.create_task(run(name)) for name in ("b", "c")]
        await asyncio.sleep(0)  # each begins to wait
        assert queue.waiting == 2
        tasks[0].cancel()
        with suppress(asyncio.CancelledError):
            await tasks[0]
    await tasks[1]
    assert got == ["c"]


async def test_whoever_leaves_in_the_moment_of_their_turn_passes_it_on() -> None:
    queue = FairQueue(1, 64, 64)
    got: list[str] = []

    async def run(name: str) -> None:
        async with queue.turn(name):
            got.append(name)

    held = queue.turn("a")
    await held.__aenter__()
    tasks = [asyncio.create_task(run(name)) for name in ("b", "c")]
    await asyncio.sleep(0)  # each begins to wait
    assert queue.waiting == 2
    await held.__aexit__(None, None, None)  # b's turn has come, and b does not know yet
    tasks[0].cancel()
    with suppress(asyncio.CancelledError):
        await tasks[0]
    await tasks[1]
    assert got == ["c"]
    async with queue.turn("d", wait=False):  # no place was lost
        pass


@pytest.mark.parametrize("seed", range(8))
async def test_however_many_come_and_leave_no_place_is_lost_and_none_is_made(seed: int) -> None:
    chance = random.Random(seed)
    queue, running, most = FairQueue(3, 50, 20), 0, 0

    async def run(subject: str) -> None:
        nonlocal running, most
        async with queue.turn(subject):
            running += 1
            most = max(most, running)
            try:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                running -= 1

    tasks: list[asyncio.Task[None]] = []
    for _ in range(200):
        tasks.append(asyncio.create_task(run(chance.choice("abcd"))))
        if chance.random() < 0.3:
            chance.choice(tasks).cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (running, queue.waiting) == (0, 0)
    assert 1 <= most <= 3
    async with queue.turn("a", wait=False), queue.turn("b", wait=False), queue.turn("c", wait=False):
        with pytest.raises(Refused):
            async with queue.turn("d", wait=False):
                pass


async def test_the_gateway_says_that_it_is_overloaded_and_runs_no_more_than_it_may(tmp_path: Path) -> None:
    running, most, go_on, full = 0, 0, asyncio.Event(), asyncio.Event()

    async def counts(job: Job, _hooks: Hooks) -> Run:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 2:
            full.set()
        await go_on.wait()
        running -= 1
        return ended(job)

    async with scene(tmp_path, concurrency=2, waiting=1, of_one=1) as caged:
        caged.runner.script = counts
        first = [asyncio.create_task(caged.call(code="1")) for _ in range(2)]
        await full.wait()
        waits = asyncio.create_task(caged.call(code="1"))
        while caged.queue.waiting < 1:  # noqa: ASYNC110  it waits for a socket's bytes to become a call
            await asyncio.sleep(0)
        refused = await caged.call(code="1")
        assert refused["error"]["data"]["code"] == "overloaded"
        go_on.set()
        answers = await asyncio.gather(*first, waits)
    assert [answer["result"]["isError"] for answer in answers] == [False] * 3
    assert most == 2
