"""`python -m bench.replay`: how long it takes to ask recorded decisions again; prints one table, writes JSON.

    python -m bench.replay --decisions 100000 --json

A ledger is filled by the gateway's own recorder from drawn calls over the procurement bundle (reading the bytes, asking the
engine, sealing, committing), with the records of their ends between them; then it is replayed as `bailiwick policy replay`
does it.  The phases are measured by running only so far, each in a pass of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.journal import Journal
from audit.reader import Ledger
from gateway.a2a.normalise import normalise as normalise_a2a
from gateway.a2a.operations import Asked
from gateway.cli.policy.replay import compare
from gateway.mcp.normalise import normalise as normalise_mcp
from gateway.mcp.wire import read
from gateway.model import Arrival, Call, Outcome, OutcomeStatus, Permit, Principal, Refused, Trace, new_id, wall_clock
from gateway.reasons import Code
from gateway.record import Recorder
from gateway.reproduce import KINDS, VALUES, decisions
from policies.bundle import Bundle, load
from policies.engine import Engine

ROOT = Path(__file__).resolve().parents[1]
OUT = Path(__file__).parent / "out"
PROCUREMENT = ROOT / "examples" / "procurement" / "policies"
ORIGIN: Final = "bench.invalid/replay"
SEAL: Final = bytes(range(32))
ANSWER: Final = b'{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"done"}]}}'
BAR_SECONDS: Final = 60.0
"""Of processor time for 100,000 decisions: the replay is one thread that waits for nothing but a local file."""

GROUPS: Final = {"paul": "procurement-managers", "mia": "marketing-managers", "fiona": "finance-controllers"}
CHAINS: Final = (
    (),
    ("procurement-analyst",),
    ("procurement-analyst", "erp-integration"),
    ("campaign-reporter",),
    ("campaign-reporter", "procurement-analyst", "erp-integration"),
)
TOOLS: Final[dict[str, Callable[[random.Random], dict[str, object]]]] = {
    "erp.read": lambda rng: {"entity": "supplier", "id": f"S-{rng.randrange(99)}"},
    "erp.write_po": lambda rng: {
        "supplier": rng.choice(["S-13", "S-77", "S-80"]),
        "amount": rng.choice([500, 40_000, 249_999.99, 250_000.01, 300_000]),
        "currency": rng.choice(["EUR", "EUR", "USD"]),
        "cost_center": "4711",
    },
    "contracts.search": lambda rng: {"supplier": "S-77", "query": "payment terms " * rng.randrange(1, 30)},
    "sandbox.run_python": lambda rng: {
        "code": "print(1)\n" * rng.randrange(1, 200),
        "network": rng.random() < 0.3,
        "memory_mb": 256,
    },
    "crm.campaign_report": lambda _: {"campaign": "spring", "quarter": "Q3"},
    "mail.send": lambda rng: {"to": "a@example.com", "body": "word " * rng.randrange(1, 200)},
    "erp.nothing": lambda _: {},
}


def drawn(rng: random.Random, people: int) -> tuple[Arrival, Principal]:
    """One call: of a person, through a chain, of a tool or to an agent, or a list."""
    name = rng.choice(list(GROUPS))
    actors = tuple(f"agent:{agent}" for agent in rng.choice(CHAINS))
    principal = Principal(
        f"user:dev/{name}-{rng.randrange(people)}", actors, "acme", f"wf-{rng.randrange(1000)}", 2**33, "bearer", "0" * 64,
        groups=frozenset((GROUPS[name], "everybody")),
    )  # fmt: skip
    at = wall_clock()
    trace = Trace(f"{rng.getrandbits(128):032x}", f"{rng.getrandbits(64):016x}")
    headers = (("content-type", "application/json"), ("mcp-protocol-version", "2025-11-25"))
    what = rng.random()
    if what < 0.15:
        target = rng.choice(["procurement-analyst", "erp-integration", "nobody-there"])
        body = {"jsonrpc": "2.0", "id": 7, "method": "SendMessage", "params": {"message": {"parts": [{"text": "please"}]}}}
        return Arrival(new_id(at), "a2a", target, headers, json.dumps(body).encode(), at, trace), principal
    if what < 0.25:
        target, body = rng.choice(["erp", "crm", "none"]), {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {}}
    else:
        tool = rng.choice(list(TOOLS))
        target, _, short = tool.partition(".")
        params = {"name": short, "arguments": TOOLS[tool](rng)}
        body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    return Arrival(new_id(at), "mcp", target, headers, json.dumps(body).encode(), at, trace), principal


async def record(recorder: Recorder, engine: Engine, arrival: Arrival, principal: Principal) -> None:
    """What the road does of a call, without its upstream."""
    if arrival.protocol == "mcp":
        call = read(arrival, 64)
        request = normalise_mcp(call, principal)
    else:
        call = Call(arrival, "SendMessage", arrival.target, None, arrival.trace, rpc_id=7, version="1.0", kept=Asked())
        request = normalise_a2a(call, principal)
    decision = engine.decide(request)
    if decision.allowed:
        intent = await recorder.intent(Permit.of(call, principal, request, decision))
        await recorder.outcome(
            intent, Outcome(OutcomeStatus.OK, b'{"jsonrpc":"2.0","id":7,"result":{"content":[]}}', events=1, bytes=46)
        )
        return
    code = Code(decision.reason.value)
    await recorder.refusal(arrival, Refused(code, decision=decision, request=request, call=call, principal=principal))


async def fill(url: str, bundle: Bundle, count: int, *, seed: int = 0, people: int = 200) -> None:
    """A ledger of `count` decisions."""
    rng, engine, key = random.Random(seed), Engine(bundle), Ed25519PrivateKey.from_private_bytes(SEAL)
    journal = await Journal.open(url=url, origin=ORIGIN, signing_key=key, seal_key=SEAL, writer="bench", clock=wall_clock)
    recorder = Recorder(journal.append, journal.submit, wall_clock)
    left = count
    while left:
        several = min(left, 500)
        await asyncio.gather(*(record(recorder, engine, *drawn(rng, people)) for _ in range(several)))
        left -= several
    await journal.close()


def timed(work: Callable[[Ledger], Any], url: str) -> tuple[float, float, Any]:
    """Seconds on the wall, seconds of this process (which a busy machine does not lengthen), and what came of it."""
    with Ledger.open(url, SEAL) as log:
        began, busy = time.perf_counter(), time.process_time()
        result = work(log)
        return time.perf_counter() - began, time.process_time() - busy, result


def peak_kb() -> int:
    """The most memory that this process has held so far.  (What `getrusage` says survives an exec, and would be the parent's.)"""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


def exhaust(found: Iterator[object]) -> int:
    """How many there were."""
    return sum(1 for _ in found)


def measured_apart(url: str) -> dict[str, Any]:
    """`measure` in a process of its own, whose memory is nobody else's."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        return apart.submit(measure, url).result()


def measure(url: str) -> dict[str, Any]:
    """The whole replay, and the passes that go only so far."""
    engine = Engine(load(PROCUREMENT))
    timed(lambda log: compare(decisions(log), engine, 1000), url)  # warm
    before = peak_kb()
    wall, whole, found = timed(lambda log: compare(decisions(log), engine), url)
    grown = peak_kb() - before
    _, leaves, _ = timed(lambda log: exhaust(log.opened(KINDS, ())), url)
    _, opened, _ = timed(lambda log: exhaust(log.opened(KINDS, VALUES)), url)
    _, rebuilt, _ = timed(lambda log: exhaust(decisions(log)), url)
    per = 1e6 / max(found.decisions, 1)
    return {
        "decisions": found.decisions,
        "seconds": round(wall, 2),
        "seconds_per_100000": round(wall * 100_000 / max(found.decisions, 1), 1),
        "cpu_seconds_per_100000": round(whole * 100_000 / max(found.decisions, 1), 1),
        "cpu_us_per_decision": {
            "reading and hashing records": round(leaves * per, 1),
            "decrypting and checking values": round((opened - leaves) * per, 1),
            "parsing into questions": round((rebuilt - opened) * per, 1),
            "deciding and comparing": round((whole - rebuilt) * per, 1),
        },
        "rss_growth_mb": round(grown / 1024, 1),
        "changed": sum(found.tally.changed.values()),
        "undecidable": dict(found.undecidable),
        "verdicts": dict(Counter(found.bundles)),
    }


def main() -> int:
    """Fill, measure, print; exit 1 where the bar is missed or a replay under the same bundle is not the same."""
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description=__doc__)
    parser.add_argument("--decisions", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_args()
    bundle = load(PROCUREMENT)
    with tempfile.TemporaryDirectory(prefix="bailiwick-bench-") as folder:
        url = f"sqlite:///{folder}/ledger.db"
        began = time.perf_counter()
        asyncio.run(fill(url, bundle, args.decisions))
        filled = time.perf_counter() - began
        print(f"{args.decisions} decisions recorded in {filled:.1f} s", file=sys.stderr)
        report = measured_apart(url)
        report["ledger_mb"] = round(sum(f.stat().st_size for f in Path(folder).iterdir()) / 1e6, 1)
    report |= {
        "bar_cpu_seconds_per_100000": BAR_SECONDS,
        "met": report["cpu_seconds_per_100000"] <= BAR_SECONDS and report["changed"] == 0 and not report["undecidable"],
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{platform.machine()}, {platform.release()}, Python {platform.python_version()}",
        "load_average": [round(value, 1) for value in os.getloadavg()],
    }
    OUT.mkdir(exist_ok=True)
    (OUT / "replay.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report) if args.json else "\n".join(f"{key}: {value}" for key, value in report.items()))
    return 0 if report["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
