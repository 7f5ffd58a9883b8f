"""Rates and slots: shared by replicas, exact under concurrency, free again after a replica's death."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import create_engine, text

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state.limits import BUSY_SECONDS, Rate, Slots

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
RATE = Rate("a" * 64, 10 * SECOND, 3, "ten-a-second")
SLOTS = Slots("b" * 64, 2, "two-at-once")
LEASE = NOW + 30 * SECOND


async def refused(taking) -> Refused:
    with pytest.raises(Refused) as found:
        await taking
    assert found.value.code is Code.LIMIT_REACHED
    return found.value


async def test_a_burst_is_let_through_and_then_one_for_each_interval_on_every_replica(open_state) -> None:
    one, other = (await open_state()).limits, (await open_state()).limits
    for rows in (one, other, one):
        await rows.take([RATE], [], "c", NOW, LEASE)
    assert (await refused(other.take([RATE], [], "c", NOW, LEASE))).data == {"retry_after": 10}
    assert (await refused(one.take([RATE], [], "c", NOW + 9 * SECOND + 1, LEASE))).data == {"retry_after": 1}
    await other.take([RATE], [], "c", NOW + 10 * SECOND, LEASE)
    await refused(one.take([RATE], [], "c", NOW + 10 * SECOND, LEASE))
    for _ in range(3):  # unused time gives back no more than the burst
        await one.take([RATE], [], "c", NOW + 3600 * SECOND, LEASE)
    await refused(one.take([RATE], [], "c", NOW + 3600 * SECOND, LEASE))


async def test_of_many_at_once_on_two_replicas_just_so_many_are_let_through(open_state) -> None:
    replicas = [(await open_state()).limits, (await open_state()).limits]
    rate = RATE._replace(burst=5)
    rated = [replicas[n % 2].take([rate], [], str(n), NOW, LEASE) for n in range(20)]
    slotted = [replicas[n % 2].take([], [SLOTS], str(n), NOW, LEASE) for n in range(20)]
    both = [
        replicas[n % 2].take([rate._replace(key="d" * 64)], [SLOTS._replace(key="c" * 64)], str(n), NOW, LEASE) for n in range(20)
    ]
    ended = await asyncio.gather(*rated, *slotted, *both, return_exceptions=True)
    assert all(end is None or (isinstance(end, Refused) and end.code is Code.LIMIT_REACHED) for end in ended)
    assert [sum(end is None for end in ended[at : at + 20]) for at in (0, 20, 40)] == [5, 2, 2]


async def test_slots_are_given_back_by_whoever_holds_them_and_by_nobody_else(open_state) -> None:
    one, other = (await open_state()).limits, (await open_state()).limits
    await one.take([], [SLOTS], "1", NOW, LEASE)
    await other.take([], [SLOTS], "2", NOW, LEASE)
    assert (await refused(one.take([], [SLOTS], "3", NOW, LEASE))).data == {"retry_after": BUSY_SECONDS}
    await one.give_back(["3"])
    await refused(one.take([], [SLOTS], "3", NOW, LEASE))
    await one.give_back(["1"])
    await other.take([], [SLOTS], "3", NOW, LEASE)
    await refused(one.take([], [SLOTS], "4", NOW, LEASE))


async def test_what_a_dead_replica_held_is_free_when_its_lease_ends_and_what_a_living_one_renews_is_not(open_state) -> None:
    dead, living = await open_state(), (await open_state()).limits
    await dead.limits.take([], [SLOTS], "dead", NOW, LEASE)
    await living.take([], [SLOTS], "living", NOW, LEASE)
    await dead.close()
    await living.renew(["living"], LEASE + 30 * SECOND)
    await refused(living.take([], [SLOTS], "new", LEASE - 1, LEASE))
    await living.take([], [SLOTS], "new", LEASE, LEASE + 30 * SECOND)
    await refused(living.take([], [SLOTS], "newer", LEASE, LEASE))


async def test_a_call_that_one_limit_refuses_uses_up_nothing_of_another(open_state) -> None:
    rows = (await open_state()).limits
    for holder in ("1", "2"):
        await rows.take([], [SLOTS], holder, NOW, LEASE)
    for _ in range(5):
        await refused(rows.take([RATE], [SLOTS], "3", NOW, LEASE))
    for _ in range(3):
        await rows.take([RATE], [], "4", NOW, LEASE)


async def test_what_says_nothing_any_more_is_forgotten(open_state, url: str) -> None:
    rows = (await open_state()).limits
    await rows.take([RATE], [SLOTS], "1", NOW, LEASE)
    await rows.take([RATE._replace(key="e" * 64)], [], "2", NOW + 3600 * SECOND, LEASE)
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT key FROM limit_rates")).scalars().all() == ["e" * 64]
        assert connection.execute(text("SELECT key FROM limit_slots")).scalars().all() == []
    engine.dispose()
