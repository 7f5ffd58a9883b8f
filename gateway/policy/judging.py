"""From a policy to the stages that it decides: every question of one call is answered by one bundle."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.mcp import lists
from gateway.mcp.repeated import Repeats, Wanted, repeats
from gateway.policy.canary import ByWorkflow

if TYPE_CHECKING:
    from gateway.model import Clock, Principal
    from gateway.pipeline import Stages
    from gateway.policy.in_force import Policy
    from gateway.policy.shadowing import Shadowing
    from gateway.workflows.steps import Held


def decided_by(policy: Policy, stages: Stages, shadowing: Shadowing, steps: Held) -> Stages:
    """The same stages, decided by this policy: by one bundle, or by the one that the call's workflow belongs to."""
    stages = replace(stages, reserve=steps.by(policy), hear=steps.hearing(policy), release=steps.steps.release)
    if policy.canary is None:
        return replace(stages, decide=shadowing.wrap(policy.active.engine.decide, policy.watched))
    asked = ByWorkflow(stages.normalise, lambda workflow: policy.pair_of(workflow).engine.decide)
    return replace(stages, normalise=asked.normalise, decide=shadowing.wrap(asked.decide, policy.watched))


def repeats_by(policy: Policy) -> Wanted:
    """Which arguments headers repeat, by the definitions that are approved in the active bundle."""
    approved = {
        (server, name): repeats(entry.definition.get("inputSchema")) or ()
        for server, what, name, entry in policy.active.bundle.pinning.lock.every()
        if what == "tool" and isinstance(entry.definition, dict)
    }
    marked = {key: found for key, found in approved.items() if found}

    def wanted(server: str, tool: str) -> Repeats:
        return marked.get((server, tool), ())

    return wanted


def could_by(policy: Policy, clock: Clock) -> lists.Could:
    """Who may know of what, by the very bundle that decides the call."""
    active = lists.asking(policy.active.engine.decide, clock)
    if policy.canary is None:
        return active
    canary = lists.asking(policy.canary.engine.decide, clock)

    def could(principal: Principal, resource: str, action: str = "", /) -> bool:
        return (canary if policy.pair_of(principal.workflow) is policy.canary else active)(principal, resource, action)

    return could
