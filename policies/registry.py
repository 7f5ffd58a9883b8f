"""What can be named in rules: tenants, tools and sets of tools, named conditions, named duties."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from policies import names
from policies.expression import Expression, ExpressionError, parse
from policies.finding import Report, suggest
from policies.labels import LABEL, Labels, beginning_of
from policies.lock import NOTHING_LOCKED, Lock, read_lock
from policies.model import NOTHING, Obligation, Source
from policies.pinning import EVERY, GRADES, MODES, NEVER, Pinning, ServerRules
from policies.reading import Item, read_yaml
from policies.schema import ARGUMENT, TYPES, described

RISKS = ("low", "medium", "high")
SLUG, TOOL = names.SLUG, names.TOOL
NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A registered tool.

    name     `<server>.<tool>`, as rules and requests say it.
    args     argument name → type (string, number, integer, boolean, array, object): as tools.yaml says, or, where it does not,
             as the schema that tools.lock holds as approved.
    labels   as `source:confidential`.
    tenants  in which it exists.
    """

    name: str
    server: str
    args: Mapping[str, str]
    labels: tuple[str, ...]
    risk: str
    tenants: frozenset[str]
    source: Source


@dataclass(frozen=True, slots=True)
class Condition:
    """A named condition: how it is decided, and how it is said to people.  `column` is where its text starts."""

    name: str
    say: str
    expression: Expression
    source: Source
    column: int = 1


@dataclass(frozen=True, slots=True)
class Registry:
    """Everything that rules may name, and what is approved of servers.  Sets map `set:<name>` to tool names."""

    tenants: frozenset[str]
    tools: Mapping[str, ToolSpec]
    sets: Mapping[str, tuple[str, ...]]
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    obligations: Mapping[str, Obligation] = field(default_factory=dict)
    pinning: Pinning = field(default_factory=Pinning)
    labels: Labels = field(default_factory=Labels)


def read_registry(texts: Mapping[str, str], report: Report) -> Registry:
    """Read tools.yaml, tools.lock, conditions.yaml and obligations.yaml."""
    tools = _Fields("tools.yaml", read_yaml("tools.yaml", texts.get("tools.yaml", ""), report), report)
    tools.only("tenants", "tools", "sets", "servers", "labels")
    tenants = _tenants(tools)
    lock = read_lock(texts, report)
    specs = _tools(tools, tenants, lock)
    return Registry(
        frozenset(tenants),
        MappingProxyType(specs),
        MappingProxyType(_sets(tools, specs)),
        MappingProxyType(_conditions(texts, report)),
        MappingProxyType(_obligations(texts, report)),
        Pinning(MappingProxyType(_servers(tools)), lock),
        _labels(tools, specs),
    )


class _Fields:
    """A mapping that is being checked field by field."""

    def __init__(self, file: str, item: Item, report: Report) -> None:
        self.file = file
        self.item = item
        self.report = report
        self.fields = {key: (place, value) for key, place, value in item.entries()}

    def wrong(self, code: str, item: Item, message: str, help_: str = "") -> None:
        self.report.add(code, (self.file, item.line, item.column), message, help_)

    def only(self, *known: str) -> None:
        for key, (place, _) in self.fields.items():
            if key not in known:
                self.wrong("unknown-key", place, f"unknown key '{key}'", suggest(key, known) or f"known are {', '.join(known)}")

    def get(self, key: str) -> Item | None:
        return self.fields[key][1] if key in self.fields else None

    def text(self, key: str, what: str) -> str | None:
        item = self.get(key)
        if item is None:
            self.wrong("missing-key", self.item, f"{what} has no '{key}'", f"add '{key}: …'")
            return None
        if not isinstance(item.value, str) or not item.value.strip() or len(item.value) > 4000:
            self.wrong("wrong-type", item, f"'{key}' must be text", "put it in quotes")
            return None
        return item.value

    def mapping(self, key: str) -> list[tuple[str, Item, Item]]:
        item = self.get(key)
        if item is None or item.value is None:
            return []
        if not item.is_mapping:
            self.wrong("wrong-type", item, f"'{key}' must hold names and their values")
            return []
        return item.entries()

    def words(self, key: str, pattern: re.Pattern[str], what: str) -> list[tuple[str, Item]]:
        item = self.get(key)
        if item is None or item.value is None:
            return []
        if not item.is_list:
            self.wrong("wrong-type", item, f"'{key}' must be a list", f"write '{key}: [a, b]'")
            return []
        found = []
        for each in item.value:
            if not isinstance(each.value, str) or not pattern.fullmatch(each.value):
                self.wrong("odd-name", each, f"{_shown(each)} is no {what}", f"it must fit {pattern.pattern}")
            else:
                found.append((each.value, each))
        return found

    def inner(self, item: Item) -> _Fields:
        if not item.is_mapping:
            self.wrong("wrong-type", item, "this must hold names and their values", "write '{name: value}'")
        return _Fields(self.file, item, self.report)


