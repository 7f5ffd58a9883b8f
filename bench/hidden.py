"""`python -m bench.hidden`: how long a refusal takes for what is hidden, and for what is not there; prints ratios, writes JSON.

Each pair is asked one after the other, in turns, of a gateway as `bailiwick serve` runs it; the answers must be the same.  One
with a planted difference stands beside it, which has to show, and a pair of two unknown names, which says what noise looks like.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.aggregate import OUT, Asked, configure
from bench.targets import GATEWAY_CORE, LOAD_CORE, free_port, process
from gateway.cli import main as bailiwick
from policies.engine import Engine

PLANTED: Final = 500
"""Microseconds that a hidden tool takes longer in the planted gateway."""
DEVIATIONS: Final = 4.0
"""What is told apart more often than by guessing (0.5), by so many standard deviations of guessing, is told apart."""
GRANT: Final = "p, role:caller, bench, s000.tool_0, call, allow, -, -, B-0\n"


class Pair(NamedTuple):
    """The same request for something hidden, and for something that is not there."""

    hidden: Asked
    unknown: Asked


@contextmanager
def standing(folder: Path, name: str, planted: int) -> Iterator[tuple[int, str]]:
    """(port, token) of a gateway before two servers, of which the caller may use one tool of three."""
    up, port, home = free_port(), free_port(), folder / name
    home.mkdir()
    token = configure(home, port, up, [2, 100])
    (home / "policies" / "grants" / "bench.csv").write_text(GRANT)
    serve = [sys.executable, "-m", "uvicorn", "bench.upstream:app", "--port", str(up), "--log-level", "error"]
    gateway = [sys.executable, "-m", "bench.hidden", "--serve", str(home / "bailiwick.yaml"), "--planted", str(planted)]
    with process(serve, LOAD_CORE, up, home / "up.log"), process(gateway, GATEWAY_CORE, port, home / "gateway.log"):
        yield port, token


def serve(config: str, planted: int) -> int:
    """`bailiwick serve`, with that planted where it is not 0."""
    plain = Engine._denial

    def slow(self: Engine, ask: Any, request: Any, *rest: Any) -> Any:
        until = time.perf_counter() + (planted / 1e6 if request.resource in self.bundle.tools else 0)
        while time.perf_counter() < until:
            pass
        return plain(self, ask, request, *rest)

    if planted:
        Engine._denial = slow  # type: ignore[method-assign]
    return bailiwick(["serve", "--config", config])


def pairs_of(port: int, token: str) -> dict[str, Pair]:
    """What is asked of one gateway."""

    def asked(path: str, method: str, **params: Any) -> Asked:
        return Asked(port, path, method, params, token)

    def called(path: str, name: str) -> Asked:
        return asked(path, "tools/call", name=name, arguments={"text": "x"})

    return {
        "two unknown names": Pair(called("/mcp/s000", "someone"), called("/mcp/s000", "nobody_")),
        "a tool": Pair(called("/mcp/s000", "tool_1"), called("/mcp/s000", "nobody")),
        "a server": Pair(called("/mcp/s001", "tool_1"), called("/mcp/s009", "tool_1")),
        "a prompt": Pair(*(asked("/mcp/s000", "prompts/get", name=name) for name in ("greet_", "nobody"))),
        "a tool, /mcp": Pair(called("/mcp", "s000__tool_1"), called("/mcp", "s000__nobody")),
        "a server's tool, /mcp": Pair(called("/mcp", "s001__tool_1"), called("/mcp", "s009__tool_1")),
    }


def once(line: http.client.HTTPConnection, asked: Asked) -> float:
    """Seconds of one request, whose answer must be that of what is not there."""
    body, headers = asked.request()
    began = time.perf_counter()
    line.request("POST", asked.path, body, headers)
    answer = json.loads(line.getresponse().read())
    spent = time.perf_counter() - began
    if answer.get("error", {}).get("data", {}).get("code") != "not-available":
        sys.exit(f"{asked.method} at {asked.path} did not answer as it should: {str(answer)[:300]}")
    return spent


def measured(pair: Pair, calls: int) -> tuple[list[float], list[float]]:
    """Seconds of each, asked in turns; which of them is first changes each time."""
    line = http.client.HTTPConnection("127.0.0.1", pair.hidden.port, timeout=60)
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(calls + 20):
        for which in (0, 1) if number % 2 else (1, 0):
            spent = once(line, pair[which])
            if number >= 20:
                took[which].append(spent)
    line.close()
    return took


def told_apart(one: Sequence[float], other: Sequence[float]) -> float:
    """How often a time of `one` is the longer of two, or the shorter, whichever says more (the area under the curve)."""
    ranked = sorted([(time, 1) for time in one] + [(time, 0) for time in other])
    ranks = sum(rank for rank, (_, mine) in enumerate(ranked, 1) if mine)
    area = (ranks - len(one) * (len(one) + 1) / 2) / (len(one) * len(other))
    return max(area, 1 - area)


def figures(name: str, took: tuple[list[float], list[float]]) -> dict[str, Any]:
    """The figures of one pair."""
    hidden, unknown = (statistics.median(each) for each in took)
    return {
        "pair": name, "hidden_ms": round(hidden * 1e3, 3), "unknown_ms": round(unknown * 1e3, 3),
        "ratio": round(hidden / unknown, 3), "told_apart": round(told_apart(*took), 3),
    }  # fmt: skip


def report_of(rows: Sequence[Mapping[str, Any]], planted: Mapping[str, Any], calls: int) -> dict[str, Any]:
    """Figures and bars."""
    guessing = round(0.5 + DEVIATIONS * math.sqrt((2 * calls + 1) / 12) / calls, 3)
    worst = max(each["told_apart"] for each in rows)
    bars = [
        {"name": "hidden told from unknown, at the most", "value": worst, "bar": guessing, "met": worst <= guessing},
        {
            "name": f"{PLANTED} planted microseconds show: told apart, at least", "value": planted["told_apart"],
            "bar": guessing, "met": planted["told_apart"] > guessing,
        },
    ]  # fmt: skip
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    return {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, "rows": [*rows, planted], "bars": bars}


def render(report: Mapping[str, Any]) -> str:
    """The same for people."""
    lines = [f"{'pair':<24} {'hidden ms':>10} {'unknown ms':>11} {'ratio':>7} {'told apart':>11}"]
    lines += [
        f"{row['pair']:<24} {row['hidden_ms']:>10.3f} {row['unknown_ms']:>11.3f} {row['ratio']:>7.3f} {row['told_apart']:>11.3f}"
        for row in report["rows"]
    ]
    lines += [f"{'met' if bar['met'] else 'MISSED'}: {bar['name']}: {bar['value']} (bar {bar['bar']})" for bar in report["bars"]]
    return "\n".join(lines)


def main() -> int:
    """Measure every pair; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.hidden", epilog="example: python -m bench.hidden --calls 500 --json")
    parser.add_argument("--calls", type=int, default=1500, help="of each name")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--serve", metavar="CONFIG", help=argparse.SUPPRESS)
    parser.add_argument("--planted", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve, args.planted)
    with tempfile.TemporaryDirectory(prefix="bailiwick-bench-") as folder:
        with standing(Path(folder), "plain", 0) as (port, token):
            rows = [figures(name, measured(pair, args.calls)) for name, pair in pairs_of(port, token).items()]
        with standing(Path(folder), "planted", PLANTED) as (port, token):
            planted = figures("planted: a tool", measured(pairs_of(port, token)["a tool"], args.calls))
    report = report_of(rows, planted, args.calls)
    OUT.mkdir(exist_ok=True)
    (OUT / "hidden.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report) if args.json else render(report))
    return 1 if any(not bar["met"] for bar in report["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
