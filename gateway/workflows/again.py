"""What had happened in workflows by each record of the ledger, so that their rules can be asked again, or others of it.

Steps are told from the records alone.  Nothing is guessed: where a rule hangs on what no record tells, the answer is `Why`.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Final

from audit.reader import Ledger, Opened
from gateway.obligations.budget import DUTY, drawn_on
from gateway.reproduce import KINDS, VALUES, Past, Undecidable, Why, rebuild
from gateway.workflows.marks import Marker
from gateway.workflows.rebuild import BEGINS, ENDS, SETTLED, VALUE, settled_by
from policies.bundle import Bundle
from policies.model import NOTHING, Decision, Reason, Ruling
from policies.workflows import kept
from policies.workflows.checks import named_in
from policies.workflows.flow import brings, exempt
from policies.workflows.judge import Past as Happened
from policies.workflows.judge import judge, purses, shared, spent_by
from policies.workflows.labelled import came
from policies.workflows.model import Before, Budget, Distinct, Once, Rule, Within, Workflow, taints
from policies.workflows.ruling import Judged, decided, held_by, is_unknown, of_unknown, ruling_of
from policies.workflows.story import State, Step, Story
from policies.workflows.values import sums

Key = tuple[str, str]
"""Tenant and workflow."""
STEPS: Final = frozenset({"tools/call", "resources/read", "prompts/get", "SendMessage", "SendStreamingMessage"})
ASKED_OF: Final = "asked_of"
HANDED: Final = "identity.delegate"
AHEAD: Final = 256
"""Records that are heard before a decision is made again: calls of one moment stand in the log in any order."""
DAYS: Final = 60
"""For how long a workflow in which nothing happens is remembered: longer than any gateway keeps its history."""
_DAY: Final = 86_400_000_000
_MOST_ARGUMENTS: Final = 64
_MOST_AT_ONCE: Final = 5
"""Calls of one moment whose every order is tried."""
_HOUR: Final = 3_600_000_000
_AT_ONCE: Final = 10_000_000
"""Microseconds within which a call that arrived later may have been decided before."""
_SENT: Final = {"ok": State.OK, "tool-error": State.FAILED}


@dataclass(slots=True)
class Fact:
    """A call that took a place, or would have taken one.

    step    as it was kept, or bare where no rule held it then; its state and results are the last that are known.
    marks, sums   of all its arguments; `arguments` says whether they are known at all.
    digest  of the bundle that decided; "" where no place was kept.
    """

    key: Key
    step: Step
    chain: tuple[str, ...]
    definition: str
    begun: int
    digest: str = ""
    arguments: bool = False
    marks: Mapping[str, str] = field(default_factory=dict)
    sums: Mapping[str, Any] = field(default_factory=dict)
    ended: int | None = None
    ended_at: int = 0


class Retelling:
    """Decisions in the order of the log, each with what had happened by then."""

    def __init__(self, key: bytes) -> None:
        """`key` makes digests of arguments, as the gateway's own does."""
        self._marker = Marker(key)
        self._facts: dict[str, Fact] = {}
        self._of: dict[Key, dict[str, Fact]] = defaultdict(dict)
        self._of_tenant: dict[str, dict[str, Fact]] = defaultdict(dict)
        self._of_person: dict[tuple[str, str], dict[str, Fact]] = defaultdict(dict)
        self._latest: dict[Key, int] = {}
        self._lost = False

    def decisions(self, log: Ledger, since: int = 0, stop: int | None = None) -> Iterator[Past | Undecidable]:
        """As `gateway.reproduce.decisions`; while one is held, `ruled` knows the records around it."""
        waiting: deque[tuple[int, Past | Undecidable]] = deque()
        asked = log.opened((*KINDS, *ENDS), (*VALUES, VALUE, SETTLED), since=max(since - DAYS * _DAY, 0), stop=stop)
        for heard, opened in enumerate(asked):
            found = rebuild(opened) if opened.record.kind in KINDS else None
            said = arguments_of(opened, found) if isinstance(found, Past) else None
            self._hear(opened, said)
            if found is not None and opened.record.at >= since:
                waiting.append((heard, replace(found, said=said) if isinstance(found, Past) else found))
            while waiting and waiting[0][0] <= heard - AHEAD:
                yield waiting.popleft()[1]
        while waiting:
            yield waiting.popleft()[1]

    # --- what happened

    def _hear(self, opened: Opened, said: Mapping[str, object] | None) -> None:
        leaf, kind = opened.record.leaf, opened.record.kind
        placed = kind in BEGINS and opened.record.commitment(VALUE) is not None
        try:
            if placed or (kind in BEGINS and is_step(leaf)):
                self._begun(opened, said)
            elif kind in ENDS:
                if (fact := self._facts.get(str(leaf.get("call")))) is not None:
                    _end(fact, opened)
                for call, state, results in settled_by(opened):
                    fact = self._facts.get(call)
                    if fact is not None and fact.ended is not None and fact.step.state is State.OPEN:
                        fact.ended, fact.ended_at = opened.record.index, opened.record.at  # until then it ran, to every rule
                        fact.step = replace(fact.step, state=state, results=results)
        except (KeyError, TypeError, ValueError, AttributeError):  # fields of another shape than this gateway writes
            self._lost = True

    def _begun(self, opened: Opened, said: Mapping[str, object] | None) -> None:
        record, leaf = opened.record, opened.record.leaf
        value, subject = opened.values[VALUE], opened.subject
        if not isinstance(subject, str) or (record.commitment(VALUE) is not None and not isinstance(value, bytes)):
            self._lost = True
            return
        key = str(leaf["tenant"]), str(leaf["workflow"])
        chain = tuple(str(agent) for kind, agent in leaf["chain"] if kind == "agent")
        state = State.OPEN if record.kind == HANDED else State.RUNNING
        step = Step(record.id, str(leaf["resource"]), chain[-1] if chain else subject, subject, record.at, state=state)
        fact = Fact(key, step, chain, str(leaf.get("definition", "")), record.index)
        if isinstance(value, bytes):
            fact.step = replace(step, **kept.read_begun(value.decode()))
            fact.digest = str(leaf["decision"]["policy"])
            fact.marks, fact.sums = fact.step.marks, fact.step.sums
        if said is not None:
            fact.arguments = True
            fact.marks = self._marker.marks(key[0], said, list(said)[:_MOST_ARGUMENTS])
            fact.sums = sums(said, list(said)[:_MOST_ARGUMENTS])
        for among in (self._facts, self._of[key], self._of_tenant[key[0]], self._of_person[key[0], subject]):
            among[record.id] = fact
        self._latest.pop(key, None)
        self._latest[key] = record.at  # the last touched is the last here
        while (oldest := next(iter(self._latest))) != key and self._latest[oldest] < record.at - DAYS * _DAY:
            del self._latest[oldest]
            for name, gone in self._of.pop(oldest).items():
                del self._facts[name], self._of_tenant[oldest[0]][name], self._of_person[oldest[0], gone.step.subject][name]

    # --- what rules say of it

    def ruled(self, past: Past, bundle: Bundle, decision: Decision) -> Iterator[Decision | Why]:
        """What becomes of an engine's decision by the workflows of a bundle: first in the order of the log.

        Then, where calls of the same moment could have come in another order, in each of these; `Why` where it cannot be told.
        """
        leaf = past.record.leaf
        if not decision.allowed or not (is_step(leaf) or past.record.kind == HANDED or ASKED_OF in leaf):
            yield decision
            return
        definition = _definition(past, bundle)
        if not definition and past.verdict.reason == Reason.WORKFLOW_UNKNOWN.value:
            yield Why.HISTORY  # an older record: under which name it was begun, it does not say
            return
        request = past.request
        held = held_by(bundle.workflows.values(), request.tenant, request.resource, request.actors, definition)
        if is_unknown(held, definition):
            yield of_unknown(decision)
            return
        held += drawn_on(decision.obligations)
        if not held:
            yield decision
            return
        asked, workflow = self._asked(past, bundle, held), _workflow(leaf)
        if asked is None:
            yield Why.HISTORY
            return
        near = self._near(held, asked, (request.tenant, workflow))
        free = exempt(bundle, held, request, past.said or NOTHING)
        for number, order in enumerate(_orders(near, past)):
            if order is None:
                yield Why.RACED
                return
            steps = [(fact.key[1], _in(bundle, fact, step)) for fact in near if (step := order[fact.step.id]) is not None]
            ruling = _ruling(held, asked, steps, workflow, free)
            if number == 0 and self._unsure(held, ruling, near, bundle):
                yield Why.HISTORY
                return
            yield decided(decision, ruling)

    def _asked(self, past: Past, bundle: Bundle, held: tuple[Workflow, ...]) -> Step | None:
        """The call itself; None where rules read arguments of it that no record tells."""
        request, said = past.request, past.said
        own = self._facts.get(past.record.id)
        if own is None:
            chain, key = request.actors, (request.tenant, _workflow(past.record.leaf))
            step = Step(past.record.id, request.resource, chain[-1] if chain else request.subject, request.subject, request.at)
            own = Fact(key, step, chain, _definition(past, bundle), past.record.index, arguments=said is not None)
            own.marks = self._marker.marks(request.tenant, said or NOTHING, list(said or ())[:_MOST_ARGUMENTS])
            own.sums = sums(said or NOTHING, list(said or ())[:_MOST_ARGUMENTS])
        if own.digest != bundle.digest and not own.arguments:
            wanted = [each.kept(request.resource) for each in held]
            if any(marks - own.marks.keys() or numbers - own.sums.keys() for marks, numbers, _ in wanted):
                return None
        return replace(_in(bundle, own, own.step), held=frozenset(each.name for each in held), state=State.RUNNING, results={})

    def _near(self, held: tuple[Workflow, ...], asked: Step, key: Key) -> tuple[Fact, ...]:
        """Every call that the rules could look at."""
        found = dict(self._of.get(key, {}))
        rules = [rule for each in held for rule in each.rules]
        since = None
        if any(isinstance(rule, Budget) and "workflow" not in rule.per for rule in rules):
            since = asked.at - asked.at % _DAY - _HOUR
        if any(isinstance(rule, Distinct) and rule.of == "person" for rule in rules):
            since = 0
        named = [*named_in(rules), *(rule.tool for rule in rules if isinstance(rule, Budget))]
        if since is not None:
            for name, fact in reversed(self._of_tenant.get(key[0], {}).items()):
                if fact.step.at < since:
                    break
                if any(steps.covers(fact.step.resource) for steps in named):
                    found[name] = fact
        if taints(held):
            found |= self._of_person.get((key[0], asked.subject), {})
        found.pop(asked.id, None)
        return tuple(found.values())

    def _unsure(self, held: tuple[Workflow, ...], ruling: Ruling, near: tuple[Fact, ...], bundle: Bundle) -> bool:
        """Whether more of what happened could have had a rule that spoke say something else."""
        spoke = {match.rule for match in ruling.spoke}
        breached = {each.match.rule for each in (*ruling.refused, *ruling.watched)}
        for rule in (rule for each in held for rule in each.rules if rule.id in spoke):
            cured = isinstance(rule, Before)  # more could only satisfy it; more could only break any other
            if cured is not (rule.id in breached) or isinstance(rule, Within):
                continue
            if self._lost and (isinstance(rule, Distinct) or (isinstance(rule, Budget) and "workflow" not in rule.per)):
                return True
            if any(_hides(rule, fact) for fact in near if fact.digest != bundle.digest):
                return True
        return False


