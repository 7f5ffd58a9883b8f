"""Small Go programs of the tests: what they check is checked by libraries that were not written here.  Use `built`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SECONDS = 400  # the first time, everything is compiled, and other tests run beside
FOLDER = Path(__file__).parent / "audit" / "go"


def built(program: str, into: Path) -> Path:
    """A program of `tests/audit/go` (`./verify`), or a tool that its go.mod names; a loud skip without Go or its modules."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("SKIPPED LOUDLY: go is not on this machine: nobody else's code checked the log")
    out = into / program.rpartition("/")[2]
    command = [go, "build", "-mod=readonly", "-o", str(out), program]
    try:
        run = subprocess.run(
            command, cwd=FOLDER, capture_output=True, text=True, timeout=SECONDS, check=False, env=os.environ | {"GOWORK": "off"}
        )
    except subprocess.TimeoutExpired:
        pytest.skip("SKIPPED LOUDLY: Go did not build the checker in time")
    if run.returncode and ("dial tcp" in run.stderr or "no required module" in run.stderr):
        pytest.skip(f"SKIPPED LOUDLY: Go's modules cannot be had: {run.stderr[-300:]}")
    assert run.returncode == 0, run.stderr
    return out
