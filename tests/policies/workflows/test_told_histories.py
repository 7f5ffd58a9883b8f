"""Tables of policy tests tell what happened before, and rows come out as the gateway would decide them then."""

from __future__ import annotations

import pytest

from policies import testing
from policies.bundle import BundleError
from policies.coverage import measure
from policies.engine import Engine
from tests.policies.workflows.conftest import Make

GRANTS = """\
p, role:buyer,  acme, erp.*,            call, allow, -, -, BUY-1
p, role:buyer,  acme, risk.score,       call, allow, -, -, BUY-2
p, role:buyer,  acme, a2a:reviewer,     send, allow, -, -, BUY-3
p, agents:crew, acme, erp.*,            call, allow, -, -, CREW-1
p, agents:crew, acme, a2a:reviewer,     send, allow, -, -, CREW-2
"""
ORDERS = """\
workflow: orders
before:
  - tool: erp.write_po
    needs: risk.score
    by: agent:checker
    same: {supplier: vendor}
    within: 2h
    result: {field: score, max: 60}
budget:
  - {tool: erp.write_po, sum: amount, max: 100, per: [subject, day]}
distinct:
  - {steps: [erp.write_po, erp.approve_po], of: person, same: supplier}
"""
REVIEWED = "workflow: reviewed\nbinds: []\nbefore: [{tool: a2a:reviewer, needs: erp.read}]\n"
PEOPLE = "people:\n  bea: {is: user:dev/bea, groups: [buyers]}\n  ann: {is: user:dev/ann, groups: [buyers]}\n"
HISTORY = """\
history:
  scored: [{tool: risk.score, by: checker, args: {vendor: S-1}, result: {score: 31}}]
  scored-by-another: [{tool: risk.score, by: helper, args: {vendor: S-1}, result: {score: 31}}]
  scored-long-ago: [{tool: risk.score, by: checker, args: {vendor: S-1}, result: {score: 31}, ago: 3h}]
  scored-badly: [{tool: risk.score, by: checker, args: {vendor: S-1}, result: {score: 61}}]
  scoring-failed: [{tool: risk.score, by: checker, args: {vendor: S-1}, result: {score: 31}, state: failed}]
  spent: [{tool: erp.write_po, args: {supplier: S-2, amount: 95}, elsewhere: true}]
  spent-yesterday: [{tool: erp.write_po, args: {supplier: S-2, amount: 95}, elsewhere: true, ago: 1d}]
  by-ann: [{tool: erp.approve_po, who: ann, args: {supplier: S-1}}]
  by-me: [{tool: erp.approve_po, args: {supplier: S-1}, elsewhere: true}]
  read: [{tool: erp.read}]
"""
PO = "who: bea, via: helper, tool: erp.write_po, args: {supplier: S-1, amount: 10}"
ROWS = [
    (f"{{{PO}, expect: deny, because: [step-missing, 'step missing', orders/before-1]}}", True),
    (f"{{{PO}, after: scored, expect: allow, because: orders/before-1}}", True),
    (f"{{{PO}, after: scored-by-another, expect: deny, because: step-missing}}", True),
    (f"{{{PO}, after: scored-long-ago, expect: deny, because: step-missing}}", True),
    (f"{{{PO}, after: scored-badly, expect: deny, because: step-missing}}", True),
    (f"{{{PO}, after: scoring-failed, expect: deny, because: step-missing}}", True),
    (f"{{{PO}, after: [scored, spent], expect: deny, because: budget-spent}}", True),
    (f"{{{PO}, after: [scored, spent-yesterday], expect: allow}}", True),
    (f"{{{PO}, after: [scored, by-ann], expect: allow}}", True),
    (f"{{{PO}, after: [scored, by-me], expect: deny, because: same-hands}}", True),
    (f"{{{PO}, expect: allow}}", False),
    (f"{{{PO}, after: scored, expect: deny}}", False),
    (f"{{{PO}, after: scored, expect: allow, because: orders/budget-2}}", False),
    ("{who: bea, via: helper, tool: 'a2a:reviewer', expect: allow}", True),
    ("{who: bea, via: helper, tool: 'a2a:reviewer', workflow: reviewed, expect: deny, because: step-missing}", True),
    ("{who: bea, via: helper, tool: 'a2a:reviewer', workflow: reviewed, after: read, expect: allow}", True),
]


