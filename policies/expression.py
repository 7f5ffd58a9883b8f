"""The condition language: total, three-valued, typed against the tools' arguments; user text is parsed, never run.

Names: args.* user.* agent.* ctx.* time.* tool.*; and, or, not, one comparison at a time, in; under(), host_in(), ip_in(), like(),
all_in(), len(), lower(), has(), date(), hour(), weekday().  Nothing else can be called, assigned or looked into.
"""

from __future__ import annotations

import ast
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from policies import values
from policies.finding import suggest
from policies.values import Evaluate, Facts

MAX_CHARACTERS = 2000
MAX_NODES = 400
MAX_DEPTH = 30
FUNCTIONS = ("under", "host_in", "ip_in", "like", "all_in", "len", "lower", "has", "date", "hour", "weekday")
ROOTS = ("args", "user", "agent", "ctx", "time", "tool")

_COMPARE: dict[type[ast.cmpop], str] = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


class ExpressionError(Exception):
    """The text is no condition.  `column` counts from 1 within the text."""

    def __init__(self, message: str, column: int = 1, help: str = "") -> None:  # noqa: A002  as in Finding
        super().__init__(message)
        self.message = message
        self.column = column
        self.help = help


@dataclass(frozen=True, slots=True)
class Typed:
    """A part of a condition: how it runs, and what it yields.

    type   number, string, boolean, moment, array, object, or any.
    items  type of a list's elements, or any.
    value  of a literal.
    """

    evaluate: Evaluate
    type: str = "any"
    items: str = "any"
    value: object = None
    literal: bool = False


@dataclass(frozen=True, slots=True)
class Expression:
    """A condition that was understood.  Evaluates to True, False or `values.UNKNOWN`; never raises on plain data."""

    text: str
    evaluate: Evaluate
    arguments: frozenset[str]
    """Names of the arguments it reads."""
    reads: frozenset[str] = frozenset()
    """Every name it reads, whole, as `args.amount`, `user.groups`, `tool.risk`; `time.now` also for hour() and weekday()."""

    def __call__(self, facts: Facts) -> object:
        return self.evaluate(facts)


def parse(text: str, types: Mapping[str, str] | None = None) -> Expression:
    """Understand a condition.

    types are a tool's arguments and their types; None accepts any argument (its type is then checked only while deciding).
    Raises ExpressionError with the place, and the next step where one is known.
    """
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"the condition is longer than {MAX_CHARACTERS} characters", 1, "split it into named conditions")
    if "\\" in text:
        raise ExpressionError("a condition holds no backslash", text.index("\\") + 1)
    bare = re.sub(r"\"[^\"]*\"|'[^']*'", lambda m: " " * len(m[0]), text)
    if assignment := re.search(r"(?<![=!<>])=(?!=)", bare):
        raise ExpressionError("a single '=' compares nothing", assignment.start() + 1, "write '==' to compare")
    if "#" in bare:
        raise ExpressionError("a condition holds no comment", bare.index("#") + 1, "explain it in 'say'")
    try:
        tree = ast.parse(" ".join(text.split("\n")).strip(), mode="eval")
    except SyntaxError as error:
        raise ExpressionError(
            "this is no condition",
            error.offset or 1,
            f"it is made of names, comparisons, and, or, not, in and {', '.join(FUNCTIONS)}",
        ) from None
    except (ValueError, RecursionError, MemoryError):
        raise ExpressionError("this is no condition") from None
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES * 2:
        raise ExpressionError(f"the condition has more than {MAX_NODES} parts", 1, "split it into named conditions")
    parser = _Parser(" ".join(text.split("\n")).strip(), types)
    result = parser.part(tree.body, 0)
    if result.type not in ("boolean", "any"):
        raise ExpressionError(f"a condition is true or false; this is a {result.type}", 1, "compare it with something")
    return Expression(text, result.evaluate, frozenset(parser.arguments), frozenset(parser.reads))


def spaced(text: str) -> str:
    """A condition in one line, as it is written but for the space between its parts; what stands in quotes stays as it is."""
    return _SPACE.sub(lambda found: found[0] if found[0][0] in "\"'" else " ", " ".join(text.split("\n"))).strip()


