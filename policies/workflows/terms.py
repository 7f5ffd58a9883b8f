"""The small words of workflow files: times, steps, agents, arguments that are compared, bounds.  What is odd is a finding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from policies import names
from policies.finding import Report, suggest
from policies.labels import LABEL
from policies.membership import Membership, kind_of
from policies.model import Obligation, Source
from policies.reading import Item
from policies.registry import Registry
from policies.schema import ARGUMENT
from policies.workflows.model import FOREVER, Bound, By, Exemption, Same, Steps

STEP_KINDS: Final = ("tool", "resource", "prompt", "agent")
"""Kinds of objects that can be steps."""
MOST: Final = 100
"""Entries of any list."""
MAX_TEXT: Final = 200

_TIME: Final = re.compile(r"([1-9][0-9]{0,8})(s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str) -> int:
    """A time as it is written; 0 for what is none."""
    match = _TIME.fullmatch(text)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    return seconds if seconds <= FOREVER else 0


@dataclass(frozen=True, slots=True)
class World:
    """What workflow files may name."""

    registry: Registry
    members: Mapping[str, frozenset[str]]
    agents: frozenset[str]

    @classmethod
    def of(cls, registry: Registry, roles: tuple[Membership, ...], named: frozenset[str]) -> World:
        """`named` is whoever a rule of grants is about."""
        groups: dict[str, set[str]] = {}
        for each in roles:
            groups.setdefault(each.role, set()).add(each.member)
        agents = {name for name in (*named, *(each.member for each in roles)) if name.startswith("agent:")}
        found = {role: frozenset(_agents_of(role, groups)) for role in groups if role.startswith("agents:")}
        return cls(registry, found, frozenset(agents))


def _agents_of(role: str, groups: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    todo, seen = [role], {role}
    while todo:
        for member in groups.get(todo.pop(), ()):
            if member.startswith("agent:"):
                found.add(member)
            elif member not in seen:
                seen.add(member)
                todo.append(member)
    return found


class Words:
    """One mapping of a workflow file, on its way to becoming a rule; every value that is odd is a finding."""

    def __init__(self, file: str, item: Item, world: World, report: Report, what: str) -> None:
        self.file = file
        self.item = item
        self.world = world
        self.report = report
        self.what = what
        self.found = {key: value for key, _, value in item.entries()}
        if not item.is_mapping:
            self.wrong("wrong-type", item, f"{what} holds names and their values", "write '{name: value, …}'")

    @property
    def source(self) -> Source:
        """Where it stands."""
        return Source(self.file, self.item.line, self.item.column)

    def wrong(self, code: str, item: Item, message: str, help_: str = "") -> None:
        """Note a finding."""
        self.report.add(code, (self.file, item.line, item.column), message, help_)

    def only(self, *known: str) -> None:
        """Every other key is a finding."""
        for key, place, _ in self.item.entries():
            if key not in known:
                help_ = suggest(key, known) or f"known are {', '.join(known)}"
                self.wrong("unknown-key", place, f"{self.what} has no '{key[:60]}'", help_)

    def needs(self, key: str) -> Item | None:
        """A value that must be there."""
        item = self.found.get(key)
        if item is None:
            self.wrong("missing-key", self.item, f"{self.what} has no '{key}'", f"add '{key}: …'")
        return item

    def text(self, key: str) -> str | None:
        """A short text, where it is given."""
        item = self.found.get(key)
        if item is None:
            return None
        if not isinstance(item.value, str) or not item.value.strip() or len(item.value) > MAX_TEXT:
            self.wrong("wrong-type", item, f"'{key}' must be text", "put it in quotes")
            return None
        return item.value.strip()

    def word(self, key: str, known: tuple[str, ...], default: str) -> str:
        """One of the known words."""
        word = self.text(key)
        if word is None:
            return default
        if word not in known:
            help_ = suggest(word, known) or f"known are {', '.join(known)}"
            self.wrong("unknown-word", self.found[key], f"{key} '{word[:60]}' is not known", help_)
            return default
        return word

    def listed(self, item: Item, what: str) -> tuple[Item, ...]:
        """A list; of one where no list was written."""
        found: tuple[Item, ...] = item.value if item.is_list else (item,)
        if not found or len(found) > MOST:
            self.wrong("too-large" if found else "wrong-type", item, f"{what} are 1 to {MOST}")
            return ()
        return found

    def count(self, key: str) -> int | None:
        """A number of times, from 1."""
        item = self.found.get(key)
        if item is None:
            return None
        if type(item.value) is not int or not 1 <= item.value <= 1_000_000_000:
            self.wrong("wrong-type", item, f"'{key}' must be a whole number from 1")
            return None
        return item.value

    def number(self, key: str) -> Decimal | None:
        """A number, exact."""
        item = self.found.get(key)
        if item is None:
            return None
        if type(item.value) is not int and not isinstance(item.value, Decimal):
            self.wrong("wrong-type", item, f"'{key}' must be a number")
            return None
        return Decimal(item.value)

    def seconds(self, key: str) -> int | None:
        """A time, as `90s`, `30m`, `2h`, `7d`."""
        text = self.text(key)
        if text is None:
            return None
        seconds = seconds_of(text)
        if seconds == 0:
            self.wrong("odd-time", self.found[key], f"'{text[:60]}' is no time", "write 90s, 30m, 2h or 7d; at most 366d")
            return None
        return seconds

    # --- steps and agents

    def steps(self, key: str) -> Steps | None:
        """What a key names, which must be there."""
        item = self.needs(key)
        return None if item is None else self.step(item)

    def many(self, key: str, least: int = 1) -> tuple[Steps, ...]:
        """A list of them, which must be there."""
        item = self.needs(key)
        if item is None:
            return ()
        items = self.listed(item, f"'{key}'")
        if items and len(items) < least:
            self.wrong("wrong-type", item, f"'{key}' names at least {least} steps", f"write '{key}: [a, b]'")
            return ()
        found = [self.step(each) for each in items]
        return tuple(each for each in found if each is not None) if all(found) else ()

    def step(self, item: Item) -> Steps | None:
        """A tool, `<server>.*`, a set, `a2a:<agent>`, a resource, a prompt, or `*`."""
        name = item.value
        if not isinstance(name, str) or not name or len(name) > names.MAX_OBJECT:
            self.wrong("wrong-type", item, "a step is named by a text", "put it in quotes")
            return None
        if name == "*":
            return Steps("*", beginnings=("",))
        kind = names.kind_of_cell(name)
        if kind is None or kind.name not in STEP_KINDS:
            help_ = suggest(name, self.world.registry.tools) or "name a tool, a2a:<agent>, res:<server>/… or prompt:<server>/…"
            self.wrong("unknown-step", item, f"'{name[:60]}' can be no step", help_)
            return None
        return self._tools(item, name) if kind is names.TOOLS else self._object(item, name, kind)

    def _tools(self, item: Item, name: str) -> Steps | None:
        registry = self.world.registry
        if name.startswith("set:"):
            if name not in registry.sets:
                self.wrong("unknown-set", item, f"there is no set '{name[:60]}'", suggest(name, registry.sets))
                return None
            return Steps(name, frozenset(registry.sets[name]))
        if names.TOOLS.covers(name):
            covered = frozenset(tool for tool, spec in registry.tools.items() if f"{spec.server}.*" == name)
            if not covered:
                self.wrong("unknown-tool", item, f"no tool of '{name[:-2]}' is registered", "register its tools in tools.yaml")
                return None
            return Steps(name, covered)
        if name not in registry.tools:
            help_ = suggest(name, registry.tools) or "register it in tools.yaml"
            self.wrong("unknown-tool", item, f"there is no tool '{name[:60]}'", help_)
            return None
        return Steps(name, frozenset([name]))

    def _object(self, item: Item, name: str, kind: names.Kind) -> Steps | None:
        if kind.has(name):
            if kind.name == "agent" and f"agent:{name.removeprefix(kind.prefix)}" not in self.world.agents:
                help_ = suggest(name, [f"a2a:{each.removeprefix('agent:')}" for each in self.world.agents])
                self.wrong("unnamed-agent", item, f"no line of policy knows the agent of '{name[:60]}'", help_)
                return None
            return Steps(name, frozenset([name]))
        if kind.covers(name):
            return Steps(name, beginnings=(name[:-1],))
        self.wrong("unknown-step", item, f"'{name[:60]}' is no {kind.name}, or not in its one form", f"write {kind.written}")
        return None

    def by(self, key: str) -> By | None:
        """An agent or a group of agents, where it is given."""
        name = self.text(key)
        if name is None:
            return None
        item, world = self.found[key], self.world
        kind = kind_of(name)
        if kind == "agent" and name in world.agents:
            return By(name, frozenset([name]))
        if kind == "agents" and world.members.get(name):
            return By(name, world.members[name])
        known = [*world.agents, *world.members]
        help_ = suggest(name, known) or "name an agent that grants or roles.csv name, as agent:<id> or agents:<group>"
        self.wrong("unnamed-agent", item, f"no line of policy knows '{name[:60]}'", help_)
        return None

    # --- labels

    def labels(self, key: str) -> tuple[str, ...]:
        """One label or several, which must be there."""
        item = self.needs(key)
        found = []
        for each in self.listed(item, f"'{key}'") if item is not None else ():
            if not isinstance(each.value, str) or not LABEL.fullmatch(each.value):
                self.wrong("odd-name", each, f"'{str(each.value)[:60]}' is no label", f"it must fit {LABEL.pattern}")
            else:
                found.append(each.value)
        return tuple(dict.fromkeys(found))

    def unless(self) -> Exemption | None:
        """A named condition, where one is given."""
        name = self.text("unless")
        if name is None:
            return None
        known = self.world.registry.conditions
        if name not in known:
            help_ = suggest(name, known) or "name it in conditions.yaml"
            self.wrong("unknown-condition", self.found["unless"], f"there is no condition '{name[:60]}'", help_)
            return None
        return Exemption(name, known[name].expression)

    def must(self) -> Obligation | None:
        """A named duty, where one is given."""
        name = self.text("must")
        known = self.world.registry.obligations
        if name is not None and name not in known:
            help_ = suggest(name, known) or "name it in obligations.yaml"
            self.wrong("unknown-duty", self.found["must"], f"there is no duty '{name[:60]}'", help_)
        return known.get(name) if name is not None else None

    # --- arguments and results

    def same(self, own: tuple[Steps, ...], theirs: tuple[Steps, ...]) -> Same:
        """`supplier`, `[supplier, currency]` or `{supplier: vendor}`: arguments of the call, and of the earlier step."""
        item = self.found.get("same")
        if item is None:
            return ()
        if item.is_mapping:
            pairs = [(key, place, value) for key, place, value in item.entries()]
        else:
            pairs = [(str(each.value), each, each) for each in self.listed(item, "'same'")]
        found = []
        for name, place, value in pairs:
            if self._argument(place, name, own) and self._argument(value, value.value, theirs):
                found.append((name, str(value.value)))
        return tuple(found)

    def argument(self, key: str, of: Steps, kinds: tuple[str, ...] = ()) -> str | None:
        """The name of an argument that every tool among the steps has."""
        item = self.found.get(key)
        if item is None:
            return None
        return str(item.value) if self._argument(item, item.value, (of,), kinds) else None

    def _argument(self, item: Item, name: object, of: tuple[Steps, ...], kinds: tuple[str, ...] = ()) -> bool:
        if not isinstance(name, str) or not ARGUMENT.fullmatch(name):
            self.wrong("odd-name", item, "this is no argument's name", f"it must fit {ARGUMENT.pattern}")
            return False
        for tool in sorted({tool for steps in of for tool in steps.names if tool in self.world.registry.tools}):
            args = self.world.registry.tools[tool].args
            if name not in args:
                help_ = suggest(name, args) or "tools.yaml names the arguments that rules may read"
                self.wrong("unknown-argument", item, f"'{tool}' has no argument '{name[:60]}'", help_)
                return False
            if args[name] in ("array", "object") or (kinds and args[name] not in kinds):
                wanted = " or ".join(kinds) or "text, a number, or true and false"
                self.wrong("unfit-argument", item, f"argument '{name}' of '{tool}' is {args[name]}; {wanted} is needed")
                return False
        return True

    def bound(self) -> Bound | None:
        """`result: {field: score, max: 60}`; `min`, `max`, or `equals`."""
        item = self.found.get("result")
        if item is None:
            return None
        words = Words(self.file, item, self.world, self.report, "'result'")
        words.only("field", "min", "max", "equals")
        field = words.text("field") if words.needs("field") is not None else None
        least, most, equal = words.number("min"), words.number("max"), words.found.get("equals")
        if field is not None and not ARGUMENT.fullmatch(field):
            words.wrong("odd-name", words.found["field"], "this is no field's name", f"it must fit {ARGUMENT.pattern}")
        elif equal is not None and (isinstance(equal.value, str | bool | int | Decimal) is False):
            words.wrong("wrong-type", equal, "'equals' is a text, a number, or true or false")
        elif least is None and most is None and equal is None:
            words.wrong("missing-key", item, "'result' bounds nothing", "add 'min', 'max' or 'equals'")
        elif equal is not None and (least is not None or most is not None):
            words.wrong("workflow-contradiction", equal, "'equals' stands beside 'min' or 'max'", "keep one of them")
        elif least is not None and most is not None and least > most:
            words.wrong("workflow-contradiction", item, f"no number is from {least} to {most}", "'min' is not above 'max'")
        elif field is not None:
            value = equal.value if equal is not None else None
            return Bound(field, least, most, Decimal(value) if type(value) is int else value)
        return None
