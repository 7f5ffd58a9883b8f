"""Sets of packages: built from hashes alone, read-only, refused where they are not as they were built."""

# ruff: noqa: ASYNC240  looking at files in between is what these tests are about
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sandbox.bwrap import BwrapRunner
from sandbox.engine import CagedRunner
from sandbox.interpreter import Interpreter, choose
from sandbox.landlock import LandlockRunner
from sandbox.model import Job, Language, NotOfferedError, Reason
from sandbox.packages import PackagesError, build, built, load, shipped_lock
from sandbox.profiles import load_profiles
from sandbox.result import Run
from sandbox.scratch import UIDS

PROFILE = load_profiles()["analysis"]
UID = UIDS.start if os.geteuid() == 0 else None
TINY = replace(PROFILE, packages="tiny")
USES = "import tiny; print(tiny.VALUE, tiny.__file__.endswith('.py'))"


def wheel(folder: Path, value: int) -> Path:
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("tiny/__init__.py", f"VALUE = {value}\n")
        file.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        file.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("tiny-1.0.dist-info/RECORD", "")
    return path


def locked(folder: Path, value: int = 1, digest: str = "") -> Path:
    """A lock file for one small wheel that lies here."""
    path = wheel(folder, value)
    lock = folder / "tiny.lock"
    lock.write_text(f"tiny @ {path.as_uri()} --hash=sha256:{digest or sha256(path.read_bytes()).hexdigest()}\n", encoding="utf-8")
    return lock


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody can enter."""
    with tempfile.TemporaryDirectory(prefix="bailiwick-test-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "packages"


async def under(
    kind: type[Any], packages: Path | None, code: str, profile: Any = TINY, language: Language = Language.PYTHON
) -> Run:
    runner: CagedRunner = kind(packages=packages)
    try:
        return await runner.run(Job("1", code, profile, language))
    finally:
        await runner.aclose()


@pytest.fixture(params=[LandlockRunner, BwrapRunner])
def kind(request: pytest.FixtureRequest, boxes: Any) -> Any:
    boxes("own", "bwrap" if request.param is BwrapRunner else "landlock")  # skips where there is none
    return request.param


async def test_code_finds_the_set_installed_and_its_record_says_which(kind: Any, place: Path, tmp_path: Path) -> None:
    made = build("tiny", locked(tmp_path), place)
    run = await under(kind, place, USES)
    assert (run.reason, run.stdout) == (Reason.OK, b"1 True\n"), run
    assert run.packages == made.digest
    assert run.inputs_digest == Job("1", USES, TINY).inputs_digest(made.digest)
    assert built(place) == {"tiny": made.digest}


async def test_code_cannot_change_the_set(kind: Any, place: Path, tmp_path: Path) -> None:
    build("tiny", locked(tmp_path), place)
    attempts = """
import errno, os, tiny
folder = os.path.dirname(tiny.__file__)
for attempt in (lambda: open(tiny.__file__, 'a'), lambda: os.unlink(tiny.__file__), lambda: open(folder + '/x', 'w')):
    try: attempt()
    except OSError as error: print(errno.errorcode[error.errno])
