"""A time limit ends what it limits, and nothing else."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

import pytest

from gateway.deadline import Within


async def _cancelled_in_time(seconds: float, inner: float | None = None) -> type[BaseException] | None:
    """What ended the wait inside the limits."""
    seen: type[BaseException] | None = None

    async def wait() -> None:
        nonlocal seen
        try:
            with Within(inner) if inner else nullcontext():
                await asyncio.Event().wait()
        except BaseException as error:
            seen = type(error)
            raise

    with pytest.raises(TimeoutError), Within(seconds):
        await wait()
    return seen


async def test_what_takes_too_long_is_cancelled_and_told_as_a_timeout() -> None:
    assert await _cancelled_in_time(0.01) is asyncio.CancelledError


async def test_what_ends_in_time_is_not_touched_by_its_limit_afterwards() -> None:
    with Within(0.01):
        await asyncio.sleep(0)
    with Within(60):
        await asyncio.sleep(0.03)


async def test_a_shorter_limit_rings_first_whichever_began_first() -> None:
    order: list[str] = []

    async def wait(name: str, seconds: float) -> None:
        with pytest.raises(TimeoutError), Within(seconds):
            await asyncio.Event().wait()
        order.append(name)

    await asyncio.gather(wait("long", 0.06), wait("short", 0.01), wait("middle", 0.03))
    assert order == ["short", "middle", "long"]


async def test_what_is_to_be_done_soon_is_done_once_and_the_limit_still_ends_the_work() -> None:
    done: list[str] = []
    with pytest.raises(TimeoutError), Within(0.02, 0.01, lambda: done.append("soon")):
        await asyncio.Event().wait()
    assert done == ["soon"]
    with Within(60, 0.01, lambda: done.append("never")):
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)
    assert done == ["soon"]


async def test_what_would_be_done_no_sooner_than_the_end_is_not_done() -> None:
    done: list[str] = []
    with pytest.raises(TimeoutError), Within(0.01, 0.01, lambda: done.append("late")):
        await asyncio.Event().wait()
    assert done == []


async def test_an_inner_limit_ends_the_inner_work_alone() -> None:
    with Within(60):
        with pytest.raises(TimeoutError), Within(0.01):
            await asyncio.Event().wait()
        await asyncio.sleep(0)


async def test_an_outer_limit_goes_through_an_inner_one() -> None:
    assert await _cancelled_in_time(0.01, inner=60) is asyncio.CancelledError


async def test_a_cancellation_by_somebody_else_is_not_taken_for_a_timeout() -> None:
    async def work() -> None:
        with Within(60):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_an_error_of_the_work_goes_on_as_it_is() -> None:
    with pytest.raises(LookupError), Within(60):
        raise LookupError


async def test_after_a_timeout_the_task_can_be_limited_again() -> None:
    for _ in range(3):
        with pytest.raises(TimeoutError), Within(0.005):
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


def test_each_loop_keeps_its_own_limits() -> None:
    async def limited() -> None:
        with pytest.raises(TimeoutError), Within(0.005):
            await asyncio.Event().wait()

    for _ in range(2):
        asyncio.run(limited())
