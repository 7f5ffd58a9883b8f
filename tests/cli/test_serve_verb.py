"""`bailiwick serve` where it cannot serve."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from gateway.settings import Settings
from gateway.settings_changes import differing

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


def test_sighup_says_which_settings_wait_for_a_restart_and_no_value_of_them(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "gate"
    assert run("init", folder).code == 0
    config = folder / "bailiwick.yaml"
    before = config.read_text()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gateway.cli", "serve", "--config", str(config)]
    environment = {**os.environ, "BAILIWICK_SERVER__PORT": str(port), "HTTPS_PROXY": ""}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment) as gateway:
        try:
            assert gateway.stderr is not None
            _said(gateway, str(port))
            config.write_text(before + "\nlimits: {call_seconds: 77}\n" + "nothing: 1\n")
            gateway.send_signal(signal.SIGHUP)
            assert "could not be read at a restart" in _said(gateway, "WARNING")
            assert "nothing" in _said(gateway, "WARNING")
            config.write_text(before + "\nlimits: {call_seconds: 77}\n")
            gateway.send_signal(signal.SIGHUP)
            told = _said(gateway, "come into force with a restart")
            assert "limits.call_seconds" in told
            assert "77" not in told.partition("restart")[2]
        finally:
            gateway.terminate()
            gateway.wait(30)


def _said(gateway: subprocess.Popen[str], what: str) -> str:
    """The next line of the log that says it."""
    assert gateway.stderr is not None
    for line in gateway.stderr:
        if what in line:
            return line
    raise AssertionError(f"the gateway ended and never said {what}")


def test_settings_that_differ_are_told_by_name() -> None:
    one = {"mcp": {"erp": {"url": "http://127.0.0.1:1/mcp"}, "old": {"url": "http://127.0.0.1:2/mcp"}}}
    other = {
        "mcp": {"erp": {"url": "http://127.0.0.1:3/mcp"}, "new": {"url": "http://127.0.0.1:2/mcp"}},
        "limits": {"json_depth": 9},
    }
    before, after = Settings.model_validate(one), Settings.model_validate(other)
    assert list(differing(before, after)) == ["limits.json_depth", "mcp.erp.url", "mcp.new", "mcp.old"]
    assert list(differing(before, Settings.model_validate(one))) == []
