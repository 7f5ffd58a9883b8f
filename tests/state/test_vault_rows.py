"""What people let the gateway keep: one winner of every change, nothing twice, nothing after its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.state import State
from gateway.state.vault import Key

Opens = Callable[[], Awaitable[State]]
NOW = 1_800_000_000
AT = NOW * 1_000_000
KEY = Key("acme", "user:dev/paul", "notes")


async def test_of_two_replicas_that_change_a_credential_at_once_one_sees_that_it_lost(open_state: Opens) -> None:
    one, other = await open_state(), await open_state()
    await one.vaulted.put(KEY, b"first", AT)
    seen = [await one.vaulted.get(KEY), await other.vaulted.get(KEY)]
    assert seen[0] is not None
    assert seen[0] == seen[1]
    swaps = [state.vaulted.swap(seen[0], text, AT + 1) for state, text in ((one, b"one"), (other, b"other"))]
    won = [kept for kept in await asyncio.gather(*swaps) if kept is not None]
    assert len(won) == 1
    assert await other.vaulted.get(KEY) == won[0]


async def test_a_version_never_comes_back_even_when_the_credential_was_removed_and_kept_anew(open_state: Opens) -> None:
    state = await open_state()
    await state.vaulted.put(KEY, b"first", AT)
    old = await state.vaulted.get(KEY)
    assert old is not None
    assert await state.vaulted.remove(KEY)
    await state.vaulted.put(KEY, b"second", AT + 1)
    assert await state.vaulted.swap(old, b"late", AT + 2) is None
    assert not await state.vaulted.remove(KEY, old.version)
    await state.vaulted.put(KEY, b"third", AT - 1_000)  # a replica whose clock is behind
    now = await state.vaulted.get(KEY)
    assert now is not None
    assert now.sealed == b"third"
    assert now.version > AT + 1


async def test_a_person_s_credentials_are_listed_and_nobody_else_s(open_state: Opens) -> None:
    state = await open_state()
    for upstream in ("notes", "a2a:clerk"):
        await state.vaulted.put(Key("acme", "user:dev/paul", upstream), b"x", AT)
    await state.vaulted.put(Key("acme", "user:dev/mia", "notes"), b"x", AT)
    await state.vaulted.put(Key("other", "user:dev/paul", "notes"), b"x", AT)
    assert [kept.key.upstream for kept in await state.vaulted.of("acme", "user:dev/paul")] == ["a2a:clerk", "notes"]
    assert await state.vaulted.remove(KEY)
    assert not await state.vaulted.remove(KEY)
    assert [kept.key.upstream for kept in await state.vaulted.of("acme", "user:dev/paul")] == ["a2a:clerk"]


async def test_a_ticket_is_taken_once_however_many_replicas_try(open_state: Opens) -> None:
    one, other = await open_state(), await open_state()
    await one.tickets.add("d" * 64, b"sealed", NOW + 10)
    assert await other.tickets.read("d" * 64, NOW) == (b"sealed", NOW + 10)
    taken = await asyncio.gather(*[state.tickets.take("d" * 64, NOW) for state in (one, other) * 4])
    assert [each for each in taken if each is not None] == [b"sealed"]


async def test_a_ticket_that_has_ended_is_neither_read_nor_taken(open_state: Opens) -> None:
    state = await open_state()
    await state.tickets.add("d" * 64, b"sealed", NOW)
    assert await state.tickets.read("d" * 64, NOW) is None
    assert await state.tickets.take("d" * 64, NOW) is None


async def test_a_place_holds_one_ticket_and_the_one_before_is_out_of_force(open_state: Opens) -> None:
    one, other = await open_state(), await open_state()
    first = [
        state.tickets.point("p", None, name, (name.hex(), b"s"), "", NOW + 10, NOW)
        for state, name in ((one, b"1"), (other, b"2"))
    ]
    assert sorted(await asyncio.gather(*first)) == [False, True]
    held = await one.tickets.read("p", NOW)
    assert held is not None
    assert await one.tickets.point("p", held[0], b"3", ("33", b"s"), held[0].hex(), NOW + 20, NOW)
    assert await one.tickets.take(held[0].hex(), NOW) is None
    assert not await other.tickets.point("p", held[0], b"4", ("44", b"s"), "33", NOW + 20, NOW)
    assert await other.tickets.take("44", NOW) is None
    assert await other.tickets.take("33", NOW) == b"s"
    assert await other.tickets.point("p", None, b"5", ("55", b"s"), "", NOW + 90, NOW + 30)  # the place itself has ended


async def test_what_is_left_under_a_digest_is_left_once_and_taken_once_and_not_after_its_end(open_state: Opens) -> None:
    one, other = await open_state(), await open_state()
    left = [state.tickets.leave("a" * 64, text, NOW + 10, NOW) for state, text in ((one, b"1"), (other, b"2"))]
    assert sorted(await asyncio.gather(*left)) == [False, True]
    assert await one.tickets.leave("b" * 64, b"3", NOW + 1, NOW)
    assert await other.tickets.take_all(["c" * 64], NOW) == {}
    taken = await asyncio.gather(*[state.tickets.take_all(["a" * 64, "b" * 64], NOW + 1) for state in (one, other) * 3])
    assert [sorted(each) for each in taken if each] == [["a" * 64]]  # the other one has ended
    assert await other.tickets.leave("b" * 64, b"4", NOW + 20, NOW + 2)
    assert await one.tickets.take_all(["b" * 64], NOW + 2) == {"b" * 64: b"4"}
