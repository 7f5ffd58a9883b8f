"""Registered tools that their server does not have."""

from __future__ import annotations

from collections.abc import Iterator

from policies.finding import suggest
from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "error"


def find(ground: Ground) -> Iterator[Hit]:
    """A tool is registered, its running server was asked, and has no such tool.

    Rules about it never matter; and if the server renamed the tool, no rule is about the new name. Only `--live` finds
    this.

    Correct the name in `tools.yaml` and in the rules, or take the entry out. `bailiwick tools import SERVER` shows what
    the server has.
    """
    for name, spec in ground.bundle.tools.items():
        live = ground.facts.live.get(spec.server)
        own = name[len(spec.server) + 1 :]
        if live is not None and own not in live:
            help_ = suggest(own, live) or f"bailiwick tools import {spec.server} shows what it has"
            yield Hit(ground.key("tools.yaml", "tools", name), f"the running server '{spec.server}' has no tool '{own}'", help_)
