"""The tables of tests/*.yaml: who asks, through whom, for what, and what must come of it; and what must never be allowed.

Read strictly: a word that could be a mistake is a finding with its place, never a row that passes for the wrong reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from policies import names
from policies.bundle import Bundle
from policies.finding import Report, suggest
from policies.membership import kind_of
from policies.model import AccessRequest, Effect, Reason, Source
from policies.objects import Objects
from policies.reading import Item, read_yaml
from policies.testfields import Fields
from policies.testhistory import Histories, read_histories
from policies.testsuite import Case, Invariant, Suite
from policies.workflows.supposed import Supposed

MAX_CASES: Final = 10_000
MAX_INVARIANTS: Final = 1_000
MAX_AGENTS: Final = 32
NOON: Final = 1_788_955_200_000_000
"""When a row is asked that names no time: Wednesday, 2026-09-09, 12:00 UTC.  A table means the same tomorrow."""

_TOP = ("people", "history", "tests", "never", "tenant", "at")
_PERSON = ("is", "groups")
_CASE = ("name", "who", "groups", "via", "tool", "action", "args", "at", "tenant", "context",
         "workflow", "after", "expect", "because", "must", "must_include")  # fmt: skip
_NEVER = ("name", "who", "agent", "group", "role", "tool", "action", "via", "tenant", "alone")
_HOLDERS = ("who", "agent", "group", "role")


@dataclass(frozen=True, slots=True)
class _Person:
    subject: str
    groups: frozenset[str]
    source: Source


def read_tests(bundle: Bundle) -> Suite:
    """The tables of a bundle, in the order of their names.  Raises BundleError with everything that is wrong with them."""
    report, notes = Report(), Report()
    files: list[_File] = []
    for name in sorted(n for n in bundle.texts if n.startswith("tests/")):
        for each in (report, notes):
            each.show(name, bundle.texts[name])
        files.append(_File(name, read_yaml(name, bundle.texts[name], report), bundle, report, notes))
    people: dict[str, _Person] = {}
    for file in files:
        file.read_people(people)
    for file in files:
        file.read_histories(people)
    cases: list[Case] = []
    invariants: list[Invariant] = []
    for file in files:
        file.read_rows(people, cases, invariants)
        if len(cases) > MAX_CASES or len(invariants) > MAX_INVARIANTS:
            report.add("too-large", (file.name, 0, 0), f"more than {MAX_CASES} rows, or more than {MAX_INVARIANTS} invariants")
            break
    if report:
        raise report.error()
    return Suite(tuple(cases), tuple(invariants), notes.error().findings if notes else ())


class _File:
    """One table."""

    def __init__(self, name: str, item: Item, bundle: Bundle, report: Report, notes: Report) -> None:
        self.name = name
        self._bundle = bundle
        self._report = report
        self._notes = notes
        self._top = Fields(name, item, report).take(_TOP, "a table")
        self._people: Mapping[str, _Person] = {}
        self._histories: Histories = {}
        self._strangers: set[str] = set()
        self._tenant = self._top.word("tenant", bundle.tenants)
        self._at = self._top.moment("at")
        named = [rule.who for rule in bundle.rules] + [each for m in bundle.roles for each in (m.member, m.role)]
        self._named = frozenset(named)
        self._agents = frozenset(n[6:] for n in self._named if n.startswith("agent:"))
        self._groups = frozenset(n[4:] for n in self._named if n.startswith("idp:"))
        self._roles = frozenset(m.role for m in bundle.roles)
        self._servers = frozenset(spec.server for spec in bundle.tools.values())
        self._objects = Objects(bundle.tools, bundle.sets, (), ())

    def read_people(self, people: dict[str, _Person]) -> None:
        """Who is meant by a name; the names of all tables are known in all of them."""
        self._people = people
        item = self._top.found.get("people")
        if item is not None and item.value is not None and not item.is_mapping:
            self._top.wrong("wrong-type", item, "'people' must hold names and who they are", "write 'mia: {is: user:dev/mia}'")
        for name, place, value in item.entries() if item is not None else ():
            fields = Fields(self.name, value, self._report).take(_PERSON, f"'{name[:60]}'")
            subject = fields.text("is", needed=f"'{name[:60]}'")
            if name in people:
                message = f"'{name[:60]}' is somebody in {people[name].source} already"
                fields.wrong("duplicate-key", place, message, "names of people are known in every table; choose another")
            elif subject is not None and kind_of(subject) not in ("user", "svc"):
                fields.wrong("unknown-kind", fields.at("is"), f"'{subject[:60]}' is nobody", _WHO_HELP)
            elif subject is not None:
                people[name] = _Person(subject, self._group_names(fields) or frozenset(), _source(self.name, place))

    def read_histories(self, people: Mapping[str, _Person]) -> None:
        """What rows of this table may come after."""
        known = {name: person.subject for name, person in people.items()}
        self._histories = read_histories(self.name, self._top.found.get("history"), self._bundle, known, self._report)

    def read_rows(self, people: Mapping[str, _Person], cases: list[Case], invariants: list[Invariant]) -> None:
        """The rows, once everybody is known."""
        self._people = people
        for item in self._top.rows("tests"):
            if self._report.full:
                return
            case = self._case(Fields(self.name, item, self._report).take(_CASE, "a row"))
            if case is not None:
                cases.append(case)
        for item in self._top.rows("never"):
            if self._report.full:
                return
            invariant = self._invariant(Fields(self.name, item, self._report).take(_NEVER, "a row"))
            if invariant is not None:
                invariants.append(invariant)

    # --- tests

    def _case(self, row: Fields) -> Case | None:
        person = self._who(row, "a row")
        groups = self._group_names(row)
        via = self._via(row) or ()
        tool = row.text("tool", needed="a row")
        action = self._action(row, tool or "")
        expect = row.word("expect", [effect.value for effect in Effect], needed="a row")
        because = row.texts("because") or ()
        tenant = self._tenant_of(row)
        at = row.moment("at")
        arguments, context = row.mapping("args"), self._context(row)
        must, exact = self._duties(row, expect)
        workflow = row.word("workflow", self._bundle.workflows) if "workflow" in row.found else ""
        if person is None or tool is None or expect is None or tenant is None:
            return None
        if Reason.UNKNOWN_RESOURCE.value not in because:
            self._check_resource(row, tool, action, tenant, arguments)
        actors = tuple(f"agent:{agent}" for agent in via)
        chain = " > ".join([row.text("who") or "", *via])
        title = row.text("name") or f"{chain}: {action} {tool} → {expect}"
        return Case(
            title=title,
            source=_source(self.name, row.item),
            request=AccessRequest(
                subject=person.subject,
                actors=actors,
                tenant=tenant,
                action=action,
                resource=tool,
                at=at if at is not None else self._at if self._at is not None else NOON,
                groups=person.groups if groups is None else groups,
                arguments=arguments,
                context=context,
            ),
            expect=Effect(expect),
            because=because,
            must=must,
            exact=exact,
            workflow=workflow or "",
            after=self._after(row, person.subject, actors),
        )

    def _after(self, row: Fields, subject: str, actors: tuple[str, ...]) -> tuple[Supposed, ...]:
        """The steps that happened before, in the row's own workflow."""
        steps: list[Supposed] = []
        for name in row.texts("after") or ():
            if name not in self._histories:
                help_ = suggest(name, self._histories) or "tell it under 'history:' of this table"
                row.wrong("unknown-history", row.at("after"), f"there is no history '{name[:60]}'", help_)
            steps += [told.of(subject, actors) for told in self._histories.get(name, ())]
        return tuple(steps)

    def _duties(self, row: Fields, expect: str | None) -> tuple[frozenset[str] | None, bool]:
        """The duties that a row names, and whether it means these alone."""
        exact, some = row.texts("must"), row.texts("must_include")
        if exact is not None and some is not None:
            row.wrong("odd-duty", row.at("must_include"), "a row has 'must' or 'must_include'", "'must' names all duties")
        for key, duties in (("must", exact), ("must_include", some)):
            if duties is not None and expect == Effect.DENY.value:
                row.wrong("odd-duty", row.at(key), "a denied call has no duties", f"take '{key}' out")
            for name in duties or ():
                if name not in self._bundle.obligations:
                    help_ = suggest(name, self._bundle.obligations) or "name it in obligations.yaml"
                    row.wrong("unknown-duty", row.at(key), f"there is no duty '{name[:60]}'", help_)
        named = exact if exact is not None else some
        return (None if named is None else frozenset(named)), exact is not None

    def _context(self, row: Fields) -> Mapping[str, object]:
        context = row.mapping("context")
        for name, value in context.items():
            if name not in ("agent", "ctx") or not isinstance(value, Mapping):
                message = "the context holds 'agent' and 'ctx', each with names and their values"
                row.wrong("unknown-key", row.at("context"), message, "write 'context: {agent: {assurance: bearer}}'")
        return context

    def _action(self, row: Fields, tool: str) -> str:
        """The action of a row, which may be left out where there is only one."""
        action = row.word("action", (*names.ACTIONS, "list"))
        kind = names.TOOLS if tool in self._bundle.tools else names.kind_of(tool)
        if action is None and kind is not None and len(kind.actions) > 1 and "action" not in row.found:
            row.wrong("missing-key", row.item, f"nothing says what is asked of '{tool[:60]}'", _actions(kind))
        return action or next(iter((kind or names.TOOLS).actions))

    def _check_resource(self, row: Fields, tool: str, action: str, tenant: str, arguments: Mapping[str, object]) -> None:
        """Only what is there is a test of rules: a denial of a name that nobody has proves nothing."""
        bundle, place = self._bundle, row.at("tool")
        kind = names.TOOLS if tool in bundle.tools else names.kind_of(tool)
        spec = bundle.tools.get(tool)
        if (
            kind is None
            or kind.instead
            or (kind is names.SERVERS and tool not in self._servers)
            or (kind is names.TOOLS and not spec)
        ):
            help_ = (
                suggest(tool, [*bundle.tools, *self._servers]) or "to test that it is unknown, write 'because: unknown-resource'"
            )
            row.wrong("unknown-tool", place, f"there is no '{tool[:60]}'", help_)
        elif spec is not None and tenant not in spec.tenants:
            row.wrong(
                "unknown-tool", place, f"there is no '{tool[:60]}' in tenant '{tenant}'", "tools.yaml names a tool's tenants"
            )
        elif action not in kind.actions:
            row.wrong("unknown-action", row.at("action"), f"'{action}' is no action on '{tool[:60]}'", _actions(kind))
        else:
            known = spec.args if spec is not None else {}
            for name in arguments:
                if name not in known:
                    help_ = suggest(name, known) or "tools.yaml names the arguments that conditions may read"
                    row.wrong("unknown-argument", row.at("args"), f"'{tool[:60]}' has no argument '{name[:60]}'", help_)

    # --- never

    def _invariant(self, row: Fields) -> Invariant | None:
        given = [key for key in _HOLDERS if key in row.found]
        tool = row.text("tool", needed="an invariant")
        if len(given) != 1:
            row.wrong("missing-key", row.item, "an invariant is about one of who, agent, group, role", "write 'who: mia'")
            return None
        kind = given[0]
        principal, groups = self._holder(row, kind)
        action = row.word("action", (*names.ACTIONS, names.RELAY))
        agents = kind == "agent" or (principal or "").startswith("agents:")
        if action == names.RELAY and not agents:
            row.wrong("unknown-action", row.at("action"), "only agents relay", "a person's chain is 'via: a > b'")
        via = self._via(row)
        if via is not None and agents:
            row.wrong("unknown-key", row.at("via"), "'via' goes with a person, a group or a role of people", "take it out")
        tenant = self._top.text("tenant") if "tenant" not in row.found else row.word("tenant", self._bundle.tenants)
        if tool is not None:
            self._check_pattern(row, tool, action)
        if principal is None or tool is None:
            return None
        alone = row.flag("alone")
        through = f" via {' > '.join(via)}" if via is not None else ""
        title = row.text("name") or f"{kind} {row.text(kind)} never: {action + ' ' if action else ''}{tool}{through}"
        return Invariant(title, _source(self.name, row.item), kind, principal, tool, groups, action, via, tenant, alone)

    def _holder(self, row: Fields, kind: str) -> tuple[str | None, frozenset[str] | None]:
        """The full name of whom an invariant is about, and the groups where they are given."""
        if kind == "who":
            person = self._who(row, "an invariant", whatever_groups=True)
            if person is None:
                return None, None
            known = row.text("who") in self._people
            return person.subject, person.groups if known else None
        name = row.text(kind)
        if name is None:
            return None, None
        if kind == "agent":
            agent = name.removeprefix("agent:")
            return (f"agent:{agent}", None) if self._check_agent(row, "agent", agent) else (None, None)
        if kind == "group":
            group = name.removeprefix("idp:")
            self._note("group", group, self._groups, row.at("group"))
            return f"idp:{group}", None
        role = name if ":" in name else f"role:{name}"
        if role not in self._roles:
            row.wrong("unknown-role", row.at("role"), f"nobody has '{role[:60]}'", suggest(role, self._roles))
            return None, None
        return role, None

    def _check_pattern(self, row: Fields, tool: str, action: str | None) -> None:
        bundle = self._bundle
        if not self._objects.known(tool):
            known = [*bundle.tools, *bundle.sets, *(f"{server}.*" for server in self._servers), *names.PREFIXES]
            help_ = suggest(tool, known) or "write a tool, <server>.*, set:<name>, a2a:<agent>, a2a:* or *"
            row.wrong("unknown-tool", row.at("tool"), f"'{tool[:60]}' is no tool and no pattern of tools", help_)
            return
        kind = None if tool == "*" else names.kind_of_cell(tool)
        if action is not None and kind is not None and action not in (*kind.actions, names.RELAY):
            row.wrong("unknown-action", row.at("action"), f"'{action}' is no action on '{tool[:60]}'", _actions(kind))

    # --- principals

    def _who(self, row: Fields, what: str, *, whatever_groups: bool = False) -> _Person | None:
        name = row.text("who", needed=what)
        if name is None:
            return None
        if name in self._people:
            return self._people[name]
        if kind_of(name) in ("user", "svc"):
            if not whatever_groups and "groups" not in row.found and name.startswith("user:"):
                row.wrong("missing-key", row.at("who"), f"nothing says which groups '{name[:60]}' has", "add 'groups: []'")
            return _Person(name, frozenset(), _source(self.name, row.item))
        row.wrong("unknown-who", row.at("who"), f"'{name[:60]}' is nobody", suggest(name, self._people) or _WHO_HELP)
        return None

    def _via(self, row: Fields) -> tuple[str, ...] | None:
        item = row.found.get("via")
        if item is None:
            return None
        words = row.texts("via") or ()
        if not item.is_list:
            words = tuple(word.strip() for word in words[0].split(">")) if words else ()
        if len(words) > MAX_AGENTS:
            row.wrong("too-large", item, f"a chain of more than {MAX_AGENTS} agents")
            return ()
        agents = tuple(word.removeprefix("agent:") for word in words)
        return agents if all([self._check_agent(row, "via", agent) for agent in agents]) else ()  # noqa: C419  every one is said

    def _check_agent(self, row: Fields, key: str, agent: str) -> bool:
        if not names.SLUG.fullmatch(agent):
            row.wrong("odd-name", row.at(key), f"'{agent[:60]}' is no agent", "agents are named by their ids, as 'a > b'")
            return False
        self._note("agent", agent, self._agents, row.at(key))
        return True

    def _note(self, what: str, name: str, known: frozenset[str], place: Item) -> None:
        """A name that no rule knows may be meant, as that of a stranger; one that nearly is known is noted, once."""
        if name in known or f"{what}:{name}" in self._strangers:
            return
        self._strangers.add(f"{what}:{name}")  # to look for a likeness takes its time
        if help_ := suggest(name, known):
            self._notes.add(
                f"unnamed-{what}", (self.name, place.line, place.column), f"no rule names {what} '{name[:60]}'", help_
            )

    def _group_names(self, fields: Fields) -> frozenset[str] | None:
        groups = fields.texts("groups")
        for group in groups or ():
            self._note("group", group.removeprefix("idp:"), self._groups, fields.at("groups"))
        return None if groups is None else frozenset(group.removeprefix("idp:") for group in groups)

    def _tenant_of(self, row: Fields) -> str | None:
        if "tenant" in row.found:
            return row.word("tenant", self._bundle.tenants)
        if self._tenant is not None:
            return self._tenant
        if len(self._bundle.tenants) == 1:
            return next(iter(self._bundle.tenants))
        row.wrong("missing-key", row.item, "the bundle has several tenants", "add 'tenant: …' to the row or to the table")
        return None


_WHO_HELP = "name somebody of 'people:', or write user:<issuer>/<sub> or svc:<id>"


def _source(file: str, item: Item) -> Source:
    return Source(file, item.line, item.column)


def _actions(kind: names.Kind) -> str:
    return f"known are {', '.join(kind.actions)}"
