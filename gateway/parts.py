"""What both protocols' roads are made of, opened once by the composition root, and the stages that they share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.a2a.road import A2aRoad
from gateway.approvals.approvals import Approvals
from gateway.asgi import HostGuard, Slots
from gateway.identity.keyfiles import resolve
from gateway.identity.opening import Identity
from gateway.ledger_opening import Ledgers, Way
from gateway.mcp.road import McpRoad
from gateway.model import Arrival, Clock, Intent, Outcome, OutcomeStatus, Permit, Principal, Refused, Reserved
from gateway.obligations.inspector import Face
from gateway.obligations.opening import Opened as OpenedDuties
from gateway.pipeline import Stages
from gateway.policy.opening import Opened
from gateway.record import Recorder
from gateway.state.store import State as StateStore
from gateway.telemetry import Telemetry
from gateway.upstream.client import Upstreams
from gateway.workflows.steps import Steps
from policies.model import AccessRequest, Decision
from policies.workflows.story import State

if TYPE_CHECKING:
    from gateway.sandbox.runs import Sandboxed
    from gateway.settings import Secret, Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """All that a road needs beside its own protocol.

    seal_key   32 bytes; every purpose has a key of its own of it (`derived`).
    stack      closes what a road opens, when the gateway ends.
    """

    settings: Settings
    environ: Mapping[str, str]
    clock: Clock
    stack: AsyncExitStack
    policy: Opened
    ledger: Ledgers
    journal: Way
    state: StateStore
    upstreams: Upstreams
    identity: Identity
    telemetry: Telemetry
    recorder: Recorder
    guard: HostGuard
    slots: Slots
    seal_key: bytes
    steps: Steps
    duties: OpenedDuties
    approvals: Approvals
    sandboxed: Sandboxed | None = None

    def judge_of(self, principal: Principal) -> Callable[[AccessRequest], Decision]:
        """Who decides for a principal now."""
        return self.policy.in_force.current.pair_of(principal.workflow).engine.decide

    def bare(self, secret: Secret) -> str:
        """A secret without its prefix, which the header's maker adds."""
        return resolve(secret.model_copy(update={"prefix": ""}), self.environ)

    def freeing(self, fulfil: Callable[[Permit], Awaitable[Permit]]) -> Callable[[Permit], Awaitable[Permit]]:
        """The same stage, after whose failure a call keeps nothing of what it took."""

        async def guarded(permit: Permit) -> Permit:
            try:
                return await fulfil(permit)
            except BaseException:  # a caller that leaves, too
                self.duties.limits.over(permit.call.arrival.id)
                raise

        return lambda permit: guarded(permit) if permit.decision.obligations else fulfil(permit)

    def stages(self, road: McpRoad | A2aRoad, fulfil: Callable[[Permit], Awaitable[Permit]], face: Face) -> Stages:
        """One protocol's stages: what is its own from `road`, the rest shared."""
        telemetry, clock, recorder, limits = self.telemetry, self.clock, self.recorder, self.duties.limits

        async def record_intent(permit: Permit) -> Intent:
            try:
                intent = await recorder.intent(permit)
                if permit.reserved is not None:
                    await _reserved(recorder, intent, permit.reserved)
            except BaseException:
                limits.over(permit.call.arrival.id)
                raise
            telemetry.set_out(permit.call.arrival)  # every intent is observed, once
            return intent

        def observe(arrival: Arrival, end: Intent | Refused, outcome: Outcome | None) -> None:
            if isinstance(end, Intent):
                telemetry.came_back(arrival)
            if limits.held:
                limits.over(arrival.id)
            telemetry.observe(arrival, end, outcome, clock())

        return Stages(
            authenticate=self.identity.authenticator,
            parse=road.parse,
            normalise=road.normalise,
            decide=self.policy.in_force.current.active.engine.decide,
            fulfil=fulfil,
            record_intent=record_intent,
            forward=road.forward,
            filter=road.filter,
            record_outcome=recorder.outcome,
            record_refusal=recorder.refusal,
            observe=observe,
            watch=self.identity.kills.watch,
            settled=recorder.settled,
            inspect=partial(self.duties.inspector.looked, face=face),
        )


async def _reserved(recorder: Recorder, intent: Intent, reserved: Reserved) -> None:
    """The call's step is durable, as its record is; or the call ends here, on record."""
    try:
        await reserved.durable
    except Refused:
        await recorder.outcome(intent, Outcome(OutcomeStatus.INTERNAL_ERROR, detail="not reserved", step=State.UNSENT.value))
        raise


def derived(key: bytes, purpose: bytes) -> bytes:
    """A key of its own for one purpose (RFC 5869): what opens sessions opens nothing of the ledger."""
    return HKDF(hashes.SHA256(), 32, salt=None, info=b"bailiwick " + purpose).derive(key)
