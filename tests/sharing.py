"""How two workers share the tests: by file, and all that looks at the machine itself goes to one of them."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

CAGES = ("sandbox", "sandbox_road", "stdio", "egress", "deploy", "examples")
"""Folders whose tests look at what runs on the machine, in cages above all: of two workers one runs all of these."""


class ByFile(LoadScopeScheduling):
    """A file stays whole, so that what it starts once is started once; `CAGES` are one piece of work.

    pytest-xdist's own `loadgroup` writes groups into ids of tests, which pytest 9.2 takes for its own: there it groups nothing.
    """

    def _split_scope(self, nodeid: str) -> str:
        return piece_of(nodeid)


def piece_of(nodeid: str) -> str:
    """The piece of work that a test belongs to."""
    file = nodeid.split("::", 1)[0]
    return "cages" if file.startswith(tuple(f"tests/{name}/" for name in CAGES)) else file