def _hides(rule: Rule, fact: Fact) -> bool:
    """Whether less is known of a call than a rule reads of it."""
    match rule:
        case Before() if rule.needs.covers(fact.step.resource):
            unread = rule.result is not None and rule.result.field not in fact.step.results
            unheard = not fact.digest and fact.step.resource.startswith("a2a:")  # whether the agent was done, nobody noted
            names = {theirs for _, theirs in rule.same}
            return fact.step.state is State.OK and (unread or unheard or _lacks(fact, names))
        case Once() if rule.tool.covers(fact.step.resource):
            return _lacks(fact, {theirs for _, theirs in rule.same})
        case Distinct() if any(each.covers(fact.step.resource) for each in rule.steps):
            return _lacks(fact, {theirs for _, theirs in rule.same})
        case Budget() if rule.sum is not None and rule.tool.covers(fact.step.resource):
            return not fact.arguments and rule.sum not in fact.sums
        case _:
            return False


def _lacks(fact: Fact, names: set[str]) -> bool:
    return not fact.arguments and bool(names - fact.marks.keys())


def is_step(leaf: Mapping[str, Any]) -> bool:
    """Whether a record is of a call that takes a place in a history."""
    return leaf.get("method") in STEPS and not leaf.get("direction")


def _workflow(leaf: Mapping[str, Any]) -> str:
    """In which a call was made, or was only asked about."""
    return str(leaf.get(ASKED_OF, leaf["workflow"]))


