"""`bailiwick policy test`: a bundle's own tables against its own rules, and what must hold before it may go live.

Pure: a suite and an engine in, results out; no clock, no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from policies.bundle import Bundle, BundleError
from policies.engine import Engine
from policies.finding import MAX_FINDINGS, Finding, suggest
from policies.invariants import Violation, violations
from policies.membership import kind_of
from policies.model import OF_WORKFLOWS, Decision, Effect, Reason, Source
from policies.sentence import explain
from policies.testfile import read_tests
from policies.testsuite import Case, Invariant, Suite
from policies.workflows.supposed import decide_after

__all__ = [
    "Case", "CaseResult", "Difference", "Invariant", "InvariantResult", "Results", "Suite",
    "check_for_activation", "proven_denial", "read_tests", "run", "unproven",
]  # fmt: skip

_RULED = frozenset({Reason.USER_LACKS_RIGHT, Reason.AGENT_LACKS_RIGHT, Reason.GUARDRAIL}) | OF_WORKFLOWS
"""Denials that come of the rules, and of nothing else."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that came otherwise.  `what`: effect, because, duty."""

    what: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"expected {self.expected}, got {self.got}"


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came of a row.  `differences`: from what was expected, none where it passed."""

    case: Case
    decision: Decision
    differences: tuple[Difference, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything came as expected."""
        return not self.differences

    @property
    def explanation(self) -> str:
        """The decision in English."""
        return explain(self.case.request, self.decision)


@dataclass(frozen=True, slots=True)
class InvariantResult:
    """What came of an invariant: the ways in which it could be broken, none where it holds."""

    invariant: Invariant
    violations: tuple[Violation, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing whatever could break it."""
        return not self.violations


@dataclass(frozen=True, slots=True)
class Results:
    """What came of a suite on one bundle."""

    suite: Suite
    bundle: Bundle
    cases: tuple[CaseResult, ...] = ()
    invariants: tuple[InvariantResult, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every row and every invariant did."""
        return all(case.passed for case in self.cases) and all(each.passed for each in self.invariants)


def run(suite: Suite, engine: Engine) -> Results:
    """Ask every question of a suite, and try to break every invariant."""
    cases = tuple(_judged(case, _decided(case, engine), engine.bundle) for case in suite.cases)
    broken = violations(engine.bundle, suite.invariants)
    invariants = tuple(InvariantResult(invariant, found) for invariant, found in zip(suite.invariants, broken, strict=True))
    return Results(suite, engine.bundle, cases, invariants)


def _decided(case: Case, engine: Engine) -> Decision:
    return decide_after(engine.bundle, case.request, engine.decide(case.request), case.workflow, case.after)


def _judged(case: Case, decision: Decision, bundle: Bundle) -> CaseResult:
    found: list[Difference] = []
    if decision.effect is not case.expect:
        found.append(Difference("effect", case.expect.value, f"{decision.effect.value} ({decision.reason.value})"))
    for because in case.because:
        found += _unexplained(because, case, decision, bundle)
    if case.must is not None and decision.allowed:
        heard = frozenset(duty.name for duty in decision.obligations)
        if case.must - heard or (case.exact and heard - case.must):
            least = "" if case.exact else "at least "
            found.append(Difference("duties", f"{least}the duties {_listed(sorted(case.must))}", _listed(sorted(heard))))
    return CaseResult(case, decision, tuple(found))


def _unexplained(because: str, case: Case, decision: Decision, bundle: Bundle) -> Iterator[Difference]:
    """Why a decision is not because of this, if it is not."""
    if because in {reason.value for reason in Reason}:
        if decision.reason.value != because:
            yield Difference("because", f"the reason {because}", decision.reason.value)
    elif kind_of(because) in ("user", "svc", "agent"):
        if because not in decision.missing:
            yield Difference("because", f"that the right of {because} is missing", _listed(decision.missing))
    elif any(rule.id == because for each in bundle.workflows.values() for rule in each.rules):
        ruled = [match.rule for match in decision.ruling.spoke] if decision.ruling is not None else []
        if because not in ruled:
            yield Difference("because", f"that rule {because} speaks", _listed(ruled))
    elif any(rule.id == because for rule in bundle.rules):
        spoke = dict.fromkeys(m.rule for answer in decision.answers for m in (*answer.matched, *answer.near))
        if because not in spoke:
            yield Difference("because", f"that rule {because} speaks", _listed(spoke))
    elif because not in explain(case.request, decision):
        hint = suggest(because, [*(rule.id for rule in bundle.rules[:500]), *(reason.value for reason in Reason)])
        yield Difference(
            "because", f"'{because}' in the explanation", "an explanation without it" + (f" ({hint})" if hint else "")
        )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names) if names else "nothing"


