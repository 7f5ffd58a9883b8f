"""Casbin, made to cost the same at ten rules and at a hundred thousand, with Casbin's own answers.

Which rules can match is found by an index that is read off the model's own matcher; what they come to is said by Casbin's own
effector.  A matcher that is not understood whole is left to stock Casbin: slower, never different.
"""

from __future__ import annotations

import ast
import re
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol

import casbin
from casbin.effect import AllowAndDenyEffector, Effector, effect_to_bool
from casbin.rbac import RoleManager

from policies.membership import Closure
from policies.rules import NONE

ALLOW = 1
_BITS = {"allow": ALLOW, "deny": 2}
_order = attrgetter("order")


class Asking(Protocol):
    """What travels through Casbin as `r.ctx`: decides conditions, and collects the ids of the rules that spoke.

    rows  that fit in everything but their condition, where the index found them; None on the stock path.
    """

    hits: list[str]
    rows: list[Row] | None

    def holds(self, condition: str, effect: str) -> bool:
        """Whether a rule of this effect speaks under this condition."""


class Asker(str):
    """A principal with everything that it is in the tenant of the question.  Lives for one question."""

    __slots__ = ("names",)
    names: AbstractSet[str]

    @classmethod
    def of(cls, name: str, names: AbstractSet[str]) -> Asker:
        """A principal that is all of these names."""
        asker = cls(name)
        asker.names = names
        return asker


class FrozenRoles(RoleManager):  # type: ignore[misc]  # casbin has no types
    """Casbin's role manager over a closure that never changes: no growth by strangers' names, no limit of depth."""

    def __init__(self, closure: Closure) -> None:
        self._closure = closure

    def has_link(self, name1: str, name2: str, *domain: str) -> bool:
        """Whether name1 is name2 in the tenant `domain[0]`."""
        if isinstance(name1, Asker):
            return name2 in name1.names
        return name2 in self._closure.of(name1, domain[0])


class FrozenSets(RoleManager):  # type: ignore[misc]  # casbin has no types
    """Casbin's role manager over the sets of tools.yaml."""

    def __init__(self, sets_of: Mapping[str, tuple[str, ...]]) -> None:
        self._sets_of = sets_of

    def has_link(self, name1: str, name2: str, *_domain: str) -> bool:
        """Whether the tool name1 is in the set name2 (or is it)."""
        return name1 == name2 or name2 in self._sets_of.get(name1, ())


