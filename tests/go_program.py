"""Small Go programs of the tests: what they check is checked by libraries that were not written here.  Use `built`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "audit" / "go"


def built(program: str, into: Path) -> Path:
    """The program `tests/audit/go/<program>`, built as its go.sum says; a loud skip without Go or its modules."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("SKIPPED LOUDLY: go is not on this machine: nobody else's code checked the log")
    out = into / program
    command = [go, "build", "-mod=readonly", "-o", str(out), f"./{program}"]
    try:
        run = subprocess.run(
            command, cwd=FOLDER, capture_output=True, text=True, timeout=100, check=False, env=os.environ | {"GOWORK": "off"}
        )
    except subprocess.TimeoutExpired:
        pytest.skip("SKIPPED LOUDLY: Go did not build the checker in time")
    if run.returncode and ("dial tcp" in run.stderr or "no required module" in run.stderr):
        pytest.skip(f"SKIPPED LOUDLY: Go's modules cannot be had: {run.stderr[-300:]}")
    assert run.returncode == 0, run.stderr
    return out
