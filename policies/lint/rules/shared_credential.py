"""Writing under a credential that everybody shares."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """A tool that writes (a label `writes:…`) can be called, and its server sees the same credential for every caller.

    The gateway knows on whose behalf each call is made and records it; the server behind it sees one static credential of
    the settings and cannot tell people apart, neither in its own records nor in its own rights. A flaw in policy is then
    a flaw without a second line of defence.

    Let the server tell callers apart, or say on the line above why it need not.
    """
    shared = ground.facts.shared
    granted: set[str] = set()
    for tool in {rule.tool for rule in ground.bundle.rules if rule.effect == "allow" and rule.action in ("call", "*")}:
        granted |= ground.tools_of.get(tool, frozenset())
    for name, spec in ground.bundle.tools.items():
        writes = [label for label in spec.labels if label.startswith("writes:")]
        if writes and name in granted and spec.server in shared:
            message = f"'{name}' ({writes[0]}) is called with one credential for everybody"
            yield Hit(ground.key("tools.yaml", "tools", name), message, f"let {spec.server} know on whose behalf it is called")
