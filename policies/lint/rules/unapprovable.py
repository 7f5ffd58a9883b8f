"""Duties that ask for an approval which nobody can give."""

from __future__ import annotations

from collections.abc import Iterator

from policies.approvers import ACTION, PREFIX, TYPE, Terms, WrongTermsError, terms_of
from policies.lint.ground import Ground, Hit, Severity
from policies.rules import Rule

SEVERITY: Severity = "error"


def find(ground: Ground) -> Iterator[Hit]:
    """A duty of type `human-approval` has no possible approver.

    Its `by` names roles that no person and no group has, or nobody but the one person for whom the call is made, who may not
    approve for himself; or it has no `by`, and no allow line on an `approval:` object says who may approve. Every such call
    waits until the time for its approval is over.

    Name somebody else in `by`, or give the role its members in `roles.csv`.
    """
    held = {tenant: _held(ground, tenant) for tenant in ground.bundle.tenants}
    told: set[str] = set()
    for rule in ground.bundle.rules:
        duty = ground.bundle.obligations[rule.must] if rule.must else None
        if duty is None or duty.type != TYPE or duty.name in told:
            continue
        try:
            terms = terms_of(duty.params)
        except WrongTermsError:
            continue
        why = _why(ground, rule, terms, held)
        if why:
            told.add(duty.name)
            place = ground.key("obligations.yaml", duty.name, *(("by",) if terms.by else ()))
            yield Hit(
                place, f"nobody can approve by '{duty.name}': {why}", "name somebody who can, as role:<name> or idp:<group>"
            )


def _why(ground: Ground, rule: Rule, terms: Terms, held: dict[str, set[str]]) -> str:
    tenants = ground.bundle.tenants if rule.tenant == "*" else [rule.tenant]
    if not terms.by:
        lines = (each for each in ground.bundle.rules if each.effect == "allow" and each.action in (ACTION, "*"))
        spoken = any(each.tool == "*" or each.tool.startswith(PREFIX) for each in lines)
        return "" if spoken else f"it has no 'by', and no line allows '{ACTION}' on an {PREFIX} object"
    if not any(who in held[tenant] or who.startswith(("user:", "idp:")) for who in terms.by for tenant in tenants):
        return f"nobody has {', '.join(terms.by)}"
    if terms.not_same_user and terms.by == (rule.who,) and rule.who.startswith("user:"):
        return f"the call is made for {rule.who} alone"
    return ""


def _held(ground: Ground, tenant: str) -> set[str]:
    found: set[str] = set()
    for each in ground.bundle.roles:
        if each.tenant == tenant and each.member.startswith(("user:", "idp:")):
            found |= ground.closure.of(each.member, tenant)
    return found
