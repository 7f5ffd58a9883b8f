"""Property tests take seeded samples here, so that a green run stays green; full campaigns stand in `bench/`."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("sample", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "sample"))


@pytest.fixture(scope="session")
def filesystem_server() -> Iterator[Path]:
    """The file server as npm delivers it, where every user can read it."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("SKIPPED LOUDLY: node or npm is not on this machine")
    with tempfile.TemporaryDirectory(prefix="bailiwick-test-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        package = "@modelcontextprotocol/server-filesystem@2026.8.31"
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", package]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
        if run.returncode:
            pytest.skip(f"SKIPPED LOUDLY: npm cannot install the file server: {run.stderr[-300:]}")
        yield folder / "node_modules" / "@modelcontextprotocol" / "server-filesystem" / "dist" / "index.js"
