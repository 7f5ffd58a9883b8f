"""Coverage says of each rule whether it spoke, and whether a row hangs on it; and the reports say the same."""

from __future__ import annotations

import json
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import differential_policy as campaign
from policies.bundle import Bundle, load, load_texts
from policies.coverage import Coverage, decisive, measure
from policies.engine import Engine
from policies.model import Decision
from policies.report import coverage_html, junit
from policies.testing import Results, read_tests, run, unproven

from .conftest import FILES

PROCUREMENT = Path(__file__).parents[2] / "examples" / "procurement" / "policies"
HEAD = "people:\n  bea: {is: user:dev/bea, groups: [buyers]}\n  ivo: {is: user:dev/ivo}\ntenant: acme\ntests:\n"
SEEDS = st.integers(min_value=0, max_value=2**32)


def results(*lines: str, **changes: str) -> Results:
    bundle = load_texts(FILES | {"tests/a.yaml": HEAD + "".join(f"  - {line}\n" for line in lines)} | changes)
    return run(read_tests(bundle), Engine(bundle))


def figures(coverage: Coverage) -> dict[str, tuple[int, int]]:
    return {each.rule.id: (each.matched, each.decisive) for each in coverage.rules}


ORDER = "{who: bea, tool: erp.write_po, args: {amount: 5}, expect: allow}"


def test_a_rule_that_speaks_is_matched_and_one_that_a_row_hangs_on_is_decisive() -> None:
    assert figures(measure(results(ORDER))) == {"BUY-1": (1, 1), "SEC-1": (1, 1)}
    twice = FILES["grants/people.csv"] + "p, *, acme, erp.write_po, call, allow, -, -, ALL-1\n"
    assert figures(measure(results(ORDER, **{"grants/people.csv": twice}))) == {"BUY-1": (1, 0), "ALL-1": (1, 0), "SEC-1": (1, 1)}


def test_what_never_speaks_is_listed_with_its_place() -> None:
    coverage = measure(results("{who: bea, tool: erp.read, expect: deny}"))
    assert [str(rule.source) for rule in coverage.unexercised] == ["grants/guardrails.csv:1", "grants/people.csv:1"]
    assert (coverage.exercised, coverage.percent) == (0, 0.0)
    assert measure(results(ORDER)).percent == 100.0


def test_a_bundle_without_rules_is_wholly_exercised() -> None:
    assert measure(results(**{"grants/people.csv": "", "grants/guardrails.csv": ""})).percent == 100.0


def test_a_condition_is_seen_true_false_and_undecided_where_its_rule_covers_the_question() -> None:
    lines = [
        ORDER.replace("5", amount).replace("allow", effect)
        for amount, effect in (("5", "allow"), ("500", "deny"), ("'5'", "deny"))
    ]
    (small,) = measure(results(*lines, ORDER, "{who: ivo, tool: erp.write_po, args: {amount: 5}, expect: deny}")).conditions
    assert (small.true, small.false, small.unknown, small.both_ways) == (2, 1, 1, True)
    (small,) = measure(results(ORDER)).conditions
    assert (small.true, small.false, small.unknown, small.both_ways) == (1, 0, 0, False)


def test_a_condition_that_no_rule_names_is_not_counted() -> None:
    unused = FILES["conditions.yaml"] + "unused: {if: args.amount > 1, say: unused}\n"
    assert [c.condition.name for c in measure(results(ORDER, **{"conditions.yaml": unused})).conditions] == ["small"]


# --- decisive means: without it, another outcome


def outcome(decision: Decision) -> tuple[object, frozenset[str]]:
    return decision.effect, frozenset(duty.name for duty in decision.obligations)


def without(bundle: Bundle, rule: str) -> Bundle:
    return replace(bundle, rules=tuple(each for each in bundle.rules if each.id != rule))


Judge = Callable[[Decision, Bundle], frozenset[str]]


def disagreements(seed: int, judge: Judge) -> int:
    """Decisions for which a judge of decisiveness differs from leaving each rule out in turn."""
    bundle, asked = campaign.scenario(random.Random(seed))
    engine = Engine(bundle)
    others = {rule.id: Engine(without(bundle, rule.id)) for rule in bundle.rules}
    wrong = 0
    for request in asked:
        decision = engine.decide(request)
        found = {rule for rule, other in others.items() if outcome(other.decide(request)) != outcome(decision)}
        wrong += judge(decision, bundle) != found
    return wrong


@settings(max_examples=40, deadline=None, derandomize=True)
@given(SEEDS)
def test_a_rule_is_decisive_exactly_where_the_outcome_without_it_is_another(seed: int) -> None:
    assert disagreements(seed, decisive) == 0


def test_the_campaign_meets_decisive_lines_of_every_effect() -> None:
    rng, met = random.Random(5), {"allow": 0, "deny": 0, "require": 0}
    for _ in range(60):
        bundle, asked = campaign.scenario(rng)
        effects = {rule.id: rule.effect for rule in bundle.rules}
        for request in asked:
            for rule in decisive(Engine(bundle).decide(request), bundle):
                met[effects[rule]] += 1
    assert min(met.values()) > 10, met


