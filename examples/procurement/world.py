"""Starts the example world, five tool servers and five agents, each a process on a loopback socket, and ends it again.

Secrets are made at the start and reach each process by its environment alone; only the gateway is told the servers' secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

HERE = Path(__file__).resolve().parent
SERVERS = ("contracts", "crm", "erp", "mail", "risk")
AGENTS = ("campaign-reporter", "contract-review", "erp-integration", "procurement-analyst", "supplier-risk")
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR")  # nothing that may hold a secret


class World:
    """An async context manager: entered, everything answers; left, every process is gone.

    gateway_url     where the agents send their calls; used when they are asked something, so the gateway may start later.
    logs            a folder; the standard error of each process goes to `<name>.log` there.
    server_urls     name → URL of its Streamable HTTP endpoint.
    agent_urls      name → base URL of its JSON-RPC binding, with a trailing slash.
    server_secrets  name → what the gateway shows to the server as a bearer token.
    agent_secrets   name → what the agent shows to the gateway as a bearer token.
    """

    def __init__(self, gateway_url: str, logs: Path, *, ready_seconds: float = 60) -> None:
        self.gateway_url = gateway_url
        self.logs = logs
        self.server_urls: dict[str, str] = {}
        self.agent_urls: dict[str, str] = {}
        self.server_secrets = {name: secrets.token_urlsafe(32) for name in SERVERS}
        self.agent_secrets = {name: f"bws_{name}_{secrets.token_urlsafe(32)}" for name in AGENTS}  # the gateway's form of one
        self._ready_seconds = ready_seconds
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    async def __aenter__(self) -> World:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start everything and wait until it answers.  Raises RuntimeError, with the end of its log, for what does not."""
        self.logs.mkdir(parents=True, exist_ok=True)
        for name in SERVERS:
            base = self._spawn(name, HERE / "servers" / f"{name}.py", {"UPSTREAM_SECRET": self.server_secrets[name]})
            self.server_urls[name] = f"{base}/mcp"
        for name in AGENTS:
            environment = {"GATEWAY_URL": self.gateway_url, "AGENT_ID": name, "AGENT_SECRET": self.agent_secrets[name]}
            base = self._spawn(name, HERE / "agents" / f"{name.replace('-', '_')}.py", environment)
            self.agent_urls[name] = f"{base}/"
        await asyncio.gather(*(self._ready(name, url) for name, url in (self.server_urls | self.agent_urls).items()))

    async def stop(self) -> None:
        """SIGTERM to all, five seconds' time, SIGKILL to the rest; returns when all are reaped.  Harmless when repeated."""
        processes, self._processes = self._processes, {}
        for process in processes.values():
            process.terminate()
        await asyncio.gather(*(asyncio.to_thread(_reap, process) for process in processes.values()))

    async def erp_orders(self, entity: str = "orders") -> list[dict[str, Any]]:
        """All purchase orders (or "payments"), asked of the ERP itself and past the gateway: what is really there."""
        headers = {"Authorization": f"Bearer {self.server_secrets['erp']}"}
        async with (
            asyncio.timeout(20),
            httpx2.AsyncClient(headers=headers, timeout=20, trust_env=False) as http,
            Client(streamable_http_client(self.server_urls["erp"], http_client=http), cache=None) as client,
        ):
            result = await client.call_tool("read", {"entity": entity, "id": "*"})
        return list((result.structured_content or {})["records"])

    def _spawn(self, name: str, script: Path, environment: dict[str, str]) -> str:
        """Start one process on a socket that is bound here, so that nobody else can take the port; returns its base URL.

        Its standard input is a pipe that nothing is written to: should this process be killed, the pipe ends, and the child too.
        """
        inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
        with socket.create_server(("127.0.0.1", 0)) as listening, (self.logs / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, str(script), "--fd", str(listening.fileno())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=inherited | environment,
                pass_fds=(listening.fileno(),),
                start_new_session=True,  # Ctrl-C in the terminal is for the narrator, who then stops the world in order
            )
            return f"http://127.0.0.1:{listening.getsockname()[1]}"

    async def _ready(self, name: str, url: str) -> None:
        """Wait for any HTTP answer.  The socket accepts before the process does, so an answer is the proof."""
        process = self._processes[name]
        try:
            async with asyncio.timeout(self._ready_seconds):
                while not await _answers(url):
                    if process.poll() is not None:
                        break
                else:
                    return
        except TimeoutError:
            pass
        raise RuntimeError(f"{name} did not start:\n{self._tail(name)}")

    def _tail(self, name: str) -> str:
        return (self.logs / f"{name}.log").read_text(errors="replace")[-2000:]


async def _answers(url: str) -> bool:
    """Ask once; False when nothing came within a second, or the process behind the socket is gone."""
    host, port = url.removeprefix("http://").split("/")[0].split(":")
    writer = None
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET / HTTP/1.1\r\nHost: " + f"{host}:{port}".encode() + b"\r\nConnection: close\r\n\r\n")
            return bool(await reader.readline())
    except TimeoutError:
        return False
    except OSError:
        await asyncio.sleep(0.1)  # a refused connection would otherwise be asked again at once
        return False
    finally:
        if writer is not None:
            writer.close()


def _reap(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
