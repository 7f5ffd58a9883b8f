"""The composition root: settings → stages → one ASGI application.  Read this second, after `pipeline.py`.

The data plane's paths are taken before FastAPI sees them; everything a stage needs is made here, once, at the start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import chain
from typing import Final

from fastapi import FastAPI, Request

from audit.model import LedgerUnavailableError
from gateway.a2a.callback import CallbackEndpoint
from gateway.a2a.endpoint import A2aEndpoint
from gateway.a2a.operations import DIRECTORY_PATHS
from gateway.a2a.push import PATH as CALLBACKS
from gateway.a2a.wire import params_of
from gateway.access import Access, add_access
from gateway.administration import Administration
from gateway.api import Doors, make_api
from gateway.approvals.opening import opened as opened_approvals
from gateway.approvals.page import register as register_page
from gateway.approvals.routes import Desk as ApprovalDesk
from gateway.approvals.routes import register as register_approvals
from gateway.asgi import HostGuard, Receive, Scope, Send, Slots, fields_of, make_arrival, send_json, shut_door
from gateway.audit_routes import AuditDoor
from gateway.audit_routes import register as register_audit
from gateway.audit_values import register as register_values
from gateway.cannotstart import as_problem
from gateway.egress.opening import WayOut
from gateway.erasure.erasing import Eraser
from gateway.erasure.opening import opened as opened_erasing
from gateway.erasure.routes import register as register_erasure
from gateway.identity.devissuer import PEOPLE, DevIssuer
from gateway.identity.keyfiles import seal_key
from gateway.identity.opening import Means
from gateway.identity.opening import opened as opened_identity
from gateway.ledger_opening import Ledgers
from gateway.ledger_several import opened as opened_ledger
from gateway.ledger_tiles import TileDoor
from gateway.ledger_tiles import register as register_tiles
from gateway.mcp.aggregate.endpoint import PATHS as AGGREGATE_PATHS
from gateway.mcp.wire import arguments_of
from gateway.model import Arrival, Clock, Principal, Refused, wall_clock
from gateway.oauth.routes import Desk
from gateway.oauth.routes import register as register_oauth
from gateway.obligations import fulfil as fulfil_duties
from gateway.obligations import withholds
from gateway.obligations.opening import opened as opened_duties
from gateway.overlap import overlapping
from gateway.parts import Parts, derived
from gateway.policy.metrics import families
from gateway.policy.opening import Opened, opened, prepared
from gateway.policy.routes import PolicyDoor
from gateway.problem import ProblemError
from gateway.protected import METADATA, PROBED, scopes_of
from gateway.reasons import Code
from gateway.record import Recorder
from gateway.sandbox.folders import SESSIONS
from gateway.sandbox.opening import Ground
from gateway.sandbox.opening import opened as opened_sandbox
from gateway.sandbox.runs import Sandboxed
from gateway.sandbox.servers import opened as opened_servers
from gateway.sandbox.user_folders import PURPOSE
from gateway.serving_a2a import open_a2a
from gateway.serving_grpc import open_grpc
from gateway.serving_mcp import McpFaces, open_mcp, open_pins
from gateway.settings import Settings
from gateway.spool_routes import spooling
from gateway.state.sealing import Sealer
from gateway.state.store import State
from gateway.stores import state_url_of
from gateway.telemetry import Telemetry
from gateway.upstream.client import Upstreams
from gateway.upstream.registry import mcp_targets
from gateway.whose_log import Whose
from gateway.workflows.asking import Asking
from gateway.workflows.opening import MARKS
from gateway.workflows.opening import opened as opened_workflows
from gateway.workflows.routes import register as register_workflows

log = logging.getLogger("gateway")

MCP_PATH: Final = "/mcp/"
A2A_PATH: Final = "/a2a/"
_SENT: Final = {"mcp": arguments_of, "a2a": params_of}


class App:
    """The gateway as an ASGI application.  It opens its stores at ASGI's lifespan startup and closes them at shutdown."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], *, clock: Clock = wall_clock) -> None:
        self._settings = settings
        self._environ = environ
        self._clock = clock
        self._stack = AsyncExitStack()
        self._failure: Exception | None = None
        self._guard = HostGuard(settings.public_url, settings.server.allowed_hosts, settings.server.allowed_origins)
        self._mcp: McpFaces | None = None
        self._a2a: A2aEndpoint | None = None
        self._callbacks: CallbackEndpoint | None = None
        self._api: FastAPI | None = None
        self._policy: Opened | None = None
        self._forget: list[Callable[[], None]] = []  # what else relies on what was proven once
        self._record: Callable[[Arrival, Refused], Awaitable[None]]  # there before the API is

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Data plane first; then the API; nothing before the stores are open."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        path: str = scope.get("path", "")
        if self._mcp is not None and path in AGGREGATE_PATHS:
            await self._mcp.aggregate(scope, receive, send)
        elif self._mcp is not None and path.startswith(MCP_PATH) and PROBED not in path:
            await self._mcp.mounts(scope, receive, send)
        elif self._a2a is not None and (path.startswith(A2A_PATH) or path in DIRECTORY_PATHS):
            await self._a2a(scope, receive, send)
        elif self._callbacks is not None and path.startswith(CALLBACKS):
            await self._callbacks(scope, receive, send)
        elif self._api is not None and scope["type"] == "http":
            await self._rest(self._api, scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send_json(send, 503, b'{"title":"starting"}')

    def raise_failure(self) -> None:
        """Raise what kept the gateway from starting, if anything did."""
        if self._failure is not None:
            raise self._failure

    def reload_policy(self) -> None:
        """Have the folders of policy read again, soon, and isolation proven anew: what SIGHUP asks for."""
        if self._policy is not None:
            self._policy.watcher.wake("signal")
        for forget in self._forget:
            forget()

    async def _rest(self, api: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._guard.check(fields_of(scope)[1], public=scope["path"].startswith(METADATA))
        except Refused as refusal:
            await shut_door(scope, send, self._clock, refusal, self._record)
            return
        await api(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                except (ProblemError, LedgerUnavailableError, ValueError, OSError) as error:
                    await self._stack.aclose()
                    self._failure = as_problem(error)
                    await send({"type": "lifespan.startup.failed", "message": ""})  # said in full by whoever runs us
                    return
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._stack.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def start(self) -> None:
        """Open everything, in the order in which it is needed; what was opened is closed again where a later part fails."""
        settings, limits, clock, stack = self._settings, self._settings.limits, self._clock, self._stack
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        activation = await prepared(settings, clock)
        telemetry = Telemetry.start(self._environ, version("bailiwick"))
        stack.push_async_callback(asyncio.to_thread, telemetry.shutdown)  # it waits for the collector
        seal = seal_key(settings.data, settings.ledger.seal_key, self._environ)
        upstreams = Upstreams(connect_seconds=limits.upstream_connect_seconds, idle_seconds=limits.upstream_idle_seconds)
        stack.push_async_callback(upstreams.aclose)
        ledger = await opened_ledger(settings, self._environ, clock, seal, stack, upstreams)
        journal = ledger.journal
        policy = await opened(activation, settings, journal.append, state_url_of(settings), stack)
        telemetry.watch(
            ledger_queue=lambda: journal.queued,
            ledger_healthy=lambda: ledger.sound,
            bundle=lambda: policy.in_force.current.active.digest,
            policy=lambda: families(policy.activation, policy.shadowing),
            proofs=ledger.families,
        )
        state = await asyncio.to_thread(State.open, state_url_of(settings), settings.workflows.keep_days)
        stack.push_async_callback(state.close)
        dev = self._dev_issuer()
        means = Means(settings, self._environ, clock, state, upstreams, _SENT, seal, stack, journal.append)
        identity = await opened_identity(means)
        workflows = opened_workflows(settings, state, policy, (seal, derived(seal, MARKS)), clock, stack)
        parts = Parts(
            settings, self._environ, clock, stack, policy, ledger, journal, state, upstreams, identity, telemetry,
            self._open_recorder(ledger, policy), self._guard, Slots(limits.concurrent_calls), seal, workflows.steps,
            (duties := opened_duties(means)), opened_approvals(means, policy, identity, duties.notifier),
        )  # fmt: skip
        targets = mcp_targets(settings, parts.bare)
        out = WayOut(settings.sandbox.egress, parts.recorder, parts.judge_of, identity.kills.alive, clock)
        stack.callback(out.close)
        if settings.sandbox.enabled:
            parts = replace(parts, sandboxed=await self._open_sandbox(parts, derived(seal, SESSIONS), out))
        servers = opened_servers(settings, journal.append, clock, out, derived(seal, PURPOSE))
        self._forget.append(servers.forget)
        stack.push_async_callback(servers.aclose)
        telemetry.watch(stdio=servers.families)
        pins = await open_pins(parts, targets)
        self._mcp = open_mcp(parts, targets, await servers.begun(targets.values(), limits), pins)
        agents = open_a2a(parts)
        self._a2a, self._callbacks = agents.endpoint, agents.callbacks
        telemetry.watch(policy=lambda: chain(families(policy.activation, policy.shadowing), pins.families(), agents.families()))
        doors = self._doors(parts, dev)
        self._api = make_api(doors)
        add_access(self._api, _access(parts, doors))
        register_oauth(self._api, Desk(settings.public_url, identity, doors.policy.administration, journal.append, workflows))
        _add_ledger(self._api, parts, doors.policy.administration, servers.erase)
        self._policy = policy
        await open_grpc(parts, lambda: agents.endpoint.stages)  # last: from here on calls come

    def _open_recorder(self, ledger: Ledgers, policy: Opened) -> Recorder:
        journal, overlaps = ledger.journal, overlapping(self._settings, policy.in_force)
        recorder = Recorder(
            journal.append, journal.submit, self._clock, vouch=ledger.vouch, overlaps=overlaps, withholds=withholds,
            spools=spooling(self._settings), activated=policy.activation.since,
        )  # fmt: skip
        self._stack.push_async_callback(recorder.close)
        self._record = recorder.refusal
        return recorder

    def _dev_issuer(self) -> DevIssuer | None:
        chosen = next((issuer for issuer in self._settings.issuers if issuer.development), None)
        if chosen is None:
            return None
        log.warning("the development issuer is on: whoever reaches this port can be anybody")
        return DevIssuer(self._settings.data, chosen.issuer, chosen.audience, self._clock)

    async def _open_sandbox(self, parts: Parts, key: bytes, out: WayOut) -> Sandboxed:
        async def within(arrival: Arrival, authenticate: Callable[[Arrival], Awaitable[Principal]]) -> tuple[bytes, str]:
            if self._mcp is None:
                raise Refused(Code.INTERNAL_ERROR, "the gateway is starting")
            return await self._mcp.mounts.inside(arrival, authenticate)

        identity = parts.identity
        ground = Ground(
            parts.settings, parts.clock, parts.journal.append, key, parts.judge_of,
            partial(fulfil_duties, duties=parts.duties.by_type), identity.delegations,
            identity.authenticator, within, out,
        )  # fmt: skip
        sandboxed = await opened_sandbox(ground)
        self._stack.push_async_callback(sandboxed.aclose)
        parts.telemetry.watch(sandbox=lambda: chain(sandboxed.families(), out.families()))
        self._forget.append(sandboxed.forget)
        return sandboxed

    def _doors(self, parts: Parts, dev: DevIssuer | None) -> Doors:
        async def whoami(request: Request) -> Principal:
            scope = {**request.scope, "method": request.method}
            arrival = make_arrival(scope, b"", protocol="mcp", target="", path="", clock=parts.clock)
            try:
                return await parts.identity.authenticator(arrival)
            except Refused as refusal:
                await parts.recorder.refusal(arrival, refusal)
                raise

        def faults() -> Mapping[str, str]:
            health = parts.journal.healthy
            found = {} if health or health.spooling else {"ledger": health.reason}
            return found | ({"kills": parts.identity.kills.fault} if parts.identity.kills.fault else {})

        async def checkpoint() -> str | None:
            return await asyncio.to_thread(parts.journal.checkpoint)

        return Doors(
            public_url=parts.settings.public_url,
            issuers=tuple(issuer.issuer for issuer in parts.settings.issuers),
            scopes=scopes_of(issuer.required_scope for issuer in parts.settings.issuers),
            faults=faults,
            metrics=parts.telemetry.render_prometheus,
            remembered=parts.ledger.remembered,
            checkpoint=checkpoint,
            whoami=whoami,
            policy=PolicyDoor(parts.policy, Administration(whoami, parts.judge_of, parts.recorder, parts.clock)),
            issue=None if dev is None else lambda name: dev.issue(name, PEOPLE[name]),
        )


def _add_ledger(api: FastAPI, parts: Parts, office: Administration, folders: Eraser) -> None:
    """What is asked of the ledger itself, and of what waits for people; `folders` erases what servers keep of a person."""
    desk, settings, in_force = ApprovalDesk(parts.approvals, office), parts.settings, parts.policy.in_force
    register_approvals(api, desk)
    register_page(api, desk, Sealer(derived(parts.seal_key, b"approval pages"), "approval pages"), parts.clock)
    register_workflows(
        api, parts.state.standings, lambda name: in_force.current.pair_of(name).bundle.workflows, office, parts.clock
    )
    whose = Whose(settings, office)
    register_audit(api, AuditDoor(whose, parts.seal_key, office, parts.clock))
    register_values(api, whose, parts.seal_key, office, parts.journal.append, parts.clock)
    register_tiles(api, TileDoor(parts.ledger.served, office, whose))
    register_erasure(api, opened_erasing(parts, folders), office, settings.tenant)


def _access(parts: Parts, doors: Doors) -> Access:
    """The decision point over HTTP: the judge that the caller's calls would meet now."""

    dead = parts.identity.kills.dead
    asking = Asking(parts.steps, parts.state.histories, parts.policy.in_force)

    append, since = parts.journal.append, parts.policy.activation.since
    return Access(doors.public_url, doors.whoami, parts.judge_of, append, parts.clock, dead, asking.of, since)
