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
FASTMCP = "fastmcp==4.1.2"
FASTMCP_SERVER = """
import sys
from fastmcp.server import create_proxy
create_proxy(sys.argv[1], name="proxy").run(
    transport="http", host="127.0.0.1", port=int(sys.argv[2]), stateless_http=True, json_response=True, show_banner=False,
    log_level="ERROR")
"""


def installed(folder: Path, to: Target, say: TextIO) -> Iterator[AbstractContextManager[Target]]:
    """Every peer that could be installed; one that could not is said so, loudly."""
    for name, package, start in (("fastmcp", FASTMCP, fastmcp),):
        try:
            python = environment(name, package, say)
        except subprocess.CalledProcessError as error:
            print(f"peer {name} could not be installed, so it is not in the figures: {error}", file=say)
            continue
        yield start(python, folder, to)


def environment(name: str, package: str, say: TextIO) -> Path:
    """The interpreter of a peer's own environment, made on first use."""
    home = HOME / name
    python = home / "bin" / "python"
    if not (home / ".installed").exists():
        print(f"installing {package} into {home}", file=say)
        venv.create(home, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True, stdout=say)
        (home / ".installed").write_text(package)
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
