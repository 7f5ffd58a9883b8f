"""Boxes to run code in: of each backend, as whoever runs the tests, and, where that is root, as a plain user too."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.bwrap import PROGRAM, BwrapRunner
from sandbox.engine import CagedRunner
from sandbox.interpreter import choose, identity
from sandbox.landlock import LandlockRunner
from sandbox.model import Job, Limits, Profile
from sandbox.profiles import load_profiles

NOBODY = 65534
SHIPPED = load_profiles()["no-network-512mb"]
LIMITS = Limits(
    cpu_seconds=2, wall_seconds=5, memory_bytes=128 << 20, processes=12, file_bytes=1 << 20, scratch_bytes=4 << 20,
    output_bytes=1 << 16, open_files=32,
)  # fmt: skip


class Box:
    """Somebody who runs code: `run` gives `Run.to_dict()`."""

    def __init__(self, who: str, uid: int, backend: str) -> None:
        self.who, self.uid, self.backend = who, uid, backend

    async def run(self, code: str, **limits: Any) -> dict[str, Any]:
        raise NotImplementedError

    async def says(self, code: str, **limits: Any) -> str:
        """What the code prints; it must end well."""
        run = await self.run(code, **limits)
        assert run.get("reason") == "ok", run
        return str(run["stdout"])


class OwnBox(Box):
    def __init__(self, runner: CagedRunner) -> None:
        super().__init__("whoever runs the tests", os.geteuid(), runner.name)
        self.runner = runner

    async def run(self, code: str, **limits: Any) -> dict[str, Any]:
        profile = Profile("test", replace(LIMITS, **limits), requires=SHIPPED.requires)
        return (await self.runner.run(Job("test", code, profile))).to_dict()


class Driven(Box):
    """A process of its own that runs the jobs."""

    def __init__(self, process: subprocess.Popen[str], uid: int, backend: str) -> None:
        super().__init__("a plain user", uid, backend)
        self.process = process

    async def ask(self, question: dict[str, Any]) -> Any:
        def exchange() -> str:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            return self.process.stdout.readline()

        return json.loads(await asyncio.to_thread(exchange))

    async def run(self, code: str, **limits: Any) -> dict[str, Any]:
        requires = {str(name): strength.word for name, strength in SHIPPED.requires.items()}
        answer = await self.ask({"code": code, "limits": replace(LIMITS, **limits).to_dict(), "requires": requires})
        assert isinstance(answer, dict)
        return answer


class Drivers:
    """Starts drivers; all of them are gone at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(Path(sandbox.__file__).parent, folder / "sandbox", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("driver.py", "container.py"):
            shutil.copy(Path(__file__).with_name(name), folder)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        self._started: list[subprocess.Popen[str]] = []

    def start(self, uid: int | None, through: tuple[str, ...] = (), **options: Any) -> Driven:
        """A driver as `uid`, None for this one; `through` a program that starts another."""
        return self._spawn((*through, choose(uid).path), uid, uid, options)

    def start_contained(self, uid: int, *, profile: Path | None = None, **options: Any) -> Driven:
        """A driver as `uid` in an environment such as Docker makes by default, or under another profile (`container.py`)."""
        python = choose(None if uid == os.geteuid() else uid).path
        who = str(uid) if profile is None else f"{uid}+{profile}"
        return self._spawn((python, "-B", str(self.folder / "container.py"), who, python), None, uid, options)

    def start_through(self, python: tuple[str, ...], uid: int, **options: Any) -> Driven:
        """A driver that these words start from here, and that ends up as `uid`."""
        return self._spawn(python, None, uid, options)

    def _spawn(self, python: tuple[str, ...], start_as: int | None, uid: int | None, options: dict[str, Any]) -> Driven:
        process = subprocess.Popen(
            [*python, "-B", str(self.folder / "driver.py"), json.dumps(options)],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(self.folder), "GATEWAY_SECRET": "canary"},
            cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **identity(start_as),
        )  # fmt: skip
        self._started.append(process)
        return Driven(process, os.geteuid() if uid is None else uid, options.get("backend", "landlock"))

    def close(self) -> None:
        for process in self._started:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


@pytest.fixture(scope="session")
def drivers() -> Iterator[Drivers]:
    with tempfile.TemporaryDirectory(prefix="bailiwick-test-", dir="/tmp") as folder:
        made = Drivers(Path(folder))
        yield made
        made.close()


@pytest.fixture(scope="session")
def shared_runner() -> Iterator[LandlockRunner]:
    runner = LandlockRunner()
    yield runner
    asyncio.run(runner.aclose())


@pytest.fixture
async def runner() -> AsyncIterator[LandlockRunner]:
    made = LandlockRunner(concurrency=2, queue=2)
    yield made
    await made.aclose()


def needs_namespaces(uid: int | None) -> None:
    """Skip, loudly, where bubblewrap itself does not run for `uid`; where it does, its cage must come up."""
    bare = [str(PROGRAM), "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "/bin/true"]
    try:
        done = subprocess.run(bare, capture_output=True, text=True, timeout=20, check=False, **identity(uid))
    except FileNotFoundError:
        pytest.skip("bubblewrap is NOT INSTALLED: nothing of the cage with namespaces is tested here")
    if done.returncode:
        pytest.skip(f"user namespaces are NOT TO BE HAD here: {done.stderr.strip()}")


@pytest.fixture(scope="session")
def boxes(drivers: Drivers) -> Iterator[Callable[[str, str], Box]]:
    """(own or plain, backend) → a box, the same one each time."""
    made: dict[tuple[str, str], Box] = {}
    runners: list[CagedRunner] = []

    def box_of(who: str, backend: str) -> Box:
        if who == "plain" and os.geteuid() != 0:
            pytest.skip("already a plain user")
        if (who, backend) not in made:
            if backend == "bwrap":
                needs_namespaces(NOBODY if os.geteuid() == 0 else None)
            if who == "plain":
                made[who, backend] = drivers.start(NOBODY, backend=backend)
            else:
                runners.append(BwrapRunner() if backend == "bwrap" else LandlockRunner())
                made[who, backend] = OwnBox(runners[-1])
        return made[who, backend]

    yield box_of
    for runner in runners:
        asyncio.run(runner.aclose())


@pytest.fixture(params=["landlock", "bwrap"])
def own_box(request: pytest.FixtureRequest, boxes: Callable[[str, str], Box]) -> Box:
    return boxes("own", request.param)


@pytest.fixture(params=["landlock", "bwrap"])
def plain_box(request: pytest.FixtureRequest, boxes: Callable[[str, str], Box]) -> Box:
    return boxes("plain", request.param)


@pytest.fixture(scope="session", params=["root", "plain"])
def contained(request: pytest.FixtureRequest, drivers: Drivers) -> Callable[[str], Box]:
    """Starts a backend as root or a plain user in a container as Docker makes it: no namespaces, no mounts, Docker's rights."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("only root can be root in the container")
    uid = 0 if request.param == "root" else NOBODY if os.geteuid() == 0 else os.geteuid()
    return lambda backend: drivers.start_contained(uid, backend=backend)


@pytest.fixture(scope="session")
def contained_box(contained: Callable[[str], Box]) -> Box:
    """Of the backend that works there."""
    return contained("landlock")


@pytest.fixture(params=["own-landlock", "plain-landlock", "own-bwrap", "plain-bwrap"])
def box(request: pytest.FixtureRequest, boxes: Callable[[str, str], Box]) -> Box:
    who, backend = request.param.split("-")
    return boxes(who, backend)
