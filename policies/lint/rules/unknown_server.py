"""Servers that the settings do not know."""

from __future__ import annotations

from collections.abc import Iterator

from policies.finding import suggest
from policies.lint.ground import Ground, Hit, Severity
from policies.pinning import EVERY

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """Tools of a server are registered, or `servers` says whose definitions count, and the settings have no such server.

    No call reaches these tools. If the name is misspelt, the real server's tools are not registered, and are refused; and what
    `servers` says of it does not hold for the real one.

    Correct the name, or add the server under `mcp:` in the settings.
    """
    known = ground.facts.servers
    if known is None:
        return
    said: set[str] = set()
    for name, spec in ground.bundle.tools.items():
        if spec.server not in known and spec.server not in said:
            said.add(spec.server)
            help_ = suggest(spec.server, known) or "add it under mcp: in the settings, or correct the name"
            place = ground.key("tools.yaml", "tools", name)
            yield Hit(place, f"the settings have no server '{spec.server}'", help_)
    for server in ground.bundle.pinning.servers:
        if server not in known and server not in said and server != EVERY:
            help_ = suggest(server, known) or "correct the name"
            yield Hit(ground.key("tools.yaml", "servers", server), f"the settings have no server '{server}'", help_)
