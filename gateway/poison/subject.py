"""What rules look at: one definition, taken apart into its texts, and the names that other servers' tools have."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from policies.lock import What
from policies.lookalike import folded
from policies.pinning import Grade
from policies.unseen import IGNORABLE

MOST_TEXTS: Final = 20_000
LONGEST_READ: Final = 20_000
MOST_READ: Final = 100_000
"""Characters of one text, and of all texts of a definition, that rules look through: no server keeps the gateway reading."""
_PICTURES: Final = frozenset({"icons"})
"""Members whose texts are addresses and data of pictures: no model reads them."""
_NAMING: Final = frozenset({"properties", "$defs", "definitions", "patternProperties"})
"""Members whose own members have names of the server's choosing."""

Part = Literal["name", "prose", "value"]


@dataclass(frozen=True, slots=True)
class Sign:
    """One sign: which rule, how grave, where in the definition (`inputSchema.properties.path.description`), and what it is."""

    rule: str
    grade: Grade
    where: str
    message: str


@dataclass(frozen=True)
class Text:
    """One text of a definition.

    part   `name` of a parameter or the definition itself, `prose` for people and models, `value` of an enumeration or default.
    text   as it came, as far as it is read; length: of the whole.
    plain  as a model may read it: one width, no invisible characters, letters of other scripts as those they look like, lower
           case, single spaces.
    """

    where: str
    part: Part
    text: str
    length: int

    @cached_property
    def plain(self) -> str:
        if self.text.isascii():
            return " ".join(self.text.lower().split())
        return " ".join(folded(IGNORABLE.sub("", unicodedata.normalize("NFKC", self.text)).casefold()).split())


@dataclass(frozen=True)
class Subject:
    """A definition in its surroundings.

    elsewhere  names of other servers' tools, and whose they are.
    """

    server: str
    what: What
    name: str
    definition: Any
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def texts(self) -> tuple[Text, ...]:
        """Every text, names of members too, as far as they are read; `MOST_TEXTS` at most."""
        found: list[Text] = []
        room = MOST_READ
        for where, part, text in _texts(self.definition, self.what, "prose"):
            read = text[: min(LONGEST_READ, room)]
            room -= len(read)
            found.append(Text(where, part, read, len(text)))
            if len(found) >= MOST_TEXTS:
                break
        return tuple(found)

    @cached_property
    def parameters(self) -> tuple[Text, ...]:
        """Names of what a caller fills in."""
        return tuple(text for text in self.texts if text.part == "name" and text.where != "name")


def _texts(value: Any, where: str, part: Part) -> Iterator[tuple[str, Part, str]]:
    if isinstance(value, str):
        yield where, part, value
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _texts(each, f"{where}[{number}]", part)
    elif isinstance(value, dict):
        for name, inner in value.items():
            here = name if where in _TOPS else f"{where}.{name}"
            if name in _PICTURES:
                continue
            if where.rpartition(".")[2] in _NAMING:
                yield here, "name", name
            elif not _ORDINARY.issuperset(name):
                yield here, "value", name  # a member that the protocol does not know is read by models, too
            yield from _texts(inner, here, _part(name, where))


_TOPS: Final = frozenset({"tool", "prompt", "template", "instructions"})
_ORDINARY: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_$-")


def _part(name: str, where: str) -> Part:
    if name == "name" or (name == "required" and "Schema" in where):
        return "name"
    return "value" if name in {"enum", "const", "default", "pattern", "type", "format", "$ref", "$schema", "$id"} else "prose"
