"""Folders that last: one program's at a time, there again for the next, out of everybody else's reach, and safe to clear away."""

# ruff: noqa: PTH115, PTH116, PTH208, PTH211  looking at files in between is what these tests are about
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox import lasting
from sandbox.engine import CagedRunner
from sandbox.interpreter import choose, own_uids
from sandbox.lasting import LastingError
from sandbox.model import Guarantee, IsolationUnprovenError, Reason, SandboxBusyError, SandboxFailedError, Strength
from sandbox.profiles import load_profiles
from sandbox.runner import Lasting, Program
from sandbox.scratch import UIDS

PROFILE = load_profiles()["mcp-stdio"]
PYTHON = choose(UIDS.start if own_uids() else None).path
MB = 1 << 20


@pytest.fixture(params=["landlock", "bwrap"])
def runner(request: pytest.FixtureRequest, boxes: Any) -> CagedRunner:
    found = boxes("own", request.param).runner
    assert isinstance(found, CagedRunner)
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bailiwick-test-", dir="/var/tmp") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def speaking(code: str, folder: Path | Lasting, **given: Any) -> Program:
    kept = folder if isinstance(folder, Lasting) else Lasting(folder, 4 * MB)
    return Program("lasting", (PYTHON, "-c", code, "{folder}"), given.pop("profile", PROFILE), folder=kept, **given)


async def said(runner: CagedRunner, code: str, folder: Path | Lasting, **given: Any) -> str:
    served = await runner.serve(speaking(code, folder, **given))
    text = (await served.stdout.read()).decode()
    run = await served.wait()
    assert run.reason in {Reason.OK, Reason.DISK}, [line async for line in served.stderr]
    return text if run.reason is Reason.OK else str(run.reason)


async def test_what_one_program_leaves_the_next_one_finds_whatever_user_id_it_has(runner: CagedRunner, place: Path) -> None:
    where = "import os, sys; print(os.getcwd() == os.environ['HOME'] == sys.argv[1] == os.environ['HERE'], os.environ['TMPDIR'])"
    text = await said(runner, where, place / "one", environment={"HERE": "{folder}"})
    assert text.split()[0] == "True"
    assert "one" not in text.split()[1]
    leave = "import os; os.makedirs('a/b'); open('a/b/note', 'w').write('forty-two'); os.symlink('a/b/note', 'link')"
    assert await said(runner, leave, place / "one") == ""
    if own_uids():  # another user id has the folder's own one
        other = next(uid for uid in UIDS if uid != os.stat(place / "one" / "files").st_uid)
        held = lasting.claim(Lasting(place / "one", 4 * MB))
        lasting.give(held, other)
        lasting.release(held)
    found = "import os; print(open('a/b/note').read(), open('link').read()); open('a/b/note', 'a').write('!')"
    assert await said(runner, found, place / "one") == "forty-two forty-two\n"
    assert await said(runner, "print(open('a/b/note').read())", place / "one") == "forty-two!\n"


async def test_one_program_has_it_at_a_time_and_its_warden_keeps_it_locked(runner: CagedRunner, place: Path) -> None:
    served = await runner.serve(speaking("import sys; sys.stdin.read()", place / "one"))
    with pytest.raises(SandboxBusyError):
        await runner.serve(speaking("", place / "one"))
    holders = {
        pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid != os.getpid() and _has_open(pid, place / "one")
    }
    assert holders  # so that a gateway that is killed leaves it locked until the last of its programs has gone
    assert served.guarantees[Guarantee.FOLDER] is Strength.HARD
    assert served.guarantees[Guarantee.DISK] is Strength.SOFT  # on the machine's disk no kernel bounds it
    await served.end()
    assert await said(runner, "print('again')", place / "one") == "again\n"
    assert (place / "one").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif("BAILIWICK_FEW_DESCRIPTORS" not in os.environ, reason="the next test runs it, in a process of its own")
async def test_its_lock_is_no_codes_whatever_its_number(runner: CagedRunner, place: Path) -> None:
    held: list[int] = []
    for lowest in range(28, 42):
        while (free := os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)) < lowest:
            held.append(free)
        os.close(free)
        assert free == lowest, "this process has few descriptors"
        assert await said(runner, "print('in')", place / "one") == "in\n"
    for each in held:
        os.close(each)


