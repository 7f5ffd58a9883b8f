"""A hostile MCP server, started by the gateway: what it tries from its cage, by name.  Each has its control outside a cage."""

# ruff: noqa: ASYNC220, PTH101, PTH208  what is done to files and processes around a test blocks nobody else
from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.crew import Sharing
from sandbox.engine import CagedRunner
from sandbox.interpreter import identity
from tests.stdio.world import PYTHON, caged, open_folder, speaker

ROOT = Path(__file__).resolve().parents[2]
READS = """
import os
for name, path in paths.items():
    try:
        if os.path.isdir(path):
            said[name] = os.listdir(path)
        else:
            with open(path) as file:
                said[name] = file.read()[:200]
    except OSError:
        said[name] = None
"""
WRITES = """
import os
for name, path in paths.items():
    try:
        with open(path, "a") as file:
            file.write("planted")
        said[name] = "written"
    except OSError as error:
        said[name] = None
"""
SOCKETS = """
import socket
for name, arguments, to in tries:
    try:
        with socket.socket(*arguments) as made:
            made.settimeout(5)
            if to is not None:
                made.connect(tuple(to) if isinstance(to, list) else to)
        said[name] = "open"
    except OSError:
        said[name] = None
"""
SIGNALS = """
import os
try:
    said["seen"] = [int(name) for name in os.listdir("/proc") if name.isdigit()]
except OSError:
    said["seen"] = []
for name, pid in pids.items():
    try:
        os.kill(pid, 0)
        said[name] = "reached"
    except OSError:
        said[name] = None
    for what in ("environ", "mem", "cwd", "root", "maps"):
        try:
            open(f"/proc/{pid}/{what}", "rb").read(1) if what not in ("cwd", "root") else os.listdir(f"/proc/{pid}/{what}")
            said[name + "/" + what] = "read"
        except OSError:
            pass
"""


def control(code: str, **variables: Any) -> dict[str, Any]:
    """What the same code does without a cage."""
    said: dict[str, Any] = {}
    exec(code, {"said": said, **variables})
    return said


async def test_it_reads_neither_the_gateways_data_nor_its_settings_nor_its_secrets(
    tmp_path: Path, reachable: Path, runner: CagedRunner
) -> None:
    data = reachable / "data"
    data.mkdir(mode=0o777)
    data.chmod(0o777)  # what it is kept from by its cage alone
    (data / "ledger.db").write_text("records")
    (reachable / "bailiwick.yaml").write_text("tenant: acme")
    paths = {
        "data": str(data), "ledger": str(data / "ledger.db"), "settings": str(reachable / "bailiwick.yaml"),
        "folder": str(reachable), "hosts": "/etc/hosts", "users": "/etc/passwd", "code": str(ROOT / "gateway" / "app.py"),
        "gateway": f"/proc/{os.getpid()}/environ", "its parent's": "/proc/self/../" + str(os.getpid()) + "/cmdline",
    }  # fmt: skip
    assert all(control(READS, paths=paths).values())
    async with caged(tmp_path, speaker(reachable), runner) as scene:
        assert not any((await scene.does(READS, paths=paths)).values())


async def test_its_environment_is_what_its_settings_give_and_nothing_of_the_gateways(
    tmp_path: Path, reachable: Path, runner: CagedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAILIWICK_SECRET", "canary")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.invalid")
    async with caged(tmp_path, speaker(reachable), runner) as scene:
        said = await scene.does("import os; said['all'] = dict(os.environ)")
    found = said["all"]
    assert "canary" not in json.dumps(found)
    assert "secret" not in json.dumps(found)
    assert set(found) <= {
        "GIVEN", "HOME", "LANG", "LC_CTYPE", "MALLOC_ARENA_MAX", "OPENSSL_CONF", "PATH", "PYTHONDONTWRITEBYTECODE",
        "PYTHONHASHSEED", "SOURCE_DATE_EPOCH", "TMPDIR", "TZ",
    }  # fmt: skip
    assert found["HOME"] == found["TMPDIR"] != os.environ.get("HOME")


async def test_it_writes_nothing_but_its_own_folder(tmp_path: Path, reachable: Path, runner: CagedRunner) -> None:
    open_file = reachable / "open.txt"
    open_file.write_text("")
    open_file.chmod(0o666)
    os.chmod(reachable, 0o777)
    paths = {"open": str(open_file), "beside": str(reachable / "new.txt"), "script": str(reachable / "speaker.py")}
    target = speaker(reachable, read=(reachable,))
    os.chmod(reachable / "speaker.py", 0o666)
    async with caged(tmp_path, target, runner) as scene:
        assert not any((await scene.does(WRITES, paths=paths)).values())
        mine = "import os\npaths = {'own': os.environ['HOME'] + '/x'}\n" + WRITES
        assert await scene.does(mine) == {"own": "written"}
    assert open_file.read_text() == ""
    assert sorted(os.listdir(reachable)) == ["open.txt", "speaker.py"]


