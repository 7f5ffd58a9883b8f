"""Allow lines for everybody."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "error"


def find(ground: Ground) -> Iterator[Hit]:
    """An allow line speaks for `*`.

    `*` is everybody: every person whom any trusted issuer vouches for, every service, and every agent of the chain. Such
    a line gives each of them the right at once, also those that come later, and takes away what a chain protects: the
    agents' own limits. `deny` and `require` lines for `*` are guardrails, and fine.

    Name a role for the people and a group of agents (`agents:…`) for the agents, in two lines.
    """
    for rule in ground.bundle.rules:
        if rule.effect == "allow" and rule.who == "*":
            message = f"'{rule.id}' allows {rule.tool} to everybody, and to every agent"
            yield Hit(
                ground.cell(rule, "who"), message, "name a role:… for people and an agents:… for agents, in lines of their own"
            )
