"""Cards: nothing of the agent's own address, nothing that is not served, one fetch for many askers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.a2a.cards import Cards, Interface, Terms, by_http
from gateway.identity.signing import KeyRing
from gateway.model import UpstreamError
from tests.a2a.agents import Request, scripted
from tests.a2a.world import DENY, World, gateway

BASE = "https://gate.example"
SERVED = by_http(BASE, "buyer")
RING = KeyRing.of(ec.generate_private_key(ec.SECP256R1()))
CARD: dict[str, Any] = {
    "name": "Buyer",
    "description": "Buys. Docs at http://buyer.internal:9/docs, also on BUYER.internal:9.",
    "version": "3",
    "url": "http://buyer.internal:9/",
    "additionalInterfaces": [{"url": "http://buyer.internal:9/rest", "transport": "HTTP+JSON"}],
    "supportedInterfaces": [
        {"url": "http://buyer.internal:9/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
        {"url": "grpc.internal:10", "protocolBinding": "GRPC", "protocolVersion": "1.0"},
    ],
    "provider": {"organization": "Buyers", "url": "http://buyer.internal:9/about"},
    "documentationUrl": "http://buyer.internal:9/docs",
    "iconUrl": "http://buyer.internal:9/icon",
    "capabilities": {
        "streaming": True,
        "pushNotifications": True,
        "extendedAgentCard": True,
        "extensions": [{"uri": "http://buyer.internal:9/ext", "params": {"at": "http://buyer.internal:9"}}],
    },
    "securitySchemes": {
        "oidc": {"openIdConnectSecurityScheme": {"openIdConnectUrl": "http://buyer.internal:9/.well-known/openid-configuration"}}
    },
    "securityRequirements": [{"schemes": {"oidc": {"list": ["all"]}}}],
    "defaultInputModes": ["text/plain"],
    "defaultOutputModes": ["text/plain"],
    "skills": [
        {
            "id": "buy",
            "name": "Buy",
            "description": "see http://buyer.internal:9/buy",
            "tags": ["a"],
            "examples": ["post to http://buyer.internal:9"],
            "inputModes": ["text/plain"],
            "securityRequirements": [{"schemes": {"oidc": {"list": []}}}],
        }
    ],
    "signatures": [{"protected": "eyJqa3UiOiJodHRwOi8vYnV5ZXIuaW50ZXJuYWw6OS8ifQ", "signature": "AA"}],
}


def cards(clock: Any = None, served: Any = lambda agent: by_http(BASE, agent), **terms: Any) -> Cards:
    return Cards(BASE, clock or Clock(), served, ring=RING, terms={"buyer": Terms(**terms)})


async def published(card: Any, hidden: tuple[str, ...] = (), **options: Any) -> bytes:
    """What a caller reads of the agent's card who sees every skill."""

    async def fetch() -> bytes:
        return card if isinstance(card, bytes) else json.dumps(card).encode()

    kept = cards(**options)
    return (await kept.shown("buyer", await kept.get("buyer", fetch, hidden), lambda _: True, extended=True)).body


async def test_no_address_of_the_agent_is_left_anywhere() -> None:
    body = await published(CARD, ("10.0.0.1:9",))
    assert b"internal" not in body.lower()
    assert b"eyJqa3U" not in body


async def test_a_card_says_what_the_gateway_serves() -> None:
    card = json.loads(await published(CARD))
    here = f"{BASE}/a2a/buyer/"
    assert card["supportedInterfaces"] == [
        {"url": here, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
        {"url": f"{here}rest", "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0"},
    ]
    assert card["capabilities"] == {"streaming": True, "pushNotifications": False, "extendedAgentCard": True}
    assert card["securitySchemes"] == {"bearer": {"httpAuthSecurityScheme": {"scheme": "Bearer", "bearerFormat": "JWT"}}}
    assert card["securityRequirements"] == [{"schemes": {"bearer": {}}}]
    assert card["description"] == f"Buys. Docs at {here} also on {here}."
    assert card["skills"][0] == {
        "id": "buy",
        "name": "Buy",
        "description": f"see {here}",
        "tags": ["a"],
        "examples": [f"post to {here}"],
        "inputModes": ["text/plain"],
    }
    assert card["provider"] == {"organization": "Buyers", "url": BASE}
    assert {"documentationUrl", "iconUrl", "url", "additionalInterfaces"}.isdisjoint(card)


async def test_a_card_names_each_interface_that_is_served_and_no_other() -> None:
    served = (*SERVED, Interface("GRPC", "1.0", "gate.example:9443"))
    card = json.loads(await published(CARD, served=lambda _: served))
    assert [(each["protocolBinding"], each["url"]) for each in card["supportedInterfaces"]] == [
        ("JSONRPC", f"{BASE}/a2a/buyer/"),
        ("HTTP+JSON", f"{BASE}/a2a/buyer/rest"),
        ("GRPC", "gate.example:9443"),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"name":"a","name":"b"}',
        json.dumps(CARD | {"capabilities": {"extensions": [{"uri": "urn:x", "required": True}]}}).encode(),
        json.dumps(CARD | {"skills": [{"id": "x"}] * 300}).encode(),
    ],
    ids=["no JSON", "a list", "no name", "a member twice", "a required extension", "too many skills"],
)
async def test_what_is_no_card_is_not_published(wrong: bytes) -> None:
    with pytest.raises(UpstreamError):
        await published(wrong)