@pytest.mark.parametrize("backend", ["landlock", "bwrap"])
def test_a_descriptor_that_lies_between_the_wardens_own_reaches_no_code(boxes: Any, backend: str) -> None:
    """The warden moves its descriptors above 32.  A lock of the gateway's came to lie between them, and no cage came up."""
    boxes("own", backend)  # skips where there is none
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"{__file__}::test_its_lock_is_no_codes_whatever_its_number[{backend}]"],
        env={**os.environ, "BAILIWICK_FEW_DESCRIPTORS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def _has_open(pid: int, path: Path) -> bool:
    try:
        return str(path) in {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    except OSError:
        return False


async def test_where_a_hard_bound_of_the_disk_is_asked_for_it_does_not_start(runner: CagedRunner, place: Path) -> None:
    strict = replace(PROFILE, requires={**PROFILE.requires, Guarantee.DISK: Strength.HARD})
    with pytest.raises(IsolationUnprovenError) as refused:
        await runner.serve(speaking("", place / "one", profile=strict))
    assert set(refused.value.missing) == {Guarantee.DISK}


ATTACKS = """
import errno, json, os
mine, other, said = os.environ['HOME'], OTHER, {}
def attempt(name, action):
    try:
        action()
        said[name] = 'open'
    except OSError as error:
        said[name] = errno.errorcode[error.errno]
def through_descriptor():
    top = os.open(mine, os.O_RDONLY | os.O_DIRECTORY)
    os.close(os.open('/proc/self/fd/%d/../../other/files/secret' % top, os.O_RDONLY))
def swapped():
    # a folder of one's own that is a link at the next look: whoever went by its name would be led into the other's
    os.mkdir('swap'); os.rmdir('swap'); os.symlink(other, 'swap')
    os.listdir('swap')
def exchanged():
    os.rename(mine, mine + '-gone')
def bound_to_itself():
    os.symlink('/proc/self/root' + other + '/secret', 'root')
    open('root').read()
attempt('read', lambda: open(other + '/secret').read())
attempt('list', lambda: os.listdir(other))
attempt('stat its names', lambda: os.listdir(os.path.dirname(os.path.dirname(other))))
attempt('write', lambda: open(other + '/planted', 'w'))
attempt('up', lambda: open('../../other/files/secret').read())
attempt('up by descriptor', lambda: os.open('../../other/files/secret', os.O_RDONLY, dir_fd=os.open('.', os.O_RDONLY)))
attempt('own descriptors', through_descriptor)
attempt('own working folder', lambda: open('/proc/self/cwd/../../other/files/secret').read())
attempt('own root', bound_to_itself)
attempt('hard link', lambda: os.link(other + '/secret', 'hard'))
attempt('hard link out', lambda: (open('x', 'w').close(), os.link('x', other + '/x')))
attempt('rename out', lambda: (open('y', 'w').close(), os.rename('y', other + '/y')))
attempt('swap', swapped)
attempt('exchange', exchanged)
attempt('run', lambda: (open('z', 'w').write('#!/bin/sh'), os.chmod('z', 0o755), os.execv(mine + '/z', ['z'])))
attempt('device', lambda: os.mknod('device', 0o600 | 0o020000, os.makedev(1, 3)))
attempt('pipe', lambda: os.mkfifo('pipe'))
print(json.dumps(said))
"""


async def test_no_program_reaches_the_folder_of_another_user_by_any_way(runner: CagedRunner, place: Path) -> None:
    await said(runner, "open('secret', 'w').write('of another')", place / "other")
    held = await runner.serve(speaking("import sys; sys.stdin.read()", place / "other"))  # in use, and so open to its own user id
    code = f"OTHER = {str(place / 'other' / 'files')!r}\n{ATTACKS}"
    found = json.loads(await said(runner, code, place / "mine"))
    assert len(found) == 17
    assert "open" not in found.values(), found
    await held.end()
    assert os.listdir(place / "other" / "files") == ["secret"]
    assert await said(runner, "print(open('secret').read())", place / "other") == "of another\n"


async def test_links_that_a_program_planted_lead_nobody_out_who_takes_or_clears_its_folder(
    runner: CagedRunner, place: Path
) -> None:
    outside = place / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    before = [(path.stat().st_uid, path.stat().st_mode, path.stat().st_mtime_ns) for path in (outside, outside / "precious")]
    plant = f"""
import os
os.symlink({str(outside)!r}, 'folder'); os.symlink({str(outside / "precious")!r}, 'file'); os.symlink('/proc/self/fd/0', 'magic')
os.symlink('loop', 'loop'); os.mkdir('deep'); os.symlink('..', 'deep/up'); os.makedirs('/'.join(['d'] * 100))
"""
    await said(runner, plant, place / "one")
    held = lasting.claim(Lasting(place / "one", 4 * MB))
    if own_uids():
        lasting.give(held, next(uid for uid in UIDS if uid != held.uid))
    lasting.release(held)
    assert lasting.remove(place / "one") is True
    assert [
        (path.stat().st_uid, path.stat().st_mode, path.stat().st_mtime_ns) for path in (outside, outside / "precious")
    ] == before
    assert sorted(os.listdir(place)) == ["outside"]
    assert lasting.remove(place / "one") is False


async def test_what_is_no_programs_is_not_given_away_and_a_link_in_its_place_is_not_followed(
    runner: CagedRunner, place: Path
) -> None:
    (place / "elsewhere").mkdir()
    os.symlink(place / "elsewhere", place / "link")
    with pytest.raises(SandboxFailedError):
        await runner.serve(speaking("", place / "link"))
    (place / "one").mkdir(0o700)
    os.symlink(place / "elsewhere", place / "one" / "files")
    with pytest.raises(SandboxFailedError):
        await runner.serve(speaking("", place / "one"))
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    with pytest.raises(SandboxFailedError, match="nobody else can write"):
        await runner.serve(speaking("", place / "open"))
    if own_uids():
        await said(runner, "open('note', 'w')", place / "two")
        (place / "precious").write_text("of root")
        os.link(place / "precious", place / "two" / "files" / "hard")  # as no program can
        held = lasting.claim(Lasting(place / "two", 4 * MB))
        with pytest.raises(LastingError, match="belongs to user 0"):
            lasting.give(held, next(uid for uid in UIDS if uid != held.uid))
        lasting.release(held)
        assert (place / "precious").stat().st_uid == 0


@pytest.mark.parametrize(
    "fill",
    [
        "open('x', 'wb').write(b'x' * (2 << 20))",
        "import os; os.mkdir('hidden', 0o300); open('hidden/x', 'wb').write(b'x' * (2 << 20))",
        "import os; f = open('x', 'wb'); os.unlink('x'); f.write(b'x' * (2 << 20)); f.flush()",
        "[open(str(n), 'w').close() for n in range(10_050)]",
    ],
    ids=["bytes", "hidden", "deleted", "entries"],
)
async def test_one_that_fills_its_folder_is_ended(runner: CagedRunner, place: Path, fill: str) -> None:
    code = fill + "\nimport time\ntime.sleep(60)"
    assert await said(runner, code, Lasting(place / "one", 1 * MB)) == "disk"


async def test_one_that_is_over_its_bound_may_be_emptied_and_one_far_over_it_does_not_start(
    runner: CagedRunner, place: Path
) -> None:
    await said(runner, "open('x', 'wb').write(b'x' * (3 << 20))", Lasting(place / "one", 4 * MB))
    assert await said(runner, "print(open('x', 'rb').seek(0, 2))", Lasting(place / "one", 2 * MB)) == f"{3 * MB}\n"
    grows = "open('y', 'wb').write(b'x' * (1 << 20))\nimport time\ntime.sleep(60)"
    assert await said(runner, grows, Lasting(place / "one", 2 * MB)) == "disk"
    with pytest.raises(SandboxFailedError, match="have it emptied, or allow more"):
        await runner.serve(speaking("", Lasting(place / "one", 1 * MB)))
    assert await said(runner, "import os; os.unlink('x'); print(1)", Lasting(place / "one", 3 * MB)) == "1\n"
    assert await said(runner, "print(2)", Lasting(place / "one", 1 * MB)) == "2\n"


async def test_a_folder_that_is_being_removed_or_used_is_neither_used_nor_removed(runner: CagedRunner, place: Path) -> None:
    served = await runner.serve(speaking("import sys; sys.stdin.read()", place / "one"))
    with pytest.raises(SandboxBusyError):
        lasting.remove(place / "one")
    await served.end()
    assert lasting.remove(place / "one")
    if own_uids():
        closed = place / "closed"
        closed.mkdir(0o700)
        with pytest.raises(SandboxFailedError, match="is closed to the user ids of programs"):
            await runner.serve(speaking("", closed / "one"))


async def test_of_a_gateway_that_is_a_plain_user_each_folder_is_its_programs_alone_too(plain_box: Any) -> None:
    """Where all folders are of the gateway's own user id, it is the cage alone that keeps them apart."""
    with tempfile.TemporaryDirectory(prefix="bailiwick-test-", dir="/var/tmp") as name:
        os.chown(name, plain_box.uid, plain_box.uid)
        other, mine = Path(name) / "other", Path(name) / "mine"
        python = choose(plain_box.uid).path
        leave = "open('secret', 'w').write('of another'); print('left')"
        assert await plain_box.ask({"serve": [python, "-c", leave], "folder": str(other)}) == "left\n"
        code = f"OTHER = {str(other / 'files')!r}\n{ATTACKS}"
        found = json.loads(await plain_box.ask({"serve": [python, "-c", code], "folder": str(mine)}))
        assert (len(found), "open" in found.values()) == (17, False), found
        assert (
            await plain_box.ask({"serve": [python, "-c", "print(open('secret').read())"], "folder": str(other)}) == "of another\n"
        )
        assert os.stat(other).st_mode & 0o777 == 0o700
