"""What lint rules look at: a loaded bundle, what is known of the world around it, and who and what each line covers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Literal, NamedTuple

from policies import names
from policies.approvers import TYPE, WrongTermsError, terms_of
from policies.bundle import Bundle
from policies.finding import Place, Report
from policies.lint import truth
from policies.membership import Closure
from policies.reading import Item, read_yaml
from policies.rules import Rule

Severity = Literal["error", "warning"]

_CELLS = {"who": 1, "tenant": 2, "tool": 3, "action": 4, "effect": 5, "when": 6, "must": 7, "id": 8}
MOST_PAIRS = 20_000
"""Pairs of conditions that are compared; beyond them only equal ones are known to imply each other."""
_RELAYED = ("call", "send")
"""Actions whose lines speak for `relay` too, by the shipped matcher."""


class Hit(NamedTuple):
    """What a rule has found: where, what, and what to do next."""

    place: Place
    message: str
    help: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the world around a bundle; None, or nothing, where it is not known: then nothing is said of it.

    duties    types of obligations.yaml that the gateway can fulfil.
    parameters  of a duty's type and its parameters: the one at fault ("" where one is missing) and what is wrong with it.
    context   names under `agent.` and `ctx.` that the gateway fills in, as `agent.assurance`.
    agents, servers  that the settings know.
    shared    servers that every caller reaches with the same credential of the gateway's.
    live      server → tool → argument → type ("unknown": left open), as the servers themselves describe their tools.
    silent    server → why it did not say what its tools are.
    now       the time by which a line has ended.
    """

    duties: frozenset[str] | None = None
    parameters: Callable[[str, Mapping[str, object]], tuple[str, str] | None] | None = None
    context: frozenset[str] | None = None
    agents: frozenset[str] | None = None
    servers: frozenset[str] | None = None
    shared: frozenset[str] = frozenset()
    live: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    now: datetime | None = None


