"""`python -m bench.escapes`: every escape attempt in every environment on every backend, a thousand runs, and killed gateways.

Prints a table, writes JSON, and ends with 1 where anything escaped, was left, or was no real attempt.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.sandbox.escapes import kit
from tests.sandbox.escapes.backends import BACKENDS
from tests.sandbox.escapes.killing import kill_at_a_moment
from tests.sandbox.escapes.solos import ESCAPED, SOLOS
from tests.sandbox.escapes.suite import Suite, attempts, breaches, broken, environments, lost, unreal

OUT: Final = Path(__file__).parent / "out"
SEED: Final = 1


def one(suite: Suite, environment: str, backend: str, runs: int, kills: int) -> dict[str, Any]:
    """Everything for one environment and backend."""
    began = time.monotonic()
    found = suite.campaign(environment, backend)
    if found["probe"]["problem"]:
        return {"environment": environment, "backend": backend, "refused": found["probe"]["problem"]}
    alone = suite.campaign(environment, backend, attempts=False, solos=list(SOLOS))
    shell = suite.campaign(environment, backend, attempts=False, language="shell")
    script = suite.campaign(environment, backend, attempts=False, language="javascript")
    many = suite.campaign(environment, backend, attempts=False, runs=runs, seed=SEED, patience=3600)
    moments = range(kills if environment in kit.BARE else 0)
    left = [line for moment in moments for line in killed(suite, environment, backend, moment)]
    controls = [one.name for one in attempts() if found["control"][one.name] == kit.OPEN]
    soft = sorted(name for name, run in alone["solos"].items() if ESCAPED in run["stdout"] and name not in lost(alone))
    return {
        "environment": environment,
        "backend": backend,
        "attempts": len(found["caged"]),
        "open without a cage": len(controls),
        "breaches": breaches(found),
        "not real": sorted(unreal(found, environment)),
        "mistaken": sorted(broken(found)),
        "runs of their own": len(alone["solos"]),
        "lost": lost(alone),
        "soft, and said so": soft,
        "from a shell": [name for name in breaches(shell) if name not in ("run_su_at_all", "run_a_program_by_descriptor")],
        "in JavaScript": len(script["caged"]),
        "breaches in JavaScript": breaches(script),
        "runs": sum(many["ends"].values()),
        "ends": many["ends"],
        "left": [*alone["left"], *many["left"]],
        "kills": len(moments),
        "left by kills": left,
        "seconds": round(time.monotonic() - began, 1),
    }


def killed(suite: Suite, environment: str, backend: str, seed: int) -> list[str]:
    """What a gateway that is killed at this moment leaves, and what the next one does not clear away."""
    with tempfile.TemporaryDirectory(prefix="bailiwick-killed-", dir="/tmp") as folder:
        base = Path(folder) / "base"
        base.parent.chmod(0o777)
        left = kill_at_a_moment(suite, base, environment, backend, seed)
        return [*left, *(f"folder: {path.name}" for path in base.iterdir() if path.name != "outside")]


def amiss(row: dict[str, Any]) -> list[str]:
    """Which of the row's findings must not be."""
    bad = ("breaches", "not real", "mistaken", "lost", "from a shell", "breaches in JavaScript", "left", "left by kills")
    return [name for name in bad if row.get(name)]


def line(row: dict[str, Any]) -> str:
    """One row for people."""
    head = f"{row['environment']:<20} {row['backend']:<9}"
    if "refused" in row:
        return f"{head} refused: nothing runs"
    facts = (
        f"{row['attempts']:>4} attempts ({row['open without a cage']:>3} open without a cage)  {len(row['breaches'])} breaches   "
        f"{row['runs of their own']:>3} runs of their own, {len(row['lost'])} lost ({len(row['soft, and said so'])} soft)   "
        f"{row['in JavaScript']} in JavaScript, {len(row['breaches in JavaScript'])} breaches   "
        f"{row['runs']:>5} runs, {len(row['left'])} left   "
        f"{row['kills']:>3} kills, {len(row['left by kills'])} left   {row['seconds']} s"
    )
    return "\n    ".join([f"{head} {facts}", *(f"AMISS {name}: {row[name]}" for name in amiss(row))])


def main() -> int:
    """Print, write, and say whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="of every end, for each environment and backend")
    parser.add_argument(
        "--kills", type=int, default=20, help="of a gateway in the midst of its runs, where it is not in a container"
    )
    options = parser.parse_args()
    if options.runs < 1 or options.kills < 1:
        parser.error("--runs and --kills are 1 or more")
    rows = []
    with Suite() as suite:
        for environment in environments():
            for backend in BACKENDS:
                rows.append(one(suite, environment, backend, options.runs, options.kills))
                print(line(rows[-1]), flush=True)
                OUT.mkdir(exist_ok=True)
                facts = {"at": datetime.now(UTC).isoformat(), "kernel": platform.release(), "uid": os.geteuid(), "rows": rows}
                (OUT / "escapes.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 1 if any(map(amiss, rows)) else 0


if __name__ == "__main__":
    sys.exit(main())
