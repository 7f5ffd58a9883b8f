"""Handed hops: durable, seen by every replica, gone with their time, bounded for each agent."""

from __future__ import annotations

import pytest

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state.hops import MOST_OF_A_TRACE, HandedHops

NOW = 1_800_000_000
TRACE, OTHER = "a" * 32, "b" * 32


async def test_what_one_replica_writes_another_reads_also_after_a_restart(open_state) -> None:
    one, other = await open_state(), await open_state()
    await one.hops.hand("clerk", TRACE, "call-2", b"two", NOW + 300, NOW)
    await other.hops.hand("clerk", TRACE, "call-1", b"one", NOW + 300, NOW)
    await one.close()
    third = await open_state()
    for state in (other, third):
        assert await state.hops.handed("clerk", TRACE, NOW) == (("call-1", b"one"), ("call-2", b"two"))


async def test_agents_and_traces_are_kept_apart(open_state) -> None:
    state = await open_state()
    await state.hops.hand("clerk", TRACE, "call", b"x", NOW + 300, NOW)
    assert await state.hops.handed("courier", TRACE, NOW) == ()
    assert await state.hops.handed("clerk", OTHER, NOW) == ()


async def test_what_has_ended_is_not_given_out(open_state) -> None:
    state = await open_state()
    await state.hops.hand("clerk", TRACE, "call", b"x", NOW + 300, NOW)
    assert await state.hops.handed("clerk", TRACE, NOW + 299)
    assert await state.hops.handed("clerk", TRACE, NOW + 300) == ()


async def test_what_stands_is_not_replaced(open_state) -> None:
    state = await open_state()
    await state.hops.hand("clerk", TRACE, "call", b"first", NOW + 300, NOW)
    await state.hops.hand("clerk", TRACE, "call", b"second", NOW + 900, NOW)
    assert await state.hops.handed("clerk", TRACE, NOW) == (("call", b"first"),)


async def test_of_one_trace_no_more_is_read_than_tells_that_it_is_too_much(open_state) -> None:
    state = await open_state()
    for number in range(MOST_OF_A_TRACE + 3):
        await state.hops.hand("clerk", TRACE, f"call-{number:02}", b"x", NOW + 300, NOW)
    assert len(await state.hops.handed("clerk", TRACE, NOW)) == MOST_OF_A_TRACE + 1


async def test_an_agent_has_a_bounded_number_and_its_ended_ones_make_room(open_state) -> None:
    state = await open_state()
    hops = HandedHops(state._worker, most=3)  # the bound of a gateway is too high for a test
    for number in range(3):
        await hops.hand("clerk", f"{number:032x}", "call", b"x", NOW + 300, NOW)
    with pytest.raises(Refused) as caught:
        await hops.hand("clerk", TRACE, "call", b"x", NOW + 300, NOW)
    assert caught.value.code is Code.OVERLOADED
    assert await hops.handed("clerk", TRACE, NOW) == ()
    await hops.hand("courier", TRACE, "call", b"x", NOW + 300, NOW)  # another's bound is its own
    await hops.hand("clerk", TRACE, "call", b"x", NOW + 600, NOW + 300)
    assert await hops.handed("clerk", TRACE, NOW + 300) == (("call", b"x"),)
