"""Rules and roles: roles.csv and grants/*.csv, every cell checked against what is registered.

A rule that could never speak is a finding: a deny line with a typing error would be a hole.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from policies.expression import ExpressionError, parse
from policies.finding import Report, suggest
from policies.model import Source
from policies.reading import Row, read_rows
from policies.registry import SLUG, Registry

EFFECTS = ("allow", "deny", "require")
ACTIONS = ("call", "send", "relay", "*")
NONE = "-"
MAX_RULES = 250_000

_GRANT = ("who", "tenant", "tool", "action", "effect", "when", "must", "id")
_ROLE = ("member", "role", "tenant")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WHO: dict[str, re.Pattern[str]] = {
    "user": re.compile(rf"user:{SLUG.pattern}/[!-~]{{1,255}}"),
    "agent": re.compile(rf"agent:{SLUG.pattern}"),
    "svc": re.compile(rf"svc:{SLUG.pattern}"),
    "role": re.compile(rf"role:{SLUG.pattern}"),
    "agents": re.compile(rf"agents:{SLUG.pattern}"),
    "idp": re.compile(r"idp:[^\s].{0,199}"),
}
_MEMBERS = {"role": ("user", "idp", "svc", "role", "agent"), "agents": ("agent", "agents")}


@dataclass(frozen=True, slots=True)
class Rule:
    """A line of policy.  `when` and `must` are names, or None."""

    id: str
    who: str
    tenant: str
    tool: str
    action: str
    effect: str
    when: str | None
    must: str | None
    source: Source


@dataclass(frozen=True, slots=True)
class Membership:
    """Whoever is `member` is also `role`, in one tenant."""

    member: str
    role: str
    tenant: str
    source: Source


def kind_of(who: str) -> str | None:
    """`user`, `agent`, `svc`, `role`, `agents`, `idp`; None for what is none of them."""
    kind = who.split(":", 1)[0]
    pattern = _WHO.get(kind)
    return kind if pattern is not None and pattern.fullmatch(who) else None


def read_roles(texts: Mapping[str, str], registry: Registry, report: Report) -> tuple[Membership, ...]:
    """Read roles.csv; circles are findings."""
    name = "roles.csv"
    memberships: list[Membership] = []
    for row in read_rows(name, texts.get(name, ""), "g", _ROLE, report):
        member, role, tenant = row.cells
        role_kind, member_kind = _who(name, row, 1, report), _who(name, row, 0, report)
        _tenant(name, row, 2, registry, report, everywhere=False)
        if role_kind is None or member_kind is None:
            continue
        allowed = _MEMBERS.get(role_kind)
        if allowed is None:
            report.add(
                "odd-role",
                name,
                row.line,
                row.columns[1],
                f"'{role}' is no role",
                "write role:<name>, or agents:<name> for a group of agents",
            )
        elif member_kind not in allowed:
            report.add(
                "odd-role",
                name,
                row.line,
                row.columns[0],
                f"'{member}' cannot be a member of '{role}'",
                f"members are {', '.join(allowed)}",
            )
        else:
            memberships.append(Membership(member, role, tenant, Source(name, row.line, row.columns[0])))
    _circles(name, memberships, report)
    return tuple(memberships)


def _circles(name: str, memberships: list[Membership], report: Report) -> None:
    graph: dict[tuple[str, str], list[Membership]] = defaultdict(list)
    for each in memberships:
        graph[each.tenant, each.member].append(each)
    done: set[tuple[str, str]] = set()
    for start in list(graph):
        path: dict[tuple[str, str], None] = {}
        stack = [(start, iter(graph.get(start, ())))]
        path[start] = None
        while stack:
            node, edges = stack[-1]
            edge = next(edges, None)
            if edge is None:
                stack.pop()
                path.pop(node)
                done.add(node)
                continue
            after = (edge.tenant, edge.role)
            if after in path:
                report.add(
                    "role-circle", name, edge.source.line, edge.source.column,
                    f"'{edge.member}' is a member of '{edge.role}', which is a member of it", "take one of the lines out",
                )  # fmt: skip
            elif after not in done:
                path[after] = None
                stack.append((after, iter(graph.get(after, ()))))


def read_grants(texts: Mapping[str, str], registry: Registry, roles: tuple[Membership, ...], report: Report) -> tuple[Rule, ...]:
    """Read grants/*.csv in the order of their names; ids are unique over all files."""
    reader = _Grants(registry, roles, report)
    rules: list[Rule] = []
    for name in sorted(n for n in texts if n.startswith("grants/")):
        for row in read_rows(name, texts[name], "p", _GRANT, report):
            rules.append(reader.rule(name, row))
            if len(rules) > MAX_RULES:
                report.add("too-large", name, row.line, 1, f"more than {MAX_RULES} rules")
                return ()
    return tuple(rules)


class _Grants:
    """Checks one rule after the other."""

    def __init__(self, registry: Registry, roles: tuple[Membership, ...], report: Report) -> None:
        self._registry = registry
        self._report = report
        self._ids: dict[str, Source] = {}
        self._roles = {m.role for m in roles}
        self._typed: dict[tuple[str, str], ExpressionError | None] = {}
        self._servers: dict[str, list[str]] = defaultdict(list)
        for tool, spec in registry.tools.items():
            self._servers[spec.server].append(tool)

    def rule(self, name: str, row: Row) -> Rule:
        who, tenant, tool, action, effect, when, must, rule_id = row.cells
        self._check_id(name, row, rule_id)
        self._check_who(name, row, who)
        _tenant(name, row, 1, self._registry, self._report, everywhere=True)
        self._one_of(name, row, 4, effect, EFFECTS, "unknown-effect", "effect")
        self._one_of(name, row, 3, action, ACTIONS, "unknown-action", "action")
        covered = self._check_tool(name, row, tool, action, effect)
        self._check_tenants(name, row, tenant, tool, covered)
        self._check_condition(name, row, when, tool, action, covered)
        self._check_duty(name, row, effect, must)
        source = Source(name, row.line, 1)
        return Rule(
            rule_id, who, tenant, tool, action, effect, None if when == NONE else when, None if must == NONE else must, source
        )

    def _wrong(self, code: str, name: str, row: Row, cell: int, message: str, help_: str = "") -> None:
        self._report.add(code, name, row.line, row.columns[cell], message, help_)

    def _one_of(self, name: str, row: Row, cell: int, word: str, known: tuple[str, ...], code: str, what: str) -> None:
        if word not in known:
            self._wrong(
                code, name, row, cell, f"{what} '{word}' is not known", suggest(word, known) or f"known are {', '.join(known)}"
            )

    def _check_id(self, name: str, row: Row, rule_id: str) -> None:
        if not _ID.fullmatch(rule_id):
            self._wrong(
                "odd-name",
                name,
                row,
                7,
                f"'{rule_id[:60]}' is no id",
                "every rule has an id of letters, digits, '-', '.' and '_'",
            )
        elif rule_id in self._ids:
            self._wrong(
                "duplicate-id",
                name,
                row,
                7,
                f"the id '{rule_id}' is taken by {self._ids[rule_id]}",
                "give this rule an id of its own",
            )
        else:
            self._ids[rule_id] = Source(name, row.line)

    def _check_who(self, name: str, row: Row, who: str) -> None:
        if who == "*":
            return
        kind = _who(name, row, 0, self._report)
        if kind in ("role", "agents") and who not in self._roles:
            self._wrong(
                "unknown-role", name, row, 0, f"nobody has '{who}'", suggest(who, self._roles) or "name its members in roles.csv"
            )

    def _check_tool(self, name: str, row: Row, tool: str, action: str, effect: str) -> tuple[str, ...]:
        """The registered tools that the rule covers."""
        registry = self._registry
        if tool == "*":
            if effect == "allow":
                self._wrong(
                    "odd-tool", name, row, 2, "an allow line names what it allows", "write <server>.* for all tools of a server"
                )
            return tuple(registry.tools)
        if tool.startswith("a2a:"):
            if tool != "a2a:*" and not SLUG.fullmatch(tool[4:]):
                self._wrong("odd-tool", name, row, 2, f"'{tool[:60]}' is no agent", "write a2a:<agent>, or a2a:* for all")
            if action == "call":
                self._wrong("unknown-action", name, row, 3, "an agent is sent to, not called", "write 'send'")
            return ()
        if action == "send":
            self._wrong("unknown-action", name, row, 3, "a tool is called, not sent to", "write 'call'")
        if tool.startswith("set:"):
            if tool not in registry.sets:
                self._wrong(
                    "unknown-set",
                    name,
                    row,
                    2,
                    f"there is no set '{tool}'",
                    suggest(tool, registry.sets) or "name it in tools.yaml",
                )
            return registry.sets.get(tool, ())
        if tool.endswith(".*") and SLUG.fullmatch(tool[:-2]):
            covered = tuple(self._servers.get(tool[:-2], ()))
            if not covered:
                self._wrong(
                    "unknown-tool",
                    name,
                    row,
                    2,
                    f"no tool of '{tool[:-2]}' is registered",
                    suggest(tool, [f"{s}.*" for s in self._servers]),
                )
            return covered
        if "*" in tool:
            self._wrong(
                "odd-tool", name, row, 2, f"'{tool[:60]}' is no pattern", "a '*' stands at the end, after the server: <server>.*"
            )
        elif tool not in registry.tools:
            self._wrong(
                "unknown-tool",
                name,
                row,
                2,
                f"there is no tool '{tool[:60]}'",
                suggest(tool, registry.tools) or "register it in tools.yaml",
            )
        return (tool,) if tool in registry.tools else ()

    def _check_tenants(self, name: str, row: Row, tenant: str, tool: str, covered: tuple[str, ...]) -> None:
        if (
            covered
            and tenant in self._registry.tenants
            and not any(tenant in self._registry.tools[t].tenants for t in covered if t in self._registry.tools)
        ):
            self._wrong(
                "unknown-tool", name, row, 2, f"'{tool}' does not exist in tenant '{tenant}'", "name the tenant in tools.yaml"
            )

    def _check_condition(self, name: str, row: Row, when: str, tool: str, action: str, covered: tuple[str, ...]) -> None:
        if when == NONE:
            return
        condition = self._registry.conditions.get(when)
        if condition is None:
            known = self._registry.conditions
            self._wrong(
                "unknown-condition",
                name,
                row,
                5,
                f"there is no condition '{when}'",
                suggest(when, known) or "name it in conditions.yaml",
            )
            return
        if condition.expression.arguments and (tool.startswith("a2a:") or (tool == "*" and action != "call")):
            self._wrong(
                "unknown-argument",
                name,
                row,
                5,
                f"condition '{when}' reads arguments, and a call to an agent has none",
                "name a tool",
            )
            return
        for each in covered:
            error = self._error(when, each)
            if error is not None:
                self._report.add(
                    "bad-condition", condition.source.file, condition.source.line, condition.source.column + error.column - 1,
                    f"condition '{when}' does not fit {each} (rule {row.cells[7]}): {error.message}", error.help,
                )  # fmt: skip
                return

    def _error(self, when: str, tool: str) -> ExpressionError | None:
        """What is wrong with a condition for one tool; asked once a pair."""
        spec = self._registry.tools.get(tool)
        if spec is None:
            return None
        if (when, tool) not in self._typed:
            self._typed[when, tool] = None
            try:
                parse(self._registry.conditions[when].expression.text, spec.args)
            except ExpressionError as error:
                self._typed[when, tool] = error
        return self._typed[when, tool]

    def _check_duty(self, name: str, row: Row, effect: str, must: str) -> None:
        known: Iterable[str] = self._registry.obligations
        if effect != "require":
            if must != NONE and effect in EFFECTS:
                self._wrong(
                    "odd-duty", name, row, 6, f"a line that says '{effect}' names no duty", "write a 'require' line of its own"
                )
        elif must == NONE:
            self._wrong("odd-duty", name, row, 6, "a 'require' line names its duty", "name one of obligations.yaml")
        elif must not in self._registry.obligations:
            self._wrong(
                "unknown-duty", name, row, 6, f"there is no duty '{must}'", suggest(must, known) or "name it in obligations.yaml"
            )


def _who(name: str, row: Row, cell: int, report: Report) -> str | None:
    who = row.cells[cell]
    kind = kind_of(who)
    if kind is None:
        prefix = who.split(":", 1)[0]
        hint = "" if prefix in _WHO else suggest(prefix + ":", [f"{k}:" for k in _WHO])
        help_ = hint or "write user:<issuer>/<sub>, agent:<id>, svc:<id>, idp:<group>, role:<name>, agents:<name>"
        report.add("unknown-kind", name, row.line, row.columns[cell], f"'{who[:60]}' is nobody", help_)
    return kind


def _tenant(name: str, row: Row, cell: int, registry: Registry, report: Report, *, everywhere: bool) -> None:
    tenant = row.cells[cell]
    if tenant in registry.tenants or (everywhere and tenant == "*"):
        return
    help_ = suggest(tenant, registry.tenants) or f"known are {', '.join(sorted(registry.tenants))}"
    report.add("unknown-tenant", name, row.line, row.columns[cell], f"there is no tenant '{tenant[:60]}'", help_)
