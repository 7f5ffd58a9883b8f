"""What conditions are made of while they run: three-valued, total, and blind to everything but plain data.

Whatever is missing, of the wrong type or not exactly readable is `UNKNOWN`; nothing here raises and nothing changes its input.
"""

from __future__ import annotations

import ipaddress
import operator as operators
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import msgspec

from policies import addresses
from policies.model import NOTHING

if TYPE_CHECKING:
    from policies.registry import ToolSpec

clean_path, host_of = addresses.clean_path, addresses.host_of
MAX_INT_BITS = 512
MAX_TEXT = 1_000_000
MAX_ELEMENTS = 10_000


class _Unknown:
    """The third truth value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()
Value = object
Evaluate = Callable[["Facts"], Value]

NO_TYPES: Mapping[str, str] = {}


class Facts(msgspec.Struct, kw_only=True, gc=False):
    """What a condition may read of one question.

    types    of the arguments of the tool that is asked for.
    tool     what tools.yaml says of it; None where no tool is asked for.
    context  with the members of `agent` and of `ctx`.
    at       UTC microseconds since the epoch.
    """

    arguments: Mapping[str, object] | None
    types: Mapping[str, str] = NO_TYPES
    subject: str = ""
    groups: frozenset[str] = frozenset()
    context: Mapping[str, object] = NOTHING
    at: int = 0
    tool: ToolSpec | None = None
    _moment: datetime | None = None

    @property
    def moment(self) -> datetime:
        """The time of the question, UTC."""
        if self._moment is None:
            self._moment = datetime.fromtimestamp(self.at // 1_000_000, UTC).replace(microsecond=self.at % 1_000_000)
        return self._moment


def _is_number(value: Value) -> bool:
    if type(value) is int:
        return value.bit_length() <= MAX_INT_BITS
    return type(value) is Decimal and value.is_finite()


_KINDS: Mapping[type, str] = {str: "string", bool: "boolean", int: "number", Decimal: "number", datetime: "moment"}


def kind(value: Value) -> str | None:
    """`number`, `string`, `boolean`, `moment`; None for what cannot be compared: floats, null, NaN, structures."""
    found = _KINDS.get(type(value))
    return found if found != "number" or _is_number(value) else None


_FITS: Mapping[str, Callable[[Value], bool]] = {
    "string": lambda value: type(value) is str,
    "boolean": lambda value: type(value) is bool,
    "number": _is_number,
    "moment": lambda value: type(value) is datetime,
    "integer": lambda value: type(value) is int and _is_number(value),
    "array": lambda value: isinstance(value, list | tuple),
    "object": lambda value: isinstance(value, Mapping),
}
"""Whether a value is of a kind, or of another type that tools.yaml can declare for an argument."""


def argument(name: str) -> Evaluate:
    """Reads args.<name>: unknown unless it is there and of the type that tools.yaml declares."""

    def read(facts: Facts) -> Value:
        arguments = facts.arguments
        if arguments is None:
            return UNKNOWN
        value = arguments.get(name)
        fits = _FITS.get(facts.types.get(name, ""))
        return value if fits is not None and fits(value) else UNKNOWN

    return read


def inside(outer: Evaluate, key: str) -> Evaluate:
    """Reads a member of an object; unknown where another one differs in case alone, as a tool could read that one."""
    folded = key.casefold()

    def read(facts: Facts) -> Value:
        value = outer(facts)
        if not isinstance(value, Mapping) or any(type(k) is str and k != key and k.casefold() == folded for k in value):
            return UNKNOWN
        found = value.get(key)
        return UNKNOWN if found is None else found

    return read


def presence(name: str) -> Evaluate:
    """has(args.<name>): whether it is there; null, and something of another type, is neither there nor absent."""
    read = argument(name)

    def test(facts: Facts) -> Value:
        if facts.arguments is None:
            return UNKNOWN
        if name not in facts.arguments:
            return False
        return UNKNOWN if read(facts) is UNKNOWN else True

    return test


def constant(value: Value) -> Evaluate:
    """A literal."""
    return lambda _facts: value


def negation(inner: Evaluate) -> Evaluate:
    """Kleene's not."""

    def test(facts: Facts) -> Value:
        value = inner(facts)
        if value is True:
            return False
        return True if value is False else UNKNOWN

    return test


