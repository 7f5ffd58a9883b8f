"""The way into the writing thread: in order, exactly once, and never asleep over something."""

from __future__ import annotations

import os
import threading
from contextlib import closing

import pytest

from audit.inlet import Inlet


@pytest.mark.parametrize("burst", [1, 7])
def test_whatever_is_put_while_the_reader_falls_asleep_is_taken_in_order_exactly_once(burst: int) -> None:
    inlet: Inlet[int] = Inlet()
    taken: list[int] = []
    seen = threading.Semaphore(0)

    def read() -> None:
        while inlet.wait():
            while (item := inlet.take()) is not None:
                if item < 0:
                    return
                taken.append(item)
                seen.release()

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(20_000):
        inlet.put(n)
        if n % burst == 0:
            assert seen.acquire(timeout=30), "the reader sleeps over something"
    inlet.put(-1)
    reader.join(30)
    assert not reader.is_alive()
    assert taken == list(range(20_000))
    inlet.close()


def test_a_wait_for_nothing_ends_in_time_and_says_so() -> None:
    with closing(Inlet[int]()) as inlet:
        assert not inlet.wait(0.0)
        inlet.put(1)
        assert inlet.wait(0.0)
        assert (inlet.take(), inlet.take()) == (1, None)
        assert not inlet.wait(0.0)


def test_what_is_put_after_the_end_touches_nobody_elses_file() -> None:
    inlet: Inlet[int] = Inlet()
    assert not inlet.wait(0.0)
    inlet.close()
    read, write = os.pipe()  # takes the numbers that were let go
    inlet.put(1)
    os.set_blocking(read, False)
    with pytest.raises(BlockingIOError):
        os.read(read, 1)
    os.close(read)
    os.close(write)
