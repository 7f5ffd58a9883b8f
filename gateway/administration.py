"""Changing the gateway itself: policy says who may, and the wish is on record before it is fulfilled."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from gateway.asgi import make_arrival
from gateway.model import Arrival, Clock, Principal, Refused
from gateway.reasons import Code
from gateway.scope import within
from policies.model import AccessRequest, Decision

if TYPE_CHECKING:
    from fastapi import Request

    from gateway.record import Recorder


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants of the gateway, and was allowed.  `id` is that of its record."""

    principal: Principal
    id: str
    at: int


@dataclass(frozen=True, slots=True)
class Administration:
    """Asks policy about `admin:<area>`.

    whoami  authenticates a request's frame.
    judge   who decides for this principal now.
    """

    whoami: Callable[[Request], Awaitable[Principal]]
    judge: Callable[[Principal], Callable[[AccessRequest], Decision]]
    recorder: Recorder
    clock: Clock

    async def permit(  # noqa: PLR0917  the parts of one question
        self, request: Request, action: str, area: str, kind: str, wanted: str, principal: Principal | None = None
    ) -> Wish:
        """The wish of somebody who may, recorded as `kind` (reading is no event); raises `Refused` otherwise, recorded too."""
        return await self.permit_on(request, action, f"admin:{area}", None if action == "read" else kind, wanted, principal)

    async def permit_on(  # noqa: PLR0917  the same
        self, request: Request, action: str, resource: str, kind: str | None, wanted: str, principal: Principal | None = None
    ) -> Wish:
        """The same about anything that policy names.  `kind` None: what is granted is no event."""
        principal = principal or await self.whoami(request)
        arrival = self._arrival(request)
        question = AccessRequest(
            subject=principal.subject,
            actors=principal.actors,
            tenant=principal.tenant,
            action=action,
            resource=resource,
            at=arrival.at,
            groups=principal.groups,
            context=principal.facts("http"),
        )
        decision = self.judge(principal)(question)
        refusal = _shortfall(principal, question, decision)
        if refusal is not None:
            await self.recorder.refusal(arrival, refusal)
            raise refusal
        if not decision.allowed or kind is not None:
            await self.recorder.wish(kind or "decision.deny", arrival, principal, question, decision, wanted)
        if not decision.allowed:
            raise Refused(Code(decision.reason.value), decision=decision)
        return Wish(principal, arrival.id, arrival.at)

    async def refuse(self, request: Request, principal: Principal, code: Code, why: str) -> NoReturn:
        """Raise the refusal of somebody whom no rule needs to be asked about, once it is on record."""
        refusal = Refused(code, why, principal=principal)
        await self.recorder.refusal(self._arrival(request), refusal)
        raise refusal

    async def note(self, request: Request, refusal: Refused) -> None:
        """Have the ledger say that something was refused which is refused all the same where the ledger cannot."""
        with contextlib.suppress(Refused):
            await self.recorder.refusal(self._arrival(request), refusal)

    def _arrival(self, request: Request) -> Arrival:
        scope = {**request.scope, "method": request.method}
        return make_arrival(scope, b"", protocol="mcp", target="", path="", clock=self.clock)


def _shortfall(principal: Principal, question: AccessRequest, decision: Decision) -> Refused | None:
    """Why somebody whom the rules allow it may not all the same."""
    if not decision.allowed:
        return None
    if not within(principal.scope, question.resource):
        return Refused(Code.INSUFFICIENT_SCOPE, decision=decision, request=question, principal=principal)
    if any(duty.type != "audit" for duty in decision.obligations):  # audit is fulfilled: the record stands
        why = "no such duty can be fulfilled here"
        return Refused(Code.DUTY_FAILED, why, decision=decision, request=question, principal=principal)
    return None
