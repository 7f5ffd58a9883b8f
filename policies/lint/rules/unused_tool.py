"""Tools that no line covers."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """A tool is registered in `tools.yaml` and no line of `grants/` or `shadow/` covers it, by name, server or set.

    Nobody can call it, which is safe. It is told because the line that should cover it may name another tool, and because
    a tool that nobody judged should not wait for the next `server.*` to be granted with it. Lines for the tool `*` do not
    count.

    Write the line, take the tool out of the registry, or say why it stands there.
    """
    covered: set[str] = set()
    for tool in {rule.tool for rule in (*ground.bundle.rules, *ground.bundle.shadow)} - {"*"}:
        covered |= ground.tools_of.get(tool, frozenset())
    for name in ground.bundle.tools:
        if name not in covered:
            place = ground.key("tools.yaml", "tools", name)
            yield Hit(place, f"no line covers '{name}': nobody can call it", "write the line that grants it, or take it out")