@dataclass(slots=True)
class _Parser:
    """From Python's syntax tree to closures, by a closed list of forms."""

    text: str
    types: Mapping[str, str] | None
    arguments: set[str] = field(default_factory=set)
    reads: set[str] = field(default_factory=set)

    def part(self, node: ast.expr, depth: int) -> Typed:
        if depth > MAX_DEPTH:
            raise self.wrong(node, f"more than {MAX_DEPTH} levels")
        if isinstance(node, ast.BoolOp):
            parts = tuple(self.truth(value, depth) for value in node.values)
            combine = values.conjunction if isinstance(node.op, ast.And) else values.disjunction
            return Typed(combine(parts), "boolean")
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return Typed(values.negation(self.truth(node.operand, depth)), "boolean")
        if isinstance(node, ast.Compare):
            return self.compare(node, depth)
        if isinstance(node, ast.Call):
            return self.call(node, depth)
        if isinstance(node, ast.Attribute | ast.Name):
            return self.name(node)
        return self.literal(node)

    def wrong(self, node: ast.AST, message: str, help_: str = "") -> ExpressionError:
        return ExpressionError(message, getattr(node, "col_offset", 0) + 1, help_)

    def truth(self, node: ast.expr, depth: int) -> Evaluate:
        found = self.part(node, depth + 1)
        if found.type not in ("boolean", "any"):
            raise self.wrong(node, f"and, or, not work on true and false; this is a {found.type}", "compare it with something")
        return found.evaluate

    # --- literals and names

    def literal(self, node: ast.expr) -> Typed:
        sign = 1
        inner = node
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            sign, inner = -1, node.operand
        if isinstance(inner, ast.Constant):
            value = inner.value
            if isinstance(value, str | bool) and sign == 1:
                return Typed(values.constant(value), "string" if isinstance(value, str) else "boolean", "any", value, True)
            if isinstance(value, int | float) and not isinstance(value, bool):
                number = self.number(inner) * sign
                return Typed(values.constant(number), "number", "any", number, True)
        if isinstance(node, ast.List | ast.Tuple):
            return self.elements(node)
        raise self.wrong(
            node, "a condition has no such form", f"it is made of names, comparisons, and, or, not, in and {', '.join(FUNCTIONS)}"
        )

    def number(self, node: ast.Constant) -> int | Decimal:
        source = ast.get_source_segment(self.text, node) or ""
        if not re.fullmatch(r"[0-9]{1,60}(\.[0-9]{1,60})?", source):
            raise self.wrong(node, f"'{source[:40]}' is no plain decimal number", "write digits, and '.' before a fraction")
        try:
            return Decimal(source) if "." in source else int(source)
        except (InvalidOperation, ValueError):  # pragma: no cover  the pattern admits none
            raise self.wrong(node, "no number") from None

    def elements(self, node: ast.List | ast.Tuple) -> Typed:
        items = [self.literal(each) for each in node.elts]
        kinds = {item.type for item in items}
        if len(kinds) > 1 or "array" in kinds:
            raise self.wrong(node, "the elements of a list are all text or all numbers", "use two lists")
        many = tuple(item.value for item in items)
        return Typed(values.constant(many), "array", kinds.pop() if kinds else "any", many, True)

    def name(self, node: ast.Attribute | ast.Name) -> Typed:
        path: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            path.insert(0, inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            raise self.wrong(node, "only names have members")
        root = inner.id
        if not path:
            if root in ("true", "false"):
                return Typed(values.constant(root == "true"), "boolean", "any", root == "true", True)
            raise self.wrong(
                node,
                f"'{root}' is no name that a condition knows",
                suggest(root, [*ROOTS, *FUNCTIONS]) or f"an argument is written args.{root}; text stands in quotes",
            )
        self.reads.add(".".join([root, *path]))
        if root == "args":
            return self.argument(node, path)
        if root in ("agent", "ctx"):
            return Typed(values.name(root, tuple(path)))
        known = values.NAMES.get((root, ".".join(path)))
        if known is None:
            names = [*(".".join(key) for key in values.NAMES), "args.", "agent.", "ctx."]
            raise self.wrong(
                node, f"'{root}.{'.'.join(path)}' is no name that a condition knows",
                suggest(".".join([root, *path]), names) or f"known are {', '.join(names)}",
            )  # fmt: skip
        return Typed(known[1], known[0], "string" if known[0] == "array" else "any")

    def argument(self, node: ast.expr, path: list[str]) -> Typed:
        first, *rest = path
        self.arguments.add(first)
        kind = "any" if self.types is None else self.types.get(first, "")
        if not kind:
            raise self.wrong(node, f"there is no argument '{first}'", suggest(first, self.types or ()))
        if rest and kind not in ("object", "any"):
            raise self.wrong(node, f"args.{first} is a {kind}, it has no members")
        read = values.argument(first)
        for key in rest:
            read = values.inside(read, key)
        return Typed(read, "any" if rest else "number" if kind == "integer" else kind)

    # --- comparisons

    def compare(self, node: ast.Compare, depth: int) -> Typed:
        if len(node.ops) != 1:
            raise self.wrong(node, "comparisons are not chained", "write 'a < b and b < c'")
        left = self.part(node.left, depth + 1)
        right = self.part(node.comparators[0], depth + 1)
        operator = node.ops[0]
        if isinstance(operator, ast.In | ast.NotIn):
            found = self.membership(node, left, right)
            return Typed(values.negation(found) if isinstance(operator, ast.NotIn) else found, "boolean")
        symbol = _COMPARE.get(type(operator))
        if symbol is None:
            raise self.wrong(node, "there is no such comparison", "use == != < <= > >= in")
        for side in (left, right):
            if side.type in ("array", "object"):
                raise self.wrong(node, f"a {side.type} cannot be compared", "use 'in' or len()")
        if "any" not in (left.type, right.type) and left.type != right.type:
            raise self.wrong(node, f"a {left.type} is compared with a {right.type}", "compare values of one type")
        for side in (left, right):
            if symbol not in ("==", "!=") and side.type in ("string", "boolean"):
                raise self.wrong(node, f"a {side.type} has no order", "use == or !=")
        written = right.value if right.literal else None
        return Typed(values.comparison(symbol, left.evaluate, right.evaluate, written), "boolean")

    def membership(self, node: ast.expr, left: Typed, right: Typed) -> Evaluate:
        if right.type not in ("array", "any"):
            raise self.wrong(node, f"'in' looks into a list; this is a {right.type}", "use like() to look into a text")
        if left.type in ("array", "object"):
            raise self.wrong(node, f"a {left.type} cannot be an element", "name one value")
        if "any" not in (left.type, right.items) and left.type != right.items:
            raise self.wrong(node, f"a {left.type} is looked for among {right.items}s", "they are never equal")
        if right.literal and right.items == "string" and isinstance(right.value, tuple):  # the same answer in one look
            return values.membership(left.evaluate, values.constant(frozenset(right.value)))
        return values.membership(left.evaluate, right.evaluate)

    # --- functions

    def call(self, node: ast.Call, depth: int) -> Typed:
        if isinstance(node.func, ast.Attribute):
            help_ = f'known are {", ".join(f"{name}(…)" for name in FUNCTIONS)}, as like(args.name, "a*")'
            raise self.wrong(node, f"nothing is called on a value, as '.{node.func.attr}()' is", help_)
        function = node.func.id if isinstance(node.func, ast.Name) else ""
        if function not in FUNCTIONS or node.keywords:
            raise self.wrong(
                node,
                f"there is no function '{function or '?'}'",
                suggest(function, FUNCTIONS) or f"known are {', '.join(FUNCTIONS)}",
            )
        wanted = 2 if function in _TEXT_TESTS or function == "all_in" else 1
        if len(node.args) != wanted:
            raise self.wrong(node, f"{function}() takes {wanted} argument{'s' if wanted > 1 else ''}")
        if function == "has":
            return self.has(node.args[0])
        first = self.part(node.args[0], depth + 1)
        if function == "date":
            return self.date(node, first)
        if function in _CLOCKS:
            return self.clock(node, function, first)
        if function == "all_in":
            return self.all_in(node, first, self.part(node.args[1], depth + 1))
        if function == "len":
            if first.type not in ("string", "array", "any"):
                raise self.wrong(node, f"a {first.type} has no length")
            return Typed(values.length(first.evaluate), "number")
        if first.type not in ("string", "any"):
            raise self.wrong(node, f"{function}() works on text; this is a {first.type}")
        if function == "lower":
            return Typed(values.lowered(first.evaluate), "string")
        second = self.part(node.args[1], depth + 1)
        return Typed(values.of_text(first.evaluate, self.text_test(node, function, second)), "boolean")

    def has(self, node: ast.expr) -> Typed:
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "args"):
            raise self.wrong(node, "has() takes one argument's name", "write has(args.name)")
        self.argument(node, [node.attr])
        self.reads.add(f"args.{node.attr}")
        return Typed(values.presence(node.attr), "boolean")

    def date(self, node: ast.Call, first: Typed) -> Typed:
        try:
            moment = datetime.fromisoformat(first.value if isinstance(first.value, str) else "")
            if isinstance(first.value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", first.value):
                moment = moment.replace(tzinfo=UTC)
        except ValueError:
            raise self.wrong(node, "date() takes a date in quotes", 'write date("2026-12-01T00:00:00+00:00")') from None
        if moment.tzinfo is None:
            raise self.wrong(node, "the time has no zone", "add '+00:00' for UTC")
        return Typed(values.constant(moment), "moment", "any", moment, True)

    def clock(self, node: ast.Call, function: str, first: Typed) -> Typed:
        """hour() and weekday() of a zone that is written out: a rule about office hours says whose office."""
        name = first.value if isinstance(first.value, str) else ""
        try:
            zone = ZoneInfo(name) if _ZONE.fullmatch(name) else None
        except (ValueError, OSError, ZoneInfoNotFoundError):
            zone = None
        if zone is None:
            help_ = suggest(name, available_timezones()) or f'write {function}("Europe/Berlin") or {function}("UTC")'
            raise self.wrong(node, f"{function}() takes the name of a time zone, in quotes", help_)
        self.reads.add("time.now")
        return Typed(_CLOCKS[function](zone), "number")

    def all_in(self, node: ast.Call, first: Typed, second: Typed) -> Typed:
        if not second.literal or not isinstance(second.value, tuple):
            raise self.wrong(
                node, "the second argument of all_in() is a list that is written out", 'write all_in(args.to, ["a", "b"])'
            )
        if not second.value:
            raise self.wrong(node, "an empty list holds nothing")
        if first.type not in ("array", "any"):
            raise self.wrong(node, f"all_in() looks through a list; this is a {first.type}", "use 'in' for one value")
        if "any" not in (first.items, second.items) and first.items != second.items:
            raise self.wrong(node, f"{first.items}s are looked for among {second.items}s", "they are never equal")
        return Typed(values.all_in(first.evaluate, second.value), "boolean")

    def text_test(self, node: ast.Call, function: str, second: Typed) -> Callable[[str], object]:
        many = second.value if isinstance(second.value, tuple) else (second.value,)
        if not second.literal or not all(isinstance(each, str) and each for each in many):
            raise self.wrong(node, f"the second argument of {function}() is written out, in quotes")
        texts = tuple(str(each) for each in many)
        if function in ("under", "like") and isinstance(second.value, tuple):
            raise self.wrong(node, f"{function}() takes one text", f"write {function}(…) or {function}(…)")
        if not texts:
            raise self.wrong(node, "an empty list holds nothing")
        problem = _TEXT_TESTS[function][1](texts)
        if problem:
            raise self.wrong(node, problem)
        return _TEXT_TESTS[function][0](texts)


def _bad_base(texts: tuple[str, ...]) -> str:
    return "" if values.clean_path(texts[0]) else f"'{texts[0]}' is no clean path"


def _bad_hosts(texts: tuple[str, ...]) -> str:
    bad = [t for t in texts if "/" in t or values.host_of(t.removeprefix("*.")) != t.removeprefix("*.")]
    return f"'{bad[0]}' is no host name" if bad else ""


def _bad_networks(texts: tuple[str, ...]) -> str:
    for text in texts:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            return f"no network: {error}"
    return ""


_TEXT_TESTS: dict[str, tuple[Callable[[tuple[str, ...]], Callable[[str], object]], Callable[[tuple[str, ...]], str]]] = {
    "under": (lambda texts: values.under(texts[0]), _bad_base),
    "like": (lambda texts: values.like(texts[0]), lambda _texts: ""),
    "host_in": (values.host_in, _bad_hosts),
    "ip_in": (values.ip_in, _bad_networks),
}
_CLOCKS: dict[str, Callable[[ZoneInfo], Evaluate]] = {"hour": values.hour, "weekday": values.weekday}
_SPACE = re.compile(r"\"[^\"]*\"|'[^']*'|\s+")
_ZONE = re.compile(r"[A-Za-z]{1,30}(/[A-Za-z0-9_+-]{1,30}){0,2}")
