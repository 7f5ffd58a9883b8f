"""Who is what: principals, roles.csv, and its closure, worked out once at load; asking about strangers stores nothing."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from policies.finding import Report, suggest
from policies.model import Source
from policies.reading import Row, read_rows
from policies.registry import SLUG, Registry

FILE = "roles.csv"
_COLUMNS = ("member", "role", "tenant")
_WHO: dict[str, re.Pattern[str]] = {
    "user": re.compile(rf"user:{SLUG.pattern}/[!-)+-~]{{1,255}}"),
    "agent": re.compile(rf"agent:{SLUG.pattern}"),
    "svc": re.compile(rf"svc:{SLUG.pattern}"),
    "role": re.compile(rf"role:{SLUG.pattern}"),
    "agents": re.compile(rf"agents:{SLUG.pattern}"),
    "idp": re.compile(r"idp:[^\s*][^*]{0,199}"),
}
_MEMBERS = {"role": ("user", "idp", "svc", "role", "agent"), "agents": ("agent", "agents")}


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


def check_who(row: Row, cell: int, report: Report) -> str | None:
    """The kind of the principal in a cell; whatever is none is a finding."""
    who = row.cells[cell]
    kind = kind_of(who)
    if kind is None:
        prefix = who.split(":", 1)[0]
        hint = "" if prefix in _WHO else suggest(prefix + ":", [f"{k}:" for k in _WHO])
        help_ = hint or "write user:<issuer>/<sub>, agent:<id>, svc:<id>, idp:<group>, role:<name>, agents:<name>"
        report.add("unknown-kind", row.place(cell), f"'{who[:60]}' is nobody", help_)
    return kind


def check_tenant(row: Row, cell: int, registry: Registry, report: Report, *, everywhere: bool) -> None:
    """A cell must name a tenant, or `*` where that is allowed."""
    tenant = row.cells[cell]
    if tenant in registry.tenants or (everywhere and tenant == "*"):
        return
    known = ", ".join(sorted(registry.tenants))
    help_ = suggest(tenant, registry.tenants) or (f"known are {known}" if known else "tools.yaml must name the tenants")
    report.add("unknown-tenant", row.place(cell), f"there is no tenant '{tenant[:60]}'", help_)


def read_roles(texts: Mapping[str, str], registry: Registry, report: Report) -> tuple[Membership, ...]:
    """Read roles.csv; circles are findings."""
    memberships: list[Membership] = []
    for row in read_rows(FILE, texts.get(FILE, ""), "g", _COLUMNS, report):
        member, role, tenant = row.cells
        role_kind, member_kind = check_who(row, 1, report), check_who(row, 0, report)
        check_tenant(row, 2, registry, report, everywhere=False)
        if role_kind is None or member_kind is None:
            continue
        allowed = _MEMBERS.get(role_kind)
        if allowed is None:
            help_ = "write role:<name>, or agents:<name> for a group of agents"
            report.add("odd-role", row.place(1), f"'{role}' is no role", help_)
        elif member_kind not in allowed:
            help_ = f"members are {', '.join(allowed)}"
            report.add("odd-role", row.place(0), f"'{member}' cannot be a member of '{role}'", help_)
        else:
            memberships.append(Membership(member, role, tenant, Source(FILE, row.line, row.columns[0])))
    _circles(memberships, report)
    return tuple(memberships)


def _circles(memberships: list[Membership], report: Report) -> None:
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
                    "role-circle", (FILE, edge.source.line, edge.source.column),
                    f"'{edge.member}' is a member of '{edge.role}', which is a member of it", "take one of the lines out",
                )  # fmt: skip
            elif after not in done:
                path[after] = None
                stack.append((after, iter(graph.get(after, ()))))


_NOBODY: Mapping[str, frozenset[str]] = {}


class Closure:
    """Every role that a name reaches, per tenant, itself included."""

    def __init__(self, memberships: Iterable[Membership], named: Iterable[str] = ()) -> None:
        """`named` are names that rules speak of directly, and that roles.csv may not know."""
        direct: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for each in memberships:
            direct[each.tenant][each.member].append(each.role)
        self._reach = {tenant: {name: _reach(name, graph) for name in graph} for tenant, graph in direct.items()}
        self._named_groups = {name[4:]: frozenset((name,)) for name in named if name.startswith("idp:")}
        self._groups = {
            tenant: self._named_groups | {name[4:]: reach for name, reach in graph.items() if name.startswith("idp:")}
            for tenant, graph in self._reach.items()
        }

    def of(self, name: str, tenant: str) -> frozenset[str]:
        """What a name is in a tenant."""
        return self._reach.get(tenant, _NOBODY).get(name) or frozenset((name,))

    def of_subject(self, name: str, groups: frozenset[str], tenant: str) -> AbstractSet[str]:
        """What a person is in a tenant, with the groups (bare names) that the identity provider vouches for."""
        found, own = {name}, self._reach.get(tenant, _NOBODY).get(name)
        if own is not None:
            found |= own
        known = self._groups.get(tenant, self._named_groups)
        for group in groups:  # of which a person has few, and a tenant may know many
            if group in known:
                found |= known[group]
        return found


def _reach(name: str, graph: Mapping[str, list[str]]) -> frozenset[str]:
    found = {name}
    todo = [name]
    while todo:
        for role in graph.get(todo.pop(), ()):
            if role not in found:
                found.add(role)
                todo.append(role)
    return frozenset(found)
