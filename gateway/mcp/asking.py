"""A server's question to the client: it travels the same road as a call, the other way.  Decided and on record, or not asked.

`question.ask` is durable before the client sees anything of it; a refusal is a `decision.deny` like every other.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

import msgspec

from gateway.mcp.questions import Question, Rules, kept
from gateway.mcp.strict import dumps
from gateway.model import Arrival, Call, Clock, Intent, Outcome, Permit, Principal, Refused, Reply, new_id
from gateway.pipeline import Stages, govern
from gateway.reasons import Code
from gateway.scope import within
from policies.model import NOTHING, AccessRequest, Decision

MOST_AT_ONCE: Final = 32
"""Questions of one result."""
_REMEMBERED: Final = 1024
Judge = Callable[[Principal], Callable[[AccessRequest], Decision]]


class Asking:
    """Puts questions.  `stages` are those of the road that the call travels; of them it takes what is no protocol's own.

    judge  who decides for a principal now: a question that comes late is decided by the policy of its own time.
    rules  by server; the strictest for one that is not there.
    duties fulfils what a decision demands.
    """

    def __init__(
        self,
        *,
        judge: Judge,
        rules: Mapping[str, Rules],
        clock: Clock,
        duties: Callable[[Permit], Awaitable[Permit]],
        stages: Stages | None = None,
    ) -> None:
        self.judge = judge
        self._rules = dict(rules)
        self._clock = clock
        self.duties = duties
        self._stages = stages
        self._lately: dict[bytes, tuple[dict[str, Any], str]] = {}

    def by(self, stages: Stages) -> None:
        """Record, watch and observe by these."""
        self._stages = stages

    async def put(self, found: Question, intent: Intent) -> tuple[dict[str, Any], str]:
        """The parameters as the client may see them, and the id of the record; `Refused`, on record, where it is not asked."""
        if self._stages is None:
            raise Refused(Code.INTERNAL_ERROR, "the gateway is starting")
        parent, principal = intent.permit.call, intent.permit.principal
        now = self._clock()
        body = dumps({"method": found.method, "params": found.params})
        arrival = msgspec.structs.replace(parent.arrival, id=new_id(now), at=now, body=body, headers=(), found={})
        road = _Road(found, parent, self._rules.get(parent.target, Rules()), blind=bool(intent.permit.redact))
        stages = replace(
            self._stages,
            authenticate=_known(principal),
            parse=road.parse,
            normalise=road.normalise,
            decide=self.judge(principal),
            fulfil=self._duties,
            forward=road.forward,
            filter=road.filter,
            record_outcome=_nothing_more,
        )
        async with aclosing(govern(arrival, stages)) as replies:
            async for reply in replies:
                params: dict[str, Any] = reply.payload
        return params, arrival.id

    async def again(self, which: tuple[str, str], found: Question, intent: Intent) -> tuple[dict[str, Any], str]:
        """The same for a question that is shown at every look: decided every time, on record once for a while."""
        call, principal = intent.permit.call, intent.permit.principal
        about = [*which, call.target, principal.tenant, principal.subject, *principal.actors, found.method, sorted(call.declared)]
        key = hashlib.sha256(dumps([about, found.params])).digest()
        lately = self._lately.get(key)
        if lately is not None:
            request = asked(call, principal, *found.asked(call.target))
            if self.judge(principal)(request).allowed and within(principal.scope, request.resource):
                return lately
        self._lately[key] = put = await self.put(found, intent)
        while len(self._lately) > _REMEMBERED:
            del self._lately[next(iter(self._lately))]
        return put

    async def _duties(self, permit: Permit) -> Permit:
        permit = await self.duties(permit)
        if permit.redact or permit.redact_sent:
            raise Refused(Code.DUTY_FAILED, "a question cannot be searched for what must not be seen")
        return permit


class _Road:
    """The stages that are one question's own."""

    def __init__(self, found: Question, parent: Call, rules: Rules, *, blind: bool) -> None:
        self._blind = blind
        self._found = found
        self._parent = parent
        self._rules = rules

    def parse(self, arrival: Arrival, principal: Principal) -> Call:
        found, parent = self._found, self._parent
        call = Call(
            arrival=arrival,
            method=found.method,
            target=parent.target,
            message=found.params,
            trace=parent.trace,
            version=parent.version,
            direction="question",
            about=(parent.arrival.id,),
        )
        try:
            return msgspec.structs.replace(call, message=self._kept())
        except Refused as refusal:  # on record with what was asked
            refusal.call, refusal.request = call, self.normalise(call, principal)
            raise

    def _kept(self) -> dict[str, Any]:
        found, parent = self._found, self._parent
        if found.needs not in parent.declared:
            raise Refused(Code.QUESTION_REFUSED, f"{found.needs}: not declared by the client, or not allowed to this server")
        if self._blind:
            raise Refused(Code.DUTY_FAILED, "a question of this call cannot be searched for what must not be seen")
        return kept(found, self._rules, parent.target)

    def normalise(self, call: Call, principal: Principal) -> AccessRequest:
        action, resource = self._found.asked(call.target)
        return asked(call, principal, action, resource)

    async def forward(self, intent: Intent) -> Reply:
        return Reply(intent.permit.call.message, is_final=True)

    def filter(self, reply: Reply, _: Intent) -> Reply:
        return msgspec.structs.replace(reply, body=dumps(reply.payload))


def asked(call: Call, principal: Principal, action: str, resource: str) -> AccessRequest:
    """What policy is asked about something that is no tool."""
    return AccessRequest(
        subject=principal.subject,
        actors=principal.actors,
        tenant=principal.tenant,
        action=action,
        resource=resource,
        at=call.arrival.at,
        groups=principal.groups,
        arguments=NOTHING,
        context=principal.facts("mcp", call.method, call.version),
    )


def _known(principal: Principal) -> Callable[[Arrival], Awaitable[Principal]]:
    async def authenticate(_: Arrival) -> Principal:
        return principal

    return authenticate


def _nothing_more(_intent: Intent, _outcome: Outcome) -> Awaitable[object]:
    """That it was put is all there is to say of a question; how it was answered is on record when it is."""
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done
