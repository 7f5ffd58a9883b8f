"""What holds of every workflow and every history, against the meaning of each keyword, which is written down a second time.

The same questions are asked of judges with a planted bug each: that they notice shows that they would.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from policies.model import Decision, Effect, Reason, Source
from policies.workflows import judge as judging
from policies.workflows import story as telling
from policies.workflows.judge import Past, purses, shared, spent_by
from policies.workflows.model import (
    SCOPES,
    Before,
    Bound,
    Budget,
    By,
    Coordinator,
    Distinct,
    Locked,
    Once,
    Only,
    Rule,
    Steps,
    Within,
    Workflow,
)
from policies.workflows.ruling import Judged, decided, ruling_of
from policies.workflows.story import State, Step, Story
from tests.policies.workflows.meaning import HERE, HOUR, TOOLS, World, meant

AGENTS = ("agent:x", "agent:y")
PERSONS = ("user:p", "user:q")
PLACE = Source("workflows/w.yaml", 1)


def steps_of(rng: random.Random) -> Steps:
    if rng.random() < 0.15:
        return Steps("a2a:*", beginnings=("a2a:",))
    names = frozenset(rng.sample(TOOLS, rng.choice([1, 1, 1, 2])))
    return Steps("|".join(sorted(names)), names)


def by_of(rng: random.Random) -> By | None:
    return By("agent:x", frozenset(["agent:x"])) if rng.random() < 0.4 else None


def rule_of(rng: random.Random, number: int) -> Rule:
    base = ("k", f"w/{number}", PLACE)
    same = (("k", "k"),) if rng.random() < 0.4 else ()
    some = [steps_of(rng), steps_of(rng), steps_of(rng)]
    bound = rng.choice([None, None, Bound("r", most=Decimal(5)), Bound("r", least=Decimal(5)), Bound("r", equals="yes")])
    seconds = rng.choice([None, 3600, 7200])
    per = rng.choice([("workflow",), ("subject", "day"), ("agent", "day"), ("workflow", "tool"), ("day",)])
    count, total = rng.choice([(1, None), (2, None), (None, Decimal(10)), (3, Decimal(20))])
    makers: list[Callable[[], Rule]] = [
        lambda: Before(*base, some[0], some[1], by_of(rng), same, seconds, bound),
        lambda: Within(*base, some[0], 3600, rng.choice([None, some[1]])),
        lambda: Locked(*base, _ends_apart(some)),
        lambda: Once(*base, some[0], same),
        lambda: Distinct(*base, tuple(some[:2]), "agent", same),
        lambda: Distinct(*base, tuple(some[:2]), "person", (("k", "k"),)),
        lambda: Budget(*base, some[0], per, by_of(rng), count, "n" if total is not None else None, total),
        lambda: Only(*base, tuple(some[:2])),
        lambda: Coordinator(*base, By("agent:x", frozenset(["agent:x"])), (Steps("a2a:y", frozenset(["a2a:y"])),)),
    ]
    return rng.choice(makers)()


def _ends_apart(some: list[Steps]) -> tuple[Steps, ...]:
    """What would lock and unlock at once keeps a file from loading."""
    first, between, last = some
    return (
        (first, between, last)
        if not first.overlaps(last)
        else (Steps("t.a", frozenset(["t.a"])), Steps("t.b", frozenset(["t.b"])))
    )


def step_of(rng: random.Random, number: int, at: int) -> Step:
    return Step(
        id=f"s{number:03}",
        resource=rng.choice(TOOLS),
        actor=rng.choice(AGENTS),
        subject=rng.choice(PERSONS),
        at=at,
        held=frozenset(["w"]) if rng.random() < 0.9 else frozenset(["other"]),
        state=rng.choice([*State, State.OK, State.OK, State.OK]),
        marks={} if rng.random() < 0.15 else {"k": rng.choice(["m1", "m2"])},
        sums={} if rng.random() < 0.15 else {"n": Decimal(rng.choice([0, 3, 7]))},
        results=rng.choice([{}, {"r": Decimal(5)}, {"r": Decimal("5.5")}, {"r": Decimal(4)}, {"r": "yes"}, {"r": True}]),
    )


def world_of(seed: int) -> World:
    rng = random.Random(seed)
    now = 1_788_955_200_000_000 + rng.randrange(24) * HOUR
    rules = tuple(rule_of(rng, number) for number in range(rng.randrange(1, 4)))
    workflow = Workflow("w", "sha256:0", frozenset(["acme"]), shadow=False, binds=(), rules=rules, source=PLACE)
    moments = [now - rng.choice([1, HOUR // 2, HOUR, HOUR + 1, 2 * HOUR, 3 * HOUR, 30 * HOUR]) for _ in range(rng.randrange(8))]
    steps = tuple((rng.choice([HERE, HERE, "wf-2"]), step_of(rng, n, at)) for n, at in enumerate(moments))
    asked = replace(step_of(rng, 999, now), held=frozenset(["w"]), state=State.RUNNING)
    return World(workflow, steps, asked)


def answered(world: World, rules: tuple[Rule, ...] | None = None) -> set[str]:
    """Ids of the rules that refuse, by the judge."""
    workflow = world.workflow if rules is None else replace(world.workflow, rules=rules)
    past = Past(
        Story(step for name, step in world.steps if name == HERE),
        {purse: spent_by(purse, world.steps) for purse in purses(workflow, world.asked, HERE)},
        {
            one: tuple(step for _, step in world.steps if "w" in step.held and one in set(shared(workflow, step)))
            for one in shared(workflow, world.asked)
        },
    )
    _, breaches = judging.judge(workflow, world.asked, past, HERE)
    return {breach.rule.id for breach in breaches}


# --- laws

MANY = range(6000)


def differing(seeds: range) -> Iterator[World]:
    return (world for world in map(world_of, seeds) if answered(world) != meant(world))


def test_every_rule_refuses_what_it_means_to_and_nothing_else() -> None:
    assert next(differing(MANY), None) is None


def test_the_worlds_are_neither_all_refused_nor_all_let_through() -> None:
    seen: dict[tuple[str, bool], int] = {}
    for world in map(world_of, range(3000)):
        refusing = answered(world)
        for rule in world.workflow.rules:
            key = type(rule).__name__, rule.id in refusing
            seen[key] = seen.get(key, 0) + 1
    kinds = {name for name, _ in seen}
    assert kinds == {"Before", "Within", "Locked", "Once", "Distinct", "Budget", "Only", "Coordinator"}
    assert min(seen.get((kind, refused), 0) for kind in kinds for refused in (True, False)) > 20, seen


ALLOW = Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0")


def test_adding_a_rule_never_grants_and_taking_one_never_takes() -> None:
    for world in map(world_of, range(3000)):
        rules = world.workflow.rules
        for number in range(len(rules)):
            fewer = answered(world, rules[:number] + rules[number + 1 :])
            assert fewer == answered(world) - {rules[number].id}


def test_a_ruling_refuses_or_leaves_everything_as_it_was() -> None:
    for world in map(world_of, range(1500)):
        past = Past(Story(), {p: judging.Spent() for p in purses(world.workflow, world.asked, HERE)}, {})
        judged = Judged(world.workflow, *judging.judge(world.workflow, world.asked, past, HERE))
        after = decided(ALLOW, ruling_of([judged]))
        assert after.allowed == (not judged.breaches)
        watched = Judged(replace(world.workflow, shadow=True), judged.spoke, judged.breaches)
        assert decided(ALLOW, ruling_of([watched])).allowed
        assert (after.obligations, after.answers, after.bundle) == (ALLOW.obligations, ALLOW.answers, ALLOW.bundle)


def test_a_story_is_the_same_in_whatever_order_it_is_told_and_however_often() -> None:
    for seed in range(500):
        world, rng = world_of(seed), random.Random(seed)
        told = [step for name, step in world.steps if name == HERE]
        again = [*told, *(replace(step, state=State.RUNNING) for step in told), *told]
        first = [replace(step, state=State.RUNNING) for step in told]
        rng.shuffle(first)
        assert telling.Story([*first, *told]).steps == telling.Story([*again, *told]).steps
        for rule in world.workflow.rules:
            for steps in rule.steps if isinstance(rule, Locked | Distinct) else ():
                one, other = telling.Story(told), telling.Story([*first, *told])
                assert list(one.latest(steps, "w")) == list(other.latest(steps, "w")) or len(steps.names) != 1


# --- planted bugs


def _never(*_: object) -> None:
    return None


def _fine(*_: object) -> str:
    return "fine"


def _oldest(self: Story, among: Steps, workflow: str, states: frozenset[State]) -> Step | None:
    mine = [s for s in self.steps.values() if among.covers(s.resource) and workflow in s.held and s.state in states]
    return min(mine, key=lambda step: step.place, default=None)


def _of_any(self: Story, among: Steps, _workflow: str, marks: Any = ()) -> Iterator[Step]:
    return (s for s in self.steps.values() if among.covers(s.resource) and all(s.marks.get(a) == m for a, m in marks))


def _unmarked(self: Story, among: Steps, workflow: str, _marks: Any = ()) -> Iterator[Step]:
    return (s for s in self.steps.values() if among.covers(s.resource) and workflow in s.held)


BUGS: dict[str, tuple[object, str, Any]] = {
    "a call that is under way satisfies": (judging, "DONE", frozenset({State.OK, State.RUNNING})),
    "an uncertain call satisfies": (judging, "DONE", frozenset({State.OK, State.UNCERTAIN})),
    "a task that goes on satisfies": (judging, "DONE", frozenset({State.OK, State.OPEN})),
    "a failed call counts": (telling, "_FREE", frozenset({State.UNSENT})),
    "an uncertain call is free": (telling, "_FREE", frozenset({State.FAILED, State.UNSENT, State.UNCERTAIN})),
    "a call that is under way is free": (telling, "_FREE", frozenset({State.FAILED, State.UNSENT, State.RUNNING})),
    "a lock is opened by success alone": (judging, "COUNTED", frozenset({State.OK})),
    "time stands still": (judging, "MICRO", 10**9),
    "results are not looked at": (judging, "_bounded", lambda *_: True),
    "no result is good enough": (judging, "_bounded", lambda *_: False),
    "whatever is not said is equal": (judging, "_marks", lambda same, step: tuple((t, step.marks.get(o, "")) for o, t in same)),
    "nothing is compared": (judging, "_marks", lambda *_: ()),
    "budgets look at nobody": (judging, "draws", lambda budget, step: budget.tool.covers(step.resource)),
    "every day is the same": (judging, "day_of", lambda _: "today"),
    "one budget for everybody": (judging, "_values", lambda *_: dict.fromkeys(SCOPES, "x")),
    "nothing is ever spent": (judging, "share", lambda *_: Decimal(0)),
    "people are agents": (judging, "_who", lambda _rule, step: step.actor),
    "agents are people": (judging, "_who", lambda _rule, step: step.subject),
    "before is not asked": (judging, "_before", _fine),
    "within is not asked": (judging, "_within", _fine),
    "locks are open": (judging, "_locked", _never),
    "once is for ever": (judging, "_once", _fine),
    "hands are not looked at": (judging, "_distinct", _fine),
    "budgets are endless": (judging, "_budget", _fine),
    "only is a word": (judging, "_only", _fine),
    "everybody coordinates": (judging, "_coordinator", _fine),
    "the first step is the last": (telling.Story, "first", lambda self, _w: next(reversed(self.steps.values()), None)),
    "the newest is the oldest": (telling.Story, "newest", _oldest),
    "other workflows' steps are one's own": (telling.Story, "latest", _of_any),
    "marks are not looked at": (telling.Story, "latest", _unmarked),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_noticed(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, wrong = BUGS[bug]
    monkeypatch.setattr(where, name, wrong)
    if name == "_FREE":
        monkeypatch.setattr(judging, "COUNTED", frozenset(state for state in State if state.counts))
    assert next(differing(MANY), None) is not None
