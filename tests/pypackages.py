"""Environments of Python that tests need beside ours: exactly what a committed lock file pins, made once for all runs."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

INSTALL_SECONDS = 180


def environment(folder: Path, what: str) -> Path:
    """The interpreter of the environment `.venv` in this folder, as its `requirements.lock` says; a loud skip without an index.

    what   for whom, as the skip says it.
    """
    uv, home, wanted = Path(sys.executable).with_name("uv"), folder / ".venv", folder / "requirements.lock"
    if not uv.exists():
        pytest.skip(f"SKIPPED LOUDLY: uv is not beside this Python: {what} did not run")
    stamp, digest = home / ".installed", hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()
    python = home / "bin" / "python"
    with wanted.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # one run at a time installs
        if stamp.is_file() and stamp.read_text() == digest:
            return python
        make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, home]
        sync = [uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", wanted]
        for command in (make, sync):
            try:
                run = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
            except subprocess.TimeoutExpired:
                pytest.skip(f"SKIPPED LOUDLY: {what} could not be installed in time")
            if run.returncode != 0:
                pytest.skip(f"SKIPPED LOUDLY: {what} cannot be installed: {run.stderr[-300:]}")
        stamp.write_text(digest)
    return python
