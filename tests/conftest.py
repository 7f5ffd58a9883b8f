"""Property tests take seeded samples here, so that a green run stays green; full campaigns stand in `bench/`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.npm import installed

settings.register_profile("sample", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "sample"))


CAGES = frozenset({"sandbox", "sandbox_road", "stdio", "egress", "deploy", "examples"})
"""Folders whose tests look at what runs on the machine, in cages above all: of two workers one runs all of these."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where two workers share the tests, a file stays whole: what it starts once is started once."""
    for item in items:
        place = item.path.relative_to(Path(__file__).parent)
        item.add_marker(pytest.mark.xdist_group("cages" if place.parts[0] in CAGES else str(place)))


@pytest.fixture(scope="session")
def npm_servers() -> Iterator[Path]:
    """`@modelcontextprotocol` as npm delivers it, where every user can read it: servers of the lock in `tests/upstreams/npm`."""
    modules = installed(Path(__file__).parent / "upstreams" / "npm", "the servers from npm")
    with tempfile.TemporaryDirectory(prefix="bailiwick-test-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(modules, folder / "node_modules", symlinks=True)
        yield folder / "node_modules" / "@modelcontextprotocol"


@pytest.fixture(scope="session")
def filesystem_server(npm_servers: Path) -> Path:
    """The file server's entry file."""
    return npm_servers / "server-filesystem" / "dist" / "index.js"


@pytest.fixture(scope="session")
def memory_server(npm_servers: Path) -> Path:
    """The memory server's entry file."""
    return npm_servers / "server-memory" / "dist" / "index.js"
