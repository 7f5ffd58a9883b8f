"""Two bundles compared by what they decide: who gains what, who loses what, which duties come and go.

Every call that one bundle allows and the other denies is covered by a reported change; what is shown as an example was decided
under both.  Lines that only moved, were renamed or were written in another order are no change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from policies.approvals import compared
from policies.bundle import Bundle, Membership, Rule
from policies.casbinmodel import knows_somebody
from policies.cases import Case
from policies.cells import EVERYBODY, Cells, Resources, covers, is_shipped, names_of, plain
from policies.changes import DUTIES, Change, Diff, Kind, Named, named
from policies.names import RELAY
from policies.terms import Proof, Relation, Term, compare, search
from policies.workflows import differing

MAX_CELLS = 2_000_000
MAX_FELT = 500


__all__ = ["MAX_CELLS", "Change", "Diff", "Kind", "Named", "TooLargeError", "diff"]


class TooLargeError(Exception):
    """There are more cells to compare than `MAX_CELLS`."""


_ORDER = {kind: at for at, kind in enumerate(Kind)}


def diff(before: Bundle, after: Bundle, *, tenant: str = "") -> Diff:
    """How `after` differs from `before`, in one tenant or in all.

    Raises TooLargeError, and ValueError for a bundle whose objects cannot be made up.
    """
    old, new = Cells(before), Cells(after)
    contents = {old.content(r) for r in before.rules}, {new.content(r) for r in after.rules}
    incomparable = ""
    if knows_somebody(before.model) or knows_somebody(after.model):
        incomparable = "the matcher of model.conf knows somebody by name: whatever changed may change anybody's rights"
    unchanged = before.digest == after.digest and before.rules == after.rules and before.roles == after.roles
    changes = _Comparison(old, new, tenant).changes()
    definitions, opened = compared(before.pinning, after.pinning)
    workflows, labels, loosened = differing.compared(before, after)
    return Diff(
        before=before.digest,
        after=after.digest,
        changes=tuple(changes),
        roles=_roles(before.roles, after.roles, tenant),
        tools=named({n: _tool(before, n) for n in before.tools}, {n: _tool(after, n) for n in after.tools}),
        sets=named({n: sorted(t) for n, t in before.sets.items()}, {n: sorted(t) for n, t in after.sets.items()}),
        tests=named(_tests(before), _tests(after)),
        shadow=named({r.id: old.content(r) for r in before.shadow}, {r.id: new.content(r) for r in after.shadow}),
        model=before.model != after.model,
        incomparable="" if unchanged else incomparable,
        same=len(contents[0] & contents[1]),
        definitions=definitions,
        opened=opened,
        workflows=workflows,
        labels=labels,
        loosened=loosened,
    )


class _Comparison:
    """Goes through the cells that can differ, and gathers what is the same change."""

    def __init__(self, old: Cells, new: Cells, tenant: str) -> None:
        self._old, self._new = old, new
        self._tenant = tenant
        self._names = names_of(old.bundle, new.bundle)
        self._objects = Resources(old.bundle, new.bundle)
        self._resources = tuple(self._objects)
        self._seen: dict[object, list[_Part]] = {}
        self._found: dict[_Part, dict[str, set[tuple[str, str]]]] = defaultdict(lambda: defaultdict(set))
        self._felt: dict[_Part, _Felt] = defaultdict(_Felt)
        self._turned: dict[object, tuple[Case | None, Case | None]] = {}
        self._flipped: dict[object, tuple[Case | None, Case | None]] = {}
        self._relations: dict[object, Relation] = {}

    def changes(self) -> list[Change]:
        for number, (tenant, who, resource) in enumerate(self._cells()):
            if number > MAX_CELLS:
                raise TooLargeError(f"more than {MAX_CELLS:,} cells differ; compare one tenant")
            for action in self._objects.actions(resource):
                for part in self._parts(tenant, who, resource, action):
                    self._found[part][who].add((self._objects.label(resource), action))
                    if who == EVERYBODY and part.kind not in DUTIES:
                        self._feel(part, tenant, resource, action)
        made = [change for part, where in self._found.items() for change in _gathered(part, where, self._felt.get(part))]
        return sorted(made, key=lambda c: (_ORDER[c.kind], c.opens is None, c.tenant, c.who, c.tools, c.actions, c.duty))

    def _cells(self) -> Iterator[tuple[str, str, str]]:
        """Every cell in which lines may differ: of names whose roles changed all, of the others what changed lines cover."""
        old, new = self._old.bundle, self._new.bundle
        by_line = is_shipped(old.model) and is_shipped(new.model)
        changed = _changed(self._old, self._new)
        touched = {
            resource
            for resource in self._resources
            if self._old.told(resource) != self._new.told(resource)
            or self._old.sets_of.get(resource) != self._new.sets_of.get(resource)
        }
        for tenant in sorted(old.tenants | new.tenants):
            if self._tenant not in ("", tenant):
                continue
            moved = {r for r in self._resources if self._old.registered(r, tenant) != self._new.registered(r, tenant)}
            covered: dict[str, set[str]] = defaultdict(set)
            for side, rule in changed:
                if rule.tenant in (tenant, "*"):
                    covered[rule.who] |= {r for r in self._resources if covers(rule, r, side.sets_of)}
            for who in self._names:
                names = self._old.names(who, tenant)
                wanted: Iterable[str] = self._resources
                if by_line and names == self._new.names(who, tenant):
                    wanted = sorted(touched.union(moved, *(covered[name] for name in names if name in covered)))
                yield from ((tenant, who, resource) for resource in wanted)

    def _parts(self, tenant: str, who: str, resource: str, action: str) -> list[_Part]:
        """What changed in one cell; the same pair of lines is compared once."""
        before = self._old.lines(who, tenant, resource, action)
        after = self._new.lines(who, tenant, resource, action)
        if not before and not after:
            return []
        there = self._old.registered(resource, tenant), self._new.registered(resource, tenant)
        told = str(self._old.told(resource)), str(self._new.told(resource))
        key = (tenant, who == EVERYBODY, before, after, there, told)
        if key not in self._seen:
            self._seen[key] = list(self._compared(tenant, who, resource, before, after))
        return self._seen[key]

    def _compared(
        self, tenant: str, who: str, resource: str, before: tuple[Rule, ...], after: tuple[Rule, ...]
    ) -> Iterator[_Part]:
        # What covers everybody is told of everybody alone; under another matcher that can be more lines than those of `*`.
        own = tuple(tuple(r for r in lines if who == EVERYBODY or r.who != "*") for lines in (before, after))
        there = self._old.registered(resource, tenant) and self._new.registered(resource, tenant)
        flips: tuple[Case | None, Case | None] = (None, None)
        rights = []
        for effect in ("allow", "deny") if there else ("allow",):  # nobody misses a deny line of what is not there
            lines = _of(own[0], effect), _of(own[1], effect)
            terms = self._old.term(lines[0], resource), self._new.term(lines[1], resource)
            relation = self._relation(*terms, effect)
            if not relation.same:
                rights.append((effect, lines, _kind(*terms, relation), relation))
        if rights:
            flips = self._flips(resource, before, after)
        for effect, lines, kind, relation in rights:
            cases = relation.wider, relation.narrower
            if effect == "deny":
                cases = cases[::-1]
            said = _MIRRORED[kind] if effect == "deny" else kind
            yield _Part(said, tenant, effect, *lines, *cases, *flips, relation.proof)
        yield from self._duties(tenant, resource, *own)

    def _feel(self, part: _Part, tenant: str, resource: str, action: str) -> None:
        """Note whose answer a change for everybody really turns, as far as `MAX_FELT` goes."""
        felt = self._felt[part]
        for who in self._names[:MAX_FELT]:
            before, after = (side.lines(who, tenant, resource, action) for side in (self._old, self._new))
            key = (resource, before, after)
            if key not in self._turned:
                self._turned[key] = self._flips(resource, before, after)
            opens, closes = self._turned[key]
            if opens or closes:
                felt.who.add(who)
                felt.opens, felt.closes = felt.opens or opens, felt.closes or closes

    def _relation(self, before: Term, after: Term, effect: str) -> Relation:
        """Many lines have the same terms; each pair is compared once."""
        key = (before.says, after.says, effect)
        if key not in self._relations:
            self._relations[key] = compare(before, after, effect)
        return self._relations[key]

    def _flips(self, resource: str, before: tuple[Rule, ...], after: tuple[Rule, ...]) -> tuple[Case | None, Case | None]:
        """Arguments for which one principal, asked alone, gets another answer: a yes after a no, and a no after a yes."""
        then, now = self._answer(self._old, before, resource), self._answer(self._new, after, resource)
        terms = (*then, *now)
        key = tuple(term.says for term in terms)
        if key not in self._flipped:
            self._flipped[key] = (
                search(terms, lambda case: _yes(*now, case) and not _yes(*then, case)),
                search(terms, lambda case: _yes(*then, case) and not _yes(*now, case)),
            )
        return self._flipped[key]

    def _answer(self, side: Cells, lines: tuple[Rule, ...], resource: str) -> tuple[Term, Term]:
        return side.term(_of(lines, "allow"), resource), side.term(_of(lines, "deny"), resource)

    def _duties(self, tenant: str, resource: str, before: tuple[Rule, ...], after: tuple[Rule, ...]) -> Iterator[_Part]:
        required = _of(before, "require"), _of(after, "require")
        for duty in sorted({str(r.must) for lines in required for r in lines}):
            then, now = (tuple(r for r in lines if r.must == duty) for lines in required)
            terms = self._old.term(then, resource), self._new.term(now, resource)
            relation = self._relation(*terms, "require")
            kind = Kind.DUTY_CHANGED
            if terms[0].never or terms[1].never:
                kind = Kind.DUTY_ADDED if terms[0].never else Kind.DUTY_REMOVED
            elif relation.same:
                definitions = [side.bundle.obligations[duty] for side in (self._old, self._new)]
                if len({(each.type, plain(each.params)) for each in definitions}) == 1:
                    continue
            yield _Part(kind, tenant, "require", then, now, relation.wider, relation.narrower, None, None, relation.proof, duty)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A change without whom and what it is about.  Two that people would read alike are the same."""

    kind: Kind
    tenant: str
    effect: str
    before: tuple[Rule, ...]
    after: tuple[Rule, ...]
    newly: Case | None
    no_longer: Case | None
    opens: Case | None
    closes: Case | None
    proof: Proof
    duty: str = ""

    def _reads(self) -> tuple[object, ...]:
        cases = (str(case) for case in (self.newly, self.no_longer, self.opens, self.closes))
        return (self.kind, self.tenant, self.effect, self.before, self.after, *cases, self.proof, self.duty)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Part) and self._reads() == other._reads()

    def __hash__(self) -> int:
        return hash(self._reads())


