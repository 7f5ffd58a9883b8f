"""What starts the example world, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROCUREMENT = Path(__file__).resolve().parents[2] / "examples" / "procurement"


def processes(world: Any) -> dict[str, int]:
    return {name: process.pid for name, process in world._processes.items()}


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
def test_secrets_are_in_no_command_line_and_each_process_holds_its_own_alone(
    world: Any,
) -> None:
    every = world.server_secrets | world.agent_secrets
    for name, pid in processes(world).items():
        assert not any(secret.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() for secret in every.values())
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert [other for other, secret in every.items() if secret.encode() in environment] == [name]


def test_secrets_are_long_and_all_different(world: Any) -> None:
    every = [*world.server_secrets.values(), *world.agent_secrets.values()]
    assert len({hashlib.sha256(secret.encode()).digest() for secret in every}) == len(every) == 10
    assert min(map(len, every)) >= 43  # 256 bits in base64url


async def test_what_does_not_start_is_named_with_its_log_and_leaves_nothing_behind(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[type(world).__module__]
    broken = tmp_path / "example"
    shutil.copytree(PROCUREMENT, broken, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    for script in [*(broken / "servers").glob("*.py"), *(broken / "agents").glob("*.py")]:
        script.write_text("import sys; sys.stdin.read()")
    (broken / "servers" / "erp.py").write_text("raise SystemExit('no disk')")
    monkeypatch.setattr(module, "HERE", broken)
    other = type(world)("http://127.0.0.1:9", tmp_path / "logs")
    started: dict[str, int] = {}
    stop = other.stop

    async def remember_and_stop() -> None:
        started.update(processes(other))
        await stop()

    monkeypatch.setattr(other, "stop", remember_and_stop)
    with pytest.raises(RuntimeError, match=r"erp did not start:\nno disk"):
        await other.__aenter__()
    assert len(started) == 10
    for pid in started.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        child = subprocess.Popen(
            [sys.executable, PROCUREMENT / "servers" / "mail.py", "--fd", str(listening.fileno())],
            stdin=subprocess.PIPE,
            env=os.environ | {"UPSTREAM_SECRET": "secret"},
            pass_fds=(listening.fileno(),),
        )
    assert child.stdin is not None
    child.stdin.close()  # what the kernel does for a parent that was killed
    child.wait(timeout=30)


async def test_a_server_can_be_started_by_hand_on_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(PROCUREMENT / "servers" / "mail.py"), "--port", str(port)]
    child = await asyncio.create_subprocess_exec(*command, env=os.environ | {"UPSTREAM_SECRET": "secret"})
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.05)
                else:
                    break
        writer.close()
        await writer.wait_closed()
    finally:
        child.terminate()
        await child.wait()


def test_a_server_without_a_secret_does_not_start() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "UPSTREAM_SECRET"}
    command = [sys.executable, PROCUREMENT / "servers" / "mail.py", "--port", "0"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "UPSTREAM_SECRET is not set" in ended.stderr


def test_the_npm_lock_names_no_registry_and_pins_every_package() -> None:
    folder = PROCUREMENT / "filesystem"
    lock = json.loads((folder / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert all("resolved" not in package and package["integrity"].startswith("sha512-") for package in packages.values())
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    assert {name: packages[f"node_modules/{name}"]["version"] for name in wanted} == wanted
