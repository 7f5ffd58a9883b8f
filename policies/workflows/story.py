"""What happened in a workflow, as its rules see it: steps, whose they were, and what became of them.

A story is made of what the gateway itself recorded, never of what agents say.  Pure: no clock, no database.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from policies.workflows.model import Steps

Value = str | bool | Decimal
"""What is kept of a result's field."""


class State(StrEnum):
    """What became of a step: a closed list."""

    RUNNING = "running"  # reserved, and not heard of since
    OK = "ok"  # it succeeded, on record: the only state that satisfies a rule
    FAILED = "failed"  # the tool or the agent said no
    OPEN = "open"  # accepted, and not finished: a task that goes on
    UNCERTAIN = "uncertain"  # sent, and nobody knows: interrupted, withheld, orphaned, an answer that could not be read
    UNSENT = "unsent"  # it never left the gateway

    @property
    def counts(self) -> bool:
        """Whether it has to be taken as done where rules limit: it may have had its effect."""
        return self not in _FREE


_FREE: Final = frozenset({State.FAILED, State.UNSENT})


@dataclass(frozen=True, slots=True)
class Step:
    """One call, sent or about to be.

    id         of its record.
    resource   what was called, as grants name it; `actor` by whom, `subject` for whom.
    at         UTC microseconds at which it arrived.
    held       names of the workflows whose rules it was held to.
    marks      argument → digest of its value, of those that rules compare; one that has none is missing here.
    sums       argument → number, of those that rules add up.
    results    field → value, of those that rules bound.
    labels     what it brings into the workflow.
    joins      ids of other workflows that share a conversation with this one by it: what came into them may come in here.
    task       digest by which looks at its task find it; "" where it became none.
    """

    id: str
    resource: str
    actor: str
    subject: str
    at: int
    held: frozenset[str] = frozenset()
    state: State = State.RUNNING
    marks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    sums: Mapping[str, Decimal] = field(default_factory=lambda: MappingProxyType({}))
    results: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))
    labels: tuple[str, ...] = ()
    joins: tuple[str, ...] = ()
    task: str = ""

    @property
    def place(self) -> tuple[int, str]:
        """Where it stands among others: by arrival."""
        return self.at, self.id


class Story:
    """The steps of one workflow, each findable without looking at the others."""

    def __init__(self, steps: Iterable[Step] = ()) -> None:
        self.steps: dict[str, Step] = {}
        self.joins: set[str] = set()
        self._order: list[tuple[int, str]] = []
        self._by_resource: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self._by_label: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self._by_mark: dict[tuple[str, str, str], list[tuple[int, str]]] = defaultdict(list)
        for step in steps:
            self.put(step)

    def put(self, step: Step) -> None:
        """Add a step, or what became of one that is there."""
        known = self.steps.get(step.id)
        self.steps[step.id] = step
        if known is not None:
            return
        insort(self._order, step.place)
        insort(self._by_resource[step.resource], step.place)
        self.joins.update(step.joins)
        for label in step.labels:
            insort(self._by_label[label], step.place)
        for argument, mark in step.marks.items():
            insort(self._by_mark[step.resource, argument, mark], step.place)

    def __len__(self) -> int:
        return len(self.steps)

    def latest(self, among: Steps, workflow: str, marks: Iterable[tuple[str, str]] = ()) -> Iterator[Step]:
        """Steps that one of these objects is, held to this workflow, the latest first; with these marks where some are given."""
        wanted = tuple(marks)
        for resource in self._resources(among):
            places = self._by_resource[resource] if not wanted else self._by_mark.get((resource, *wanted[0]), [])
            for place in reversed(places):
                step = self.steps[place[1]]
                if workflow in step.held and all(step.marks.get(argument) == mark for argument, mark in wanted):
                    yield step

    def newest(self, among: Steps, workflow: str, states: frozenset[State]) -> Step | None:
        """The latest step of these in one of these states."""
        found: Step | None = None
        for resource in self._resources(among):
            one = Steps(resource, frozenset([resource]))
            step = next((each for each in self.latest(one, workflow) if each.state in states), None)
            if step is not None and (found is None or step.place > found.place):
                found = step
        return found

    def bringing(self, label: str) -> Step | None:
        """The first step that brought a label, or may have: whatever rules it was held to, and whatever became of it once sent.

        It counts from its reservation on, so before anything of its answer is released.
        """
        steps = (self.steps[call] for _, call in self._by_label.get(label, ()))
        return next((step for step in steps if step.state is not State.UNSENT), None)

    def first(self, workflow: str) -> Step | None:
        """The step with which a workflow began: the earliest that may have had an effect."""
        steps = (self.steps[call] for _, call in self._order)
        return next((step for step in steps if workflow in step.held and step.state.counts), None)

    def _resources(self, among: Steps) -> list[str]:
        if among.beginnings:
            return [resource for resource in self._by_resource if among.covers(resource)]
        return [name for name in among.names if name in self._by_resource]


COUNTED: Final = frozenset(state for state in State if state.counts)
DONE: Final = frozenset({State.OK})
