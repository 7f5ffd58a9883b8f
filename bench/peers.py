"""The peers that pip can install, each in an environment of its own below bench/.peers, as their own documentation runs them."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TextIO

from bench.targets import GATEWAY_CORE, HEADERS, Target, free_port, process

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


def installed(folder: Path, to: Target, say: TextIO) -> Iterator[AbstractContextManager[Target]]:
    """Every peer that could be installed; one that could not is said so, loudly."""
    print("not among the peers: ContextForge (nothing here gives it its database and its administrator)", file=say)
    for name, packages, start in (("fastmcp", FASTMCP, fastmcp),):
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


if __name__ == "__main__":
    sys.exit("run: python -m bench --peers")
