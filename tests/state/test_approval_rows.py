"""Parked calls in the store: one open row a call, ended once, forgotten late, erased with their person."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gateway.model import Refused, new_id
from gateway.reasons import Code
from gateway.state import approvals as rows
from gateway.state.approvals import Parked, Yes
from gateway.state.approvals import State as Standing
from gateway.state.store import State

NOW = 1_800_000_000_000_000
LATER = NOW + 3_600_000_000


def parked(digest: str, at: int = NOW, subject: str = "user:dev/paul") -> Parked:
    return Parked(
        id=new_id(at), tenant="acme", subject=subject, workflow="wf-1", digest=digest, bundle="sha256:0", resource="erp.pay",
        state="open", noted=False, created_at=at, expires_at=LATER, sealed=b"sealed",
    )  # fmt: skip


@pytest.fixture
async def state(url: str) -> AsyncIterator[State]:
    opened = await asyncio.to_thread(State.open, url)
    yield opened
    await opened.close()


async def test_equal_calls_are_one_row_however_many_park_at_once(state: State) -> None:
    found = await asyncio.gather(*(state.approvals.park(parked("sha256:1")) for _ in range(20)))
    assert len({row.id for row in found}) == 1
    assert (await state.approvals.park(parked("sha256:2"))).id != found[0].id


async def test_of_many_that_use_or_deny_one_a_single_one_is_told_so(state: State) -> None:
    row = await state.approvals.park(parked("sha256:1"))
    ends = [Standing.USED, Standing.DENIED] * 10
    assert sum(await asyncio.gather(*(state.approvals.end(row.id, each, NOW + 1, "call") for each in ends))) == 1
    assert not await state.approvals.grant(row.id, Yes("user:dev/ann", NOW + 2, b"yes"))


async def test_nothing_is_said_to_one_whose_time_is_over(state: State) -> None:
    row = await state.approvals.park(parked("sha256:1"))
    assert not await state.approvals.end(row.id, Standing.USED, LATER)
    assert not await state.approvals.grant(row.id, Yes("user:dev/ann", LATER, b"yes"))
    again = await state.approvals.park(replace(parked("sha256:1", LATER + 1), expires_at=LATER + 10))
    assert again.id != row.id


async def test_a_denied_call_stays_denied_until_its_time_is_over(state: State) -> None:
    row = await state.approvals.park(parked("sha256:1"))
    assert await state.approvals.end(row.id, Standing.DENIED, NOW + 1)
    assert (await state.approvals.park(parked("sha256:1", NOW + 2))).state == "denied"


async def test_a_second_yes_of_the_same_person_takes_the_place_of_the_first(state: State) -> None:
    row = await state.approvals.park(parked("sha256:1"))
    for at in (1, 2):
        assert await state.approvals.grant(row.id, Yes("user:dev/ann", NOW + at, b"%d" % at))
    assert await state.approvals.grants(row.id) == [Yes("user:dev/ann", NOW + 2, b"2")]


async def test_of_one_person_so_many_wait_and_no_more(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST_OPEN", 3)
    for number in range(3):
        await state.approvals.park(parked(f"sha256:{number}"))
    with pytest.raises(Refused) as refused:
        await state.approvals.park(parked("sha256:9"))
    assert refused.value.code is Code.OVERLOADED
    await state.approvals.park(parked("sha256:9", subject="user:dev/mia"))  # others are not in their way


async def test_what_expired_is_told_until_it_is_noted_and_forgotten_long_after(state: State) -> None:
    row = await state.approvals.park(parked("sha256:1"))
    assert await state.approvals.sweep(NOW) == []
    for _ in range(2):
        assert [each.id for each in await state.approvals.sweep(LATER)] == [row.id]
    await state.approvals.noted(row.id, Standing.EXPIRED)
    assert await state.approvals.sweep(LATER) == []
    await state.approvals.sweep(LATER + rows.KEPT_US + 1)
    assert await state.approvals.get(row.id) is None


async def test_a_person_is_erased_with_what_waits_for_them_and_what_they_said_yes_to(state: State) -> None:
    mine, theirs = (
        await state.approvals.park(parked("sha256:1")),
        await state.approvals.park(parked("sha256:2", subject="user:dev/mia")),
    )
    await state.approvals.grant(theirs.id, Yes("user:dev/paul", NOW + 1, b"yes"))
    assert await state.people.erase("approvals", "user:dev/paul") == 2
    assert await state.approvals.get(mine.id) is None
    assert await state.approvals.grants(theirs.id) == []
