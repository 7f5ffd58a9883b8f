"""What is driven: a fast upstream directly, nginx as a plain proxy in front of it, and Bailiwick with everything on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway.identity.devissuer import DevIssuer
from gateway.model import wall_clock

GATEWAY_CORE, LOAD_CORE = "0", "1"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
CALL = {"name": "echo", "arguments": {"text": "x" * 120, "amount": 500}}
BODY = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": CALL})
RESULT = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "y" * 120}], "isError": False}})
TESTS = """
people:
  caller: {is: user:dev/bench, groups: [callers]}
  stranger: {is: user:dev/stranger, groups: []}
tests:
  - {who: caller, via: bench, tool: echo.echo, args: {text: x, amount: 500}, expect: allow}
  - {who: stranger, via: bench, tool: echo.echo, args: {text: x, amount: 500}, expect: deny, because: user-lacks-right}
"""
HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2025-11-25",
}


@dataclass(frozen=True)
class Target:
    """One thing under load, and the process whose tree is measured."""

    name: str
    url: str
    pid: int
    headers: Mapping[str, str] = field(default_factory=lambda: HEADERS)
    body: str = BODY

    @property
    def address(self) -> tuple[str, int, str]:
        """Host, port and path."""
        host, _, rest = self.url.removeprefix("http://").partition(":")
        port, _, path = rest.partition("/")
        return host, int(port), f"/{path}"

    def cpu_seconds(self) -> float:
        """User and system time of the whole process tree so far."""
        ticks = 0
        for pid in tree(self.pid):
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def rss(self) -> int:
        """Resident bytes of the whole process tree."""
        return sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in tree(self.pid)) * os.sysconf("SC_PAGE_SIZE")

    def check(self) -> None:
        """One call must come back with the upstream's result, or the figures would be of something else."""
        request = urllib.request.Request(self.url, self.body.encode(), dict(self.headers))
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read().decode()
        if "yyyy" not in text:
            sys.exit(f"{self.name} did not answer with the upstream's result: {text[:300]}")


def tree(pid: int) -> list[int]:
    """A process and all its descendants that still live."""
    found = [pid]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in path.read_text().split()]
            except OSError:
                continue
    return found


