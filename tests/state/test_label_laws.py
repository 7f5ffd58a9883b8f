"""No interleaving lets anything out after a source's answer may have been read: over replicas, workflows and conversations.

Random histories are played on a real store; what may have been read is kept beside it, by nothing but what was released.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.state import State, labelled
from gateway.state.histories import Asked, Kept
from policies.workflows import story
from policies.workflows.model import Workflow
from policies.workflows.story import Step, Story
from tests.policies.workflows.conftest import bundle_of

S = story.State
NOW, DAY = 1_788_955_200, 86_400
TOOLS = """\
tenants: [acme]
tools:
  erp.read: {labels: [source:confidential]}
  risk.score: {labels: [source:untrusted]}
  mail.send: {labels: [sink:external]}
  mail.post: {labels: [sink:public]}
  mail.tell: {labels: [sink:person]}
"""
RULES = """\
workflow: leaks
taint:
  - {after: source:confidential, deny: sink:external}
  - {after: [source:confidential, source:untrusted], deny: sink:public}
  - {after: source:confidential, deny: sink:person, of: person, within: 1d}
"""
LABELS = {"erp.read": ("source:confidential",), "risk.score": ("source:untrusted",)}
ENDS = (S.OK, S.FAILED, S.OPEN, S.UNCERTAIN, S.UNSENT)
WORKFLOWS, MOVES, SEEDS = 4, 24, 40
Patch = pytest.MonkeyPatch


def definition() -> Workflow:
    (only,) = bundle_of(
        {"tools.yaml": TOOLS, "workflows/w.yaml": RULES, "grants/people.csv": "", "grants/guardrails.csv": ""}
    ).workflows.values()
    return only


@dataclass
class Played:
    """One history.

    read     by workflow, labels whose source may have been read: something of its answer was released.
    joined   workflows that share a conversation, each with itself.
    outs     every attempt: the way, whether it was let through, whether it had to be refused.
    """

    seed: int
    read: dict[int, set[str]] = field(default_factory=lambda: {number: set() for number in range(WORKFLOWS)})
    joined: list[set[int]] = field(default_factory=lambda: [{number} for number in range(WORKFLOWS)])
    outs: list[tuple[str, bool, bool]] = field(default_factory=list)
    back: list[str] = field(default_factory=list)

    def forbidden(self, way: str, workflow: int) -> bool:
        """By the meaning of the rules alone."""
        mine = set().union(*(self.read[each] for each in self._reach(workflow)))
        every = set().union(*self.read.values())
        if way == "mail.send":
            return "source:confidential" in mine
        if way == "mail.post":
            return {"source:confidential", "source:untrusted"} <= mine
        return "source:confidential" in every  # all of them are one person's

    def _reach(self, workflow: int) -> set[int]:
        return next(group for group in self.joined if workflow in group)

    def join(self, one: int, other: int) -> None:
        groups = self._reach(one), self._reach(other)
        if groups[0] is not groups[1]:
            self.joined = [group for group in self.joined if group not in groups] + [groups[0] | groups[1]]

    @property
    def leaks(self) -> list[str]:
        return [way for way, passed, forbidden in self.outs if passed and forbidden]


async def play(seed: int, stores: list[State], rules: Workflow) -> Played:
    """Everything that happens, in the order in which it is committed; calls run beside each other."""
    draw, played, running = random.Random(seed), Played(seed), list[tuple[int, Step]]()
    refused: dict[tuple[int, str], int] = {}
    gone = 0
    for number in range(MOVES):
        workflow, store = draw.randrange(WORKFLOWS), draw.choice(stores).histories
        move = draw.choice(["read", "read", "stream", "end", "end", "out", "out", "out", "join"])
        if move in ("read", "out", "join"):
            other = draw.randrange(WORKFLOWS)
            resource = {"read": draw.choice([*LABELS]), "join": "a2a:reviewer"}.get(
                move, draw.choice(["mail.send", "mail.post", "mail.tell"])
            )
            joins = (_name(seed, other),) if move == "join" and other != workflow else ()
            step = Step(
                f"c{seed:03}-{number:03}", resource, "agent:helper", f"user:dev/p{seed}", (NOW + number) * 1_000_000,
                frozenset(["leaks"]), labels=LABELS.get(resource, ()), joins=joins,
            )  # fmt: skip
            forbidden = played.forbidden(resource, workflow) if move == "out" else False
            judged, durable = await store.reserve(Asked("acme", _name(seed, workflow), NOW + DAY, step, (rules,)))
            await durable
            passed = not any(each.refuses for each in judged)
            if move == "read":
                running.append((workflow, step))
            elif move == "join" and joins:
                played.join(workflow, other)
            elif move == "out":
                played.outs.append((resource, passed, forbidden))
                if passed and refused.get((workflow, resource), -1) == gone:
                    played.back.append(resource)  # it was refused before, and nothing was given back since
                if not passed:
                    refused[workflow, resource] = gone
        elif running:
            at = draw.randrange(len(running))
            workflow, step = running[at]
            state = draw.choice(ENDS)
            if move == "stream":
                played.read[workflow].update(step.labels)  # a part of the answer, while it goes on
            elif state is not S.UNSENT or not set(step.labels) <= played.read[workflow]:
                del running[at]
                if state is S.UNSENT:
                    gone += 1
                else:
                    played.read[workflow].update(step.labels)
                assert await store.settle(Kept("acme", _name(seed, workflow), step), state, {})
    return played


def _name(seed: int, workflow: int) -> str:
    return f"wf-{seed:03}-{workflow}"


def plays(url: str, until: Callable[[Played], object] = lambda _: False) -> list[Played]:
    """All of them, or those up to the first of which something is true."""

    async def every() -> list[Played]:
        stores = [State.open(url) for _ in "ab"]
        rules, found = definition(), list[Played]()
        try:
            for seed in range(SEEDS):
                found.append(await play(seed, stores, rules))
                if until(found[-1]):
                    break
            return found
        finally:
            for store in stores:
                await store.close()

    return asyncio.run(every())


def test_no_interleaving_lets_anything_out_after_a_source_was_read(url: str) -> None:
    found = plays(url)
    assert [(played.seed, played.leaks) for played in found if played.leaks] == []
    assert [(played.seed, played.back) for played in found if played.back] == [], "a label went away"
    outs = [out for played in found for out in played.outs]
    for way in ("mail.send", "mail.post", "mail.tell"):  # or nothing would be shown
        assert {(passed, forbidden) for name, passed, forbidden in outs if name == way} >= {(True, False), (False, True)}


# --- planted


def only_what_succeeded_brings(patch: Patch) -> None:
    real = Story.bringing
    patch.setattr(Story, "bringing", lambda self, label: s if (s := real(self, label)) and s.state is S.OK else None)


def what_runs_brings_nothing(patch: Patch) -> None:
    real = Story.bringing
    patch.setattr(Story, "bringing", lambda self, label: s if (s := real(self, label)) and s.state is not S.RUNNING else None)


def conversations_are_not_followed(patch: Patch) -> None:
    patch.setattr(labelled, "_joined", lambda *_: frozenset())


def conversations_are_followed_one_way(patch: Patch) -> None:
    patch.setattr(labelled, "_joining", lambda *_: set())


def conversations_are_followed_one_step(patch: Patch) -> None:
    patch.setattr(labelled, "_joined_by", lambda *_: set())


def nobody_marks_labels(patch: Patch) -> None:
    patch.setattr(labelled, "_label", lambda _tenant, _subject, label: f"{random.random()}{label}")


def one_label_of_several_is_looked_for(patch: Patch) -> None:
    real = Story.bringing
    patch.setattr(Story, "bringing", lambda self, label: None if label == "source:untrusted" else real(self, label))


PLANTED = (
    only_what_succeeded_brings,
    what_runs_brings_nothing,
    conversations_are_not_followed,
    conversations_are_followed_one_way,
    conversations_are_followed_one_step,
    nobody_marks_labels,
    one_label_of_several_is_looked_for,
)


@pytest.mark.parametrize("mistake", PLANTED, ids=lambda mistake: mistake.__name__)
def test_a_planted_mistake_is_noticed(mistake: Callable[[Patch], None], monkeypatch: Patch, tmp_path: Path) -> None:
    mistake(monkeypatch)
    assert plays(f"sqlite:///{tmp_path}/state.db", until=lambda played: played.leaks)[-1].leaks