# --- going live


def proven_denial(results: Results) -> bool:
    """Whether a passing row shows a denial that rules had a chance to get wrong.

    The denied question must be reachable: a passing row allows the same tool to somebody else, through other agents or with other
    arguments.  A bundle without any allow line reaches nothing; there a denial of what is registered is enough.
    """
    allowed = {_question(result.case) for result in results.cases if result.passed and result.case.expect is Effect.ALLOW}
    grants = any(rule.effect == "allow" for rule in results.bundle.rules)
    return any(
        result.passed
        and result.case.expect is Effect.DENY
        and result.decision.reason in _RULED
        and (not grants or _question(result.case) in allowed)
        for result in results.cases
    )


def _question(case: Case) -> tuple[str, str, str]:
    return case.request.tenant, case.request.action, case.request.resource


def unproven(results: Results) -> Finding | None:
    """What is missing where no denial is proven, and what to write."""
    if proven_denial(results):
        return None
    file = results.cases[0].case.source.file if results.cases else "tests"
    denied = next((r.case.request.resource for r in results.cases if r.case.expect is Effect.DENY), None)
    if denied is None:
        message, help_ = "no test expects a denial", "add a row with 'expect: deny' to tests/*.yaml, and one that allows the same"
    else:
        message = "no test proves a denial: what is denied is allowed to nobody in these tests, so anything could deny it"
        help_ = f"add a row that allows '{denied}' to somebody who may, so that the denial is the rules' own"
    return Finding("no-proven-denial", file, 0, 0, message, help_)


def check_for_activation(bundle: Bundle, engine: Engine) -> list[Finding]:
    """Everything that keeps a bundle from going live; nothing where its tests pass, its invariants hold and a denial is proven.

    Never raises, and changes nothing.  `engine` is the one that would decide from then on.
    """
    if engine.bundle.digest != bundle.digest:
        return [Finding("wrong-engine", "model.conf", 0, 0, "the engine decides by another bundle", "make one of this bundle")]
    try:
        suite = read_tests(bundle)
    except BundleError as error:
        return list(error.findings)
    results = run(suite, engine)
    found = [*_failures(results, bundle)][:MAX_FINDINGS]
    missing = unproven(results) if not found else None
    return found if missing is None else [missing]


def _failures(results: Results, bundle: Bundle) -> Iterator[Finding]:
    for case in results.cases:
        if not case.passed:
            message = f"'{case.case.title}' fails: {'; '.join(map(str, case.differences))}"
            yield _finding("test-failed", bundle, case.case.source, message, case.explanation)
    for each in results.invariants:
        for violation in each.violations:
            message = f"'{each.invariant.title}' could be broken: {violation.sentence}"
            yield _finding("invariant-broken", bundle, each.invariant.source, message, violation.help)


def _finding(code: str, bundle: Bundle, source: Source, message: str, help_: str) -> Finding:
    lines = bundle.texts.get(source.file, "").split("\n")
    text = lines[source.line - 1][:400] if 0 < source.line <= len(lines) else ""
    return Finding(code, source.file, source.line, source.column, message, help_, text)
