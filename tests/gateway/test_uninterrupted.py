"""Work that is not interrupted ends as it would have, and the cancellation is not forgotten."""

from __future__ import annotations

import asyncio

import pytest

from gateway.uninterrupted import Uninterrupted


async def test_it_gives_what_the_work_gives() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        return 5

    assert await Uninterrupted(work()) == 5


async def test_a_future_is_work_as_well() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.get_loop().call_soon(future.set_result, 7)
    assert await Uninterrupted(future) == 7


async def test_an_error_of_the_work_is_the_callers() -> None:
    async def work() -> None:
        await asyncio.sleep(0.001)
        raise LookupError

    with pytest.raises(LookupError):
        await Uninterrupted(work())


async def test_a_cancellation_waits_for_the_work_however_often_it_comes() -> None:
    done: list[str] = []
    first, second = (asyncio.get_running_loop().create_future() for _ in range(2))

    async def work() -> None:
        await first
        done.append("first")
        await second
        done.append("second")

    async def caller() -> None:
        await Uninterrupted(work())
        done.append("never")

    task = asyncio.create_task(caller())
    await asyncio.sleep(0)
    for future in (first, second):
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        future.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["first", "second"]


async def test_a_cancellation_between_two_turns_waits_as_well() -> None:
    done: list[int] = []

    async def work() -> None:
        for number in range(3):
            await asyncio.sleep(0)
            done.append(number)

    task = asyncio.ensure_future(_call(Uninterrupted(work())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [0, 1, 2]


async def test_work_that_begins_while_its_task_is_cancelled_is_done_nevertheless() -> None:
    done = False

    async def work() -> None:
        nonlocal done
        await asyncio.sleep(0.001)
        done = True

    async def caller() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            task.cancel()
            await Uninterrupted(work())

    task = asyncio.create_task(caller())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done


async def test_an_error_goes_before_a_cancellation() -> None:
    failing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(_call(Uninterrupted(failing)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    failing.set_exception(LookupError())
    with pytest.raises(LookupError):
        await task


async def test_work_that_was_cancelled_itself_is_told_as_cancelled() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(_call(Uninterrupted(future)))
    await asyncio.sleep(0)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _call(work: Uninterrupted[None]) -> None:
    await work
