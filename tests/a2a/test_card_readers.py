"""Who reads what: skills by policy, the extended card, the directory; each answer one caller's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from a2a.client.client import ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.types import a2a_pb2 as pb

from gateway.model import wall_clock
from tests.a2a.agents import Request, scripted
from tests.a2a.calls import metadata, stub
from tests.a2a.carded import PATH, PLAIN, Owner, by_published_keys, carded, resolved
from tests.a2a.world import DENY, HIDDEN, World, gateway, reference_agent

EXTENDED = "/a2a/ref/rest/extendedAgentCard"
V1 = {"a2a-version": "1.0"}


@pytest.fixture(scope="module")
def extended_url() -> Iterator[str]:
    with reference_agent("--extended", "--auth") as url:
        yield url


@pytest.fixture
async def extended(tmp_path: Path, extended_url: str) -> AsyncIterator[World]:
    async with gateway(tmp_path, {"ref": extended_url}) as running:
        yield running


def skills(card: Any) -> list[str]:
    return [skill["id"] for skill in card.get("skills", [])]


async def test_each_caller_reads_the_skills_that_policy_shows_them_under_a_signature_of_its_own(world: World) -> None:
    world.verdicts["user:dev/mia", "skill:ref/tck"] = HIDDEN
    whole, part = await resolved(world, "paul"), await resolved(world, "mia")
    assert [skill.id for skill in whole.skills] == ["tck", "echo"]
    assert [skill.id for skill in part.skills] == ["echo"]


async def test_a_caller_who_is_told_of_no_skill_reads_a_card_that_still_verifies(world: World) -> None:
    world.verdicts["*", "skill:ref/tck"] = world.verdicts["*", "skill:ref/echo"] = HIDDEN
    assert list((await resolved(world, "mia")).skills) == []


async def test_what_one_caller_has_is_not_what_another_one_has_not_changed(world: World) -> None:
    world.verdicts["user:dev/mia", "skill:ref/tck"] = HIDDEN
    paul, mia = [(await world.client.get(PATH, headers=world.token(who))) for who in ("paul", "mia")]
    assert paul.headers["etag"] != mia.headers["etag"]
    again = await world.client.get(PATH, headers=world.token("mia") | {"if-none-match": paul.headers["etag"]})
    assert (again.status_code, skills(again.json())) == (200, ["echo"])
    same = await world.client.get(PATH, headers=world.token("mia") | {"if-none-match": mia.headers["etag"]})
    assert same.status_code == 304
    assert {answer.headers["cache-control"] for answer in (paul, mia, same)} == {"private, max-age=60"}
    assert {answer.headers["vary"] for answer in (paul, mia, same)} == {"Authorization"}


async def test_a_skill_that_is_taken_away_is_gone_from_the_next_answer(world: World) -> None:
    assert skills((await world.client.get(PATH, headers=world.token("paul"))).json()) == ["tck", "echo"]
    world.verdicts["*", "skill:ref/echo"] = DENY
    assert skills((await world.client.get(PATH, headers=world.token("paul"))).json()) == ["tck"]


# --- the extended card


async def test_the_extended_card_is_asked_for_as_the_callers_own_call_and_shown_like_the_public_one(extended: World) -> None:
    answer = await extended.client.get(EXTENDED, headers=extended.token("paul") | V1)
    card = answer.json()
    assert skills(card) == ["tck", "echo", "secret"]
    assert {each["url"] for each in card["supportedInterfaces"]} == {f"{extended.url}/a2a/ref/", f"{extended.url}/a2a/ref/rest"}
    assert (answer.headers["cache-control"], answer.headers["vary"]) == ("private, max-age=60", "Authorization")
    said = (await extended.rpc("paul", "GetExtendedAgentCard", {})).json()["result"]
    assert said == card
    start = next(e for e in extended.ledger.entries if e.fields.get("method") == "GetExtendedAgentCard")
    assert (start.kind, start.subject, start.fields["resource"]) == ("call.start", "user:dev/paul", "a2a:ref")


async def test_the_official_client_reads_and_verifies_the_extended_card(extended: World) -> None:
    keys = extended.delegations.ring.jwks()["keys"]
    async with httpx.AsyncClient(headers=extended.token("paul"), timeout=30, trust_env=False, verify=False) as http:
        client = await ClientFactory(ClientConfig(httpx_client=http)).create_from_url(f"{extended.url}/a2a/ref/")
        card = await client.get_extended_agent_card(
            pb.GetExtendedAgentCardRequest(), signature_verifier=by_published_keys(extended, keys)
        )
    assert [skill.id for skill in card.skills] == ["tck", "echo", "secret"]


async def test_skills_of_the_extended_card_are_shown_by_policy_too(extended: World) -> None:
    extended.verdicts["user:dev/mia", "skill:ref/secret"] = HIDDEN
    answer = await extended.client.get(EXTENDED, headers=extended.token("mia") | V1)
    assert skills(answer.json()) == ["tck", "echo"]


@pytest.mark.parametrize("way", ["rest", "rpc"])
async def test_nobody_reads_the_extended_card_without_a_credential(extended: World, way: str) -> None:
    before = len(extended.ledger.entries)
    if way == "rest":
        answer = await extended.client.get(EXTENDED, headers=V1)
    else:
        answer = await extended.rpc(None, "GetExtendedAgentCard", {})
    assert answer.status_code == 401
    assert "secret" not in answer.text
    assert [entry.kind for entry in extended.ledger.entries[before:]] == ["auth.refused"]


async def test_who_may_not_send_to_the_agent_reads_no_extended_card(extended: World) -> None:
    extended.verdicts["user:dev/mia", "a2a:ref"] = DENY
    answer = await extended.client.get(EXTENDED, headers=extended.token("mia") | V1)
    assert (answer.status_code, "secret" in answer.text) == (403, False)


async def test_the_public_card_says_that_there_is_an_extended_one_where_the_agent_has_it(extended: World, world: World) -> None:
    assert (await resolved(extended, "paul")).capabilities.extended_agent_card is True
    assert (await resolved(world, "paul")).capabilities.extended_agent_card is False


async def test_the_public_card_does_not_offer_an_extended_one_that_the_caller_may_not_ask_for(extended: World) -> None:
    by_resource = extended.decide

    def decide(request: Any) -> Any:
        method = request.context["ctx"].get("method")
        return DENY if method == "GetExtendedAgentCard" and request.subject == "user:dev/mia" else by_resource(request)

    extended.decide = decide  # type: ignore[method-assign]  # policy as the test has it
    assert (await resolved(extended, "mia")).capabilities.extended_agent_card is False
    assert (await resolved(extended, "paul")).capabilities.extended_agent_card is True


async def test_an_extended_card_is_held_against_the_pinned_keys_as_the_public_one_is(tmp_path: Path) -> None:
    owner = Owner()
    more = PLAIN | {"skills": [*PLAIN["skills"], {"id": "x", "name": "X", "description": "X", "tags": ["x"]}]}
    public = owner.signed(PLAIN | {"capabilities": {"extendedAgentCard": True}})
    async with carded(public, owner.signed(more)) as (url, agent), gateway(
        tmp_path, {"ref": url}, terms=owner.pinned(tmp_path)
    ) as world:  # fmt: skip
        assert skills((await world.rpc("paul", "GetExtendedAgentCard", {})).json()["result"]) == ["buy", "pay", "x"]
        agent.extended = more | {"description": "forged", "signatures": owner.signed(more)["signatures"]}
        answer = await world.rpc("paul", "GetExtendedAgentCard", {})
        assert answer.json()["error"]["code"] == -32006
        assert "forged" not in answer.text


async def test_over_grpc_the_extended_card_is_shown_by_the_same_rules_and_signed_too(tmp_path: Path, extended_url: str) -> None:
    async with gateway(tmp_path, {"ref": extended_url}, grpc=False) as world, stub(world) as client:
        world.verdicts["user:dev/mia", "skill:ref/secret"] = HIDDEN
        asked = pb.GetExtendedAgentCardRequest()
        cards = {who: await client.GetExtendedAgentCard(asked, metadata=metadata(world, who)) for who in ("paul", "mia")}
        verify = by_published_keys(world, world.delegations.ring.jwks()["keys"])
        for card in cards.values():
            verify(card)
        assert {who: [skill.id for skill in card.skills] for who, card in cards.items()} == {
            "paul": ["tck", "echo", "secret"],
            "mia": ["tck", "echo"],
        }


async def test_an_agent_without_an_extended_card_says_so_itself(world: World) -> None:
    error = (await world.rpc("paul", "GetExtendedAgentCard", {})).json()["error"]
    assert error["code"] in {-32004, -32007}


# --- the directory


async def directory(world: World, person: str = "paul", **headers: str) -> dict[str, Any]:
    answer = await world.client.get("/a2a/", headers=world.token(person) | headers)
    assert answer.status_code == 200
    return {entry["id"]: entry for entry in answer.json()["agents"]}


async def test_the_directory_lists_every_agent_that_the_caller_may_use_with_its_card_and_ways_in(world: World) -> None:
    found = await directory(world)
    assert list(found) == ["other", "ref"]
    assert found["ref"] == {
        "id": "ref",
        "status": "current",
        "name": "Reference agent",
        "description": "a2a-sdk reference agent for gateway tests",
        "version": "1.0.0",
        "cardUrl": f"{world.url}/a2a/ref/.well-known/agent-card.json",
        "supportedInterfaces": [
            {"url": f"{world.url}/a2a/ref/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
            {"url": f"{world.url}/a2a/ref/rest", "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0"},
        ],
    }
    assert (await world.client.get(found["ref"]["cardUrl"], headers=world.token("paul"))).json()["name"] == "Reference agent"


async def test_an_agent_that_the_caller_may_not_use_is_not_there_whether_or_not_it_may_know_of_it(world: World) -> None:
    world.verdicts["user:dev/mia", "a2a:ref"] = HIDDEN
    assert list(await directory(world, "mia")) == ["other"]
    world.verdicts["user:dev/mia", "a2a:other"] = DENY
    assert await directory(world, "mia") == {}
    assert list(await directory(world)) == ["other", "ref"]


async def test_the_directory_is_a_call_like_any_other(world: World) -> None:
    answer = await world.client.get("/a2a/")
    assert answer.status_code == 401
    await directory(world)
    start, end = (entry for entry in world.ledger.entries if entry.kind in {"call.start", "call.end"})
    said = {name: start.fields[name] for name in ("method", "target", "action", "resource")}
    assert said == {"method": "ListAgents", "target": "", "action": "list", "resource": "a2a:*"}
    assert end.fields["outcome"]["status"] == "ok"
    world.verdicts["user:dev/mia", "a2a:*"] = DENY
    assert (await world.client.get("/a2a/", headers=world.token("mia"))).status_code == 403


async def test_a_directory_that_has_not_changed_for_this_caller_is_not_sent_again(world: World) -> None:
    first = await world.client.get("/a2a/", headers=world.token("paul"))
    assert (first.headers["cache-control"], first.headers["vary"]) == ("private, max-age=60", "Authorization")
    tagged = {"if-none-match": first.headers["etag"]}
    assert (await world.client.get("/a2a/", headers=world.token("paul") | tagged)).status_code == 304
    world.verdicts["user:dev/mia", "a2a:ref"] = HIDDEN
    assert (await world.client.get("/a2a/", headers=world.token("mia") | tagged)).status_code == 200


async def test_an_agent_that_is_down_is_marked_and_keeps_no_other_one_out(tmp_path: Path) -> None:
    async with carded(PLAIN) as (url, agent), gateway(tmp_path, {"up": url, "gone": "http://127.0.0.1:1"}) as world:
        found = await directory(world)
        assert (found["up"]["status"], found["up"]["name"]) == ("current", "Buyer")
        assert found["gone"] == {
            "id": "gone",
            "status": "unavailable",
            "cardUrl": f"{world.url}/a2a/gone/.well-known/agent-card.json",
            "supportedInterfaces": found["gone"]["supportedInterfaces"],
        }
        assert agent.calls == []


async def test_an_agent_that_went_away_is_listed_with_its_last_card_for_an_hour(tmp_path: Path) -> None:
    late = [0]
    async with carded(PLAIN) as (url, agent), gateway(
        tmp_path, {"ref": url}, card_clock=lambda: wall_clock() + late[0] * 1_000_000
    ) as world:  # fmt: skip
        assert (await directory(world))["ref"]["status"] == "current"
        agent.down, late[0] = True, 61
        away = (await directory(world))["ref"]
        assert (away["status"], away["name"]) == ("last-known", "Buyer")
        agent.down, late[0] = False, 122
        assert (await directory(world))["ref"]["status"] == "current"
        agent.down, late[0] = True, 122 + 3700
        assert (await directory(world))["ref"]["status"] == "unavailable"


async def test_an_agent_that_does_not_answer_in_time_keeps_no_other_one_waiting(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def silent(request: Request) -> None:
        await go.wait()
        await request.reply(json.dumps(PLAIN).encode())

    async with scripted(silent) as (slow, _), carded(PLAIN) as (url, _), gateway(
        tmp_path, {"slow": slow, "up": url}
    ) as world:  # fmt: skip
        assert {name: entry["status"] for name, entry in (await directory(world)).items()} == {
            "slow": "unavailable",
            "up": "current",
        }
        go.set()
        assert (await world.client.get("/a2a/slow/.well-known/agent-card.json", headers=world.token("paul"))).status_code == 200


async def test_an_agent_whose_card_is_refused_is_in_the_directory_without_a_word_of_it(tmp_path: Path) -> None:
    async with carded(PLAIN) as (url, _), gateway(tmp_path, {"ref": url}, terms=Owner().pinned(tmp_path)) as world:
        found = await directory(world)
        assert (found["ref"]["status"], "name" in found["ref"]) == ("unavailable", False)


async def test_no_other_path_and_no_other_verb_is_the_directory(world: World) -> None:
    for path in ("/a2a/Ref", "/a2a/..", "/a2a/%2e", "/a2a//"):
        answer = await world.client.get(path, headers=world.token("paul"))
        assert answer.status_code in {404, 405}, path
        assert "agents" not in answer.text
    assert "agents" not in (await world.client.post("/a2a/", headers=world.token("paul"), content=b"{}")).text


async def test_long_texts_of_an_agent_are_cut_in_the_directory(tmp_path: Path) -> None:
    long = PLAIN | {"description": "x" * 900_000, "name": "y" * 5_000}  # and are read without trying every way to read them
    async with carded(long) as (url, _), gateway(tmp_path, {"ref": url}) as world:
        found = await directory(world)
        assert (len(found["ref"]["description"]), len(found["ref"]["name"])) == (1000, 200)
