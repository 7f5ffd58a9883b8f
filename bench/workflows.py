"""`python -m bench.workflows`: what a decision costs that a workflow's rules hold; prints one table, writes JSON.

    python -m bench.workflows --past 1000 --count 300

Three decisions, interleaved, each with the record of its intent durable as on the road, over SQLite stores of their own:
one that no workflow holds, one at the beginning of a workflow, and one after many calls in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.journal import Journal
from gateway.mcp.normalise import normalise
from gateway.mcp.sealed import Sealed
from gateway.mcp.steps import McpSteps
from gateway.mcp.wire import read
from gateway.model import Arrival, Outcome, OutcomeStatus, Permit, Principal, Trace, new_id, wall_clock
from gateway.policy.in_force import Pair, Policy
from gateway.record import Recorder
from gateway.state.store import State
from gateway.workflows.steps import Steps
from policies.bundle import Bundle, load_texts
from policies.engine import Engine

OUT: Final = Path(__file__).parent / "out"
PROCUREMENT: Final = Path(__file__).resolve().parents[1] / "examples" / "procurement" / "policies"
SEAL: Final = bytes(range(32))
BAR: Final = 2.0
RULES: Final = """\
workflow: purchase-order
before:
  - {tool: erp.write_po, needs: contracts.search, by: agent:contract-review, same: supplier, within: 2h}
  - {tool: erp.write_po, needs: risk.score, by: agent:supplier-risk, same: supplier, within: 2h, result: {field: score, max: 60}}
once: [{tool: erp.write_po, same: cost_center}]
budget:
  - {tool: erp.write_po, sum: amount, max: 1000000000}
  - {tool: erp.write_po, count: 1000000, per: [subject, day]}
  - {tool: "*", count: 1000000}
distinct: [{steps: [contracts.search, erp.write_po], same: supplier}]
"""


@dataclass
class Road:
    """The stages of the road that decide and record, without an upstream."""

    engine: Engine
    policy: Policy
    steps: Steps
    recorder: Recorder
    reader: McpSteps

    def permit(self, workflow: str, tool: str, agent: str, arguments: dict[str, object]) -> Permit:
        """An allowed call of Paul's."""
        at = wall_clock()
        server, _, name = tool.partition(".")
        actors = ("agent:procurement-analyst", f"agent:{agent}") if agent != "procurement-analyst" else (f"agent:{agent}",)
        principal = Principal(
            "user:dev/paul",
            actors,
            "acme",
            workflow,
            at // 1_000_000 + 3600,
            "bearer",
            "0" * 64,
            frozenset({"procurement-managers"}),
        )
        body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
        headers = (("content-type", "application/json"), ("mcp-protocol-version", "2025-11-25"))
        trace = Trace("0" * 31 + "1", "0" * 15 + "1")
        call = read(Arrival(new_id(at), "mcp", server, headers, json.dumps(body).encode(), at, trace), 64)
        request = normalise(call, principal)
        return Permit.of(call, principal, request, self.engine.decide(request))

    async def decided(self, *call: Any) -> Permit:
        """A call as far as it is decided and on record."""
        permit = self.permit(*call)
        held = self.steps.reserve(self.policy, self.reader, permit)
        permit = permit if held is None else await held
        await self.recorder.intent(permit)
        if permit.reserved is not None:
            await permit.reserved.durable
        return permit

    async def done(self, *call: Any, results: str = "") -> None:
        """A call to its end."""
        permit = await self.decided(*call)
        if permit.reserved is not None:
            await self.steps.settle(permit, Outcome(OutcomeStatus.OK, step="ok", results=results))


def bundle() -> Bundle:
    """The procurement bundle, its workflow with rules of more kinds."""
    texts = {p.relative_to(PROCUREMENT).as_posix(): p.read_text() for p in PROCUREMENT.rglob("*") if p.is_file()}
    kept = {name: text for name, text in texts.items() if not name.startswith("tests/")}
    return load_texts(kept | {"workflows/purchase-order.yaml": RULES})


