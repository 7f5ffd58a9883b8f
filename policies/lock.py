"""`tools.lock`: what servers' definitions said when somebody approved them, whole, with their digests; one text for one meaning.

The file is written by `bailiwick tools approve` and read strictly: what reads otherwise than it would be written is refused.
A writer of it can approve anything, as a writer of grants can grant anything; sign the bundle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

import orjson

from policies.canonical import UncanonicalError, digest_of
from policies.finding import Report
from policies.names import SLUG
from policies.unseen import written

NAME: Final = "tools.lock"
FORMAT: Final = "bailiwick-tools-lock-v1"
MAX_NAME: Final = 256
MAX_DEFINITION: Final = 256 * 1024
"""Characters of one definition, as the file writes it."""

What = Literal["tool", "prompt", "template", "instructions"]
GROUPS: Final[Mapping[What, str]] = MappingProxyType(
    {"instructions": "instructions", "prompt": "prompts", "template": "templates", "tool": "tools"}
)
"""What is pinned, and under which name it stands in the file."""
NAMED_BY: Final[Mapping[What, str]] = MappingProxyType({"tool": "name", "prompt": "name", "template": "uriTemplate"})
"""The member of a definition that is its name; instructions have none, and the name ""."""
WHOLE: Final = ""
Key = tuple[What, str]

_AT = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z")
_HELP: Final = "bailiwick tools approve writes this file; after a merge, approve again what is live"


@dataclass(frozen=True, slots=True)
class Approved:
    """One definition as it was approved.

    definition  as the server said it; of `instructions` the text.
    digest      `sha256:<hex>` of its canonical bytes.
    by, at      who approved it, in their own words, and when (UTC, `2026-11-22T18:00:00Z`); note: why, "" where nobody said.
    also        what was approved beside it: the same thing in another era of the protocol, or as it will be said soon.
    """

    definition: Any
    digest: str
    by: str
    at: str
    note: str = ""
    also: tuple[Approved, ...] = ()

    @property
    def digests(self) -> tuple[str, ...]:
        """All that is approved, in the order of the file."""
        return (self.digest, *(each.digest for each in self.also))


@dataclass(frozen=True, slots=True)
class Lock:
    """Every approved definition, by server, and there by what it is and its name."""

    servers: Mapping[str, Mapping[Key, Approved]] = field(default_factory=lambda: MappingProxyType({}))

    def names(self, server: str) -> bool:
        """Whether something of this server was ever approved."""
        return server in self.servers

    def approved(self, server: str, what: What, name: str) -> Approved | None:
        """What was approved under this name."""
        keys = self.servers.get(server)
        return None if keys is None else keys.get((what, name))

    def every(self) -> Iterator[tuple[str, What, str, Approved]]:
        """All of it, in the order of the file."""
        for server, keys in sorted(self.servers.items()):
            for (what, name), approved in sorted(keys.items()):
                yield server, what, name, approved


NOTHING_LOCKED: Final = Lock()


def reads_only(lock: Lock, server: str, tool: str) -> bool:
    """Whether the approved definition says that the tool changes nothing; never by what the server says now.

    False where nothing is approved, where it says in the same breath that it may destroy, and where something that was approved
    beside it does not say the same.
    """
    approved = lock.approved(server, "tool", tool)
    return approved is not None and all(_reads(each.definition) for each in (approved, *approved.also))


def _reads(definition: Mapping[str, Any]) -> bool:
    hints = definition.get("annotations")
    return isinstance(hints, Mapping) and hints.get("readOnlyHint") is True and hints.get("destructiveHint") is not True


# --- to text


def render(lock: Lock) -> str:
    """The one text of a lock: a member a line, names in order, what is not seen escaped."""
    servers: dict[str, dict[str, Any]] = {}
    for server, keys in lock.servers.items():
        groups = servers.setdefault(server, {})
        for (what, name), approved in keys.items():
            if what == "instructions":
                groups[GROUPS[what]] = _entry(approved)
            else:
                groups.setdefault(GROUPS[what], {})[name] = _entry(approved)
    return _text({"format": FORMAT, "servers": servers})


def shown_definition(definition: Any) -> str:
    """A definition as the file writes it: for comparing line by line."""
    return _text(definition)


def _text(value: Any) -> str:
    return written(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)) + "\n"


def _entry(approved: Approved) -> dict[str, Any]:
    said = {"at": approved.at, "by": approved.by} | ({"note": approved.note} if approved.note else {})
    also = [_entry(each) for each in sorted(approved.also, key=lambda each: each.digest)]
    return {"approved": said, "definition": approved.definition, "digest": approved.digest} | ({"also": also} if also else {})


# --- from text


def read_lock(texts: Mapping[str, str], report: Report) -> Lock:
    """The lock of a bundle's files; an empty one, and findings, where it cannot be read."""
    text = texts.get(NAME)
    if text is None:
        return NOTHING_LOCKED
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        report.add("not-json", (NAME, error.lineno, error.colno), f"this is not JSON: {error.msg}", _HELP)
        return NOTHING_LOCKED
    reader = _Reader(text, report)
    lock = reader.lock(said)
    if not reader.wrong and (line := _first_difference(text, render(lock))):
        message = "the file is not as it is written: a name stands twice, or order, spaces or escapes are others"
        report.add("odd-lock", (NAME, line, 1), message, _HELP)
    return lock