@pytest.mark.parametrize(("row", "passes"), ROWS)
def test_a_row_is_decided_after_its_history(bundle_with: Make, row: str, passes: bool) -> None:
    files = {"workflows/a.yaml": ORDERS, "workflows/b.yaml": REVIEWED, "grants/people.csv": GRANTS}
    bundle = bundle_with({**files, "tests/a.yaml": f"tenant: acme\n{PEOPLE}{HISTORY}tests:\n  - {row}\n"})
    (result,) = testing.run(testing.read_tests(bundle), Engine(bundle)).cases
    assert result.passed is passes, (result.differences, result.explanation)


def test_rules_of_workflows_are_covered_as_those_of_grants_are(bundle_with: Make) -> None:
    def covered(orders: str, *rows: str) -> tuple[dict[str, tuple[int, int]], float]:
        head = f"tenant: acme\n{PEOPLE}{HISTORY}tests:\n"
        tests = head + "".join(f"  - {{{PO}, {row}}}\n" for row in rows)
        bundle = bundle_with({"workflows/a.yaml": orders, "grants/people.csv": GRANTS, "tests/a.yaml": tests})
        coverage = measure(testing.run(testing.read_tests(bundle), Engine(bundle)))
        said = {each.rule.id: (each.matched, each.decisive) for each in coverage.rules if "/" in each.rule.id}
        return said, coverage.percent

    alone, some = covered(ORDERS, "expect: deny")
    assert alone == {"orders/before-1": (1, 1), "orders/budget-1": (1, 0), "orders/distinct-1": (1, 0)}
    several, _ = covered(ORDERS, "expect: deny", "after: [scored, spent], expect: deny", "after: [spent, by-me], expect: deny")
    assert several == {"orders/before-1": (3, 1), "orders/budget-1": (3, 1), "orders/distinct-1": (3, 0)}
    unspoken, fewer = covered(
        ORDERS.replace("tool: erp.write_po, sum", "tool: erp.write_po, by: agent:checker, sum"), "expect: deny"
    )
    assert (unspoken["orders/budget-1"], fewer < some) == ((0, 0), True)
    assert covered(f"{ORDERS}mode: shadow\n", "expect: allow")[0] == {}


def test_a_refusal_is_explained_with_its_rule_and_its_cure(bundle_with: Make) -> None:
    bundle = bundle_with(
        {
            "workflows/a.yaml": ORDERS,
            "grants/people.csv": GRANTS,
            "tests/a.yaml": f"{PEOPLE}tests: [{{{PO}, tenant: acme, expect: deny}}]\n",
        }
    )
    (result,) = testing.run(testing.read_tests(bundle), Engine(bundle)).cases
    assert "denied (step-missing), because there is a step missing in its workflow" in result.explanation
    said = "orders: no; orders/before-1 (workflows/a.yaml:3): first call risk.score, by agent:checker, with the same supplier"
    assert said in result.explanation


def test_a_bundle_whose_workflow_denies_what_its_tests_allow_does_not_go_live(bundle_with: Make) -> None:
    test = f"{PEOPLE}tests: [{{{PO}, tenant: acme, expect: allow}}]\n"
    without = bundle_with({"grants/people.csv": GRANTS, "tests/a.yaml": test})
    assert [f.code for f in testing.check_for_activation(without, Engine(without))] == ["no-proven-denial"]
    bundle = bundle_with({"workflows/a.yaml": ORDERS, "grants/people.csv": GRANTS, "tests/a.yaml": test})
    (finding,) = testing.check_for_activation(bundle, Engine(bundle))
    assert (finding.code, "first call risk.score" in finding.help) == ("test-failed", True)


def test_a_denial_of_a_workflow_is_one_that_tests_can_prove(bundle_with: Make) -> None:
    rows = f"tests: [{{{PO}, tenant: acme, expect: deny}}, {{{PO}, tenant: acme, after: scored, expect: allow}}]\n"
    bundle = bundle_with({"workflows/a.yaml": ORDERS, "grants/people.csv": GRANTS, "tests/a.yaml": PEOPLE + HISTORY + rows})
    assert testing.check_for_activation(bundle, Engine(bundle)) == []


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (f"{{{PO}, after: scord, expect: deny}}", "unknown-history"),
        (f"{{{PO}, workflow: order, expect: deny}}", "unknown-workflow"),
    ],
)
def test_a_history_or_a_workflow_that_is_not_there_is_a_finding(bundle_with: Make, row: str, code: str) -> None:
    bundle = bundle_with(
        {
            "workflows/a.yaml": ORDERS,
            "grants/people.csv": GRANTS,
            "tests/a.yaml": f"tenant: acme\n{PEOPLE}{HISTORY}tests: [{row}]\n",
        }
    )
    with pytest.raises(BundleError) as caught:
        testing.read_tests(bundle)
    assert [(finding.code, "did you mean" in finding.help) for finding in caught.value.findings] == [(code, True)]