def conjunction(parts: tuple[Evaluate, ...]) -> Evaluate:
    """Kleene's and: one False decides, then one unknown does."""

    def test(facts: Facts) -> Value:
        result: Value = True
        for part in parts:
            value = part(facts)
            if value is False:
                return False
            if value is not True:
                result = UNKNOWN
        return result

    return test


def disjunction(parts: tuple[Evaluate, ...]) -> Evaluate:
    """Kleene's or: one True decides, then one unknown does."""

    def test(facts: Facts) -> Value:
        result: Value = False
        for part in parts:
            value = part(facts)
            if value is True:
                return True
            if value is not False:
                result = UNKNOWN
        return result

    return test


def equal(left: Value, right: Value) -> Value:
    """Equality of two values of one kind; anything else is unknown."""
    same = kind(left)
    return left == right if same is not None and same == kind(right) else UNKNOWN


def comparison(operator: str, left: Evaluate, right: Evaluate, written: Value = None) -> Evaluate:
    """`==` and `!=` for every kind, the orders for numbers and moments.  `written`: the right side, where it is a literal."""
    if operator == "!=":
        return negation(comparison("==", left, right, written))
    known = kind(written)
    compare = _OPERATORS[operator]
    if known is not None and (operator == "==" or known in ("number", "moment")):
        fits = _FITS[known]

        def bound(facts: Facts) -> Value:
            value = left(facts)
            return compare(value, written) if fits(value) else UNKNOWN

        return bound
    if operator == "==":
        return lambda facts: equal(left(facts), right(facts))

    def test(facts: Facts) -> Value:
        first, second = left(facts), right(facts)
        same = kind(first)
        return compare(first, second) if same in ("number", "moment") and same == kind(second) else UNKNOWN

    return test


_OPERATORS: dict[str, Callable[..., bool]] = {
    "==": operators.eq,
    "<": operators.lt,
    "<=": operators.le,
    ">": operators.gt,
    ">=": operators.ge,
}


def membership(left: Evaluate, right: Evaluate) -> Evaluate:
    """`in`: whether a value equals one of a list; one element that cannot be compared makes a no unknown."""

    def test(facts: Facts) -> Value:
        value, many = left(facts), right(facts)
        if isinstance(many, frozenset):  # user.groups: text by construction
            return value in many if type(value) is str else UNKNOWN
        if not isinstance(many, list | tuple) or kind(value) is None:
            return UNKNOWN
        result: Value = False
        for each in many:
            same = equal(value, each)
            if same is True:
                return True
            if same is not False:
                result = UNKNOWN
        return result

    return test


def all_in(left: Evaluate, allowed: tuple[Value, ...]) -> Evaluate:
    """Whether every element of a list is one of these (of an empty list: yes); an element that cannot be compared is unknown."""

    def test(facts: Facts) -> Value:
        many = left(facts)
        if isinstance(many, frozenset):
            many = tuple(many)
        if not isinstance(many, list | tuple) or len(many) > MAX_ELEMENTS:
            return UNKNOWN
        result: Value = True
        for each in many:
            said = [equal(each, one) for one in allowed]
            if True in said:
                continue
            if UNKNOWN not in said:
                return False
            result = UNKNOWN
        return result

    return test


def hour(zone: ZoneInfo) -> Evaluate:
    """hour("Europe/Berlin"): the hour that clocks show there, 0 to 23."""
    return lambda facts: facts.moment.astimezone(zone).hour


def weekday(zone: ZoneInfo) -> Evaluate:
    """weekday("Europe/Berlin"): the day that it is there, 1 for Monday to 7 for Sunday."""
    return lambda facts: facts.moment.astimezone(zone).isoweekday()


def length(inner: Evaluate) -> Evaluate:
    """len(): characters of a text, elements of a list."""

    def count(facts: Facts) -> Value:
        value = inner(facts)
        return len(value) if type(value) is str or isinstance(value, list | tuple | frozenset) else UNKNOWN

    return count


