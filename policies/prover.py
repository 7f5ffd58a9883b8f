"""Whether lines can ever speak where others did not, asked of z3 where it is installed (`bailiwick[z3]`).

Every condition becomes two formulas, "surely true" and "surely false": the third value is neither.  What z3 cannot know of our
functions is left open, so a "never" holds of the real conditions too, and an example counts only after they were really asked.
"""

from __future__ import annotations

import ast
import ipaddress
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from policies.cases import ABSENT, Case, Path, assemble, literal_of, path_of, tree_of
from policies.values import clean_path

if TYPE_CHECKING:
    from policies.terms import Term

MILLISECONDS = 2000
MEMORY_MB = 512
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS = ("number", "string", "boolean", "moment")
_FIXED: dict[Path, tuple[str, ...]] = {
    ("user", "id"): ("string",),
    ("time", "now"): ("moment",),
    ("time", "hour"): ("number",),
    ("time", "weekday"): ("number",),
}
"""Names that are always known, and of which kind; of every other name nothing is known."""


def available() -> bool:
    """Whether z3 is installed."""
    return find_spec("z3") is not None


def speaks_more(before: Term, after: Term, effect: str) -> Case | Literal[False] | None:
    """A case in which `after` speaks and `before` does not; False where it is proven that there is none; None where unknown."""
    conditions = (*before.conditions, *after.conditions)
    if not available() or (before.tool != after.tool and any("tool" in c.text for c in conditions)):
        return None
    if any(before.types.get(name) != after.types.get(name) for c in conditions for name in c.arguments):
        return None  # the same words are then not the same question: what is left open could not come out alike
    z3 = import_module("z3")
    world = _World(z3)
    try:
        wanted = z3.And(_speaks(world, after, effect), z3.Not(_speaks(world, before, effect)))
        solver = z3.Solver(ctx=world.ctx)
        solver.set("timeout", MILLISECONDS)
        solver.set("max_memory", MEMORY_MB)
        solver.add(wanted, *world.laws())
        answer = solver.check()
        if answer == z3.unsat:
            return False
        if answer != z3.sat:
            return None
        case = world.case(solver.model())
    except z3.Z3Exception:
        return None
    return case if after.speaks(case, effect) and not before.speaks(case, effect) else None


def _speaks(world: _World, term: Term, effect: str) -> Any:
    if term.always:
        return world.truth(True)
    said = [world.formula(tree_of(condition), term.types) for condition in term.conditions]
    return world.z3.Or([each.true if effect == "allow" else world.z3.Not(each.false) for each in said] + [world.truth(False)])


class _Said(NamedTuple):
    """When a part of a condition is surely true, and when surely false."""

    true: Any
    false: Any


class _Value(NamedTuple):
    """A value by kind: for each of number, string and boolean, when it is known to be one, and what it is."""

    known: dict[str, Any]
    what: dict[str, Any]


