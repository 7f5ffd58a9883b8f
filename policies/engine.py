"""The judge: one question for each principal of the chain, a yes from all of them, and no exception ever.

Whatever goes wrong while deciding is a denial.  Nothing of a question is kept after it is answered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from policies import names
from policies.approvers import ACTION, lines
from policies.bundle import Bundle, ToolSpec
from policies.index import ALLOW, Asker, IndexedEnforcer, Row
from policies.membership import Closure
from policies.model import (
    SUBJECT,
    AccessRequest,
    Answer,
    Decision,
    Effect,
    Match,
    Obligation,
    Question,
    Reason,
    questions,
)
from policies.objects import Granted, Under
from policies.rules import NONE
from policies.values import NO_TYPES, Evaluate, Facts

ACTIONS: Final = frozenset(names.ACTIONS)
"""What can be asked, beside `list`.  `relay` is asked of earlier agents by the engine alone."""
_PEOPLE: Final = ("user:", "svc:")
_OF_SERVER: Final = (("read", "res:{}/*"), ("get", "prompt:{}/*"), ("call", "{}.*"))
"""What there is of a server that makes it worth knowing of."""
_YES, _ALLOWED = Effect.ALLOW, Reason.ALLOWED
_allowed = attrgetter("allowed")
Rows = list[Row] | None
"""What a question met, whatever the conditions; None on the stock path, which does not say."""


class Thing(NamedTuple):
    """What is asked for: the types of its arguments, and what tools.yaml says of it, where it is a tool."""

    types: Mapping[str, str]
    tool: ToolSpec | None


_NO_TOOL: Final = Thing(NO_TYPES, None)


class Engine:
    """Decides by one bundle.

    path, path_reason  whether rules are found by the index ("indexed") or by stock Casbin ("stock"), and why.
    """

    def __init__(self, bundle: Bundle, *, stock: bool = False) -> None:
        """`stock` takes Casbin's own path whatever the model: slower, and the reference that the index is held against."""
        self.bundle = bundle
        approvers = tuple(lines(bundle.rules, bundle.obligations, bundle.sets))
        self._closure = Closure(bundle.roles, (*(rule.who for rule in bundle.rules), *(each.who for each in approvers)))
        sets_of: dict[str, list[str]] = defaultdict(list)
        for name, tools in bundle.sets.items():
            for tool in tools:
                sets_of[tool].append(name)
        self._enforcer = IndexedEnforcer(
            bundle.model,
            (
                *((r.who, r.tenant, r.tool, r.action, r.when or NONE, r.effect, r.id) for r in bundle.rules),
                *((a.who, a.tenant, a.tool, ACTION, NONE, "allow", a.match.rule) for a in approvers),
            ),
            self._closure,
            {tool: tuple(found) for tool, found in sets_of.items()},
            bundle.tools,
            stock=stock,
        )
        self.path: str = self._enforcer.path
        self.path_reason: str = self._enforcer.path_reason
        self._conditions = {name: condition.expression.evaluate for name, condition in bundle.conditions.items()}
        self._matches = {
            r.id: Match(r.id, r.effect, r.source, bundle.conditions[r.when].say if r.when else None) for r in bundle.rules
        } | {each.match.rule: each.match for each in approvers}
        self._approves = {each.match.rule: each.duty for each in approvers}
        self._agents = {(m.member, m.tenant): Asker.of(m.member, self._closure.of(m.member, m.tenant)) for m in bundle.roles}
        self._duties = {r.id: bundle.obligations[r.must] for r in bundle.rules if r.must}
        self._unknown = Decision(Effect.DENY, Reason.UNKNOWN_RESOURCE, bundle.digest, visible=False)
        self._things = {name: Thing(spec.args, spec) for name, spec in bundle.tools.items()}
        self._under = Under(r.tool for r in bundle.rules)
        self._granted = Granted(((r.who, r.tool) for r in bundle.rules if r.effect == "allow"), bundle.sets)
        self._skilled = frozenset((r.tenant, r.tool[6:].partition("/")[0]) for r in bundle.rules if r.tool.startswith("skill:"))
        self._servers: dict[str, tuple[str, ...]] = {}
        for spec in bundle.tools.values():
            self._servers[spec.server] = (*self._servers.get(spec.server, ()), spec.name[len(spec.server) + 1 :])

    def tools_of(self, server: str) -> tuple[str, ...]:
        """The registered tools of a server, without its name before them; none for an unknown server."""
        return self._servers.get(server, ())

    def approves(self, decision: Decision) -> frozenset[str]:
        """Of which duties of type `human-approval` the `by` spoke for this decision; "" among them where a written line did."""
        return frozenset(self._approves.get(match.rule, "") for match in decision.matched if match.effect == "allow")

    def decide(self, request: AccessRequest) -> Decision:
        """Answer one question.  Never raises: what cannot be decided is denied with `decision-error`."""
        try:
            return self._decide(request)
        except Exception:  # noqa: BLE001  the boundary: an error while deciding is a denial
            return Decision(Effect.DENY, Reason.DECISION_ERROR, self.bundle.digest, visible=False)

    def _decide(self, request: AccessRequest) -> Decision:
        _well_formed(request)
        if request.action == "list":
            return self._list(request)
        if request.action == "read" and request.resource.startswith("skill:"):
            request = self._of_skill(request)
        if request.tenant not in self.bundle.tenants:  # which is no secret
            return self._unknown
        known = self._thing(request.resource, request.tenant, request.action)
        thing = known or _NO_TOOL  # what is unknown is asked about all the same: it takes as long as what is hidden
        ask = _Ask(self._conditions, request, thing, request.arguments is None)
        answers = self._answers(ask, request, questions(request.subject, request.actors, request.action))
        if not answers:
            msg = "nobody was asked"
            raise RuntimeError(msg)
        if known is not None and all(map(_allowed, answers)):
            return Decision(_YES, _ALLOWED, self.bundle.digest, answers, self._obligations(answers) if self._duties else ())
        denial = self._denial(ask, request, thing, answers)
        return self._unknown if known is None else denial

    def _answers(self, ask: _Ask, request: AccessRequest, asked: Iterable[Question]) -> tuple[Answer, ...]:
        tenant, resource, enforce, match = request.tenant, request.resource, self._enforcer.enforce_ex, self._matches.__getitem__
        answers = []
        for question in asked:
            hits: list[str] = []
            ask.hits = hits
            allowed, _ = enforce(self._asker(question, request), tenant, resource, question.action, ask)
            ask.covering.append(ask.rows)
            answers.append(Answer(question, allowed, tuple(map(match, hits))))
        return tuple(answers)

    def _asker(self, question: Question, request: AccessRequest) -> Asker:
        """The principal with its roles; only the subject has groups."""
        name, tenant = question.principal, request.tenant
        if question.role is SUBJECT:
            return Asker.of(name, self._closure.of_subject(name, request.groups, tenant))
        return self._agents.get((name, tenant)) or Asker.of(name, self._closure.of(name, tenant))

    def _obligations(self, answers: Sequence[Answer]) -> tuple[Obligation, ...]:
        """The duties of every require line that spoke for anybody, each once, in the order in which they were heard."""
        duties: dict[str, Obligation] = {}
        for answer in answers:
            for match in answer.matched:
                duty = self._duties.get(match.rule)
                if duty is not None:
                    duties.setdefault(duty.name, duty)
        return tuple(duties.values())

    # --- refusals

    def _denial(self, ask: _Ask, request: AccessRequest, thing: Thing, answers: tuple[Answer, ...]) -> Decision:
        covering = ask.covering
        answers = self._with_near(request, thing, answers, covering)
        if any([match.effect == "deny" for answer in answers for match in answer.matched]):  # noqa: C419  a list is faster
            reason = Reason.GUARDRAIL
        elif not all([answer.allowed for answer in answers if answer.question.role is SUBJECT]):  # noqa: C419
            reason = Reason.USER_LACKS_RIGHT
        else:
            reason = Reason.AGENT_LACKS_RIGHT
        return Decision(
            Effect.DENY,
            reason,
            self.bundle.digest,
            answers,
            visible=request.arguments is not None
            and self._could(request, thing, request.resource, [answer.question for answer in answers], covering),
            missing=tuple(dict.fromkeys([answer.question.principal for answer in answers if not answer.allowed])),
        )

    def _with_near(
        self, request: AccessRequest, thing: Thing, answers: tuple[Answer, ...], covering: Sequence[Rows]
    ) -> tuple[Answer, ...]:
        """The same answers, and for each no the allow lines that fit in everything but their condition."""
        completed = []
        for answer, rows in zip(answers, covering, strict=True):
            if answer.allowed:
                completed.append(answer)
                continue
            if rows is None:  # the stock path knows them only by asking again
                probe = _Ask(self._conditions, request, thing, probing=True)
                (again,) = self._answers(probe, request, (answer.question,))
                lines = again.matched
            else:
                lines = tuple([self._matches[row.id] for row in rows if row.bit == ALLOW])
            heard = {match.rule for match in answer.matched}
            near = tuple([m for m in lines if m.effect == "allow" and m.rule not in heard])
            completed.append(Answer(answer.question, allowed=False, matched=answer.matched, near=near))
        return tuple(completed)

    def _of_skill(self, request: AccessRequest) -> AccessRequest:
        """The question itself, where some line names a skill of that agent; else the one that its card asks.

        So a bundle that says nothing of skills shows all of them, and one line closes the list: what no line allows is hidden.
        """
        agent = request.resource[6:].partition("/")[0]
        if not self._skilled.isdisjoint(((request.tenant, agent), ("*", agent))):
            return request
        return replace(request, action="send", resource=f"a2a:{agent}", arguments=None)

    # --- what could be called

    def _could(
        self,
        request: AccessRequest,
        thing: Thing,
        resource: str,
        asked: Sequence[Question],
        covering: Sequence[Rows] | None = None,
    ) -> bool:
        """Whether some arguments would be allowed: allow lines count unless they surely fail, deny lines if they surely hold.

        `covering` are the rows that the same questions met before.
        """
        ask = _Ask(self._conditions, request, thing, hypothetical=True)
        for question, rows in zip(asked, covering or [None] * len(asked), strict=True):
            ask.hits = []
            if rows is not None:
                yes, _ = self._enforcer.judge(rows, ask)
            else:
                asker = self._asker(question, request)
                yes, _ = self._enforcer.enforce_ex(asker, request.tenant, resource, question.action, ask)
            if not yes:
                return False
        return True

    def _list(self, request: AccessRequest) -> Decision:
        """Asked of a pattern, whether there is anything under it, for the whole chain.  Which agents there are may be asked by
        everybody: the answer has those to which the asking chain could send.

        A server may be approached by whoever makes the call, if that principal could use a tool, a resource or a prompt of it.

        Only the acting principal is asked: an agent connects to its servers before it knows for what.  Whose rights count for a
        tool is asked at each tool, when it is listed and when it is called.
        """
        acting = questions(request.subject, request.actors, "list")[-1:]
        if request.resource == names.EVERY_AGENT and request.tenant in self.bundle.tenants:
            return Decision(_YES, _ALLOWED, self.bundle.digest, tuple(Answer(q, allowed=True) for q in acting))
        if request.resource.endswith("*"):
            return self._some(request)
        everybody = self._enforcer.everybody  # None on the stock path, of which it is not known whom its lines speak for
        if everybody is not None and not self._granted.anything(
            request.resource, self._asker(acting[0], request).names | everybody
        ):
            return self._unknown
        for action, pattern in reversed(_OF_SERVER):
            asked = [replace(question, action=action) for question in acting]
            for resource in self._covered(pattern.format(request.resource)):
                thing = self._thing(resource, request.tenant, action)
                if thing is not None and self._could(request, thing, resource, asked):
                    return Decision(_YES, _ALLOWED, self.bundle.digest, tuple(Answer(q, allowed=True) for q in acting))
        return self._unknown

    def _some(self, request: AccessRequest) -> Decision:
        """Whether there is something under a pattern that the chain could use: the first of what stands for it decides."""
        action = next((action for action, pattern in _OF_SERVER if request.resource.startswith(pattern.partition("{")[0])), "")
        if names.kind_of_pattern(request.resource) is not None:
            for resource in self._covered(request.resource):
                arguments = None if action == "call" else request.arguments
                decision = self._decide(replace(request, action=action, resource=resource, arguments=arguments))
                if decision.allowed:
                    return decision
        return self._unknown

    def _covered(self, pattern: str) -> Iterator[str]:
        """What stands for everything under a pattern: of tools all that are registered."""
        if ":" in pattern:
            return self._under.of(pattern)
        server = pattern.removesuffix(".*")
        return (f"{server}.{tool}" for tool in self.tools_of(server))

    def _thing(self, resource: str, tenant: str, action: str) -> Thing | None:
        """What is asked for; None for what is unknown in this tenant, or has no such action.

        Tools are registered; everything else is known by its form alone.
        """
        thing = self._things.get(resource)
        if thing is not None and thing.tool is not None:
            return thing if tenant in thing.tool.tenants and action == "call" else None
        kind = names.kind_of(resource)
        if kind is None or kind is names.TOOLS or kind.instead or action not in kind.actions or tenant not in self.bundle.tenants:
            return None
        return _NO_TOOL


