"""`bailiwick serve` where it cannot serve."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from .conftest import Run


def test_a_port_that_is_taken_ends_with_1_and_says_which(run: Run, tmp_path: Path) -> None:
    assert run("init", tmp_path / "gate").code == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli", "serve", "--config", str(tmp_path / "gate" / "bailiwick.yaml")],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "BAILIWICK_SERVER__PORT": str(port)},
        )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
