"""What a workflow's rules would say of a call that is only asked about: nothing is reserved, nothing drawn from a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from gateway.model import Principal, Refused
from gateway.obligations.budget import drawn_on
from gateway.policy.in_force import InForce
from gateway.reasons import Code
from gateway.state.histories import Histories
from gateway.workflows.steps import Steps, Wish
from policies import names
from policies.bundle import Bundle
from policies.model import NOTHING, AccessRequest, Decision, Effect, Reason
from policies.workflows.model import Workflow
from policies.workflows.ruling import decided, held_by, is_unknown, of_unknown, ruling_of
from policies.workflows.terms import STEP_KINDS

ACTIONS: Final = ("call", "send", "read", "get")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it.

    decision  the engine's, with what the rules said where they were asked.
    asked     id of the workflow that they were asked in; "" where they were not.
    held      whether rules of workflows hold such a call at all, and so could refuse it.
    """

    decision: Decision
    asked: str = ""
    held: bool = False


@dataclass(frozen=True, slots=True)
class Asking:
    """Asks them."""

    steps: Steps
    histories: Histories
    in_force: InForce

    async def of(self, principal: Principal, request: AccessRequest, decision: Decision, workflow: str, record: str) -> Answer:
        """`principal` is who would call; `workflow` in which ("": it is not said, and nothing is asked)."""
        pair = self.in_force.current.pair_of(workflow or principal.workflow)
        bundle = pair.bundle
        if pair.digest != decision.bundle:  # another came into force between the two
            decision = pair.engine.decide(request)
        kind = names.kind_of(request.resource)
        is_step = request.action in ACTIONS and kind is not None and kind.name in STEP_KINDS
        budgets = drawn_on(decision.obligations)
        if not decision.allowed or not is_step or not (bundle.workflows or principal.definition or budgets):
            return Answer(decision)
        held = held_by(bundle.workflows.values(), request.tenant, request.resource, request.actors, principal.definition)
        if not workflow:
            return Answer(decision, held=bool(held or budgets) or is_unknown(held, principal.definition))
        owner = await self.histories.whose(request.tenant, workflow)
        if is_unknown(held, principal.definition) or owner not in (None, request.subject):  # another's, or no definition's
            return Answer(of_unknown(decision), workflow, held=True)
        return await self._asked(bundle, replace(principal, workflow=workflow), request, decision, (*held, *budgets), record)

    async def _asked(  # noqa: PLR0917  as above
        self,
        bundle: Bundle,
        principal: Principal,
        request: AccessRequest,
        decision: Decision,
        held: tuple[Workflow, ...],
        record: str,
    ) -> Answer:
        if not held:
            return Answer(decision, principal.workflow)
        wish = Wish(principal, request, decision, record, request.arguments or NOTHING)
        try:
            judged = await self.histories.looked(self.steps.question(bundle, held, wish))
        except Refused as refusal:
            if refusal.code is not Code.BUDGET_SPENT:
                raise
            full = replace(decision, effect=Effect.DENY, reason=Reason.BUDGET_SPENT)  # it has as many steps as may be
            return Answer(full, principal.workflow, held=True)
        return Answer(decided(decision, ruling_of(judged)), principal.workflow, held=True)
