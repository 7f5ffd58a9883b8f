"""Standing grants: made by the person alone, used by one agent within what all of them have now, and dead when taken back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.identity.delegation import Delegated
from gateway.identity.directory import Person
from gateway.identity.standing import LONGEST_SECONDS
from gateway.state import grants as rows
from gateway.state import kills as kill_rows
from tests.identity.exchange_world import NOW, World, make_world, person

DAY = 24 * 3600
WANTED: dict[str, Any] = {"agent": "analyst", "scope": "erp.* a2a:erp", "ends": NOW + DAY}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await make_world(tmp_path)
    made.principal = person()
    yield made
    await made.state.close()


async def made(world: World, **changes: Any) -> str:
    answer = await world.api_call("POST", "/api/grants", WANTED | changes)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def refused(answer: httpx.Response, error: str = "invalid_grant") -> None:
    assert (answer.status_code, answer.json()["error"]) == (400, error), answer.text


async def test_an_agent_begins_work_for_a_person_who_is_away_with_the_groups_of_now(world: World) -> None:
    grant = await made(world)
    world.directory.people["paul"] = Person(frozenset({"buyers", "leads"}), active=True)
    said = world.said(await world.by_grant(grant))
    assert (said.subject, said.chain, said.grant) == ("user:corp/paul", ("agent:analyst",), grant)
    assert (said.groups, said.scope, said.assurance) == ({"buyers", "leads"}, ("a2a:erp", "erp.*"), "bearer")
    assert (said.ends, said.issued, said.path) == (NOW + 3600, NOW, (said.jti,))
    assert world.kinds() == ["grant.set", "identity.delegate"]
    assert world.entries[-1].fields["auth"]["grant"] == grant
    assert said.workflow != world.said(await world.by_grant(grant)).workflow


async def test_a_workflow_by_a_grant_never_outlasts_it(world: World) -> None:
    grant = await made(world, ends=NOW + 100)
    assert world.said(await world.by_grant(grant)).ends == NOW + 100
    world.clock.seconds += 100
    refused(await world.by_grant(grant))


async def test_the_scope_is_what_grant_agent_and_request_all_have(world: World) -> None:
    narrow = await made(world, agent="narrow", scope="erp.* crm.*")
    assert world.said(await world.by_grant(narrow, agent="narrow")).scope == ("erp.read",)
    grant = await made(world)
    assert world.said(await world.by_grant(grant, scope="erp.read mail.send")).scope == ("erp.read",)
    refused(await world.by_grant(grant, scope="mail.send"), "invalid_scope")


async def test_a_grant_is_for_one_agent_and_one_workflow_alone(world: World) -> None:
    grant = await made(world, definition="orders")
    refused(await world.by_grant(grant, agent="erp", workflow_definition="orders"))
    refused(await world.by_grant(grant))
    refused(await world.by_grant(grant, workflow_definition="order"))
    assert world.said(await world.by_grant(grant, workflow_definition="orders")).definition == "orders"
    refused(await world.by_grant("no-such-grant"))
    refused(await world.by_grant("x" * 500))
    refused(await world.post({"grant_type": "client_credentials"}, world.basic("analyst")), "unauthorized_client")


async def test_whoever_has_no_account_any_more_has_no_agent_either(world: World) -> None:
    grant = await made(world)
    token = (await world.by_grant(grant)).json()["access_token"]
    for broken in ("inactive", "gone", "down"):
        world.directory.people = {"paul": Person(frozenset({"buyers"}), active=False)} if broken == "inactive" else {}
        world.directory.down = broken == "down"
        refused(await world.by_grant(grant))
        refused(await world.renew(token), "invalid_request")


async def test_a_revoked_grant_begins_nothing_and_what_runs_by_it_is_killed(world: World) -> None:
    grant = await made(world)
    token = (await world.by_grant(grant)).json()["access_token"]
    child = (await world.child(token, "erp")).json()["access_token"]
    assert world.said(await world.renew(token)).grant == world.delegations.verify(child).grant == grant
    answer = await world.api_call("DELETE", f"/api/grants/{grant}")
    assert answer.status_code == 200
    assert answer.json()["revoked"]
    refused(await world.by_grant(grant))
    refused(await world.renew(token), "invalid_request")
    refused(await world.renew(child, agent="erp"), "invalid_request")
    assert world.kinds()[-5:-3] == ["grant.revoke", "identity.kill"]
    assert (await world.api_call("DELETE", f"/api/grants/{grant}")).status_code == 404


async def test_what_runs_by_a_revoked_grant_is_not_renewed_even_where_the_kill_was_lifted(world: World) -> None:
    grant = await made(world)
    token = (await world.by_grant(grant)).json()["access_token"]
    await world.standing.grants.revoke(grant, NOW)
    refused(await world.renew(token), "invalid_request")


async def test_where_no_kill_can_be_added_a_revoked_grant_still_begins_and_renews_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = await made(world)
    token = (await world.by_grant(grant)).json()["access_token"]
    monkeypatch.setattr(kill_rows, "MOST_OF_ONE_PERSON", 0)
    answer = await world.api_call("DELETE", f"/api/grants/{grant}")
    assert (answer.status_code, answer.json()["ended"]) == (200, False)
    refused(await world.by_grant(grant))
    refused(await world.renew(token), "invalid_request")


async def test_a_kill_of_the_person_the_grant_or_all_before_ends_what_a_grant_began(world: World) -> None:
    grant = await made(world)
    token = (await world.by_grant(grant)).json()["access_token"]
    await world.kill("grant", grant)
    refused(await world.by_grant(grant))
    refused(await world.renew(token), "invalid_request")


async def test_only_the_person_makes_a_grant_and_never_an_agent_for_itself(world: World) -> None:
    world.principal = person(actors=("agent:analyst",))
    assert (await world.api_call("POST", "/api/grants", WANTED)).status_code == 403
    assert (await world.api_call("GET", "/api/grants")).status_code == 403
    world.principal = None
    assert (await world.api_call("POST", "/api/grants", ["x" * 100])).status_code == 401
    assert world.kinds() == ["decision.deny", "decision.deny"]  # the agent's wishes; strangers are recorded where they are known


@pytest.mark.parametrize(
    "change",
    [
        {"agent": "nobody"},
        {"scope": ""},
        {"scope": "no such"},
        {"scope": "erp"},
        {"agent": "narrow", "scope": "crm.*"},
        {"ends": NOW},
        {"ends": NOW + LONGEST_SECONDS + 1},
        {"ends": True},
        {"ends": "tomorrow"},
        {"definition": "a\nb"},
        {"definition": "x" * 129},
        {"more": 1},
    ],
)
async def test_a_grant_that_cannot_be_is_refused_by_the_member_that_is_wrong(world: World, change: dict[str, Any]) -> None:
    answer = await world.api_call("POST", "/api/grants", WANTED | change)
    assert answer.status_code == 422
    assert answer.json()["instance"].removeprefix("body.") in {*change, "scope"}
    assert world.kinds() == []


async def test_a_person_whose_issuer_has_no_directory_makes_no_grant(world: World) -> None:
    world.principal = person()
    world.standing._directories = {}
    assert (await world.api_call("POST", "/api/grants", WANTED)).status_code == 422


async def test_people_see_and_take_back_their_own_and_nobody_elses(world: World) -> None:
    grant = await made(world)
    world.principal = person("mia")
    assert (await world.api_call("GET", "/api/grants")).json() == {"grants": []}
    assert (await world.api_call("DELETE", f"/api/grants/{grant}")).status_code == 403
    assert (await world.api_call("GET", "/api/grants?everybody=true")).status_code == 403
    world.principal = person()
    (shown,) = (await world.api_call("GET", "/api/grants")).json()["grants"]
    assert (shown["id"], shown["agent"], shown["scope"], shown["revoked"]) == (grant, "analyst", "a2a:erp erp.*", None)


async def test_an_administrator_sees_and_takes_back_those_of_their_tenant(world: World) -> None:
    grant = await made(world)
    world.principal = person("ann", "admins")
    assert [each["id"] for each in (await world.api_call("GET", "/api/grants?everybody=true")).json()["grants"]] == [grant]
    assert (await world.api_call("DELETE", f"/api/grants/{grant}")).status_code == 200
    refused(await world.by_grant(grant))
    assert (await world.api_call("GET", "/api/grants?everybody=true")).json() == {"grants": []}


async def test_a_person_has_so_many_grants_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST_OF_A_PERSON", 2)
    first = await made(world)
    await made(world)
    assert (await world.api_call("POST", "/api/grants", WANTED)).status_code == 503
    await world.api_call("DELETE", f"/api/grants/{first}")
    await made(world)


async def test_nothing_of_a_grant_counts_that_cannot_be_recorded(world: World) -> None:
    grant = await made(world)
    world.down = True
    assert (await world.api_call("POST", "/api/grants", WANTED)).status_code == 503
    assert (await world.by_grant(grant)).status_code == 503
    assert (await world.api_call("DELETE", f"/api/grants/{grant}")).status_code == 503
    world.down = False
    assert len((await world.api_call("GET", "/api/grants")).json()["grants"]) == 1


async def test_a_token_by_a_grant_says_so_and_the_claim_is_checked(world: World) -> None:
    said: Delegated = world.said(await world.by_grant(await made(world)))
    assert len(said.grant) == 36