def order(number: int) -> tuple[str, str, dict[str, object]]:
    """A purchase order that every rule lets through, each under a cost center of its own."""
    return "erp.write_po", "erp-integration", {"supplier": "S-77", "amount": 500, "currency": "EUR", "cost_center": f"C-{number}"}


async def prepared(road: Road, workflow: str, past: int) -> None:
    """A workflow with its fixed steps done, among `past` calls of contracts and scores of many suppliers."""
    for number in range(max(past - 2, 0)):
        supplier = f"S-{number}"
        if number % 2:
            await road.done(workflow, "contracts.search", "contract-review", {"supplier": supplier, "query": ""})
        else:
            await road.done(workflow, "risk.score", "supplier-risk", {"supplier": supplier}, results='{"score":{"n":"31"}}')
    await road.done(workflow, "contracts.search", "contract-review", {"supplier": "S-77", "query": ""})
    await road.done(workflow, "risk.score", "supplier-risk", {"supplier": "S-77"}, results='{"score":{"n":"31"}}')


async def measured(folder: Path, past: int, count: int) -> dict[str, list[float]]:
    """Milliseconds of each decision, by what it is measured for."""
    policies = bundle()
    engine = Engine(policies)
    state = State.open(f"sqlite:///{folder}/state.db")
    key = Ed25519PrivateKey.from_private_bytes(SEAL)
    journal = await Journal.open(
        url=f"sqlite:///{folder}/ledger.db",
        origin="bench.invalid/w",
        signing_key=key,
        seal_key=SEAL,
        writer="b",
        clock=wall_clock,
    )
    steps = Steps(state.histories, SEAL, lambda _rule: None)
    recorder = Recorder(journal.append, journal.submit, wall_clock)
    road = Road(engine, Policy(Pair(policies, engine, 0)), steps, recorder, McpSteps(Sealed([SEAL])))
    try:
        await prepared(road, "wf-long", past)
        fresh = [f"wf-{number}" for number in range(count)]
        for workflow in fresh:
            await prepared(road, workflow, 2)
        free = ("erp.read", "procurement-analyst", {"entity": "supplier", "id": "S-77"})
        taken: dict[str, list[float]] = {"no workflow": [], "begun": [], "long": []}
        for number, workflow in enumerate(fresh):
            for name, call in (
                ("no workflow", ("wf-free", *free)),
                ("begun", (workflow, *order(0))),
                ("long", ("wf-long", *order(number))),
            ):
                start = time.perf_counter()
                await road.decided(*call)
                taken[name].append((time.perf_counter() - start) * 1000)
        return taken
    finally:
        await journal.close()
        await state.close()


def summarised(taken: dict[str, list[float]], past: int) -> dict[str, Any]:
    """Medians, ratios, and whether the bars are met."""
    median = {name: statistics.median(values) for name, values in taken.items()}
    ratios = {
        f"after {past} calls ÷ at the beginning": median["long"] / median["begun"],
        f"after {past} calls ÷ without any workflow": median["long"] / median["no workflow"],
    }
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"system": platform.platform(), "python": platform.python_version(), "load": os.getloadavg()[0]},
        "past": past,
        "count": len(taken["long"]),
        "median_ms": median,
        "bars": [{"name": name, "ratio": round(ratio, 3), "bar": BAR, "met": ratio <= BAR} for name, ratio in ratios.items()],
    }


def main() -> int:
    """Measure; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.workflows", epilog="example: python -m bench.workflows --past 1000")
    parser.add_argument("--past", type=int, default=1000)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bailiwick-bench-") as folder:
        report = summarised(asyncio.run(measured(Path(folder), args.past, args.count)), args.past)
    OUT.mkdir(exist_ok=True)
    (OUT / "workflows.json").write_text(json.dumps(report, indent=1) + "\n")
    if args.json:
        print(json.dumps(report))
    else:
        for name, value in report["median_ms"].items():
            print(f"{name:<14} {value:8.3f} ms")
        for bar in report["bars"]:
            print(f"{'met   ' if bar['met'] else 'MISSED'} {bar['name']}: {bar['ratio']} (bar {bar['bar']})")
    return 0 if all(bar["met"] for bar in report["bars"]) else 1


if __name__ == "__main__":
    sys.exit(main())
