"""What was given in one tenant does not outlive the settings that put the person's issuer there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gateway.identity.access import AccessTokens
from gateway.identity.standing import Wanted
from tests.identity.exchange_world import NOW, make_world, person


async def test_neither_a_renewal_nor_a_grant_goes_on_in_a_tenant_that_the_persons_issuer_has_left(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    token = await world.begun()
    grant = world.standing.made(Wanted("analyst", "erp.read", NOW + 3600), person("paul", "buyers"))
    await world.standing.grants.add(grant)
    assert (await world.renew(token)).status_code == (await world.by_grant(grant.id)).status_code == 200
    moved = world.idp.settings().model_copy(update={"tenant": "other"})
    people = AccessTokens([moved], world.agents, None, world.clock.monotonic, tenant="acme")
    world.exchange._parts = replace(world.exchange._parts, people=people)  # as after a start with other settings
    for answer in (await world.renew(token), await world.child(token, "erp"), await world.by_grant(grant.id)):
        assert answer.status_code == 400
        assert "is not good here" in answer.json()["error_description"]