def _every_match(decision: Decision, bundle: Bundle) -> frozenset[str]:
    return frozenset(match.rule for match in decision.matched)


def _nothing(decision: Decision, bundle: Bundle) -> frozenset[str]:
    return frozenset()


def _only_grants(decision: Decision, bundle: Bundle) -> frozenset[str]:
    return decisive(decision, bundle) - {rule.id for rule in bundle.rules if rule.effect != "allow"}


@pytest.mark.parametrize("bug", [_every_match, _nothing, _only_grants])
def test_the_law_of_decisive_rules_catches_a_planted_bug(bug: Judge) -> None:
    assert any(disagreements(seed, bug) for seed in range(20))


def test_the_example_exercises_every_rule_and_sees_every_condition_both_ways() -> None:
    bundle = load(PROCUREMENT)
    coverage = measure(run(read_tests(bundle), Engine(bundle)))
    assert coverage.unexercised == ()
    assert all(each.both_ways for each in coverage.conditions)


# --- JUnit


def well_formed(text: str) -> ET.Element:
    """What Jenkins' and the Ant schema ask of such a file."""
    root = ET.fromstring(text.encode())
    assert root.tag == "testsuites"
    tests = failures = 0
    for suite in root:
        assert suite.tag == "testsuite"
        assert {"name", "tests", "failures", "errors", "skipped"} == set(suite.attrib)
        assert int(suite.attrib["tests"]) == len(suite)
        assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure"))
        tests, failures = tests + len(suite), failures + int(suite.attrib["failures"])
        for case in suite:
            assert case.tag == "testcase"
            assert {"name", "classname", "file", "line"} == set(case.attrib)
            assert all(case.attrib[key] for key in ("name", "classname", "file"))
            assert case.attrib["line"].isdigit()
            assert [child.tag for child in case] in ([], ["failure"])
            assert all({"message", "type"} == set(child.attrib) and child.text for child in case)
    assert (root.attrib["tests"], root.attrib["failures"]) == (str(tests), str(failures))
    return root


def test_junit_has_a_suite_a_file_and_a_test_a_row() -> None:
    found = results(ORDER, ORDER.replace("allow", "deny"), **{"tests/b.yaml": "never:\n  - {who: bea, tool: erp.*}\n"})
    root = well_formed(junit(found, unproven(found)))
    assert [(s.attrib["name"], s.attrib["tests"], s.attrib["failures"]) for s in root] == [
        ("tests/a.yaml", "3", "2"),
        ("tests/b.yaml", "1", "1"),
    ]
    failures = [case.find("failure") for case in root.iter("testcase")]
    messages = [failure.attrib["message"] for failure in failures if failure is not None]
    assert messages[0] == "expected deny, got allow (allowed)"
    assert messages[1].startswith("no test")
    assert messages[2] == "it could be broken"
    assert "BUY-1 (grants/people.csv:1)" in "".join(f.text or "" for f in failures if f is not None)


HOSTILE = "</testcase><script>alert(1)</script>\"'&amp;]]> \U0001f600"


def test_hostile_names_stay_text_in_junit_and_on_the_page() -> None:
    row = {"name": HOSTILE, "who": "bea", "tool": "erp.write_po", "args": {"amount": 5}, "expect": "deny", "because": HOSTILE}
    found = results(json.dumps(row, ensure_ascii=False))
    root = well_formed(junit(found))
    (case,) = root.iter("testcase")
    assert case.attrib["name"] == HOSTILE
    say = {"conditions.yaml": "small: {if: args.amount <= 100, say: '<img src=x onerror=alert(1)>'}\n"}
    comment = {"grants/people.csv": f"# {HOSTILE[:30]}\n" + FILES["grants/people.csv"]}
    found = results(ORDER, **say, **comment)
    page = coverage_html(found, measure(found))
    assert "<script" not in page
    assert "<img" not in page


FOUND = results(ORDER, ORDER.replace("allow", "deny"))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(min_size=1, max_size=60))
def test_whatever_a_row_is_called_the_file_is_xml(title: str) -> None:
    cases = tuple(replace(each, case=replace(each.case, title=title)) for each in FOUND.cases)
    well_formed(junit(replace(FOUND, cases=cases)))


# --- the page


class Page(HTMLParser):
    """What a page would load, and what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href", "action", "srcset", "data")]


def test_the_page_loads_nothing_and_shows_every_line_in_its_colour() -> None:
    twice = FILES["grants/people.csv"] + "# a comment\np, *, acme, erp.write_po, call, deny, -, -, NO-1\n"
    found = results("{who: bea, tool: erp.read, expect: deny}", ORDER.replace("allow", "deny"), **{"grants/people.csv": twice})
    text = coverage_html(found, measure(found))
    page = Page()
    page.feed(text)
    assert page.addresses == []
    assert {"script", "link", "img", "iframe", "object", "form"}.isdisjoint(page.tags)
    assert not re.search(r"url\(|@import|https?:", text)
    colours = {place: colour for colour, place in re.findall(r'class="line (\w+)" id="([^"]+)"', text)}
    assert colours == {
        "grants/guardrails.csv-1": "matched",
        "grants/people.csv-1": "matched",
        "grants/people.csv-2": "comment",
        "grants/people.csv-3": "decisive",
    }
