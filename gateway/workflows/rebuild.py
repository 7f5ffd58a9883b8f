"""Histories, told again from the ledger: what they must be equal to, and what settles steps that nobody lived to settle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from audit.reader import Ledger, Opened
from policies.workflows import kept
from policies.workflows.story import State, Step, Value

BEGINS: Final = ("call.start", "identity.delegate")
ENDS: Final = ("call.end", "call.orphaned")
VALUE: Final = "step"
SETTLED: Final = "settled"
Key = tuple[str, str]
"""Tenant and workflow."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A step of which store and ledger say different things; `None` is nothing at all."""

    key: Key
    stored: Step | None
    told: Step | None

    def waits(self, until: int) -> bool:
        """Whether it may only be that one of the two does not know yet: of calls that arrived at `until` or later."""
        known = [step for step in (self.stored, self.told) if step is not None]
        return known[0].at >= until and (len(known) == 1 or any(step.state is State.RUNNING for step in known))


class Telling:
    """Steps by workflow, as the ledger's records tell of them one after the other.

    lost  steps that cannot be told any more: erased with their person, or damaged.
    """

    def __init__(self) -> None:
        self.steps: dict[Key, dict[str, Step]] = {}
        self.lost = 0
        self._key: dict[str, Key] = {}

    @classmethod
    def of(cls, log: Ledger, *, since: int = 0, start: int = 0) -> Telling:
        """All that is told from there on.  Needs the seal key."""
        telling = cls()
        telling.read(log, since=since, start=start)
        return telling

    def read(self, log: Ledger, *, since: int = 0, start: int = 0) -> None:
        """The same of one more log."""
        for opened in log.opened((*BEGINS, *ENDS), (VALUE, SETTLED), since=since, start=start):
            self.hear(opened)

    def hear(self, opened: Opened) -> None:
        """One record."""
        if opened.record.kind in BEGINS:
            if opened.record.commitment(VALUE) is not None:
                self._begun(opened)
            return
        if (key := self._key.get(str(opened.record.leaf.get("call")))) is not None:
            self._ended(opened, key)
        for call, state, results in settled_by(opened):
            mine = self._key.get(call)
            step = self.steps[mine].get(call) if mine is not None else None
            if mine is not None and step is not None and step.state is State.OPEN:  # the first that says so counts
                self.steps[mine][call] = replace(step, state=state, results=results)

    def _begun(self, opened: Opened) -> None:
        record, value = opened.record, opened.values[VALUE]
        if not isinstance(value, bytes) or not isinstance(opened.subject, str):
            self.lost += 1
            return
        leaf = record.leaf
        agents = [str(agent) for kind, agent in leaf["chain"] if kind == "agent"]
        step = Step(
            id=record.id,
            resource=str(leaf["resource"]),
            actor=agents[-1] if agents else opened.subject,
            subject=opened.subject,
            at=record.at,
            state=State.OPEN if record.kind == "identity.delegate" else State.RUNNING,
            **kept.read_begun(value.decode()),
        )
        key = self._key[step.id] = str(leaf["tenant"]), str(leaf["workflow"])
        self.steps.setdefault(key, {})[step.id] = step

    def _ended(self, opened: Opened, key: Key) -> None:
        leaf, steps = opened.record.leaf, self.steps[key]
        state = State.UNCERTAIN if opened.record.kind == "call.orphaned" else State(leaf["outcome"]["step"])
        call = str(leaf["call"])
        value = opened.values[VALUE]
        said = kept.read_ended(state, value.decode()) if isinstance(value, bytes) else {}
        steps[call] = replace(steps[call], state=state, **said)


def settled_by(opened: Opened) -> Iterator[tuple[str, State, Mapping[str, Value]]]:
    """Steps that a record settles beside its own: their ids, what became of them, their results."""
    said = opened.record.leaf.get("settles", [])
    if not said:
        return
    value = opened.values[SETTLED]
    results = kept.read_settled(value.decode()) if isinstance(value, bytes) else {}
    for each in said:
        yield str(each["call"]), State(each["step"]), results.get(str(each["call"]), {})


def differences(key: Key, stored: Iterable[Step], told: Mapping[str, Step]) -> Iterator[Difference]:
    """What store and ledger do not agree on.

    A step that never left the gateway counts for no rule: whether the store still names it is no difference.
    """
    left = dict(told)
    for step in stored:
        other = left.pop(step.id, None)
        if step != other and not (other is None and step.state is State.UNSENT):
            yield Difference(key, step, other)
    yield from (Difference(key, None, other) for other in left.values())


def merged(stored: Iterable[Step], told: Mapping[str, Step], until: int) -> Sequence[Step]:
    """The history that both together say: the ledger's word, and of what it cannot know yet the store's."""
    steps = dict(told)
    for step in stored:
        other = steps.get(step.id)
        if (other is None and step.at >= until) or (other is not None and other.state is State.RUNNING):
            steps[step.id] = step
    return sorted(steps.values(), key=lambda step: step.place)
