"""Frozen dataclasses that are made at the price of ordinary ones.  They are as frozen as before.

A frozen dataclass sets each of its fields through `object.__setattr__`, at four times the price of an assignment, and a call
makes two dozen such objects.  Here the fields are assigned to an object of an open twin class with the same slots, which then
becomes one of the frozen class.
"""

from __future__ import annotations

from dataclasses import MISSING, field, fields, make_dataclass
from typing import Any, TypeVar

_T = TypeVar("_T")


def quickly_made(cls: type[_T]) -> type[_T]:
    """Decorate a `@dataclass(frozen=True, slots=True)` without `__post_init__`; TypeError for any other class."""
    made = getattr(cls, "__dataclass_params__", None)
    found = fields(cls)  # type: ignore[arg-type]  # TypeError where it is no dataclass
    names = tuple(each.name for each in found)
    if made is None or not made.frozen or cls.__dict__.get("__slots__") != names or hasattr(cls, "__post_init__"):
        msg = f"{cls.__name__} is not a frozen dataclass with slots and without __post_init__"
        raise TypeError(msg)
    same = [
        (each.name, Any, field() if each.default is MISSING else field(default=each.default))
        for each in found
        if each.default_factory is MISSING
    ]
    if len(same) != len(found):
        msg = f"{cls.__name__}: a default factory would run at every call"
        raise TypeError(msg)
    twin = make_dataclass(cls.__name__, same, slots=True, repr=False, eq=False)

    def make(_: type[_T], *values: object, **named: object) -> Any:
        new = twin(*values, **named)
        new.__class__ = cls
        return new

    cls.__new__ = make  # type: ignore[method-assign,assignment]  # it takes what __init__ took
    cls.__reduce__ = lambda self: (cls, tuple(getattr(self, name) for name in names))  # type: ignore[method-assign]  # for copies
    del cls.__init__
    return cls