class Exhaustive(Effector):  # type: ignore[misc]  # casbin has no types
    """An effector that never stops early, so that every rule that matches is heard; the last word is the inner one's."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def intermediate_effect(self, effects: set[int]) -> int:  # noqa: ARG002  Casbin's signature
        """Go on."""
        return int(Effector.INDETERMINATE)

    def final_effect(self, effects: set[int]) -> int:
        """What Casbin says."""
        return int(self._inner.final_effect(effects))


@dataclass(frozen=True, slots=True)
class Row:
    """A rule as Casbin holds it, with its place in the policy."""

    order: int
    sub: str
    cond: str
    eft: str
    bit: int
    id: str
    values: list[str]


class IndexedEnforcer(casbin.Enforcer):  # type: ignore[misc]  # casbin has no types
    """The enforcer.  `path` is "indexed" or "stock", `path_reason` says why; rules for `everybody`: None where any may be."""

    def __init__(
        self,
        model: str,
        rows: Iterable[tuple[str, str, str, str, str, str, str]],
        closure: Closure,
        sets_of: Mapping[str, tuple[str, ...]],
        known: Iterable[str] = (),
        *,
        stock: bool = False,
    ) -> None:
        """Rows are (sub, dom, obj, act, cond, eft, id); `known` are the registered resources.

        Raises RuntimeError for a model whose effect is not deny-override.
        """
        super().__init__(self.new_model(text=model))
        if not isinstance(self.eft, AllowAndDenyEffector):
            msg = "the policy effect must be deny-override"
            raise RuntimeError(msg)
        self.set_effector(Exhaustive(self.eft))
        self.model["p"]["p"].policy = [list(row) for row in rows]
        for name, roles in (("g", FrozenRoles(closure)), ("g2", FrozenSets(sets_of))):
            self.model["g"][name].rm = self.rm_map[name] = roles
        self._one_at_a_time = threading.Lock()
        self._asking: Asking | None = None
        self.add_function("when", lambda cond, eft, asking: asking.holds(cond, eft))
        me = weakref.ref(self)  # in a circle with its own functions it would wait for the collector, rules and all
        self.add_function("hit", lambda rule: (enforcer := me()) is not None and enforcer._hit(rule))
        self._says = _verdicts(self.eft)
        self._index: Index | None = None
        self.path, self.path_reason = "stock", "asked for"
        self.everybody: frozenset[str] | None = None
        if stock:
            return
        try:
            shape = Shape.of(self.model["m"]["m"].value)
        except NotUnderstood as reason:
            self.path_reason = str(reason)
        else:
            self._index = Index(shape, self.model["p"]["p"].policy, sets_of, known)
            self.path, self.path_reason = "indexed", "every part of the matcher is understood"
            self.everybody = frozenset(shape.wide_subjects)

    def _hit(self, rule: str) -> bool:
        if self._asking is None:
            msg = "a rule spoke and nobody had asked"
            raise RuntimeError(msg)
        self._asking.hits.append(rule)
        return True

    def enforce_ex(self, asker: Asker, tenant: str, resource: str, action: str, asking: Asking) -> tuple[bool, list[str]]:
        """As Casbin's: the answer, and the last rule that matched."""
        if self._index is None:
            return self._stock(asker, tenant, resource, action, asking)
        asking.rows = rows = self._index.candidates(asker, tenant, resource, action)
        return self.judge(rows, asking)

    def _stock(self, *rvals: Any) -> tuple[bool, list[str]]:
        if not self.model["p"]["p"].policy:  # Casbin would run the matcher with every field empty
            return False, []
        with self._one_at_a_time:  # Casbin writes into tables of its own while it decides
            self._asking = rvals[4]
            try:
                answer, rule = super().enforce_ex(*rvals)
            finally:
                self._asking = None
        return bool(answer), rule

    def judge(self, rows: Sequence[Row], asking: Asking) -> tuple[bool, list[str]]:
        """What Casbin's effector says of the rows that hold, and the last of them."""
        effects = 0
        last: list[str] = []
        hits, holds = asking.hits, asking.holds
        for row in rows:
            if row.cond == NONE or holds(row.cond, row.eft):
                hits.append(row.id)
                effects |= row.bit
                last = row.values
        return self._says[effects], last


def _verdicts(effector: Effector) -> tuple[bool, ...]:
    """What Casbin's effector says of each set of effects: nothing, allow, deny, both (a `require` is indeterminate to Casbin)."""
    allow, deny, none = Effector.ALLOW, Effector.DENY, Effector.INDETERMINATE
    return tuple(bool(effect_to_bool(effector.final_effect(effects))) for effects in ({none}, {allow}, {deny}, {allow, deny}))


# --- the index


