"""A workflow file says what it seems to say, or it is a finding with its place: never a rule that quietly does nothing."""

from __future__ import annotations

import itertools

import pytest

from policies.bundle import BundleError
from policies.workflows.model import KEYWORDS, Before, Bind, Budget, Steps
from tests.policies.workflows.conftest import Make

ALL = """\
workflow: orders
tenants: [acme]
binds: [{agent: agent:helper}, {tool: erp.write_po}]
before:
  - tool: erp.write_po
    needs: risk.score
    by: agents:crew
    same: {supplier: vendor}
    within: 2h
    result: {field: score, max: 60}
within:
  - {tool: erp.write_po, after: risk.score, time: 30m}
  - {tool: "*", time: 7d}
locked:
  - {steps: [risk.score, contracts.search, erp.write_po]}
once:
  - {tool: erp.approve_po, same: supplier, id: approve-once}
distinct:
  - {steps: [erp.write_po, erp.approve_po], of: person, same: supplier}
budget:
  - {tool: erp.write_po, count: 3, sum: amount, max: 50000.50, per: [subject, day]}
  - {tool: "*", count: 200}
only: [erp.*, contracts.search, risk.score, a2a:*, res:files/*]
chain:
  - {steps: [erp.read, contracts.search, erp.approve_po], within: 1d}
parallel:
  - {steps: [risk.score, contracts.search], then: erp.write_po}
coordinator:
  - {agent: agent:helper, calls: [a2a:reviewer]}
taint:
  - {after: source:confidential, deny: sink:external}
"""


def test_every_keyword_is_read_with_its_place(bundle_with: Make) -> None:
    workflow = bundle_with(ALL).workflows["orders"]
    assert {rule.keyword for rule in workflow.rules} == set(KEYWORDS)
    assert workflow.tenants == {"acme"}
    assert not workflow.shadow
    first = workflow.rules[0]
    assert isinstance(first, Before)
    assert (first.id, str(first.source), first.seconds) == ("orders/before-1", "workflows/w.yaml:5", 7200)
    assert first.by is not None
    assert first.by.agents == {"agent:helper", "agent:checker"}
    assert first.same == (("supplier", "vendor"),)
    chain = [rule for rule in workflow.rules if rule.keyword == "chain"]
    assert [(r.tool.text, r.needs.text) for r in chain if isinstance(r, Before)] == [
        ("contracts.search", "erp.read"),
        ("erp.approve_po", "contracts.search"),
    ]
    budget = next(rule for rule in workflow.rules if isinstance(rule, Budget))
    assert (budget.per, str(budget.max)) == (("subject", "day"), "50000.50")
    assert next(rule for rule in workflow.rules if rule.keyword == "once").id == "orders/approve-once"


def test_the_digest_of_a_bundle_names_its_workflows_too(bundle_with: Make) -> None:
    digests = {bundle_with(text).digest for text in (ALL, ALL.replace("200", "201"), {})}
    assert len(digests) == 3


def test_a_call_belongs_to_a_workflow_by_its_tool_its_agent_or_the_name_that_was_begun(bundle_with: Make) -> None:
    orders = bundle_with(ALL).workflows["orders"]
    assert orders.holds("erp.write_po", ("agent:stranger",), "")
    assert orders.holds("erp.read", ("agent:first", "agent:helper"), "")
    assert not orders.holds("erp.read", ("agent:stranger",), "")
    assert orders.holds("erp.read", ("agent:stranger",), "orders")


def test_where_nothing_is_bound_every_step_that_a_rule_names_is(bundle_with: Make) -> None:
    text = "workflow: w\nbefore: [{tool: erp.write_po, needs: set:reading}]\nbudget: [{tool: '*', count: 2}]\n"
    workflow = bundle_with(text).workflows["w"]
    assert workflow.binds == (
        Bind(Steps("erp.write_po", frozenset(["erp.write_po"])), None),
        Bind(Steps("set:reading", frozenset(["erp.read", "contracts.search"])), None),
    )


def test_a_workflow_with_nothing_bound_is_for_those_that_begin_it_by_name(bundle_with: Make) -> None:
    workflow = bundle_with("workflow: w\nbinds: []\nonly: [erp.read]\n").workflows["w"]
    assert not workflow.holds("erp.read", (), "")
    assert workflow.holds("mail.send", (), "w")


def test_a_workflow_can_be_watched_before_it_counts(bundle_with: Make) -> None:
    assert bundle_with("workflow: w\nmode: shadow\nonce: [{tool: erp.read}]\n").workflows["w"].shadow


