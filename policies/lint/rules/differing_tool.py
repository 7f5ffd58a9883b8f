"""Registered arguments that are not the server's."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "error"


def find(ground: Ground) -> Iterator[Hit]:
    """An argument in `tools.yaml` is missing from the running server's own description of the tool, or has another type there.

    A condition that reads the argument is then never decided: an allow line allows nothing, a deny line denies
    everything. If the server has got an argument that `tools.yaml` does not name, no condition can read it, and a call
    may carry what nobody judged. Only `--live` finds this.

    Correct the entry; `bailiwick tools import SERVER` shows the difference.
    """
    for name, spec in ground.bundle.tools.items():
        live = ground.facts.live.get(spec.server, {}).get(name[len(spec.server) + 1 :])
        if live is None:
            continue
        help_ = f"bailiwick tools import {spec.server} shows the difference"
        for argument, kind in spec.args.items():
            place = ground.key("tools.yaml", "tools", name, "args", argument)
            if argument not in live:
                yield Hit(place, f"'{name}' has no argument '{argument}' on the running server", help_)
            elif live[argument] not in (kind, "unknown") and (live[argument], kind) != ("integer", "number"):
                message = f"'{argument}' of '{name}' is {live[argument]} on the running server, and {kind} here"
                yield Hit(place, message, help_)
        for argument in live:
            if argument not in spec.args:
                message = f"'{name}' has an argument '{argument[:64]}' on the running server that is not registered"
                yield Hit(ground.key("tools.yaml", "tools", name), message, help_)