@contextmanager
def process(command: list[str], core: str, port: int, log: Path, **more: object) -> Iterator[subprocess.Popen[bytes]]:
    """A server pinned to one core, awaited until its port answers, ended by its id."""
    with log.open("wb") as out:
        child = subprocess.Popen(["taskset", "-c", core, *command], stdout=out, stderr=out, start_new_session=True, **more)  # type: ignore[call-overload]
        try:
            for _ in range(600):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if child.poll() is not None:
                    break
                time.sleep(0.1)
            else:
                sys.exit(f"{command[0]} did not start: {log.read_text()[-2000:]}")
            if child.poll() is not None:
                sys.exit(f"{command[0]} ended: {log.read_text()[-2000:]}")
            yield child
        finally:
            os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait(10)


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mcp_upstream(folder: Path) -> Iterator[Target]:
    """The small MCP server, for peers that speak the protocol to their upstream."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "bench.upstream:app", "--port", str(port), "--log-level", "error"]
    with process(command, LOAD_CORE, port, folder / "mcp-upstream.log") as child:
        yield Target("mcp-upstream", f"http://127.0.0.1:{port}/mcp", child.pid)


@contextmanager
def upstream(folder: Path) -> Iterator[Target]:
    """An upstream far from its limit: nginx answering from its configuration, or the small server where nginx is absent."""
    if not NGINX:
        with mcp_upstream(folder) as small:
            yield small
        return
    port = free_port()
    location = f"location / {{ default_type application/json; return 200 '{RESULT}'; }}"
    with process(_nginx(folder / "upstream", port, location), LOAD_CORE, port, folder / "upstream.log") as child:
        yield Target("upstream", f"http://127.0.0.1:{port}/mcp", child.pid)


def direct(to: Target) -> Target:
    """The upstream without anything in between."""
    return Target("direct", to.url, to.pid)


def nginx_proxy(folder: Path, to: Target) -> AbstractContextManager[Target] | None:
    """nginx with keep-alive to the upstream: the limit of what a proxy can do."""
    if not NGINX:
        return None

    @contextmanager
    def running() -> Iterator[Target]:
        port, (host, up, _) = free_port(), to.address
        location = 'location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; }'
        pool = f"upstream up {{ server {host}:{up}; keepalive 256; keepalive_requests 1000000000; }}"
        with process(_nginx(folder / "proxy", port, location, pool), GATEWAY_CORE, port, folder / "proxy.log") as child:
            target = Target("nginx", f"http://127.0.0.1:{port}/mcp", child.pid)
            target.check()
            yield target

    return running()


def _nginx(folder: Path, port: int, location: str, pool: str = "") -> list[str]:
    folder.mkdir()
    temp = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{ worker_connections 4096; }}\n"
        f"http {{ access_log off; keepalive_requests 1000000000; {temp} {pool}\n"
        f"server {{ listen 127.0.0.1:{port}; {location} }} }}\n"
    )
    return [str(NGINX), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]


@contextmanager
def bailiwick(folder: Path, to: Target, rules: int, *, tree: Path | None = None) -> Iterator[Target]:
    """The gateway as `bailiwick serve` runs it: verified token, `rules` policy lines, durable ledger, strict.

    `tree` is another source tree than the installed one, run by the interpreter of its own `.venv` where it has one.
    """
    home, port = folder / "bailiwick", free_port()
    home.mkdir()
    token = configure(home, port, to.url, rules)
    started = [str(Path(sys.executable).with_name("bailiwick"))]
    more: dict[str, object] = {}
    if tree is not None:
        own = tree / ".venv" / "bin" / "python"
        started = [str(own if own.exists() else sys.executable), "-c", "from gateway.cli import main; main()"]
        more = {"cwd": tree, "env": os.environ | {"PYTHONPATH": str(tree)}}
    command = [*started, "serve", "--config", str(home / "bailiwick.yaml")]
    with process(command, GATEWAY_CORE, port, folder / "bailiwick.log", **more) as child:
        target = Target(
            "bailiwick", f"http://127.0.0.1:{port}/mcp/echo", child.pid, HEADERS | {"Authorization": f"Bearer {token}"}
        )
        target.check()
        yield target


def configure(home: Path, port: int, url: str, rules: int) -> str:
    """Write settings and a bundle of `rules` lines into `home`; returns a person's access token."""
    policies = home / "policies"
    shutil.copytree(Path(__file__).parent.parent / "policies" / "default", policies)
    for folder in ("grants", "tests"):
        shutil.rmtree(policies / folder)
        (policies / folder).mkdir()
    (policies / "tests" / "bench.yaml").write_text(TESTS)
    lines = [
        "p, role:caller, bench, echo.echo, call, allow, small, -, B-0",
        "p, agents:all, bench, echo.echo, call, allow, -, -, B-1",
    ]
    lines += [f"p, role:other-{n % 100}, bench, echo.tool-{n}, call, allow, -, -, R-{n}" for n in range(rules - len(lines))]
    (policies / "grants" / "bench.csv").write_text("\n".join(lines) + "\n")
    (policies / "roles.csv").write_text(
        "g, idp:callers, role:caller, bench\ng, agent:bench, agents:all, bench\n"
        + "".join(f"g, idp:others-{n}, role:other-{n}, bench\n" for n in range(100))
    )
    (policies / "conditions.yaml").write_text("small:\n  if: args.amount > 0 and args.amount <= 1000\n  say: small amounts\n")
    (policies / "obligations.yaml").write_text("{}\n")
    tools = "".join(f"  echo.tool-{n}: {{args: {{}}, risk: low}}\n" for n in range(rules))
    (policies / "tools.yaml").write_text(
        f"tenants: [bench]\ntools:\n  echo.echo: {{args: {{text: string, amount: number}}, risk: low}}\n{tools}"
    )
    issuer = f"http://127.0.0.1:{port}/dev"
    (home / "bailiwick.yaml").write_text(
        f"tenant: bench\nserver: {{port: {port}}}\n"
        f"issuers:\n  - {{alias: dev, issuer: '{issuer}', audience: 'http://127.0.0.1:{port}', "
        f"jwks: {{file: data/dev-jwks.json}}, algorithms: [ES256], direct_clients: [bailiwick-cli], development: true}}\n"
        f"agents:\n  bench: {{client_ids: [bench-agent]}}\n"
        f"mcp:\n  echo: {{url: '{url}'}}\n"
    )
    (home / "data").mkdir(mode=0o700)
    dev = DevIssuer(home / "data", issuer, f"http://127.0.0.1:{port}", wall_clock)
    return dev.issue("bench", ["callers"], client_id="bench-agent")


def fdatasync_p50(folder: Path, count: int = 400, size: int = 400) -> float:
    """Microseconds of one small append and fdatasync on the disk that the ledger uses."""
    took = []
    handle = os.open(folder / "sync", os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        for _ in range(count):
            start = time.perf_counter()
            os.write(handle, b"x" * size)
            os.fdatasync(handle)
            took.append((time.perf_counter() - start) * 1e6)
    finally:
        os.close(handle)
    return statistics.median(took)
