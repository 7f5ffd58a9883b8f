"""A gateway with the A2A road on a real socket: real tokens, real ownership store, real agents; policy is a table."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from audit.model import Entry, LedgerUnavailableError, Receipt
from gateway.a2a.authorisation import Asks
from gateway.a2a.blanked import FACE, blanked
from gateway.a2a.callback import CallbackEndpoint
from gateway.a2a.cards import JWKS_PATH, Cards, Terms, by_http
from gateway.a2a.deliveries import Deliveries
from gateway.a2a.drift import Drifts
from gateway.a2a.endpoint import A2aEndpoint
from gateway.a2a.grpc_server import Door, GrpcFace
from gateway.a2a.hop import Peer
from gateway.a2a.push import PATH as CALLBACKS
from gateway.a2a.push import Push
from gateway.a2a.road import A2aRoad
from gateway.a2a.standing import Standing
from gateway.a2a.tasks import Ownership
from gateway.a2a.webhook import Allowed
from gateway.asgi import HostGuard, send_json
from gateway.identity.agents import AgentCredentials, new_secret
from gateway.identity.authenticate import Authenticator
from gateway.identity.delegation import Delegations
from gateway.identity.devissuer import DevIssuer
from gateway.listener.listener import Bounds, Listener
from gateway.mcp.sealed import Sealed
from gateway.model import Arrival, Intent, Outcome, Permit, Refused, wall_clock
from gateway.obligations import DUTIES, withholds
from gateway.obligations import fulfil as duties
from gateway.obligations.inspector import Inspector
from gateway.pipeline import Stages
from gateway.record import Recorder
from gateway.serving_a2a import PageTokens
from gateway.settings import Agent, AgentAuth, Limits
from gateway.state.sealing import Sealer
from gateway.state.store import State
from gateway.upstream.client import Upstreams, Url
from policies.model import AccessRequest, Decision, Effect, Reason

REFERENCE = Path(__file__).parent.parent / "upstreams" / "a2a_reference.py"
ALLOW = Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0")
DENY = Decision(Effect.DENY, Reason.USER_LACKS_RIGHT, "sha256:0")
HIDDEN = Decision(Effect.DENY, Reason.UNKNOWN_RESOURCE, "sha256:0", visible=False)


@contextmanager
def reference_agent(*arguments: str) -> Iterator[str]:
    """The reference agent as a process of its own; gives its base URL."""
    with reference_agent_at(*arguments) as (url, *_):
        yield url


@contextmanager
def reference_agent_at(*arguments: str) -> Iterator[tuple[str, ...]]:
    """The same; with `--grpc`, its base URL and where it serves gRPC."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    command = [sys.executable, str(REFERENCE), "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            word, port, *rest = process.stdout.readline().split()
            assert word == "ready"
            yield f"http://127.0.0.1:{port}", *(f"127.0.0.1:{each}" for each in rest)
        finally:
            process.kill()


@asynccontextmanager
async def serving(app: Callable[..., Any], sock: socket.socket) -> AsyncIterator[None]:
    """An ASGI application on a real socket."""
    listener = Listener(app, Bounds(grace=1))
    await listener.open(sock=sock)
    try:
        yield
    finally:
        await listener.close()


@dataclass
class Ledger:
    """Keeps entries in memory; `down` makes it fail."""

    entries: list[Entry] = field(default_factory=list)
    down: bool = False
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    async def append(self, entry: Entry) -> Receipt:
        if self.down:
            raise LedgerUnavailableError("down")
        self.entries.append(entry)
        self.grown.set()
        return Receipt("log", entry.id, len(self.entries) - 1, b"")

    async def holds(self, count: int) -> None:
        """Return when there are so many entries."""
        while len(self.entries) < count:
            self.grown.clear()
            await self.grown.wait()

    async def when(self, true: Callable[[list[Entry]], bool]) -> None:
        """Return when that is so."""
        async with asyncio.timeout(20):
            while not true(self.entries):
                self.grown.clear()
                await self.grown.wait()

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.entries]


