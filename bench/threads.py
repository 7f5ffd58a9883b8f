"""`python -m bench.threads`: CPU a call of the loop's thread, the ledger's writer and its signer, trees side by side.

Wall times of a shared machine say little; what each thread used does, and two trees in interleaved rounds can be compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import load, targets

LOOP, WRITER, SIGNER, OTHERS = "loop", "writer", "signer", "others"
ROWS = ("calls/s", LOOP, WRITER, SIGNER, OTHERS, "switches", "preempted")


def used(pid: int) -> dict[str, tuple[float, int, int]]:
    """By thread id: microseconds that it ran, and how often it gave up the processor or lost it."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            ran = int((task / "schedstat").read_text().split()[0]) / 1000
            status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        except FileNotFoundError:  # a thread that ended meanwhile
            continue
        found[task.name] = ran, int(status["voluntary_ctxt_switches"]), int(status["nonvoluntary_ctxt_switches"])
    return found


def measured(target: targets.Target, connections: int, seconds: float) -> dict[str, float]:
    """One run.  Beside the loop, the busiest thread is the ledger's writer and the next its signer: the kernel knows no names."""
    before = used(target.pid)
    sample = load.run(target, connections, seconds)
    after = used(target.pid)
    calls = max(sample.rps * seconds, 1)
    spent = {
        thread: [now - then for now, then in zip(after[thread], before.get(thread, (0, 0, 0)), strict=True)] for thread in after
    }
    beside = sorted((each[0] for thread, each in spent.items() if thread != str(target.pid)), reverse=True)
    writer, signer, *others = [*beside, 0.0, 0.0]
    row = {LOOP: spent[str(target.pid)][0], WRITER: writer, SIGNER: signer, OTHERS: sum(others)}
    row |= {"switches": sum(each[1] for each in spent.values()), "preempted": sum(each[2] for each in spent.values())}
    return {"calls/s": sample.rps} | {name: value / calls for name, value in row.items()}


def main() -> int:
    """Print medians over the rounds, a column a tree."""
    parser = argparse.ArgumentParser(prog="python -m bench.threads")
    parser.add_argument("trees", nargs="*", type=Path, default=[Path.cwd()], help="source trees, run by this interpreter")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rules", type=int, default=10_000)
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bailiwick-threads-")))
        upstream = stack.enter_context(targets.upstream(folder))
        running = []
        for number, tree in enumerate(args.trees):
            home = folder / str(number)
            home.mkdir()
            running.append(stack.enter_context(targets.bailiwick(home, upstream, args.rules, tree=tree.resolve())))
        for target in running:
            load.run(target, args.connections, 1.0)  # warm
        rows: list[list[dict[str, float]]] = [[] for _ in running]
        for turn in range(args.rounds):
            for number in range(len(running)) if turn % 2 == 0 else reversed(range(len(running))):
                rows[number].append(measured(running[number], args.connections, args.seconds))
    print(f"{args.connections} connections, load average {os.getloadavg()[0]:.1f}; us of processor time a call, medians")
    for name in ROWS:
        print(f"{name:<10}" + "".join(f"{statistics.median(each[name] for each in found):>12.2f}" for found in rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
