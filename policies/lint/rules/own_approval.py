"""Approvals among those who ask for them."""

from __future__ import annotations

from collections.abc import Iterator

from policies.approvers import TYPE, WrongTermsError, terms_of
from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "warning"
_PEOPLE = ("user:", "idp:", "role:", "*")


def find(ground: Ground) -> Iterator[Hit]:
    """The only people who may approve a call are those who may make it, or people may approve for themselves.

    Two people of one role who approve each other's calls are no separation of duties, and with `not_same_user: false` one is
    enough.

    Name another role in `by`, or say in a comment why this is meant.
    """
    told: set[str] = set()
    for rule in ground.bundle.rules:
        duty = ground.bundle.obligations[rule.must] if rule.must else None
        if duty is None or duty.type != TYPE or duty.name in told:
            continue
        try:
            terms = terms_of(duty.params)
        except WrongTermsError:
            continue
        wanted = ground.tools_of.get(rule.tool, frozenset((rule.tool,)))
        callers = {
            each.who
            for each in ground.bundle.rules
            if each.effect == "allow" and each.action in ("call", "send", "*") and each.who.startswith(_PEOPLE)
            if not wanted.isdisjoint(ground.tools_of.get(each.tool, frozenset((each.tool,))))
        }
        alone = bool(terms.by) and callers == set(terms.by) and not all(who.startswith("user:") for who in terms.by)
        if alone or not terms.not_same_user:
            told.add(duty.name)
            key = "by" if alone else "not_same_user"
            said = "only those who may make the call may approve it" if alone else "people may approve for themselves"
            yield Hit(ground.key("obligations.yaml", duty.name, key), f"by '{duty.name}' {said}", "name another role in 'by'")