CONTRADICTION = "workflow-contradiction"
# `~` stands for the line `workflow: w`, `!` for one that binds nothing
WRONG = [
    ("~", "empty-workflow", 1),
    ("once: [{tool: erp.read}]\n", "missing-key", 1),
    ("workflow: W_1\nonce: [{tool: erp.read}]\n", "odd-name", 1),
    ("~onec: [{tool: erp.read}]\n", "unknown-key", 2),
    ("~mode: off\nonce: [{tool: erp.read}]\n", "unknown-word", 2),
    ("~tenants: [acne]\nonce: [{tool: erp.read}]\n", "unknown-tenant", 2),
    ("~taint: [{after: 'source:confidential'}]\n", "missing-key", 2),
    ("~taint: [{deny: 'sink:external'}]\n", "missing-key", 2),
    ("~taint: [{after: confidential, deny: 'sink:external'}]\n", "odd-name", 2),
    ("~taint: [{after: [], deny: 'sink:external'}]\n", "wrong-type", 2),
    ("~taint: [{after: 'source:x', deny: [sink:external, Sink]}]\n", "odd-name", 2),
    ("~taint: [{after: 'source:x', deny: 'sink:external', of: person}]\n", "missing-key", 2),
    ("~taint: [{after: 'source:x', deny: 'sink:external', within: 2h}]\n", "missing-key", 2),
    ("~taint: [{after: 'source:x', deny: 'sink:external', of: everybody, within: 2h}]\n", "unknown-word", 2),
    ("~taint: [{after: 'source:x', deny: 'sink:external', unless: smal}]\n", "unknown-condition", 2),
    ("~taint: [{after: 'source:x', deny: 'sink:external', must: stamp}]\n", "unknown-duty", 2),
    ("~taint: [{after: 'source:x', deny: 'sink:external', cleared: [{needs: erp.read}]}]\n", "missing-key", 2),
    ("~taint: [{after: 'source:x', deny: 'sink:external', cleared: [{needs: erp.raed, same: id}]}]\n", "unknown-tool", 2),
    ("~once: {tool: erp.read}\n", "wrong-type", 2),
    ("~once: [erp.read]\n", "wrong-type", 2),
    ("~once: [{tool: erp.raed}]\n", "unknown-tool", 2),
    ("~once: [{tool: erb.*}]\n", "unknown-tool", 2),
    ("~once: [{tool: 'set:writing'}]\n", "unknown-set", 2),
    ("~once: [{tool: 'a2a:nobody'}]\n", "unnamed-agent", 2),
    ("~once: [{tool: 'admin:kills'}]\n", "unknown-step", 2),
    ("~once: [{tool: 'res:Files/x'}]\n", "unknown-step", 2),
    ("~once: [{tool: erp.read, same: supplier}]\n", "unknown-argument", 2),
    ("~once: [{tool: erp.write_po, same: lines}]\n", "unfit-argument", 2),
    ("~once: [{tool: erp.read, id: a}, {tool: erp.approve_po, id: a}]\n", "duplicate-id", 2),
    ("~before: [{tool: erp.write_po}]\n", "missing-key", 2),
    ("~before: [{tool: erp.write_po, needs: erp.read, by: agent:nobody}]\n", "unnamed-agent", 2),
    ("~before: [{tool: erp.write_po, needs: erp.read, by: role:buyer}]\n", "unnamed-agent", 2),
    ("~before: [{tool: erp.write_po, needs: risk.score, same: supplier}]\n", "unknown-argument", 2),
    ("~before: [{tool: erp.write_po, needs: erp.read, within: 2 hours}]\n", "odd-time", 2),
    ("~before: [{tool: erp.write_po, needs: erp.read, within: 400d}]\n", "odd-time", 2),
    ("~before: [{tool: erp.write_po, needs: erp.read, result: {field: x}}]\n", "missing-key", 2),
    ("~before: [{tool: erp.write_po, needs: erp.read, result: {field: x, max: '9'}}]\n", "wrong-type", 2),
    ("~before: [{tool: erp.write_po, needs: erp.read, result: {field: x, min: 9, max: 1}}]\n", CONTRADICTION, 2),
    ("~before: [{tool: erp.write_po, needs: erp.read, result: {field: x, equals: a, max: 1}}]\n", CONTRADICTION, 2),
    ("~within: [{tool: erp.write_po}]\n", "missing-key", 2),
    ("~!locked: [{steps: [erp.read]}]\n", "wrong-type", 3),
    ("~locked: [{steps: [erp.read, erp.write_po]}]\n", "unbound-workflow", 2),
    ("~only: [erp.read]\n", "unbound-workflow", 2),
    ("~coordinator: [{agent: agent:helper, calls: [a2a:reviewer]}]\n", "unbound-workflow", 2),
    ("~binds: [{}]\nonly: [erp.read]\n", "missing-key", 2),
    ("~budget: [{tool: erp.read}]\n", "missing-key", 2),
    ("~budget: [{tool: erp.read, count: 0}]\n", "wrong-type", 2),
    ("~budget: [{tool: erp.write_po, sum: amount}]\n", "missing-key", 2),
    ("~budget: [{tool: erp.write_po, sum: amount, max: 0}]\n", "unmeetable-rule", 2),
    ("~budget: [{tool: erp.write_po, sum: supplier, max: 5}]\n", "unfit-argument", 2),
    ("~budget: [{tool: erp.read, count: 1, per: [subject]}]\n", "endless-budget", 2),
    ("~budget: [{tool: erp.read, count: 1, per: [week]}]\n", "unknown-word", 2),
    ("~distinct: [{steps: [erp.write_po, erp.approve_po], of: person}]\n", "missing-key", 2),
    ("~distinct: [{steps: [erp.write_po, erp.*]}]\n", CONTRADICTION, 2),
    ("~!coordinator: [{agent: agent:helper, calls: [erp.read]}]\n", "unknown-step", 3),
    ("~once: [{tool: mail.send}]\ntenants: [acme]\n", "unmeetable-rule", 2),
    ("~before:\n - {tool: erp.write_po, needs: erp.read}\n - {tool: erp.read, needs: erp.write_po}\n", "workflow-cycle", 4),
    ("~before: [{tool: erp.read, needs: erp.read}]\n", "workflow-cycle", 2),
    ("~chain: [{steps: [erp.read, erp.approve_po]}, {steps: [erp.approve_po, risk.score, erp.read]}]\n", "workflow-cycle", 2),
    ("~!only: [erp.write_po]\nbefore: [{tool: erp.write_po, needs: risk.score}]\n", CONTRADICTION, 4),
    ("~!locked: [{steps: [erp.read, erp.read]}]\n", CONTRADICTION, 3),
    (("~!locked: [{steps: [erp.read, erp.write_po]}]\nbefore:\n"
      " - {tool: erp.write_po, needs: risk.score}\n - {tool: risk.score, needs: erp.read}\n"), CONTRADICTION, 3),
    (("~!locked: [{steps: [erp.read, risk.score, erp.write_po]}]\nbefore:\n"
      " - {tool: risk.score, needs: erp.write_po}\n"), CONTRADICTION, 5),
    ("~once: [{tool: erp.read}]\nbudget: [{tool: erp.read, count: 2}]\n", CONTRADICTION, 3),
    (("~distinct: [{steps: [erp.read, risk.score]}]\nbefore:\n"
      " - {tool: erp.write_po, needs: erp.read, by: agent:helper}\n"
      " - {tool: erp.write_po, needs: risk.score, by: agent:helper}\n"), CONTRADICTION, 2),
    (("~!coordinator: [{agent: agent:helper, calls: [a2a:helper]}, {agent: agent:checker, "
      "calls: [a2a:helper]}]\n"), CONTRADICTION, 3),
    (("~!coordinator: [{agent: agent:helper, calls: [a2a:helper]}]\n"
      "before: [{tool: erp.read, needs: a2a:reviewer}]\n"), CONTRADICTION, 4),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code", "line"), WRONG, ids=[f"{code}-{number}" for number, (_, code, _) in enumerate(WRONG)])
def test_a_rule_that_says_less_than_it_seems_to_is_a_finding_at_its_line(
    bundle_with: Make, text: str, code: str, line: int
) -> None:
    with pytest.raises(BundleError) as caught:
        bundle_with(text.replace("~", "workflow: w\n").replace("!", "binds: []\n"))
    found = [finding for finding in caught.value.findings if finding.code == code]
    assert found, caught.value
    assert (found[0].file, found[0].line) == ("workflows/w.yaml", line)
    assert found[0].message


def test_two_files_cannot_be_one_workflow(bundle_with: Make) -> None:
    text = "workflow: w\nonce: [{tool: erp.read}]\n"
    with pytest.raises(BundleError, match=r"stands in workflows/a\.yaml already"):
        bundle_with({"workflows/a.yaml": text, "workflows/b.yaml": text})


def test_no_order_of_steps_that_can_be_kept_is_called_a_circle(bundle_with: Make) -> None:
    """Every order of five steps is one that can be kept, however its pairs are listed."""
    tools = ["erp.read", "erp.write_po", "erp.approve_po", "contracts.search", "risk.score"]
    for order in itertools.permutations(tools):
        pairs = [f" - {{tool: {later}, needs: {first}}}" for first, later in itertools.combinations(order, 2)]
        assert len(bundle_with("workflow: w\nbefore:\n" + "\n".join(pairs) + "\n").workflows["w"].rules) == 10
