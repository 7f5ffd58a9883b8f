"""Rules: grants/*.csv, every cell checked against what is registered.

A rule that could never speak is a finding: a deny line with a typing error would be a hole.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from policies import names
from policies.expression import ExpressionError, parse
from policies.finding import Report, suggest
from policies.membership import Membership, check_tenant, check_who
from policies.model import Source
from policies.reading import Row, read_rows
from policies.registry import Registry

EFFECTS = ("allow", "deny", "require")
ACTIONS = (*names.ACTIONS, names.RELAY, "*")
NONE = "-"
MAX_RULES = 250_000

_COLUMNS = ("who", "tenant", "tool", "action", "effect", "when", "must", "id")
_CELL = {name: index for index, name in enumerate(_COLUMNS)}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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


def read_grants(
    texts: Mapping[str, str], registry: Registry, roles: tuple[Membership, ...], report: Report
) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    """Read grants/*.csv and shadow/*.csv in the order of their names: the rules in force, and those that are only watched.

    Ids are unique over all files: a line keeps its own when it moves from shadow/ to grants/.
    """
    grants = _Grants(registry, roles, report)
    read: dict[str, list[Rule]] = {"grants": [], "shadow": []}
    for folder, rules in read.items():
        for name in sorted(n for n in texts if n.startswith(f"{folder}/")):
            for row in read_rows(name, texts[name], "p", _COLUMNS, report):
                rules.append(grants.rule(row))
                if len(rules) > MAX_RULES:
                    report.add("too-large", (name, row.line, 1), f"more than {MAX_RULES} rules")
                    return (), ()
    return tuple(read["grants"]), tuple(read["shadow"])


class _Grants:
    """Checks one line after the other."""

    def __init__(self, registry: Registry, roles: tuple[Membership, ...], report: Report) -> None:
        self._registry = registry
        self._report = report
        self._ids: dict[str, Source] = {}
        self._members = {(m.role, tenant) for m in roles for tenant in (m.tenant, "*")}
        self._typed: dict[tuple[str, str], ExpressionError | None] = {}
        self._servers: dict[str, list[str]] = defaultdict(list)
        for tool, spec in registry.tools.items():
            self._servers[spec.server].append(tool)

    def rule(self, row: Row) -> Rule:
        """The rule of a line; what is wrong with it is reported."""
        who, tenant, tool, action, effect, when, must, rule_id = row.cells
        self._check_id(row, rule_id)
        self._check_who(row, who, tenant)
        check_tenant(row, _CELL["tenant"], self._registry, self._report, everywhere=True)
        self._check_word(row, "effect", EFFECTS)
        covered = self._check_object(row, tool)
        self._check_action(row, tool, action)
        self._check_existence(row, tenant, tool, covered)
        self._check_condition(row, when, covered)
        self._check_duty(row, effect, must)
        condition, duty = (None if name == NONE else name for name in (when, must))
        return Rule(rule_id, who, tenant, tool, action, effect, condition, duty, Source(row.file, row.line))

    def _wrong(self, code: str, row: Row, column: str, message: str, help_: str = "") -> None:
        self._report.add(code, row.place(_CELL[column]), message, help_)

    def _check_word(self, row: Row, column: str, known: tuple[str, ...]) -> None:
        word = row.cells[_CELL[column]]
        if word not in known:
            help_ = suggest(word, known) or f"known are {', '.join(known)}"
            self._wrong(f"unknown-{column}", row, column, f"{column} '{word[:60]}' is not known", help_)

    def _check_id(self, row: Row, rule_id: str) -> None:
        if not _ID.fullmatch(rule_id):
            help_ = "every rule has an id of letters, digits, '-', '.' and '_'"
            self._wrong("odd-name", row, "id", f"'{rule_id[:60]}' is no id", help_)
        elif rule_id in self._ids:
            message = f"the id '{rule_id}' is taken by {self._ids[rule_id]}"
            self._wrong("duplicate-id", row, "id", message, "give this rule an id of its own")
        else:
            self._ids[rule_id] = Source(row.file, row.line)

    def _check_who(self, row: Row, who: str, tenant: str) -> None:
        if who == "*":
            return
        kind = check_who(row, _CELL["who"], self._report)
        if kind in ("role", "agents") and (who, tenant) not in self._members:
            known = {role for role, where in self._members if where == tenant}
            help_ = suggest(who, known) or "name its members in roles.csv"
            self._wrong("unknown-role", row, "who", f"nobody has '{who}' in tenant '{tenant}'", help_)

    # --- objects and actions

    def _check_object(self, row: Row, name: str) -> tuple[str, ...]:
        """What is wrong with an object; the registered tools that it covers."""
        if name == "*":
            if row.cells[_CELL["effect"]] == "allow":
                help_ = "write <server>.* for all tools of a server"
                self._wrong("odd-tool", row, "tool", "an allow line names what it allows", help_)
            return tuple(self._registry.tools)
        kind = names.kind_of_cell(name)
        if kind is names.TOOLS:
            return self._check_tool(row, name)
        if kind is None:
            help_ = suggest(name.split(":", 1)[0] + ":", names.PREFIXES) or f"known are {', '.join(names.PREFIXES)}, set:"
            self._wrong("unknown-object", row, "tool", f"'{name[:60]}' is of no kind that is governed", help_)
        elif kind.instead:
            self._wrong("unknown-object", row, "tool", f"nothing is decided by '{name[:60]}' in this version", kind.instead)
        elif not kind.has(name) and not kind.covers(name):
            forms = " or ".join(form.strip("`") for form in (kind.written, *kind.patterns))
            message = f"'{name[:60]}' is no {kind.name}, or not in its one form"
            self._wrong("odd-tool", row, "tool", message, _one_form(name) or f"write {forms}")
        return ()

    def _check_tool(self, row: Row, tool: str) -> tuple[str, ...]:
        """The registered tools that a tool's name, a set or a pattern covers."""
        registry = self._registry
        if tool.startswith("set:"):
            if tool not in registry.sets:
                help_ = suggest(tool, registry.sets) or "name it in tools.yaml"
                self._wrong("unknown-set", row, "tool", f"there is no set '{tool[:60]}'", help_)
            return registry.sets.get(tool, ())
        if names.TOOLS.covers(tool):
            covered = tuple(self._servers.get(tool[:-2], ()))
            if not covered:
                help_ = suggest(tool, [f"{server}.*" for server in self._servers]) or "register its tools in tools.yaml"
                self._wrong("unknown-tool", row, "tool", f"no tool of '{tool[:-2]}' is registered", help_)
            return covered
        if "*" in tool:
            help_ = "a '*' stands at the end, after the server: <server>.*"
            self._wrong("odd-tool", row, "tool", f"'{tool[:60]}' is no pattern", help_)
        elif tool not in registry.tools:
            help_ = suggest(tool, registry.tools) or "register it in tools.yaml"
            self._wrong("unknown-tool", row, "tool", f"there is no tool '{tool[:60]}'", help_)
        return (tool,) if tool in registry.tools else ()

    def _check_action(self, row: Row, name: str, action: str) -> None:
        kind = None if name == "*" else names.kind_of_cell(name)
        known = ACTIONS if kind is None else (*kind.actions, names.RELAY, "*")
        if action in known or (kind is not None and kind.instead):
            return
        help_ = f"known are {', '.join(known)}"
        if kind is not None and action in ACTIONS:
            help_ = " or ".join(f"write '{each}'" for each in kind.actions)
            self._wrong("unknown-action", row, "action", f"'{action}' is no action on '{name[:60]}'", help_)
        else:
            self._wrong("unknown-action", row, "action", f"action '{action[:60]}' is not known", suggest(action, known) or help_)

    def _check_existence(self, row: Row, tenant: str, tool: str, covered: tuple[str, ...]) -> None:
        specs = [self._registry.tools[name] for name in covered if name in self._registry.tools]
        if specs and tenant in self._registry.tenants and not any(tenant in spec.tenants for spec in specs):
            message = f"'{tool}' does not exist in tenant '{tenant}'"
            self._wrong("unknown-tool", row, "tool", message, "name the tenant in tools.yaml")

    # --- conditions and duties

    def _check_condition(self, row: Row, when: str, covered: tuple[str, ...]) -> None:
        if when == NONE:
            return
        known = self._registry.conditions
        condition = known.get(when)
        if condition is None:
            help_ = suggest(when, known) or "name it in conditions.yaml"
            self._wrong("unknown-condition", row, "when", f"there is no condition '{when[:60]}'", help_)
            return
        bare = [kind for kind in names.reached(*_object_of(row)) if kind.name not in names.WITH_ARGUMENTS]
        of_tools = sorted(name for name in condition.expression.reads if name.startswith(("args.", "tool.")))
        if of_tools and bare:
            message = f"condition '{when}' reads {of_tools[0]}, and a question about {_an(bare[0].name)} has no such thing"
            self._wrong("unknown-argument", row, "when", message, "name the tools that it is about")
            return
        for each in covered:
            error = self._misfit(when, each)
            if error is not None:
                place = condition.source
                message = f"condition '{when}' does not fit {each} (rule {row.cells[_CELL['id']]}): {error.message}"
                self._report.add("bad-condition", (place.file, place.line, place.column + error.column - 1), message, error.help)
                return

    def _misfit(self, when: str, tool: str) -> ExpressionError | None:
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

    def _check_duty(self, row: Row, effect: str, must: str) -> None:
        known = self._registry.obligations
        if effect != "require":
            if must != NONE and effect in EFFECTS:
                help_ = "write a 'require' line of its own"
                self._wrong("odd-duty", row, "must", f"a line that says '{effect}' names no duty", help_)
        elif must == NONE:
            self._wrong("odd-duty", row, "must", "a 'require' line names its duty", "name one of obligations.yaml")
        elif must not in known:
            help_ = suggest(must, known) or "name it in obligations.yaml"
            self._wrong("unknown-duty", row, "must", f"there is no duty '{must[:60]}'", help_)


def _object_of(row: Row) -> tuple[str, str]:
    return row.cells[_CELL["tool"]], row.cells[_CELL["action"]]


def _an(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _one_form(name: str) -> str:
    """How a resource is written in its one form, where it has one that differs."""
    server, slash, address = name.removeprefix("res:").partition("/")
    form = names.resource(server, address) if slash and name.startswith("res:") and "*" not in name else None
    return f"write '{form}'" if form is not None and form != name else ""
