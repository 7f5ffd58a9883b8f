"""A gateway with the MCP road on a real socket: real tokens, real upstreams in processes of their own; policy is a table."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from audit.leaf import check
from audit.model import Entry, LedgerUnavailableError, Receipt
from gateway.asgi import HostGuard
from gateway.identity.authenticate import Authenticator
from gateway.identity.devissuer import DevIssuer
from gateway.listener.listener import Bounds, Listener
from gateway.mcp import lists
from gateway.mcp.aggregate.endpoint import PATHS, Aggregate
from gateway.mcp.aggregate.sessions import Known
from gateway.mcp.asking import Asking
from gateway.mcp.blanked import blanked
from gateway.mcp.endpoint import McpEndpoint
from gateway.mcp.questions import Rules
from gateway.mcp.repeated import nothing_approved
from gateway.mcp.road import McpRoad
from gateway.mcp.sealed import Sealed
from gateway.mcp.standing import Standing, StreamTerms
from gateway.model import Arrival, Intent, Outcome, Refused, wall_clock
from gateway.obligations import DUTIES, withholds
from gateway.obligations import fulfil as duties
from gateway.obligations.blank import redact
from gateway.obligations.inspector import Inspector
from gateway.pipeline import Stages
from gateway.protected import scopes_of
from gateway.record import Recorder
from gateway.running import Running
from gateway.settings import Limits
from gateway.upstream.client import Upstreams, Url
from gateway.upstream.credentials import block
from gateway.upstream.registry import McpTarget
from policies.model import AccessRequest, Decision, Effect, Obligation, Reason

REFERENCE = Path(__file__).parent.parent / "upstreams" / "mcp_reference.py"
PLAIN = REFERENCE.with_name("mcp_plain.py")
MODERN = "2026-07-28"
FIXED = ((b"content-type", b"application/json"), (b"accept", b"application/json, text/event-stream"))
ALLOW = Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0")
DENY = Decision(Effect.DENY, Reason.USER_LACKS_RIGHT, "sha256:0")
HIDDEN = Decision(Effect.DENY, Reason.UNKNOWN_RESOURCE, "sha256:0", visible=False)


def allow_with(kind: str, **params: Any) -> Decision:
    """An allow with one duty."""
    return Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0", obligations=(Obligation(kind, kind, params),))


@contextmanager
def reference_server(*arguments: str) -> Iterator[str]:
    """The reference server as a process of its own; gives its URL."""
    environment = {"PATH": os.environ["PATH"]}
    command = [sys.executable, str(REFERENCE), "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            word, port = process.stdout.readline().split()
            assert word == "ready"
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


@contextmanager
def plain_server(*arguments: str) -> Iterator[str]:
    """A server of one era alone, as a process of its own; gives its URL.  `/control` beside it says what it does."""
    with subprocess.Popen([sys.executable, "-I", str(PLAIN), *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            word, port = process.stdout.readline().split()
            assert word == "ready"
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


def control(url: str, **said: Any) -> dict[str, Any]:
    """Tell a plain server what to do; what it has heard since the last time."""
    query = urllib.parse.urlencode({name: json.dumps(value) for name, value in said.items()})
    with urllib.request.urlopen(f"{url.removesuffix('/mcp')}/control?{query}", timeout=10) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


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
    """Keeps entries in memory and wakes who waits for one; `down` makes it fail."""

    entries: list[Entry] = field(default_factory=list)
    down: bool = False
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    async def append(self, entry: Entry) -> Receipt:
        if self.down:
            raise LedgerUnavailableError("down")
        check(entry)  # as the journal does
        self.entries.append(entry)
        self.grown.set()
        return Receipt("log", entry.id, len(self.entries) - 1, b"")

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.entries]

    async def until(self, kind: str) -> Entry:
        """The first entry of that kind, now or later."""
        while True:
            self.grown.clear()
            for entry in self.entries:
                if entry.kind == kind:
                    return entry
            await self.grown.wait()


class Notes:
    """Keeps what replicas know of sessions in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[bytes, int]] = {}

    async def read(self, digest: str, now: int) -> tuple[bytes, int] | None:
        return self.rows.get(digest)

    async def put(self, digest: str, before: bytes | None, sealed: bytes, until: int, now: int) -> bool:
        if self.rows.get(digest, (None, 0))[0] != before:
            return False
        self.rows[digest] = sealed, until
        return True


