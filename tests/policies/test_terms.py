"""Two conditions compared: what is said never to happen never does, with z3 and without, and every example holds."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from policies import prover
from policies import terms as terms_module
from policies.cases import Case, cases_of
from policies.expression import parse
from policies.terms import Proof, Relation, Term, compare

TYPES = {
    "amount": "number",
    "count": "integer",
    "name": "string",
    "path": "string",
    "flag": "boolean",
    "tags": "array",
    "order": "object",
}
Z3 = pytest.mark.skipif(not prover.available(), reason="z3 is not installed")

ATOMS = (
    'all_in(args.tags, ["x"])', 'hour("Europe/Berlin") < 9', 'weekday("UTC") <= 5',
    "args.amount <= 10", "args.amount < 10.5", "args.amount == 20", "args.amount > args.count", "args.count >= 3",
    "args.count != 4", 'args.name == "a"', 'args.name in ["a", "b"]', 'like(args.name, "a*")', 'like(args.name, "ab*")',
    'lower(args.name) == "a"', "len(args.name) <= 2", 'under(args.path, "/data")', 'under(args.path, "/data/x")',
    "args.flag", "args.flag == False", "has(args.flag)", "has(args.order)", "args.order.sum <= 5", '"x" in args.tags',
    'host_in(args.name, ["a.example", "*.b.example"])', 'ip_in(args.name, ["10.0.0.0/8"])', 'user.id == "user:dev/ada"',
    '"red" in user.groups', "time.hour < 8", "time.weekday <= 5", 'time.now < date("2026-12-01")',
    'agent.assurance == "bearer"', "ctx.level >= 2",
)  # fmt: skip


def term(*texts: str, always: bool = False) -> Term:
    return Term(tuple(parse(text, TYPES) for text in texts), TYPES, always)


def condition(rng: random.Random) -> str:
    text = rng.choice(ATOMS)
    for _ in range(rng.randrange(3)):
        other = rng.choice(ATOMS)
        text = f"({text}) {rng.choice(['and', 'or', 'or'])} {'not ' if rng.random() < 0.3 else ''}({other})"
    return text


def anything(rng: random.Random) -> Case:
    """Any arguments at all, well typed or not."""
    values: dict[str, list[object]] = {
        "amount": [0, 3, 10, Decimal("10.2"), 11, 20, 21, "10", None, Decimal("NaN"), 10**200],
        "count": [2, 3, 4, 5, Decimal("3.5"), None],
        "name": ["a", "A", "ab", "abc", "b", "", "x.b.example", "a.example", "10.1.2.3", 5],
        "path": ["/data", "/data/x", "/data/x/y", "/datax", "/data/../etc", "data/x", "/"],
        "flag": [True, False, None, "yes"],
        "tags": [[], ["x"], ["y"], ["y", None], "x"],
        "order": [{}, {"sum": 5}, {"sum": 6}, {"sum": "5"}, {"Sum": 1, "sum": 2}, None, 5],
    }
    return Case(
        {name: rng.choice(options) for name, options in values.items() if rng.random() < 0.8},
        rng.choice(["user:dev/ada", "user:dev/bob"]),
        rng.choice([frozenset(), frozenset({"red"}), frozenset({"blue", "red"})]),
        rng.choice([{}, {"agent": {"assurance": "bearer"}}, {"agent": {"assurance": 1}, "ctx": {"level": 2}}, {"ctx": 2}]),
        rng.choice([1_767_571_200_000_000 + 3_600_000_000 * 19 * n for n in range(40)] + [1_798_000_000_000_000]),
    )  # fmt: skip


def pairs(count: int, seed: int) -> list[tuple[Term, Term, str, Relation]]:
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        first = [condition(rng) for _ in range(rng.randrange(3))]
        second = [condition(rng) for _ in range(rng.randrange(3))]
        if rng.random() < 0.7:
            first, other = [condition(rng)], rng.choice(ATOMS)
            second = [rng.choice(["({}) and ({})", "({}) or ({})", "not (not ({}) or ({}))"]).format(first[0], other)]
        if rng.random() < 0.5:
            first, second = second, first
        before, after = term(*first), term(*second)
        effect = rng.choice(["allow", "deny"])
        found.append((before, after, effect, compare(before, after, effect)))
    return found


def check(found: list[tuple[Term, Term, str, Relation]]) -> Counter[str]:
    rng, seen = random.Random(3), Counter[str]()
    for before, after, effect, relation in found:
        seen[relation.proof.name] += 1
        seen["same"] += relation.same
        for case, wanted in ((relation.wider, (False, True)), (relation.narrower, (True, False))):
            if case is not None:
                assert (before.speaks(case, effect), after.speaks(case, effect)) == wanted
                seen["example"] += 1
        for _ in range(60):
            case = anything(rng)
            then, now = before.speaks(case, effect), after.speaks(case, effect)
            said = f"{[c.text for c in before.conditions]} {[c.text for c in after.conditions]} {effect} {case} {relation}"
            assert relation.may_widen or then or not now, said
            assert relation.may_narrow or now or not then, said
            seen["turned"] += then != now
    return seen


def notices(found: list[tuple[Term, Term, str, Relation]]) -> bool:
    try:
        check(found)
    except AssertionError:
        return True
    return False


@Z3
def test_with_z3_no_arguments_do_what_was_proven_never_to_happen_and_every_example_holds() -> None:
    seen = check(pairs(100, seed=1))
    assert min(seen["Z3"], seen["EVERY_CASE"], seen["INCLUSION"], seen["same"], seen["example"]) > 1, seen
    assert seen["turned"] > 300, seen


def test_without_z3_it_is_as_sound_and_says_what_is_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prover, "available", lambda: False)
    seen = check(pairs(80, seed=2))
    assert seen["Z3"] == 0
    assert min(seen["NONE"], seen["EVERY_CASE"], seen["example"]) > 5, seen


@Z3
def test_an_answer_of_z3_that_does_not_hold_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prover._World, "case", lambda *_given: Case({}))
    before, after = term("args.amount > args.count"), term("args.amount > args.count or args.flag")
    assert prover.speaks_more(before, after, "allow") is None


def refuted(count: int, seed: int) -> tuple[int, int]:
    """How often z3 alone said never, and how often some arguments did."""
    rng, said, wrong = random.Random(seed), 0, 0
    for _ in range(count):
        path = f'{rng.choice(["under", "like"])}(args.path, "/data")'
        texts = [rng.choice([path, *ATOMS]), f"{rng.choice(['', 'not '])}({rng.choice([path, *ATOMS])})"]
        before, after = (
            term(texts[0]),
            term(f"({texts[0]}) {rng.choice(['and', 'or'])} ({texts[1]} {rng.choice(['or', 'and'])} {path})"),
        )
        effect = rng.choice(["allow", "deny"])
        if rng.random() < 0.5:
            before, after = after, before
        if prover.speaks_more(before, after, effect) is False:
            said += 1
            cases = [anything(rng) for _ in range(60)]
            wrong += any(after.speaks(case, effect) and not before.speaks(case, effect) for case in cases)
    return said, wrong


@Z3
def test_what_z3_alone_says_never_happens_never_does() -> None:
    said, wrong = refuted(80, seed=5)
    assert said > 20
    assert wrong == 0


def two_valued_functions(self: prover._World, said: prover._Said) -> prover._Said:
    return prover._Said(said.true, self.z3.Not(said.true))


def no_unknowns_at_all(self: prover._World, said: prover._Said) -> prover._Said:
    self._laws.append(self.z3.Or(said.true, said.false))
    return said


@Z3
@pytest.mark.parametrize(
    ("method", "mistake"),
    [("_call", two_valued_functions), ("_call", no_unknowns_at_all)],
)
def test_a_mistake_in_what_z3_is_told_is_found(method: str, mistake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(prover._World, method)
    monkeypatch.setattr(prover._World, method, lambda self, node, types: mistake(self, real(self, node, types)))
    assert any(refuted(40, seed)[1] for seed in range(15))


@pytest.mark.parametrize(
    ("before", "after", "effect", "wider", "narrower"),
    [
        ("args.amount <= 250", "args.amount <= 300", "allow", "args.amount = 251", None),
        ("args.amount <= 300", "args.amount <= 250", "allow", None, "args.amount = 251"),
        ("args.amount > 300", "args.amount > 250", "deny", "args.amount = 251", None),
        ("args.count > 5", "args.count >= 6", "allow", None, None),
        ("not (args.amount > 5)", "args.amount <= 5", "allow", None, None),
        ('args.name == "a"', 'args.name in ["a", "b"]', "allow", 'args.name = "b"', None),
        ("has(args.flag) and args.flag", "args.flag", "allow", None, None),
        ('"x" in args.tags', '"x" in args.tags or "y" in args.tags', "allow", 'args.tags = ["y"]', None),
        ("args.amount < 0.30000000000000000001", "args.amount < 0.3", "allow", None, "args.amount = 0.300000000000000000005"),
    ],
)
def test_simple_conditions_are_compared_for_every_case_without_z3(
    before: str, after: str, effect: str, wider: str | None, narrower: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prover, "available", lambda: False)
    relation = compare(term(before), term(after), effect)
    assert (relation.wider and str(relation.wider), relation.narrower and str(relation.narrower)) == (wider, narrower)
    assert (relation.may_widen, relation.may_narrow) == (wider is not None, narrower is not None)
    assert relation.proof is Proof.EVERY_CASE


@Z3
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('under(args.path, "/data/x")', 'under(args.path, "/data")'),
        ('like(args.name, "ab*")', 'like(args.name, "a*")'),
        ('host_in(args.name, ["a.example.com"])', 'host_in(args.name, ["*.example.com"])'),
        ('ip_in(args.name, ["10.1.0.0/16"])', 'ip_in(args.name, ["10.0.0.0/8"])'),
        ("args.amount > args.count", "args.amount >= args.count"),
        ('lower(args.name) == "a" and args.flag', 'lower(args.name) == "a"'),
    ],
)
def test_what_lies_within_is_proven_never_to_be_narrower(before: str, after: str) -> None:
    relation = compare(term(before), term(after), "allow")
    assert (relation.may_widen, relation.may_narrow, relation.proof) == (True, False, Proof.Z3)
    assert relation.wider is not None


def test_a_condition_reads_arguments_by_their_declared_types() -> None:
    text = parse("args.count <= 5", None)
    relation = compare(Term((text,), {"count": "integer"}), Term((text,), {"count": "string"}), "allow")
    assert relation.may_narrow
    assert relation.narrower is not None


def test_no_lines_never_speak_and_a_line_without_a_condition_always_does() -> None:
    assert compare(term(), term(), "allow").same
    assert compare(term(always=True), term("args.flag", always=True), "deny").same
    gained = compare(term(), term(always=True), "allow")
    assert (str(gained.wider), gained.may_narrow) == ("any arguments", False)


def test_more_combinations_than_the_bound_are_sampled_and_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prover, "available", lambda: False)
    monkeypatch.setattr("policies.cases.MAX_CASES", 50)
    wide = " and ".join(f"args.a{n} <= {n}" for n in range(8))
    types = {f"a{n}": "number" for n in range(8)}
    before, after = Term((parse(wide, types),), types), Term((parse(f"({wide}) and args.a1 > 0", types),), types)
    assert len(list(cases_of(before.conditions, (types,)))) == 50
    assert compare(before, after, "allow").proof is Proof.NONE
    assert compare(before, after, "allow") == compare(before, after, "allow")


def test_a_planted_hole_in_the_cases_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cases_of

    def without_the_ends(*given: object) -> object:
        found = real(*given)  # type: ignore[arg-type]
        found.values = {path: values[1:] for path, values in found.values.items()}
        return found

    monkeypatch.setattr(terms_module, "cases_of", without_the_ends)
    assert notices(pairs(40, seed=0))
