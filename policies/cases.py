"""The cases that conditions can tell apart, read off their own literals: what to try, and whether that is all there is.

A condition is read here only to find out what to try; whether it holds is always asked of the condition itself.
"""

from __future__ import annotations

import ast
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from policies.expression import Expression
from policies.registry import ToolSpec
from policies.values import Facts

MAX_CASES: Final = 20_000
"""How many combinations are tried; where there are more, a seeded sample is, and nothing is proven by it."""

Path = tuple[str, ...]
"""A name that conditions read: ("args", "amount"), ("ctx", "protocol"), ("user", "groups"), ("time", "hour")."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
_ANYBODY = "user:any/body"
_SUPPLIED = frozenset({("user", "id"), ("user", "groups"), ("time", "now"), ("time", "hour"), ("time", "weekday")})


class _Absent:
    """No value at all."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that a condition may read, put down for one try.  `read` are the names that were given a value, to show."""

    arguments: Mapping[str, object]
    subject: str = _ANYBODY
    groups: frozenset[str] = frozenset()
    context: Mapping[str, object] = field(default_factory=dict)
    at: int = 0
    read: tuple[tuple[str, object], ...] = ()

    def facts(self, types: Mapping[str, str], tool: ToolSpec | None = None) -> Facts:
        """As conditions are given it, for a tool with these arguments."""
        return Facts(
            arguments=self.arguments,
            types=types,
            tool=tool,
            subject=self.subject,
            groups=self.groups,
            context=self.context,
            at=self.at,
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} = {shown(value)}" for name, value in self.read) or "any arguments"


def shown(value: object) -> str:
    """A value as conditions write it."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple | frozenset):
        items = sorted(value, key=str) if isinstance(value, frozenset) else value
        return f"[{', '.join(shown(each) for each in items)}]"
    if isinstance(value, datetime):
        return value.isoformat()
    return "null" if value is None else str(value)


@dataclass(slots=True)
class Cases:
    """What to try for each name.  `complete`: every way in which the conditions can come out is among the combinations."""

    values: dict[Path, list[object]]
    complete: bool

    def __iter__(self) -> Iterator[Case]:
        paths = list(self.values)
        for chosen in _combinations([self.values[path] for path in paths]):
            yield assemble(dict(zip(paths, chosen, strict=True)))


def cases_of(expressions: Iterable[Expression], types: Iterable[Mapping[str, str]]) -> Cases:
    """The cases of all these conditions together; `types` are the tool's arguments, before and after a change."""
    known: dict[str, str] = {}
    clean = True
    for each in types:
        for name, kind in each.items():
            clean = clean and known.setdefault(name, kind) == kind
    reader = _Reader(known)
    for expression in expressions:
        reader.read(tree_of(expression))
        reader.also(expression.reads)
    values = {path: found.values() for path, found in sorted(reader.found.items())}
    complete = clean and reader.complete and all(found.complete for found in reader.found.values())
    time = [path for path in values if path[0] == "time"]
    if time:
        complete = complete and (len(time) == 1 or ("time", "now") not in values)
        now = reader.found.get(("time", "now"))
        moments = {path: values.pop(path) for path in time}.get(("time", "now"), [])
        values["time", "now"] = [*moments, *([] if now is not None and now.complete and len(time) == 1 else _week())]
    size = 1
    for options in values.values():
        size *= len(options)
    complete = complete and not any(path[:n] in values for path in values for n in range(1, len(path)))
    return Cases(values, complete and size <= MAX_CASES)


def tree_of(expression: Expression) -> ast.expr:
    """The syntax of a condition that was understood, its fractions exact."""
    text = " ".join(expression.text.split("\n")).strip()
    tree = ast.parse(text, mode="eval").body
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            node.value = Decimal(ast.get_source_segment(text, node) or "0")  # type: ignore[assignment]  # read by literal_of alone
    return tree


def path_of(node: ast.expr) -> Path | None:
    """The name that a part of a condition is; None for anything else."""
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.insert(0, node.attr)
        node = node.value
    return (node.id, *path) if isinstance(node, ast.Name) and path else None