@dataclass
class World:
    """judge: decides instead of the table.

    verdicts: by (subject, resource) or ("*", resource); allowed where nothing is said.  `known` registers tools.
    """

    url: str
    issuer: DevIssuer
    ledger: Ledger
    client: httpx.AsyncClient
    upstreams: Upstreams
    aggregate: Aggregate = field(init=False)
    stages: Stages = field(init=False)
    verdicts: dict[tuple[str, str], Decision] = field(default_factory=dict)
    running: Running = field(default_factory=Running)
    standing: Any = None
    asked: list[AccessRequest] = field(default_factory=list)
    judge: Callable[[AccessRequest], Decision] | None = None

    def decide(self, request: AccessRequest) -> Decision:
        self.asked.append(request)
        return self._by(self.verdicts, request) if self.judge is None else self.judge(request)

    def change_policy(self, verdicts: Mapping[tuple[str, str], Decision], listed: list[tuple[str, str]]) -> None:
        """Another policy comes into force, which knows of these objects in lists; streams are held against it."""
        for verdict, objects in ((self.verdicts, []), ({**self.verdicts, **verdicts}, listed)):
            self.standing.enforce(lists.asking(partial(self._by, verdict), wall_clock), partial(_objects, objects))
        self.verdicts = {**self.verdicts, **verdicts}

    @staticmethod
    def _by(verdicts: Mapping[tuple[str, str], Decision], request: AccessRequest) -> Decision:
        for key in ((request.subject, request.resource), ("*", request.resource)):
            if key in verdicts:
                return verdicts[key]
        return ALLOW

    def enforce(self) -> None:
        """Policy has changed: the verdicts count for what stands open, too."""
        could = lists.asking(self.decide, wall_clock)
        self.standing.enforce(could, lambda _: ())
        self.aggregate.enforce(self.stages, could)

    def forget(self) -> None:
        """As if nothing had been asked yet."""
        self.verdicts.clear()
        self.asked.clear()
        self.ledger.entries.clear()
        self.ledger.down = False

    def token(self, person: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.issuer.issue(person, ())}"}

    async def post(
        self, person: str | None, body: bytes | dict[str, Any], *, server: str = "ref", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """One POST with exactly these headers besides the usual ones."""
        sent = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        sent |= (self.token(person) if person else {}) | dict(headers or {})
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(f"/mcp/{server}", content=content, headers=sent)

    async def modern(
        self, person: str | None, method: str, *, server: str = "ref", rpc_id: Any = 1, meta: Any = None, **params: Any
    ) -> httpx.Response:
        """A well-formed request of the stateless era."""
        return await self.post(
            person, modern_body(method, rpc_id, meta, **params), server=server, headers=modern_headers(method, **params)
        )

    async def legacy(
        self, person: str | None, method: str, *, server: str = "ref", rpc_id: Any = 1, session: str = "", **params: Any
    ) -> httpx.Response:
        """A well-formed request of the era of handshakes."""
        headers = {"mcp-protocol-version": "2025-11-25"} | ({"mcp-session-id": session} if session else {})
        body = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if rpc_id is None else {"id": rpc_id})
        return await self.post(person, body, server=server, headers=headers)

    async def handshake(self, person: str, server: str = "ref", *, capabilities: Any = None) -> str:
        """A legacy session's id."""
        info = {"name": "test", "version": "1"}
        answer = await self.legacy(
            person, "initialize", server=server, protocolVersion="2025-11-25", capabilities=capabilities or {}, clientInfo=info
        )
        assert answer.status_code == 200, answer.text
        session = answer.headers.get("mcp-session-id", "")
        await self.legacy(person, "notifications/initialized", server=server, rpc_id=None, session=session)
        return str(session)


def _objects(listed: list[tuple[str, str]], _server: str) -> list[tuple[str, str]]:
    return listed


def modern_body(method: str, rpc_id: Any = 1, meta: Any = None, **params: Any) -> dict[str, Any]:
    base = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
    return {"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": {**params, "_meta": base | (meta or {})}}


def modern_headers(method: str, **params: Any) -> dict[str, str]:
    named = params.get("name", params.get("uri"))
    return {"mcp-protocol-version": MODERN, "mcp-method": method} | ({} if named is None else {"mcp-name": named})


