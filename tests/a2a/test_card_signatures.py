"""Signatures of cards: the agent's count by pinned keys alone, and the gateway's own stand in their place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from a2a.types import a2a_pb2 as pb
from a2a.utils.signing import InvalidSignaturesError
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.json_format import MessageToDict, ParseDict
from jwt import PyJWK, api_jws
from ruamel.yaml import YAML

from gateway.a2a.cards import Cards, Terms, by_http
from gateway.identity.keys import KeySet, b64url
from gateway.identity.signing import KeyRing, LocalSigner
from gateway.settings import Settings
from gateway.settings_base import Keys
from tests.a2a.carded import PATH, PLAIN, Owner, by_published_keys, carded, resolved
from tests.a2a.world import World, gateway

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/agent-cards.md"
SEND = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}


async def test_the_official_client_verifies_the_gateways_signature_with_the_keys_that_it_publishes(world: World) -> None:
    card = await resolved(world, "paul")
    assert card.name == "Reference agent"
    assert card.supported_interfaces[0].url == f"{world.url}/a2a/ref/"


async def test_the_program_on_the_page_does_what_the_page_says(world: World) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(program.replace("https://gateway.example.com", world.url), names)
    card = await names["card_of"]("ref", world.token("paul")["authorization"].removeprefix("Bearer "))
    assert card.supported_interfaces[0].url == f"{world.url}/a2a/ref/"


def test_the_settings_on_the_page_are_settings() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    agent = Settings.model_validate(YAML(typ="safe").load(text)).agents["erp-integration"]
    assert agent.card is not None
    assert (agent.card.require, agent.card.calls) == (True, "refuse")


async def test_a_card_that_was_touched_on_its_way_does_not_verify(world: World) -> None:
    card = await resolved(world, "paul")
    card.supported_interfaces[0].url = "https://elsewhere.example/"
    keys = world.delegations.ring.jwks()["keys"]
    with pytest.raises(InvalidSignaturesError):
        by_published_keys(world, keys)(card)


async def test_of_the_two_signatures_one_stands_over_the_card_as_it_was_sent_for_clients_that_verify_that(world: World) -> None:
    sent = (await world.client.get(PATH, headers=world.token("paul"))).json()
    plain = b64url(rfc8785.dumps({name: value for name, value in sent.items() if name != "signatures"}))
    key = PyJWK(world.delegations.ring.jwks()["keys"][0])
    found = []
    for each in sent["signatures"]:
        try:
            found.append(api_jws.decode(f"{each['protected']}.{plain}.{each['signature']}", key, algorithms=["ES256"]))
        except api_jws.InvalidSignatureError:
            continue
    assert len(found) == 1


async def test_the_signature_names_its_key_and_where_the_gateway_really_publishes_it(world: World) -> None:
    sent = (await world.client.get(PATH, headers=world.token("paul"))).json()
    for each in sent["signatures"]:
        header = api_jws.get_unverified_header(f"{each['protected']}..")
        assert header == {
            "alg": "ES256",
            "typ": "JOSE",
            "jku": f"{world.url}/.well-known/jwks.json",
            "kid": world.delegations.ring.kid,
        }
    published = (await world.client.get("/.well-known/jwks.json")).json()
    assert world.delegations.ring.kid in {key["kid"] for key in published["keys"]}


async def test_cards_are_signed_by_the_key_of_now_and_the_old_one_stays_published() -> None:
    old, new = (LocalSigner(ec.generate_private_key(ec.SECP256R1())) for _ in range(2))
    ring = KeyRing(old, [new.jwk])
    cards = Cards("https://gate.example", lambda: 0, lambda agent: by_http("https://gate.example", agent), ring=ring)

    async def fetch() -> bytes:
        return json.dumps(PLAIN).encode()

    known = await cards.get("ref", fetch)
    before = await cards.shown("ref", known, lambda _: True, extended=False)
    assert await cards.shown("ref", known, lambda _: True, extended=False) is before
    ring.swap(new, [old.jwk])
    after = await cards.shown("ref", known, lambda _: True, extended=False)
    kids = [api_jws.get_unverified_header(f"{card.message.signatures[0].protected}..")["kid"] for card in (before, after)]
    assert kids == [old.jwk["kid"], new.jwk["kid"]]
    assert before.etag != after.etag
    assert {key["kid"] for key in ring.jwks()["keys"]} == set(kids)


async def test_a_card_signed_by_a_pinned_key_is_shown_under_the_gateways_signature_alone(tmp_path: Path) -> None:
    owner = Owner()
    signed, terms = owner.signed(PLAIN, jku="https://buyer.internal:9/keys"), owner.pinned(tmp_path)
    async with carded(signed) as (url, _), gateway(tmp_path, {"ref": url}, terms=terms) as world:
        card = await resolved(world, "paul")
        assert card.name == "Buyer"
        text = str(card)
        assert owner.jwk["kid"] not in text
        (seen,) = [entry for entry in world.ledger.entries if entry.kind == "card.seen"]
        assert (seen.fields["signature"], seen.fields["kid"]) == ("verified", owner.jwk["kid"])
        assert (await world.rpc("paul", "SendMessage", SEND)).json()["result"]["message"]["parts"] == [{"text": "done"}]


async def test_a_signature_over_the_card_as_it_stands_counts_too(tmp_path: Path) -> None:
    owner, card = Owner(), PLAIN | {"documentationUrl": "", "x-more": [1, 2.5, None]}
    signed = api_jws.encode(rfc8785.dumps(card), owner.key, algorithm="ES256", headers={"typ": "JOSE", "kid": owner.jwk["kid"]})
    protected, _, signature = signed.split(".")
    whole = card | {"signatures": [{"protected": protected, "signature": signature}]}
    async with carded(whole) as (url, _), gateway(tmp_path, {"ref": url}, terms=owner.pinned(tmp_path)) as world:
        assert (await resolved(world, "paul")).name == "Buyer"


@pytest.mark.parametrize("who", ["nobody", "a stranger"])
async def test_a_card_that_no_pinned_key_signed_is_shown_to_nobody_and_calls_stop_on_record(tmp_path: Path, who: str) -> None:
    card = PLAIN if who == "nobody" else Owner().signed(PLAIN)
    async with carded(card) as (url, agent), gateway(tmp_path, {"ref": url}, terms=Owner().pinned(tmp_path)) as world:
        answer = await world.client.get(PATH, headers=world.token("paul"))
        assert answer.status_code == 500
        assert "Buyer" not in answer.text
        called = (await world.rpc("paul", "SendMessage", SEND)).json()["error"]
        assert called["data"][0]["reason"] == "CARD_UNVERIFIED"
        assert called["data"][0]["metadata"]["code"] == "card-unverified"
        assert agent.calls == []
        (refused,) = [entry for entry in world.ledger.entries if entry.kind == "card.refused"]
        assert refused.fields["signature"] == {"nobody": "unsigned", "a stranger": "invalid"}[who]
        (denied,) = [entry for entry in world.ledger.entries if entry.kind == "decision.deny"]
        assert denied.fields["refused"]["code"] == "card-unverified"
        asked = await world.client.get("/a2a/ref/rest/tasks", headers=world.token("paul") | {"a2a-version": "1.0"})
        assert asked.status_code == 502


async def test_settings_may_let_calls_go_on_while_the_card_is_withheld(tmp_path: Path) -> None:
    terms = Owner().pinned(tmp_path, stops_calls=False)
    async with carded(PLAIN) as (url, agent), gateway(tmp_path, {"ref": url}, terms=terms) as world:
        assert (await world.client.get(PATH, headers=world.token("paul"))).status_code == 500
        assert "result" in (await world.rpc("paul", "SendMessage", SEND)).json()
        assert agent.calls == ["SendMessage"]


async def test_settings_may_only_watch_signatures(tmp_path: Path) -> None:
    terms = Owner().pinned(tmp_path, require=False, stops_calls=False)
    async with carded(Owner().signed(PLAIN)) as (url, _), gateway(tmp_path, {"ref": url}, terms=terms) as world:
        assert (await resolved(world, "paul")).name == "Buyer"
        (seen,) = [entry for entry in world.ledger.entries if entry.kind == "card.seen"]
        assert seen.fields["signature"] == "invalid"


async def test_calls_stop_as_soon_as_a_verified_card_is_replaced_by_one_that_is_not(tmp_path: Path) -> None:
    owner, now = Owner(), [1_000_000_000_000_000]
    cards = Cards(
        "https://gate.example", lambda: now[0], lambda agent: by_http("https://gate.example", agent),
        ring=KeyRing.of(owner.key), terms=owner.pinned(tmp_path),
    )  # fmt: skip
    said: Any = owner.signed(PLAIN)

    async def fetch() -> bytes:
        if isinstance(said, Exception):
            raise said
        return json.dumps(said).encode()

    assert (await cards.get("ref", fetch)).verdict.word == "verified"
    now[0] += 61_000_000
    said = PLAIN
    with pytest.raises(Exception, match="not signed"):
        await cards.get("ref", fetch)
    said = owner.signed(PLAIN)
    with pytest.raises(Exception, match="not signed"):  # the last good card does not serve in its place, and nobody asks at once
        await cards.get("ref", fetch)
    now[0] += 6_000_000
    assert (await cards.get("ref", fetch)).verdict.word == "verified"


async def test_where_the_pinned_keys_cannot_be_read_nothing_is_taken_for_verified(tmp_path: Path) -> None:
    terms = {"ref": Terms(KeySet(Keys(file=tmp_path / "missing.json")), require=True, stops_calls=True)}
    async with carded(Owner().signed(PLAIN)) as (url, agent), gateway(tmp_path, {"ref": url}, terms=terms) as world:
        assert (await world.client.get(PATH, headers=world.token("paul"))).status_code == 502
        assert "error" in (await world.rpc("paul", "SendMessage", SEND)).json()
        assert agent.calls == []


async def test_whoever_signs_in_the_gateways_name_with_another_key_convinces_no_client(world: World) -> None:
    card = await resolved(world, "paul")
    del card.signatures[:]
    keys = world.delegations.ring.jwks()["keys"]
    named = {"kid": world.delegations.ring.kid, "jku": f"{world.url}/.well-known/jwks.json"}
    forged = ParseDict(Owner().signed(MessageToDict(card), **named), pb.AgentCard())
    with pytest.raises(InvalidSignaturesError):
        by_published_keys(world, keys)(forged)
