"""The backends that the suite attacks: whatever the package ships, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sandbox.engine import CagedRunner
from sandbox.landlock import LandlockRunner

BACKENDS: dict[str, Any] = {"landlock": LandlockRunner}
try:
    from sandbox.bwrap import BwrapRunner
except ImportError:
    pass
else:
    BACKENDS["bwrap"] = BwrapRunner


def make(name: str, base: Path) -> CagedRunner:
    """A runner of the backend whose folders lie beneath `base`."""
    runner: CagedRunner = BACKENDS[name](base=base, concurrency=4)
    return runner
