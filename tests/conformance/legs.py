"""The official suite, leg by leg: which scenarios a leg runs, what it says of a server, and how two of its answers differ."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests import npm

FOLDER = Path(__file__).resolve().parent
KNOWN = FOLDER / "differences.json"
SECONDS = 300
ABSENT = "ABSENT"
_STAMP = re.compile(r"-\d{4}-\d\d-\d\dT[\d-]+Z$")

Verdicts = Mapping[str, str]
"""By check, `scenario · id · name`, and the number of its turn where it is asked more than once: SUCCESS, FAILURE, WARNING, …"""


@dataclass(frozen=True)
class Leg:
    """name; which of the two installed suites runs it; the suite's arguments, run by run; how many checks pass directly."""

    name: str
    suite: str
    runs: tuple[tuple[str, ...], ...]
    passed: int


TASKS = (
    "lifecycle",
    "capability-negotiation",
    "wire-fields",
    "request-state-removal",
    "mrtr-input",
    "request-headers",
    "dispatch-and-envelope",
    "required-task-error",
    "mrtr-composition",
)
"""The tenth, of status notifications, is a scenario that runs nothing yet."""

LEGS = (
    Leg("0.1.16", "conformance-0.1", (("--suite", "all"),), 44),
    Leg("2025-06-18", "conformance-0.2", (("--suite", "all", "--spec-version", "2025-06-18"),), 56),
    Leg("2025-11-25", "conformance-0.2", (("--requirements", "2025-11-25"),), 84),
    Leg("2026-07-28", "conformance-0.2", (("--requirements", "2026-07-28"),), 196),
    Leg("tasks", "conformance-0.2", tuple(("--scenario", f"tasks-{name}") for name in TASKS), 44),
)


class Running:
    """One leg under way against one URL; the suite runs as a process of its own."""

    def __init__(self, leg: Leg, url: str, out: Path, *, node: str, modules: Path, what: str) -> None:
        self.leg, self._out, self._what = leg, out, what
        suite = str(modules / leg.suite / "dist" / "index.js")
        self._commands = [[node, suite, "server", "--url", url, *run, "-o", str(out)] for run in leg.runs]
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(out), "NO_COLOR": "1"}
        self._begun = time.monotonic()
        out.mkdir(parents=True)
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with (self._out / "said").open("ab") as said:
            command = self._commands.pop(0)
            return subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, env=self._environment)

    def step(self) -> bool:
        """Wait for the run under way, and begin the next; False where there is none."""
        try:
            self._process.wait(SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
        if not self._commands:
            return False
        self._process = self._start()
        return True

    def verdicts(self) -> Verdicts:
        """What the suite said, once all runs are over."""
        found = dict(_read(self._out))
        passed, failed = counted(found)
        took = time.monotonic() - self._begun
        print(f"{self.leg.name:<12} {self._what:<8} {passed:>4} passed {failed:>4} failed {took:>5.0f} s", file=sys.stderr)
        assert found, (self._out / "said").read_text()[-2000:]
        return found

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()


def _read(out: Path) -> Iterator[tuple[str, str]]:
    turns: Counter[str] = Counter()
    for file in sorted(out.glob("server-*/checks.json")):
        scenario = _STAMP.sub("", file.parent.name.removeprefix("server-"))
        for check in json.loads(file.read_text()):
            if check["status"] == "INFO":
                continue  # the suite's own log
            key = f"{scenario} · {check['id']} · {check['name']}"
            turns[key] += 1
            yield (key if turns[key] == 1 else f"{key} · {turns[key]}"), check["status"]


def judge(leg: Leg, direct: str, through: str, out: Path) -> tuple[Verdicts, Verdicts]:
    """What a leg says of a server, and of the gateway in front of its twin; the two runs go on side by side."""
    modules = npm.installed(FOLDER, "the conformance suite")
    node, runs = npm.node(modules), []
    try:
        for what, url in (("direct", direct), ("through", through)):
            runs.append(Running(leg, url, out / what, node=node, modules=modules, what=what))
        while any([run.step() for run in runs]):  # noqa: C419  every one of them takes its step
            pass
        one, other = (run.verdicts() for run in runs)
    finally:
        for run in runs:
            run.kill()
    return one, other


def counted(verdicts: Verdicts) -> tuple[int, int]:
    """How many passed and failed, as the suite counts."""
    tally = Counter(verdicts.values())
    return tally["SUCCESS"], tally["FAILURE"]


def differences(direct: Verdicts, through: Verdicts) -> dict[str, list[str]]:
    """By check: the direct verdict and the one through the gateway, where they are not the same."""
    keys = sorted(direct.keys() | through.keys())
    pairs = {key: [direct.get(key, ABSENT), through.get(key, ABSENT)] for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
