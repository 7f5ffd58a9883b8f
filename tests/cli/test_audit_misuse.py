"""`bailiwick audit`: a question that makes no sense is answered with what was wrong in it, where, and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import Vkey

KEY = str(Vkey.of("example.org/log", Ed25519PrivateKey.generate()))


def audit(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway.cli", "audit", *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("verify", "--ledger", "copy.db"), ("whose is copy.db?", "--key", "--config")),
        (("verify", "--ledger", "gone.db", "--key", KEY), ("no file", "gone.db", "--ledger")),
        (("prove", "copy.db", "--check"), ("--check needs", "--key")),
        (("tiles", "copy.db", "--ledger", "copy.db", "--key", KEY), ("copy.db is not a folder",)),
        (("witness", "--log", f"example.org/log={KEY}", "--data", "copy.db", "--new"), ("--data copy.db: File exists",)),
        (("witness", "--log", f"example.org/log={KEY}", "--listen", "8081"), ("--listen 8081: not HOST:PORT",)),
        (("verify",), ("bailiwick.yaml", "bailiwick init")),
    ],
)
def test_what_was_wrong_is_said_with_what_to_do(tmp_path: Path, arguments: tuple[str, ...], said: tuple[str, ...]) -> None:
    (tmp_path / "copy.db").write_bytes(b"")
    told = audit(tmp_path, *arguments)
    assert (told.returncode, told.stdout) == (2, ""), told.stderr
    assert all(word in told.stderr for word in said), told.stderr
