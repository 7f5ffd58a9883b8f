"""What a condition can come to, found by trying every case that its text tells apart.

Cases are made of the literals that the condition compares with; what no literal tells apart is free to be true, false or unknown.
More cases are tried than can happen, never fewer: what holds in all of them is proven, and anything else is merely not known.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import pairwise, product
from math import prod

from policies import values
from policies.values import UNKNOWN, Facts

MAX_CASES = 2048

_SYMBOL: dict[type[ast.cmpop], str] = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_FREE = (True, False, UNKNOWN)
_NO_FACTS = Facts(arguments=None)


def _of_the_case(facts: Facts) -> object:
    """Where `_Reader.asked` puts what is compared."""
    return facts.context["case"]


class _Special:
    """A case of a name that no literal stands for."""

    def __init__(self, present: object) -> None:
        self.present = present  # what has() says


_ABSENT = _Special(False)
_ODD = _Special(UNKNOWN)  # there, and of a type that cannot be read
_OTHER = _Special(True)  # there, and equal to nothing that is written out

Case = Mapping[str, object]
Test = Callable[[Case], object]


@dataclass(slots=True)
class _Variable:
    """A name and what it is compared with.  `kind` is its type where that is known; low and high bound whole numbers."""

    kind: str = "any"
    whole: bool = False
    low: int | None = None
    high: int | None = None
    specials: tuple[_Special, ...] = (_ODD, _OTHER)
    literals: set[object] = field(default_factory=set)
    free: tuple[object, ...] = ()

    def cases(self) -> list[object]:
        """Values between which nothing in the text tells a difference."""
        if self.free:
            return list(self.free)
        found: list[object] = []
        for kind, spread in _SPREADS.items():
            known = {each for each in self.literals if values.kind(each) == kind}
            if self.kind in (kind, "any") and (known or (self.kind == kind and self.low is not None)):
                found += spread(self, known)
        specials = [s for s in self.specials if s is not _OTHER or self.kind == "any" or not found]
        return [*found, *specials] if specials or found else [_OTHER]


def _numbers(variable: _Variable, known: set[object]) -> list[object]:
    marks = sorted(Decimal(str(each)) for each in known)
    if variable.whole:
        near = {int(m.to_integral_value(r)) + step for m in marks for r in (ROUND_FLOOR, ROUND_CEILING) for step in (-1, 0, 1)}
        near |= {bound for bound in (variable.low, variable.high) if bound is not None}
        low, high = variable.low, variable.high
        return [n for n in sorted(near) if (low is None or n >= low) and (high is None or n <= high)]
    between = [(a + b) / 2 for a, b in pairwise(marks)]
    return [marks[0] - 1, *marks, *between, marks[-1] + 1]


def _texts(_variable: _Variable, known: set[object]) -> list[object]:
    return [*sorted(map(str, known)), "".join(map(str, sorted(map(str, known)))) + "…"]


def _moments(_variable: _Variable, known: set[object]) -> list[object]:
    tick = timedelta(microseconds=1)
    found: set[object] = set()
    for moment in known:
        if isinstance(moment, datetime):
            found |= {moment, moment + tick, moment - tick}
    return list(found)


_SPREADS: dict[str, Callable[[_Variable, set[object]], list[object]]] = {
    "number": _numbers,
    "string": _texts,
    "boolean": lambda _variable, _known: [True, False],
    "moment": _moments,
}
_FIXED: dict[str, Callable[[], _Variable]] = {
    "time.hour": lambda: _Variable("number", whole=True, low=0, high=23, specials=()),
    "time.weekday": lambda: _Variable("number", whole=True, low=1, high=7, specials=()),
    "time.now": lambda: _Variable("moment", specials=()),
    "user.id": lambda: _Variable("string", specials=()),
}


def outcomes(texts: Sequence[str], types: Mapping[str, str] | None = None) -> frozenset[tuple[object, ...]] | None:
    """Every combination that these conditions can come to together; None where there are too many cases to try.

    types are those of a tool's arguments; without them any type is possible.  Each text must be a condition that was understood.
    """
    reader = _Reader(types or {})
    try:
        tests = [reader.test(ast.parse(" ".join(text.split("\n")).strip(), mode="eval").body) for text in texts]
        names = list(reader.variables)
        domains = [reader.variables[name].cases() for name in names]
    except OverflowError:  # a date at the edge of the calendar
        return None
    if prod(len(domain) for domain in domains) > MAX_CASES:
        return None
    return frozenset(
        tuple(test(case) for test in tests) for case in (dict(zip(names, one, strict=True)) for one in product(*domains))
    )


def implies(first: str | None, second: str | None) -> bool:
    """Whether the second condition holds wherever the first does, and may hold wherever the first may; None always holds.

    False also means that it is not known.
    """
    if second is None or first == second:
        return True
    tried = outcomes((first or "true", second))
    if tried is None:
        return False
    return all((a is not True or b is True) and (a is False or b is not False) for a, b in tried)


@dataclass(slots=True)
class _Reader:
    """From a condition's syntax tree to a test of one case; the names that it reads are gathered on the way."""

    types: Mapping[str, str]
    variables: dict[str, _Variable] = field(default_factory=dict)

    def test(self, node: ast.expr) -> Test:
        if isinstance(node, ast.BoolOp):
            parts = [self.test(part) for part in node.values]
            return _all(parts) if isinstance(node.op, ast.And) else _any(parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return _not(self.test(node.operand))
        if isinstance(node, ast.Compare):
            return self.compare(node)
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id == "has":
                return self.has(node.args[0])
            return self.free(node)
        return self.truth(node)

    def truth(self, node: ast.expr) -> Test:
        name, value = self.term(node)
        if name is None:
            return lambda _case: value if isinstance(value, bool) else UNKNOWN
        self.variables[name].literals.add(True)
        return lambda case: found if isinstance(found := case[name], bool) else UNKNOWN

    def has(self, node: ast.expr) -> Test:
        name, _ = self.term(node)
        if name is None:
            return self.free(node)
        return lambda case: found.present if isinstance(found := case[name], _Special) else True

    def compare(self, node: ast.Compare) -> Test:
        operator = node.ops[0]
        left_name, left = self.term(node.left)
        right_node = node.comparators[0]
        if isinstance(operator, ast.In | ast.NotIn):
            if not isinstance(right_node, ast.List | ast.Tuple):
                known = ast.unparse(right_node) == "user.groups" and left_name is None
                return self.free(node, (True, False) if known else _FREE)
            many = tuple(self.term(each)[1] for each in right_node.elts)
            if left_name is not None:
                self.variables[left_name].literals.update(many)
            inside = values.membership(_of_the_case, values.constant(many))
            test = self.asked(inside, left_name, left)
            return _not(test) if isinstance(operator, ast.NotIn) else test
        right_name, right = self.term(right_node)
        if left_name is not None and right_name is not None:
            return self.free(node)
        name, literal = (left_name, right) if left_name is not None else (right_name, left)
        if name is not None:
            self.variables[name].literals.add(literal)
        sides: tuple[values.Evaluate, values.Evaluate] = (_of_the_case, values.constant(right))
        if left_name is None:
            sides = (values.constant(left), _of_the_case)
        return self.asked(values.comparison(_SYMBOL[type(operator)], *sides), name, right)

    def asked(self, evaluate: values.Evaluate, name: str | None, literal: object) -> Test:
        """The gateway's own comparison, of the case's value, or of the literal where it reads no name."""

        def ask(case: Case) -> object:
            found = literal if name is None else case[name]
            return evaluate(Facts(arguments=None, context={"case": UNKNOWN if isinstance(found, _Special) else found}))

        return ask

    def free(self, node: ast.expr, among: tuple[object, ...] = _FREE) -> Test:
        """What no literal tells apart: one variable a text, the same for the same text."""
        name = f"({ast.unparse(node)})"
        self.variables.setdefault(name, _Variable(free=among))
        return lambda case: case[name]

    def term(self, node: ast.expr) -> tuple[str | None, object]:
        """(the name that is read, nothing) or (None, the literal)."""
        if isinstance(node, ast.Constant):
            value = node.value
            return None, Decimal(str(value)) if isinstance(value, float) else value
        if isinstance(node, ast.UnaryOp):
            number = self.term(node.operand)[1]
            return None, -number if isinstance(number, int | Decimal) else number
        text = ast.unparse(node)
        if text in ("true", "false"):
            return None, text == "true"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "date":
            moment = datetime.fromisoformat(str(self.term(node.args[0])[1]))
            return None, moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        self.variables.setdefault(text, self.variable(node, text))
        return text, None

    def variable(self, node: ast.expr, text: str) -> _Variable:
        if text in _FIXED:
            return _FIXED[text]()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "len":
                return _Variable("number", whole=True, low=0, specials=(_ODD,))
            if node.func.id == "lower":
                return _Lowered("string", specials=(_ODD,))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "args":
            kind = self.types.get(node.attr, "any")
            whole = kind == "integer"
            kind = "number" if whole else kind if kind in _SPREADS else "any"
            return _Variable(kind, whole=whole, specials=(_ABSENT, _ODD, _OTHER))
        return _Variable()


class _Lowered(_Variable):
    """lower(…): never a text with a capital letter."""

    def cases(self) -> list[object]:
        self.literals = {t for t in self.literals if not any("A" <= c <= "Z" for c in str(t))}
        return [*_texts(self, self.literals), _ODD]


def _not(inner: Test) -> Test:
    def test(case: Case) -> object:
        value = inner(case)
        return not value if isinstance(value, bool) else UNKNOWN

    return test


def _all(parts: list[Test]) -> Test:
    def test(case: Case) -> object:
        found = [part(case) for part in parts]
        return False if any(each is False for each in found) else True if all(each is True for each in found) else UNKNOWN

    return test


def _any(parts: list[Test]) -> Test:
    def test(case: Case) -> object:
        found = [part(case) for part in parts]
        return True if any(each is True for each in found) else False if all(each is False for each in found) else UNKNOWN

    return test


def ends(text: str) -> tuple[datetime | None, datetime | None]:
    """(begin, end): the latest moment before which, and the earliest from which, a condition surely does not hold."""
    begin: datetime | None = None
    end: datetime | None = None
    for operator, moment in _time_bounds(ast.parse(" ".join(text.split("\n")).strip(), mode="eval").body):
        if operator in ("<", "<=", "=="):
            end = moment if end is None else min(end, moment)
        if operator in (">", ">=", "=="):
            begin = moment if begin is None else max(begin, moment)
    return begin, end


_MIRROR = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


def _time_bounds(node: ast.expr) -> Iterator[tuple[str, datetime]]:
    """Comparisons of time.now with a date that must hold for the whole to hold."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for part in node.values:
            yield from _time_bounds(part)
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _SYMBOL:
        reader, symbol = _Reader({}), _SYMBOL[type(node.ops[0])]
        (left, a), (right, b) = reader.term(node.left), reader.term(node.comparators[0])
        if left == "time.now" and isinstance(b, datetime):
            yield symbol, b
        elif right == "time.now" and isinstance(a, datetime):
            yield _MIRROR[symbol], a
