"""One bundle's lines by the cells they speak of: a name, a tenant, a resource, an asked action.

Which lines cover a cell is asked of Casbin's own matcher, with every condition taken to hold, so that whatever model.conf means,
this means too.  A principal is everything that its names are: its cells' lines are the union of theirs, and of everybody's (`*`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from policies import names
from policies.bundle import Bundle, Rule
from policies.casbinmodel import literals_of
from policies.expression import spaced
from policies.index import Asker, IndexedEnforcer, Row
from policies.membership import Closure
from policies.objects import Objects
from policies.rules import NONE
from policies.terms import Term
from policies.values import NO_TYPES

EVERYBODY = "*"
_NAMED = ("user", "svc", "agent", "idp")


class Cells:
    """The lines of a bundle, cell by cell."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._closure = Closure(bundle.roles, (rule.who for rule in bundle.rules))
        self.sets_of: Mapping[str, tuple[str, ...]] = _sets_of(bundle)
        self._enforcer = IndexedEnforcer(
            bundle.model,
            ((r.who, r.tenant, r.tool, r.action, r.when or NONE, r.effect, str(at)) for at, r in enumerate(bundle.rules)),
            self._closure,
            self.sets_of,
        )

    def names(self, who: str, tenant: str) -> frozenset[str]:
        """Everything that a name is in a tenant."""
        return self._closure.of(who, tenant)

    def registered(self, resource: str, tenant: str) -> bool:
        """Whether a resource can be asked for at all."""
        if names.kind_of(resource) is names.TOOLS:
            spec = self.bundle.tools.get(resource)
            return spec is not None and tenant in spec.tenants
        return tenant in self.bundle.tenants

    def types(self, resource: str) -> Mapping[str, str]:
        """The arguments of a resource."""
        spec = self.bundle.tools.get(resource)
        return NO_TYPES if spec is None else spec.args

    def told(self, resource: str) -> object:
        """What conditions can read of a resource: its arguments' types, labels and risk."""
        spec = self.bundle.tools.get(resource)
        return None if spec is None else (dict(spec.args), spec.labels, spec.risk)

    def lines(self, who: str, tenant: str, resource: str, action: str) -> tuple[Rule, ...]:
        """Every line that covers a cell, `*` lines included, whatever their conditions; none where nothing is registered."""
        if not self.registered(resource, tenant):
            return ()
        heard = _Heard()
        self._enforcer.enforce_ex(Asker.of(who, self.names(who, tenant)), tenant, resource, action, heard)
        return tuple(self.bundle.rules[int(at)] for at in heard.hits)

    def term(self, lines: tuple[Rule, ...], resource: str) -> Term:
        """When one of these lines speaks."""
        known = self.bundle.conditions
        return Term.of(
            (known[line.when].expression if line.when else None for line in lines),
            self.types(resource),
            self.bundle.tools.get(resource),
        )

    def content(self, rule: Rule) -> tuple[object, ...]:
        """What a line says, whatever its id and place."""
        condition = self.bundle.conditions[rule.when].expression.text if rule.when else None
        duty = self.bundle.obligations[rule.must] if rule.must else None
        said = (duty.name, duty.type, plain(duty.params)) if duty is not None else None
        return (rule.who, rule.tenant, rule.tool, rule.action, rule.effect, condition and spaced(condition), said)


class _Heard:
    """Goes through Casbin and hears every line that covers the question."""

    def __init__(self) -> None:
        self.hits: list[str] = []
        self.rows: list[Row] | None = None

    def holds(self, condition: str, effect: str) -> bool:  # noqa: ARG002  as Asking asks
        """Whatever the condition."""
        return True


def names_of(*bundles: Bundle) -> list[str]:
    """Everybody who is named anywhere, and `*` for everybody else."""
    found = {EVERYBODY}
    for bundle in bundles:
        found |= {rule.who for rule in bundle.rules} | {each.member for each in bundle.roles}
    return sorted(name for name in found if name == EVERYBODY or name.split(":", 1)[0] in _NAMED)


class Resources:
    """What can be asked for under two bundles: every object that a line names, and one for all others of its kind or pattern."""

    def __init__(self, *bundles: Bundle) -> None:
        """Raises ValueError where an object that no line names cannot be made up."""
        tools = {name: spec for bundle in bundles for name, spec in bundle.tools.items()}
        sets = {name for bundle in bundles for name in bundle.sets}
        cells = {rule.tool for bundle in bundles for rule in bundle.rules}
        literals = {text for bundle in bundles for text in literals_of(bundle.model)}
        objects = Objects(tools, dict.fromkeys(sets, ()), cells, literals)
        tenants = sorted({tenant for bundle in bundles for tenant in bundle.tenants})
        self._kinds = {name: kind for tenant in tenants for name, kind in objects.covered("*", tenant)}
        self._kinds |= dict.fromkeys(tools, names.TOOLS)
        self._tools = frozenset(tools)
        self._cells = cells
        self._patterns = sorted({cell for cell in cells if cell.endswith("*") and ":" in cell}, key=len, reverse=True)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._kinds))

    def actions(self, resource: str) -> tuple[str, ...]:
        """What can be asked about a resource."""
        return (*self._kinds[resource].actions, names.RELAY)

    def label(self, resource: str) -> str:
        """How a resource is shown: one that no line names stands for all of its longest pattern that are not named either."""
        kind = names.kind_of(resource)
        if (
            resource in self._tools
            or resource in self._cells
            or kind is None
            or kind.name in ("administration", "console", "audit")
        ):
            return resource
        return next((p for p in self._patterns if resource.startswith(p[:-1])), f"{kind.prefix}*")


def covers(rule: Rule, resource: str, sets_of: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether a line's object covers a resource under the shipped model."""
    tool = rule.tool
    return tool in ("*", resource) or (tool.endswith("*") and resource.startswith(tool[:-1])) or tool in sets_of.get(resource, ())


def is_shipped(model: str) -> bool:
    """Whether a model says what the shipped one says."""
    return _bare(model) == _shipped()


def plain(value: object) -> object:
    """Values that can be compared and shown: mappings as sorted pairs."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), plain(each)) for key, each in value.items()))
    return tuple(plain(each) for each in value) if isinstance(value, list | tuple) else value


@cache
def _shipped() -> str:
    return _bare((Path(__file__).with_name("default") / "model.conf").read_text(encoding="utf-8"))


def _bare(model: str) -> str:
    lines = [line.strip() for line in model.split("\n")]
    return "\n".join(" ".join(line.split()) for line in lines if line and not line.startswith("#"))


def _sets_of(bundle: Bundle) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, tools in bundle.sets.items():
        for tool in tools:
            found[tool].append(name)
    return {tool: tuple(sorted(names)) for tool, names in found.items()}