async def test_the_published_card_of_a_real_agent_names_the_gateway_alone(world: World, agent_url: str) -> None:
    answer = await world.client.get("/a2a/ref/.well-known/agent-card.json", headers=world.token("paul"))
    assert answer.status_code == 200
    assert agent_url.removeprefix("http://").encode() not in answer.content
    assert answer.json()["supportedInterfaces"][0]["url"] == f"{world.url}/a2a/ref/"
    assert answer.headers["cache-control"] == "private, max-age=60"
    assert answer.headers["vary"] == "Authorization"


async def test_a_card_that_has_not_changed_is_not_sent_again(world: World) -> None:
    path = "/a2a/ref/.well-known/agent-card.json"
    etag = (await world.client.get(path, headers=world.token("paul"))).headers["etag"]
    answer = await world.client.get(path, headers=world.token("paul") | {"if-none-match": f'"x", {etag}'})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)


async def test_who_may_not_send_to_an_agent_does_not_read_its_card(world: World) -> None:
    world.verdicts["user:dev/mia", "a2a:ref"] = DENY
    answer = await world.client.get("/a2a/ref/.well-known/agent-card.json", headers=world.token("mia"))
    assert answer.status_code == 403
    assert "Reference" not in answer.text


async def test_a_card_is_found_under_the_agents_url_or_at_its_origin(tmp_path: Path) -> None:
    async def script(request: Request) -> None:
        found = request.path == "/.well-known/agent-card.json"
        await request.reply(json.dumps(CARD).encode() if found else b"{}", status=200 if found else 404)

    peer = {"headers": ((b"X-Key", b"k"),)}
    async with scripted(script) as (url, agent), gateway(tmp_path, {"ref": f"{url}/a2a/rpc"}, peers={"ref": peer}) as world:
        answer = await world.client.get("/a2a/ref/.well-known/agent-card.json", headers=world.token("paul"))
        assert answer.json()["name"] == "Buyer"
        assert [request.path for request in agent.requests] == [
            "/a2a/rpc/.well-known/agent-card.json",
            "/.well-known/agent-card.json",
        ]
        assert {request.headers["x-key"] for request in agent.requests} == {"k"}
        assert all("authorization" not in request.headers for request in agent.requests)


class Source:
    """A card's source that can be held up and can fail."""

    def __init__(self) -> None:
        self.fetches = 0
        self.broken = False
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> bytes:
        self.fetches += 1
        await self.go.wait()
        if self.broken:
            raise UpstreamError("connect")
        return json.dumps(CARD | {"version": str(self.fetches)}).encode()


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000

    def __call__(self) -> int:
        return self.seconds * 1_000_000


async def test_many_askers_cause_one_fetch_although_the_first_leaves() -> None:
    source, kept = Source(), cards()
    source.go.clear()
    first = asyncio.create_task(kept.get("buyer", source))
    others = [asyncio.create_task(kept.get("buyer", source)) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    source.go.set()
    assert len({card.card.version for card in await asyncio.gather(*others)}) == 1
    assert source.fetches == 1


async def test_a_card_is_fetched_again_after_a_minute_and_kept_an_hour_while_the_agent_is_away() -> None:
    source, clock = Source(), Clock()
    kept = cards(clock)
    first = await kept.get("buyer", source)
    clock.seconds += 59
    assert await kept.get("buyer", source) == first
    clock.seconds += 2
    second = await kept.get("buyer", source)
    assert second != first
    source.broken = True
    clock.seconds += 3600
    assert await kept.get("buyer", source) == second
    assert (await kept.get("buyer", source), source.fetches) == (second, 3)  # not asked again at once
    clock.seconds += 6
    with pytest.raises(UpstreamError):
        await kept.get("buyer", source)
