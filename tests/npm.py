"""Packages of npm for tests: exactly what a committed lock file pins, installed beside it, once for all runs."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

INSTALL_SECONDS = 180
OLDEST_NODE = 22
EXACT = re.compile(r"(npm:.+@)?\d+\.\d+\.\d+(-[a-z]+\.\d+)?")


def installed(folder: Path, what: str) -> Path:
    """`node_modules` of this folder as its lock file says; a loud skip without npm, or without a registry that answers.

    what   for whom, as the skip says it.
    """
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip(f"SKIPPED LOUDLY: node or npm is not on this machine: {what} did not run")
    modules = folder / "node_modules"
    stamp, lock = modules / ".installed", (folder / "package-lock.json").read_bytes()
    wanted = hashlib.sha256(lock).hexdigest()
    with (folder / "package.json").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # one run at a time installs
        if stamp.is_file() and stamp.read_text() == wanted:
            return modules
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        try:
            run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"SKIPPED LOUDLY: npm did not install {what} in time")
        if run.returncode != 0:
            said = " ".join(line.strip() for line in run.stderr.splitlines() if line.startswith("npm error"))
            pytest.skip(f"SKIPPED LOUDLY: npm cannot install {what}: {said[:400]}")
        stamp.write_text(wanted)
    return modules


def node(modules: Path) -> str:
    """A Node that is new enough: the one among these modules, else the machine's; a loud skip where neither is."""
    for program in (*sorted(modules.glob("node-*/bin/node")), shutil.which("node") or ""):
        if program:
            said = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
            if said.startswith("v") and int(said[1:].partition(".")[0]) >= OLDEST_NODE:
                return str(program)
    pytest.skip(f"SKIPPED LOUDLY: no Node of version {OLDEST_NODE} or newer is on this machine, nor in npm for it")


def loosely_pinned(folder: Path) -> list[str]:
    """What the folder asks for without an exact version, or locks without its digest, or with the name of a registry."""
    lock = json.loads((folder / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    asked = json.loads((folder / "package.json").read_text())
    wanted = {**asked.get("dependencies", {}), **asked.get("optionalDependencies", {})}
    assert wanted
    loose = [name for name, entry in packages.items() if "resolved" in entry or "integrity" not in entry]
    return loose + [name for name, version in wanted.items() if not EXACT.fullmatch(version)]
