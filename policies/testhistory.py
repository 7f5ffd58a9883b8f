"""Histories of policy tables: what has happened in a workflow before a row is asked.  Read as strictly as the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from policies import names
from policies.bundle import Bundle
from policies.finding import Report, suggest
from policies.reading import Item
from policies.testfields import Fields
from policies.workflows.story import State
from policies.workflows.supposed import Supposed
from policies.workflows.terms import STEP_KINDS, seconds_of

MOST_STEPS: Final = 1_000
_STEP: Final = ("tool", "who", "via", "by", "args", "result", "state", "ago", "elsewhere")
_STATES: Final = tuple(state.value for state in State)
_SPACING: Final = 1
"""Seconds between steps that say no time of their own."""


@dataclass(frozen=True, slots=True)
class Told:
    """A step of a history as it was written; `who` None: the person of the row that is asked."""

    step: Supposed
    who: str | None

    def of(self, subject: str, actors: tuple[str, ...]) -> Supposed:
        """The same in one row's workflow: what it leaves out is the row's own."""
        step = self.step
        mine = self.who is None or self.who == subject
        return Supposed(
            step.resource,
            subject if self.who is None else self.who,
            step.actors or actors,
            step.ago,
            step.arguments,
            step.result,
            step.state,
            step.elsewhere or not mine,  # a workflow is one person's
        )


Histories = Mapping[str, tuple[Told, ...]]


def read_histories(file: str, item: Item | None, bundle: Bundle, people: Mapping[str, str], report: Report) -> Histories:
    """`history:` of one table; `people` are full names by those that tables use."""
    if item is None or item.value is None:
        return {}
    if not item.is_mapping:
        message = "'history' holds names and lists of steps"
        report.add("wrong-type", (file, item.line, item.column), message, "write 'done: [{tool: …}]'")
        return {}
    found = {}
    for name, _, value in item.entries():
        if not value.is_list or not 1 <= len(value.value) <= MOST_STEPS:
            message = f"a history is a list of 1 to {MOST_STEPS} steps"
            report.add("wrong-type", (file, value.line, value.column), message, "every step starts with '- '")
            continue
        rows = [Fields(file, each, report).take(_STEP, "a step") for each in value.value]
        steps = [_step(row, bundle, people, (len(rows) - number) * _SPACING) for number, row in enumerate(rows)]
        found[name] = tuple(step for step in steps if step is not None)
    return found


def _step(row: Fields, bundle: Bundle, people: Mapping[str, str], usual: int) -> Told | None:
    """A step; where it says no time it was made `usual` seconds before the row is asked, after those before it."""
    tool, person = row.text("tool", needed="a step"), row.text("who")
    state, ago = row.word("state", _STATES), row.text("ago")
    arguments = row.mapping("args")
    if tool is None:
        return None
    _check(row, tool, arguments, bundle)
    if person is not None and person not in people:
        help_ = suggest(person, people) or "name somebody of 'people:'"
        row.wrong("unknown-who", row.at("who"), f"'{person[:60]}' is nobody", help_)
        return None
    seconds = usual if ago is None else seconds_of(ago)
    if seconds == 0:
        row.wrong("odd-time", row.at("ago"), f"'{str(ago)[:60]}' is no time", "write 90s, 30m, 2h or 7d")
    who = people[person] if person is not None else None
    done = State(state) if state is not None else State.OK
    result, elsewhere = row.mapping("result"), row.flag("elsewhere")
    return Told(Supposed(tool, who or "", _actors(row), seconds, arguments, result, done, elsewhere), who)


def _check(row: Fields, tool: str, arguments: Mapping[str, object], bundle: Bundle) -> None:
    """Only what can be called can have been."""
    known = bundle.tools[tool].args if tool in bundle.tools else None
    kind = names.kind_of(tool)
    if known is None and (kind is None or kind is names.TOOLS or kind.name not in STEP_KINDS):
        help_ = suggest(tool, bundle.tools) or "name a tool, a2a:<agent>, res:<server>/… or prompt:<server>/…"
        row.wrong("unknown-tool", row.at("tool"), f"there is no '{tool[:60]}'", help_)
    for name in arguments:
        if known is not None and name not in known:
            row.wrong("unknown-argument", row.at("args"), f"'{tool[:60]}' has no argument '{name[:60]}'", suggest(name, known))


def _actors(row: Fields) -> tuple[str, ...]:
    if "by" in row.found and "via" in row.found:
        row.wrong("unknown-key", row.at("by"), "a step has 'by' or 'via'", "'by' is the last of 'via'")
    words = row.texts("via") or row.texts("by") or ()
    if len(words) == 1:
        words = tuple(word.strip() for word in words[0].split(">"))
    agents = tuple(word.removeprefix("agent:") for word in words)
    for agent in agents:
        if not names.SLUG.fullmatch(agent):
            row.wrong("odd-name", row.item, f"'{agent[:60]}' is no agent", "agents are named by their ids, as 'a > b'")
    return tuple(f"agent:{agent}" for agent in agents)
