"""An agent, or somebody who speaks in its place, forges its card; or hides in it what leads callers past the gateway."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from a2a.types import a2a_pb2 as pb
from a2a.utils.signing import create_agent_card_signer
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.json_format import MessageToDict, ParseDict
from jwt import api_jws
from msgspec.structs import replace

from gateway.a2a.cards import Terms
from gateway.identity.keys import b64url
from policies.bundle import load
from policies.engine import Engine
from tests.a2a.agents import Request, scripted
from tests.a2a.carded import PATH, PLAIN, Owner, carded, resolved
from tests.a2a.world import HIDDEN, gateway
from tests.policies.conftest import FILES

SEND = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}


def with_header(card: Any, owner: Owner, key: Any, algorithm: str, **header: Any) -> dict[str, Any]:
    """The card signed with a key and algorithm of the forger's, under the owner's kid and whatever else the header shall say."""
    made = ParseDict(card, pb.AgentCard())
    create_agent_card_signer(key, {"alg": algorithm, "typ": "JOSE", "kid": owner.jwk["kid"], **header})(made)  # type: ignore[typeddict-unknown-key,typeddict-item]
    whole: dict[str, Any] = card | {"signatures": MessageToDict(made)["signatures"]}
    return whole


def raw_signature(card: Any, header: Any, signature: str) -> dict[str, Any]:
    protected = header if isinstance(header, str) else b64url(json.dumps(header).encode())
    whole: dict[str, Any] = card | {"signatures": [{"protected": protected, "signature": signature}]}
    return whole


def forged_text(owner: Owner) -> dict[str, Any]:
    """Genuinely signed, and changed afterwards."""
    return owner.signed(PLAIN) | {"description": "Pays anybody."}


def another_agents(owner: Owner) -> dict[str, Any]:
    """The signature of another card by the same owner."""
    return PLAIN | {"signatures": owner.signed(PLAIN | {"name": "Other"})["signatures"]}


def same_kid(owner: Owner) -> dict[str, Any]:
    return with_header(PLAIN, owner, ec.generate_private_key(ec.SECP256R1()), "ES256")


def own_jku(owner: Owner) -> dict[str, Any]:
    """A key set of the forger's own, named in the header; the server there would even answer."""
    return with_header(PLAIN, owner, ec.generate_private_key(ec.SECP256R1()), "ES256", jku="http://127.0.0.1:1/keys")


def embedded_key(owner: Owner) -> dict[str, Any]:
    mine = Owner()
    return with_header(PLAIN, owner, mine.key, "ES256", jwk=mine.jwk)


def unsecured(owner: Owner) -> dict[str, Any]:
    return raw_signature(PLAIN, {"alg": "none", "kid": owner.jwk["kid"]}, "")


def public_key_as_secret(owner: Owner) -> dict[str, Any]:
    """HMAC with the public key's text, which everybody has."""
    pem = owner.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = owner.signed(PLAIN)
    protected = b64url(json.dumps({"alg": "HS256", "kid": owner.jwk["kid"]}).encode())
    payload = b64url(json.dumps(PLAIN, sort_keys=True, separators=(",", ":")).encode())
    mac = hmac.new(pem, f"{protected}.{payload}".encode(), hashlib.sha256).digest()
    return signed | {"signatures": [{"protected": protected, "signature": b64url(mac)}]}


def another_algorithm(owner: Owner) -> dict[str, Any]:
    return with_header(PLAIN, owner, rsa.generate_private_key(65537, 2048), "RS256")


def critical(owner: Owner) -> dict[str, Any]:
    """The owner's key, and a header that changes how the rest is to be read: what is not understood is not verified."""
    header = {"alg": "ES256", "kid": owner.jwk["kid"], "crit": ["exp"], "exp": 1}
    signed = owner.signed(PLAIN)
    payload = b64url(json.dumps(PLAIN, sort_keys=True, separators=(",", ":")).encode())
    protected = b64url(json.dumps(header).encode())
    whole = api_jws.PyJWS().get_algorithm_by_name("ES256").sign(f"{protected}.{payload}".encode(), owner.key)
    return signed | {"signatures": [{"protected": protected, "signature": b64url(whole)}]}


def signature_in_the_header(owner: Owner) -> dict[str, Any]:
    """The parts shifted by a dot: the text as a whole is a genuine JWS of something else."""
    token = api_jws.encode(b"{}", owner.key, algorithm="ES256", headers={"kid": owner.jwk["kid"]})
    protected, payload, signature = token.split(".")
    return raw_signature(PLAIN, protected, f"{payload}.{signature}")


