"""`python -m bench.decisions`: one principal's uncached decision at 10, 10,000 and 100,000 rules; prints bars, writes JSON.

Bundles are read from texts in the shipped format, with conditions, roles and duties.  Every question differs from the one before;
rounds of all sizes are interleaved with a yardstick, so that a bar follows the machine and the hour.  Times are the thread's own:
what the machine does beside is not in them, but for the caches that it empties.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import statistics
import sys
import time
import tracemalloc
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import casbin

from policies import engine as engine_module
from policies.bundle import Bundle, load_texts
from policies.engine import Engine
from policies.model import AccessRequest

OUT: Final = Path(__file__).parent / "out"
SIZES: Final = (10, 10_000, 100_000)
AT: Final = 1_788_955_200_000_000
YARDSTICK_REFERENCE_US: Final = 340.0
"""What `yardstick` takes on the machine that the bars are meant for: about 2.5 times as fast as the one where they were first
measured, which takes 850 µs at its best.  A bar in time is multiplied by (this run's yardstick ÷ this)."""
BAR_US: Final = 15.0
BAR_RATIO: Final = 2.0
BAR_LOAD_SECONDS: Final = 5.0

CONDITIONS: Final = """\
small: {if: args.amount > 0 and args.amount <= 1000 and args.currency == "EUR", say: up to 1000 EUR}
blocked: {if: 'args.supplier in ["S-13", "S-99"]', say: blocked suppliers}
office: {if: time.hour >= 7 and time.hour < 19 and time.weekday <= 5, say: office hours}
"""


def texts(count: int) -> dict[str, str]:
    """A bundle of `count` rules: three lines meet a call, whatever the size; the rest are other people's, tools' and tenants'."""
    tools = min(max(count // 100, 2), 500)
    registered = "\n".join(
        f"  s{n % 50}.t{n}: {{args: {{supplier: string, amount: number, currency: string}}}}" for n in range(tools)
    )
    lines = ["p, *, *, *, call, deny, blocked, -, SEC-0", "p, *, *, *, call, require, small, audit, SEC-1"]
    for n in range(count - len(lines)):
        tool, team = n % tools, n // tools
        if team % 10 == 9:
            lines.append(f"p, agent:a{team}, acme, s{tool % 50}.*, call, allow, office, -, R-{n}")
        else:
            lines.append(f"p, role:team-{team}, acme, s{tool % 50}.t{tool}, call, allow, small, -, R-{n}")
    teams = (count - len(lines)) // tools + count // tools + 2
    return {
        "model.conf": (Path(engine_module.__file__).with_name("default") / "model.conf").read_text(),
        "roles.csv": "".join(f"g, idp:team-{n}, role:team-{n}, acme\n" for n in range(teams)),
        "tools.yaml": f"tenants: [acme]\ntools:\n{registered}\n",
        "conditions.yaml": CONDITIONS,
        "obligations.yaml": "audit: {type: audit, arguments: hash}\n",
        "grants/all.csv": "\n".join(lines) + "\n",
    }


def asked(count: int, number: int, seed: int = 1) -> list[AccessRequest]:
    """Questions by people with four groups each, about half of them allowed."""
    rng = random.Random(seed)
    tools = min(max(count // 100, 2), 500)
    teams = max((count - 2) // tools, 1)
    made = []
    for n in range(number):
        tool, team = rng.randrange(tools), rng.randrange(teams)
        groups = {f"team-{team}", f"team-{team + 1}", "everybody", f"x{n}"}
        arguments = {"supplier": f"S-{n}", "amount": rng.choice([5, Decimal("12.5"), 999, 5000]), "currency": "EUR"}
        made.append(
            AccessRequest(
                f"user:corp/p{n}", (), "acme", "call", f"s{tool % 50}.t{tool}", AT + n * 1_000_000, frozenset(groups), arguments,
                {"ctx": {"protocol": "mcp", "method": "tools/call"}, "agent": {"assurance": "bearer"}},
            )
        )  # fmt: skip
    return made


_TABLE: Final = {f"name-{n}": (n, frozenset((f"name-{n}", f"name-{n // 2}")), [f"rule-{n}"]) for n in range(500)}
_WALK: Final = random.Random(1).choices(list(_TABLE), k=2000)


def yardstick() -> float:
    """µs of a fixed piece of plain Python that does what deciding does: looks into tables, makes small objects, calls."""
    began = time.thread_time_ns()
    found = 0
    for name in _WALK:
        number, names, rules = _TABLE[name]
        if name in names:
            found += len(tuple([rule for rule in rules if rule])) + len({"number": number})
    taken = (time.thread_time_ns() - began) / 1000
    assert found == 2 * len(_WALK)
    return taken


def stock(bundle: Bundle, questions: list[AccessRequest], seconds: float) -> float:
    """µs of stock Casbin for the same questions: its own rows, matcher, role manager and effector, with our conditions."""
    enforcer = casbin.Enforcer(casbin.Enforcer.new_model(text=bundle.model))
    rows = [[r.who, r.tenant, r.tool, r.action, r.when or "-", r.effect, r.id] for r in bundle.rules]
    enforcer.model["p"]["p"].policy = rows
    enforcer.model["g"]["g"].policy = []
    enforcer.add_function("when", lambda condition, _effect, _facts: condition != "blocked")
    enforcer.add_function("hit", lambda _rule: True)
    enforcer.build_role_links()
    taken: list[float] = []
    until = time.perf_counter() + seconds
    for request in questions:
        began = time.thread_time_ns()
        enforcer.enforce(request.subject, request.tenant, request.resource, request.action, request)
        taken.append((time.thread_time_ns() - began) / 1000)
        if time.perf_counter() > until:
            break
    return statistics.median(taken)


def memory(count: int) -> float:
    """KB that a bundle and its engine hold for 1,000 rules, of Python's own allocations."""
    given = texts(count)
    gc.collect()
    tracemalloc.start()
    engine = Engine(load_texts(given))
    held, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert engine.path == "indexed"
    return held / 1024 / (count / 1000)


def measure(rounds: int, number: int, sizes: tuple[int, ...] = SIZES, stock_seconds: float = 3.0) -> dict[str, Any]:
    """Medians over interleaved rounds, and the bars."""
    engines, load_seconds, build_seconds, questions = {}, {}, {}, {}
    for count in sizes:
        given = texts(count)
        began = time.thread_time()
        bundle = load_texts(given)
        load_seconds[count] = time.thread_time() - began
        began = time.thread_time()
        engines[count] = Engine(bundle)
        build_seconds[count] = time.thread_time() - began
        questions[count] = asked(count, number)
    gc.collect()
    gc.freeze()  # as the gateway does after loading: what never dies is not looked through again
    taken: dict[int, list[float]] = {count: [] for count in sizes}
    sticks: list[float] = []
    for count, engine in engines.items():
        engine.decide(questions[count][0])
    for _ in range(rounds):
        for count, engine in engines.items():
            decide, batch = engine.decide, questions[count]
            sticks.append(min(yardstick() for _ in range(5)))
            began = time.thread_time_ns()
            for request in batch:
                decide(request)
            taken[count].append((time.thread_time_ns() - began) / 1000 / len(batch))
    allowed = {count: sum(engines[count].decide(r).allowed for r in questions[count]) / number for count in sizes}
    rows = {
        str(count): {
            "us": round(statistics.median(taken[count]), 2),
            "best_us": round(min(taken[count]), 2),
            "allow_rate": round(allowed[count], 2),
            "load_seconds": round(load_seconds[count], 2),
            "build_seconds": round(build_seconds[count], 2),
        }
        for count in sizes
    }
    for count in sizes:
        rows[str(count)]["stock_us"] = round(stock(engines[count].bundle, questions[count], stock_seconds), 1)
        rows[str(count)]["stock_ratio"] = round(rows[str(count)]["stock_us"] / rows[str(count)]["us"], 1)
    report = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.release()}, Python {platform.python_version()}",
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "rounds": rounds,
        "questions": number,
        "yardstick_us": round(statistics.median(sticks), 1),
        "slower_than_reference": round(statistics.median(sticks) / YARDSTICK_REFERENCE_US, 2),
        "kb_per_1000_rules": round(memory(min(10_000, sizes[-1])), 1),
        "rules": rows,
    }
    report["bars"] = bars(report)
    gc.unfreeze()
    return report


def bars(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What the figures are held against, times how much slower than the reference this run's machine was."""
    slower = report["slower_than_reference"]
    rows = report["rules"]
    small, large = (rows[key] for key in (min(rows, key=int), max(rows, key=int)))
    ratio = round(large["us"] / small["us"], 2)
    load = round(large["load_seconds"] + large["build_seconds"], 2)
    worst = max(row["us"] for row in rows.values())
    made = [
        ("one principal's decision, median us", worst, round(BAR_US * slower, 1)),
        (f"{max(rows, key=int)} rules / {min(rows, key=int)} rules", ratio, BAR_RATIO),
        (f"loading {max(rows, key=int)} rules, s", load, round(BAR_LOAD_SECONDS * slower, 1)),
    ]
    return [{"bar": name, "value": value, "want": f"<= {most}", "met": value <= most} for name, value, most in made]


def render(report: dict[str, Any]) -> str:
    """A table for people."""
    lines = [
        f"{report['date']}; {report['machine']}; load average {' '.join(map(str, report['load_average']))}",
        f"yardstick {report['yardstick_us']} us: {report['slower_than_reference']} times as slow as the reference",
        f"{report['kb_per_1000_rules']} KB per 1,000 rules",
        "",
        f"{'rules':>8}{'median us':>11}{'best us':>9}{'allowed':>9}{'load s':>8}{'build s':>9}{'stock us':>12}{'x stock':>9}",
    ]
    lines += [
        f"{count:>8}{row['us']:>11}{row['best_us']:>9}{row['allow_rate']:>9}{row['load_seconds']:>8}{row['build_seconds']:>9}"
        f"{row['stock_us']:>12}{row['stock_ratio']:>9}"
        for count, row in report["rules"].items()
    ]
    lines.append("")
    lines += [f"{'met ' if bar['met'] else 'MISS'}  {bar['bar']}: {bar['value']} (want {bar['want']})" for bar in report["bars"]]
    return "\n".join(lines)


def main() -> int:
    """Run; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.decisions", epilog="example: python -m bench.decisions --json out.json"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report there")
    args = parser.parse_args()
    report = measure(args.rounds, args.questions)
    OUT.mkdir(exist_ok=True)
    for path in (OUT / "decisions.json", args.json):
        if path is not None:
            path.write_text(json.dumps(report, indent=1) + "\n")
    print(render(report))
    return 1 if any(not bar["met"] for bar in report["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
