"""From stock Casbin's files to a bundle: what they say is said again, what cannot be said is told line by line.

A line whose loss could widen anything (a deny, a role) keeps the whole import from being used.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Final

from policies.bundle import load_texts
from policies.casbinmodelmap import Meaning, read_model
from policies.finding import BundleError
from policies.membership import Closure, Membership, kind_of
from policies.model import Source
from policies.names import SLUG, TOOL

MAX_LINES: Final = 50_000
MAX_TOOLS: Final = 5_000
DEEPEST: Final = 9
"""Steps from a member to its outermost role beyond which stock Casbin silently stops looking."""

_SHIPPED: Final = Path(__file__).with_name("default") / "model.conf"
_CALLING: Final = frozenset({"call", "execute", "invoke", "use", "*"})
_ODD: Final = {
    '"': ("the quotes are part of the name", "the name without them"),
    "'": ("the quotes are part of the name", "the name without them"),
    "(": ("commas between brackets do not separate columns", "columns"),
    ")": ("commas between brackets do not separate columns", "columns"),
    "[": ("commas between brackets do not separate columns", "columns"),
    "]": ("commas between brackets do not separate columns", "columns"),
    "#": ("it is part of the column", "a comment"),
}


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A line of the policy that the bundle does not say.

    casbin  what stock Casbin makes of it; meant: what its writer may have meant, "" where that is the same.
    widens  whether its loss could let something through that the source does not.
    """

    line: int
    text: str
    casbin: str
    meant: str = ""
    widens: bool = False


@dataclass(frozen=True, slots=True)
class Import:
    """What came of it.

    texts     the bundle's files; empty where lines are lost that could widen it.
    unmapped  every line that the bundle does not say.
    notes     what a reader of the bundle should know.
    names     name of a principal or object in the source → ours; `tools`: (object, action) → tool.
    """

    texts: Mapping[str, str]
    unmapped: tuple[Unmapped, ...]
    notes: tuple[str, ...]
    names: Mapping[str, str]
    tools: Mapping[tuple[str, str], str]

    @property
    def usable(self) -> bool:
        """Whether there is a bundle."""
        return bool(self.texts)


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    text: str
    cells: Mapping[str, str]


def import_casbin(model: str, policy: str, *, tenant: str, issuer: str = "corp", agents: Collection[str] = frozenset()) -> Import:
    """Say a stock model and policy as a bundle.

    tenant  of every line where the model knows no domains.
    issuer  alias of the identity provider that vouches for the policy's people.
    agents  names of the policy that are agents.
    BundleError for a model that has no counterpart; ValueError for a tenant, issuer or agent that is no name.
    """
    for what, name in (("tenant", tenant), ("issuer", issuer), *(("agent", agent) for agent in agents)):
        if not SLUG.fullmatch(name):
            raise ValueError(f"'{name[:80]}' is no name of {'an' if what[0] in 'ai' else 'a'} {what}")
    return _Importer(read_model(model), tenant, issuer, frozenset(agents)).run(policy)


