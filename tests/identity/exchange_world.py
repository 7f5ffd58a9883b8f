"""A token endpoint with everything real around it: keys, agents' proofs, an engine, a state store, a ledger that is a list."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI

from audit.leaf import check
from audit.model import Entry, LedgerUnavailableError, Receipt
from gateway.administration import Administration
from gateway.api import _errors
from gateway.identity.access import Access, AccessTokens
from gateway.identity.agents import AgentCredentials, new_secret
from gateway.identity.clients import Clients
from gateway.identity.delegation import Delegated, Delegations, terms_of
from gateway.identity.directory import NOBODY, Person
from gateway.identity.dpop import Proofs
from gateway.identity.exchange import TOKEN_EXCHANGE, Exchange, Parts
from gateway.identity.issuers import Ways, endpoints_of
from gateway.identity.keys import es256_jwk
from gateway.identity.killed import Names
from gateway.identity.revocation import Kills
from gateway.identity.standing import Standing
from gateway.model import Principal, Refused, new_id
from gateway.oauth.grants import register as register_grants
from gateway.oauth.token import register
from gateway.policy.in_force import InForce, Pair, Policy
from gateway.reasons import Code
from gateway.record import Recorder
from gateway.settings import Agent, AgentAuth, Issuer, Keys
from gateway.state.kills import Kill
from gateway.state.store import State
from gateway.workflows.steps import InForceNow, Steps
from policies import engine as engine_module
from policies.bundle import load_texts
from policies.engine import Engine

URL = "http://127.0.0.1:8080"
IDP = "https://idp.example"
NOW = 1_800_000_000
ACCESS = "urn:ietf:params:oauth:token-type:access_token"
JWT = "urn:ietf:params:oauth:token-type:jwt"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
AGENTS = ["analyst", "erp", "reader", "scout", "narrow", "plain"]

GRANTS = """\
p, role:buyer,    acme, erp.read,    call, allow, -,     -,          USR-1
p, role:buyer,    acme, a2a:*,       send, allow, -,     -,          USR-2
p, agent:analyst, acme, a2a:erp,     send, allow, -,     -,          AGT-1
p, agent:analyst, acme, a2a:narrow,  send, allow, -,     -,          AGT-2
p, agent:analyst, acme, a2a:reader,  send, allow, -,     -,          AGT-3
p, agent:analyst, acme, a2a:scout,   send, allow, proof, -,          AGT-4
p, agent:erp,     acme, a2a:scout,   send, allow, -,     -,          AGT-5
p, agent:erp,     acme, a2a:narrow,  send, allow, -,     -,          AGT-6
p, agent:erp,     acme, a2a:analyst, send, allow, -,     -,          AGT-7
p, agent:analyst, acme, a2a:analyst, send, allow, -,     -,          AGT-8
p, role:admin,    acme, admin:grants, *,   allow, -,     -,          ADM-1
p, *,             acme, a2a:reader,  send, require, -,   four-eyes,  SEC-1
"""
ORDERS = """\
workflow: orders
binds: []
budget: [{tool: "a2a:erp", count: 1}]
coordinator: [{agent: agent:analyst, calls: ["a2a:*"]}]
"""
FILES = {
    "model.conf": (Path(engine_module.__file__).with_name("default") / "model.conf").read_text(),
    "roles.csv": "g, idp:buyers, role:buyer, acme\ng, idp:admins, role:admin, acme\n",
    "tools.yaml": "tenants: [acme]\ntools:\n  erp.read: {}\n  mail.send: {}\n",
    "conditions.yaml": "proof: {if: 'agent.assurance == \"pop\"', say: proven keys}\n",
    "obligations.yaml": "four-eyes: {type: human-approval, by: role:buyer, within: 10m}\n",
    "grants/all.csv": GRANTS,
    "workflows/orders.yaml": ORDERS,
}


@dataclass
class StandingClock:
    seconds: int = NOW

    def __call__(self) -> int:
        return self.seconds * 1_000_000

    def monotonic(self) -> float:
        return float(self.seconds)


@dataclass
class People:
    """A directory that can be told what to say."""

    people: dict[str, Person] = field(default_factory=lambda: {"paul": Person(frozenset({"buyers"}), active=True)})
    down: bool = False

    async def look(self, sub: str) -> Person:
        if self.down:
            raise Refused(Code.INVALID_CREDENTIAL, "the directory does not answer")
        return self.people.get(sub, NOBODY)

    async def close(self) -> None:
        pass


class Idp:
    """An identity provider: one key, tokens that say whatever a test wants."""

    def __init__(self, folder: Path, clock: StandingClock) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.clock = clock
        self.jwks = folder / "idp.json"
        self.jwks.write_text(json.dumps({"keys": [es256_jwk(self.key.public_key())]}))

    def settings(self) -> Issuer:
        return Issuer(
            alias="corp", issuer=IDP, audience=URL, jwks=Keys(file=self.jwks), algorithms=("ES256",), direct_clients=("cli",)
        )

    def token(self, client: str = "analyst-app", **changes: object) -> str:
        now = self.clock.seconds
        claims: dict[str, object] = {
            "iss": IDP,
            "aud": URL,
            "sub": "paul",
            "groups": ["buyers"],
            "client_id": client,
            "jti": new_id(self.clock()),
            "iat": now - 10,
            "exp": now + 1800,
        } | changes
        return jwt.encode(
            claims, self.key, algorithm="ES256", headers={"typ": "at+jwt", "kid": es256_jwk(self.key.public_key())["kid"]}
        )


@dataclass
class World:
    folder: Path
    clock: StandingClock
    idp: Idp
    agents: dict[str, Agent]
    secrets: dict[str, str]
    keys: dict[str, ec.EllipticCurvePrivateKey]
    state: State
    delegations: Delegations
    directory: People = field(default_factory=People)
    entries: list[Entry] = field(default_factory=list)
    kept: list[tuple[Access, str]] = field(default_factory=list)
    principal: Principal | None = None
    down: bool = False
    standing: Standing = field(init=False)
    kills: Kills = field(init=False)
    api: FastAPI = field(init=False)

    def __post_init__(self) -> None:
        ways = Ways(monotonic=self.clock.monotonic, endpoints=endpoints_of(URL))
        access = AccessTokens([self.idp.settings()], self.agents, tenant="acme", ways=ways)
        credentials = AgentCredentials(self.agents, URL, None, self.clock.monotonic)
        self.standing = Standing(self.state.grants, self.agents, {"corp": self.directory}, self.clock)
        names = Names("acme", frozenset({"corp"}), frozenset(self.agents), frozenset({"acme"}))
        self.kills = Kills(
            self.state.kills, self.append, names=names, issuers=[IDP], stale_seconds=1e9, monotonic=self.clock.monotonic
        )
        clients = Clients(credentials, Proofs(URL, self.state.once.use), self.clock)

        async def keep(access: Access, token: str) -> None:
            self.kept.append((access, token))

        self.exchange = Exchange(
            Parts(URL, self.agents, clients, access, self.delegations, self.standing, self.kills.alive, self.clock, keep)
        )
        recorder = Recorder(self.append, self.append, self.clock)
        bundle = load_texts(FILES)
        engine = Engine(bundle)
        workflows = InForceNow(Steps(self.state.histories, bytes(32), print), InForce(Policy(Pair(bundle, engine, 0))))
        self.administration = Administration(self.whoami, lambda _: engine.decide, recorder, self.clock)
        self.api = FastAPI()
        _errors(self.api)
        register(self.api, URL, self.exchange, self.administration, self.append, workflows)
        register_grants(self.api, self.standing, self.kills, self.administration, self.append)

    async def whoami(self, _request: object) -> Principal:
        if self.principal is None:
            raise Refused(Code.NO_CREDENTIAL)
        return self.principal

    async def kill(self, kind: str, target: str) -> None:
        kill = Kill(new_id(self.clock()), kind, target, None, "a test", "api", "user:corp/ann", self.clock())
        await self.kills.kill(kill, about=None)

    async def append(self, entry: Entry) -> Receipt:
        if self.down:
            raise LedgerUnavailableError("the disk is full")
        check(entry)
        self.entries.append(entry)
        return Receipt("test", entry.id, len(self.entries) - 1, b"")

    # what agents send

    def assertion(self, agent: str, typ: str | None = "client-authentication+jwt", **changes: object) -> str:
        now = self.clock.seconds
        claims: dict[str, object] = {"iss": agent, "sub": agent, "aud": URL, "iat": now, "exp": now + 60}
        claims |= {"jti": new_id(self.clock())} | changes
        key = self.keys[agent]
        return jwt.encode(claims, key, algorithm="ES256", headers={"typ": typ, "kid": es256_jwk(key.public_key())["kid"]})

    def basic(self, agent: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(f"{agent}:{self.secrets[agent]}".encode()).decode()}

    def proof(self, key: ec.EllipticCurvePrivateKey, **changes: object) -> dict[str, str]:
        public = {name: value for name, value in es256_jwk(key.public_key()).items() if name in ("kty", "crv", "x", "y")}
        claims: dict[str, object] = {"jti": new_id(self.clock()), "htm": "POST", "htu": f"{URL}/oauth/token"}
        claims |= {"iat": self.clock.seconds} | changes
        return {"DPoP": jwt.encode(claims, key, algorithm="ES256", headers={"typ": "dpop+jwt", "jwk": public})}

    async def post(self, form: Mapping[str, str] | bytes, headers: Mapping[str, str] | None = None) -> httpx.Response:
        body = form if isinstance(form, bytes) else urlencode(form).encode()
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.api), base_url=URL) as http:
            return await http.post("/oauth/token", content=body, headers=kind | dict(headers or {}))

    async def start(
        self, token: str | None = None, agent: str = "analyst", headers: Mapping[str, str] | None = None, **more: str
    ) -> httpx.Response:
        form = {"grant_type": TOKEN_EXCHANGE, "subject_token": token or self.idp.token(), "subject_token_type": ACCESS}
        return await self.post(form | more, self.basic(agent) | dict(headers or {}))

    async def renew(
        self, token: str, agent: str = "analyst", headers: Mapping[str, str] | None = None, **more: str
    ) -> httpx.Response:
        form = {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": JWT}
        return await self.post(form | more, self.basic(agent) | dict(headers or {}))

    async def child(
        self, token: str, child: str, agent: str = "analyst", headers: Mapping[str, str] | None = None, **more: str
    ) -> httpx.Response:
        form = {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": JWT}
        form |= {"actor_token": self.assertion(child), "actor_token_type": JWT}
        return await self.post(form | more, (self.basic(agent) if headers is None else headers))

    async def by_grant(self, grant: str, agent: str = "analyst", **more: str) -> httpx.Response:
        return await self.post({"grant_type": "client_credentials", "standing_grant": grant} | more, self.basic(agent))

    async def api_call(self, method: str, path: str, body: object = None) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.api), base_url=URL) as http:
            return await http.request(method, path, json=body)

    async def begun(self, agent: str = "analyst", **more: str) -> str:
        answer = await self.start(agent=agent, **more)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def said(self, answer: httpx.Response) -> Delegated:
        assert answer.status_code == 200, answer.text
        return self.delegations.verify(answer.json()["access_token"])

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.entries]


def thumbprint(key: ec.EllipticCurvePrivateKey) -> str:
    jwk = es256_jwk(key.public_key())
    members = orjson.dumps({name: jwk[name] for name in ("crv", "kty", "x", "y")}, option=orjson.OPT_SORT_KEYS)
    return base64.urlsafe_b64encode(hashlib.sha256(members).digest()).rstrip(b"=").decode()


def person(sub: str = "paul", *groups: str, actors: tuple[str, ...] = (), tenant: str = "acme") -> Principal:
    return Principal(
        f"user:corp/{sub}", actors, tenant, "wf-" + "0" * 26, NOW + 1800, "bearer", "0" * 64, frozenset(groups), issued=NOW - 10
    )


async def make_world(folder: Path) -> World:
    clock = StandingClock()
    idp = Idp(folder, clock)
    secrets: dict[str, Any] = {name: new_secret(name) for name in AGENTS}
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in AGENTS}
    agents = {}
    more: dict[str, dict[str, Any]] = {
        "analyst": {"client_ids": ("analyst-app",)},
        "narrow": {"scope": ("erp.read", "mail.*"), "client_ids": ("narrow-app",)},
        "reader": {"auth": {"bearer_ok": True}, "client_ids": ("reader-app",)},
    }
    for name in AGENTS:
        (folder / f"{name}.json").write_text(json.dumps({"keys": [es256_jwk(keys[name].public_key())]}))
        given = dict(more.get(name, {}))
        auth = AgentAuth(secret_sha256=(secrets[name][1],), jwks=Keys(file=folder / f"{name}.json"), **given.pop("auth", {}))
        agents[name] = Agent(auth=auth, **given)
    delegations = Delegations(ec.generate_private_key(ec.SECP256R1()), URL, max_depth=3, clock=clock, terms=terms_of(agents, 60))
    state = State.open(f"sqlite:///{folder / 'state.db'}")
    shown = {name: secret for name, (secret, _) in secrets.items()}
    world = World(folder, clock, idp, agents, shown, keys, state, delegations)
    await world.kills.refresh()
    return world