"""
    run = await under(kind, place, attempts)
    assert len(run.stdout.split()) == 3, run
    assert set(run.stdout.split()) <= {b"EACCES", b"EROFS"}


async def test_the_same_lock_file_gives_the_same_digest_and_another_one_takes_its_place(place: Path, tmp_path: Path) -> None:
    lock = locked(tmp_path)
    first, again = build("tiny", lock, place), build("tiny", lock, place)
    assert first == again
    other = build("tiny", locked(tmp_path, 2), place)
    assert other.digest != first.digest
    assert first.folder.is_dir()  # a run that uses it goes on
    assert (await under(LandlockRunner, place, USES)).stdout == b"2 True\n"
    assert [path.name for path in place.iterdir() if path.name.startswith(".")] == []


@pytest.fixture(scope="module")
def interpreter() -> Interpreter:
    return choose(UID)


@pytest.mark.parametrize("harm", ["changed", "added", "removed", "executable", "link"])
def test_a_set_whose_files_have_changed_is_refused(place: Path, tmp_path: Path, interpreter: Interpreter, harm: str) -> None:
    made = build("tiny", locked(tmp_path), place)
    assert load("tiny", place, interpreter, UID) == made
    code = made.folder / "tiny/__init__.py"
    if harm == "changed":
        code.chmod(0o644)
        code.write_text("VALUE = 3\n", encoding="ascii")
    elif harm == "added":
        (made.folder / "evil.pth").write_text("", encoding="ascii")
    elif harm == "removed":
        code.unlink()
    elif harm == "executable":
        code.chmod(0o755)
    else:
        (made.folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(PackagesError, match=r"not as it was built|neither a file nor a folder"):
        load("tiny", place, interpreter, UID)


async def test_a_set_that_was_never_built_refuses_the_run_with_what_to_do(place: Path) -> None:
    for folder in (None, place):
        with pytest.raises(NotOfferedError, match="packages build tiny"):
            await under(LandlockRunner, folder, USES)


def test_a_set_out_of_the_runs_reach_is_refused_with_what_to_do(place: Path, tmp_path: Path, interpreter: Interpreter) -> None:
    if UID is None:
        pytest.skip("only a root's runs have user ids of their own")
    build("tiny", locked(tmp_path), place)
    place.chmod(0o700)
    with pytest.raises(PackagesError, match=r"cannot enter .*packages"):
        load("tiny", place, interpreter, UID)


def test_a_folder_that_no_cage_sees_is_refused_when_building_and_when_running(tmp_path: Path, interpreter: Interpreter) -> None:
    with tempfile.TemporaryDirectory(prefix="bailiwick-test-", dir="/tmp") as hidden:
        with pytest.raises(PackagesError, match="a cage has its own /tmp"):
            build("tiny", locked(tmp_path), Path(hidden) / "packages")
        assert not list(Path(hidden).iterdir())
        (Path(hidden) / "tiny.json").write_text("{}", encoding="ascii")
        with pytest.raises(PackagesError, match="a cage has its own /tmp"):
            load("tiny", Path(hidden), interpreter, UID)


def test_a_set_for_another_python_is_refused(place: Path, tmp_path: Path, interpreter: Interpreter) -> None:
    build("tiny", locked(tmp_path), place)
    about = json.loads((place / "tiny.json").read_text(encoding="utf-8"))
    (place / "tiny.json").write_text(json.dumps({**about, "python": "3.1.0"}), encoding="utf-8")
    with pytest.raises(PackagesError, match=r"built for Python 3\.1\.0"):
        load("tiny", place, interpreter, UID)


ELSEWHERE = '{"name": "tiny", "folder": "../..", "python": "3.11.2", "digest": ""}'


@pytest.mark.parametrize("told", ['{"folder": "../x"}', "[]", "x", ELSEWHERE])
def test_what_no_build_writes_is_refused(place: Path, interpreter: Interpreter, told: str) -> None:
    place.mkdir()
    (place / "tiny.json").write_text(told, encoding="utf-8")
    with pytest.raises(PackagesError, match=r"tiny\.json"):
        load("tiny", place, interpreter, UID)


async def test_other_languages_run_without_the_set(place: Path, tmp_path: Path) -> None:
    build("tiny", locked(tmp_path), place)
    both = replace(TINY, languages=frozenset({Language.PYTHON, Language.SHELL}))
    run = await under(LandlockRunner, place, "echo ${PYTHONPATH:-none}", both, "shell")
    assert (run.stdout, run.packages) == (b"none\n", "")


def test_a_wrong_hash_builds_nothing_and_leaves_nothing(place: Path, tmp_path: Path) -> None:
    with pytest.raises(PackagesError, match=r"pip: .*HASH"):
        build("tiny", locked(tmp_path, digest="0" * 64), place)
    assert list(place.iterdir()) == []


def test_a_lock_file_without_hashes_builds_nothing(place: Path, tmp_path: Path) -> None:
    lock = tmp_path / "bare.lock"
    lock.write_text(f"tiny @ {wheel(tmp_path, 1).as_uri()}\n", encoding="utf-8")
    with pytest.raises(PackagesError, match="pip:"):
        build("tiny", lock, place)


@pytest.mark.parametrize("name", ["../x", "", "A", ".hidden"])
def test_a_name_is_a_slug(place: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(PackagesError, match="a set's name"):
        build(name, locked(tmp_path), place)


def test_the_verb_builds_lists_and_says_what_is_wrong(place: Path, tmp_path: Path) -> None:
    def verb(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gateway.cli", "sandbox", "packages", *arguments, "--folder", str(place)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    made = verb("build", "tiny", "--lock", str(locked(tmp_path)), "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(verb("list", "--json").stdout) == {"tiny": json.loads(made.stdout)["digest"]}
    assert verb("build", "no-such").returncode == 2
    failed = verb("build", "tiny", "--lock", str(locked(tmp_path, digest="0" * 64)))
    assert (failed.returncode, failed.stderr.startswith("not built: pip")) == (1, True)


ANALYSIS = """
import numpy as np, pandas as pd
frame = pd.DataFrame({"region": ["n", "s", "n"], "sales": [1.0, 2.0, 4.0]})
print(frame.groupby("region").sales.mean().to_dict(), float(np.linalg.norm(np.ones(16))))
frame.to_csv("out.csv", index=False)
"""


@pytest.mark.index
async def test_the_shipped_set_computes_within_half_a_gigabyte(kind: Any, analysis: Path) -> None:
    assert PROFILE.limits.memory_bytes == 512 << 20
    runner: CagedRunner = kind(packages=analysis)
    first, second = [await runner.run(Job("1", ANALYSIS, PROFILE)) for _ in range(2)]
    await runner.aclose()
    assert (first.reason, first.stdout) == (Reason.OK, b"{'n': 2.5, 's': 2.0} 4.0\n"), first
    assert first.files[0].data == b"region,sales\nn,1.0\ns,2.0\nn,4.0\n"
    assert first.outputs_digest == second.outputs_digest
    assert len(first.packages) == 64


@pytest.fixture(scope="session")
def analysis() -> Iterator[Path]:
    """The shipped set, fetched once."""
    lock = shipped_lock("analysis")
    assert lock is not None
    folder = Path(tempfile.mkdtemp(prefix="bailiwick-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        build("analysis", lock, folder)
    except PackagesError as error:
        if "No matching distribution" not in str(error):
            raise
        pytest.skip(f"THE PACKAGE INDEX CANNOT BE REACHED, so numpy and pandas were not tried in a cage: {error}")
    else:
        yield folder
    finally:
        shutil.rmtree(folder)
