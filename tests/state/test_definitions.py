"""What was seen first: the first word stands, on every replica and after every restart."""

from __future__ import annotations

import asyncio

from gateway.state.definitions import First, Seen

READ = ("erp", "tool", "read")


def first(number: int) -> First:
    return First(f"sha256:{number}", f'{{"name": "read", "n": {number}}}', number)


async def test_of_many_who_pin_at_once_on_two_replicas_one_word_stands_for_all(open_state) -> None:
    replicas = [await open_state(), await open_state()]
    pinned = await asyncio.gather(*(replicas[n % 2].definitions.pin({READ: first(n)}) for n in range(10)))
    (stands,) = {rows[READ] for rows in pinned}
    assert {(await each.definitions.get(READ)) for each in replicas} == {stands}
    again = await open_state()
    assert await again.definitions.of(["erp", "crm"]) == {READ: stands}
    found = await again.definitions.first(READ)
    assert found is not None
    assert found.digest == stands.digest
    assert await again.definitions.firsts("erp") == {READ[1:]: found}


async def test_a_pin_is_never_changed_and_what_is_held_back_is_noted_beside(open_state) -> None:
    state = await open_state()
    await state.definitions.pin({READ: first(1)})
    assert await state.definitions.unnoted({READ: "sha256:2"}) == {READ}
    await state.definitions.hold({READ: "sha256:2"}, 5)
    assert await state.definitions.unnoted({READ: "sha256:2"}) == frozenset()
    assert await state.definitions.pin({READ: first(2)}) == {READ: Seen("sha256:1", "sha256:2")}
    await state.definitions.hold({READ: ""}, 6)
    assert await state.definitions.get(READ) == Seen("sha256:1", "")


async def test_what_was_only_held_back_can_be_pinned_later(open_state) -> None:
    state = await open_state()
    odd = ("erp", "instructions@old", "")
    await state.definitions.hold({odd: "sha256:9"}, 5)
    assert await state.definitions.get(odd) == Seen("", "sha256:9")
    assert await state.definitions.firsts("erp") == {}
    assert await state.definitions.pin({odd: first(1)}) == {odd: Seen("sha256:1", "")}
    assert await state.definitions.get(("erp", "tool", "\u202e" * 256)) is None
