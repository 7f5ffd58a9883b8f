"""People's tokens in the store: seen by every replica, gone with their time, replaced by the workflow's newer one."""

from __future__ import annotations

NOW = 1_800_000_000


async def test_what_one_replica_keeps_another_finds_also_after_a_restart(open_state) -> None:
    one, other = await open_state(), await open_state()
    await one.subject_tokens.keep("wf-1", b"sealed", NOW + 60, NOW)
    await one.close()
    for state in (other, await open_state()):
        assert await state.subject_tokens.get("wf-1", NOW) == b"sealed"
        assert await state.subject_tokens.get("wf-2", NOW) is None


async def test_a_newer_token_of_the_workflow_takes_its_place(open_state) -> None:
    state = await open_state()
    await state.subject_tokens.keep("wf-1", b"old", NOW + 60, NOW)
    await state.subject_tokens.keep("wf-1", b"new", NOW + 90, NOW)
    assert await state.subject_tokens.get("wf-1", NOW + 70) == b"new"


async def test_what_has_ended_is_not_given_out_and_goes_with_the_next(open_state) -> None:
    state = await open_state()
    await state.subject_tokens.keep("wf-1", b"sealed", NOW + 60, NOW)
    assert await state.subject_tokens.get("wf-1", NOW + 60) is None
    await state.subject_tokens.keep("wf-2", b"other", NOW + 200, NOW + 61)
    assert await state.subject_tokens.get("wf-1", NOW) is None  # not hidden: gone
    assert await state.subject_tokens.get("wf-2", NOW) == b"other"


async def test_a_workflow_that_is_over_is_forgotten(open_state) -> None:
    state = await open_state()
    await state.subject_tokens.keep("wf-1", b"sealed", NOW + 60, NOW)
    await state.subject_tokens.drop("wf-1")
    assert await state.subject_tokens.get("wf-1", NOW) is None
