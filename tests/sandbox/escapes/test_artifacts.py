"""What a run leaves to be taken out is hostile: links, fifos, names, sizes, counts.  Only plain files come out."""

# ruff: noqa: ASYNC240  looking at files in between is what these tests are about
from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.model import Job, Limits, Profile, Reason
from sandbox.names import file_name
from sandbox.remote import believed
from sandbox.result import Run
from tests.sandbox.escapes.backends import BACKENDS, make

LIMITS = Limits(
    cpu_seconds=5, wall_seconds=10, memory_bytes=256 << 20, processes=12, file_bytes=8 << 20, scratch_bytes=32 << 20,
    output_bytes=1 << 16, open_files=64, artifacts=8, artifact_bytes=1 << 20,
)  # fmt: skip
GOOD = "open('good', 'w').write('good')\n"


@pytest.fixture(scope="session", params=sorted(BACKENDS))
def runner(request: pytest.FixtureRequest) -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="bailiwick-artifacts-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        made = make(request.param, Path(folder) / "base")
        if asyncio.run(made.probe()).problem:
            pytest.skip(f"{request.param} is not ready here")
        yield made
        asyncio.run(made.aclose())


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("canary", encoding="ascii")
    return tmp_path


async def taken(runner: Any, code: str, **limits: Any) -> tuple[dict[str, bytes], dict[str, str]]:
    """name → data of what came out, name → why of what did not; the run must end well."""
    bounds = replace(LIMITS, **limits)
    run = await runner.run(Job("1", "import os\n" + GOOD + code, Profile("artifacts", bounds)))
    assert run.reason == "ok", run.to_dict()
    found = {file.name: file.data for file in run.files}
    assert len(found) == len(run.files) <= bounds.artifacts
    assert sum(map(len, found.values())) <= bounds.artifact_bytes
    assert all(file_name(name) == name for name in found)
    assert not any(b"canary" in data for data in found.values())
    return found, dict(run.files_skipped)


LINKS = [
    ("os.symlink({secret!r}, 'x')", "a link to a secret"),
    ("os.symlink('/', 'x')", "a link to the root"),
    ("os.symlink('.', 'x')", "a link to itself"),
    ("os.symlink('/proc/self/environ', 'x')", "a link into the warden's own process"),
    ("os.symlink('/proc/1/environ', 'x')", "a link into the first process"),
    ("os.mkfifo('x') if hasattr(os, 'mkfifo') else None", "a fifo that nobody writes to"),
    ("os.mkdir('d'); os.symlink({secret!r}, 'd/x')", "a link in a folder"),
    ("os.unlink('main.py'); os.symlink({secret!r}, 'main.py')", "the program exchanged for a link"),
    ("os.open('x', os.O_CREAT | os.O_WRONLY, 0)", "a file that nobody may read"),
]


@pytest.mark.parametrize(("code", "what"), LINKS, ids=[what for _, what in LINKS])
async def test_nothing_comes_out_but_the_good_file(runner: Any, outside: Path, code: str, what: str) -> None:
    attempt = code.format(secret=str(outside / "secret"))
    found, _ = await taken(runner, f"try:\n    {attempt}\nexcept OSError: pass\n")
    assert found == {"good": b"good"}


async def test_a_file_of_two_names_does_not_come_out_by_either(runner: Any) -> None:
    found, skipped = await taken(runner, "open('a', 'w').write('x'); os.link('a', 'b')")
    assert found == {"good": b"good"}
    assert set(skipped) == {"a", "b"}


NAMES = [
    "b'\\xff\\xfe'", "'a\\nb'", "'a\\x1b[2Jb'", "'a\\\\b'", "'\\u202egpj.exe'", "'a\\u2028b'", "'...'", "'-rf'", "' '", "'~'",
    "'C:'", "'con'", "'x' * 255", "'.bashrc'", "'\\u200b'", "'%2e%2e'",
]  # fmt: skip


async def test_a_name_that_does_not_read_the_same_to_everybody_does_not_come_out(runner: Any) -> None:
    code = f"for name in ({', '.join(NAMES)}):\n    open(name, 'w').write('named')\n"
    found, skipped = await taken(runner, code, artifacts=64)
    assert all(name.isprintable() and "/" not in name and "\\" not in name for name in found)
    assert len(skipped) == 7
    assert all(name.isprintable() for name in skipped), "what is told of them is told in plain letters"


