"""What is kept of a call: values that are compared, numbers that are summed, fields of its result that rules bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from policies.workflows.judge import amount
from policies.workflows.story import Value

MAX_TEXT: Final = 200
"""Characters of a text that is kept of a result."""


def sums(arguments: Mapping[str, object], names: Iterable[str]) -> Mapping[str, Decimal]:
    """The arguments that are numbers and can be added up."""
    found = {name: amount(exact(arguments[name])) for name in sorted(names) if name in arguments}
    return MappingProxyType({name: number for name, number in found.items() if number is not None})


def fields(objects: Iterable[Mapping[str, object]], names: Iterable[str]) -> Mapping[str, Value]:
    """What these parts of a result say under these names; what two of them say differently is not known."""
    found: dict[str, Value] = {}
    torn: set[str] = set()
    wanted = sorted(names)
    for said in objects:
        for name in wanted:
            if name in said:
                value = _kept(said[name])
                if value is None or (name in found and not _same(found[name], value)):
                    torn.add(name)
                else:
                    found[name] = value
    return MappingProxyType({name: value for name, value in found.items() if name not in torn})


def exact(value: object) -> object:
    """A number as it was written; JSON's own readers and protobuf give doubles."""
    return Decimal(repr(value)) if isinstance(value, float) else value


def written(value: object) -> str | None:
    """A plain value in the one form of all that are equal to it."""
    value = exact(value)
    if isinstance(value, bool):
        return f"b:{value}"
    if isinstance(value, str):
        return f"s:{value}"
    number = Decimal(value) if isinstance(value, int) else value
    if not isinstance(number, Decimal) or not number.is_finite() or amount(abs(number)) is None:
        return None
    return f"n:{number.normalize():f}" if number else "n:0"


def _kept(value: object) -> Value | None:
    value = exact(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else None
    number = Decimal(value) if isinstance(value, int) else value
    return number if isinstance(number, Decimal) and number.is_finite() and amount(abs(number)) is not None else None


def _same(one: Value, other: Value) -> bool:
    return type(one) is type(other) and one == other
