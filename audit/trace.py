"""What happened in one workflow, as a tree: the person, the agents, their calls, each with who decided what and why.

A pure function of the workflow's records.  A call names the call that caused it; where it does not, the chain of principals and
the order of the log say which call its agent was working on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from audit.leaf import Kind
from audit.model import TamperedError
from audit.reader import Record, Shredded

JOINED: Final = "the chain is correlated, not proven"
_SHOWN: Final = 4000
_ENDS: Final = frozenset({Kind.CALL_END, Kind.CALL_ORPHANED, Kind.EGRESS_END})

Open = Callable[[Record, str], bytes | Shredded | None]
Name = Callable[[str], str | Shredded | None]


@dataclass(frozen=True, slots=True)
class Shown:
    """A value as it can be shown.

    state  shown; sealed (no key at hand); erased (the person's key was destroyed); damaged (not what the leaf commits to).
    size   in bytes; `cut` where `text` is only its beginning.
    """

    state: Literal["shown", "sealed", "erased", "damaged"]
    size: int
    text: str = ""
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that spoke, and where it stands: `PRO-2`, `people.csv:14`."""

    rule: str
    source: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One principal of the chain, what it was asked, and what came of it; `near` are rules that almost applied.

    resource  where the question was about something else than the call itself, as the profile that its code names.
    """

    who: str
    role: str
    action: str
    allowed: bool
    rules: tuple[Rule, ...] = ()
    near: tuple[Rule, ...] = ()
    resource: str = ""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Code that a call ran in the sandbox, or an MCP server that it started: `language` then names the server.

    index       of its first record; end_index of its last, None while it goes on, or where nobody knows.
    reason      how it ended; "" while it goes on.  `missing`: guarantees that were not proven, so that it did not run.
    guarantees  that its own cage attested.  calls and refused: tools that it called, and how many of these came to nothing.
    """

    index: int
    language: str
    profile: str
    backend: str
    code_sha256: str
    end_index: int | None = None
    reason: str = ""
    exit_code: int | None = None
    wall_ms: int | None = None
    guarantees: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    outputs_digest: str = ""
    files: int = 0
    calls: int = 0
    refused: int = 0
    connections: int = 0


@dataclass(frozen=True, slots=True)
class CallFacts:
    """One call, from its question to its outcome.

    who         the chain, person first; `by` its last.
    effect      of the decision; reason is its code, or why the gateway refused before or after deciding.
    missing     the principals whose right is missing.
    assurance   how strongly the chain is proven: pop, bearer; correlated is not proven; "" of records that do not say.
    outcome     ok, tool-error, upstream-error, interrupted, internal-error; refused; orphaned (nobody knows); open (under way);
                of a connection that code made, how it ended.
    at          UTC microseconds; latency_us None where the call has no end; chunks: how many messages a stream had, 0 where none.
    index       of the record that opens it; end_index of the one that closes it.
    """

    id: str
    index: int
    at: int
    who: tuple[str, ...]
    proto: str
    method: str
    target: str
    tool: str
    action: str
    resource: str
    effect: Literal["allow", "deny"]
    reason: str
    outcome: str
    detail: str = ""
    assurance: str = ""
    policy: str = ""
    asked: tuple[Asked, ...] = ()
    missing: tuple[str, ...] = ()
    obligations: tuple[str, ...] = ()
    latency_us: int | None = None
    chunks: int = 0
    end_index: int | None = None
    request: Shown | None = None
    response: Shown | None = None
    explanation: Shown | None = None
    trace: str = ""
    span: str = ""
    run: RunFacts | None = None

    @property
    def joined(self) -> str:
        """Said of a chain in which a trace, and no token, says for whom an agent went on; "" of every other."""
        return JOINED if self.assurance == "correlated" else ""

    @property
    def by(self) -> str:
        """Who makes the call."""
        return self.who[-1] if self.who else ""


@dataclass(frozen=True, slots=True)
class Node:
    """The person, an agent, or a call; below it what it did or caused, in the order of the log."""

    kind: Literal["user", "agent", "call"]
    name: str
    call: CallFacts | None = None
    children: tuple[Node, ...] = ()

    def walk(self) -> Iterable[Node]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Story:
    """A workflow: its tree, and a few numbers over it."""

    workflow: str
    root: Node
    started: int
    ended: int
    allowed: int
    denied: int
    open: int

    @property
    def calls(self) -> tuple[CallFacts, ...]:
        """Every call, in the order of the log."""
        return tuple(sorted((node.call for node in self.root.walk() if node.call), key=lambda call: call.index))

    def to_dict(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return asdict(self)


@dataclass(slots=True)
class _Making:
    """A node that still gets children."""

    kind: Literal["user", "agent", "call"]
    name: str
    call: CallFacts | None = None
    children: list[_Making] = field(default_factory=list)

    def made(self) -> Node:
        return Node(self.kind, self.name, self.call, tuple(child.made() for child in self.children))

    def agent(self, name: str) -> _Making:
        for child in self.children:
            if child.kind == "agent" and child.name == name:
                return child
        self.children.append(_Making("agent", name))
        return self.children[-1]


def build(workflow: str, records: Iterable[Record], open_value: Open, name: Name) -> Story | None:
    """The story of one workflow from its records in order; None where there are none.

    open_value, name  as `Ledger.open_value` and `Ledger.subject_name`; both may know nothing.
    """
    kept = sorted(records, key=lambda record: record.index)
    if not kept:
        return None
    ends = {str(record.leaf.get("call")): record for record in kept if record.kind in _ENDS}
    runs = {
        kind: {str(record.leaf.get("call")): record for record in kept if record.kind == kind}
        for kind in (Kind.SANDBOX_START, Kind.SANDBOX_END)
    }
    names = _Names(name)
    pseudonym = next((record.subject for record in kept if record.subject), None)
    root = _Making("user", names.of(pseudonym) if pseudonym else "")
    tree, calls = _Tree(root), []
    for record in kept:
        if record.kind in {Kind.CALL_START, Kind.EGRESS_START, Kind.QUESTION_ASK, Kind.DECISION_DENY}:
            run = _run(*(found.get(record.id) for found in runs.values()))
            calls.append(_facts(record, ends.get(record.id), run, open_value, names))
            tree.add(record, calls[-1])
    return Story(
        workflow,
        root.made(),
        kept[0].at,
        kept[-1].at,
        sum(call.effect == "allow" for call in calls),
        sum(call.effect == "deny" for call in calls),
        sum(call.outcome == "open" for call in calls),
    )


class _Tree:
    """Finds the place of each call, in the order of the log."""

    def __init__(self, root: _Making) -> None:
        self._root = root
        self._made: dict[str, _Making] = {}
        self._working: dict[tuple[tuple[str, ...], str], _Making] = {}  # chain, agent → the call that it last got through it

    def add(self, record: Record, call: CallFacts) -> None:
        """Below the call that caused it; else below the call its agent was working on; else the person, through the agents."""
        node = _Making("call", call.resource or ".".join(filter(None, (call.target, call.tool))) or call.method, call)
        run = _mapping(record.leaf.get("egress")).get("run")  # a connection that code made
        about = _list(record.leaf.get("about"))[:1] if record.leaf.get("direction") == "question" else []  # asked during a call
        cause = self._made.get(str(run or "".join(map(str, about)) or record.leaf.get("caused_by") or ""))
        cause = cause or self._working.get((call.who[:-1], _plain(call.by)))
        if cause is None:
            cause = self._root
            for actor in call.who[1:]:
                cause = cause.agent(actor)
        cause.children.append(node)
        self._made[record.id] = node
        if call.effect == "allow":
            self._working[call.who, _plain(call.target)] = node


def _plain(agent: str) -> str:
    return agent.removeprefix("agent:")


def _facts(record: Record, end: Record | None, run: RunFacts | None, open_value: Open, names: _Names) -> CallFacts:
    leaf = record.leaf
    decision, refused = _mapping(leaf.get("decision")), _mapping(leaf.get("refused"))
    denied = record.kind == Kind.DECISION_DENY
    asked = tuple(_asked(each, names) for each in _list(decision.get("asked")) if isinstance(each, dict))
    for further in map(_mapping, _list(leaf.get("further"))):
        about = str(further.get("resource") or "")
        answers = map(_mapping, _list(_mapping(further.get("decision")).get("asked")))
        asked += tuple(replace(_asked(each, names), resource=about) for each in answers)
    outcome = _outcome(end.leaf) if end is not None else {}
    latency = outcome.get("latency_us")
    if denied:
        ended = "refused"
    elif record.kind == Kind.QUESTION_ASK:
        ended = "asked"
    elif end is None:
        ended = "open"
    else:
        ended = "orphaned" if end.kind == Kind.CALL_ORPHANED else str(outcome.get("status", ""))
    return CallFacts(
        id=record.id,
        index=record.index,
        at=record.at,
        who=tuple(names.of(str(link[1])) for link in _list(leaf.get("chain")) if isinstance(link, list) and len(link) > 1),
        **{name: str(leaf.get(name) or "") for name in _TEXTS},
        effect="deny" if denied else "allow",
        reason=str(refused.get("code") or decision.get("reason") or ""),
        outcome=ended,
        detail=str(refused.get("detail") or outcome.get("detail") or (end.leaf.get("reason") if end else "") or ""),
        assurance=str(_mapping(leaf.get("auth")).get("assurance") or ""),
        policy=str(decision.get("policy") or ""),
        asked=asked,
        missing=tuple(each.who for each in asked if not each.allowed),
        obligations=tuple(map(str, _list(decision.get("obligations")))),
        latency_us=latency if isinstance(latency, int) else None,
        chunks=_number(_mapping(end.leaf.get("stream") if end is not None else None).get("chunks")) or 0,
        end_index=end.index if end is not None else None,
        request=_shown(record, "request", open_value),
        response=_shown(end, "response", open_value) if end is not None else None,
        explanation=_shown(record, "explanation", open_value),
        run=run,
    )


def _outcome(end: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a call; of a connection, how it ended in its own words."""
    egress = _mapping(end.get("egress"))
    return _mapping(end.get("outcome")) or (egress | {"status": egress.get("end", "")} if egress else {})


_TEXTS: Final = ("proto", "method", "target", "tool", "action", "resource", "trace", "span")


def _run(start: Record | None, end: Record | None) -> RunFacts | None:
    """What is on record of the code that a call ran; None where it ran none."""
    first = start or end
    if first is None:
        return None
    begun, over = first.leaf, end.leaf if end is not None else {}
    calls, usage = _mapping(over.get("calls")), _mapping(over.get("usage"))
    return RunFacts(
        index=first.index,
        language=str(begun.get("language") or (f"server {begun['server']}" if "server" in begun else "")),
        code_sha256=str(begun.get("code_sha256") or begun.get("command_sha256") or ""),
        **{name: str(begun.get(name) or "") for name in ("profile", "backend")},
        end_index=end.index if end is not None else None,
        reason=str(over.get("reason") or ""),
        exit_code=_number(over.get("exit_code")),
        wall_ms=_number(usage.get("wall_ms")),
        guarantees={str(name): str(strength) for name, strength in _mapping(over.get("guarantees")).items()},
        missing={str(name): str(how) for name, how in _mapping(over.get("missing")).items()},
        outputs_digest=str(over.get("outputs_digest") or ""),
        files=_number(_mapping(over.get("files")).get("count")) or 0,
        calls=_number(calls.get("made")) or 0,
        refused=_number(calls.get("refused")) or 0,
        connections=_number(over.get("connections")) or 0,
    )


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _asked(said: Mapping[str, Any], names: _Names) -> Asked:
    return Asked(
        who=names.of(str(said.get("who", ""))),
        role=str(said.get("role", "")),
        action=str(said.get("action", "")),
        allowed=said.get("allow") is True,
        rules=tuple(map(_rule, _list(said.get("rules")))),
        near=tuple(map(_rule, _list(said.get("near")))),
    )


def _rule(text: object) -> Rule:
    rule, _, source = str(text).partition(" ")
    return Rule(rule, source)


def _shown(record: Record, name: str, open_value: Open) -> Shown | None:
    committed = record.commitment(name)
    if committed is None:
        return None
    try:
        value = open_value(record, name)
    except TamperedError:
        return Shown("damaged", committed.n)
    if value is None or isinstance(value, Shredded):
        return Shown("sealed" if value is None else "erased", committed.n)
    beginning = value[: 4 * _SHOWN].decode("utf-8", "replace")  # no character is longer than four bytes
    return Shown("shown", committed.n, beginning[:_SHOWN], cut=len(beginning) > _SHOWN or len(value) > 4 * _SHOWN)


class _Names:
    """Pseudonyms in clear, each looked up once; one that cannot be read stands for itself."""

    def __init__(self, name: Name) -> None:
        self._name = name
        self._known: dict[str, str] = {}

    def of(self, who: str) -> str:
        if not who.startswith("s_"):
            return who
        if who not in self._known:
            try:
                self._known[who] = str(self._name(who) or who)
            except TamperedError:
                self._known[who] = who
        return self._known[who]


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
