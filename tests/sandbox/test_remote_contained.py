"""The runner as the recipes start it: another user, in a container such as Docker makes by default, found at a socket."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.interpreter import choose
from sandbox.model import Guarantee, Job, Reason, Strength
from sandbox.profiles import load_profiles
from sandbox.remote import RemoteRunner, UnixAddress

ROOT = Path(__file__).resolve().parents[2]
RUNNER_UID = 10_002
NEEDED = (
    "typer", "rich", "click", "markdown_it", "mdurl", "pygments", "shellingham", "annotated_doc", "msgspec", "pydantic",
    "pydantic_core", "annotated_types", "typing_inspection", "typing_extensions.py",
)  # fmt: skip
"""What the command line is made of."""
SHIPPED = load_profiles()["no-network-512mb"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start somebody else's container")


@pytest.fixture
def folder() -> Iterator[Path]:
    """The program where its user can read it, and a folder for its socket."""
    with tempfile.TemporaryDirectory(prefix="bailiwick-test-", dir="/tmp") as made:
        place = Path(made)
        for package in ("gateway", "sandbox", "policies", "audit"):
            shutil.copytree(ROOT / package, place / package, ignore=shutil.ignore_patterns("__pycache__"))
        installed = Path(sysconfig.get_paths()["purelib"])
        for name in NEEDED:
            if (installed / name).is_dir():
                shutil.copytree(installed / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(installed / name, place)
        for path in (place, *place.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.suffix == ".so" else 0o644)
        run = place / "run"
        run.mkdir()
        os.chown(run, RUNNER_UID, RUNNER_UID)
        yield place


@pytest.fixture
def runner(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The runner, once it has said what it serves."""
    python = choose(RUNNER_UID).path
    launcher = [python, "-B", shutil.copy(Path(__file__).with_name("container.py"), folder), str(RUNNER_UID)]
    program = [python, "-B", "-m", "gateway.cli", "sandbox", "runner"]
    command = [*launcher, *program, "--listen", f"unix:{folder / 'run' / 'runner.sock'}", "--allow-uid", str(os.geteuid())]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "HOME": "/nonexistent"}
    process = subprocess.Popen(command, env=environment, cwd="/", stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def left_in(folder: Path) -> list[Path]:
    """Code of runs that have ended."""
    own = [path for path in folder.iterdir() if path.lstat().st_uid == RUNNER_UID and path.is_dir()]
    return [found for path in own for found in path.rglob("main.py")]


async def test_the_recipes_command_serves_real_cages_in_a_container_without_namespaces(
    folder: Path, runner: subprocess.Popen[str]
) -> None:
    assert runner.stderr is not None
    first = await asyncio.to_thread(runner.stderr.readline)
    assert first.startswith("landlock serves: "), first  # bubblewrap makes no namespace there
    remote = RemoteRunner(UnixAddress(folder / "run" / "runner.sock", RUNNER_UID))
    report = await remote.probe()
    assert not report.missing(SHIPPED), report.missing(SHIPPED)
    assert report.guarantees[Guarantee.IDENTITY] is Strength.SOFT  # all its runs are the runner's own user
    code = "import os\nprint(os.getuid(), os.path.exists('/etc/hostname') and 'seen')\nopen('/etc/hostname').read()"
    run = await remote.run(Job("1", code, SHIPPED))
    assert run.reason is Reason.ERROR
    assert run.stdout.startswith(str(RUNNER_UID).encode())
    assert b"PermissionError" in run.stderr
    fine = await remote.run(Job("2", "print(6 * 7)", SHIPPED))
    assert (fine.reason, fine.stdout) == (Reason.OK, b"42\n")
    assert await asyncio.to_thread(left_in, Path("/tmp")) == []


async def test_the_runner_in_the_container_takes_nobody_elses_jobs(folder: Path, runner: subprocess.Popen[str]) -> None:
    assert runner.stderr is not None
    await asyncio.to_thread(runner.stderr.readline)
    python = choose(RUNNER_UID).path
    asking = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nsys.stdout.write(repr(s.recv(100)))"
    asked = await asyncio.to_thread(
        subprocess.run, [python, "-c", asking, str(folder / "run" / "runner.sock")], capture_output=True, text=True, user=10_003,
        group=10_003, extra_groups=[], env={}, check=False,
    )  # fmt: skip
    assert asked.stdout == "b''", asked