def literal_of(node: ast.expr) -> Any:
    """The value that is written out, a tuple for a list; ABSENT for anything else.  Numbers are exact, dates are moments."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = literal_of(node.operand)
        return -inner if isinstance(inner, int | Decimal) else ABSENT
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | Decimal):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        many = tuple(literal_of(each) for each in node.elts)
        return ABSENT if ABSENT in many else many
    if isinstance(node, ast.Name) and node.id in ("true", "false"):
        return node.id == "true"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "date":
        moment = datetime.fromisoformat(str(literal_of(node.args[0])))
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return ABSENT


def assemble(chosen: Mapping[Path, object]) -> Case:
    """One case of a value for each name; ABSENT leaves the name out."""
    arguments: dict[str, Any] = {}
    context: dict[str, Any] = {}
    subject, groups, at = _ANYBODY, frozenset[str](), (_MONDAY - _EPOCH) // timedelta(microseconds=1)
    read: list[tuple[str, object]] = []
    for path, value in sorted(chosen.items(), key=lambda item: len(item[0])):
        if value is ABSENT:
            continue
        read.append((".".join(path), value))
        if path == ("user", "id"):
            subject = str(value)
        elif path == ("user", "groups") and isinstance(value, frozenset):
            groups = value
        elif path == ("time", "now") and isinstance(value, datetime):
            at = (value - _EPOCH) // timedelta(microseconds=1)
        elif path[0] == "args":
            _put(arguments, path[1:], value)
        elif path[0] in ("agent", "ctx"):
            _put(context, path, value)
    return Case(arguments, subject, groups, context, at, tuple(sorted(read, key=lambda item: item[0])))


def _put(into: dict[str, Any], path: Path, value: object) -> None:
    for key in path[:-1]:
        inner = into.setdefault(key, {})
        if not isinstance(inner, dict):
            return
        into = inner
    into[path[-1]] = dict(value) if isinstance(value, dict) else value  # its members are put into it, in this case alone


def _combinations(options: list[list[object]]) -> Iterator[tuple[object, ...]]:
    size = 1
    for each in options:
        size *= len(each)
    if size <= MAX_CASES:
        yield from itertools.product(*options)
        return
    rng = random.Random(size)  # noqa: S311  a sample that is the same each time, no secret
    for _ in range(MAX_CASES):
        yield tuple(rng.choice(each) for each in options)


def _week() -> list[object]:
    """Every hour of every day of a week."""
    return [_MONDAY + timedelta(hours=hour) for hour in range(24 * 7)]


@dataclass(slots=True)
class _Found:
    """What conditions compare one name with.  `kind` is its declared type, or any."""

    kind: str
    literals: list[object] = field(default_factory=list)
    extra: list[object] = field(default_factory=list)  # values that a function is likely to tell apart
    members: list[object] = field(default_factory=list)  # literals that are looked for in it
    complete: bool = True
    asked_for: bool = False  # has()

    def values(self) -> list[object]:
        """What to try: telling values first, nothing at all last."""
        found: list[object] = []
        if self.kind in ("number", "integer", "any"):
            found += _numbers([v for v in self.literals if type(v) in (int, Decimal)], whole=self.kind == "integer")
        if self.kind in ("string", "any"):
            found += self._texts()
        if self.kind in ("boolean", "any"):
            found += [True, False]
        if self.kind == "moment":
            found += _moments([v for v in self.literals if isinstance(v, datetime)])
        if self.kind == "object":
            found.append({})
        if self.kind == "groups":
            return [frozenset(each) for each in self._subsets()]
        if self.kind in ("array", "any"):
            found += [list(each) for each in self._subsets()] + [v for v in self.extra if isinstance(v, list)]
            found += [[*each, None] for each in self._subsets()]
        if self.kind == "moment":
            return found
        if self.kind == "id":
            return [*self._texts()[:-1], _ANYBODY]
        return [*found, *([None] if self.asked_for else []), ABSENT]

    def _texts(self) -> list[object]:
        """Every text that is named, what a function may tell apart, and last one that is neither."""
        found = list(dict.fromkeys(v for v in (*self.literals, *self.extra) if isinstance(v, str)))
        other = "other"
        while other in found:
            other += "r"
        return [*found, other]

    def _subsets(self) -> list[tuple[object, ...]]:
        members = [value for _, value in {(type(value), value): value for value in self.members}.items()]
        if len(members) > 6:
            self.complete = False
            return [(), *((each,) for each in members), tuple(members)]
        return [each for n in range(len(members), -1, -1) for each in itertools.combinations(members, n)]


def _numbers(literals: list[Any], *, whole: bool) -> list[object]:
    """Every literal, a number in each gap between two of them, and one beyond either end."""
    exact = sorted({Decimal(each) for each in literals}) or [Decimal(0)]
    found: list[Decimal] = []
    for at, each in enumerate(exact):
        above = exact[at + 1] if at + 1 < len(exact) else None
        low = each.to_integral_value(rounding="ROUND_FLOOR")
        found += [low + 1] if above is None or low + 1 < above else []
        if above is not None and not whole and low + 1 >= above:
            found.append((each + above) / 2)
    found += [*exact, exact[0].to_integral_value(rounding="ROUND_CEILING") - 1]
    if whole:
        found += [each.to_integral_value(rounding="ROUND_FLOOR") for each in exact]
        found = [each for each in found if each == each.to_integral_value()]
    return [int(each) if each == each.to_integral_value() else each for each in dict.fromkeys(found)]


def _moments(literals: list[datetime]) -> list[object]:
    step = timedelta(microseconds=1)
    near = [m.astimezone(UTC) for m in literals if 1 < m.year < 9999]  # room for a step and a zone
    return [moment + step * n for moment in near for n in (0, 1, -1)] or [_MONDAY]


class _Reader:
    """Goes through conditions and notes what each name is compared with."""

    def __init__(self, types: Mapping[str, str]) -> None:
        self._types = types
        self.found: dict[Path, _Found] = {}
        self.complete = True

    def read(self, node: ast.expr) -> None:
        """One condition, or a part of it."""
        if isinstance(node, ast.BoolOp):
            for part in node.values:
                self.read(part)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self.read(node.operand)
        elif isinstance(node, ast.Compare):
            self._compare(node.left, node.ops[0], node.comparators[0])
        elif isinstance(node, ast.Call):
            self._call(node)
        elif (path := path_of(node)) is not None:
            self._at(path)
        elif literal_of(node) is ABSENT:
            self.complete = False

    def also(self, names: Iterable[str]) -> None:
        """Names that a condition reads without writing them, as `time.now` in hour("UTC")."""
        for name in names:
            path = tuple(name.split("."))
            if path not in self.found:
                self._at(path).complete = False

    def _at(self, path: Path) -> _Found:
        if path not in self.found:
            if path[0] not in ("args", "agent", "ctx") and path not in _SUPPLIED:
                self.complete = False  # a name that no case gives a value
            fixed: dict[Path, str] = {("user", "id"): "id", ("user", "groups"): "groups", ("time", "now"): "moment"}
            kind = fixed.get(path)
            if path[0] == "args":
                kind = self._types.get(path[1], "any") if len(path) == 2 else "any"
            self.found[path] = _Found(kind or ("number" if path[0] == "time" else "any"))
        return self.found[path]

    def _compare(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> None:
        if path_of(left) is None and path_of(right) is not None and not isinstance(operator, ast.In | ast.NotIn):
            left, right = right, left
        path, literal = path_of(left), literal_of(right)
        if path is not None and literal is not ABSENT:
            self._at(path).literals += literal if isinstance(literal, tuple) else (literal,)
            return
        inside, wanted = path_of(right), literal_of(left)
        if isinstance(operator, ast.In | ast.NotIn) and inside is not None and wanted is not ABSENT:
            self._at(inside).members.append(wanted)
            return
        self.complete = False  # two names, or a function: the literals are tried, and prove nothing
        for side, other in ((left, right), (right, left)):
            if (name := path_of(side)) is not None:
                self._at(name)
            if isinstance(side, ast.Call):
                self._call(side, literal_of(other))

    def _call(self, node: ast.Call, compared: Any = ABSENT) -> None:
        function = node.func.id if isinstance(node.func, ast.Name) else ""
        path = path_of(node.args[0])
        if path is None:
            if isinstance(node.args[0], ast.Call):
                self._call(node.args[0])
            self.complete = False
            return
        found = self._at(path)
        if function == "has":
            found.asked_for = True
            return
        found.complete = False
        given = compared if len(node.args) < 2 else literal_of(node.args[1])
        found.extra += _telling(function, given if isinstance(given, tuple) else (given,))


def _telling(function: str, literals: tuple[Any, ...]) -> list[object]:
    """Values near the edges of what a function tests."""
    found: list[object] = []
    if function == "all_in":
        found += [list(literals), list(literals[:1]), [*literals[1:], "another"], []]
    for each in literals:
        if function == "len" and isinstance(each, int):
            sizes = [n for n in (each, each + 1, each - 1) if 0 <= n <= 10_000]
            found += [*("x" * n for n in sizes), *(["x"] * n for n in sizes if n <= 100)]
        elif not isinstance(each, str):
            continue
        elif function == "under":
            found += [f"{each.rstrip('/')}/x", each, f"{each.rstrip('/')}x", f"{each.rstrip('/')}/../x", "/", "/other"]
        elif function == "like":
            found += [each.replace("*", ""), each.replace("*", "x"), each.replace("*", "/x."), "x" + each.replace("*", "")]
        elif function == "host_in":
            host = each.removeprefix("*.")
            found += [host, f"https://{host}/", f"a.{host}", f"https://x{host}/", f"{host}.evil.example", "https://u@" + host]
        elif function == "ip_in":
            found += [each.partition("/")[0], "192.0.2.77", "2001:db8::77", "10.0.0.1", "127.0.0.1"]
        else:
            found += [each, each.upper()]
    return found
