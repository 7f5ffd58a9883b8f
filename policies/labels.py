"""Labels of information flow: what objects bring into a workflow, or let out of it, as tools.yaml says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from policies import names
from policies.workflows.model import Steps

LABEL: Final = re.compile(r"[a-z0-9-]{1,40}:[a-z0-9-]{1,40}")
_KINDS: Final = ("agent", "resource", "prompt")
"""What has its labels under `labels:`; a tool has them in its own entry."""
_NONE: Mapping[str, tuple[str, ...]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Labels:
    """Of tools by name, of agents, resources and prompts by name or by what their names begin with."""

    named: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NONE)
    beginning: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NONE)

    def of(self, resource: str) -> tuple[str, ...]:
        """Every label of an object, each once."""
        found = self.named.get(resource, ())
        for beginning, more in self.beginning.items():
            if resource.startswith(beginning):
                found = (*found, *more)
        return tuple(dict.fromkeys(found)) if found and self.beginning else found

    def objects(self, label: str) -> Steps:
        """Everything that has a label; nothing at all where nobody sets it."""
        exact = frozenset(name for name, labels in self.named.items() if label in labels)
        return Steps(label, exact, tuple(sorted(start for start, labels in self.beginning.items() if label in labels)))

    @property
    def known(self) -> frozenset[str]:
        """Every label that something has."""
        return frozenset(label for of in (self.named, self.beginning) for labels in of.values() for label in labels)


def beginning_of(name: str) -> str | None:
    """What the names begin with that a pattern stands for; "" for one object, None for what can have no labels here."""
    kind = names.kind_of_cell(name)
    if kind is None or kind.name not in _KINDS:
        return None
    if kind.has(name):
        return ""
    return name[:-1] if kind.covers(name) else None
