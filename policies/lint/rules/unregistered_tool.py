"""Tools of a running server that are not registered."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """A running server has a tool that `tools.yaml` does not register.

    It is refused and shown to nobody, which is safe. It is told because it may be the tool that somebody waits for, or
    one that the server has got since its tools were judged. Only `--live` finds this.

    `bailiwick tools import SERVER` drafts the entry; judge its risk and labels before you grant it.
    """
    for server, tools in sorted(ground.facts.live.items()):
        own = [name for name, spec in ground.bundle.tools.items() if spec.server == server]
        place = ground.key("tools.yaml", "tools", *own[:1])
        for tool in sorted(tools):
            if f"{server}.{tool}" not in ground.bundle.tools:
                message = f"the running server '{server}' has a tool '{tool[:80]}' that is not registered"
                yield Hit(place, message, f"bailiwick tools import {server} drafts its entry")
