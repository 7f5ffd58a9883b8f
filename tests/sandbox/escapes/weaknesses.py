"""Cages with one layer left out, to show that the suite would see it.  In tests alone: nothing of this is in the package."""

from __future__ import annotations


def plant(name: str) -> None:
    """Weaken the sandbox of this process."""
    if name:
        raise ValueError(name)
