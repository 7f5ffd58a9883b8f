"""What else policy is asked for one call: kinds of answers that it brings, the tool whose task it is about, what it listens to.

All of it may only narrow: what is not allowed ends the call, or is left out of what it listens to.
"""

from __future__ import annotations

from msgspec.structs import replace

from gateway.mcp.asking import Judge, asked
from gateway.mcp.questions import object_of
from gateway.mcp.subscriptions import Filter, listening
from gateway.mcp.tasks import Task
from gateway.model import Call, Permit, Principal, Refused
from gateway.obligations import looked_at
from gateway.reasons import Code
from gateway.scope import within
from policies.model import AccessRequest, Decision

Asked = tuple[AccessRequest, Decision]


class Further:
    """Asks.  `judge` decides for a principal now."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def of(self, permit: Permit) -> Permit:
        """The permit, narrowed by all that; `Refused` where some of it is denied."""
        call = permit.call
        if call.kept is None and not call.said and not call.withhold:
            return permit
        redact = permit.redact | call.withhold
        found: list[Asked] = []
        if call.said and call.direction != "answer":
            found += [
                self._must(call, permit, *object_of(kind, call.target)) for kind in dict.fromkeys(k for _, k, _ in call.said)
            ]
        if isinstance(call.kept, Task):
            request, decision = self._must(call, permit, "call", f"{call.target}.{call.kept.tool}")
            found.append((request, decision))
            redact |= looked_at(Permit.of(call, permit.principal, request, decision)).redact
        if isinstance(call.kept, Filter):
            call, more = self._heard(call, permit, call.kept)
            found += more
        if not found and redact == permit.redact:
            return permit
        return replace(permit, call=call, redact=redact, further=(*permit.further, *found))

    def _heard(self, call: Call, permit: Permit, wanted: Filter) -> tuple[Call, list[Asked]]:
        """What of it may be listened to: of a resource, who may read it and be told of it; of a task, who may see it."""
        found: list[Asked] = []

        def may(*objects: tuple[str, str]) -> bool:
            answers = [self._ask(call, permit.principal, action, resource) for action, resource in objects]
            if all(allowed for _, _, allowed in answers):
                found.extend((request, decision) for request, decision, _ in answers)
                return True
            return False

        server = call.target
        uris = {
            uri: said
            for uri, said in wanted.uris.items()
            if may(("subscribe", f"res:{server}/{uri}"), ("read", f"res:{server}/{uri}"))
        }
        tasks = {
            each: task
            for each, task in wanted.tasks.items()
            if may(("read", f"task:{server}"), ("call", f"{server}.{task.tool}")) and not task.withhold
        }
        return listening(call, Filter(wanted.lists, uris, tasks)), found

    def _must(self, call: Call, permit: Permit, action: str, resource: str) -> Asked:
        request, decision, allowed = self._ask(call, permit.principal, action, resource)
        if not decision.allowed:
            raise Refused(Code(decision.reason.value), decision=decision, request=request)
        if not allowed:
            raise Refused(Code.INSUFFICIENT_SCOPE, decision=decision, request=request)
        return request, decision

    def _ask(self, call: Call, principal: Principal, action: str, resource: str) -> tuple[AccessRequest, Decision, bool]:
        request = asked(call, principal, action, resource)
        if action == "call":
            request = replace(request, arguments=None)  # they were judged when the call was made
        decision = self._judge(principal)(request)
        return request, decision, decision.allowed and within(principal.scope, resource)
