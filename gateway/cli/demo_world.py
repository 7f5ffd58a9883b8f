"""The demo's stage: settings for a gateway in front of the example world, both as processes, and the story between them.

The gateway is started as any other (`bailiwick serve`); the demo has no way in that a user would not have.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import httpx
from ruamel.yaml import YAML

TENANT = "acme"
READY_SECONDS = 60


class Narrator(Protocol):
    """Who tells a person about it."""

    def note(self, text: str) -> None: ...
    def step(self, step: Any) -> None: ...
    def next(self, gateway: str, config: Path, workflows: dict[str, str]) -> None: ...


async def run_demo(here: Path, folder: Path, port: int, narrator: Narrator, *, stay: bool) -> list[Any]:
    """Play the story of the example folder `here`; with `stay`, serve afterwards until cancelled.  Returns the steps."""
    sys.path.insert(0, str(here))
    story, world_module = import_module("story"), import_module("world")
    gateway, config = f"http://127.0.0.1:{port}", folder / "bailiwick.yaml"
    narrator.note(f"starting five tool servers and five agents, each a process of its own (logs: {folder / 'logs'})")
    world = world_module.World(gateway, folder / "logs")
    place = _place_of_files(folder)
    starting = asyncio.create_task(world.start())
    _end_in_order()
    try:
        await asyncio.sleep(0)  # it binds every socket before it first waits, so all addresses are known now
        absent = await _file_server(story, here, place)
        write_settings(here, folder, port, world, files=place if absent is None else None)
        async with _served(config, gateway, folder / "logs" / "gateway.log"):
            await starting
            narrator.note(f"the gateway serves at {gateway} (settings: {config})")
            stage = story.Stage(world, gateway, _cli(config), folder / "data" / "ledger.db", folder, place / "shared", absent)
            steps = []
            async for step in story.play(stage):
                narrator.step(step)
                steps.append(step)
            if stay:
                narrator.next(gateway, config, stage.workflows)
                await asyncio.Event().wait()
            return steps
    finally:
        starting.cancel()
        await world.stop()
        if place != folder:
            shutil.rmtree(place)


def _end_in_order() -> None:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does: by cancelling it, so that it ends its processes first."""
    task = asyncio.current_task()
    if task is None:
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def write_settings(here: Path, folder: Path, port: int, world: Any, *, files: Path | None) -> None:
    """`bailiwick.yaml`, a copy of the policies, and the servers' secrets in files that nobody else may read.

    `files` is where the file server is, and the folder that it is given to read.
    """
    shutil.copytree(here / "policies", folder / "policies")
    (folder / "data").mkdir(mode=0o700)
    (folder / "secrets").mkdir(mode=0o700)
    for name, secret in world.server_secrets.items():
        _write_private(folder / "secrets" / name, secret)
    gateway = f"http://127.0.0.1:{port}"
    servers: dict[str, Any] = {
        name: {"url": url, "headers": {"Authorization": {"file": f"secrets/{name}", "prefix": "Bearer "}}}
        for name, url in sorted(world.server_urls.items())
    }
    if files is not None:
        program = files / "files/node_modules/@modelcontextprotocol/server-filesystem/dist/index.js"
        shared = str(files / "shared")
        servers["files"] = {"command": [shutil.which("node"), str(program), shared], "read": [shared]}
    settings = {
        "tenant": TENANT,
        "server": {"host": "127.0.0.1", "port": port},
        "ledger": {"origin": "demo.bailiwick.invalid/acme"},
        "issuers": [
            {
                "alias": "dev",
                "issuer": f"{gateway}/dev",
                "audience": gateway,
                "jwks": {"file": "data/dev-jwks.json"},
                "algorithms": ["ES256"],
                "direct_clients": ["bailiwick-cli"],
                "development": True,
            }
        ],
        "agents": {
            name: {"url": url, "auth": {"secret_sha256": [hashlib.sha256(world.agent_secrets[name].encode()).hexdigest()]}}
            for name, url in sorted(world.agent_urls.items())
        },
        "mcp": servers,
        "sandbox": {"enabled": True},
    }
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(settings, text)
    (folder / "bailiwick.yaml").write_text(text.getvalue())


def _place_of_files(folder: Path) -> Path:
    """A root's child has a user id of its own, to which the demo's folder is closed: what it reads stands elsewhere then."""
    if os.geteuid() != 0:
        return folder
    place = Path(tempfile.mkdtemp(prefix="bailiwick-demo-", dir="/var/tmp"))
    place.chmod(0o755)
    return place


async def _file_server(story: Any, here: Path, folder: Path) -> str | None:
    (folder / "files").mkdir()
    shutil.copytree(here / "filesystem" / "shared", folder / "shared")
    absent: str | None = await story.install_file_server(here, folder / "files")
    return absent


@contextlib.asynccontextmanager
async def _served(config: Path, gateway: str, log: Path) -> AsyncIterator[None]:
    """`bailiwick serve` as a process, ready; ended by its id."""
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.cli", "serve", "--config", str(config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C is for the demo, which then ends its parts in order
        )
    try:
        await _ready(process, gateway, log)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _ready(process: asyncio.subprocess.Process, gateway: str, log: Path) -> None:
    async with asyncio.timeout(READY_SECONDS), httpx.AsyncClient(trust_env=False, timeout=5) as http:
        while process.returncode is None:
            try:
                if (await http.get(f"{gateway}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
    tail = (await asyncio.to_thread(log.read_text, errors="replace"))[-2000:]
    raise RuntimeError(f"the gateway ended:\n{tail}")


def _cli(config: Path) -> Any:
    async def run(*arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.cli", *arguments, "--config", str(config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=os.environ | {"COLUMNS": "150", "NO_COLOR": "1"},
        )
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode(errors="replace")

    return run


def free_port(wanted: int) -> int:
    """`wanted` if it is free on 127.0.0.1, else any free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RuntimeError("no free port on 127.0.0.1")


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
