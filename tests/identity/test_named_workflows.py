"""A workflow that is begun by a definition's name is held to it through every token that comes of it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.identity.exchange_world import ORDERS, World, make_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await make_world(tmp_path)
    yield made
    await made.state.close()


async def test_the_name_is_in_the_record_and_in_every_token_that_comes_of_it(world: World) -> None:
    answer = await world.start(workflow_definition="orders")
    assert world.said(answer).definition == "orders"
    assert world.entries[-1].fields["definition"] == "orders"
    token = answer.json()["access_token"]
    assert world.said(await world.renew(token)).definition == "orders"
    assert world.said(await world.child(token, "erp")).definition == "orders"


async def test_a_workflow_that_names_nothing_is_held_to_nothing_by_name(world: World) -> None:
    answer = await world.start()
    assert world.said(answer).definition == ""
    assert "definition" not in world.entries[-1].fields


async def test_a_digest_names_the_very_text_of_a_definition(world: World) -> None:
    digest = f"sha256:{hashlib.sha256(ORDERS.encode()).hexdigest()}"
    assert world.said(await world.start(workflow_definition=digest)).definition == "orders"


@pytest.mark.parametrize("name", ["order", "ORDERS", "sha256:" + "0" * 64, "a" * 5000, "orders/../x"])
async def test_a_name_that_policy_does_not_know_begins_nothing(world: World, name: str) -> None:
    answer = await world.start(workflow_definition=name)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert answer.json()["error_description"] == "policy knows no such workflow definition"
    assert [entry.fields["refused"]["code"] for entry in world.entries] == ["workflow-unknown"]


async def test_handing_on_to_a_part_of_oneself_is_no_way_around_who_may_call_whom(world: World) -> None:
    token = (await world.start(workflow_definition="orders")).json()["access_token"]
    child = (await world.child(token, "erp")).json()["access_token"]
    refused = await world.child(child, "narrow", agent="erp")
    assert refused.status_code == 400, refused.text
    entry = world.entries[-1]
    assert (entry.kind, entry.fields["refused"]["code"]) == ("decision.deny", "not-in-workflow")
    assert entry.subject == "user:corp/paul"
    assert "agent:analyst alone sends to agents" in entry.fields["refused"]["detail"]


async def test_handing_on_draws_on_a_budget_as_a_message_would(world: World) -> None:
    token = (await world.start(workflow_definition="orders")).json()["access_token"]
    assert (await world.child(token, "erp")).status_code == 200
    assert (await world.child(token, "erp")).status_code == 400
    assert [entry.fields.get("refused", {}).get("code") for entry in world.entries] == [None, None, "budget-spent"]
    other = (await world.start(workflow_definition="orders")).json()["access_token"]
    assert (await world.child(other, "erp")).status_code == 200
