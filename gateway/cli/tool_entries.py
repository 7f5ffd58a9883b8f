"""Entries of tools.yaml, drafted from what a server says of itself and put beside what stands there: values in, values out.

A server's word is a stranger's: names must fit the grammar, hints become comments, descriptions are not copied at all.
What a person has written is never changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from policies.finding import Finding, Report
from policies.registry import TOOL, ToolSpec, read_registry
from policies.schema import Described, comparable, described

FILE: Final = "tools.yaml"
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A drafted entry.  `notes` become comments above it."""

    name: str
    args: Mapping[str, str]
    risk: str
    notes: tuple[str, ...]

    def lines(self, indent: str) -> list[str]:
        """As tools.yaml holds it."""
        args = ", ".join(f"{_key(name)}: {kind}" for name, kind in self.args.items())
        return [
            *(f"{indent}# {note}" for note in self.notes),
            f"{indent}{_key(self.name)}: {{args: {{{args}}}, risk: {self.risk}}}",
        ]


@dataclass(frozen=True, slots=True)
class Difference:
    """One argument of a registered tool that the server describes otherwise; "" where a side does not have it."""

    tool: str
    argument: str
    here: str
    there: str


@dataclass(frozen=True, slots=True)
class Draft:
    """What came of a server's list of tools.

    entries      for tools that are not registered yet.
    differences  between registered tools and the server's word; the registered entries stay as they are.
    missing      registered tools that the server does not have.
    refused      what cannot be registered, and why.
    """

    entries: tuple[Entry, ...] = ()
    differences: tuple[Difference, ...] = ()
    missing: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def findings(self) -> int:
        """How much of it somebody has to look at before anything is right."""
        return len(self.differences) + len(self.missing) + len(self.refused)


def registered(text: str) -> tuple[Mapping[str, ToolSpec], tuple[Finding, ...]]:
    """The tools of a tools.yaml, and what is wrong with it."""
    report = Report()
    report.show(FILE, text)
    tools = read_registry({FILE: text}, report).tools
    return tools, report.error().findings


def draft(server: str, tools: Mapping[str, Mapping[str, Any]], known: Mapping[str, ToolSpec]) -> Draft:
    """Hold a server's tools against the registered ones."""
    entries: list[Entry] = []
    differences: list[Difference] = []
    refused: dict[str, str] = {}
    for own, tool in sorted(tools.items()):
        name = f"{server}.{own}"
        if not TOOL.fullmatch(name):
            refused[own[:200]] = f"no tool name here: it must fit {TOOL.pattern}"
            continue
        found = described(tool.get("inputSchema"))
        if name in known:
            differences += _differences(known[name], found)
        else:
            entries.append(_entry(server, name, tool, found))
    missing = tuple(name for name, spec in known.items() if spec.server == server and name[len(server) + 1 :] not in tools)
    return Draft(tuple(entries), tuple(differences), missing, refused)


def _differences(spec: ToolSpec, found: Described) -> Iterator[Difference]:
    there = comparable(found)
    for argument in dict.fromkeys((*spec.args, *there)):
        here, theirs = spec.args.get(argument, ""), there.get(argument, "")
        same = here == theirs or (here and theirs == "unknown") or (here, theirs) == ("number", "integer")
        if not same:
            yield Difference(spec.name, argument, here, theirs)


def _entry(server: str, name: str, tool: Mapping[str, Any], found: Described) -> Entry:
    hints = tool.get("annotations")
    hints = hints if isinstance(hints, dict) else {}
    reads = hints.get("readOnlyHint") is True
    notes = ["Drafted from the server's own description, which nobody has checked."]
    if reads:
        notes.append("It hints that it only reads (untrusted): judge its risk.")
    labels = [f"source:{server}"] if reads else []
    if hints.get("destructiveHint") is True or hints.get("readOnlyHint") is False:
        labels.append(f"writes:{server}")
    if hints.get("openWorldHint") is True:
        labels.append("sink:external")
    if labels:
        notes.append(f"Its hints (untrusted) suggest: labels: [{', '.join(label[:81] for label in labels)}]")
    notes += [f"{argument}: {why}; no condition can compare it until you decide." for argument, why in found.doubts.items()]
    notes += [f"The argument {json.dumps(unfit)} has no name here: no condition can read it." for unfit in found.unfit]
    return Entry(name, found.types, "medium" if reads else "high", tuple(notes))


def _key(name: str) -> str:
    """A name that YAML reads as text."""
    return name if name[0].isalpha() and name.lower() not in _WORDS else json.dumps(name)


# --- into the file


class UnfitFileError(ValueError):
    """The file cannot take entries without being rewritten; the message says why."""


def as_text(entries: tuple[Entry, ...], indent: str = "  ") -> str:
    """The entries, each on lines of its own."""
    return "".join(f"{line}\n" for entry in entries for line in entry.lines(indent))


def with_entries(text: str, entries: tuple[Entry, ...]) -> str:
    """The file with the entries behind its last tool, all else untouched.  UnfitFileError where that cannot be."""
    opened, at, indent = _gap(text)
    before, after = opened[:at], opened[at:]
    if before and not before.endswith("\n"):
        before += "\n"
    made = before + as_text(entries, indent) + after
    old, _ = registered(text)
    new, wrong = registered(made)
    added = {entry.name for entry in entries}
    if wrong or set(new) != set(old) | added or any(_meaning(new[name]) != _meaning(spec) for name, spec in old.items()):
        raise UnfitFileError("the file would read otherwise than before; add the entries by hand")
    return made


def _meaning(spec: ToolSpec) -> tuple[object, ...]:
    return dict(spec.args), spec.labels, spec.risk, spec.tenants


def _gap(text: str) -> tuple[str, int, str]:
    """The file with room for entries (an empty `{}` taken out), where they go, and how far they are indented."""
    try:
        top = YAML(typ="safe", pure=True).compose(text)
    except YAMLError:
        raise UnfitFileError("the file is not YAML") from None
    for key, value in top.value if isinstance(top, MappingNode) else ():
        if key.value != "tools":
            continue
        if isinstance(value, MappingNode) and value.value:
            if value.flow_style:
                raise UnfitFileError("'tools' is written in braces; write one tool a line")
            return text, _line_end(text, _end(value.value[-1][1])), " " * value.value[0][0].start_mark.column
        if isinstance(value, MappingNode):
            text = text[: value.start_mark.index].rstrip(" ") + text[value.end_mark.index :]
        return text, _line_end(text, key.end_mark.index), "  "
    raise UnfitFileError("the file has no 'tools'; write 'tools:' on a line of its own")


def _end(node: Node) -> int:
    """Where a node's last character stands; a block's own mark lies behind the comments that follow it."""
    if isinstance(node, MappingNode | SequenceNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(node, MappingNode) else last)
    return int(node.end_mark.index)


def _line_end(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1
