"""From what workflows' rules said of a call to the decision: it refuses, or it leaves everything as it was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from policies.model import Decision, Effect, Match, Objection, Reason, Ruling
from policies.workflows.judge import Breach
from policies.workflows.model import Rule, Workflow


@dataclass(frozen=True, slots=True)
class Judged:
    """What one definition's rules said."""

    workflow: Workflow
    spoke: tuple[Rule, ...]
    breaches: tuple[Breach, ...]

    @property
    def refuses(self) -> bool:
        """Whether the call may not be sent."""
        return bool(self.breaches) and not self.workflow.shadow


def held_by(
    workflows: Iterable[Workflow], tenant: str, resource: str, actors: tuple[str, ...], definition: str
) -> tuple[Workflow, ...]:
    """The definitions whose rules a call is held to; `definition` is the name under which its workflow was begun."""
    return tuple(each for each in workflows if tenant in each.tenants and each.holds(resource, actors, definition))


def is_unknown(held: Iterable[Workflow], definition: str) -> bool:
    """Whether a workflow was begun under a name that is not known."""
    return bool(definition) and not any(each.name == definition for each in held)


def ruling_of(judged: Iterable[Judged]) -> Ruling:
    """All of it, as records and explanations have it."""
    refused: list[Objection] = []
    watched: list[Objection] = []
    held = []
    spoke: dict[Match, None] = {}
    for each in judged:
        held.append((each.workflow.name, each.workflow.digest))
        spoke |= dict.fromkeys(rule.match for rule in each.spoke)
        found = [Objection(breach.rule.match, breach.reason, breach.cure, breach.missing) for breach in each.breaches]
        (watched if each.workflow.shadow else refused).extend(found)
    return Ruling(tuple(held), tuple(spoke), tuple(refused), tuple(watched))


def decided(decision: Decision, ruling: Ruling) -> Decision:
    """An allowing decision with the ruling: a denial where a rule refuses."""
    if not ruling.refused:
        return replace(decision, ruling=ruling)
    return replace(decision, effect=Effect.DENY, reason=ruling.refused[0].reason, ruling=ruling)


def of_unknown(decision: Decision) -> Decision:
    """The denial of a call whose workflow was begun under a name that is not known."""
    return replace(decision, effect=Effect.DENY, reason=Reason.WORKFLOW_UNKNOWN)