def _shown(item: Item) -> str:
    return f"'{str(item.value)[:60]}'" if isinstance(item.value, str) else "this"


def _tenants(fields: _Fields) -> list[str]:
    tenants = [name for name, _ in fields.words("tenants", SLUG, "tenant name")]
    if not tenants:
        fields.wrong("missing-key", fields.item, "no tenant is named", "add 'tenants: [<your organisation>]'")
    return tenants


def _tools(fields: _Fields, tenants: list[str], lock: Lock = NOTHING_LOCKED) -> dict[str, ToolSpec]:
    specs: dict[str, ToolSpec] = {}
    for name, place, item in fields.mapping("tools"):
        if not TOOL.fullmatch(name):
            fields.wrong("odd-name", place, f"'{name[:60]}' is no tool name", "tools are named <server>.<tool>")
            continue
        tool = fields.inner(item)
        tool.only("args", "labels", "risk", "tenants")
        risk = tool.get("risk")
        if risk is not None and risk.value not in RISKS:
            tool.wrong("unknown-risk", risk, f"{_shown(risk)} is no risk", f"known are {', '.join(RISKS)}")
        own = []
        for tenant, at in tool.words("tenants", SLUG, "tenant name"):
            if tenant not in tenants:
                tool.wrong("unknown-tenant", at, f"there is no tenant '{tenant}'", suggest(tenant, tenants))
            own.append(tenant)
        specs[name] = ToolSpec(
            name=name,
            server=name.split(".", 1)[0],
            args=MappingProxyType(_args(tool) if tool.get("args") is not None else approved_args(lock, name)),
            labels=tuple(label for label, _ in tool.words("labels", LABEL, "label")),
            risk=str(risk.value) if risk is not None else "high",  # what nobody has judged is the worst
            tenants=frozenset(own if tool.get("tenants") is not None else tenants),
            source=Source("tools.yaml", place.line, place.column),
        )
    return specs


def _labels(fields: _Fields, specs: dict[str, ToolSpec]) -> Labels:
    """Of tools, and of agents, resources and prompts under `labels:`."""
    named = {name: spec.labels for name, spec in specs.items() if spec.labels}
    beginning: dict[str, tuple[str, ...]] = {}
    for name, place, item in fields.mapping("labels"):
        start = beginning_of(name)
        if start is None:
            help_ = "write a2a:<agent>, res:<server>/… or prompt:<server>/…, or one with a star; a tool has its own"
            fields.wrong("odd-name", place, f"'{name[:60]}' can have no labels here", help_)
            continue
        own = _Fields(fields.file, Item([(place, item)], place.line, place.column), fields.report)
        found = tuple(dict.fromkeys(label for label, _ in own.words(name, LABEL, "label")))
        (beginning if start else named)[start or name] = found
    return Labels(MappingProxyType(named), MappingProxyType(beginning))


def _args(tool: _Fields) -> dict[str, str]:
    args = {}
    for name, place, kind in tool.mapping("args"):
        if not ARGUMENT.fullmatch(name):
            tool.wrong("odd-name", place, f"'{name[:60]}' is no argument name", f"it must fit {ARGUMENT.pattern}")
        elif not isinstance(kind.value, str) or kind.value not in TYPES:
            help_ = suggest(str(kind.value), TYPES) or f"known are {', '.join(TYPES)}"
            tool.wrong("unknown-type", kind, f"{_shown(kind)} is no type", help_)
        else:
            args[name] = kind.value
    return args