def _first_difference(text: str, wanted: str) -> int:
    """The first line that differs, 0 where none does."""
    if text == wanted:
        return 0
    pairs = zip(text.split("\n"), wanted.split("\n"), strict=False)
    return next((number for number, (here, there) in enumerate(pairs, 1) if here != there), text.count("\n") + 1)


class _Reader:
    """Checks form and digests, entry by entry."""

    def __init__(self, text: str, report: Report) -> None:
        self._lines = text.split("\n")
        self._report = report
        self.wrong = False

    def lock(self, said: Any) -> Lock:
        if not isinstance(said, dict) or said.keys() != {"format", "servers"} or said["format"] != FORMAT:
            self._odd("", f"this is no lock of the format {FORMAT}")
            return NOTHING_LOCKED
        if not isinstance(said["servers"], dict):
            self._odd("servers", "'servers' holds what was approved of each")
            return NOTHING_LOCKED
        servers = {}
        for server, groups in said["servers"].items():
            if not SLUG.fullmatch(server) or not isinstance(groups, dict) or not groups:
                self._odd(server, f"'{ascii(server)[1:-1][:80]}' is no server with something approved")
                continue
            servers[server] = MappingProxyType(dict(self._keys(server, groups)))
        return Lock(MappingProxyType(servers))

    def _keys(self, server: str, groups: dict[str, Any]) -> Iterator[tuple[Key, Approved]]:
        whats = {group: what for what, group in GROUPS.items()}
        for group, entries in groups.items():
            what = whats.get(group)
            if what is None or not isinstance(entries, dict) or not entries:
                self._odd(group, f"'{ascii(group)[1:-1][:80]}' is nothing that is approved of a server")
                continue
            named = {WHOLE: entries} if what == "instructions" else entries
            for name, entry in named.items():
                approved = self._approved(entry)
                every = () if approved is None else (approved, *approved.also)
                if approved is None or not all(_fits(what, name, each.definition) for each in every):
                    self._odd(name or group, f"this is no approved {what} of '{server}' under its own name")
                elif wrong := next((each for each in every if _digest(each.definition) != each.digest), None):
                    message = f"the definition is not what was approved: its digest is {_digest(wrong.definition)}"
                    self._wrong("wrong-digest", wrong.digest, message, f"review what is live: bailiwick tools review {server}")
                else:
                    yield (what, name), approved

    def _approved(self, entry: Any, *, beside: bool = False) -> Approved | None:
        names = {"approved", "definition", "digest"}
        if not isinstance(entry, dict) or not names <= entry.keys() <= names | (set() if beside else {"also"}):
            return None
        others = entry.get("also", [])
        if not isinstance(entry["digest"], str):
            return None
        also = [self._approved(each, beside=True) for each in others] if isinstance(others, list) else [None]
        if None in also or len({entry["digest"], *(each.digest for each in also if each)}) != len(also) + 1:
            return None
        said = entry["approved"]
        if not isinstance(said, dict) or not {"at", "by"} <= said.keys() <= {"at", "by", "note"}:
            return None
        texts = all(isinstance(each, str) and 0 < len(each) <= 1000 for each in said.values())
        if not texts or not _AT.fullmatch(said["at"]):
            return None
        besides = tuple(each for each in also if each is not None)
        return Approved(entry["definition"], entry["digest"], said["by"], said["at"], said.get("note", ""), besides)

    def _odd(self, near: str, message: str) -> None:
        self._wrong("odd-lock", near, message, _HELP)

    def _wrong(self, code: str, near: str, message: str, help_: str) -> None:
        """A finding at the first line that holds `near`."""
        self.wrong = True
        quoted = written(json.dumps(near, ensure_ascii=False))
        line = next((number for number, text in enumerate(self._lines, 1) if near and quoted in text), 0)
        self._report.add(code, (NAME, line, 1 if line else 0), message, help_)


def _fits(what: What, name: str, definition: Any) -> bool:
    if what == "instructions":
        return isinstance(definition, str)
    return isinstance(definition, dict) and definition.get(NAMED_BY[what]) == name and 0 < len(name) <= MAX_NAME


def _digest(definition: Any) -> str:
    try:
        return digest_of(definition)
    except UncanonicalError:
        return ""