async def test_what_is_told_of_a_link_is_told_in_plain_letters_too(runner: Any) -> None:
    code = "for name in ('a\\x1b]0;owned\\x07', 'a\\nb', '\\u202e', 'a\\x9b31m', 'plain'):\n    os.symlink('x', name)"
    _, skipped = await taken(runner, code)
    assert len(skipped) == 5
    assert all(name.isprintable() for name in skipped)


async def test_more_files_than_the_profile_allows_stay_inside(runner: Any) -> None:
    found, skipped = await taken(runner, "for n in range(200): open(f'many-{n:03}', 'w').write('x')")
    assert len(found) == LIMITS.artifacts
    assert 0 < len(skipped) <= 100


async def test_a_sparse_file_counts_for_what_it_says_it_is(runner: Any) -> None:
    found, skipped = await taken(runner, "open('sparse', 'wb').truncate(2 << 20)")
    assert found == {"good": b"good"}
    assert set(skipped) == {"sparse"}


async def test_files_are_cut_by_their_sum_not_only_one_by_one(runner: Any) -> None:
    found, _ = await taken(runner, "for n in range(4): open(f'big-{n}', 'wb').write(b'x' * 400_000)")
    assert sum(map(len, found.values())) <= LIMITS.artifact_bytes


async def test_an_archive_comes_out_as_it_is_and_is_never_unpacked(runner: Any) -> None:
    code = """
import zipfile
with zipfile.ZipFile('bomb.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('../../../../tmp/escaped', b'0' * (4 << 20))
"""
    found, _ = await taken(runner, code)
    assert set(found) == {"good", "bomb.zip"}
    assert len(found["bomb.zip"]) < 1 << 16
    assert not Path("/tmp/escaped").exists()


async def test_a_pickle_comes_out_as_bytes(runner: Any) -> None:
    found, _ = await taken(runner, "open('x.pkl', 'wb').write(b\"cos\\nsystem\\n(S'touch /tmp/pickled'\\ntR.\")")
    assert found["x.pkl"].startswith(b"cos")
    assert not Path("/tmp/pickled").exists()


async def test_folders_deeper_than_any_name_end_nothing(runner: Any) -> None:
    found, _ = await taken(runner, "for _ in range(60):\n    os.mkdir('d'); os.chdir('d')\nopen('deep', 'w').write('x')")
    assert found == {"good": b"good"}


async def test_a_daemon_cannot_exchange_what_is_being_taken(runner: Any, outside: Path) -> None:
    """Everything of the run has ended before anything is taken."""
    secret = str(outside / "secret")
    code = f"""
import time
if not os.fork():
    os.setsid()
    while True:
        for name in ('a', 'b', 'c'):
            try:
                open(name, 'w').write('x'); os.unlink(name); os.symlink({secret!r}, name); os.unlink(name)
            except OSError: pass
time.sleep(0.1)
"""
    for _ in range(3):
        found, _ = await taken(runner, code)
        assert set(found) <= {"good", "a", "b", "c"}


async def test_a_file_that_was_given_and_not_changed_does_not_come_back(runner: Any) -> None:
    profile = Profile("artifacts", LIMITS)
    given = {"kept": b"kept", "changed": b"before", "gone": b"gone", "folder/in": b"in"}
    code = "import os\nopen('changed', 'w').write('after!'); os.unlink('gone'); os.symlink('kept', 'gone')"
    run = await runner.run(Job("1", code, profile, files=given))
    assert {file.name: file.data for file in run.files} == {"changed": b"after!"}


def test_a_runner_elsewhere_that_was_taken_over_tells_nothing_that_a_terminal_would_act_on() -> None:
    job = Job("1", "print()", Profile("artifacts", LIMITS))
    run = Run.without_output(job, Reason.OK, "\x9b6n" + "x" * 9000)
    told = believed(replace(run, files_skipped=(("a\x1b]0;owned\x07", "\x1b[2J"),)), job)
    assert all(text.isprintable() for text in (*told.files_skipped[0], told.detail))
    assert len(told.detail) <= 2000
