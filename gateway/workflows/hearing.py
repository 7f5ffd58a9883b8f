"""What the answer of a call says of the work that was asked for: by this call, or by calls before it that went on as tasks.

Only what is released is heard: what is withheld, or never comes, says nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from msgspec.structs import replace

from gateway.model import Call, Intent, Outcome, OutcomeStatus, Permit, Principal, Reply
from gateway.workflows.following import Following, News
from policies.model import NOTHING
from policies.workflows import kept
from policies.workflows.story import State, Step
from policies.workflows.values import fields

CONNECT: Final = "connect"
"""How the detail of an outcome begins whose call never reached the upstream."""
MOST_TASKS: Final = 256
"""Of which one answer may say what became."""
MOST_OBJECTS: Final = 100
"""Structured parts of one message, and of one task, in which fields are looked for."""
_RELEASED: Final = frozenset({OutcomeStatus.OK, OutcomeStatus.TOOL_ERROR})
Wanted = Callable[[str, Step], frozenset[str]]
"""A workflow's id and a step of it → the fields of its result that rules bound."""
Settle = Callable[[Permit, Outcome | None], Awaitable[None]]
"""Keeps a call's own step, by its recorded outcome; None: there is none on record."""


class Ended(StrEnum):
    """What an answer says of the work that was asked for."""

    DONE = "done"
    OPEN = "open"  # it goes on, as a task
    ASKED = "asked"  # nothing is done: something must be answered first, and the call be made again
    FAILED = "failed"  # it will not be done: the task failed, was rejected or cancelled


@dataclass(frozen=True, slots=True)
class Heard:
    """What a message says of one piece of work.

    objects  the structured parts of it.
    task     id of the task, as the upstream has it; "" for none.
    whole    whether it shows the result, where there is one: not a state alone, nor a part that came in between.
    """

    ended: Ended | None = None
    objects: tuple[Mapping[str, object], ...] = ()
    task: str = ""
    whole: bool = True


class Reader(Protocol):
    """One protocol's reading of calls as steps."""

    def is_step(self, call: Call) -> bool:
        """Whether it does something: a tool's call, a message to an agent; not a look at what was done."""

    def looks(self, call: Call) -> bool:
        """Whether it shows what may have come of another workflow's call, without being a step."""

    def follows(self, call: Call) -> bool:
        """Whether its answer may say what became of a task of an earlier call."""

    async def joins(self, call: Call, principal: Principal) -> tuple[str, ...]:
        """Ids of the person's other workflows to which what it names belongs."""

    def shows(self, call: Call, resource: str) -> tuple[str, ...]:
        """The objects whose labels its answer may bring; `resource` is what policy was asked for."""

    def arguments(self, call: Call) -> Mapping[str, object]:
        """What rules read of it."""

    def says(self, call: Call) -> tuple[Heard, ...]:
        """What it says itself, where it brings news and no answer."""

    def heard(self, reply: Reply, permit: Permit) -> tuple[Heard, ...]:
        """What a message of its answer says."""


class Hearing:
    """Listens to one call's answer; see `gateway.pipeline.Hearing`.

    names   fields that rules bound, of whatever.
    wanted  which of them those of one step are.
    """

    def __init__(  # noqa: PLR0917  made in one place
        self, reader: Reader, permit: Permit, following: Following, names: frozenset[str], wanted: Wanted, settle: Settle
    ) -> None:
        self._reader = reader
        self._permit = permit
        self._following = following
        self._names = names
        self._wanted = wanted
        self._settle = settle
        self._acts = reader.is_step(permit.call)
        self._follows = reader.follows(permit.call)
        self._pending = reader.says(permit.call)  # until it is certain to be released
        self._ended: Ended | None = None
        self._task = ""
        self._objects: list[Mapping[str, object]] = []
        self._news: dict[str, News] = {}

    def hear(self, reply: Reply) -> None:
        """See `gateway.pipeline.Hearing`."""
        self._take()
        if reply.payload is None:
            return
        self._pending = self._reader.heard(reply, self._permit)
        if not reply.is_final:
            self._take()

    def outcome(self, outcome: Outcome) -> Outcome:
        """See there."""
        if outcome.status in _RELEASED:
            self._take()
        self._pending = ()
        reserved = self._permit.reserved
        if reserved is None:
            return outcome
        state = self._state(outcome)
        results = ""
        if state is State.OK:
            found = fields(self._objects, reserved.fields) if reserved.fields else NOTHING
            results = kept.results(found) if found else ""  # type: ignore[arg-type]
        elif state is State.OPEN and self._task:
            results = kept.task(self._following.mark(self._permit, self._task))
        return replace(outcome, step=state.value, results=results)

    async def follow(self, intent: Intent, outcome: Outcome) -> Outcome:
        """See there."""
        ended = {task: news for task, news in self._news.items() if news.state is not None}
        if not ended or intent.start_index < 0:  # its records wait in the spool: nothing may hang on them yet
            return outcome
        followed = await self._following.claim(self._permit, ended, self._wanted)
        return outcome if followed is None else replace(outcome, followed=followed)

    async def settle(self, outcome: Outcome, *, recorded: bool) -> None:
        """See there."""
        if outcome.followed is not None:
            await self._following.settle(self._permit.principal.tenant, outcome.followed, recorded=recorded)
        if self._permit.reserved is not None:
            await self._settle(self._permit, outcome if recorded else None)

    def _take(self) -> None:
        for heard in self._pending:
            objects = [one for one in heard.objects if not self._names.isdisjoint(one)][:MOST_OBJECTS]
            self._ended = heard.ended or self._ended
            self._task = heard.task or self._task
            if self._permit.reserved is not None:
                self._objects += objects
            if self._follows and heard.task and (heard.task in self._news or len(self._news) < MOST_TASKS):
                before = self._news.get(heard.task, News())
                state = before.state if heard.ended is None else _STATES.get(heard.ended)
                self._news[heard.task] = before.then(state, objects, heard.whole)
        self._pending = ()

    def _state(self, outcome: Outcome) -> State:
        if outcome.status is OutcomeStatus.TOOL_ERROR:
            return State.FAILED
        ended = self._ended if self._acts else Ended.DONE
        if outcome.status is OutcomeStatus.OK:
            return _OWN.get(ended or Ended.DONE, State.OK)
        if outcome.status is OutcomeStatus.UPSTREAM_ERROR and outcome.detail.startswith(CONNECT):
            return State.UNSENT
        return State.OPEN if ended is Ended.OPEN and self._task else State.UNCERTAIN  # a look at its task can tell


_OWN: Final = {Ended.OPEN: State.OPEN, Ended.ASKED: State.FAILED, Ended.FAILED: State.FAILED}
_STATES: Final[Mapping[Ended | None, State]] = {Ended.DONE: State.OK, Ended.FAILED: State.FAILED}