class NotUnderstood(Exception):  # noqa: N818  not an error: it says why the stock path is taken
    """The matcher has a part that no index can stand for."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a matcher asks of a rule: each field of the request against the same field of the rule.

    dom, act  say for a pair of values whether they fit.
    objects   of "equal", "pattern", "set": how r.obj is compared; `wide_objects` are values of p.obj that fit every resource.
    roles     whether r.sub is looked up in g; `wide_subjects` are values of p.sub that fit everybody.
    """

    dom: Callable[[str, str], bool]
    act: Callable[[str, str], bool]
    objects: frozenset[str]
    wide_objects: tuple[str, ...]
    roles: bool
    wide_subjects: tuple[str, ...]

    @classmethod
    def of(cls, matcher: str) -> Shape:
        """Read a matcher as Casbin does (its text has `r_sub` for `r.sub`).  Raises NotUnderstood."""
        text = matcher.replace("&&", " and ").replace("||", " or ")
        if re.search(r"[!#\\]|\beval\b", text):
            raise NotUnderstood("the matcher holds '!', '#', a backslash or eval")
        tree = ast.parse(text.strip(), mode="eval").body
        conjuncts = _parts(tree, ast.And)
        if [_text(c) for c in conjuncts[-2:]] != ["when(p_cond, p_eft, r_ctx)", "hit(p_id)"]:
            raise NotUnderstood("the matcher does not end with when(…) && hit(…)")
        found: dict[str, list[ast.expr]] = defaultdict(list)
        for conjunct in conjuncts[:-2]:
            names = {n.id for n in ast.walk(conjunct) if isinstance(n, ast.Name)} - {"g", "g2", "keyMatch"}
            for part, fields in _FIELDS.items():
                if names <= fields:
                    found[part].append(conjunct)
                    break
            else:
                raise NotUnderstood(f"'{_text(conjunct)[:80]}' mixes fields")
        if any(len(found[part]) != 1 for part in _FIELDS):
            raise NotUnderstood("some field is compared in no conjunct, or in several")
        objects, wide_objects = _atoms(found["obj"][0], _OBJECT_ATOMS, "p_obj")
        subjects, wide_subjects = _atoms(found["sub"][0], _SUBJECT_ATOMS, "p_sub")
        return cls(
            _pairwise(found["dom"][0], "r_dom"), _pairwise(found["act"][0], "r_act"),
            objects, wide_objects, "role" in subjects, wide_subjects,
        )  # fmt: skip


_FIELDS = {
    "act": {"r_act", "p_act"},
    "dom": {"r_dom", "p_dom"},
    "obj": {"r_obj", "p_obj"},
    "sub": {"r_sub", "p_sub", "r_dom"},
}
_OBJECT_ATOMS = {
    "r_obj == p_obj": "equal",
    "p_obj == r_obj": "equal",
    "keyMatch(r_obj, p_obj)": "pattern",
    "g2(r_obj, p_obj)": "set",
}
_SUBJECT_ATOMS = {"r_sub == p_sub": "equal", "p_sub == r_sub": "equal", "g(r_sub, p_sub, r_dom)": "role"}


def _text(node: ast.expr) -> str:
    return ast.unparse(node)


