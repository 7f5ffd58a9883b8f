"""Bytes of a bundle's folder, and what stands where in them.

A file is read once: what is checked, what is hashed and what decides are the same bytes.  Nothing is skipped silently.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from policies.finding import Place, Report

REQUIRED = ("model.conf", "roles.csv", "tools.yaml", "conditions.yaml", "obligations.yaml")
OPTIONAL = ("tools.lock",)
IGNORED = ("README.md",)
SIGNATURE = ("manifest.json", "manifest.jws")
"""What signs a bundle (policies/manifest.py); it decides nothing, and the digest leaves it out."""
MAX_FILES = 500
MAX_YAML_BYTES = 1024 * 1024
MAX_LOCK_BYTES = 32 * 1024 * 1024
MAX_CSV_BYTES = 32 * 1024 * 1024
MAX_BYTES = 64 * 1024 * 1024
"""Of all files together: a bundle is kept in memory while another is read beside it."""
MAX_LINE = 1000
MAX_DEPTH = 12
MAX_DIGITS = 60

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_TAG = "tag:yaml.org,2002:"
_INNER = re.compile(r"(grants|shadow)/[A-Za-z0-9_-]+\.csv|(tests|workflows)/[A-Za-z0-9_-]+\.yaml")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: its cells, trimmed, and the column each starts at."""

    file: str
    line: int
    cells: tuple[str, ...]
    columns: tuple[int, ...]

    def place(self, cell: int) -> Place:
        """Where a cell stands."""
        return self.file, self.line, self.columns[cell]


def _meant(folder: Path) -> Path | None:
    """The bundle that somebody meant who named the folder above it, or one inside; None where this may be one itself."""
    if os.path.lexists(folder / "model.conf"):
        return None
    likely = (folder / "policies", folder.parent)
    return next((near for near in likely if os.path.isfile(near / "model.conf")), None)  # noqa: PTH113  it never raises


def read_folder(folder: Path, report: Report) -> dict[str, str]:
    """Every file that says something, as relative name → text.  A stray, missing, oversized or unreadable file is a finding."""
    texts: dict[str, str] = {}
    if not folder.is_dir():
        report.add("no-bundle", (".", 0, 0), "there is no such folder", "name the folder that holds model.conf")
        return texts
    if likely := _meant(folder):
        report.add("no-bundle", (".", 0, 0), "this folder is no bundle: it holds no model.conf", f"did you mean {likely}?")
        return texts
    size, root = 0, folder.resolve()
    for count, (path, name) in enumerate(_files(folder), 1):
        size += len(_take(path, name, root, texts, report))
        if count > MAX_FILES:
            report.add("too-large", (name, 0, 0), f"more than {MAX_FILES} files", "join small grant files")
            break
        if size > MAX_BYTES:
            report.add("too-large", (name, 0, 0), f"the files are larger than {MAX_BYTES} bytes together", "")
            break
    for name in REQUIRED:
        if not (folder / name).exists():
            report.add(
                "missing-file", (name, 0, 0), "this file is missing", "a bundle is never used in part; an empty file is enough"
            )
    if not (folder / "grants").is_dir():
        report.add(
            "missing-file", ("grants", 0, 0), "this folder is missing", "grants/*.csv hold the rules; no rules deny everything"
        )
    return texts


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Whatever lies in a folder and may say something, with its name below it; bounded, however many there are."""
    said = (path for path in folder.iterdir() if not path.name.startswith("..") and path.name not in IGNORED)
    for path in _first(said):  # `..data` is how Kubernetes swaps a mounted folder
        if path.name in ("grants", "shadow", "tests", "workflows") and path.is_dir():
            yield from ((inner, f"{path.name}/{inner.name}") for inner in _first(path.iterdir()))
        else:
            yield path, path.name


def _first(paths: Iterator[Path]) -> list[Path]:
    """As many as tell that there are too many, where there are: what is left out then is no bundle's."""
    return sorted(islice(paths, MAX_FILES + 1))


