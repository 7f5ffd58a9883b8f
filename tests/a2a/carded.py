"""Agents with cards that a test writes and signs, by the official SDK's own signer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from a2a.client.card_resolver import A2ACardResolver
from a2a.types import a2a_pb2 as pb
from a2a.utils.signing import create_agent_card_signer, create_signature_verifier
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.json_format import MessageToDict, ParseDict
from jwt import PyJWK

from gateway.a2a.cards import JWKS_PATH, Terms
from gateway.identity.keys import KeySet, es256_jwk
from gateway.settings_base import Keys
from tests.a2a.agents import Request, scripted
from tests.a2a.world import World

PATH = "/a2a/ref/.well-known/agent-card.json"
PLAIN: dict[str, Any] = {
    "name": "Buyer",
    "description": "Buys.",
    "version": "3",
    "supportedInterfaces": [{"url": "http://buyer.internal:9/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}],
    "capabilities": {"streaming": True},
    "defaultInputModes": ["text/plain"],
    "defaultOutputModes": ["text/plain"],
    "skills": [
        {"id": "buy", "name": "Buy", "description": "Buys things.", "tags": ["shop"]},
        {"id": "pay", "name": "Pay", "description": "Pays for things.", "tags": ["money"]},
    ],
}


@dataclass
class Carded:
    """What an agent shows: its card, and its extended one where it has one.  `down`: it answers with an error."""

    card: Any
    extended: Any = None
    down: bool = False
    calls: list[str] = field(default_factory=list)

    async def __call__(self, request: Request) -> None:
        if request.path.endswith("/agent-card.json"):
            body = self.card if isinstance(self.card, bytes) else json.dumps(self.card).encode()
            await request.reply(b"{}" if self.down else body, status=503 if self.down else 200)
            return
        self.calls.append(request.rpc["method"])
        if request.rpc["method"] == "GetExtendedAgentCard" and self.extended is not None:
            await request.result(self.extended)
        else:
            said = {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "done"}]}
            await request.result({"message": said})


@asynccontextmanager
async def carded(card: Any, extended: Any = None) -> AsyncIterator[tuple[str, Carded]]:
    """Such an agent on a real socket, and its URL."""
    agent = Carded(card, extended)
    async with scripted(agent) as (url, _):
        yield url, agent


@dataclass
class Owner:
    """Whoever signs cards, with an ES256 key."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def jwk(self) -> dict[str, str]:
        return es256_jwk(self.key.public_key())

    def signed(self, card: Any, jku: str | None = None, **header: Any) -> dict[str, Any]:
        """The card as the official signer leaves it."""
        made = ParseDict(card, pb.AgentCard())
        protected: Any = {"alg": "ES256", "typ": "JOSE", "kid": self.jwk["kid"], "jku": jku} | header
        create_agent_card_signer(self.key, {name: value for name, value in protected.items() if value is not None})(made)  # type: ignore[arg-type,typeddict-item]
        whole: dict[str, Any] = card | {"signatures": MessageToDict(made)["signatures"]}
        return whole

    def pinned(self, folder: Path, *, require: bool = True, stops_calls: bool = True, **terms: Any) -> dict[str, Terms]:
        """What is demanded of the agent `ref` where this owner's key is pinned."""
        file = folder / "pins.json"
        file.write_text(json.dumps({"keys": [self.jwk]}))
        return {"ref": Terms(KeySet(Keys(file=file)), require, stops_calls, **terms)}


def by_published_keys(world: World, keys: Any) -> Callable[[pb.AgentCard], None]:
    """The official verifier, which takes keys from where the gateway publishes its own, and from nowhere else."""

    def key(kid: str | None, jku: str | None) -> PyJWK:
        assert jku == world.url + JWKS_PATH
        return next(PyJWK(each) for each in keys if each["kid"] == kid)

    return create_signature_verifier(key, ["ES256"])


async def resolved(world: World, person: str, agent: str = "ref") -> pb.AgentCard:
    """The card as the official client resolves it, its signature verified with the keys that the gateway publishes."""
    async with httpx.AsyncClient(headers=world.token(person), timeout=30, trust_env=False, verify=False) as http:
        keys = (await http.get(world.url + JWKS_PATH)).json()["keys"]
        resolver = A2ACardResolver(http, f"{world.url}/a2a/{agent}/")
        return await resolver.get_agent_card(signature_verifier=by_published_keys(world, keys))
