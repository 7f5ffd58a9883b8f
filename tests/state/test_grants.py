"""Standing grants at rest, on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state.grants import KEPT_SECONDS, MOST_OF_A_PERSON, Grant

NOW = 1_800_000_000
GRANT = Grant("g-0", "acme", "user:idp/paul", "clerk", "erp.*", "", NOW + 3600, NOW)


async def test_a_grant_is_there_after_a_restart_until_it_is_taken_back(open_state) -> None:
    one, other = await open_state(), await open_state()
    await one.grants.add(GRANT)
    assert await other.grants.get("g-0") == GRANT
    assert await other.grants.revoke("g-0", NOW + 1)
    assert not await one.grants.revoke("g-0", NOW + 2)
    assert await one.grants.get("g-0") == replace(GRANT, revoked_at=NOW + 1)


async def test_a_person_has_so_many_in_force_and_what_is_over_goes_a_day_later(open_state) -> None:
    grants = (await open_state()).grants
    for n in range(MOST_OF_A_PERSON):
        await grants.add(replace(GRANT, id=f"g-{n}"))
    with pytest.raises(Refused) as caught:
        await grants.add(replace(GRANT, id="g-more"))
    assert caught.value.code is Code.OVERLOADED
    await grants.add(replace(GRANT, id="g-mia", subject="user:idp/mia"))
    await grants.revoke("g-0", NOW + 10)
    await grants.add(replace(GRANT, id="g-next", created_at=NOW + 10))
    assert len(await grants.of("acme", "user:idp/paul")) == MOST_OF_A_PERSON + 1
    later = NOW + 3601 + KEPT_SECONDS
    await grants.add(replace(GRANT, id="g-later", created_at=later, ends=later + 3600))
    assert [each.id for each in await grants.of("acme", "user:idp/paul")] == ["g-later"]
    assert await grants.get("g-mia") is not None  # nobody's but the person's own