@dataclass
class World:
    url: str
    issuer: DevIssuer
    delegations: Delegations
    ledger: Ledger
    client: httpx.AsyncClient
    secrets: Mapping[str, str]
    verdicts: dict[tuple[str, str], Decision] = field(default_factory=dict)
    upstreams: Upstreams | None = None
    standing: Standing | None = None
    doors: Mapping[str, int] = field(default_factory=dict)
    """Port of each agent over gRPC."""
    face: GrpcFace | None = None

    def enforce(self, resource: str, decision: Decision) -> None:
        """Another policy comes into force."""
        self.verdicts["*", resource] = decision
        assert self.standing is not None
        self.standing.enforce()

    def decide(self, request: AccessRequest) -> Decision:
        """By (subject, resource), else by resource; allowed where nothing is said and the agent is registered."""
        for key in ((request.subject, request.resource), ("*", request.resource)):
            if key in self.verdicts:
                return self.verdicts[key]
        return ALLOW

    def token(self, person: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.issuer.issue(person, ())}"}

    async def rpc(
        self, person: str | None, method: str, params: Any, *, agent: str = "ref", rpc_id: Any = "1", **headers: str
    ) -> httpx.Response:
        body = json.dumps({"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": params})
        return await self.raw(person, body.encode(), agent=agent, **headers)

    async def raw(self, person: str | None, body: bytes, *, agent: str = "ref", **headers: str) -> httpx.Response:
        sent = {"content-type": "application/json", "a2a-version": "1.0"} | (self.token(person) if person else {})
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(f"/a2a/{agent}/", content=body, headers=sent)

    async def send(self, person: str, message_id: str, text: str = "hi", **message: Any) -> dict[str, Any]:
        """SendMessage; the whole JSON-RPC answer."""
        params = {"message": {"messageId": message_id, "role": "ROLE_USER", "parts": [{"text": text}], **message}}
        answer: dict[str, Any] = (await self.rpc(person, "SendMessage", params)).json()
        return answer


