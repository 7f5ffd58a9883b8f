"""YAML as plain values, each with its line and column; the safe part of YAML 1.2 and nothing else.

One document, keys are text and stand once, no tags, anchors or aliases, bounded depth.  Nothing is ever constructed but
text, numbers, booleans, null, lists and dicts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

MAX_DEPTH = 32
MAX_NODES = 100_000
_TOO_LONG = 4300
"""Longest number that Python turns from text without complaint."""

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """1-based line and column."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the text as YAML."""

    code: str
    message: str
    mark: Mark
    help: str = ""


@dataclass(slots=True)
class Document:
    """A parsed text: its value, where each key and each value stands, and every fault that was found.

    With a syntax fault the value is None; with other faults it holds what could be read.
    """

    value: Value = None
    keys: dict[Path, Mark] = field(default_factory=dict)
    values: dict[Path, Mark] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def parse(text: str) -> Document:
    """Read one document.  Never raises; an empty text is an empty mapping."""
    document = Document()
    try:
        _Reader(document, YAML(typ="safe", pure=True).parse(text)).read()
    except _StopReading as stop:
        document.faults.append(stop.fault)
        document.value = None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)
        document.faults.append(Fault("yaml-syntax", f"this is not YAML: {error.problem or error.context or 'syntax'}", where))
        document.value = None
    except YAMLError as error:  # a character that YAML does not allow
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        document.faults.append(Fault("yaml-syntax", "this is not YAML: a character that may not stand here", Mark(line, 1)))
        document.value = None
    return document


class _StopReading(Exception):  # noqa: N818  a signal, not an error of its own
    def __init__(self, fault: Fault) -> None:
        self.fault = fault


class _Reader:
    def __init__(self, document: Document, events: Iterator[Any]) -> None:
        self.document = document
        self.events = events
        self.nodes = 0

    def read(self) -> None:
        self._next()  # the stream
        event = self._next()
        if type(event).__name__ == "StreamEndEvent":
            self.document.value = {}
            return
        self.document.value = self._node(self._next(), ())
        self._next()  # the document's end
        event = self._next()
        if type(event).__name__ != "StreamEndEvent":
            raise _StopReading(Fault("yaml-documents", "only one YAML document may stand here", _mark(event)))
        if self.document.value is None:
            self.document.value = {}

    def _next(self) -> Any:
        return next(self.events)

    def _node(self, event: Any, path: Path) -> Value:
        self.nodes += 1
        if len(path) > MAX_DEPTH or self.nodes > MAX_NODES:
            raise _StopReading(Fault("yaml-too-deep", "nested deeper, or longer, than is accepted", _mark(event)))
        self.document.values[path] = _mark(event)
        kind = type(event).__name__
        if kind == "AliasEvent" or event.anchor is not None:
            fault = Fault(
                "yaml-alias", "anchors and aliases (& and *) are not accepted here", _mark(event), "write the value out"
            )
            raise _StopReading(fault)
        if event.tag is not None and not (kind == "ScalarEvent" and event.tag == "!"):
            raise _StopReading(
                Fault("yaml-tag", "tags (!…) are not accepted here", _mark(event), "quote the value if it is text")
            )
        if kind == "SequenceStartEvent":
            return self._sequence(path)
        if kind == "MappingStartEvent":
            return self._mapping(path)
        return scalar(event.value) if event.implicit[0] else str(event.value)

    def _sequence(self, path: Path) -> Value:
        items: list[Value] = []
        while type(event := self._next()).__name__ != "SequenceEndEvent":
            items.append(self._node(event, (*path, len(items))))
        return items

    def _mapping(self, path: Path) -> Value:
        found: dict[str, Value] = {}
        while type(event := self._next()).__name__ != "MappingEndEvent":
            mark = _mark(event)
            if type(event).__name__ != "ScalarEvent" or event.tag is not None or event.anchor is not None:
                raise _StopReading(Fault("yaml-key", "a key must be plain text", mark))
            key = str(event.value)
            if key in found:
                first = self.document.keys[(*path, key)].line
                self.document.faults.append(
                    Fault("duplicate-key", f"'{key}' stands here a second time; first in line {first}", mark)
                )
                self._skip()
                continue
            self.document.keys[(*path, key)] = mark
            found[key] = self._node(self._next(), (*path, key))
        return found

    def _skip(self) -> None:
        """Read past one value without keeping it; its faults still count."""
        aside = _Reader(Document(), self.events)
        aside.nodes = self.nodes
        aside._node(self._next(), ())
        self.nodes = aside.nodes
        self.document.faults += aside.document.faults


def _mark(event: Any) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")


def scalar(text: str) -> Value:
    """A plain scalar by the core schema of YAML 1.2 §10.3.2, without hexadecimal, octal, infinities and NaN (these stay text)."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if len(text) < _TOO_LONG and _INT.fullmatch(text):
        return int(text)
    if len(text) < _TOO_LONG and _FLOAT.fullmatch(text) and isfinite(number := float(text)):
        return number
    return text
