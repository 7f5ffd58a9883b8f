"""A decision as it stands in a record: so that it can be explained and made again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from policies.model import SUBJECT as PERSON
from policies.model import Decision, Objection, Question, Ruling
from policies.replay import MOST_RULES

SUBJECT: Final = "@subject"
"""Stands for the person inside a leaf's fields; the ledger puts the pseudonym there."""

Activated = Callable[[str], int | None]
"""Where in the ledger a bundle came into force, by its digest; None where that is not known."""


def nowhere(_digest: str) -> int | None:
    """For whoever has no ledger of policy."""
    return None


def whoever(question: Question) -> str:
    """Whom a principal's question is about: the person by a mark, agents by their names."""
    return SUBJECT if question.role is PERSON else question.principal


def decided(decision: Decision, activated: Activated = nowhere, who: Callable[[Question], str] = whoever) -> dict[str, object]:
    """Who was asked what, which rule at which line spoke, and by which bundle (in force since the record `policy_seq`)."""
    asked = []
    for answer in decision.answers:
        question, near = answer.question, answer.near
        rules: list[str] = []
        duties: list[str] = []
        for match in answer.matched:
            (duties if match.effect == "require" else rules).append(match.text)
        asked.append(
            {
                "who": who(question),
                "role": question.role._value_,  # `value` is a property in Python, `_value_` a slot
                "action": question.action,
                "allow": answer.allowed,
                "rules": rules,
                "duties": duties,
                "near": [match.text for match in near] if near else [],
            }
        )
    owed = decision.obligations
    said: dict[str, object] = {
        "effect": decision.effect._value_,
        "reason": decision.reason._value_,
        "policy": decision.bundle,
        "asked": asked,
        "obligations": [obligation.name for obligation in owed] if owed else [],
    }
    since = activated(decision.bundle)
    if since is not None:
        said["policy_seq"] = since
    if decision.ruling is not None:
        said["workflow"] = _ruled(decision.ruling)
    return said


def _ruled(ruling: Ruling) -> dict[str, object]:
    """What the rules of its workflows said, each by its line: bounded, as a definition may have many."""
    said: dict[str, object] = {
        "held": [[name, digest] for name, digest in ruling.held],
        "rules": [match.text for match in ruling.spoke[:MOST_RULES]],
        "refused": [_objection(each) for each in ruling.refused[:MOST_RULES]],
        "watched": [_objection(each) for each in ruling.watched[:MOST_RULES]],
    }
    if ruling.exempt:
        said["exempt"] = [{"rule": match.text, "unless": name} for match, name in ruling.exempt[:MOST_RULES]]
    return said


def _objection(objection: Objection) -> dict[str, object]:
    missing, brought = list(objection.missing), [[each.label, each.resource, each.call] for each in objection.brought]
    said = {"rule": objection.match.text, "reason": objection.reason._value_, "missing": missing}
    return said | ({"brought": brought} if brought else {})
