"""The peers that pip can install, each in an environment of its own below bench/.peers, as their own documentation runs them."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TextIO

from bench.targets import BODY, CALL, GATEWAY_CORE, HEADERS, Target, free_port, process

HOME = Path(__file__).parent / ".peers"
FASTMCP = ("fastmcp==4.1.2", "uvloop", "httptools")
FASTMCP_SERVER = """
import sys
import uvloop
from fastmcp import Client
from fastmcp.server import create_proxy

async def main():
    async with Client(sys.argv[1]) as client:
        await create_proxy(client, name="proxy").run_async(
            transport="http", host="127.0.0.1", port=int(sys.argv[2]), stateless_http=True, json_response=True,
            show_banner=False, log_level="ERROR")

uvloop.run(main())
"""
"""Its best shape: one client that stays connected.  A proxy of a URL makes a new one for each call, ten times slower."""

CONTEXTFORGE = ("mcp-contextforge-gateway==1.0.7.post20260921",)
CONTEXTFORGE_SETTINGS = {
    "AUTH_REQUIRED": "true",
    "CACHE_TYPE": "memory",
    "JSON_RESPONSE_ENABLED": "true",
    "LOG_LEVEL": "ERROR",
    "MCPGATEWAY_ADMIN_API_ENABLED": "false",
    "MCPGATEWAY_UI_ENABLED": "false",
    "PLATFORM_ADMIN_EMAIL": "admin@example.com",
    "PLUGINS_ENABLED": "false",
    "RATE_LIMITING_ENABLED": "false",
    "SSRF_PROTECTION_ENABLED": "false",
}
"""Stateless, as it comes, with all off that is not asked for; a token is verified and roles are checked.  With one session for
all connections it is twice as fast at one connection, and stops answering at several: they share the request's id."""


def installed(folder: Path, to: Target, say: TextIO) -> Iterator[AbstractContextManager[Target]]:
    """Every peer that could be installed; one that could not is said so, loudly."""
    for name, packages, start in (("fastmcp", FASTMCP, fastmcp), ("contextforge", CONTEXTFORGE, contextforge)):
        try:
            python = environment(name, packages, say)
        except subprocess.CalledProcessError as error:
            print(f"peer {name} could not be installed, so it is not in the figures: {error}", file=say)
            continue
        yield start(python, folder, to)


def environment(name: str, packages: tuple[str, ...], say: TextIO) -> Path:
    """The interpreter of a peer's own environment, made on first use."""
    home = HOME / name
    python = home / "bin" / "python"
    if not (home / ".installed").exists():
        print(f"installing {' '.join(packages)} into {home}", file=say)
        venv.create(home, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, stdout=say)
        (home / ".installed").write_text("\n".join(packages))
    return python


@contextmanager
def fastmcp(python: Path, folder: Path, to: Target) -> Iterator[Target]:
    """FastMCP's proxy: no authentication, no policy, no audit."""
    port = free_port()
    script = folder / "fastmcp_proxy.py"
    script.write_text(FASTMCP_SERVER)
    with process([str(python), str(script), to.url, str(port)], GATEWAY_CORE, port, folder / "fastmcp.log") as child:
        target = Target("fastmcp", f"http://127.0.0.1:{port}/mcp", child.pid, HEADERS)
        target.check()
        yield target


@contextmanager
def contextforge(python: Path, folder: Path, to: Target) -> Iterator[Target]:
    """ContextForge with the upstream registered as one of its gateways: tokens and roles, no audit trail."""
    port = free_port()
    drawn = {name: secrets.token_urlsafe(48) for name in ("JWT_SECRET_KEY", "AUTH_ENCRYPTION_SECRET")}
    drawn |= {name: secrets.token_urlsafe(24) + "a1!" for name in ("PLATFORM_ADMIN_PASSWORD", "DEFAULT_USER_PASSWORD")}
    environ = os.environ | CONTEXTFORGE_SETTINGS | drawn | {"DATABASE_URL": f"sqlite:///{folder}/contextforge.db"}
    serve = [str(python), "-m", "gunicorn", "-w", "1", "-k", "uvicorn.workers.UvicornWorker", "-b", f"127.0.0.1:{port}"]
    command = [*serve, "--timeout", "600", "mcpgateway.main:app"]
    with process(command, GATEWAY_CORE, port, folder / "contextforge.log", env=environ, cwd=folder) as child:
        token = _contextforge_token(python, environ)
        base = f"http://127.0.0.1:{port}"
        headers = HEADERS | {"Authorization": f"Bearer {token}", "MCP-Protocol-Version": "2025-06-18"}
        _post(f"{base}/gateways", headers, {"name": "bench", "url": to.url, "transport": "STREAMABLEHTTP"})
        body = json.dumps({**json.loads(BODY), "params": {**CALL, "name": "bench-echo"}})
        target = Target("contextforge", f"{base}/mcp/", child.pid, headers, body)
        target.check()
        yield target


def _contextforge_token(python: Path, environ: dict[str, str]) -> str:
    command = [python, "-m", "mcpgateway.utils.create_jwt_token", "--username", "admin@example.com", "--exp", "600"]
    out = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=120).stdout
    return out.strip().splitlines()[-1]


def _post(url: str, headers: dict[str, str], body: dict[str, object]) -> None:
    """Send JSON; an error's status is an exception."""
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


if __name__ == "__main__":
    sys.exit("run: python -m bench --peers")
