"""Approved definitions that nothing is compared with."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity
from policies.lock import NAME

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """`tools.lock` holds definitions of a server whose `definitions` are `off` in `tools.yaml`, or that no tool belongs to.

    Somebody approved them, and whoever reads the file will think that nothing else is let through. Nothing compares them:
    the server may say of its tools what it likes.

    Take `definitions: off` out, or the server out of the lock.
    """
    pinning = ground.bundle.pinning
    known = {spec.server for spec in ground.bundle.tools.values()}
    for server in pinning.lock.servers:
        if pinning.mode(server) == "off":
            place = ground.key("tools.yaml", "servers", server if server in pinning.servers else "*")
            yield Hit(place, f"definitions of '{server}' were approved, and nothing is compared with them", "write quarantine")
        elif server not in known and all(what == "tool" for what, _ in pinning.lock.servers[server]):
            yield Hit(
                (NAME, 0, 0), f"definitions of '{server}' were approved, and no tool of it is registered", "correct the name"
            )
