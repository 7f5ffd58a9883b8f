"""Whose task, whose conversation: the first claim stands, on every replica and after every restart."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state import Owner

PAUL = {"subject": "user:idp/paul", "tenant": "acme", "workflow": "wf-1", "at": 1_800_000_000_000_001}
MIA = {"subject": "user:idp/mia", "tenant": "acme", "workflow": "wf-2", "at": 1_800_000_000_000_002}


async def assert_not_owner(awaitable) -> None:
    with pytest.raises(Refused) as caught:
        await awaitable
    assert caught.value.code is Code.NOT_OWNER


async def test_the_first_claim_stands_and_another_persons_is_refused(open_state) -> None:
    state = await open_state()
    owner = await state.tasks.claim("erp", "t-1", "c-1", **PAUL)
    assert owner == Owner("acme", "user:idp/paul", "c-1", "wf-1", 1_800_000_000_000_001)
    assert await state.tasks.claim("erp", "t-1", "c-1", **(PAUL | {"at": 2, "workflow": "wf-9"})) == owner
    await assert_not_owner(state.tasks.claim("erp", "t-1", "c-1", **MIA))
    await assert_not_owner(state.tasks.claim("erp", "t-1", "c-1", **(PAUL | {"tenant": "other"})))
    assert await state.tasks.owner("erp", "t-1") == owner


async def test_a_claim_outlives_the_process_that_made_it(open_state) -> None:
    first = await open_state()
    await first.tasks.claim("erp", "t-1", "c-1", **PAUL)
    await first.close()
    second = await open_state()
    assert (await second.tasks.owner("erp", "t-1")).subject == "user:idp/paul"
    assert (await second.contexts.owner("erp", "c-1")).subject == "user:idp/paul"
    await assert_not_owner(second.tasks.claim("erp", "t-1", "", **MIA))


async def test_a_claim_on_one_replica_is_seen_on_another_at_once(open_state) -> None:
    one, other = await open_state(), await open_state()
    assert await other.tasks.owner("erp", "t-1") is None
    await one.tasks.claim("erp", "t-1", "c-1", **PAUL)
    assert (await other.tasks.owner("erp", "t-1")).subject == "user:idp/paul"
    await assert_not_owner(other.tasks.claim("erp", "t-1", "c-1", **MIA))


async def test_of_many_who_claim_at_once_on_two_replicas_exactly_one_wins(open_state) -> None:
    replicas = [await open_state(), await open_state()]
    people = [f"user:idp/{n}" for n in range(12)]

    async def claim(n: int, task: str) -> str | None:
        try:
            owner = await replicas[n % 2].tasks.claim("erp", task, f"context of {task}", people[n], "acme", f"wf-{n}", n)
        except Refused as refusal:
            return None if refusal.code is Code.NOT_OWNER else refusal.code
        return owner.subject

    for task in ("t-1", "t-2", "t-3"):
        outcomes = await asyncio.gather(*(claim(n, task) for n in range(len(people))))
        winners = {outcome for outcome in outcomes if outcome is not None}
        assert len(winners) == 1
        assert winners <= set(people)
        assert {(await replica.tasks.owner("erp", task)).subject for replica in replicas} == winners


async def test_a_task_in_somebody_elses_context_is_refused_and_nothing_of_it_stays(open_state) -> None:
    state = await open_state()
    await state.contexts.claim("erp", "c-1", **PAUL)
    await assert_not_owner(state.tasks.claim("erp", "t-1", "c-1", **MIA))
    assert await state.tasks.owner("erp", "t-1") is None


async def test_a_refused_task_does_not_leave_its_context_behind(open_state) -> None:
    state = await open_state()
    await state.tasks.claim("erp", "t-1", "", **PAUL)
    reader = await open_state()
    await assert_not_owner(reader.tasks.claim("erp", "t-1", "c-new", **MIA))
    assert await reader.contexts.owner("erp", "c-new") is None


async def test_agents_have_names_of_their_own(open_state) -> None:
    state = await open_state()
    await state.tasks.claim("erp", "t-1", "c-1", **PAUL)
    await state.tasks.claim("risk", "t-1", "c-1", **MIA)
    assert (await state.tasks.owner("erp", "t-1")).subject == "user:idp/paul"
    assert (await state.tasks.owner("risk", "t-1")).subject == "user:idp/mia"


async def test_a_context_is_claimed_as_a_task_is(open_state) -> None:
    state = await open_state()
    owner = await state.contexts.claim("erp", "c-1", **PAUL)
    assert await state.contexts.owner("erp", "c-1") == owner
    assert await state.contexts.claim("erp", "c-1", **PAUL) == owner
    await assert_not_owner(state.contexts.claim("erp", "c-1", **MIA))
    assert await state.contexts.owner("erp", "c-2") is None


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "x" * 513])
async def test_an_id_that_no_row_could_hold_belongs_to_nobody_and_cannot_be_claimed(open_state, name: str) -> None:
    state = await open_state()
    assert await state.tasks.owner("erp", name) is None
    assert await state.contexts.owner("erp", name) is None
    with pytest.raises(Refused) as caught:
        await state.tasks.claim("erp", name, "", **PAUL)
    assert caught.value.code is Code.INVALID_PARAMS


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(str.isprintable))
async def test_names_are_kept_to_the_letter(open_state, name: str) -> None:
    """Quotes, wildcards, look-alikes and letters of either case: no id is ever taken for another."""
    state = await open_state()
    subject = "user:idp/" + name.encode().hex()
    assert (await state.tasks.claim("erp", name, "", subject, "acme", "wf", 1)).subject == subject
    assert (await state.tasks.owner("erp", name)).subject == subject
    swapped = name.swapcase()
    if swapped != name:
        found = await state.tasks.owner("erp", swapped)
        assert found is None or found.subject != subject
    await state.close()


async def test_waiting_work_is_bounded_and_what_is_too_much_is_refused(open_state) -> None:
    state = await open_state()
    outcomes = await asyncio.gather(
        *(state.tasks.claim("erp", f"t-{n}", "", **PAUL) for n in range(1100)), return_exceptions=True
    )
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert refusals
    assert {refusal.code for refusal in refusals} == {Code.OVERLOADED}
    for n, outcome in enumerate(outcomes):  # whoever was told yes is the owner, durably
        if isinstance(outcome, Owner):
            assert await state.tasks.owner("erp", f"t-{n}") == outcome
    assert isinstance(await state.tasks.claim("erp", "afterwards", "", **PAUL), Owner)


async def test_a_claim_that_nobody_waits_for_any_more_harms_nothing(open_state) -> None:
    state = await open_state()
    claims = [asyncio.create_task(state.tasks.claim("erp", f"t-{n}", "", **PAUL)) for n in range(20)]
    await asyncio.sleep(0)
    for claim in claims:
        claim.cancel()
    await asyncio.gather(*claims, return_exceptions=True)
    assert (await state.tasks.claim("erp", "t-0", "", **PAUL)).subject == PAUL["subject"]


async def test_a_closed_store_refuses(open_state) -> None:
    state = await open_state()
    await state.close()
    await state.close()
    with pytest.raises(Refused) as caught:
        await state.tasks.claim("erp", "t-1", "", **PAUL)
    assert caught.value.code is Code.INTERNAL_ERROR


# --- words of one's own


async def test_a_word_means_a_new_context_of_that_person_at_that_agent(open_state) -> None:
    state = await open_state()
    paul = await state.contexts.name("erp", "our-talk", **PAUL)
    assert paul.word == "our-talk"
    assert paul.context_id != "our-talk"
    assert await state.contexts.name("erp", "our-talk", **(PAUL | {"workflow": "wf-9", "at": 5})) == paul
    others = [
        await state.contexts.name("erp", "our-talk", **MIA),
        await state.contexts.name("risk", "our-talk", **PAUL),
        await state.contexts.name("erp", "our-talk", **(PAUL | {"tenant": "other"})),
        await state.contexts.name("erp", paul.context_id, **MIA),
    ]
    assert len({owner.context_id for owner in (paul, *others)}) == 5
    reader = await open_state()
    assert await reader.contexts.meant("erp", "our-talk", "acme", PAUL["subject"]) == paul
    assert await reader.contexts.meant("erp", paul.context_id, "acme", PAUL["subject"]) == paul
    assert await reader.contexts.meant("erp", paul.context_id, "other", PAUL["subject"]) is None
    assert await reader.contexts.claim("erp", paul.context_id, **PAUL) == paul
    await assert_not_owner(reader.contexts.claim("erp", paul.context_id, **MIA))


async def test_what_was_claimed_is_what_its_owner_means_and_nobody_else(open_state) -> None:
    state = await open_state()
    claimed = await state.contexts.claim("erp", "c-1", **PAUL)
    assert await state.contexts.name("erp", "c-1", **PAUL) == claimed
    assert (await state.contexts.name("erp", "c-1", **MIA)).context_id != "c-1"
    assert await state.contexts.meant("erp", "c-2", "acme", PAUL["subject"]) is None


async def test_of_first_uses_at_once_on_two_replicas_one_stands(open_state) -> None:
    replicas = [await open_state(), await open_state()]
    for word in ("w-1", "w-2", "w-3"):
        owners = await asyncio.gather(*(replicas[n % 2].contexts.name("erp", word, **PAUL) for n in range(12)))
        assert len({owner.context_id for owner in owners}) == 1
        fresh = await open_state()
        assert await fresh.contexts.meant("erp", word, "acme", PAUL["subject"]) == owners[0]


async def test_words_are_told_to_their_owner_alone(open_state) -> None:
    state = await open_state()
    named = (await state.contexts.name("erp", "our-talk", **PAUL)).context_id
    await state.tasks.claim("erp", "t-1", "c-1", **PAUL)
    for each in (state, await open_state()):
        assert await each.contexts.words("erp", [named, "c-1", "never"], "acme", PAUL["subject"]) == {named: "our-talk"}
        assert await each.contexts.words("erp", [named, "c-1"], "acme", MIA["subject"]) == {}
        assert await each.contexts.words("risk", [named], "acme", PAUL["subject"]) == {}


async def test_the_words_of_somebody_who_is_erased_are_gone(open_state) -> None:
    state = await open_state()
    named = await state.contexts.name("erp", "our-talk", **PAUL)
    mias = await state.contexts.name("erp", "our-talk", **MIA)
    assert await state.people.erase("tasks", PAUL["subject"]) == 1
    reader = await open_state()
    assert await reader.contexts.owner("erp", named.context_id) is None
    assert await reader.contexts.meant("erp", "our-talk", "acme", PAUL["subject"]) is None
    assert await reader.contexts.meant("erp", "our-talk", "acme", MIA["subject"]) == mias
    assert (await reader.contexts.name("erp", "our-talk", **PAUL)).context_id != named.context_id
