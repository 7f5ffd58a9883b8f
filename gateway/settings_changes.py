"""What a settings file says now beside what the gateway started with: settings by their names, values never."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from gateway.configuration import load
from gateway.problem import ProblemError

if TYPE_CHECKING:
    from gateway.settings import Settings

MOST_NAMED = 20
log = logging.getLogger("gateway")


def tell(path: Path, environ: Mapping[str, str], before: Settings) -> None:
    """In the log: which settings of the file wait for a restart, or that it could not be read then.  Blocks."""
    try:
        now = load(path, environ)
    except ProblemError as error:
        log.warning("%s could not be read at a restart; what the gateway started with stays in force", path)
        for problem in error.problems[:MOST_NAMED]:
            log.warning("%s: %s", problem.location, problem.message)
        return
    changed = list(differing(before, now))
    if changed:
        more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
        log.warning("settings that changed come into force with a restart: %s%s", ", ".join(changed[:MOST_NAMED]), more)


def differing(before: object, after: object, path: str = "") -> Iterator[str]:
    """Names of the settings that differ, as `mcp.erp.url`."""
    if isinstance(before, BaseModel) and type(before) is type(after):
        for name in type(before).model_fields:
            yield from differing(getattr(before, name), getattr(after, name), _under(path, name))
    elif isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}, key=str):
            if name in before and name in after:
                yield from differing(before[name], after[name], _under(path, str(name)))
            else:
                yield _under(path, str(name))
    elif isinstance(before, tuple) and isinstance(after, tuple) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differing(one, other, f"{path}[{number}]")
    elif before != after:
        yield path


def _under(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