class _World:
    """The unknowns of one question to z3, each made once."""

    def __init__(self, z3: Any) -> None:
        self.z3 = z3
        self.ctx = z3.Context()  # nothing is shared with another question
        self._made: dict[str, Any] = {}
        self._names: dict[tuple[Path, str], _Value] = {}
        self._tests: dict[tuple[str, str, bool], list[tuple[str, Any]]] = {}
        self._laws: list[Any] = []

    def truth(self, value: bool) -> Any:
        return self.z3.BoolVal(value, self.ctx)

    def flag(self, name: str) -> Any:
        """An open truth value of this name."""
        if name not in self._made:
            self._made[name] = self.z3.Bool(name, self.ctx)
        return self._made[name]

    # --- conditions

    def formula(self, node: ast.expr, types: Any) -> _Said:
        z3 = self.z3
        if isinstance(node, ast.BoolOp):
            parts = [self.formula(each, types) for each in node.values]
            both, one = [p.true for p in parts], [p.false for p in parts]
            return _Said(z3.And(both), z3.Or(one)) if isinstance(node.op, ast.And) else _Said(z3.Or(both), z3.And(one))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.formula(node.operand, types)
            return _Said(inner.false, inner.true)
        if isinstance(node, ast.Compare):
            return self._compare(node, types)
        if isinstance(node, ast.Call):
            return self._call(node, types)
        value = self._value(node, types)
        known, what = value.known.get("boolean"), value.what.get("boolean")
        return self._open(ast.unparse(node)) if known is None else _Said(z3.And(known, what), z3.And(known, z3.Not(what)))

    def _open(self, name: str) -> _Said:
        """Something that may come out in any of three ways, the same way each time."""
        said = _Said(self.flag(f"true {name}"), self.flag(f"false {name}"))
        self._laws.append(self.z3.Not(self.z3.And(said.true, said.false)))
        return said

    def _compare(self, node: ast.Compare, types: Any) -> _Said:
        z3, operator = self.z3, node.ops[0]
        if isinstance(operator, ast.In | ast.NotIn):
            said = self._membership(node.left, node.comparators[0], types)
            return _Said(said.false, said.true) if isinstance(operator, ast.NotIn) else said
        left, right = self._value(node.left, types), self._value(node.comparators[0], types)
        true, false = [self.truth(False)], [self.truth(False)]
        kinds = ("number", "string", "boolean", "moment") if isinstance(operator, ast.Eq | ast.NotEq) else ("number", "moment")
        for kind in kinds:
            if kind in left.known and kind in right.known:
                known, holds = (
                    z3.And(left.known[kind], right.known[kind]),
                    _ORDER[type(operator)](left.what[kind], right.what[kind]),
                )
                true.append(z3.And(known, holds))
                false.append(z3.And(known, z3.Not(holds)))
        return _Said(z3.Or(true), z3.Or(false))

    def _membership(self, left: ast.expr, right: ast.expr, types: Any) -> _Said:
        many = literal_of(right)
        if not isinstance(many, tuple):
            if path_of(right) == ("user", "groups") and isinstance(name := literal_of(left), str):
                inside = self.flag(f"group {name}")
                return _Said(inside, self.z3.Not(inside))
            return self._open(f"{ast.unparse(left)} in {ast.unparse(right)}")
        value = self._value(left, types)
        equal = [self._equal(value, self._constant(each)) for each in many]
        none = self.truth(not equal)
        return _Said(
            self.z3.Or([each.true for each in equal] + [self.truth(False)]),
            self.z3.Or(none, self.z3.And([each.false for each in equal] + [self.z3.Not(none)])),
        )

    def _equal(self, left: _Value, right: _Value) -> _Said:
        true, false = [self.truth(False)], [self.truth(False)]
        for kind, what in right.what.items():
            if kind in left.known:
                true.append(self.z3.And(left.known[kind], left.what[kind] == what))
                false.append(self.z3.And(left.known[kind], left.what[kind] != what))
        return _Said(self.z3.Or(true), self.z3.Or(false))

    def _call(self, node: ast.Call, types: Any) -> _Said:
        function = node.func.id if isinstance(node.func, ast.Name) else ""
        if function == "has":
            path = path_of(node.args[0]) or ()
            present = self._name(path, types).known.values()
            odd = self.flag(f"odd {'.'.join(path)}")  # it is there, and not readable
            return _Said(
                self.z3.Or([*present, self.truth(False)]), self.z3.And([self.z3.Not(p) for p in present] + [self.z3.Not(odd)])
            )
        given = literal_of(node.args[1]) if len(node.args) == 2 else ABSENT
        value = self._value(node.args[0], types)
        if function not in ("under", "like", "host_in", "ip_in") or given is ABSENT or "string" not in value.known:
            return self._open(ast.unparse(node))
        known, what = value.known["string"], value.what["string"]
        texts = given if isinstance(given, tuple) else (given,)
        subject = ast.unparse(node.args[0])
        if function == "like":
            fits = self._like(what, str(texts[0]))
            readable = self.z3.And(known, self.flag(f"short {subject}"))
            return _Said(self.z3.And(readable, fits), self.z3.And(readable, self.z3.Not(fits)))
        rooted = function == "under" and str(texts[0]).startswith("/")
        readable = self.z3.And(known, self.flag(f"{function} {rooted} {subject}"))
        inside = self.z3.Or([self._element(function, subject, rooted, str(text)) for text in texts])
        return _Said(self.z3.And(readable, inside), self.z3.And(readable, self.z3.Not(inside)))

    def _element(self, function: str, subject: str, rooted: bool, text: str) -> Any:
        """Whether a text is inside one folder, host or network; how that hangs together with the others is made a law."""
        flag = self.flag(f"{function} {subject} {text}")
        others = self._tests.setdefault((function, subject, rooted), [])
        if all(text != other for other, _ in others):
            for other, there in others:
                if _inside(function, text, other):
                    self._laws.append(self.z3.Implies(flag, there))
                if _inside(function, other, text):
                    self._laws.append(self.z3.Implies(there, flag))
                if _apart(function, text, other):
                    self._laws.append(self.z3.Not(self.z3.And(flag, there)))
            others.append((text, flag))
        return flag

    def _like(self, what: Any, pattern: str) -> Any:
        z3 = self.z3
        anything = z3.Full(z3.ReSort(z3.StringSort(self.ctx)))
        parts: list[Any] = []
        for at, piece in enumerate(pattern.split("*")):
            parts += [anything] if at else []
            parts += [z3.Re(z3.StringVal(piece, self.ctx), self.ctx)] if piece else []
        return z3.InRe(what, parts[0] if len(parts) == 1 else z3.Concat(*parts))

    # --- values

    def _value(self, node: ast.expr, types: Any) -> _Value:
        literal = literal_of(node)
        if literal is not ABSENT:
            return self._constant(literal)
        path = path_of(node)
        if path is not None:
            return self._name(path, types)
        function = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        return self._fresh(ast.unparse(node), {"len": ("number",), "lower": ("string",)}.get(function, _KINDS))

    def _constant(self, value: object) -> _Value:
        z3, sure = self.z3, self.truth(True)
        if isinstance(value, bool):
            return _Value({"boolean": sure}, {"boolean": self.truth(value)})
        if isinstance(value, int | Decimal):
            return _Value({"number": sure}, {"number": z3.RealVal(str(value), self.ctx)})
        if isinstance(value, datetime):  # microseconds stand for it
            since = value - _EPOCH
            micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
            return _Value({"moment": sure}, {"moment": z3.RealVal(str(micros), self.ctx)})
        return _Value({"string": sure}, {"string": z3.StringVal(str(value), self.ctx)})

    def _name(self, path: Path, types: Any) -> _Value:
        declared = types.get(path[1], "") if path[0] == "args" and len(path) == 2 else "any"
        kind = {"integer": "number"}.get(declared, declared)
        kinds: tuple[str, ...] = (kind,) if kind in ("number", "string", "boolean") else ()
        if declared == "any":
            kinds = _FIXED.get(path, _KINDS)
        key = path, declared
        if key not in self._names:
            self._names[key] = value = self._fresh(".".join(path) + f" {declared}", kinds)
            if path in _FIXED:
                self._laws.append(value.known[kinds[0]])
            if declared == "integer":
                self._laws.append(self.z3.IsInt(value.what["number"]))
            if declared in ("array", "object"):
                value.known[declared] = self.flag(f"{declared} {'.'.join(path)}")
        return self._names[key]

    def _fresh(self, name: str, kinds: tuple[str, ...]) -> _Value:
        z3 = self.z3
        make: dict[str, Callable[..., Any]] = {"number": z3.Real, "moment": z3.Real, "string": z3.String, "boolean": z3.Bool}
        value = _Value({k: self.flag(f"known {k} {name}") for k in kinds}, {k: make[k](f"{k} {name}", self.ctx) for k in kinds})
        known = list(value.known.values())
        self._laws += [z3.Not(z3.And(a, b)) for at, a in enumerate(known) for b in known[at + 1 :]]
        return value

    def laws(self) -> list[Any]:
        """What holds of all the unknowns."""
        return self._laws

    def case(self, model: Any) -> Case:
        """The case that a model describes, as far as it says."""
        chosen: dict[Path, object] = {}
        for (path, _), value in self._names.items():
            for kind, what in value.what.items():
                if kind != "moment" and self.z3.is_true(model.eval(value.known[kind], model_completion=True)):
                    chosen[path] = _python(model.eval(what, model_completion=True), kind)
        groups = [
            name[6:] for name, flag in self._made.items() if name.startswith("group ") and self.z3.is_true(model.eval(flag))
        ]
        if groups:
            chosen["user", "groups"] = frozenset(groups)
        chosen = {path: value for path, value in chosen.items() if path[0] != "time"}
        return assemble({path: value for path, value in chosen.items() if value is not ABSENT})


