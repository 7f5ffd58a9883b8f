"""Which rules the tests exercised, which of them a row hung on, and what each condition was seen to be.

What is not exercised could be deleted, or be wrong, and every test would still pass.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from policies.bundle import Bundle, Condition, Rule
from policies.engine import Engine
from policies.model import AccessRequest, Decision
from policies.testing import Results
from policies.values import NO_TYPES, Facts
from policies.workflows.model import Rule as OfWorkflow


@dataclass(frozen=True, slots=True)
class RuleCoverage:
    """In how many rows a rule, of grants or of a workflow, spoke, and in how many the outcome hung on it."""

    rule: Rule | OfWorkflow
    matched: int = 0
    decisive: int = 0


@dataclass(frozen=True, slots=True)
class ConditionCoverage:
    """In how many rows a condition that mattered was true, false, or could not be decided."""

    condition: Condition
    true: int = 0
    false: int = 0
    unknown: int = 0

    @property
    def both_ways(self) -> bool:
        """Whether it was seen to hold, and not to hold: what cannot be decided counts as not holding."""
        return self.true > 0 and self.false + self.unknown > 0


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of every rule, and of every condition that a rule names."""

    rules: tuple[RuleCoverage, ...] = ()
    conditions: tuple[ConditionCoverage, ...] = ()

    @property
    def exercised(self) -> int:
        """Rules that spoke in some row."""
        return sum(1 for each in self.rules if each.matched)

    @property
    def percent(self) -> float:
        """Of the rules, how many spoke; 100 where there are none."""
        return 100 * self.exercised / len(self.rules) if self.rules else 100.0

    @property
    def unexercised(self) -> tuple[Rule | OfWorkflow, ...]:
        """Rules that spoke in no row."""
        return tuple(each.rule for each in self.rules if not each.matched)


def measure(results: Results) -> Coverage:
    """Of rows that passed and of rows that failed alike: a row that fails exercises its rules too."""
    bundle = results.bundle
    bare = Engine(replace(bundle, rules=tuple(replace(rule, when=None) for rule in bundle.rules), shadow=()))
    conditioned = {rule.id: rule.when for rule in bundle.rules if rule.when is not None}
    matched: Counter[str] = Counter()
    hung: Counter[str] = Counter()
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results.cases:
        matched.update(match.rule for match in result.decision.matched)
        hung.update(decisive(result.decision, bundle))
        said, alone = _of_workflows(result.decision)
        matched.update(said)
        hung.update(alone)
        request = result.case.request
        covering = (match.rule for match in bare.decide(request).matched)
        names = dict.fromkeys(conditioned[rule] for rule in covering if rule in conditioned)
        for name, value in _values(bundle, request, names):
            seen[name][value] += 1
    used = [name for name in bundle.conditions if name in set(conditioned.values())]
    rules: tuple[Rule | OfWorkflow, ...] = (*bundle.rules, *_workflow_rules(bundle))
    return Coverage(
        tuple(RuleCoverage(rule, matched[rule.id], hung[rule.id]) for rule in rules),
        tuple(
            ConditionCoverage(bundle.conditions[name], seen[name]["true"], seen[name]["false"], seen[name]["unknown"])
            for name in used
        ),
    )


def _workflow_rules(bundle: Bundle) -> tuple[OfWorkflow, ...]:
    """Those that could refuse; an entry of several steps is one rule, as it has one id.  What only watches is not counted."""
    enforced = [each for each in bundle.workflows.values() if not each.shadow]
    return tuple({rule.id: rule for each in enforced for rule in each.rules}.values())


def _of_workflows(decision: Decision) -> tuple[frozenset[str], frozenset[str]]:
    """Rules of workflows that spoke, and the one that alone refuses."""
    ruling = decision.ruling
    if ruling is None:
        return frozenset(), frozenset()
    against = frozenset(each.match.rule for each in ruling.refused)
    return frozenset(match.rule for match in ruling.spoke), against if len(against) == 1 else frozenset()


def _values(bundle: Bundle, request: AccessRequest, names: Iterable[str]) -> Iterable[tuple[str, str]]:
    """What conditions come to for a question."""
    spec = bundle.tools.get(request.resource)
    facts = Facts(
        arguments=request.arguments,
        types=spec.args if spec is not None else NO_TYPES,
        subject=request.subject,
        groups=request.groups,
        context=request.context,
        at=request.at,
    )
    for name in names:
        value = bundle.conditions[name].expression(facts)
        yield name, "true" if value is True else "false" if value is False else "unknown"


def decisive(decision: Decision, bundle: Bundle) -> frozenset[str]:
    """The rules without any one of which a decision would have been another: the effect, or a duty."""
    if decision.allowed:
        found: set[str] = set()
        for answer in decision.answers:
            allows = [match.rule for match in answer.matched if match.effect == "allow"]
            found.update(allows if len(allows) == 1 else ())
        return frozenset(found | _sole_duties(decision, bundle))
    denies = {match.rule for match in decision.matched if match.effect == "deny"}
    granted = all(any(match.effect == "allow" for match in answer.matched) for answer in decision.answers)
    return frozenset(denies) if len(denies) == 1 and granted and decision.answers else frozenset()


def _sole_duties(decision: Decision, bundle: Bundle) -> set[str]:
    required = {match.rule for match in decision.matched if match.effect == "require"}
    if not required:
        return set()
    by_duty: dict[str | None, list[str]] = defaultdict(list)
    for rule in bundle.rules:
        if rule.id in required:
            by_duty[rule.must].append(rule.id)
    return {rules[0] for rules in by_duty.values() if len(rules) == 1}