def arguments_of(opened: Opened, found: Past | Undecidable | None) -> Mapping[str, object] | None:
    """What rules read of a call: a tool's arguments, the one data part of a message; None where it is not known."""
    leaf = opened.record.leaf
    if leaf.get("proto") in ("mcp", "authzen"):
        return (found.request.arguments or NOTHING) if isinstance(found, Past) else None
    body = opened.values.get("request")
    if not isinstance(body, bytes) or "originals" in leaf or "request" in leaf.get("secrets", {}):
        return None
    try:
        said = json.loads(body, parse_int=float)
        message = said.get("params", said)["message"]
        data = [part["data"] for part in message["parts"] if isinstance(part, dict) and "data" in part]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # another binding's bytes
    objects = [each for each in data if isinstance(each, dict)]
    return objects[0] if len(objects) == 1 else NOTHING


def _end(fact: Fact, opened: Opened) -> None:
    leaf, value = opened.record.leaf, opened.values[VALUE]
    fact.ended, fact.ended_at = opened.record.index, opened.record.at
    if opened.record.kind != "call.end":
        fact.step = replace(fact.step, state=State.UNCERTAIN)
        return
    said = leaf["outcome"]
    state = State(said["step"]) if "step" in said else _SENT.get(str(said["status"]), State.UNCERTAIN)
    ended = kept.read_ended(state, value.decode()) if isinstance(value, bytes) else {}
    fact.step = replace(fact.step, state=state, **ended)