def _python(value: Any, kind: str) -> object:
    if kind == "boolean":
        return str(value) == "True"
    if kind == "string":
        return str(value.as_string())
    top, bottom = value.numerator_as_long(), value.denominator_as_long()
    return top if bottom == 1 else Decimal(top) / Decimal(bottom)


_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}


def _inside(function: str, inner: str, outer: str) -> bool:
    """Whether whatever lies in `inner` surely lies in `outer`."""
    if function == "under":
        first, second = clean_path(inner), clean_path(outer)
        return first is not None and second is not None and first[1][: len(second[1])] == second[1]
    if function == "host_in":
        return outer.startswith("*.") and inner.removeprefix("*").endswith(outer[1:]) and inner != outer
    one, two = ipaddress.ip_network(inner), ipaddress.ip_network(outer)
    return one.version == two.version and one.subnet_of(two)  # type: ignore[arg-type]  # the versions are equal


def _apart(function: str, one: str, other: str) -> bool:
    """Whether nothing lies in both."""
    if function == "host_in" and not (one.startswith("*.") and other.startswith("*.")):
        return one != other and not _inside(function, one, other) and not _inside(function, other, one)
    if function == "ip_in":
        return not _inside(function, one, other) and not _inside(function, other, one)
    return function == "under" and not _inside(function, one, other) and not _inside(function, other, one)
