"""Walk a pydantic model by path without a value: what may stand where.

A schema here is an annotation; `None` means that nothing is known to stand there.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from gateway.settings import Secret

Kind = Literal["group", "mapping", "list", "value", "nothing"]


def step(schema: object, path: Iterable[str | int]) -> object:
    """The schema below `schema` at `path`, or None where the path leads nowhere."""
    here = _bare(schema)
    for part in path:
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(part))
            here = _bare(field.annotation) if field else None
        elif get_origin(here) is dict and isinstance(part, str):
            here = _bare(get_args(here)[1])
        elif get_origin(here) is tuple and isinstance(part, int):
            here = _bare(get_args(here)[0])
        else:
            return None
    return here


def kind_of(schema: object) -> Kind:
    """What one finds at this schema."""
    bare = _bare(schema)
    if bare is None:
        return "nothing"
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return "group"
    return {dict: "mapping", tuple: "list"}.get(get_origin(bare), "value")  # type: ignore[return-value]  # closed above


def members(schema: object) -> list[str]:
    """Names of a group's settings; none for anything else."""
    bare = _bare(schema)
    return list(bare.model_fields) if isinstance(bare, type) and issubclass(bare, BaseModel) else []


def is_secret(schema: object) -> bool:
    """Whether only a reference to a secret may stand here."""
    return _bare(schema) is Secret


def _bare(schema: Any) -> Any:
    """Without `Annotated[…]` and `| None`."""
    while True:
        origin = get_origin(schema)
        if origin is Annotated:
            schema = get_args(schema)[0]
        elif origin in (Union, UnionType):
            rest = [part for part in get_args(schema) if part is not NoneType]
            if len(rest) != 1:
                return schema
            schema = rest[0]
        else:
            return schema
