"""The outbox: what was put is claimed by one replica at a time, until it is told."""

from __future__ import annotations

import asyncio

import pytest

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state.outbox import Notice, Outbox

NOW = 1_800_000_000_000_000
LEASE = NOW + 60_000_000
PAUL, FIONA = "user:dev/paul", "user:dev/fiona"


def notices(count: int, receiver: str = "security") -> list[Notice]:
    return [Notice(f"n-{n:03}.{receiver}", receiver, b"sealed", 0, NOW + n, LEASE, PAUL) for n in range(count)]


async def test_two_replicas_that_claim_at_once_share_what_is_due_and_get_nothing_twice(open_state) -> None:
    one, other = (await open_state()).outbox, (await open_state()).outbox
    await one.put(notices(20))
    claimed = await asyncio.gather(*(box.claim(["security"], 5, NOW + 100, LEASE) for box in (one, other) * 3))
    ids = [notice.id for found in claimed for notice in found]
    assert len(ids) == len(set(ids))
    while more := await one.claim(["security"], 5, NOW + 100, LEASE):  # what another had locked at that moment
        ids += [notice.id for notice in more]
    assert sorted(ids) == [notice.id for notice in notices(20)]


async def test_what_was_claimed_and_not_told_is_due_again_when_the_claim_ends_and_after_a_restart(open_state) -> None:
    first = await open_state()
    await first.outbox.put(notices(2))
    assert len(await first.outbox.claim(["security"], 9, NOW + 1, LEASE)) == 2
    await first.close()
    box = (await open_state()).outbox
    assert await box.claim(["security"], 9, LEASE - 1, LEASE) == []
    again = await box.claim(["security"], 9, LEASE, LEASE + 1)
    assert [(notice.id, notice.attempts, notice.sealed) for notice in again] == [(n.id, 2, b"sealed") for n in notices(2)]
    await box.told(again[0].id)
    await box.again(again[1].id, LEASE + 5)
    assert await box.claim(["security"], 9, LEASE + 4, LEASE + 60) == []
    assert [notice.id for notice in await box.claim(["security"], 9, LEASE + 5, LEASE + 60)] == [again[1].id]


async def test_nobody_claims_what_is_for_a_receiver_that_they_do_not_know(open_state) -> None:
    box = (await open_state()).outbox
    await box.put(notices(1))
    assert await box.claim(["others"], 9, NOW + 1, LEASE) == []


async def test_the_same_id_is_one_notice_and_too_much_for_one_receiver_is_refused(open_state) -> None:
    state = await open_state()
    box = Outbox(state._worker, most=2)
    await box.put(notices(1))
    await box.put(notices(1))
    await box.put(notices(2)[1:])
    with pytest.raises(Refused) as refused:
        await box.put([Notice("n-9.other", "other", b"", 0, NOW, LEASE), Notice("n-9.security", "security", b"", 0, NOW, LEASE)])
    assert refused.value.code is Code.OVERLOADED
    assert await box.claim(["other"], 9, NOW + 1, LEASE) == []  # all or nothing
    assert len(await box.claim(["security"], 9, NOW + 1, LEASE)) == 2


async def test_what_waits_to_be_told_of_a_person_is_erased_with_them_and_what_is_told_of_others_is_not(open_state) -> None:
    state = await open_state()
    await state.outbox.put([*notices(2), Notice("f.security", "security", b"sealed", 0, NOW, LEASE, FIONA)])
    assert await state.people.erase("notices", PAUL) == 2
    left = await state.outbox.claim(["security"], 9, NOW + 100, LEASE)
    assert [(notice.id, notice.subject, notice.until) for notice in left] == [("f.security", FIONA, LEASE)]
    assert await state.people.erase("notices", PAUL) == 0