FORGERIES = (
    forged_text, another_agents, same_kid, own_jku, embedded_key, unsecured, public_key_as_secret, another_algorithm, critical,
    signature_in_the_header,
)  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.__name__)
async def test_a_forged_card_is_shown_to_nobody_and_no_call_is_made(
    tmp_path: Path, forgery: Callable[[Owner], dict[str, Any]]
) -> None:
    owner = Owner()
    async with carded(forgery(owner)) as (url, agent), gateway(tmp_path, {"ref": url}, terms=owner.pinned(tmp_path)) as world:
        answer = await world.client.get(PATH, headers=world.token("paul"))
        assert answer.status_code == 500
        assert "Buyer" not in answer.text
        assert (await world.rpc("paul", "SendMessage", SEND)).json()["error"]["data"][0]["reason"] == "CARD_UNVERIFIED"
        assert agent.calls == []
        assert [entry.fields["signature"] for entry in world.ledger.entries if entry.kind == "card.refused"] == ["invalid"]


async def test_nobody_asks_the_key_set_that_a_card_names(tmp_path: Path) -> None:
    asked: list[str] = []

    async def keys(request: Request) -> None:
        asked.append(request.path)
        await request.reply(json.dumps({"keys": [mine.jwk]}).encode())

    mine, owner = Owner(), Owner()
    async with scripted(keys) as (elsewhere, _):
        forged = mine.signed(PLAIN, jku=f"{elsewhere}/jwks.json")
        async with carded(forged) as (url, _), gateway(tmp_path, {"ref": url}, terms=owner.pinned(tmp_path)) as world:
            assert (await world.client.get(PATH, headers=world.token("paul"))).status_code == 500
    assert asked == []


