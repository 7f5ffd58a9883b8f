"""The page for who has never written a rule: its commands run, in order, as they stand there."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "how-to" / "first-rule.md"
BLOCK = re.compile(r"```(sh|text)([^\n]*)\n(.*?)```", re.DOTALL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ready(port: int, child: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert child.poll() is None, child.communicate()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                assert answer.status == 200
                return
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read()) from None
        except OSError:
            continue
    raise AssertionError("the gateway did not become ready")


def test_the_page_takes_a_newcomer_from_an_empty_folder_to_a_live_rule(tmp_path: Path) -> None:
    port = free_port()
    environ = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "BAILIWICK_SERVER__PORT": str(port),
        "COLUMNS": "140",
        "HOME": str(tmp_path),
    }
    blocks = BLOCK.findall(PAGE.read_text())
    assert sum(kind == "sh" for kind, _, _ in blocks) >= 12
    folder, said, served = tmp_path, "", None
    try:
        for kind, attributes, text in blocks:
            if kind == "text":
                assert text.strip() in said
                continue
            if "terminal" in attributes:
                served = subprocess.Popen(
                    text.split(), cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
                ready(port, served)
                continue
            shell = ["sh", "-e", "-c", text]
            done = subprocess.run(shell, cwd=folder, env=environ, capture_output=True, text=True, timeout=100, check=False)
            said = done.stdout + done.stderr
            wanted = int(found[1]) if (found := re.search(r"exit=(\d)", attributes)) else 0
            assert done.returncode == wanted, f"{text}\n{said}"
            if "cd shop" in text:
                folder = tmp_path / "shop"
        assert served is not None
    finally:
        if served is not None:
            served.send_signal(signal.SIGTERM)
            served.communicate(timeout=30)