def _parts(node: ast.expr, operator: type[ast.boolop]) -> list[ast.expr]:
    """The parts of a chain of `and` (or of `or`), flattened."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, operator):
        return [part for value in node.values for part in _parts(value, operator)]
    return [node]


def _atoms(node: ast.expr, known: Mapping[str, str], field: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """A disjunction of known comparisons, and the constants that `field` is compared with."""
    kinds: set[str] = set()
    wide: list[str] = []
    for part in _parts(node, ast.Or):
        text = _text(part)
        if text in known:
            kinds.add(known[text])
        elif (
            isinstance(part, ast.Compare)
            and isinstance(constant := part.comparators[0], ast.Constant)
            and text == f"{field} == {constant.value!r}"
        ):
            wide.append(str(constant.value))
        else:
            raise NotUnderstood(f"'{text[:80]}' has no index")
    return frozenset(kinds), tuple(wide)


def _pairwise(node: ast.expr, request_field: str) -> Callable[[str, str], bool]:
    """Any and/or of equalities as a function of the request's value and the rule's."""
    if isinstance(node, ast.BoolOp):
        parts = [_pairwise(value, request_field) for value in node.values]
        combine = all if isinstance(node.op, ast.And) else any
        return lambda r, p: combine(part(r, p) for part in parts)
    if not isinstance(node, ast.Compare) or len(node.ops) != 1 or not isinstance(node.ops[0], ast.Eq):
        raise NotUnderstood(f"'{_text(node)[:80]}' is no equality")
    left, right = (_side(side, request_field) for side in (node.left, node.comparators[0]))
    return lambda r, p: left(r, p) == right(r, p)


def _side(node: ast.expr, request_field: str) -> Callable[[str, str], str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        value = node.value
        return lambda _r, _p: value
    if isinstance(node, ast.Name):
        return (lambda r, _p: r) if node.id == request_field else (lambda _r, p: p)
    raise NotUnderstood(f"'{_text(node)[:80]}' is no field")


Bucket = dict[str, list[Row]]


class Index:
    """Rows by (tenant, resource pattern, action), and in each bucket by subject.

    What is remembered is bounded by the policy: registered resources, and sets of patterns that some resource can fit.  Nothing
    that a caller made up is kept.
    """

    def __init__(
        self, shape: Shape, policy: Iterable[list[str]], sets_of: Mapping[str, tuple[str, ...]], known: Iterable[str]
    ) -> None:
        self._shape = shape
        self._roles, self._wide = shape.roles, shape.wide_subjects
        self._sets_of = sets_of
        self._buckets: dict[tuple[str, str, str], Bucket] = {}
        self._prefixes: dict[int, dict[str, list[str]]] = {}
        for order, values in enumerate(policy):
            sub, dom, obj, act, cond, eft, rule = values
            row = Row(order, sub, cond, eft, _BITS.get(eft, 0), rule, values)
            self._buckets.setdefault((dom, obj, act), {}).setdefault(sub, []).append(row)
        self._doms = {dom for dom, _, _ in self._buckets}
        self._objects = {obj for _, obj, _ in self._buckets}
        self._acts = {act for _, _, act in self._buckets}
        for obj in sorted(self._objects):
            star = obj.find("*")
            if star >= 0:
                self._prefixes.setdefault(star, {}).setdefault(obj[:star], []).append(obj)
        self._known = frozenset(known)
        self._plans: dict[tuple[str, str, str], tuple[Bucket, ...]] = {}
        self._shared: dict[tuple[str, tuple[str, ...], str], tuple[Bucket, ...]] = {}

    def candidates(self, asker: Asker, tenant: str, resource: str, action: str) -> list[Row]:
        """Every row whose subject, tenant, resource and action match, in the order of the policy."""
        plan = self._plans.get((tenant, resource, action))
        if plan is None:
            plan = self._plan(tenant, resource, action)
        names = asker.names if self._roles else (str(asker),)
        found: list[Row] = []
        for bucket in plan:
            if len(bucket) < len(names):
                for name in bucket:
                    if name in names:
                        found += bucket[name]
            else:
                for name in names:
                    if name in bucket:
                        found += bucket[name]
            for name in self._wide:
                if name in bucket and name not in names:
                    found += bucket[name]
        if len(found) > 1:
            found.sort(key=_order)
        return found

    def _plan(self, tenant: str, resource: str, action: str) -> tuple[Bucket, ...]:
        """The buckets that a tenant, resource and action can meet.  The engine asks about tenants and actions that exist."""
        patterns = self._patterns(resource)
        plan = self._shared.get((tenant, patterns, action))
        if plan is None:
            shape = self._shape
            doms = [dom for dom in self._doms if shape.dom(tenant, dom)]
            acts = [act for act in self._acts if shape.act(action, act)]
            keys = ((dom, obj, act) for obj in patterns for dom in doms for act in acts)
            plan = self._shared[tenant, patterns, action] = tuple(self._buckets[key] for key in keys if key in self._buckets)
        if resource in self._known:
            self._plans[tenant, resource, action] = plan
        return plan

    def _patterns(self, resource: str) -> tuple[str, ...]:
        """The values of p.obj that fit a resource, each once."""
        shape = self._shape
        fitting = dict.fromkeys(o for o in shape.wide_objects if o in self._objects)
        if shape.objects and resource in self._objects:
            fitting[resource] = None
        if "pattern" in shape.objects:
            for length, table in self._prefixes.items():
                fitting.update(dict.fromkeys(table.get(resource[:length], ()) if len(resource) >= length else ()))
        if "set" in shape.objects:
            fitting.update(dict.fromkeys(s for s in self._sets_of.get(resource, ()) if s in self._objects))
        return tuple(fitting)