class Ground:
    """A bundle with everything that several rules ask of it, each worked out once."""

    def __init__(self, bundle: Bundle, facts: Facts) -> None:
        self.bundle = bundle
        self.facts = facts
        self.closure = Closure(bundle.roles, (rule.who for rule in bundle.rules))
        self._implied: dict[tuple[str | None, str | None], bool] = {}
        self._above: dict[tuple[str, str], frozenset[str]] = {}
        self._wider: dict[str, tuple[str, ...]] = {}

    # --- places

    def line(self, file: str, number: int) -> str:
        """A line of a file, "" where there is none."""
        lines = self._lines(file)
        return lines[number - 1] if 0 < number <= len(lines) else ""

    def _lines(self, file: str) -> list[str]:
        known = self._split.get(file)
        if known is None:
            known = self._split[file] = self.bundle.texts.get(file, "").split("\n")
        return known

    @cached_property
    def _split(self) -> dict[str, list[str]]:
        return {}

    def cell(self, rule: Rule, column: str) -> Place:
        """Where a cell of a rule's line stands."""
        file, number = rule.source.file, rule.source.line
        cells = self.line(file, number).split(",")
        index = _CELLS[column]
        before = sum(len(cell) + 1 for cell in cells[:index])
        raw = cells[index] if index < len(cells) else ""
        return file, number, before + len(raw) - len(raw.lstrip()) + 1

    def key(self, file: str, *path: str) -> Place:
        """Where a name of a YAML file stands."""
        place: Place = (file, 0, 0)
        item = self._yaml(file)
        for name in path:
            place, item = self._below(file, item).get(name, (place, item))
        return place

    def _below(self, file: str, item: Item) -> dict[str, tuple[Place, Item]]:
        """Where the names of one mapping stand, and what they name.  Read once, as there may be 100,000 of them."""
        if id(item) not in self._names:  # an item of a file lives as long as the file's
            self._names[id(item)] = {key: ((file, at.line, at.column), value) for key, at, value in item.entries()}
        return self._names[id(item)]

    def _yaml(self, file: str) -> Item:
        if file not in self._items:
            self._items[file] = read_yaml(file, self.bundle.texts.get(file, ""), Report())
        return self._items[file]

    @cached_property
    def _items(self) -> dict[str, Item]:
        return {}

    @cached_property
    def _names(self) -> dict[int, dict[str, tuple[Place, Item]]]:
        return {}

    # --- tools

    @cached_property
    def tools_of(self) -> Mapping[str, frozenset[str]]:
        """What a rule writes in its column `tool` → the registered tools that it covers."""
        every = self.bundle.tools
        found: dict[str, set[str]] = defaultdict(set)
        for name, spec in every.items():
            found[name].add(name)
            found[f"{spec.server}.*"].add(name)
        for name, members in self.bundle.sets.items():
            found[name] = set(members)
        found["*"] = set(every)
        return {name: frozenset(members) for name, members in found.items()}

    def wider_tools(self, tool: str) -> tuple[str, ...]:
        """Every way of writing the tool or more than it, itself first."""
        if tool not in self._wider:
            wider = [tool]
            if members := self.tools_of.get(tool) if tool != "*" else None:  # `*` covers more than tools, and no set does
                wider += sorted(frozenset.intersection(*(self._naming[each] for each in members)))
            elif tool != "*" and names.kind_of_cell(tool) is not names.TOOLS:
                stem = tool.removesuffix("*")
                wider += [each for each in (f"{stem[:end]}*" for end in range(len(stem) + 1)) if each in self._written]
            self._wider[tool] = tuple(dict.fromkeys(wider))
        return self._wider[tool]

    @cached_property
    def _naming(self) -> Mapping[str, frozenset[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for written, members in self.tools_of.items():
            for each in members:
                found[each].add(written)
        return {tool: frozenset(written) for tool, written in found.items()}

    @cached_property
    def under(self) -> Mapping[str, list[Rule]]:
        """The lines, shadow lines among them, under each named condition."""
        found: dict[str, list[Rule]] = defaultdict(list)
        for rule in (*self.bundle.rules, *self.bundle.shadow):
            if rule.when is not None:
                found[rule.when].append(rule)
        return found

    @cached_property
    def _written(self) -> frozenset[str]:
        return frozenset(rule.tool for rule in self.bundle.rules)

    # --- lines that cover other lines

    @cached_property
    def stock(self) -> bool:
        """Whether the matcher is the shipped one: which line covers which is known of that one alone."""
        return any("".join(line.split()) == "".join(MATCHER.split()) for line in self.bundle.model.split("\n"))

    def covering(self, rule: Rule, effect: str) -> Iterable[Rule]:
        """Other lines with this effect that are asked whenever `rule` is, whatever the conditions."""
        if not self.stock:
            return
        actions = dict.fromkeys((rule.action, "*", *(_RELAYED if rule.action == names.RELAY else ())))
        tenants = [rule.tenant] if rule.tenant == "*" else [rule.tenant, "*"]
        for who in (*self.above(rule.who, rule.tenant), *(["*"] if rule.who != "*" else [])):
            for tenant in tenants:
                for tool in self.wider_tools(rule.tool):
                    for action in actions:
                        for other in self._by_key.get((effect, who, tenant, tool, action), ()):
                            if other is not rule:
                                yield other

    @cached_property
    def _by_key(self) -> Mapping[tuple[str, str, str, str, str], list[Rule]]:
        found: dict[tuple[str, str, str, str, str], list[Rule]] = defaultdict(list)
        alike: Counter[tuple[str | None, ...]] = Counter()
        for rule in self.bundle.rules:
            key = rule.effect, rule.who, rule.tenant, rule.tool, rule.action
            alike[same := (*key, rule.when, rule.must)] += 1
            if alike[same] <= 2:  # what covers a line is covered by the first of those that say the same, or by the second
                found[key].append(rule)
        return found

    def approvers(self, rule: Rule) -> tuple[str, ...]:
        """Whom a line's duty names as approvers; nobody where it asks for no approval, or in words that cannot be read."""
        duty = self.bundle.obligations[rule.must] if rule.must else None
        try:
            return terms_of(duty.params).by if duty is not None and duty.type == TYPE else ()
        except WrongTermsError:
            return ()

    def above(self, who: str, tenant: str) -> frozenset[str]:
        """Everything that whoever is `who` is besides, in every tenant that the line speaks for; `who` itself among it."""
        if (who, tenant) not in self._above:
            tenants = self.bundle.tenants if tenant == "*" else (tenant,)
            self._above[who, tenant] = frozenset.intersection(*(self.closure.of(who, each) for each in tenants))
        return self._above[who, tenant]

    def implies(self, first: str | None, second: str | None) -> bool:
        """Whether the named condition `second` speaks wherever `first` does; None is no condition."""
        pair = first, second
        if pair not in self._implied:
            if len(self._implied) >= MOST_PAIRS:
                return first == second or second is None
            texts = [None if name is None else self.bundle.conditions[name].expression.text for name in pair]
            self._implied[pair] = truth.implies(*texts)
        return self._implied[pair]


MATCHER = """
m = (r.act == p.act || p.act == "*" || (r.act == "relay" && (p.act == "call" || p.act == "send")))
 && (r.dom == p.dom || p.dom == "*") && (r.obj == p.obj || keyMatch(r.obj, p.obj) || g2(r.obj, p.obj))
 && (p.sub == "*" || g(r.sub, p.sub, r.dom)) && when(p.cond, p.eft, r.ctx) && hit(p.id)
"""