@dataclass(slots=True)
class _Felt:
    """Whose answers a change for everybody turns, and with which arguments."""

    who: set[str] = field(default_factory=set)
    opens: Case | None = None
    closes: Case | None = None


_MIRRORED = {
    Kind.GAIN: Kind.LOSS,
    Kind.LOSS: Kind.GAIN,
    Kind.WIDER: Kind.NARROWER,
    Kind.NARROWER: Kind.WIDER,
    Kind.CHANGED: Kind.CHANGED,
}


def _kind(before: Term, after: Term, relation: Relation) -> Kind:
    """What became of lines of one effect."""
    if before.never:
        return Kind.GAIN
    if after.never:
        return Kind.LOSS
    if relation.may_widen and relation.may_narrow:
        return Kind.CHANGED
    return Kind.WIDER if relation.may_widen else Kind.NARROWER


def _of(lines: tuple[Rule, ...], effect: str) -> tuple[Rule, ...]:
    return tuple(line for line in lines if line.effect == effect)


def _yes(allow: Term, deny: Term, case: Case) -> bool:
    return allow.speaks(case, "allow") and not deny.speaks(case, "deny")


def _gathered(part: _Part, where: Mapping[str, set[tuple[str, str]]], felt: _Felt | None) -> Iterator[Change]:
    """A change for each group of names that it is the same for, and each group of tools with the same actions."""
    felt = felt or _Felt()
    names: dict[tuple[frozenset[str], frozenset[str]], list[str]] = defaultdict(list)
    for who, cells in where.items():
        actions: dict[str, set[str]] = defaultdict(set)
        for resource, action in cells:
            actions[resource].add(action)
        groups: dict[frozenset[str], set[str]] = defaultdict(set)
        for resource, asked in actions.items():
            groups[frozenset(asked)].add(resource)
        for asked_for, tools in groups.items():
            names[frozenset(tools), asked_for].append(who)
    for (tools_, asked_for), who_ in names.items():
        asked_in_order = tuple(sorted(asked_for, key=lambda action: (action == RELAY, action)))
        yield Change(
            part.kind, part.tenant, tuple(sorted(who_)), tuple(sorted(tools_)), asked_in_order,
            part.effect, part.before, part.after, part.newly, part.no_longer, part.opens or felt.opens,
            part.closes or felt.closes, part.proof, part.duty, tuple(sorted(felt.who)),
        )  # fmt: skip


def _changed(old: Cells, new: Cells) -> list[tuple[Cells, Rule]]:
    """Every line whose content stands in one of the bundles alone."""
    contents = {old.content(r) for r in old.bundle.rules}, {new.content(r) for r in new.bundle.rules}
    gone = [(old, r) for r in old.bundle.rules if old.content(r) not in contents[1]]
    return gone + [(new, r) for r in new.bundle.rules if new.content(r) not in contents[0]]


# --- what has a name


def _roles(before: Iterable[Membership], after: Iterable[Membership], tenant: str) -> Named:
    then, now = (
        {f"{m.member} → {m.role} ({m.tenant})": True for m in members if tenant in ("", m.tenant)} for members in (before, after)
    )
    return named(then, now)


def _tool(bundle: Bundle, name: str) -> object:
    spec = bundle.tools[name]
    return dict(spec.args), sorted(spec.labels), spec.risk, sorted(spec.tenants)


def _tests(bundle: Bundle) -> dict[str, str]:
    return {name: text for name, text in bundle.texts.items() if name.startswith("tests/")}
