"""What is wrong with a bundle: where, what, and what to do next.  A bundle with findings is never used in part."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

MAX_FINDINGS = 200
Place = tuple[str, int, int]
"""File, line and column; (file, 0, 0) for a whole file."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake in one place.

    code    stable, kebab-case, as `unknown-tool`.
    file    relative to the bundle; line and column count from 1, and are 0 where the finding concerns no place in a file.
    text    the offending line, for a caret below it; "" where there is none.
    """

    code: str
    file: str
    line: int
    column: int
    message: str
    help: str = ""
    text: str = ""

    @property
    def location(self) -> str:
        """`file`, or `file:line:column`."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def __str__(self) -> str:
        return f"{self.location}: {self.message}" + (f" (help: {self.help})" if self.help else "")


class BundleError(Exception):
    """The folder is no usable bundle.  `findings` are all that were found, sorted by place, at most 200 and never none."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))


class Report:
    """Collects findings while a bundle is read, and knows the lines they are about."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}
        self._found: dict[Finding, None] = {}

    def show(self, file: str, text: str) -> None:
        """From now on findings in this file carry their line."""
        self._lines[file] = text.split("\n")

    def add(self, code: str, place: Place, message: str, help: str = "") -> None:  # noqa: A002  the field's name
        """Note a finding; the same one is noted once."""
        file, line, column = place
        if self.full:
            return
        if not file.isprintable():  # a name from a disk can hold anything, even what no text may
            file = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in file)
        lines = self._lines.get(file, [])
        text = lines[line - 1].rstrip("\r")[:400] if 0 < line <= len(lines) else ""
        self._found[Finding(code, file, line, column, message, help, text)] = None

    @property
    def full(self) -> bool:
        """Whether no further finding would be noted: reading on costs time and says nothing."""
        return len(self._found) >= MAX_FINDINGS

    def __bool__(self) -> bool:
        return bool(self._found)

    def error(self) -> BundleError:
        """All of it, sorted by place."""
        return BundleError(sorted(self._found, key=lambda f: (f.file, f.line, f.column, f.code, f.message)))


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or "" where nothing known looks alike."""
    close = difflib.get_close_matches(word[:200], [name for name in known if len(name) <= 200][:5000], n=1, cutoff=0.6)
    if not close and word.lower() in (lowered := {name.lower(): name for name in known}):
        close = [lowered[word.lower()]]
    return f"did you mean '{close[0]}'?" if close else ""
