"""`python -m bench`: direct, a plain nginx proxy and Bailiwick with full governance, interleaved; prints ratios, writes JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from bench import load, peers, targets

OUT = Path(__file__).parent / "out"


def main() -> int:
    """Run the rounds; exit 1 where a bar is missed, 2 where the machine lacks what is needed."""
    parser = argparse.ArgumentParser(prog="python -m bench", epilog="example: python -m bench --rounds 5 --seconds 3 --json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rules", type=int, default=10_000)
    parser.add_argument("--peers", action="store_true", help="also FastMCP's proxy and ContextForge, each in its own environment")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bailiwick-bench-")))
        say = sys.stderr
        upstream = stack.enter_context(targets.upstream(folder))
        running = [targets.direct(upstream)]
        if (proxy := targets.nginx_proxy(folder, upstream)) is not None:
            running.append(stack.enter_context(proxy))
        else:
            print("nginx is not installed: no plain proxy beside us, so no ratio to it (apt-get install nginx-light)", file=say)
        running.append(stack.enter_context(targets.bailiwick(folder, upstream, args.rules)))
        if args.peers:
            speaking = stack.enter_context(targets.mcp_upstream(folder))
            running += [stack.enter_context(peer) for peer in peers.installed(folder, speaking, say)]
        flush = targets.fdatasync_p50(folder)
        samples: dict[str, dict[int, list[load.Sample]]] = {t.name: {c: [] for c in args.connections} for t in running}
        for target in running:
            load.run(target, min(args.connections), 1.0)  # warm
        for number in range(args.rounds):
            for connections in args.connections:
                for target in running:
                    print(f"round {number + 1}/{args.rounds}  {connections:>3} connections  {target.name}", file=say)
                    samples[target.name][connections].append(load.run(target, connections, args.seconds))
        report = summarise(samples, flush, {t.name: t.rss() for t in running}, args)
    OUT.mkdir(exist_ok=True)
    (OUT / "gateway.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report) if args.json else render(report))
    return 1 if any(not bar["met"] for bar in report["bars"]) else 0


def summarise(samples: dict, flush: float, rss: dict[str, int], args: argparse.Namespace) -> dict:
    """Medians over the rounds, and the bars as ratios of the same run."""
    rows = {}
    for name, by_connections in samples.items():
        rows[name] = {
            str(c): {field: statistics.median(getattr(s, field) for s in found) for field in load.FIELDS}
            for c, found in by_connections.items()
        }
    report = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{platform.machine()}, {platform.release()}, Python {platform.python_version()}, gateway on one core",
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "load": load.GENERATOR,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "rules": args.rules,
        "fdatasync_p50_us": flush,
        "targets": rows,
        "rss_mb": {name: round(value / 1e6, 1) for name, value in rss.items()},
    }
    report["bars"] = bars(report)
    return report


def bars(report: dict) -> list[dict]:
    """What the figures are held against."""
    rows, found = report["targets"], []
    ours = rows["bailiwick"]
    top, low = max(ours, key=int), min(ours, key=int)
    if "nginx" in rows:
        ratio = ours[top]["rps"] / rows["nginx"][top]["rps"]
        found.append(
            {"bar": f"throughput / nginx, {top} connections", "value": round(ratio, 3), "want": ">= 0.10", "met": ratio >= 0.10}
        )
        direct = rows["direct"][low]["p50_us"]
        added, nginx = ours[low]["p50_us"] - direct, rows["nginx"][low]["p50_us"] - direct
        most = nginx + 4 * report["fdatasync_p50_us"] + 300
        found.append(
            {
                "bar": "p50 added over direct, 1 connection, us",
                "value": round(added),
                "want": f"<= {most:.0f}",
                "met": added <= most,
            }
        )
    if "fastmcp" in rows:
        ratio = ours[top]["rps"] / max(rows["fastmcp"][top]["rps"], 0.1)
        found.append(
            {"bar": f"throughput / FastMCP, {top} connections", "value": round(ratio, 1), "want": ">= 20", "met": ratio >= 20}
        )
    return found


def render(report: dict) -> str:
    """A table for people."""
    lines = [
        f"{report['date']}; {report['machine']}; load average {' '.join(map(str, report['load_average']))}",
        f"fdatasync p50 {report['fdatasync_p50_us']:.0f} us; {report['rules']} rules; {report['load']}",
        "",
    ]
    lines.append(
        f"{'target':<14}{'conns':>6}{'calls/s':>10}{'p50 us':>10}{'p99 us':>10}{'CPU us/call':>13}{'errors':>8}{'RSS MB':>8}"
    )
    for name, by_connections in report["targets"].items():
        for connections, row in by_connections.items():
            lines.append(
                f"{name:<14}{connections:>6}{row['rps']:>10.0f}{row['p50_us']:>10.0f}{row['p99_us']:>10.0f}"
                f"{row['cpu_us']:>13.1f}{row['errors']:>8.0f}{report['rss_mb'][name]:>8.0f}"
            )
    lines.append("")
    lines += [f"{'met ' if bar['met'] else 'MISS'}  {bar['bar']}: {bar['value']} (want {bar['want']})" for bar in report["bars"]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
