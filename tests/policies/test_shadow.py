"""What watching promises: it says exactly what moving the line, or swapping the bundle, would really have done."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as varied

from bench import differential_policy as campaign
from policies import shadow as shadow_module
from policies.bundle import Bundle, Rule, load
from policies.engine import Engine
from policies.model import AccessRequest, Decision, Source
from policies.replay import Direction
from policies.shadow import ALL, CANDIDATE, LINES, Flip, Shadow
from tests.policies.conftest import Write

SEEDS = st.integers(min_value=0, max_value=2**32)
ENOUGH = settings(max_examples=40, deadline=None, derandomize=True)


def watched(seed: int) -> tuple[random.Random, Bundle, list[AccessRequest]]:
    """A policy of which some lines are only watched, with a few more of them; questions of every kind about it."""
    rng = random.Random(seed)
    bundle, asked = campaign.scenario(rng)
    kept = [rule for rule in bundle.rules if rng.random() < 0.7]
    moved = [rule for rule in bundle.rules if rule not in kept]
    wide = {"who": "*", "tenant": "*", "tool": "*", "action": "*", "effect": "require", "when": "-", "id": "W-3"}
    drawn = [campaign._line(rng) | {"id": f"W-{at}"} for at in range(3)]
    more = campaign.with_rules([*drawn, *([campaign._line(rng) | wide] if rng.random() < 0.3 else [])], []).rules
    lines = tuple(replace(rule, source=Source("shadow/x.csv", at + 1)) for at, rule in enumerate([*moved, *more]))
    lists = [varied(r, action="list", resource=r.resource.split(".")[0]) for r in asked if r.action == "call"]
    unsaid = [varied(request, arguments=None) for request in asked]
    return rng, replace(bundle, rules=tuple(kept), shadow=lines), [*asked, *lists, *unsaid]


def really(bundle: Bundle, lines: tuple[Rule, ...], request: AccessRequest, before: Decision) -> Direction | None:
    """What these lines do where they are moved to grants/."""
    after = Engine(replace(bundle, rules=(*bundle.rules, *lines), shadow=())).decide(request)
    if after.allowed != before.allowed:
        return Direction.GRANTED if after.allowed else Direction.TAKEN
    return Direction.DUTIES if {d.name for d in after.obligations} != {d.name for d in before.obligations} else None


@ENOUGH
@given(SEEDS)
def test_a_line_is_said_to_flip_exactly_what_it_flips_where_it_is_really_moved(seed: int) -> None:
    _, bundle, asked = watched(seed)
    engine, shadow = Engine(bundle), Shadow(bundle)
    for request in asked:
        decision = engine.decide(request)
        expected = {
            rule: flip
            for rule, lines in [*((line.id, (line,)) for line in bundle.shadow), (ALL, bundle.shadow)]
            if (flip := really(bundle, lines, request, decision)) is not None
        }
        flips = shadow.compare(request, decision)
        assert {flip.rule: flip.direction for flip in flips} == expected
        assert {flip.source for flip in flips} <= {LINES}
        assert len({flip.rule for flip in flips}) == len(flips)


@ENOUGH
@given(SEEDS)
def test_a_candidate_is_said_to_flip_exactly_what_it_decides_otherwise(seed: int) -> None:
    _, bundle, asked = watched(seed)
    candidate = replace(bundle, rules=(*bundle.rules, *bundle.shadow), shadow=(), digest="sha256:candidate")
    active = replace(bundle, shadow=())
    engine, shadow = Engine(active), Shadow(active, candidate)
    for request in asked:
        decision = engine.decide(request)
        flips = shadow.compare(request, decision)
        expected = really(bundle, bundle.shadow, request, decision)
        assert [flip.direction for flip in flips if flip.rule == ALL] == ([] if expected is None else [expected])
        assert {flip.source for flip in flips} <= {CANDIDATE}
        if expected is not None and request.action != "list":
            assert {flip.rule for flip in flips} - {ALL} & {rule.id for rule in bundle.shadow}


@ENOUGH
@given(SEEDS)
def test_without_shadow_lines_and_under_an_equal_candidate_nothing_flips(seed: int) -> None:
    _, bundle, asked = watched(seed)
    plain = replace(bundle, shadow=())
    engine = Engine(plain)
    equal = Shadow(plain, replace(plain, digest="sha256:other-name"))
    nothing = Shadow(plain, plain)
    assert equal.watches
    assert not nothing.watches
    for request in asked:
        decision = engine.decide(request)
        assert equal.compare(request, decision) == ()
        assert nothing.compare(request, decision) == ()


def test_the_drawn_questions_flip_in_every_direction_and_in_many_ways() -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for seed in range(60):
        _, bundle, asked = watched(seed)
        engine, shadow = Engine(bundle), Shadow(bundle)
        for request in asked:
            for flip in shadow.compare(request, engine.decide(request)):
                seen[request.action, flip.direction.value] += 1
                seen[request.action, ALL] += flip.rule == ALL
    for action in ("call", "send", "list"):
        assert seen[action, "deny->allow"] >= 10
    for action in ("call", "send"):
        assert seen[action, "allow->deny"] >= 10
        assert seen[action, "duties"] >= 5


MUTANTS = {
    "a deny line never flips": ('"allow" not in effects or "deny" in effects', '"allow" not in effects'),
    "every shadow line counts for every line": ("match.rule == line or match.rule not in self._lines", "True"),
    "the first principal alone counts": ("for heard in way:", "for heard in way[:1]:"),
    "duties are not looked at": ("Flip(line.rule, Direction.DUTIES, LINES)", "Flip(ALL, Direction.DUTIES, LINES)"),
    "lists are read as calls": ("_list_ways(overlay, request) if listing", "[] if listing"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(shadow_module.__file__)
    right, wrong = MUTANTS[name]
    source = path.read_text()
    assert source.count(right) == 1
    broken: dict[str, object] = {"__name__": "policies.shadow"}
    exec(compile(source.replace(right, wrong), str(path), "exec"), broken)
    monkeypatch.setitem(globals(), "Shadow", broken["Shadow"])
    law = test_a_line_is_said_to_flip_exactly_what_it_flips_where_it_is_really_moved.hypothesis.inner_test
    assert any(_fails(law, seed) for seed in range(60))


def _fails(law: Callable[[int], None], seed: int) -> bool:
    try:
        law(seed)
    except AssertionError:
        return True
    return False


def test_a_decision_of_another_bundle_says_nothing_of_the_shadow_lines(write: Write) -> None:
    bundle = load(write({"shadow/night.csv": "p, *, acme, erp.read, call, allow, -, -, NIGHT-1\n"}))
    request = AccessRequest("user:dev/ada", (), "acme", "call", "erp.read", at=0, arguments={})
    decision = Engine(bundle).decide(request)
    assert Shadow(bundle).compare(request, decision) == (
        Flip("NIGHT-1", Direction.GRANTED, LINES),
        Flip(ALL, Direction.GRANTED, LINES),
    )
    assert Shadow(bundle).compare(request, varied(decision, bundle="sha256:another")) == ()


def test_a_question_that_cannot_be_decided_flips_nothing_and_raises_nothing(write: Write) -> None:
    bundle = load(write({"shadow/night.csv": "p, *, acme, erp.read, call, allow, -, -, NIGHT-1\n"}))
    odd = AccessRequest("role:boss", ("nobody",), "acme", "fly", "erp.read", at=-1)
    decision = Engine(bundle).decide(odd)
    assert decision.reason.value == "decision-error"
    assert Shadow(bundle).compare(odd, decision) == ()


def test_a_candidate_whose_duty_has_other_parameters_shows(write: Write) -> None:
    allow = {"grants/people.csv": "p, *, acme, erp.write_po, call, allow, -, -, BUY-1\n"}
    active = load(write(allow))
    candidate = load(write(allow | {"obligations.yaml": "full-audit: {type: audit, arguments: hash}\n"}))
    request = AccessRequest("user:dev/ada", (), "acme", "call", "erp.write_po", at=0, arguments={})
    decision = Engine(active).decide(request)
    assert decision.allowed
    assert Shadow(active, candidate).compare(request, decision) == (Flip(ALL, Direction.DUTIES, CANDIDATE),)