def answer_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON-RPC answer, whether it came as JSON or as the last event of a stream."""
    message: dict[str, Any]
    if response.headers["content-type"].startswith("text/event-stream"):
        events = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
        message = json.loads(events[-1])
    else:
        message = response.json()
    return message


@asynccontextmanager
async def gateway(folder: Path, servers: Mapping[str, str | McpTarget], **options: Any) -> AsyncIterator[World]:
    """`/mcp/{server}` for each of them, and `/mcp`.

    options: `issuer` (changes of its settings), `others`, `limits`, `heartbeat`, `patience`, `sealed`,
    `credentials` (header lines towards every HTTP server),
    `repeats` (by approved definitions), `upstreams`, `further` (what follows the duties), `public_url`,
    `rules` (of questions), `streams`, `notes` (of sessions),
    `shared` (of sealed values: how answers go from one replica to another)."""
    sock = socket.create_server(("127.0.0.1", 0))
    own = f"http://127.0.0.1:{sock.getsockname()[1]}"
    url = options.get("public_url", own)  # another gateway's, where both are replicas of one
    issuer = DevIssuer(folder, f"{url}/dev", url)
    trusted = issuer.settings().model_copy(update=options.get("issuer", {}))
    authenticator = Authenticator(
        tenant="acme",
        public_url=url,
        issuers=(trusted,),
        agents={},
        delegations=options.get("delegations"),
    )
    upstreams = options.get("upstreams") or Upstreams()
    ledger = Ledger()
    recorder = Recorder(ledger.append, ledger.append, wall_clock, withholds=withholds)
    static = block(options.get("credentials", ()), FIXED)
    targets = {
        name: where
        if isinstance(where, McpTarget)
        else McpTarget(name, "http", url=Url.parse(where, allow_private=True), static=static)
        for name, where in servers.items()
    }
    limits = options.get("limits", Limits())

    def observe(arrival: Arrival, what: Intent | Refused, outcome: Outcome | None) -> None:
        pass

    further = options.get("further")

    inspector: Inspector = options.get("inspector") or Inspector()

    async def fulfil(permit: Any) -> Any:
        permit = await duties(permit, {**DUTIES, "inspect": inspector.fulfil})
        permit = road.further(await inspector.sent(permit, blanked) if permit.redact_sent else permit)
        return await further(permit) if further is not None else permit

    async with httpx.AsyncClient(base_url=own, timeout=30, trust_env=False, verify=False) as client:
        world = World(url, issuer, ledger, client, upstreams)
        could = lists.asking(world.decide, wall_clock)
        sealed = options.get("sealed") or Sealed([secrets.token_bytes(32)])
        rules = {name: options.get("rules", Rules()) for name in targets}
        asking = Asking(judge=lambda _: world.decide, rules=rules, clock=wall_clock, duties=duties)
        standing = world.standing = Standing(lambda _: world.decide, could)
        road = McpRoad(
            asking=asking,
            standing=standing,
            streams=options.get("streams", StreamTerms()),
            targets=targets,
            upstreams=upstreams,
            sealed=sealed,
            could=could,
            redact=redact,
            repeats=options.get("repeats", nothing_approved),
            others=options.get("others"),
            json_depth=limits.json_depth,
            response_bytes=limits.response_bytes,
        )
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
            watch=lambda intent: world.running.watch(intent.permit.principal),
            inspect=partial(inspector.looked, face=road),
        )
        asking.by(stages)
        heartbeat = options.get("heartbeat", 15.0)
        stages = options.get("over", lambda made: made)(stages)
        scopes = scopes_of([trusted.required_scope])
        endpoint = McpEndpoint(
            stages, guard=HostGuard(url), limits=limits, public_url=url, could=could, scopes=scopes, heartbeat=heartbeat
        )
        world.stages = stages
        world.aggregate = Aggregate(
            stages,
            eras={name: target.era for name, target in targets.items()},
            guard=HostGuard(url),
            limits=limits,
            public_url=url,
            could=could,
            sealed=sealed,
            known=Known(options.get("notes") or Notes(), sealed, wall_clock),
            heartbeat=heartbeat,
            patience=options.get("patience", 5.0),
            elsewhere=options["shared"](sealed) if "shared" in options else None,
        )

        async def both(scope: Any, receive: Any, send: Any) -> None:
            await (world.aggregate if scope["path"] in PATHS else endpoint)(scope, receive, send)

        try:
            async with serving(both, sock):
                yield world
        finally:
            await world.aggregate.aclose()
            await upstreams.aclose()


@asynccontextmanager
async def connected(world: World, mode: str, person: str = "anna", server: str = "ref") -> AsyncIterator[Client]:
    """`server` "" is the aggregate."""
    async with httpx2.AsyncClient(headers=world.token(person), timeout=30, trust_env=False) as http:
        transport = streamable_http_client(f"{world.url}/mcp/{server}".rstrip("/"), http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client
