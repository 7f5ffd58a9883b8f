"""What of a server stands in lists, as far as policies know it: objects, of which each stands for all that is judged alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING

from policies.objects import Under

if TYPE_CHECKING:
    from gateway.policy.in_force import Policy

_PATTERNS = (("prompts", "prompt:{}/*"), ("resources", "res:{}/*"))


def listed(policies: Iterable[Policy]) -> Callable[[str], list[tuple[str, str]]]:
    """By server: (kind of list, object), enough of them to see any difference between these policies.  It works: for a thread."""
    bundles = {pair.digest: pair.bundle for policy in policies for pair in (policy.active, policy.canary) if pair is not None}

    @cache
    def known() -> tuple[list[str], Under]:
        tools = {name for bundle in bundles.values() for name in bundle.tools}
        return sorted(tools), Under({rule.tool for bundle in bundles.values() for rule in bundle.rules})

    def of(server: str) -> list[tuple[str, str]]:
        tools, under = known()
        found = [("tools", name) for name in tools if name.startswith(f"{server}.")]
        for kind, form in _PATTERNS:
            pattern = form.format(server)
            try:
                found += [(kind, name) for name in under.of(pattern)]
            except ValueError:  # nothing could be made up: whether there is anything at all is what can be asked
                found.append((kind, pattern))
        return found

    return of