def _definition(past: Past, bundle: Bundle) -> str:
    """Under which name the workflow was begun; of records that do not say so, the one by which a rule held without a bind."""
    said = str(past.record.leaf.get("definition", ""))
    ruled = past.verdict.ruled
    if said or ruled is None:
        return said
    bound = held_by(bundle.workflows.values(), past.request.tenant, past.request.resource, past.request.actors, "")
    names = [name for name in ruled.held if name in bundle.workflows and bundle.workflows[name] not in bound]
    return names[0] if names else ""


def _in(bundle: Bundle, fact: Fact, step: Step) -> Step:
    """A step as it would be kept under a bundle."""
    if fact.digest == bundle.digest:
        return step
    held = held_by(bundle.workflows.values(), fact.key[0], step.resource, fact.chain, fact.definition)
    wanted = [each.kept(step.resource) for each in held]
    duties = [name for name in step.held if name.startswith(DUTY)]  # budgets count what they counted then
    return replace(
        step,
        held=frozenset((*(each.name for each in held), *duties)),
        marks={name: fact.marks[name] for names, _, _ in wanted for name in names if name in fact.marks},
        sums=fact.sums if duties else {n: fact.sums[n] for _, names, _ in wanted for n in names if n in fact.sums},
        labels=brings(bundle, step.resource),
    )


def _orders(near: Sequence[Fact], past: Past) -> Iterator[dict[str, Step | None] | None]:
    """How the calls around one stood when it was decided, by their ids: as the log has them; then as they may have stood as well.

    None at the end where that is too much to try.
    """
    index, at = past.record.index, past.request.at
    ends = (fact.ended_at for fact in near if fact.ended is not None and fact.ended > index)
    latest = min((at + _AT_ONCE, *ends))  # it was on record by then, and so decided
    usual: dict[str, Step | None] = {}
    moved: dict[str, tuple[Step | None, ...]] = {}
    for fact in near:
        begun, over = fact.begun < index, fact.ended is not None and fact.ended < index
        handed = fact.ended is None and fact.step.state is State.OPEN
        going = fact.step if handed else replace(fact.step, state=State.RUNNING, results={})
        now = None if not begun else fact.step if over else going
        ways = [now]
        if (begun and fact.step.at >= at) or (not begun and fact.step.at <= latest):
            ways += [None, going]
        if over and fact.ended_at >= at:
            ways.append(going)
        usual[fact.step.id] = now
        if len(ways) > 1:
            moved[fact.step.id] = tuple(ways)
    yield usual
    if len(moved) > _MOST_AT_ONCE:
        yield None
        return
    for ways_of_all in product(*moved.values()):
        yield usual | dict(zip(moved, ways_of_all, strict=True))


def _ruling(
    held: tuple[Workflow, ...], asked: Step, steps: list[tuple[str, Step]], workflow: str, free: frozenset[str]
) -> Ruling:
    story = Story(step for name, step in steps if name == workflow)
    past = Happened(
        story,
        {purse: spent_by(purse, steps) for each in held for purse in purses(each, asked, workflow)},
        {
            one: tuple(step for _, step in steps if each.name in step.held and one in set(shared(each, step)))
            for each in held
            for one in shared(each, asked)
        },
        came(held, asked, workflow, story, steps),
        free,
    )
    return ruling_of(Judged(each, *judge(each, asked, past, workflow)) for each in held)
