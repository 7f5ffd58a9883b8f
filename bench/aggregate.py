"""`python -m bench.aggregate`: what `/mcp` costs, and how it grows with servers and tools; prints ratios, writes JSON.

A gateway as `bailiwick serve` runs it (verified tokens, policy, durable ledger) before one fast upstream, which stands in for all
servers.  One client asks one thing after another, each in turn directly, through a mount and through the aggregate.
"""

from __future__ import annotations

import argparse
import http.client
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.targets import GATEWAY_CORE, LOAD_CORE, free_port, process
from gateway.identity.devissuer import DevIssuer
from gateway.model import wall_clock

OUT: Final = Path(__file__).parent / "out"
SHAPES: Final = ((1, 10), (10, 10), (100, 10), (1, 1000), (10, 1000), (100, 1000))
"""(servers, tools in all of them together)."""
VERSION: Final = "2026-07-28"
META: Final = {"io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {}}
BAR_CALL: Final = 1.5
"""A call through the aggregate beside one through the mount, however many servers there are."""


@dataclass(frozen=True)
class Asked:
    """One request to one place."""

    port: int
    path: str
    method: str
    params: Mapping[str, Any]
    token: str = ""

    def request(self) -> tuple[bytes, dict[str, str]]:
        """Body and headers."""
        body = {"jsonrpc": "2.0", "id": 1, "method": self.method, "params": {**self.params, "_meta": META}}
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        headers |= {"MCP-Protocol-Version": VERSION, "Mcp-Method": self.method}
        headers |= {"Mcp-Name": self.params["name"]} if "name" in self.params else {}
        headers |= {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return json.dumps(body).encode(), headers


def spread(servers: int, tools: int) -> list[int]:
    """How many tools each server has."""
    return [tools // servers + (1 if n < tools % servers else 0) for n in range(servers)]


@contextmanager
def standing(folder: Path, servers: int, tools: int) -> Iterator[tuple[int, int, str]]:
    """(upstream's port, gateway's port, token) with so many servers and tools."""
    up, port = free_port(), free_port()
    home = folder / f"{servers}-{tools}"
    home.mkdir()
    token = configure(home, port, up, spread(servers, tools))
    serve = [sys.executable, "-m", "uvicorn", "bench.upstream:app", "--port", str(up), "--log-level", "error"]
    gateway = [str(Path(sys.executable).with_name("bailiwick")), "serve", "--config", str(home / "bailiwick.yaml")]
    with process(serve, LOAD_CORE, up, home / "up.log"), process(gateway, GATEWAY_CORE, port, home / "gateway.log"):
        yield up, port, token


def configure(home: Path, port: int, up: int, tools: list[int]) -> str:
    """Settings and a bundle for servers with so many tools each; a person's token."""
    shutil.copytree(Path(__file__).parent.parent / "policies" / "default", home / "policies")
    for name in ("grants", "tests"):
        shutil.rmtree(home / "policies" / name)
        (home / "policies" / name).mkdir()
    named = [f"s{n:03}.tool_{k}" for n, count in enumerate(tools) for k in range(max(count, 1))]
    files = {
        "grants/bench.csv": "".join(f"p, role:caller, bench, s{n:03}.*, call, allow, -, -, B-{n}\n" for n in range(len(tools))),
        "roles.csv": "g, idp:callers, role:caller, bench\n",
        "conditions.yaml": "{}\n",
        "obligations.yaml": "{}\n",
        "tools.yaml": "tenants: [bench]\ntools:\n" + "".join(f"  {tool}: {{args: {{}}, risk: low}}\n" for tool in named),
        "tests/bench.yaml": (
            "people:\n  caller: {is: user:dev/bench, groups: [callers]}\n  stranger: {is: user:dev/stranger, groups: []}\n"
            "tests:\n  - {who: caller, tool: s000.tool_0, args: {}, expect: allow}\n"
            "  - {who: stranger, tool: s000.tool_0, args: {}, expect: deny, because: user-lacks-right}\n"
        ),
    }
    for name, text in files.items():
        (home / "policies" / name).write_text(text)
    issuer = f"http://127.0.0.1:{port}/dev"
    (home / "bailiwick.yaml").write_text(
        f"tenant: bench\nserver: {{port: {port}}}\n"
        f"issuers:\n  - {{alias: dev, issuer: '{issuer}', audience: 'http://127.0.0.1:{port}', "
        f"jwks: {{file: data/dev-jwks.json}}, algorithms: [ES256], direct_clients: [bailiwick-cli], development: true}}\n"
        "mcp:\n" + "".join(f"  s{n:03}: {{url: 'http://127.0.0.1:{up}/tools/{count}'}}\n" for n, count in enumerate(tools))
    )
    (home / "data").mkdir(mode=0o700)
    dev = DevIssuer(home / "data", issuer, f"http://127.0.0.1:{port}", wall_clock)
    return dev.issue("bench", ["callers"])


def asked_of(up: int, port: int, token: str, tools: list[int]) -> dict[str, Asked]:
    """What is measured, by name."""
    call = {"name": "tool_0", "arguments": {"text": "x" * 120}}
    first = f"/tools/{tools[0]}"
    return {
        "call direct": Asked(up, first, "tools/call", call),
        "call mount": Asked(port, "/mcp/s000", "tools/call", call, token),
        "call aggregate": Asked(port, "/mcp", "tools/call", {**call, "name": "s000__tool_0"}, token),
        "list direct": Asked(up, f"/tools/{sum(tools)}", "tools/list", {}),
        "list aggregate": Asked(port, "/mcp", "tools/list", {}, token),
    }


def measured(shape: tuple[int, int], folder: Path, rounds: int, calls: int) -> dict[str, float]:
    """Median milliseconds of each, rounds interleaved."""
    servers, tools = shape
    took: dict[str, list[float]] = {}
    with standing(folder, servers, tools) as (up, port, token):
        asked = asked_of(up, port, token, spread(servers, tools))
        lines = {name: http.client.HTTPConnection("127.0.0.1", each.port, timeout=60) for name, each in asked.items()}
        for number in range(rounds + 1):
            for name, each in asked.items():
                often = max(calls // 10, 3) if name.startswith("list") else calls
                times = [once(lines[name], each, tools) for _ in range(often)]
                if number:  # the first round warms
                    took.setdefault(name, []).extend(times)
    return {name: round(statistics.median(times) * 1000, 3) for name, times in took.items()}


def once(line: http.client.HTTPConnection, asked: Asked, tools: int) -> float:
    """Seconds of one request, whose answer must be right."""
    body, headers = asked.request()
    began = time.perf_counter()
    line.request("POST", asked.path, body, headers)
    answer = json.loads(line.getresponse().read())
    spent = time.perf_counter() - began
    result = answer.get("result", {})
    if "content" not in result and len(result.get("tools", ())) != tools:
        sys.exit(f"{asked.method} at {asked.path} did not answer as it should: {str(answer)[:300]}")
    return spent


def report_of(figures: Mapping[tuple[int, int], Mapping[str, float]]) -> dict[str, Any]:
    """Figures, ratios and bars."""
    rows = []
    for (servers, tools), took in figures.items():
        ratio = took["call aggregate"] / took["call mount"]
        rows.append(
            {
                "servers": servers, "tools": tools, "ms": dict(took), "call_to_mount": round(ratio, 2),
                "call_to_direct": round(took["call aggregate"] / took["call direct"], 2),
                "list_to_direct": round(took["list aggregate"] / took["list direct"], 2),
                "list_ms_a_server": round(took["list aggregate"] / servers, 3),
            }
        )  # fmt: skip
    worst = max(row["call_to_mount"] for row in rows)
    bar = {
        "name": "a call through /mcp to one through its mount, at the most",
        "value": worst,
        "bar": BAR_CALL,
        "met": worst <= BAR_CALL,
    }
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    return {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, "rows": rows, "bars": [bar]}


def render(report: Mapping[str, Any]) -> str:
    """The same for people."""
    lines = [f"{'servers':>7} {'tools':>6} {'call ms':>9} {'to mount':>9} {'to direct':>10} {'list ms':>9} {'to direct':>10}"]
    lines += [
        f"{row['servers']:>7} {row['tools']:>6} {row['ms']['call aggregate']:>9.2f} {row['call_to_mount']:>9.2f} "
        f"{row['call_to_direct']:>10.2f} {row['ms']['list aggregate']:>9.2f} {row['list_to_direct']:>10.2f}"
        for row in report["rows"]
    ]
    lines += [f"{'met' if bar['met'] else 'MISSED'}: {bar['name']}: {bar['value']} (bar {bar['bar']})" for bar in report["bars"]]
    return "\n".join(lines)


def main() -> int:
    """Measure every shape; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.aggregate", epilog="example: python -m bench.aggregate --rounds 3 --json"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=200, help="of each kind, a round")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of the shapes, the smallest first")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_args()
    figures: dict[tuple[int, int], dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="bailiwick-bench-") as folder:
        for shape in SHAPES[: args.shapes]:
            print(f"{shape[0]} servers, {shape[1]} tools", file=sys.stderr)
            figures[shape] = measured(shape, Path(folder), args.rounds, args.calls)
    report = report_of(figures)
    OUT.mkdir(exist_ok=True)
    (OUT / "aggregate.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report) if args.json else render(report))
    return 1 if any(not bar["met"] for bar in report["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
