"""Servers that did not say what their tools are."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "error"


def find(ground: Ground) -> Iterator[Hit]:
    """A configured server was asked for its tools and gave no usable answer.

    What could not be compared is not in order, it is unknown. Only `--live` finds this. The message has what went wrong:
    no connection, a refusal of the gateway's own credential, an answer that is not MCP.

    Start the server, or correct its address and credential in the settings; `bailiwick check` reads both.
    """
    for server, why in sorted(ground.facts.silent.items()):
        own = [name for name, spec in ground.bundle.tools.items() if spec.server == server]
        place = ground.key("tools.yaml", "tools", *own[:1])
        yield Hit(
            place, f"the server '{server}' did not say what its tools are: {why}", "start it, or correct it in the settings"
        )