def lowered(inner: Evaluate) -> Evaluate:
    """lower(): a text in lower case."""

    def lower(facts: Facts) -> Value:
        value = inner(facts)
        return value.lower() if type(value) is str and len(value) <= MAX_TEXT else UNKNOWN

    return lower


def of_text(inner: Evaluate, test: Callable[[str], Value]) -> Evaluate:
    """A test of a text; unknown for whatever is none."""

    def apply(facts: Facts) -> Value:
        value = inner(facts)
        return test(value) if type(value) is str and len(value) <= MAX_TEXT else UNKNOWN

    return apply


def under(base: str) -> Callable[[str], Value]:
    """Whether a path lies in a folder (or is it).  `..`, `%`, `\\`, and a relative path where the base is absolute: unknown."""
    rooted, prefix = clean_path(base) or (False, ())

    def test(path: str) -> Value:
        cleaned = clean_path(path)
        if cleaned is None or cleaned[0] != rooted:
            return UNKNOWN
        return cleaned[1][: len(prefix)] == prefix

    return test


def host_in(hosts: tuple[str, ...]) -> Callable[[str], Value]:
    """Whether a URL's host is one of these; `*.example.com` stands for every name below example.com."""
    exact = frozenset(h for h in hosts if not h.startswith("*."))
    below = tuple(h[1:] for h in hosts if h.startswith("*."))

    def test(text: str) -> Value:
        host = host_of(text)
        return UNKNOWN if host is None else host in exact or host.endswith(below)

    return test


def ip_in(networks: tuple[str, ...]) -> Callable[[str], Value]:
    """Whether an address lies in one of these networks; an IPv4 address inside IPv6 (`::ffff:10.0.0.1`) counts as IPv4."""
    known = tuple(ipaddress.ip_network(n) for n in networks)

    def test(text: str) -> Value:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return UNKNOWN
        if isinstance(address, ipaddress.IPv6Address):
            if address.scope_id is not None:
                return UNKNOWN
            address = address.ipv4_mapped or address
        return any(address in network for network in known if network.version == address.version)

    return test


def like(pattern: str) -> Callable[[str], Value]:
    """Whether the whole text fits a pattern in which `*` stands for anything; linear, no regular expression."""
    first, *rest = pattern.split("*")
    if not rest:
        return lambda text: text == pattern
    *middle, last = rest

    def test(text: str) -> Value:
        if not text.startswith(first) or len(text) < len(first) + len(last) or not text.endswith(last):
            return False
        at, end = len(first), len(text) - len(last)
        for piece in middle:
            found = text.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return True

    return test


def name(root: str, path: tuple[str, ...]) -> Evaluate:
    """Reads agent.* or ctx.*, member by member."""

    def members(facts: Facts) -> Value:
        return facts.context.get(root, NOTHING)

    read: Evaluate = members
    for key in path:
        read = inside(read, key)
    return read


NAMES: dict[tuple[str, str], tuple[str, Evaluate]] = {
    ("user", "id"): ("string", lambda facts: facts.subject),
    ("user", "groups"): ("array", lambda facts: facts.groups),
    ("time", "now"): ("moment", lambda facts: facts.moment),
    ("time", "hour"): ("number", lambda facts: facts.moment.hour),
    ("time", "weekday"): ("number", lambda facts: facts.moment.isoweekday()),
    ("tool", "name"): ("string", lambda facts: facts.tool.name if facts.tool is not None else UNKNOWN),
    ("tool", "server"): ("string", lambda facts: facts.tool.server if facts.tool is not None else UNKNOWN),
    ("tool", "risk"): ("string", lambda facts: facts.tool.risk if facts.tool is not None else UNKNOWN),
    ("tool", "labels"): ("array", lambda facts: facts.tool.labels if facts.tool is not None else UNKNOWN),
}
"""Names with a known type.  time.* is UTC; time.weekday is 1 for Monday to 7 for Sunday (ISO 8601); tool.* as in tools.yaml."""
