"""Lines for a question that their subject is never asked."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """A line with the action `relay` speaks for somebody who is never asked to relay.

    The person (or service) on whose behalf everything happens is asked for the call itself; only agents that stand
    earlier in the chain are asked for `relay`. A `relay` line for a person, a group of the identity provider, a service,
    or a role that no agent has, never matches.

    Write `call` (or `send`) if the person shall have the right, or name the agent.
    """
    agents: dict[str, set[str]] = {tenant: set() for tenant in ground.bundle.tenants}
    for each in ground.bundle.roles:
        if each.member.startswith("agent:"):
            agents[each.tenant] |= ground.closure.of(each.member, each.tenant)
    for rule in ground.bundle.rules:
        if rule.action != "relay" or rule.who == "*" or rule.who.startswith(("agent:", "agents:")):
            continue
        tenants = ground.bundle.tenants if rule.tenant == "*" else [rule.tenant]
        if not any(rule.who in agents[tenant] for tenant in tenants):
            message = f"'{rule.id}' never matches: '{rule.who}' is never asked to relay, agents are"
            yield Hit(ground.cell(rule, "action"), message, "write 'call' (or 'send'), or name the agent that relays")
