"""Rules about labels: what came in, by which call, and what may leave after it; told as histories, judged without a gateway."""

from __future__ import annotations

import pytest

from policies import testing
from policies.bundle import BundleError
from policies.engine import Engine
from tests.policies.workflows.conftest import Make

GRANTS = """\
p, role:buyer,  acme, erp.*,        call, allow, -, -, BUY-1
p, role:buyer,  acme, risk.score,   call, allow, -, -, BUY-2
p, role:buyer,  acme, a2a:reviewer, send, allow, -, -, BUY-3
p, agents:crew, acme, erp.*,        call, allow, -, -, CREW-1
p, agents:crew, acme, a2a:reviewer, send, allow, -, -, CREW-2
"""
PEOPLE = "people:\n  bea: {is: user:dev/bea, groups: [buyers]}\n  ann: {is: user:dev/ann, groups: [buyers]}\n"
LEAKS = """\
workflow: leaks
taint:
  - {after: source:confidential, deny: sink:external, unless: small,
     cleared: [{tool: erp.write_po, needs: erp.approve_po, same: supplier}]}
  - {after: [source:untrusted, source:confidential], deny: writes:orders, of: person, within: 1h}
"""
LABELLED = """\
tenants: [acme]
tools:
  erp.read: {args: {id: string}, labels: [source:confidential]}
  erp.write_po: {args: {supplier: string, amount: number}, labels: [sink:external, "source:unseen"]}
  erp.approve_po: {args: {supplier: string}, labels: [writes:orders]}
  risk.score: {args: {vendor: string}, labels: [source:untrusted]}
labels: {"a2a:*": [sink:external]}
"""
OUT = "who: bea, via: helper, tool: erp.write_po, args: {supplier: S-1, amount: 500}"
BOOK = "who: bea, via: helper, tool: erp.approve_po, args: {supplier: S-1}"
FLOWS = [
    (f"{{{OUT}, expect: allow}}", True),
    (f"{{{OUT}, after: read, expect: deny, because: [dataflow, leaks/taint-1, 'came in with erp.read']}}", True),
    (f"{{{OUT}, after: read-in-vain, expect: deny, because: dataflow}}", True),
    (f"{{{OUT}, after: read-under-way, expect: deny, because: dataflow}}", True),
    (f"{{{OUT}, after: read-never, expect: allow}}", True),
    (f"{{{OUT}, after: scored-untrusted, expect: allow}}", True),
    (f"{{{OUT}, after: [read, by-ann], expect: deny, because: dataflow}}", True),
    (f"{{{OUT}, after: [read, vouched], expect: allow}}", True),
    (f"{{{OUT}, after: [read, vouched-for-another], expect: deny, because: dataflow}}", True),
    (f"{{{OUT.replace('500', '99')}, after: read, expect: allow}}", True),
    (f"{{{OUT.replace(', amount: 500', '')}, after: read, expect: deny, because: dataflow}}", True),
    ("{who: bea, via: helper, tool: 'a2a:reviewer', action: send, after: read, expect: deny, because: dataflow}", True),
    (f"{{{BOOK}, after: read, expect: allow}}", True),
    (f"{{{BOOK}, after: [read-elsewhere, scored-untrusted], expect: deny, because: dataflow}}", True),
    (f"{{{BOOK}, after: [read-yesterday, scored-untrusted], expect: allow}}", True),
    (f"{{{BOOK}, after: [read-by-ann, scored-untrusted], expect: allow}}", True),
    (f"{{{OUT}, after: read, expect: allow}}", False),
]
FLOWED = """\
history:
  read: [{tool: erp.read, by: checker}]
  read-in-vain: [{tool: erp.read, state: failed}]
  read-under-way: [{tool: erp.read, state: running}]
  read-never: [{tool: erp.read, state: unsent}]
  read-elsewhere: [{tool: erp.read, elsewhere: true}]
  read-yesterday: [{tool: erp.read, elsewhere: true, ago: 1d}]
  read-by-ann: [{tool: erp.read, who: ann}]
  scored-untrusted: [{tool: risk.score, args: {vendor: S-1}}]
  vouched: [{tool: erp.approve_po, args: {supplier: S-1}}]
  vouched-for-another: [{tool: erp.approve_po, args: {supplier: S-2}}]
  by-ann: [{tool: erp.approve_po, who: ann, args: {supplier: S-1}}]
"""


@pytest.mark.parametrize(("row", "passes"), FLOWS)
def test_what_may_leave_depends_on_what_came_in(bundle_with: Make, row: str, passes: bool) -> None:
    table = f"tenant: acme\n{PEOPLE}{FLOWED}tests:\n  - {row}\n"
    bundle = bundle_with({"tools.yaml": LABELLED, "workflows/a.yaml": LEAKS, "grants/people.csv": GRANTS, "tests/a.yaml": table})
    (result,) = testing.run(testing.read_tests(bundle), Engine(bundle)).cases
    assert result.passed is passes, (result.differences, result.explanation)


def test_labels_of_what_is_no_tool_are_those_of_every_pattern_that_covers_it(bundle_with: Make) -> None:
    labels = "labels:\n  'res:files/*': [source:a]\n"
    labels += "  'res:files/file:///hr/*': [source:b, source:a]\n  res:files/file:///hr/x: [source:c]\n"
    known = bundle_with({"tools.yaml": LABELLED.split("labels: {", maxsplit=1)[0] + labels}).labels
    assert known.of("res:files/file:///hr/x") == ("source:c", "source:a", "source:b")
    assert known.of("res:files/file:///notes") == ("source:a",)
    assert known.of("res:other/file:///notes") == ()
    assert known.objects("source:a").covers("res:files/file:///hr/x")
    assert not known.objects("source:b").covers("res:files/file:///notes")


@pytest.mark.parametrize("name", ["erp.read", "erp.*", "set:reading", "agent:helper", "skill:x/y", "*", "res:Files/x"])
def test_what_has_labels_elsewhere_or_none_is_a_finding(bundle_with: Make, name: str) -> None:
    with pytest.raises(BundleError) as caught:
        bundle_with({"tools.yaml": LABELLED.split("labels: {", maxsplit=1)[0] + f"labels: {{'{name}': [sink:external]}}\n"})
    assert [finding.code for finding in caught.value.findings] == ["odd-name"]