@asynccontextmanager
async def gateway(folder: Path, agents: Mapping[str, str], **options: Any) -> AsyncIterator[World]:
    """options: `peers` (agent → fields of its Peer), `limits`, `heartbeat`, `max_depth`, `served` (agent → its interfaces),
    `terms` (agent → what is demanded of its card), `card_clock`.
    `grpc`: the certificate of its listeners, or False for none; `door`: what each of them serves; `bounds`.
    `certificates` (agent → names of its own), which the listeners verify.
    """
    sock = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    issuer = DevIssuer(folder, f"{url}/dev", url)
    delegations = Delegations(ec.generate_private_key(ec.SECP256R1()), url, max_depth=options.get("max_depth", 5))
    secrets, registered = {}, {}
    for agent in agents:
        secrets[agent], digest = new_secret(agent)
        shown = options.get("certificates", {}).get(agent, ())
        registered[agent] = Agent(auth=AgentAuth(secret_sha256=(digest,), certificates=shown), client_ids=(agent,))
    authenticator = Authenticator(
        tenant="acme", public_url=url, issuers=(issuer.settings(),), agents=registered, delegations=delegations,
        credentials=AgentCredentials(registered, url, direct="certificates" in options),
    )  # fmt: skip
    state = State.open(f"sqlite:///{folder / 'state.db'}")
    upstreams = Upstreams()
    ledger = Ledger()
    recorder = Recorder(ledger.append, ledger.append, wall_clock, withholds=withholds)
    peers = {
        agent: Peer(
            agent,
            Url.parse(
                where.removeprefix("rest+").replace("grpc://", "http://").replace("grpcs://", "https://"), allow_private=True
            ),
            **(
                {"headers": (), "delegation_header": b"authorization", "max_groups": 200}
                | ({"binding": where[:4]} if where[:4] in {"grpc", "rest"} else {})
                | options.get("peers", {}).get(agent, {})
            ),
        )
        for agent, where in agents.items()
    }
    allowed = options.get("allowed", Allowed())
    cards = Cards(
        url, options.get("card_clock", wall_clock),
        options.get("served", lambda agent: by_http(url, agent, peers[agent].versions)),
        ring=delegations.ring, push=bool(allowed),
        terms={name: Terms(extensions=peer.extensions) for name, peer in peers.items()} | options.get("terms", {}),
        drift=Drifts(state.cards, ledger.append, wall_clock),
    )  # fmt: skip
    sealer = Sealer(bytes(32), "push")
    push = Push(state.push, sealer, url, allowed, lambda: wall_clock() // 1_000_000) if allowed else None
    limits = options.get("limits", Limits())
    tokens = PageTokens(Sealed([bytes(32)]))
    ownership = Ownership(state.tasks, state.contexts)
    road = A2aRoad(
        peers=peers,
        upstreams=upstreams,
        ownership=ownership,
        mint=delegations.mint,
        cards=cards,
        tokens=tokens,
        push=push,
        bounds=options.get("bounds"),
        judge=lambda _: world.decide,
        declaring=options.get("declaring"),
        asks=(asks := Asks(recorder.authorisation, {name: peer.sends_to for name, peer in peers.items()})),
    )

    inspector: Inspector = options.get("inspector") or Inspector()

    async def fulfil(permit: Permit) -> Permit:
        permit = await duties(permit, {**DUTIES, "inspect": inspector.fulfil})
        return await road.fulfil(blanked(permit) if permit.redact_sent else permit)

    def observe(arrival: Arrival, what: Intent | Refused, outcome: Outcome | None) -> None:
        pass

    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False, verify=False) as client:
        world = World(url, issuer, delegations, ledger, client, secrets, upstreams=upstreams)
        standing = world.standing = Standing(lambda _: world.decide, options.get("clock", wall_clock))
        stages = Stages(
            authenticate=authenticator,
            parse=road.parse,
            normalise=road.normalise,
            decide=world.decide,
            fulfil=fulfil,
            record_intent=recorder.intent,
            forward=road.forward,
            filter=road.filter,
            record_outcome=recorder.outcome,
            record_refusal=recorder.refusal,
            observe=observe,
            inspect=partial(inspector.looked, face=FACE),
        )
        stages = replace(stages, watch=standing.over(stages.watch))
        heartbeat = options.get("heartbeat", 15.0)
        endpoint = A2aEndpoint(stages, guard=HostGuard(url), limits=limits, heartbeat=heartbeat)
        deliveries = Deliveries(lambda: endpoint.stages, upstreams, allowed, ownership, options.get("pauses", (0.01, 0.01)), asks)
        callbacks = CallbackEndpoint(push, deliveries, HostGuard(url), limits, stages, wall_clock) if push else None

        async def app(scope: Any, receive: Any, send: Any) -> None:
            path = scope.get("path", "")
            if path == JWKS_PATH:
                document, _ = delegations.ring.document()
                await send_json(send, 200, document)
                return
            place = callbacks if callbacks is not None and path.startswith(CALLBACKS) else endpoint
            await place(scope, receive, send)

        face = GrpcFace(lambda: endpoint.stages, limits=limits)
        certificate = options.get("grpc")
        try:
            if certificate is not None:
                shared = options.get("door")
                doors = [shared or Door("127.0.0.1", 0, {agent: agent}, {}) for agent in agents]
                ports = [await face.open(door, certificate or None) for door in doors]
                world.doors, world.face = dict(zip(agents, ports, strict=True)), face
            async with serving(app, sock):
                yield world
        finally:
            await face.close(0)
            await road.aclose()
            await deliveries.aclose()
            await standing.close()
            await cards.aclose()
            await upstreams.aclose()
            await state.close()
