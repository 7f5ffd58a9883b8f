"""What became of an answer, and through which rule: laws over random policies in which one line comes or goes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import differential_policy as campaign
from policies import replay as module
from policies.engine import Engine
from policies.replay import Change, Direction, Verdict, change, differences, rule_of

SEEDS = st.integers(min_value=0, max_value=2**32)
ENOUGH = settings(max_examples=40, deadline=None, derandomize=True)


def changes(seed: int) -> list[tuple[str, Verdict, Verdict]]:
    """Answers before and after one line went, and after it came back: (its id, before, after)."""
    rng = random.Random(seed)
    bundle, asked = campaign.scenario(rng)
    whole, found = Engine(bundle), []
    for gone in bundle.rules:
        without = Engine(replace(bundle, rules=tuple(rule for rule in bundle.rules if rule is not gone)))
        for request in asked:
            one, other = Verdict.of(whole.decide(request)), Verdict.of(without.decide(request))
            found += [(gone.id, one, other), (gone.id, other, one)]
    return found


@ENOUGH
@given(SEEDS)
def test_the_line_that_came_or_went_is_named_wherever_it_flips_an_answer(seed: int) -> None:
    for line, before, after in changes(seed):
        found = change(before, after)
        if found is None:
            assert before.allowed == after.allowed
            assert not after.allowed or set(before.obligations) == set(after.obligations)
            continue
        assert [rule_of(text) for text in found.rules] == [line]
        assert (found.before, found.after) == (before.reason, after.reason)
        expected = (
            Direction.DUTIES if before.allowed == after.allowed else Direction.GRANTED if after.allowed else Direction.TAKEN
        )
        assert found.direction is expected


@ENOUGH
@given(SEEDS)
def test_an_answer_held_against_itself_has_not_changed(seed: int) -> None:
    bundle, asked = campaign.scenario(random.Random(seed))
    one, other = Engine(bundle), Engine(bundle, stock=True)
    for request in asked:
        verdict, again = Verdict.of(one.decide(request)), Verdict.of(other.decide(request))
        assert change(verdict, again) is None
        assert differences(verdict, again) == ()


def test_the_drawn_changes_go_in_every_direction() -> None:
    seen = Counter(found.direction for seed in range(60) for _, a, b in changes(seed) if (found := change(a, b)) is not None)
    assert {direction for direction in Direction if seen[direction] >= 10} == set(Direction), seen


@pytest.mark.parametrize(
    ("function", "wrong"),
    [
        ("_responsible", lambda _, after: tuple(text for asked in after.asked for text in asked.rules)),
        ("_responsible", lambda before, _: tuple(text for asked in before.asked for text in asked.rules)),
        ("_only_one", lambda before, _: tuple(before)),
        ("_only_one", lambda _, after: tuple(after)),
        ("rule_of", str),
    ],
)
def test_a_planted_bug_is_noticed(monkeypatch: pytest.MonkeyPatch, function: str, wrong: object) -> None:
    monkeypatch.setattr(module, function, wrong)
    lines = [(line, change(before, after)) for seed in range(10) for line, before, after in changes(seed)]
    if function == "rule_of":  # ids and places are not told apart: a line that only moved seems to be another one
        moved = module._only_one(["A-1 grants/x.csv:1"], ["A-1 grants/x.csv:2"])
        assert moved != ()
    else:
        assert any(found is not None and [rule_of(text) for text in found.rules] != [line] for line, found in lines)


def test_a_line_that_only_moved_makes_no_difference() -> None:
    assert module._only_one(["A-1 grants/x.csv:1"], ["A-1 grants/y.csv:7"]) == ()


def test_where_no_rule_speaks_the_reason_is_named() -> None:
    unknown, allowed = Verdict("deny", "unknown-resource", "a"), Verdict("allow", "allowed", "b")
    assert change(allowed, unknown) == Change(Direction.TAKEN, ("(unknown-resource)",), "allowed", "unknown-resource")
    assert change(unknown, allowed) == Change(Direction.GRANTED, ("(unknown-resource)",), "unknown-resource", "allowed")
