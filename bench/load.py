"""Load: wrk where it is installed, else a small asyncio generator.  Both speak keep-alive HTTP/1.1 and send one tools/call."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass

from bench.targets import LOAD_CORE, Target

WRK = shutil.which("wrk")
GENERATOR = "wrk" if WRK else "asyncio generator (install wrk for figures worth keeping)"
FIELDS = ("rps", "p50_us", "p99_us", "cpu_us", "errors")
_UNIT = {"us": 1.0, "ms": 1e3, "s": 1e6}


@dataclass(frozen=True)
class Sample:
    """One run against one target: calls a second, latency percentiles and CPU of its process tree, both in microseconds."""

    rps: float
    p50_us: float
    p99_us: float
    cpu_us: float
    errors: int


def run(target: Target, connections: int, seconds: float) -> Sample:
    """Drive the target from the other core; CPU is what its process tree used meanwhile."""
    before = target.cpu_seconds()
    calls, rps, p50, p99, errors = (_wrk if WRK else _asyncio)(target, connections, seconds)
    used = target.cpu_seconds() - before
    return Sample(rps, p50, p99, used / max(calls, 1) * 1e6, errors)


def _wrk(target: Target, connections: int, seconds: float) -> tuple[int, float, float, float, int]:
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in target.headers.items())
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f"wrk.method = 'POST'\nwrk.body = [==[{target.body}]==]\n{headers}\n")
        script.flush()
        command = [
            "taskset",
            "-c",
            LOAD_CORE,
            str(WRK),
            "-t1",
            f"-c{connections}",
            f"-d{seconds:.0f}s",
            "--timeout",
            "10s",
            "--latency",
        ]
        out = subprocess.run(
            [*command, "-s", script.name, target.url], capture_output=True, text=True, check=True, timeout=120
        ).stdout
    calls = int(re.search(r"(\d+) requests in", out)[1])  # type: ignore[index]
    rps = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])  # type: ignore[index]
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    errors = (int(failed[1]) if failed else 0) + (sum(map(int, sockets.groups())) if sockets else 0)
    return calls, rps, _percentile(out, "50%"), _percentile(out, "99%"), errors


def _percentile(out: str, which: str) -> float:
    found = re.search(rf"{re.escape(which)}\s+([\d.]+)(us|ms|s)", out)
    return float(found[1]) * _UNIT[found[2]] if found else 0.0


def _asyncio(target: Target, connections: int, seconds: float) -> tuple[int, float, float, float, int]:
    host, port, path = target.address
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}:{port}", *(f"{k}: {v}" for k, v in target.headers.items())]
    request = ("\r\n".join([*lines, f"Content-Length: {len(target.body)}", "", ""]) + target.body).encode()
    took: list[float] = []
    errors = 0

    async def one(until: float) -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(host, port)
        while (start := time.perf_counter()) < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            errors += not head.startswith(b"HTTP/1.1 200")
            took.append(time.perf_counter() - start)
        writer.close()

    async def everyone() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(one(until) for _ in range(connections)))

    mask = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(mask)})
    try:
        asyncio.run(everyone())
    finally:
        os.sched_setaffinity(0, mask)
    cuts = statistics.quantiles(took, n=100)
    return len(took), len(took) / seconds, cuts[49] * 1e6, cuts[98] * 1e6, errors
