"""What lint claims about conditions holds for every call: tried against the conditions themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from policies.expression import ExpressionError, parse
from policies.lint import truth
from policies.lint.truth import ends, implies, outcomes
from policies.values import UNKNOWN, Facts

TYPES = {"n": "number", "i": "integer", "s": "string", "b": "boolean", "o": "object"}
ATOMS = st.sampled_from(
    [
        "args.n < 10", "args.n <= 10", "args.n > 10", "args.n >= 20", "args.n == 10", "args.n != 20", "10 < args.n", "args.i > 1",
        "args.i < 2", "args.i == 2", "args.i in [1, 2]", 'args.s == "a"', 'args.s in ["a", "b"]', 'args.s not in ["a"]',
        'lower(args.s) == "a"', 'lower(args.s) == "A"', "len(args.s) > 0", "len(args.s) >= 2", 'like(args.s, "a*")', "args.b",
        "args.b == false", "has(args.s)", "has(args.n)", "time.hour < 8", "time.hour >= 22", "time.weekday in [6, 7]", "1 < 2",
        'user.id == "user:a/b"', '"g" in user.groups', 'agent.assurance == "bearer"', "args.o.x > 1", "args.n == args.i",
        'time.now < date("2026-01-01")', "true", "args.n > 10.5",
    ]
)  # fmt: skip
CONDITIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: f"({p[0]} and {p[1]})"),
        st.tuples(inner, inner).map(lambda p: f"({p[0]} or {p[1]})"),
        inner.map(lambda x: f"(not {x})"),
    ),
    max_leaves=4,
)
NUMBERS = st.one_of(st.integers(-3, 25), st.sampled_from([Decimal("10.2"), Decimal("10.5"), Decimal("9.99"), Decimal("NaN")]))
VALUES = st.one_of(
    NUMBERS, st.sampled_from(["a", "A", "b", "ab", "", "é"]), st.booleans(), st.none(), st.just(1.5), st.just({"x": 2})
)
FACTS = st.builds(
    lambda args, at, groups, subject, assurance: Facts(
        arguments=args,
        types=TYPES,
        subject=subject,
        groups=groups,
        context={"agent": assurance},
        at=at * 3_600_000_000,
    ),
    st.dictionaries(st.sampled_from(sorted(TYPES)), VALUES),
    st.integers(490_000, 500_000),
    st.frozensets(st.sampled_from(["g", "h"])),
    st.sampled_from(["user:a/b", "user:a/c"]),
    st.sampled_from([{}, {"assurance": "bearer"}, {"assurance": "key"}]),
)


@given(CONDITIONS, FACTS)
def test_no_condition_comes_to_what_was_said_to_be_impossible(text: str, facts: Facts) -> None:
    for types in (TYPES, None):
        tried = outcomes([text], types)
        if tried is not None:
            assert (parse(text, TYPES).evaluate(facts),) in tried


@given(CONDITIONS, CONDITIONS, FACTS)
def test_where_one_condition_implies_another_the_other_speaks_wherever_it_does(first: str, second: str, facts: Facts) -> None:
    if implies(first, second):
        a, b = parse(first, TYPES).evaluate(facts), parse(second, TYPES).evaluate(facts)
        assert a is not True or b is True
        assert a is False or b is not False


def _marks_alone(_variable: object, known: set[object]) -> list[object]:
    return sorted(known, key=str)


def _never_missing(variable: truth._Variable) -> list[object]:
    return [case for case in CASES(variable) if not isinstance(case, truth._Special)] or [truth._OTHER]


def _two_valued(inner: truth.Test) -> truth.Test:
    return lambda case: inner(case) is not True


CASES = truth._Variable.cases


@pytest.mark.parametrize("bug", ["marks", "missing", "not"])
def test_the_laws_catch_a_planted_bug(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    if bug == "marks":
        monkeypatch.setitem(truth._SPREADS, "number", _marks_alone)
    elif bug == "missing":
        monkeypatch.setattr(truth._Variable, "cases", _never_missing)
    else:
        monkeypatch.setattr(truth, "_not", _two_valued)

    @settings(phases=[Phase.generate])  # that it fails is enough; the smallest way to fail is not asked for
    @given(CONDITIONS, FACTS)
    def law(text: str, facts: Facts) -> None:
        tried = outcomes([text], TYPES)
        assert tried is None or (parse(text, TYPES).evaluate(facts),) in tried

    with pytest.raises(AssertionError):
        law()


def test_the_generated_conditions_are_not_all_of_one_kind() -> None:
    seen: set[object] = set()
    implied = 0

    @given(CONDITIONS, CONDITIONS, FACTS)
    def look(first: str, second: str, facts: Facts) -> None:
        nonlocal implied
        seen.add(parse(first, TYPES).evaluate(facts))
        implied += implies(first, second) and first != second

    look()
    assert seen == {True, False, UNKNOWN}
    assert implied > 3


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("args.n < 50", "args.n < 100", True),
        ("args.n < 100", "args.n < 50", False),
        ("args.n <= 100", "args.n < 101", True),
        ("args.n < 101", "args.n <= 100", False),  # 100.5
        ('args.s == "a"', 'args.s in ["a", "b"]', True),
        ('args.s == "a" and args.n < 5', 'args.s == "a"', True),
        ("has(args.n)", "args.n > 0 or args.n <= 0", False),  # one is known where the other is not
        ('like(args.s, "a*") and args.b', 'like(args.s, "a*")', True),
        ("args.b and args.b", "args.b", True),
        ("args.n < 5", None, True),
        (None, "args.n < 5", False),
        (None, "1 < 2", True),
        ("time.hour < 8", "time.hour <= 7", True),
        ("len(args.s) > 0", "len(args.s) >= 1", True),
    ],
)
def test_which_condition_is_weaker(first: str | None, second: str | None, expected: bool) -> None:
    assert implies(first, second) is expected


def test_too_many_cases_are_not_known_rather_than_guessed() -> None:
    wide = " or ".join(f"args.a{n} == {n}" for n in range(12))
    assert outcomes([wide]) is None
    assert not implies(wide, wide + " or args.b == 1")


def test_the_span_of_a_condition_counts_only_what_must_hold() -> None:
    begin, end = datetime(2026, 12, 1, 8, tzinfo=UTC), datetime(2026, 12, 1, 12, tzinfo=UTC)
    both = 'time.now >= date("2026-12-01T08:00:00+00:00") and date("2026-12-01T12:00:00+00:00") > time.now'
    assert ends(both) == (begin, end)
    assert ends(f"({both}) and args.n < 5") == (begin, end)
    assert ends(f"({both}) or args.n < 5") == (None, None)
    assert ends(f"not ({both})") == (None, None)


def test_a_text_that_is_no_condition_is_never_analysed() -> None:
    with pytest.raises(ExpressionError):
        parse("__import__('os')")