def _take(path: Path, name: str, root: Path, texts: dict[str, str], report: Report) -> str:
    """Read one file if it belongs to a bundle; its text, "" where it has none."""
    if path.name.startswith("..") and "/" in name:
        return ""
    if not known_file(name):
        named = ", ".join((*REQUIRED, *OPTIONAL))
        help_ = f"a bundle holds {named}, grants/*.csv, shadow/*.csv, workflows/*.yaml and tests/*.yaml; move the file elsewhere"
        report.add("stray-file", (name, 0, 0), "this file is not part of a bundle", help_)
        return ""
    limit = _limit(name)
    try:
        if not path.is_file():
            report.add("stray-file", (name, 0, 0), "this is not a file", "")
            return ""
        if not path.resolve().is_relative_to(root):
            help_ = "put the file itself here: who may change a bundle is decided by its folder"
            report.add("outside-link", (name, 0, 0), "this link leads out of the bundle", help_)
            return ""
        # Not to wait for a writer where a pipe has taken the file's place meanwhile.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123  a descriptor
            data = file.read(limit + 1) or b""
    except OSError as error:
        report.add("unreadable", (name, 0, 0), f"the file cannot be read: {error.strerror}", "")
        return ""
    text = check_text(name, data, report)
    if text is not None:
        texts[name] = text
    return text or ""


def known_file(name: str) -> bool:
    """Whether a bundle may hold a file of this name."""
    return name in REQUIRED or name in OPTIONAL or name in SIGNATURE or _INNER.fullmatch(name) is not None


def check_text(name: str, data: bytes, report: Report) -> str | None:
    """The text of one file's bytes; None, and a finding, where they are too many or no plain text."""
    if len(data) > _limit(name):
        report.add("too-large", (name, 0, 0), f"the file is larger than {_limit(name)} bytes", "")
        return None
    return _decode(name, data, report)


def _limit(name: str) -> int:
    return MAX_CSV_BYTES if name.endswith(".csv") else MAX_LOCK_BYTES if name in OPTIONAL else MAX_YAML_BYTES


def _decode(name: str, data: bytes, report: Report) -> str | None:
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        report.add("byte-order-mark", (name, 1, 1), "the file starts with a byte order mark", "save it as UTF-8 without one")
        return None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        report.add("not-utf8", (name, line, 1), "the file is not UTF-8", "save it as UTF-8")
        return None
    text = text.replace("\r\n", "\n")
    report.show(name, text)
    clean = True
    for match in _CONTROL.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        column = match.start() - (text.rfind("\n", 0, match.start()) + 1) + 1
        report.add(
            "invisible-character", (name, line, column), f"the character U+{ord(match[0]):04X} cannot be seen", "remove it"
        )
        clean = False
        break
    return text if clean else None


# --- tables


def read_rows(name: str, text: str, kind: str, header: tuple[str, ...], report: Report) -> Iterator[Row]:
    """The lines of a table that start with `kind`; blank lines and `#` lines are comments, all else is a finding."""
    for number, line in enumerate(text.split("\n"), 1):
        if report.full:
            return
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if len(line) > MAX_LINE:
            report.add("too-large", (name, number, 1), f"the line is longer than {MAX_LINE} characters")
            continue
        cells, columns, at = [], [], 0
        for raw in line.split(","):
            cells.append(raw.strip())
            columns.append(at + len(raw) - len(raw.lstrip()) + 1)
            at += len(raw) + 1
        if cells[0] != kind:
            report.add(
                "unknown-line", (name, number, columns[0]), f"line starts with '{cells[0]}'",
                f"every line of this file starts with '{kind}'; a comment starts with '#'",
            )  # fmt: skip
            continue
        if len(cells) != len(header) + 1:
            report.add(
                "wrong-column-count", (name, number, 1), f"the line has {len(cells)} columns, {len(header) + 1} are needed",
                f"the columns are {kind}, {', '.join(header)}; write '-' where there is nothing to say",
            )  # fmt: skip
            continue
        row = Row(name, number, tuple(cells[1:]), tuple(columns[1:]))
        if _plain(row, header, report):
            yield row


def _plain(row: Row, header: tuple[str, ...], report: Report) -> bool:
    plain = True
    for index, (cell, title) in enumerate(zip(row.cells, header, strict=True)):
        if not cell:
            help_ = "give every rule an id of its own" if title == "id" else "write '-' where there is nothing to say"
            report.add("empty-cell", row.place(index), f"the column '{title}' is empty", help_)
            plain = False
        elif any(mark in cell for mark in "\"'#\t`"):
            help_ = "cells are plain words without quotes; a comment stands on a line of its own"
            report.add("odd-character", row.place(index), f"the column '{title}' holds a quote, a tab or a '#'", help_)
            plain = False
    return plain


# --- YAML


