"""A gateway's identity part with one issuer and five agents, and a clock that stands still until it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.identity.agents import new_secret
from gateway.identity.authenticate import Authenticator
from gateway.identity.delegation import Delegations
from gateway.identity.devissuer import DevIssuer
from gateway.identity.keyfiles import delegation_key
from gateway.identity.keys import es256_jwk
from gateway.model import Arrival, Principal, Trace, new_id
from gateway.settings import Agent, AgentAuth, Issuer, Keys

URL = "http://127.0.0.1:8080"
ISSUER = f"{URL}/dev"
START = 1_800_000_000


@dataclass
class StandingClock:
    seconds: float = START

    def __call__(self) -> int:
        return int(self.seconds * 1_000_000)

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class World:
    folder: Path
    clock: StandingClock
    issuer: DevIssuer
    delegations: Delegations
    authenticator: Authenticator
    agents: dict[str, Agent]
    secrets: dict[str, str] = field(default_factory=dict)
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def arrival(self, *headers: tuple[str, str]) -> Arrival:
        return Arrival(new_id(self.clock()), "mcp", "erp", headers, b"", self.clock(), Trace("0" * 31 + "1", "0" * 15 + "1"))

    async def ask(self, *headers: tuple[str, str]) -> Principal:
        return await self.authenticator(self.arrival(*headers))

    async def bearer(self, token: str, delegation: str | None = None) -> Principal:
        headers = [("authorization", f"Bearer {token}")]
        if delegation is not None:
            headers.append(("bailiwick-delegation", delegation))
        return await self.ask(*headers)

    async def paul(self) -> Principal:
        return await self.bearer(self.issuer.issue("paul", ["procurement-managers"]))

    def assertion(self, **changes: object) -> str:
        now = int(self.clock.seconds)
        claims: dict[str, object] = {
            "iss": "keyed",
            "sub": "keyed",
            "aud": URL,
            "iat": now,
            "exp": now + 60,
            "jti": new_id(self.clock()),
        }
        claims |= changes
        headers = {"typ": "client-authentication+jwt", "kid": es256_jwk(self.key.public_key())["kid"]}
        return jwt.encode({k: v for k, v in claims.items() if v is not None}, self.key, algorithm="ES256", headers=headers)


def make_world(folder: Path, *issuers: Issuer, tenant: str = "acme") -> World:
    clock = StandingClock()
    issuer = DevIssuer(folder, ISSUER, URL, clock)
    delegations = Delegations(delegation_key(folder), URL, clock=clock)
    secrets = {name: new_secret(name) for name in ("analyst", "erp")}
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "keyed.json").write_text(json.dumps({"keys": [es256_jwk(key.public_key())]}))
    agents = {
        "analyst": Agent(auth=AgentAuth(secret_sha256=("a" * 64, secrets["analyst"][1])), client_ids=("analyst-app",)),
        "erp": Agent(auth=AgentAuth(secret_sha256=(secrets["erp"][1],))),
        "reader": Agent(auth=AgentAuth(bearer_ok=True)),
        "keyed": Agent(auth=AgentAuth(jwks=Keys(file=folder / "keyed.json"))),
        "callee": Agent(),
    }
    authenticator = Authenticator(
        tenant=tenant,
        public_url=URL,
        issuers=issuers or (issuer.settings(),),
        agents=agents,
        delegations=delegations,
        clock=clock,
        monotonic=clock.monotonic,
    )
    return World(
        folder, clock, issuer, delegations, authenticator, agents, {name: secret for name, (secret, _) in secrets.items()}, key
    )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    return make_world(tmp_path)