async def test_it_opens_no_socket_of_any_kind(tmp_path: Path, reachable: Path, runner: CagedRunner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket(socket.AF_UNIX) as local:
        place = str(reachable / "socket")
        local.bind(place)
        local.listen()
        os.chmod(place, 0o777)
        stream, datagram = int(socket.SOCK_STREAM), int(socket.SOCK_DGRAM)
        tries: list[tuple[str, tuple[int, int], Any]] = [
            ("loopback", (int(socket.AF_INET), stream), list(listening.getsockname())),
            ("udp", (int(socket.AF_INET), datagram), None),
            ("v6", (int(socket.AF_INET6), stream), None),
            ("unix", (int(socket.AF_UNIX), stream), place),
            ("abstract", (int(socket.AF_UNIX), datagram), None),
            ("netlink", (int(socket.AF_NETLINK), int(socket.SOCK_RAW)), None),
        ]
        assert all(control(SOCKETS, tries=tries).values())
        async with caged(tmp_path, speaker(reachable), runner) as scene:
            assert not any((await scene.does(SOCKETS, tries=tries)).values())


async def test_it_neither_signals_nor_looks_into_the_gateway_or_another_session(
    tmp_path: Path, reachable: Path, runner: CagedRunner
) -> None:
    async with caged(
        tmp_path, speaker(reachable, environment={"MARK": "of-the-neighbour"}), runner, legacy=Sharing.SESSION
    ) as scene:
        await scene.opened()
        neighbours = {f"neighbour {pid}": pid for pid in marked("MARK=of-the-neighbour")}
        assert neighbours
        await scene.opened()
        own = json.loads(json.dumps(await scene.does("import os; said['pid'] = os.getpid()")))["pid"]
        pids = {"gateway": os.getpid(), **{name: pid for name, pid in neighbours.items() if pid != own}}
        said = await scene.does(SIGNALS, pids=pids)
        assert os.getpid() not in said.pop("seen")
        assert not any(said.values())


OUTLIVES = """
import os, signal, subprocess, sys
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
lives = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; time.sleep(600)"
subprocess.Popen([sys.executable, "-c", lives], start_new_session=True, close_fds=True)
if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    os.execv(sys.executable, [sys.executable, "-c", lives])
os.wait()
said["done"] = 1
"""


async def test_it_does_not_outlive_its_session(tmp_path: Path, reachable: Path, runner: CagedRunner) -> None:
    mark = "of-one-that-would-stay"
    async with caged(tmp_path, speaker(reachable, environment={"MARK": mark}), runner) as scene:
        assert await scene.does(OUTLIVES) == {"done": 1}
        assert len(marked(f"MARK={mark}")) >= 3
        await scene.server.aclose()
        assert marked(f"MARK={mark}") == []


async def test_it_does_not_outlive_a_gateway_that_is_killed(tmp_path: Path, reachable: Path, runner: CagedRunner) -> None:
    mark = f"of-one-whose-gateway-was-killed-{runner.name}"
    speaker(reachable)
    told = {"backend": runner.name, "script": str(reachable / "speaker.py"), "code": OUTLIVES, "mark": mark, "stay": True}
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("driver.py")), json.dumps(told)],
        cwd=ROOT, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert json.loads(await asyncio.to_thread(process.stdout.readline)) == {"done": 1}
        assert len(marked(f"MARK={mark}")) >= 3
        process.kill()
        await asyncio.to_thread(process.wait)
    async with asyncio.timeout(20):
        while marked(f"MARK={mark}"):  # noqa: ASYNC110  the end of a process that is nobody's child wakes nobody
            await asyncio.sleep(0.01)


def marked(mark: str) -> list[int]:
    """Processes that have the mark in their environment: of the cage, for the gateway's own side has it nowhere."""
    found = []
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and mark.encode() in Path(entry.path, "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_of_a_gateway_that_is_a_plain_user_it_gets_no_more(runner: CagedRunner) -> None:
    """Where its children have the gateway's own user id: it is the cage alone that keeps them from what is the gateway's."""
    if os.geteuid() != 0:
        pytest.skip("already a plain user: every test here says it")
    with open_folder() as folder:
        speaker(folder)
        data = folder / "data"
        data.mkdir()
        (data / "key").write_text("secret")
        for path in (data / "key", data):
            os.chown(path, 65534, 65534)
            path.chmod(0o700 if path.is_dir() else 0o600)
        paths = {"data": str(data), "key": str(data / "key"), "script": str(folder / "speaker.py")}
        inet = (int(socket.AF_INET), int(socket.SOCK_STREAM))
        code = f"paths = {paths!r}\n{READS}\ntries = [('inet', {inet!r}, None)]\n{SOCKETS}"
        told = {"backend": runner.name, "script": str(folder / "speaker.py"), "code": code, "mark": "x", "stay": False}
        site = next(path for path in sys.path if path.endswith("site-packages"))
        run = subprocess.run(
            [PYTHON, "-B", str(Path(__file__).with_name("driver.py")), json.dumps(told)],
            cwd="/", env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{site}"}, capture_output=True, text=True,
            timeout=60, check=False, **identity(65534),
        )  # fmt: skip
        if "ModuleNotFoundError" in run.stderr or "Permission denied" in run.stderr:
            pytest.skip(f"SKIPPED LOUDLY: a plain user cannot read this checkout: {run.stderr[-200:]}")
        assert run.stdout, run.stderr[-2000:]
        said = json.loads(run.stdout)
    assert said["script"].strip().startswith("import json")  # what it is
    assert (said["data"], said["key"], said["inet"]) == (None, None, None)