@dataclass(frozen=True, slots=True)
class Item:
    """A value of a YAML file and the place it stands at.  `value`: a scalar, a tuple of items, or a dict of key item → item."""

    value: Any
    line: int
    column: int

    def entries(self) -> list[tuple[str, Item, Item]]:
        """Of a mapping: (key, the key's place, the value)."""
        return [(str(key.value), key, item) for key, item in self.value] if self.is_mapping else []

    @property
    def is_mapping(self) -> bool:
        """Whether this is a mapping."""
        return isinstance(self.value, list)

    @property
    def is_list(self) -> bool:
        """Whether this is a list."""
        return isinstance(self.value, tuple)

    def plain(self) -> object:
        """The bare value, read-only all the way down; numbers are int or Decimal."""
        if self.is_mapping:
            return MappingProxyType({key: item.plain() for key, _, item in self.entries()})
        if self.is_list:
            return tuple(item.plain() for item in self.value)
        return self.value


def read_yaml(name: str, text: str, report: Report) -> Item:
    """One document whose top is a mapping (an empty file is an empty one).  Duplicate keys, aliases and tags are findings."""
    empty = Item([], 1, 1)
    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        report.add("not-yaml", (name, line, column), f"this is not YAML: {error.problem or error.context}", "")
        return empty
    except (YAMLError, RecursionError, ValueError) as error:
        report.add("not-yaml", (name, 0, 0), f"this is not YAML: {type(error).__name__}", "")
        return empty
    if node is None:
        return empty
    item = _Reader(name, report).item(node, 0)
    if not item.is_mapping:
        report.add(
            "wrong-type", (name, item.line, item.column), "the file must hold names and their values", "write 'name: value' lines"
        )
        return empty
    return item


class _Reader:
    """From YAML nodes to items, refusing what is not plain data."""

    def __init__(self, name: str, report: Report) -> None:
        self._name = name
        self._report = report
        self._seen: set[int] = set()

    def item(self, node: Node, depth: int) -> Item:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        if id(node) in self._seen:
            self._wrong("alias", line, column, "anchors and aliases are not read", "write the value out")
            return Item(None, line, column)
        self._seen.add(id(node))
        if depth > MAX_DEPTH:
            self._wrong("too-deep", line, column, f"more than {MAX_DEPTH} levels")
            return Item(None, line, column)
        if not isinstance(node, ScalarNode) and str(node.tag) not in (_TAG + "map", _TAG + "seq"):
            self._wrong("wrong-type", line, column, f"'{node.tag}' is not plain data", "remove the tag")
            return Item(None, line, column)
        if isinstance(node, MappingNode):
            return Item(self._mapping(node, depth), line, column)
        if isinstance(node, SequenceNode):
            return Item(tuple(self.item(child, depth + 1) for child in node.value), line, column)
        return Item(self._scalar(node, line, column), line, column)

    def _mapping(self, node: MappingNode, depth: int) -> list[tuple[Item, Item]]:
        pairs: list[tuple[Item, Item]] = []
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = self.item(key_node, depth + 1)
            value = self.item(value_node, depth + 1)
            if not isinstance(key.value, str):
                self._wrong("wrong-type", key.line, key.column, "a name must be text", "put it in quotes")
            elif key.value in lines:
                first = lines[key.value]
                self._wrong(
                    "duplicate-key", key.line, key.column, f"'{key.value}' stands here twice, first in line {first}", "keep one"
                )
            else:
                lines[key.value] = key.line
                pairs.append((key, value))
        return pairs

    def _scalar(self, node: Node, line: int, column: int) -> object:
        if not isinstance(node, ScalarNode):
            self._wrong("wrong-type", line, column, "this is not plain data")
            return None
        text = str(node.value)
        tag = str(node.tag).removeprefix(_TAG)
        if tag == "str":
            return text
        if tag == "null":
            return None
        if tag == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if tag in ("int", "float") and re.fullmatch(rf"[-+]?[0-9]{{1,{MAX_DIGITS}}}(\.[0-9]{{1,{MAX_DIGITS}}})?", text):
            try:
                return Decimal(text) if "." in text else int(text)
            except (InvalidOperation, ValueError):  # pragma: no cover  the pattern admits none
                pass
        self._wrong("wrong-type", line, column, f"'{text[:40]}' is read as {tag}, which is not plain data", "put it in quotes")
        return None

    def _wrong(self, code: str, line: int, column: int, message: str, help_: str = "") -> None:
        self._report.add(code, (self._name, line, column), message, help_)