@dataclass(slots=True)
class _Importer:
    meaning: Meaning
    tenant: str
    issuer: str
    agents: frozenset[str]
    unmapped: list[Unmapped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rules: list[_Line] = field(default_factory=list)
    roles: list[_Line] = field(default_factory=list)
    groups: list[_Line] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    ours: dict[str, str] = field(default_factory=dict)
    direct: bool = False
    tools: dict[tuple[str, str], str] = field(default_factory=dict)

    def run(self, policy: str) -> Import:
        for number, text in enumerate(policy.split("\n"), 1):
            self._line(number, text.strip())
        members = self._members()
        self._universe()
        people = [row for line in self.roles if (row := self._membership(line))]
        tenants = sorted({self.tenant} if not self.meaning.domains else self._tenants())
        lines = [row for line in self.rules for row in self._grants(line, members, people)]
        texts = {
            "model.conf": _SHIPPED.read_text(encoding="utf-8"),
            "roles.csv": "# g, member, role, tenant\n" + "".join(f"g, {m}, {r}, {t}\n" for m, r, t in people),
            "tools.yaml": self._registry(tenants),
            "conditions.yaml": "",
            "obligations.yaml": "",
            "grants/imported.csv": "# p, who, tenant, tool, action, effect, when, must, id\n" + "".join(f"{x}\n" for x in lines),
        }
        if not any(each.widens for each in self.unmapped):
            self._prove(texts)
        usable = not any(each.widens for each in self.unmapped)
        self.unmapped.sort(key=lambda each: each.line)
        return Import(
            MappingProxyType(texts if usable else {}), tuple(self.unmapped), tuple(dict.fromkeys(self.notes)),
            MappingProxyType(self.names), MappingProxyType(self.tools),
        )  # fmt: skip

    def _prove(self, texts: Mapping[str, str]) -> None:
        """What was made must load; where it does not, nothing is used."""
        try:
            load_texts(texts)
        except BundleError as error:
            first = error.findings[0]
            self._lose(0, str(first), "the bundle made of it does not load", widens=True)

    def _lose(self, number: int, text: str, casbin: str, meant: str = "", *, widens: bool) -> None:
        shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[:300])
        self.unmapped.append(Unmapped(number, shown, casbin, meant, widens))

    # --- lines

    def _line(self, number: int, text: str) -> None:
        if not text or text.startswith("#"):
            return
        if number > MAX_LINES:
            if number == MAX_LINES + 1:
                self._lose(number, text, f"there are more than {MAX_LINES} lines", widens=True)
            return
        for mark, (casbin, meant) in _ODD.items():
            if mark in text:
                self._lose(number, text, f"'{mark}': {casbin}", meant, widens=True)
                return
        kind, *cells = (cell.strip() for cell in text.split(","))
        wanted = {"p": len(self.meaning.columns), "g": self.meaning.roles, "g2": 2 if self.meaning.groups else 0}
        if not text.isascii() or not text.isprintable():
            self._lose(number, text, "a name with these characters", "a name of plain letters", widens=True)
        elif not wanted.get(kind):
            known = [each for each in wanted if wanted[each]]
            meant = f"a line that starts with {' or '.join(known)}"
            self._lose(number, text, f"the line is dropped without a word, or never looked at: '{kind}'", meant, widens=True)
        elif len(cells) != wanted[kind]:
            self._lose(number, text, f"{len(cells)} columns where {wanted[kind]} are needed: an error, or a cut", widens=True)
        elif not all(cells):
            self._lose(number, text, "an empty name", "something that was forgotten", widens=True)
        elif kind == "p":
            self._rule(_Line(number, text, dict(zip(self.meaning.columns, cells, strict=False))))
        else:
            keys = ("member", "role", "dom")[: len(cells)]
            (self.roles if kind == "g" else self.groups).append(_Line(number, text, dict(zip(keys, cells, strict=True))))

    def _rule(self, line: _Line) -> None:
        effect = line.cells.get("eft", "allow")
        if effect == "deny" and not self.meaning.denies:
            self._lose(line.number, line.text, "under this policy effect the deny line is ignored", "a deny", widens=True)
        elif effect not in ("allow", "deny"):
            self._lose(
                line.number, line.text, f"the effect '{effect}' is neither: the line does nothing", "allow or deny", widens=True
            )
        else:
            self.rules.append(line)

    # --- names

    def _members(self) -> Mapping[str, frozenset[str]]:
        """Groups of objects with everything in them; and which names are roles."""
        inside: dict[str, set[str]] = defaultdict(set)
        closure = Closure([Membership(e.cells["member"], e.cells["role"], "", Source("", 0)) for e in self.groups])
        for each in self.groups:
            for group in closure.of(each.cells["member"], ""):
                inside[group].add(each.cells["member"])
        parents = {line.cells["role"] for line in self.roles}
        for name in dict.fromkeys(
            [*parents, *(line.cells["member"] for line in self.roles), *(r.cells["sub"] for r in self.rules)]
        ):
            self._name(name, role=name in parents)
        self._deep()
        return {group: frozenset(members) for group, members in inside.items()}

    def _name(self, name: str, *, role: bool) -> None:
        """Ours for a principal of the source; no entry where there is none, or where two would be one."""
        if name == "*":
            return
        if role and name in self.agents:
            return
        known = kind_of(name)
        if known is not None and (known in ("role", "agents")) == role:
            made = name
        elif role:
            made = f"role:{slug(name)}"
        else:
            made = f"agent:{name}" if name in self.agents else f"user:{self.issuer}/{name}"
        if kind_of(made) is None or made in self.ours:
            self.names.pop(self.ours.get(made, ""), None)
            self.notes.append(f"'{name[:80]}' has no name of its own in a bundle")
            return
        self.names[name] = made
        self.ours[made] = name

    def _deep(self) -> None:
        """Stock Casbin stops after ten levels, and goes round in circles: both are told, neither is imported."""
        direct: dict[tuple[str, str], list[_Line]] = defaultdict(list)
        for line in self.roles:
            direct[line.cells.get("dom", ""), line.cells["member"]].append(line)
        level: dict[tuple[str, str], int] = dict.fromkeys(direct, 0)
        for depth in range(1, DEEPEST + 2):
            reached = {
                (dom, line.cells["role"])
                for (dom, name), lines in direct.items()
                if level.get((dom, name)) == depth - 1
                for line in lines
            }
            level.update(dict.fromkeys(reached, depth))
            if depth > DEEPEST:
                for (dom, name), lines in direct.items():
                    for line in lines if level[dom, name] >= DEEPEST else ():
                        casbin = f"more than {DEEPEST} steps from a member to its role, or a circle: Casbin stops there"
                        self._lose(line.number, line.text, casbin, "all of them", widens=True)

    # --- tools

    def _universe(self) -> None:
        """Every object with every action that some line allows or denies on it."""
        groups = {line.cells["role"] for line in self.groups}
        concrete = {line.cells["member"] for line in self.groups} | {rule.cells["obj"] for rule in self.rules}
        objects = sorted(name for name in concrete if "*" not in name and name not in groups)
        actions = sorted({rule.cells["act"] for rule in self.rules} - {"*"}) or ["call"]
        self.direct = (
            bool(objects) and all(TOOL.fullmatch(name) for name in objects) and {*actions} <= _CALLING and len(actions) == 1
        )
        if len(objects) * len(actions) > MAX_TOOLS:
            self._lose(0, "", f"more than {MAX_TOOLS} pairs of an object and an action", widens=True)
            return
        count = Counter(slug(obj) for obj in objects)
        for obj, act in product(objects, actions):
            tool = obj if self.direct else f"{slug(obj)}.{act}"
            if TOOL.fullmatch(tool) and (self.direct or count[slug(obj)] == 1):
                self.tools[obj, act] = tool
        if not self.direct:
            renamed = sorted({obj for obj, _ in self.tools if slug(obj) != obj})
            self.notes += [f"the object '{obj}' is the server '{slug(obj)}'" for obj in renamed]
            self.notes.append("each pair of an object and an action is a tool '<object>.<action>', which is called")

    def _covered(self, line: _Line, members: Mapping[str, frozenset[str]]) -> list[str] | None:
        """The tools that a line is about; None where some of it is about something else."""
        obj, act = line.cells["obj"], line.cells["act"]
        meaning = self.meaning
        if "*" in obj and not (meaning.patterns or (obj == "*" and "obj" in meaning.wide)):
            return None
        if act == "*" and "act" not in meaning.wide:
            return None
        stem = obj.partition("*")[0] if "*" in obj else None
        inside = members.get(obj, frozenset()) if meaning.groups else frozenset()
        known = {each for each, _ in self.tools}
        if stem is None and not inside and obj not in known:
            return None
        if any(each not in known and each not in members for each in inside):
            return None
        found = {
            tool: None
            for (each, verb), tool in self.tools.items()
            if act in ("*", verb) and (each == obj or each in inside or (stem is not None and each.startswith(stem)))
        }
        return self._written(obj, act, list(found)) if found else None

    def _written(self, obj: str, act: str, found: list[str]) -> list[str]:
        """As a pattern where that says the same of today's tools and of tomorrow's."""
        if self.direct and obj.endswith(".*") and SLUG.fullmatch(obj[:-2]):
            return [obj]
        if not self.direct and act == "*" and "*" not in obj and all(tool.startswith(f"{slug(obj)}.") for tool in found):
            return [f"{slug(obj)}.*"]
        return found

    # --- the bundle

    def _tenants(self) -> set[str]:
        found = {line.cells["dom"] for line in (*self.rules, *self.roles)} - {"*"}
        return {dom for dom in found if SLUG.fullmatch(dom)} or {self.tenant}

    def _tenant_of(self, line: _Line, *, rule: bool) -> str | None:
        dom = line.cells.get("dom", self.tenant) if self.meaning.domains else self.tenant
        if dom == "*":
            return "*" if rule and "dom" in self.meaning.wide else None
        return dom if SLUG.fullmatch(dom) else None

    def _membership(self, line: _Line) -> tuple[str, str, str] | None:
        member, role = (self.names.get(line.cells[key]) for key in ("member", "role"))
        tenant = self._tenant_of(line, rule=False)
        if member is None or role is None or tenant is None:
            self._lose(line.number, line.text, "a role under names that a bundle does not have", widens=True)
            return None
        return member, role, tenant

    def _grants(self, line: _Line, members: Mapping[str, frozenset[str]], people: list[tuple[str, str, str]]) -> Iterator[str]:
        effect, sub = line.cells.get("eft", "allow"), line.cells["sub"]
        deny = effect == "deny"
        who = "*" if sub == "*" and "sub" in self.meaning.wide else self.names.get(sub)
        tenant, covered = self._tenant_of(line, rule=True), self._covered(line, members)
        if who is None or tenant is None or covered is None:
            what = "subject" if who is None else "domain" if tenant is None else "object or action"
            self._lose(line.number, line.text, f"its {what} has no counterpart in a bundle", widens=deny)
            return
        if who.startswith(("role:", "agents:")):
            held = {t for _, role, t in people if role == who}
            if not held if tenant == "*" else tenant not in held:
                self._lose(line.number, line.text, f"nobody has the role '{sub}' there", widens=deny)
                return
        if deny and line.cells["obj"] == "*" and (self.direct or line.cells["act"] == "*"):
            covered = ["*"]
        if ("*" in line.cells["obj"] or line.cells["act"] == "*") and not covered[0].endswith("*"):
            self.notes.append(f"line {line.number} is spelled out for today's {len(covered)} tools; it will not cover new ones")
        for index, tool in enumerate(covered):
            suffix = f".{index + 1}" if len(covered) > 1 else ""
            yield f"p, {who}, {tenant}, {tool}, call, {effect}, -, -, L{line.number}{suffix}"

    def _registry(self, tenants: list[str]) -> str:
        rows = "".join(f'  "{tool}": {{args: {{}}, risk: high}}\n' for tool in dict.fromkeys(self.tools.values()))
        named = ", ".join(f'"{tenant}"' for tenant in tenants)
        return f"tenants: [{named}]\ntools:\n{rows}sets: {{}}\n"


def slug(name: str) -> str:
    """A name as ids of a bundle are written."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-")
