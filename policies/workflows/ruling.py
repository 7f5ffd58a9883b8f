"""From what workflows' rules said of a call to the decision: it refuses, or it leaves everything as it was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from policies.model import Decision, Effect, Match, Objection, Obligation, Reason, Ruling
from policies.workflows.judge import Breach
from policies.workflows.model import Rule, Taint, Workflow


@dataclass(frozen=True, slots=True)
class Judged:
    """What one definition's rules said."""

    workflow: Workflow
    spoke: tuple[Rule, ...]
    breaches: tuple[Breach, ...]
    freed: tuple[Taint, ...] = ()

    @property
    def refuses(self) -> bool:
        """Whether the call may not be sent."""
        return not self.workflow.shadow and any(breach.must is None for breach in self.breaches)


def held_by(
    workflows: Iterable[Workflow], tenant: str, resource: str, actors: tuple[str, ...], definition: str
) -> tuple[Workflow, ...]:
    """The definitions whose rules a call is held to; `definition` is the name under which its workflow was begun."""
    held: tuple[Workflow, ...] = ()
    for each in workflows:
        if tenant in each.tenants and each.holds(resource, actors, definition):
            held += (each,)
    return held


def is_unknown(held: Iterable[Workflow], definition: str) -> bool:
    """Whether a workflow was begun under a name that is not known."""
    return definition != "" and all(each.name != definition for each in held)


def ruling_of(judged: Iterable[Judged]) -> Ruling:
    """All of it, as records and explanations have it."""
    refused: list[Objection] = []
    watched: list[Objection] = []
    held = []
    spoke: dict[Match, None] = {}
    duties: dict[str, Obligation] = {}
    exempt: list[tuple[Match, str]] = []
    for each in judged:
        if not each.workflow.shadow:
            exempt += [(rule.match, rule.unless.name) for rule in each.freed if rule.unless is not None]
        held.append((each.workflow.name, each.workflow.digest))
        spoke |= dict.fromkeys(rule.match for rule in each.spoke)
        for breach in each.breaches:
            if breach.must is not None and not each.workflow.shadow:
                duties.setdefault(breach.must.name, breach.must)
                continue
            found = Objection(breach.rule.match, breach.reason, breach.cure, breach.missing, breach.brought)
            (watched if each.workflow.shadow else refused).append(found)
    return Ruling(tuple(held), tuple(spoke), tuple(refused), tuple(watched), tuple(duties.values()), tuple(exempt))


def decided(decision: Decision, ruling: Ruling) -> Decision:
    """An allowing decision with the ruling: a denial where a rule refuses, and with more duties where rules want them."""
    if not ruling.refused:
        duties = {duty.name: duty for duty in (*decision.obligations, *ruling.duties)}
        return replace(decision, ruling=ruling, obligations=tuple(duties.values()))
    return replace(decision, effect=Effect.DENY, reason=ruling.refused[0].reason, ruling=ruling)


def of_unknown(decision: Decision) -> Decision:
    """The denial of a call whose workflow was begun under a name that is not known."""
    return replace(decision, effect=Effect.DENY, reason=Reason.WORKFLOW_UNKNOWN)