class _Ask(msgspec.Struct, gc=False):
    """One question on its way through Casbin: decides conditions once for the whole chain, and hears which rules spoke.

    hypothetical  arguments are not known: may it be a yes?
    probing       which rules would cover this, whatever their conditions?
    covering      the rows that every question met so far.
    """

    _conditions: Mapping[str, Evaluate]
    _request: AccessRequest
    _thing: Thing
    hypothetical: bool = False
    probing: bool = False
    rows: Rows = None
    hits: list[str] = []
    covering: list[Rows] = []
    _known: dict[str, object] = {}
    _facts: Facts | None = None

    def holds(self, condition: str, effect: str) -> bool:
        """Unknown is a no for an allow line and a yes for the others; the other way round where arguments are not known."""
        if self.probing or condition == NONE:
            return True
        value = self._known.get(condition)
        if value is None:
            value = self._known[condition] = self._conditions[condition](self._facts or self._gather())
        if (effect == "allow") is self.hypothetical:
            return value is not False
        return value is True

    def _gather(self) -> Facts:
        """What conditions may read; most questions meet no condition."""
        request = self._request
        request.context.get("ctx")  # what is no mapping is an error here, whichever of it a condition reads
        self._facts = Facts(
            arguments=None if self.hypothetical else request.arguments,
            types=self._thing.types,
            subject=request.subject,
            groups=request.groups,
            context=request.context,
            at=request.at,
            tool=self._thing.tool,
        )
        return self._facts


def _well_formed(request: AccessRequest) -> None:
    """A principal that is named like a role would have its rights.  Raises ValueError."""
    good = request.subject.startswith(_PEOPLE) and (request.action in ACTIONS or request.action == "list")
    for actor in request.actors:
        good = good and actor.startswith("agent:")
    if not good:
        msg = "the question is not well formed"
        raise ValueError(msg)