def hiding(url: str, host: str) -> dict[str, Any]:
    """The agent's address in every place that a card has for one."""
    return PLAIN | {
        "url": url,
        "preferredTransport": "JSONRPC",
        "additionalInterfaces": [{"url": f"http://other.internal:8/x {host}", "transport": "HTTP+JSON"}],
        "supportedInterfaces": [
            {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0", "tenant": host},
            {"url": "grpc.internal:7", "protocolBinding": "GRPC", "protocolVersion": "1.0"},
            {"url": "ws://custom.internal:6/", "protocolBinding": "custom", "protocolVersion": "1.0"},
        ],
        "provider": {"organization": f"Buyers at {url}", "url": url},
        "documentationUrl": f"{url}/docs",
        "iconUrl": f"{url}/icon",
        "description": f"Try {url.upper()} or http://user:pw@{host}/x, //{host}/y, {host}., http://grpc.internal:99/z",
        "securitySchemes": {
            "oauth": {"oauth2SecurityScheme": {"flows": {"clientCredentials": {"tokenUrl": f"{url}/token", "scopes": {}}},
                                               "oauth2MetadataUrl": f"{url}/meta"}},
            "oidc": {"openIdConnectSecurityScheme": {"openIdConnectUrl": f"{url}/oidc"}},
        },
        "securityRequirements": [{"schemes": {"oidc": {"list": [url]}}}],
        "capabilities": {"extensions": [
            {"uri": f"{url}/extension", "description": url},
            {"uri": "urn:let:through", "description": f"see {url}", "params": {"at": [{"deep": url, url: 1}]}},
        ]},
        "skills": [
            {"id": "buy", "name": f"Buy at {host}", "description": url, "tags": [url], "examples": [f"curl {url}/x"],
             "inputModes": [url], "outputModes": [url], "securityRequirements": [{"schemes": {"oidc": {"list": [url]}}}]},
            {"id": url, "name": "An address for an id", "description": "x", "tags": []},
        ],
        "signatures": [{"protected": b64url(json.dumps({"alg": "ES256", "kid": "k", "jku": f"{url}/jwks"}).encode()),
                        "signature": "AA", "header": {"at": url}}],
        "x-unknown": url,
    }  # fmt: skip


async def test_no_address_of_the_agent_is_left_in_any_place_that_a_card_has_for_one(tmp_path: Path) -> None:
    async def script(request: Request) -> None:
        await request.reply(json.dumps(hiding(place["url"], place["url"].removeprefix("http://"))).encode())

    place: dict[str, str] = {}
    terms = {"ref": Terms(extensions=frozenset({"urn:let:through"}))}
    async with scripted(script) as (url, _):
        place["url"] = url
        async with gateway(tmp_path, {"ref": url}, terms=terms) as world:
            texts = [(await world.client.get(path, headers=world.token("paul"))).text for path in (PATH, "/a2a/")]
    host = url.removeprefix("http://")
    for text in texts:
        encoded = base64.urlsafe_b64encode(host.encode()).decode().rstrip("=")
        assert "Buyer" in text
        assert [word for word in (host, "internal", "user:pw", encoded, '/jwks"') if word in text.lower()] == []
    assert [skill["id"] for skill in json.loads(texts[0])["skills"]] == ["buy"]


@pytest.mark.parametrize(
    "card",
    [
        b" " * (1024 * 1024 + 1) + json.dumps(PLAIN).encode(),
        json.dumps(PLAIN | {"skills": [{"id": f"s{n}"} for n in range(257)]}).encode(),
        json.dumps(PLAIN | {"signatures": [{"protected": "e30", "signature": "AA"}] * 17}).encode(),
        json.dumps(PLAIN | {"capabilities": {"extensions": [{"uri": f"urn:{n}"} for n in range(65)]}}).encode(),
        b'{"name":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        json.dumps(PLAIN | {"default_input_modes": ["text/html"]}).encode(),
        json.dumps(PLAIN)[:-1].encode() + b',"name":"Forged"}',
        b"\xff\xfe" + json.dumps(PLAIN).encode("utf-16-le"),
    ],
    ids=["too long", "skills", "signatures", "extensions", "depth", "two spellings", "a member twice", "not UTF-8"],
)
async def test_a_card_that_is_too_large_or_can_be_read_in_two_ways_is_no_card(tmp_path: Path, card: bytes) -> None:
    async with carded(card) as (url, _), gateway(tmp_path, {"ref": url}) as world:
        answer = await world.client.get(PATH, headers=world.token("paul"))
        assert answer.status_code in {500, 502}
        assert "Buyer" not in answer.text
        assert (await world.client.get("/a2a/", headers=world.token("paul"))).json()["agents"][0]["status"] == "unavailable"


async def test_a_text_made_to_keep_the_reader_busy_does_not_keep_the_gateway_from_others(tmp_path: Path) -> None:
    slow = PLAIN | {"description": "a+" * 200_000 + "://" * 50_000, "name": "//" + "x@" * 50_000}
    async with carded(slow) as (url, _), gateway(tmp_path, {"ref": url, "other": url}) as world:
        reading = asyncio.create_task(world.client.get(PATH, headers=world.token("paul")))
        assert (await world.client.get("/a2a/nobody/.well-known/agent-card.json", headers=world.token("mia"))).status_code == 404
        async with asyncio.timeout(60):
            assert (await reading).status_code == 200


HOMOGLYPHS = ["p\u0430y", "pay\u200b", "\uff50ay", "p\u202eya", "pay ", "PAY", "pay\u0000", "pay/../buy"]


@pytest.mark.parametrize("text", HOMOGLYPHS, ids=[text.encode("unicode-escape").decode() for text in HOMOGLYPHS])
async def test_a_skill_that_looks_like_one_that_is_hidden_is_not_shown_in_its_place(tmp_path: Path, text: str) -> None:
    """`pay` is granted to nobody here, `buy` is; the agent tries to have it shown under a name that reads alike."""
    skills = [PLAIN["skills"][0], {"id": text, "name": "Pay", "description": "Pays.", "tags": []}]
    async with carded(PLAIN | {"skills": skills}) as (url, _), gateway(tmp_path, {"ref": url}) as world:
        by_hand, engine = world.decide, real_judge(tmp_path / "policies")

        def decide(request: Any) -> Any:
            return engine(request) if request.resource.startswith("skill:") else by_hand(request)

        world.decide = decide  # type: ignore[method-assign]  # the real judge for skills
        assert [skill.id for skill in (await resolved(world, "paul")).skills] == ["buy"]


def real_judge(folder: Path) -> Callable[[Any], Any]:
    """Casbin, with a bundle that shows everybody who buys the skill `buy`."""
    (folder / "grants").mkdir(parents=True)
    line = "p, role:buyer, acme, skill:ref/buy, read, allow, -, -, T-1\n"
    for name, text in {**FILES, "grants/people.csv": line}.items():
        (folder / name).write_text(text)
    engine = Engine(load(folder))
    return lambda request: engine.decide(replace(request, groups=frozenset({"buyers"})))


async def test_unseen_characters_of_an_agents_texts_are_shown_to_nobody(tmp_path: Path) -> None:
    texts = {"name": "Bu\u202eyer\u200b", "description": "a\u0007b\u2028c\U000e0041d\ne"}
    async with carded(PLAIN | texts) as (url, _), gateway(tmp_path, {"ref": url}) as world:
        card = await resolved(world, "paul")
        assert (card.name, card.description) == ("Buyer", "abcd\ne")


async def test_a_hidden_skill_cannot_be_told_from_one_that_is_not_there_by_the_card_or_its_tag(tmp_path: Path) -> None:
    answers = []
    for number, skills in enumerate((PLAIN["skills"], PLAIN["skills"][:1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with carded(PLAIN | {"skills": skills}) as (url, _), gateway(folder, {"ref": url}) as world:
            world.verdicts["*", "skill:ref/pay"] = HIDDEN
            sent = (await world.client.get(PATH, headers=world.token("mia"))).json()
            sent.pop("signatures")
            answers.append(json.dumps(sent).replace(world.url, ""))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("path", ["/a2a/", "/a2a/?A2A-Version=1.0", "/a2a/?agents=ref"])
async def test_the_directory_tells_a_stranger_nothing(tmp_path: Path, path: str) -> None:
    async with carded(PLAIN) as (url, agent), gateway(tmp_path, {"ref": url}) as world:
        for headers in ({}, {"authorization": "Bearer nonsense"}):
            answer = await world.client.get(path, headers=headers)
            assert answer.status_code == 401
            assert "ref" not in answer.text.replace("refused", "")
        assert agent.calls == []