def approved_args(lock: Lock, tool: str) -> dict[str, str]:
    """The arguments of a tool by the schema that was approved; none where nothing was."""
    server, _, name = tool.partition(".")
    approved = lock.approved(server, "tool", name)
    return {} if approved is None else dict(described(approved.definition.get("inputSchema")).types)


def _servers(fields: _Fields) -> dict[str, ServerRules]:
    servers = {}
    for name, place, item in fields.mapping("servers"):
        if name != EVERY and not SLUG.fullmatch(name):
            fields.wrong("odd-name", place, f"'{name[:60]}' is no server", "name a server of the settings, or '*' for all others")
            continue
        server = fields.inner(item)
        server.only("definitions", "suspicious")
        chosen: dict[str, str | None] = {}
        for key, known in (("definitions", MODES), ("suspicious", (*GRADES, NEVER))):
            said = server.get(key)
            chosen[key] = str(said.value) if said is not None and said.value in known else None
            if said is not None and chosen[key] is None:
                server.wrong("unknown-word", said, f"{_shown(said)} is no word for '{key}'", f"known are {', '.join(known)}")
        source = Source("tools.yaml", place.line, place.column)
        servers[name] = ServerRules(chosen["definitions"], chosen["suspicious"], source)  # type: ignore[arg-type]
    return servers


def _sets(fields: _Fields, specs: dict[str, ToolSpec]) -> dict[str, tuple[str, ...]]:
    sets: dict[str, tuple[str, ...]] = {}
    for name, place, _item in fields.mapping("sets"):
        if not (name.startswith("set:") and NAME.fullmatch(name[4:])):
            fields.wrong("odd-name", place, f"'{name[:60]}' is no name of a set", "sets are named set:<name>")
            continue
        members = _Fields(fields.file, Item([(place, _item)], place.line, place.column), fields.report)
        for tool, at in (found := members.words(name, TOOL, "tool name")):
            if tool not in specs:
                fields.wrong("unknown-tool", at, f"there is no tool '{tool}'", suggest(tool, specs))
        sets[name] = tuple(tool for tool, _ in found)
    return sets


def _conditions(texts: Mapping[str, str], report: Report) -> dict[str, Condition]:
    file = "conditions.yaml"
    top = _Fields(file, read_yaml(file, texts.get(file, ""), report), report)
    conditions: dict[str, Condition] = {}
    for name, place, item in top.item.entries():
        if not NAME.fullmatch(name):
            top.wrong("odd-name", place, f"'{name[:60]}' is no name of a condition", f"it must fit {NAME.pattern}")
            continue
        fields = top.inner(item)
        fields.only("if", "say")
        test, say = fields.text("if", f"condition '{name}'"), fields.text("say", f"condition '{name}'")
        if test is None or say is None:
            continue
        where = fields.fields["if"][1]
        try:
            expression = parse(test)
        except ExpressionError as error:
            report.add(
                "bad-condition",
                (file, where.line, where.column + error.column - 1),
                f"condition '{name}': {error.message}",
                error.help,
            )
            continue
        conditions[name] = Condition(name, say.strip(), expression, Source(file, where.line, where.column), where.column)
    return conditions


def _obligations(texts: Mapping[str, str], report: Report) -> dict[str, Obligation]:
    file = "obligations.yaml"
    top = _Fields(file, read_yaml(file, texts.get(file, ""), report), report)
    obligations: dict[str, Obligation] = {}
    for name, place, item in top.item.entries():
        if not NAME.fullmatch(name):
            top.wrong("odd-name", place, f"'{name[:60]}' is no name of a duty", f"it must fit {NAME.pattern}")
            continue
        fields = top.inner(item)
        kind = fields.text("type", f"duty '{name}'")
        if kind is not None:
            params = {key: value.plain() for key, (_, value) in fields.fields.items() if key != "type"}
            obligations[name] = Obligation(
                name, kind, MappingProxyType(params) if params else NOTHING, Source(file, place.line, place.column)
            )
    return obligations
