"""`python -m bench.sandbox`: start to result in a cage beside bare Python, and runs per second; prints ratios, writes JSON.

Rounds of everything are interleaved with the yardstick, `python3 -c pass`, in one process: ratios alone are claimed.  Processor
time is the gateway's and the cage's together; it says much the same on a machine that is busy with something else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sandbox.bwrap import BwrapRunner
from sandbox.engine import CagedRunner
from sandbox.landlock import LandlockRunner
from sandbox.model import Job, Language, Profile, Reason
from sandbox.profiles import load_profiles

OUT = Path(__file__).parent / "out"
BARE = ("/usr/bin/python3", "-c", "pass")
CODE = {Language.PYTHON: "pass", Language.SHELL: ":", Language.JAVASCRIPT: "0"}
KINDS = {"landlock": LandlockRunner, "bwrap": BwrapRunner}
WITH_POOL, WITHOUT_POOL = 2.0, 4.0


def main() -> int:
    """Run the rounds; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.sandbox", epilog="example: python -m bench.sandbox --rounds 40 --json")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=5.0, help="for runs per second")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_args()
    report = asyncio.run(measured(args.rounds, args.seconds))
    OUT.mkdir(exist_ok=True)
    (OUT / "sandbox.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report) if args.json else render(report))
    return 1 if any(not bar["met"] for bar in report["bars"]) else 0


async def measured(rounds: int, seconds: float) -> dict:
    """Every runner that is ready here, cold and warm, in every language that it has."""
    profile = load_profiles()["no-network-512mb"]
    report: dict = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{platform.machine()}, {platform.release()}, {len(os.sched_getaffinity(0))} cores",
        "rounds": rounds, "bare": " ".join(BARE), "starts": [], "rates": [], "absent": [],
    }  # fmt: skip
    for name, kind in KINDS.items():
        cold, warm = kind(), kind(warm=2)
        try:
            found = await cold.probe()
            if found.missing(profile):
                report["absent"].append(f"{name}: {found.problem or 'its guarantees are not proven here'}")
                continue
            for language in found.languages:
                print(f"{name} {language}", file=sys.stderr)
                report["starts"] += await starts(name, language, profile, rounds, cold, warm)
            for at_once in (1, 2, 4):
                report["rates"] += [await rate(name, profile, at_once, seconds, pooled) for pooled in (False, True)]
        finally:
            await cold.aclose()
            await warm.aclose()
    report["load_average"] = [round(value, 1) for value in os.getloadavg()]
    report["bars"] = bars(report)
    return report


async def starts(
    name: str, language: Language, profile: Profile, rounds: int, cold: CagedRunner, warm: CagedRunner
) -> Sequence[dict]:
    """Milliseconds from the call to the result, and as a ratio to the yardstick of the same rounds."""
    job = Job("bench", CODE[language], profile, language)
    took: dict[str, list[float]] = {"bare": [], "cold": [], "warm": []}
    spent: dict[str, list[float]] = {"bare": [], "cold": []}
    await once(warm, job)
    for _ in range(rounds):
        await warm.warmed()
        began, used = time.perf_counter(), processor()
        await asyncio.to_thread(subprocess.run, BARE, stdin=subprocess.DEVNULL, check=True)
        took["bare"].append(time.perf_counter() - began)
        spent["bare"].append(processor() - used)
        used = processor()
        took["cold"].append(await once(cold, job))
        spent["cold"].append(processor() - used)
        took["warm"].append(await once(warm, job))
    bare, least = statistics.median(took["bare"]), statistics.median(spent["bare"])
    return [
        {
            "runner": name, "language": str(language), "pool": which == "warm", "bare_ms": round(bare * 1000, 1),
            "median_ms": round(statistics.median(took[which]) * 1000, 1), "least_ms": round(min(took[which]) * 1000, 1),
            "ratio": round(statistics.median(took[which]) / bare, 2),
            "least_ratio": round(min(took[which]) / min(took["bare"]), 2),
            "processor_ratio": round(statistics.median(spent["cold"]) / least, 2) if which == "cold" else None,
        }
        for which in ("cold", "warm")
    ]  # fmt: skip


def processor() -> float:
    """Seconds of processor time: this process's, and those of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


async def once(runner: CagedRunner, job: Job) -> float:
    """Seconds of one run, which must end well."""
    began = time.perf_counter()
    run = await runner.run(job)
    took = time.perf_counter() - began
    if run.reason is not Reason.OK:
        raise SystemExit(f"a run ended with {run.reason}: {run.detail or run.stderr.decode(errors='replace')}")
    return took


async def rate(name: str, profile: Profile, at_once: int, seconds: float, pooled: bool) -> dict:
    """Python runs per second, `at_once` of them at a time, for so many seconds."""
    runner: CagedRunner = KINDS[name](concurrency=at_once, warm=at_once if pooled else 0)
    job = replace(Job("bench", "pass", profile), id="rate")
    try:
        await once(runner, job)
        await runner.warmed()
        began = time.perf_counter()

        async def keep_on() -> int:
            done = 0
            while time.perf_counter() - began < seconds:
                await once(runner, job)
                done += 1
            return done

        total = sum(await asyncio.gather(*(keep_on() for _ in range(at_once))))
        return {
            "runner": name, "pool": pooled, "at_once": at_once, "per_second": round(total / (time.perf_counter() - began), 1),
        }  # fmt: skip
    finally:
        await runner.aclose()


def bars(report: dict) -> list[dict]:
    """What the figures are held against: Python in a cage is at most twice, and four times, bare Python."""
    found = []
    for row in report["starts"]:
        if row["language"] == Language.PYTHON:
            most = WITH_POOL if row["pool"] else WITHOUT_POOL
            bar = f"{row['runner']}, start to result, {'with' if row['pool'] else 'without'} the pool / bare Python"
            found.append({"bar": bar, "value": row["ratio"], "want": f"<= {most}", "met": row["ratio"] <= most})
    return found


def render(report: dict) -> str:
    """A table for people."""
    lines = [
        f"{report['date']}; {report['machine']}; load average {' '.join(map(str, report['load_average']))}",
        f"{report['rounds']} rounds, interleaved with `{report['bare']}`; milliseconds", "",
        f"{'runner':<10}{'language':<11}{'pool':<6}{'median':>9}{'least':>9}{'bare':>7}{'ratio':>7}{'least':>7}{'CPU':>6}",
    ]  # fmt: skip
    lines += [
        f"{row['runner']:<10}{row['language']:<11}{'yes' if row['pool'] else 'no':<6}{row['median_ms']:>9}{row['least_ms']:>9}"
        f"{row['bare_ms']:>7}{row['ratio']:>7}{row['least_ratio']:>7}{row['processor_ratio'] or '':>6}"
        for row in report["starts"]
    ]
    lines += ["", f"{'runner':<10}{'at once':<12}{'pool':<6}{'runs/s':>10}"]
    lines += [
        f"{row['runner']:<10}{row['at_once']:<12}{'yes' if row['pool'] else 'no':<6}{row['per_second']:>10}"
        for row in report["rates"]
    ]
    lines += ["", *report["absent"]]
    lines += [f"{'met ' if bar['met'] else 'MISS'}  {bar['bar']}: {bar['value']} (want {bar['want']})" for bar in report["bars"]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
