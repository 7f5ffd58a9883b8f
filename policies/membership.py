"""Who is what: the closure of roles.csv, worked out once at load; asking about strangers stores nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from policies.rules import Membership

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

    def of_subject(self, name: str, groups: frozenset[str], tenant: str) -> frozenset[str]:
        """What a person is in a tenant, with the groups (bare names) that the identity provider vouches for."""
        own = self.of(name, tenant)
        known = self._groups.get(tenant, self._named_groups)
        through = [known[group] for group in groups & known.keys()]
        return own.union(*through) if through else own


def _reach(name: str, graph: Mapping[str, list[str]]) -> frozenset[str]:
    found = {name}
    todo = [name]
    while todo:
        for role in graph.get(todo.pop(), ()):
            if role not in found:
                found.add(role)
                todo.append(role)
    return frozenset(found)
