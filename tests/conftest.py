"""Property tests take seeded samples here, so that a green run stays green; full campaigns stand in `bench/`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer

from tests.npm import installed
from tests.sharing import ByFile

settings.register_profile("sample", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "sample"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """Where two workers share the tests."""
    return ByFile(config, log)


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
