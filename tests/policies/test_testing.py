"""Tests of policy: what a table may say, what came of it, and what must hold before a bundle goes live."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as varied

from bench import differential_policy as campaign
from policies import testfile, testing
from policies.bundle import Bundle, BundleError, Finding, load, load_texts
from policies.engine import Engine
from policies.finding import MAX_FINDINGS
from policies.model import Effect, Reason
from policies.testfile import NOON
from policies.testing import Results, check_for_activation, proven_denial, read_tests, run

from .conftest import FILES

ROOT = Path(__file__).parents[2]
SHIPPED = [ROOT / "policies" / "default", ROOT / "examples" / "procurement" / "policies"]
PEOPLE = "people:\n  bea: {is: user:dev/bea, groups: [buyers]}\n  ivo: {is: user:dev/ivo}\ntenant: acme\n"
ALLOWED = "{who: bea, tool: erp.write_po, args: {supplier: S, amount: 5}, expect: allow"
DENIED = "{who: ivo, tool: erp.write_po, args: {supplier: S, amount: 5}, expect: deny"


def made(table: str, **changes: str) -> Bundle:
    return load_texts(FILES | {"tests/a.yaml": table} | changes)


def rows(*lines: str) -> str:
    return PEOPLE + "tests:\n" + "".join(f"  - {line}\n" for line in lines)


def ran(*lines: str, **changes: str) -> Results:
    bundle = made(rows(*lines), **changes)
    return run(read_tests(bundle), Engine(bundle))


def mistakes(table: str, **changes: str) -> tuple[Finding, ...]:
    with pytest.raises(BundleError) as error:
        read_tests(made(table, **changes))
    return error.value.findings


# --- reading


def test_a_row_is_a_whole_question() -> None:
    line = (
        '{name: by night, who: bea, via: "a > agent:b", tool: erp.read, args: {id: "1"}, groups: [x, "idp:y"], '
        'at: "2026-12-01T22:00:00+01:00", context: {agent: {assurance: bearer}}, expect: deny, because: [ERP, user-lacks-right]}'
    )
    (case,) = read_tests(made(rows(line))).cases
    asked = case.request
    assert (asked.subject, asked.actors, asked.tenant, asked.action, asked.resource) == (
        "user:dev/bea", ("agent:a", "agent:b"), "acme", "call", "erp.read",
    )  # fmt: skip
    assert (asked.groups, asked.arguments) == (frozenset({"x", "y"}), {"id": "1"})
    assert asked.at == 1_796_158_800_000_000
    assert asked.context == {"agent": {"assurance": "bearer"}}
    assert (case.title, case.expect, case.because) == ("by night", Effect.DENY, ("ERP", "user-lacks-right"))
    assert str(case.source) == "tests/a.yaml:6"


def test_what_a_row_leaves_out_has_one_fixed_meaning() -> None:
    first, second = read_tests(made(rows(DENIED + "}", '{who: bea, tool: "a2a:helper", expect: deny}'))).cases
    assert (first.request.at, first.request.action, first.request.actors) == (NOON, "call", ())
    assert (first.must, first.because) == (None, ())
    assert second.request.action == "send"


def test_a_file_and_a_row_may_set_the_time_and_the_tenant() -> None:
    table = rows(DENIED + "}", DENIED + ', tenant: other, at: "2026-01-02T00:00:00Z"}') + 'at: "2026-01-01T00:00:00Z"\n'
    first, second = read_tests(made(table)).cases
    assert (first.request.tenant, second.request.tenant) == ("acme", "other")
    assert second.request.at - first.request.at == 86_400_000_000


def test_people_of_one_table_are_known_in_the_others() -> None:
    bundle = made(rows(DENIED + "}"), **{"tests/b.yaml": "tests:\n  - " + ALLOWED + ", tenant: acme}\n"})
    assert [case.request.subject for case in read_tests(bundle).cases] == ["user:dev/ivo", "user:dev/bea"]


BAD_ROWS = {
    "{who: bae, tool: erp.read, expect: deny}": ("unknown-who", "did you mean 'bea'?"),
    "{who: role:buyer, tool: erp.read, expect: deny}": ("unknown-who", "user:<issuer>/<sub>"),
    "{who: user:dev/new, tool: erp.read, expect: deny}": ("missing-key", "groups: []"),
    "{who: bea, tool: erp.raed, expect: deny}": ("unknown-tool", "did you mean 'erp.read'?"),
    "{who: bea, tool: erp, expect: deny, action: lits}": ("unknown-action", "did you mean 'list'?"),
    "{who: bea, tool: nowhere, expect: deny}": ("unknown-tool", "unknown-resource"),
    "{who: bea, tool: mail.send, tenant: other, expect: deny}": ("unknown-tool", "tenants"),
    "{who: bea, tool: erp.read, tenant: acne, expect: deny}": ("unknown-tenant", "did you mean 'acme'?"),
    "{who: bea, tool: erp.read, expect: denied}": ("unknown-expect", "did you mean 'deny'?"),
    "{who: bea, tool: erp.read}": ("missing-key", "expect"),
    "{tool: erp.read, expect: deny}": ("missing-key", "who"),
    "{who: bea, expect: deny}": ("missing-key", "tool"),
    "{who: bea, tool: erp.read, expect: deny, becuase: x}": ("unknown-key", "did you mean 'because'?"),
    "{who: bea, tool: erp.read, expect: deny, because: {a: b}}": ("wrong-type", "[a, b]"),
    "{who: bea, tool: erp.read, expect: deny, args: [1]}": ("wrong-type", "{name: value}"),
    "{who: bea, tool: erp.read, expect: deny, args: {idd: '1'}}": ("unknown-argument", "did you mean 'id'?"),
    "{who: bea, tool: 'a2a:helper', expect: deny, args: {x: 1}}": ("unknown-argument", ""),
    "{who: bea, tool: erp.read, action: send, expect: deny}": ("unknown-action", "call"),
    "{who: bea, tool: 'a2a:helper', action: call, expect: deny}": ("unknown-action", "send"),
    "{who: bea, tool: 'admin:policy', expect: deny}": ("missing-key", "approve"),
    "{who: bea, via: 'a > Not One', tool: erp.read, expect: deny}": ("odd-name", "ids"),
    "{who: bea, via: ' > ', tool: erp.read, expect: deny}": ("odd-name", "ids"),
    "{who: bea, tool: erp.read, expect: deny, at: '2026-12-01'}": ("odd-time", "2026-12-01T22:00:00Z"),
    "{who: bea, tool: erp.read, expect: deny, at: '2026-12-01T10:00:00'}": ("odd-time", "zone"),
    "{who: bea, tool: erp.read, expect: deny, at: noon}": ("odd-time", ""),
    "{who: bea, tool: erp.read, expect: deny, must: [full-audit]}": ("odd-duty", "take 'must' out"),
    "{who: bea, tool: erp.read, expect: allow, must: [full-adit]}": ("unknown-duty", "did you mean 'full-audit'?"),
    "{who: bea, tool: erp.read, expect: allow, must: [], must_include: []}": ("odd-duty", "must"),
    "{who: bea, tool: erp.read, expect: deny, context: {user: {}}}": ("unknown-key", "assurance"),
    "{who: bea, tool: erp.read, expect: deny, after: steps}": ("unknown-history", "tell it under 'history:'"),
    "{who: bea, tool: erp.read, expect: deny, workflow: orders}": ("unknown-workflow", "known are"),
    "just text": ("wrong-type", "name: value"),
}


@pytest.mark.parametrize("line", BAD_ROWS)
def test_a_row_that_could_be_a_mistake_is_a_finding_with_its_place_and_the_next_step(line: str) -> None:
    code, help_ = BAD_ROWS[line]
    found = [each for each in mistakes(rows(line)) if each.code == code]
    assert found, mistakes(rows(line))
    assert all((each.file, each.line) == ("tests/a.yaml", 6) and each.column > 4 for each in found)
    assert any(help_ in each.message + each.help for each in found)
    assert "-" in found[0].text


BAD_TABLES = {
    "tets: []\n": ("unknown-key", "did you mean 'tests'?"),
    "history: [x]\n": ("wrong-type", "names and lists"),
    "history: {steps: []}\n": ("wrong-type", "1 to 1000"),
    "history: {steps: [{by: helper}]}\n": ("missing-key", "tool"),
    "history: {steps: [{tool: erp.raed}]}\n": ("unknown-tool", "did you mean 'erp.read'?"),
    "history: {steps: [{tool: 'admin:kills'}]}\n": ("unknown-tool", "a2a:"),
    "history: {steps: [{tool: erp.read, args: {idd: x}}]}\n": ("unknown-argument", "did you mean 'id'?"),
    "history: {steps: [{tool: erp.read, state: done}]}\n": ("unknown-state", "known are"),
    "history: {steps: [{tool: erp.read, ago: yesterday}]}\n": ("odd-time", "30m"),
    "history: {steps: [{tool: erp.read, who: nobody}]}\n": ("unknown-who", "people"),
    "history: {steps: [{tool: erp.read, by: a, via: b}]}\n": ("unknown-key", "last of 'via'"),
    "history: {steps: [{tool: erp.read, by: 'Not One'}]}\n": ("odd-name", "ids"),
    "people: [bea]\n": ("wrong-type", ""),
    "people: {bea: {is: bea}}\n": ("unknown-kind", ""),
    "people: {bea: {groups: [x]}}\n": ("missing-key", "'is'"),
    "people: {bea: {is: user:dev/bea, gruops: [x]}}\n": ("unknown-key", "did you mean 'groups'?"),
    "tests: {a: b}\n": ("wrong-type", "- "),
    "tenant: acne\n": ("unknown-tenant", "did you mean 'acme'?"),
    "never: [{who: user:dev/x}]\n": ("missing-key", "tool"),
    "never: [{tool: erp.read}]\n": ("missing-key", "who: mia"),
    "never: [{who: user:dev/x, agent: y, tool: erp.read}]\n": ("missing-key", "one of who, agent, group, role"),
    "never: [{agent: helper, tool: erp.rd}]\n": ("unknown-tool", "did you mean 'erp.read'?"),
    "never: [{agent: helper, tool: 'er.*'}]\n": ("unknown-tool", "did you mean 'erp.*'?"),
    "never: [{agent: helper, via: a, tool: erp.read}]\n": ("unknown-key", "take it out"),
    "never: [{role: byer, tool: erp.read}]\n": ("unknown-role", "did you mean 'role:buyer'?"),
    "never: [{who: user:dev/x, tool: erp.read, action: relay}]\n": ("unknown-action", "via"),
    "never: [{who: user:dev/x, tool: erp.read, action: send}]\n": ("unknown-action", "call"),
    "never: [{who: user:dev/x, tool: erp.read, alone: maybe}]\n": ("wrong-type", "true or false"),
    "never: [{who: user:dev/x, tool: erp.read, after: y}]\n": ("unknown-key", "after"),
    "tests: [*a]\n": ("not-yaml", ""),
    "a: &a 1\ntests: [*a]\n": ("alias", ""),
}


@pytest.mark.parametrize("table", BAD_TABLES)
def test_a_table_that_could_be_a_mistake_is_a_finding(table: str) -> None:
    code, said = BAD_TABLES[table]
    found = [each for each in mistakes(table) if each.code == code]
    assert found, mistakes(table)
    assert all(each.line >= 1 and each.column >= 1 for each in found)
    assert any(said in each.message + each.help for each in found)


def test_without_a_tenant_a_bundle_of_several_is_ambiguous() -> None:
    (found,) = mistakes("people: {bea: {is: user:dev/bea}}\ntests:\n  - {who: bea, tool: erp.read, expect: deny}\n")
    assert (found.code, found.line) == ("missing-key", 3)
    assert "several tenants" in found.message


def test_a_name_is_one_person_over_all_tables() -> None:
    (found,) = mistakes(PEOPLE, **{"tests/b.yaml": "people: {bea: {is: user:dev/other}}\n"})
    assert (found.code, found.location) == ("duplicate-key", "tests/b.yaml:1:10")


def test_a_group_or_an_agent_that_rules_nearly_name_is_noted_and_no_error() -> None:
    suite = read_tests(made(rows(DENIED + ", groups: [byers], via: helperr}", DENIED + ", groups: [cooks], via: stranger-one}")))
    assert {(note.code, note.help) for note in suite.notes} == {
        ("unnamed-agent", "did you mean 'helper'?"),
        ("unnamed-group", "did you mean 'buyers'?"),
    }


def test_the_number_of_rows_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.testfile.MAX_CASES", 3)
    assert mistakes(rows(*[DENIED + "}"] * 4))[0].code == "too-large"
    assert len(read_tests(made(rows(*[DENIED + "}"] * 3))).cases) == 3


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["bea", "erp.read", "allow", "*", "agent:x", "a > b", "", "é"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["who", "tool", "expect", "via", "args", "groups", "never", "tests", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(JUNK, JUNK, JUNK)
def test_whatever_stands_in_a_table_it_is_read_or_refused_with_findings(tests: Any, never: Any, people: Any) -> None:
    bundle = made(json.dumps({"tests": tests, "never": never, "people": people}))
    try:
        suite = read_tests(bundle)
    except BundleError as refused:
        found = refused.findings
    else:
        found = ()
        run(suite, Engine(bundle))
    assert {each.file for each in found} <= {"tests/a.yaml"}


# --- running


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (ALLOWED + "}", None),
        (ALLOWED + ", must: [full-audit], because: BUY-1}", None),
        (ALLOWED + ", must_include: []}", None),
        (ALLOWED + ", must: []}", "expected the duties nothing, got full-audit"),
        (ALLOWED + ", must_include: [full-audit], because: [allowed, BUY-1, SEC-1]}", None),
        (DENIED + "}", None),
        (DENIED + ", because: [user-lacks-right, user:dev/ivo]}", None),
        (DENIED + ", because: guardrail}", "expected the reason guardrail, got user-lacks-right"),
        (DENIED + ", because: agent:helper}", "expected that the right of agent:helper is missing, got user:dev/ivo"),
        (DENIED + ", because: BUY-1}", "expected that rule BUY-1 speaks, got SEC-1"),
        (DENIED + ", because: no rule grants call}", None),
        (DENIED + ", because: BUY-2}", "(did you mean 'BUY-1'?)"),
        (ALLOWED.replace("amount: 5", "amount: 500") + "}", "expected allow, got deny (user-lacks-right)"),
        (ALLOWED.replace("amount: 5", "amount: 500").replace("allow", "deny") + ", because: [BUY-1, small orders]}", None),
        ("{who: bea, tool: nowhere.at_all, expect: deny, because: unknown-resource}", None),
        ("{who: bea, tool: erp, expect: allow, because: allowed}", None),
        ("{who: ivo, tool: erp, expect: deny}", None),
    ],
)
def test_a_row_passes_exactly_where_everything_is_as_it_says(line: str, problem: str | None) -> None:
    (result,) = ran(line).cases
    assert result.passed == (problem is None), [str(each) for each in result.differences]
    if problem is not None:
        assert any(problem in str(each) for each in result.differences)


def test_the_time_of_a_row_is_the_time_of_its_question() -> None:
    night = {"conditions.yaml": "small: {if: time.hour < 6, say: at night}\n"}
    early = ALLOWED + ', at: "2026-12-01T05:59:59Z"}'
    late = ALLOWED.replace("allow", "deny") + ', at: "2026-12-01T06:00:00Z"}'
    assert ran(early, late, **night).passed


# --- going live


def test_both_shipped_bundles_may_go_live() -> None:
    for folder in SHIPPED:
        bundle = load(folder)
        assert check_for_activation(bundle, Engine(bundle)) == []


def findings_of(*lines: str, more: str = "", **changes: str) -> list[Finding]:
    bundle = made(rows(*lines) + more, **changes)
    return check_for_activation(bundle, Engine(bundle))


def test_a_bundle_goes_live_with_a_denial_that_is_allowed_to_somebody_else() -> None:
    assert findings_of(ALLOWED + "}", DENIED + "}") == []


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (ALLOWED + "}",),
        (DENIED + "}",),  # nobody in the table may, so anything could have denied it
        (DENIED + "}", "{who: bea, tool: erp.write_po, tenant: other, args: {amount: 5}, expect: deny}"),
        (ALLOWED + "}", "{who: ivo, tool: erp.read, expect: deny}"),  # another tool
        (ALLOWED + "}", "{who: ivo, tool: erp.gone, expect: deny, because: unknown-resource}"),
        (ALLOWED + "}", "{who: ivo, tool: erp, expect: deny}"),  # a list of tools: hidden is unknown
    ],
)
def test_a_bundle_whose_tests_prove_no_denial_does_not_go_live(lines: tuple[str, ...]) -> None:
    (found,) = findings_of(*lines)
    assert found.code == "no-proven-denial"
    assert "expect: deny" in found.help or "add a row that allows" in found.help


def test_another_argument_or_another_agent_proves_a_denial_as_well() -> None:
    assert findings_of(ALLOWED + "}", ALLOWED.replace("allow", "deny").replace("amount: 5", "amount: 500") + "}") == []
    assert findings_of(ALLOWED + "}", ALLOWED.replace("allow", "deny") + ", via: helper}") == []


def test_a_bundle_that_grants_nothing_needs_one_denial_of_what_is_registered() -> None:
    none = {"grants/people.csv": ""}
    assert findings_of(DENIED + "}", **none) == []
    assert [f.code for f in findings_of("{who: ivo, tool: x.y, expect: deny, because: unknown-resource}", **none)] == [
        "no-proven-denial"
    ]


def test_a_failing_row_keeps_a_bundle_from_going_live_and_says_why_and_where() -> None:
    (found,) = findings_of(ALLOWED + "}", DENIED + "}", ALLOWED.replace("bea", "ivo") + "}")
    assert (found.code, found.file, found.line) == ("test-failed", "tests/a.yaml", 8)
    assert "expected allow, got deny (user-lacks-right)" in found.message
    assert "no rule grants call on erp.write_po to user:dev/ivo" in found.help
    assert found.text.strip().startswith("- {who: ivo")


def test_a_broken_invariant_keeps_a_bundle_from_going_live() -> None:
    (found,) = findings_of(ALLOWED + "}", DENIED + "}", more="never:\n  - {who: bea, tool: erp.*}\n")
    assert (found.code, found.line) == ("invariant-broken", 9)
    assert "BUY-1 (grants/people.csv:1)" in found.message
    assert findings_of(ALLOWED + "}", DENIED + "}", more="never:\n  - {who: ivo, tool: '*', alone: true}\n") == []


def test_what_cannot_be_read_keeps_a_bundle_from_going_live() -> None:
    assert {f.code for f in findings_of(ALLOWED + "}", "{who: ivo, tool: erp.raed, expect: deny}")} == {"unknown-tool"}


def test_the_findings_are_bounded() -> None:
    assert len(findings_of(*[ALLOWED.replace("bea", "ivo") + "}"] * (MAX_FINDINGS + 50))) == MAX_FINDINGS


def test_an_engine_of_another_bundle_proves_nothing() -> None:
    bundle, other = made(rows(ALLOWED + "}", DENIED + "}")), made(rows(), **{"grants/people.csv": ""})
    assert [f.code for f in check_for_activation(bundle, Engine(other))] == ["wrong-engine"]


# --- the proof of a denial catches broken judges

TABLE = (
    ALLOWED + ", must: [full-audit]}",
    DENIED + ", because: user-lacks-right}",
    "{who: bea, via: helper, tool: erp.write_po, args: {amount: 5}, expect: deny}",
)


class _Broken(Engine):
    """An engine with a planted bug."""

    def __init__(self, bundle: Bundle, bug: Callable[..., Any]) -> None:
        super().__init__(bundle)
        self._bug = bug

    def decide(self, request: Any) -> Any:
        return self._bug(super().decide, request)


BUGS: dict[str, Callable[..., Any]] = {
    "everything is allowed": lambda ask, r: varied(ask(r), effect=Effect.ALLOW, reason=Reason.ALLOWED),
    "everything is denied": lambda ask, r: varied(ask(r), effect=Effect.DENY, reason=Reason.USER_LACKS_RIGHT),
    "every question is unknown": lambda ask, r: ask(varied(r, resource="no.where")),
    "an error everywhere": lambda ask, r: varied(ask(r), effect=Effect.DENY, reason=Reason.DECISION_ERROR),
    "agents are not asked": lambda ask, r: ask(varied(r, actors=())),
    "the person is somebody else": lambda ask, r: ask(varied(r, subject="user:dev/bea", groups=frozenset({"buyers"}))),
    "groups are lost": lambda ask, r: ask(varied(r, groups=frozenset())),
    "arguments are lost": lambda ask, r: ask(varied(r, arguments={})),
    "duties are forgotten": lambda ask, r: varied(ask(r), obligations=()),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_small_table_keeps_a_broken_judge_from_going_live(bug: str) -> None:
    bundle = made(rows(*TABLE))
    assert check_for_activation(bundle, Engine(bundle)) == []
    assert check_for_activation(bundle, _Broken(bundle, BUGS[bug])) != []


SEEDS = st.integers(min_value=0, max_value=2**32)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SEEDS)
def test_a_table_written_from_the_answers_passes_and_one_wrong_expectation_fails(seed: int) -> None:
    rng = random.Random(seed)
    bundle, asked = campaign.scenario(rng)
    engine = Engine(bundle)
    cases = tuple(
        testing.Case(f"row {at}", campaign.Source("tests/x.yaml", at + 1), each, (decision := engine.decide(each)).effect,
                     (decision.reason.value,), frozenset(d.name for d in decision.obligations) if decision.allowed else None)
        for at, each in enumerate(asked)
    )  # fmt: skip
    assert run(testing.Suite(cases), engine).passed
    at = rng.randrange(len(cases))
    wrong = replace(cases[at], expect=Effect.DENY if cases[at].expect is Effect.ALLOW else Effect.ALLOW)
    results = run(testing.Suite((*cases[:at], wrong, *cases[at + 1 :])), engine)
    assert [result.passed for result in results.cases] == [n != at for n in range(len(cases))]


def test_proof_needs_rows_that_pass() -> None:
    results = ran(ALLOWED + "}", DENIED + ", because: guardrail}")
    assert not proven_denial(results)
    assert not proven_denial(ran(ALLOWED + ", because: guardrail}", DENIED + "}"))


# --- the documentation

PAGES = [ROOT / "docs" / "reference" / "policy-tests.md", ROOT / "docs" / "how-to" / "test-policy.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_the_documentation_pass_on_the_example(page: Path) -> None:
    tables = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    assert tables
    texts = {name: text for name, text in load(SHIPPED[1]).texts.items() if not name.startswith("tests/")}
    for table in tables:
        bundle = load_texts(texts | {"tests/page.yaml": table})
        assert check_for_activation(bundle, Engine(bundle)) == []


def test_every_key_of_a_table_has_its_row_in_the_reference() -> None:
    rows = set(re.findall(r"^\| `([a-z_-]+)` \|", PAGES[0].read_text(), re.MULTILINE))
    assert {*testfile._TOP, *testfile._CASE, *testfile._NEVER} <= rows
    assert {"test-failed", "invariant-broken", "no-proven-denial"} <= rows
