"""What code in the cage may try, each attempt by its name.  Most are made as root's code and as a plain user's."""

# ruff: noqa: ASYNC240  looking at /proc and at folders in between is what these tests are about
from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TRY = """
import errno, os, sys, json
def attempt(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno, error.errno)
    return "open"
"""
CTYPES = (
    TRY
    + """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
def raw(number, *arguments):
    return check(libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]))
"""
)
DENIED = {"EACCES", "EPERM", "ENOSYS", "ENOTSUP", "EXDEV", "ENOENT", "EROFS", "ESRCH"}


async def outcomes(box: Any, program: str, *attempts: str) -> dict[str, str]:
    listed = ", ".join(f"{text!r}: attempt(lambda: {text})" for text in attempts)
    found = json.loads(await box.says(program + f"print(json.dumps({{{listed}}}))"))
    assert isinstance(found, dict)
    return found


async def denied(box: Any, *attempts: str, program: str = TRY) -> None:
    found = await outcomes(box, program, *attempts)
    assert found
    assert {text: got for text, got in found.items() if got not in DENIED} == {}


@pytest.fixture
def outside(box: Any) -> Iterator[Path]:
    """A folder that the code's uid would be free to use, were it not in a cage."""
    with tempfile.TemporaryDirectory(prefix="bailiwick-outside-", dir="/tmp") as folder:
        path = Path(folder)
        (path / "secret").write_text("canary", encoding="ascii")
        path.chmod(0o777)
        (path / "secret").chmod(0o666)
        if box.uid != os.geteuid():
            os.chown(path, box.uid, box.uid)
            os.chown(path / "secret", box.uid, box.uid)
        yield path


@pytest.fixture
def bystander(box: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the gateway's user."""
    user = {} if box.uid == os.geteuid() else {"user": box.uid, "group": box.uid, "extra_groups": []}
    process = subprocess.Popen(["/bin/sh", "-c", "read line"], stdin=subprocess.PIPE, **user)  # type: ignore[call-overload]
    yield process
    process.stdin.close()
    assert process.wait(5) in (0, 1), "the bystander was harmed"


# -- reading -------------------------------------------------------------------------------------------------------------------


async def test_the_machines_own_files_cannot_be_read(box: Any) -> None:
    await denied(
        box, "open('/etc/passwd')", "open('/etc/shadow')", "os.listdir('/root')", "os.listdir('/')", "os.listdir('/home')",
        "os.listdir('/var/tmp')", "open('/bin/sh', 'rb')", "os.listdir('/sys')", "os.listdir('/dev')", "open('/dev/kmsg', 'rb')",
    )  # fmt: skip


async def test_the_gateways_files_cannot_be_read(box: Any, outside: Path) -> None:
    await denied(box, f"open({str(Path(__file__))!r})", f"open({str(outside / 'secret')!r})", f"os.listdir({str(outside)!r})")


async def test_a_file_cannot_be_read_through_a_link_made_inside(box: Any, outside: Path) -> None:
    secret = str(outside / "secret")
    program = TRY + f"os.symlink({secret!r}, 'soft')\nos.symlink({str(outside)!r}, 'folder')\n"
    await denied(
        box, "open('soft')", "open('folder/secret')", f"os.link({secret!r}, 'hard')", f"os.rename({secret!r}, 'moved')",
        "os.listdir('folder')", program=program,
    )  # fmt: skip


async def test_no_process_outside_shows_its_environment_or_memory(box: Any, bystander: subprocess.Popen[bytes]) -> None:
    pids = ["1", "self", str(os.getpid()), str(bystander.pid), "{os.getppid()}"]
    paths = [f"/proc/{pid}/{name}" for pid in pids for name in ("environ", "mem", "maps", "cmdline", "status", "fd", "root/etc")]
    await denied(box, *(f"os.open(f{path!r}, os.O_RDONLY)" for path in paths))


async def test_the_folders_of_other_runs_cannot_be_listed_or_entered(box: Any) -> None:
    await denied(box, "os.listdir('..')", "os.open('..', os.O_RDONLY)", "open('../outside')", "open('../outside', 'a')")


async def test_the_environment_holds_nothing_of_the_gateways(box: Any) -> None:
    names = set(json.loads(await box.says("import json, os; print(json.dumps(dict(os.environ)))")))
    assert names <= {
        "HOME",
        "LANG",
        "LC_CTYPE",
        "MALLOC_ARENA_MAX",
        "PATH",
        "PYTHONHASHSEED",
        "SOURCE_DATE_EPOCH",
        "TMPDIR",
        "TZ",
    }


async def test_no_descriptor_but_the_three_is_inherited(box: Any) -> None:
    program = "import os\nfor fd in range(1024):\n  try: os.fstat(fd); print(fd, end=' ')\n  except OSError: pass"
    assert await box.says(program) == "0 1 2 "


async def test_installed_packages_are_not_on_the_path(box: Any) -> None:
    assert "site-packages" not in await box.says("import sys; print([p for p in sys.path if 'site-' in p or 'dist-' in p])")


# -- writing -------------------------------------------------------------------------------------------------------------------


async def test_nothing_outside_the_scratch_folder_can_be_written(box: Any, outside: Path) -> None:
    secret, new = str(outside / "secret"), str(outside / "new")
    await denied(
        box, f"open({secret!r}, 'a')", f"open({secret!r}, 'r+')", f"open({new!r}, 'w')", f"os.mkdir({new!r})",
        f"os.truncate({secret!r}, 0)", f"os.unlink({secret!r})", f"os.rename({secret!r}, {new!r})",
        f"os.symlink('x', {new!r})", f"os.link('main.py', {new!r})", f"os.mkfifo({new!r})", f"os.rename('main.py', {new!r})",
        f"os.rmdir({str(outside)!r})", "open('/var/tmp/breach', 'w')",
    )  # fmt: skip
    await outcomes(box, TRY, "open('/tmp/breach', 'w')", "open('/dev/shm/breach', 'w')")  # the cage's own, where it has them
    assert not Path("/tmp/breach").exists()
    assert not Path("/dev/shm/breach").exists()
    assert (outside / "secret").read_text(encoding="ascii") == "canary"
    assert [path.name for path in outside.iterdir()] == ["secret"]


async def test_metadata_of_outside_files_cannot_be_changed(box: Any, outside: Path) -> None:
    secret = outside / "secret"
    before = secret.stat()
    await outcomes(
        box, TRY, f"os.chmod({str(secret)!r}, 0)", f"os.utime({str(secret)!r}, (1, 1))", f"os.chmod({str(outside)!r}, 0)",
        f"os.chown({str(secret)!r}, os.getuid(), os.getgid())", f"os.setxattr({str(secret)!r}, 'user.x', b'1')",
    )  # fmt: skip
    after = secret.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (before.st_mode, before.st_mtime_ns, before.st_ctime_ns)
    assert outside.stat().st_mode & 0o777 == 0o777
    assert os.listxattr(secret) == []


async def test_the_kernels_settings_cannot_be_written(box: Any) -> None:
    await denied(
        box, "open('/proc/sys/kernel/core_pattern', 'w')", "open('/proc/self/oom_score_adj', 'w')",
        "open('/proc/sysrq-trigger', 'w')", "open('/sys/kernel/uevent_helper', 'w')", "open('/proc/self/uid_map', 'w')",
        "open('/sys/fs/cgroup/release_agent', 'w')",
    )  # fmt: skip


async def test_the_interpreter_cannot_be_replaced(box: Any) -> None:
    await denied(box, "open(sys.executable, 'r+b')", "open(os.__file__, 'a')", "os.unlink(os.__file__)")


# -- the network ---------------------------------------------------------------------------------------------------------------


async def test_no_socket_of_any_family_and_type_can_be_made(box: Any) -> None:
    program = (
        TRY
        + """
import socket
kinds = range(1, 7)
print(json.dumps(sorted({attempt(lambda: socket.socket(family, kind).close()) for family in range(64) for kind in kinds})))
"""
    )
    assert json.loads(await box.says(program)) == ["EPERM"]


async def test_a_connected_pair_is_the_only_socket_and_reaches_nobody(box: Any, outside: Path) -> None:
    program = TRY + "import socket\nleft, right = socket.socketpair()\nleft.send(b'x')\nassert right.recv(1) == b'x'\n"
    await denied(
        box, "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)", "left.connect('\\0abstract')",
        f"left.bind({str(outside / 'bound')!r})", "left.listen()", "left.accept()", program=program,
    )  # fmt: skip


async def test_io_uring_which_makes_sockets_without_socket_is_not_there(box: Any) -> None:
    await denied(box, "raw(425, 1, None)", "raw(426, 0, 0, 0, 0)", "raw(427, 0, 0, None, 0)", program=CTYPES)


# -- other processes -----------------------------------------------------------------------------------------------------------


async def test_nobody_outside_can_be_signalled(box: Any, bystander: subprocess.Popen[bytes]) -> None:
    await denied(
        box, f"os.kill({bystander.pid}, 9)", f"os.kill({os.getpid()}, 9)", "os.kill(os.getppid(), 9)", "os.kill(1, 9)",
        f"os.killpg({bystander.pid}, 9)", f"raw(434, {bystander.pid}, 0)", "raw(424, 0, 9, None, 0)",
        f"raw(200 if os.uname().machine == 'x86_64' else 130, {bystander.pid}, 9)", program=CTYPES,
    )  # fmt: skip
    assert bystander.poll() is None


async def test_a_signal_to_everybody_reaches_nobody_outside(box: Any, bystander: subprocess.Popen[bytes]) -> None:
    run = await box.run("import os\ntry: os.kill(-1, 9)\nexcept OSError: pass\nprint('still here')")
    assert (run["reason"], run["stdout"]) == ("ok", "still here\n"), "the warden has ended the run as always"
    assert bystander.poll() is None


async def test_a_file_cannot_send_its_signals_to_somebody_outside(box: Any, bystander: subprocess.Popen[bytes]) -> None:
    program = TRY + "import fcntl\nfile = open('x', 'w')\n"
    await denied(
        box, f"fcntl.fcntl(file, fcntl.F_SETOWN, {bystander.pid})", f"fcntl.ioctl(file, 0x8901, {bystander.pid})", program=program
    )


async def test_nobody_outside_can_be_traced_or_read(box: Any, bystander: subprocess.Popen[bytes]) -> None:
    await denied(
        box, f"check(libc.ptrace(0x4206, {bystander.pid}, None, None))", "check(libc.ptrace(0x4206, os.getppid(), None, None))",
        "check(libc.ptrace(0, 0, None, None))", f"check(libc.process_vm_readv({bystander.pid}, None, 0, None, 0, 0))",
        "raw(312 if os.uname().machine == 'x86_64' else 272, os.getpid(), os.getppid(), 0, 0, 0)", program=CTYPES,
    )  # fmt: skip


async def test_nobody_outside_can_be_limited_or_slowed(box: Any, bystander: subprocess.Popen[bytes]) -> None:
    program = CTYPES + "import resource\n"
    found = []
    for pid in (str(bystander.pid), str(os.getpid()), "os.getppid()"):
        found += [
            f"resource.prlimit({pid}, resource.RLIMIT_NOFILE, (3, 3))", f"os.setpriority(os.PRIO_PROCESS, {pid}, 19)",
            f"os.sched_setaffinity({pid}, {{0}})", f"os.sched_setscheduler({pid}, os.SCHED_IDLE, os.sched_param(0))",
            f"raw(251 if os.uname().machine == 'x86_64' else 30, 1, {pid}, 24583)",
        ]  # fmt: skip
    await denied(box, *found, "os.setpriority(os.PRIO_USER, 0, 19)", program=program)
    assert os.getpriority(os.PRIO_PROCESS, bystander.pid) == 0


# -- the kernel ----------------------------------------------------------------------------------------------------------------


async def test_no_namespace_can_be_made_or_entered(box: Any) -> None:
    flags = (0x10000000, 0x00020000, 0x20000000, 0x40000000, 0x08000000, 0x04000000, 0x02000000)
    await denied(
        box, *(f"check(libc.unshare({flag}))" for flag in flags), "check(libc.setns(0, 0))",
        *(f"raw(56 if os.uname().machine == 'x86_64' else 220, {flag | 17}, 0, 0, 0, 0)" for flag in flags),
        "raw(435, None, 0)", program=CTYPES,
    )  # fmt: skip


async def test_nothing_can_be_mounted_and_no_root_changed(box: Any) -> None:
    await denied(
        box, "check(libc.mount(b'none', b'.', b'tmpfs', 0, None))", "check(libc.umount2(b'/proc', 2))", "os.chroot('.')",
        *(f"raw({number}, 0, 0, 0, 0, 0)" for number in range(428, 434)), "raw(442, 0, 0, 0, 0, 0)", program=CTYPES,
    )  # fmt: skip


async def test_the_calls_that_escapes_are_made_of_are_refused(box: Any) -> None:
    x86, arm = {"bpf": 321, "perf": 298, "userfaultfd": 323, "keyctl": 250, "module": 313, "handle": 304, "kexec": 320}, {
        "bpf": 280, "perf": 241, "userfaultfd": 282, "keyctl": 219, "module": 273, "handle": 265, "kexec": 294,
    }  # fmt: skip
    numbers = x86 if platform.machine() == "x86_64" else arm
    await denied(
        box, *(f"raw({number}, 0, 0, 0, 0, 0)" for number in numbers.values()), "os.memfd_create('x')",
        "check(libc.shmget(0, 4096, 0o1600))", "check(libc.mq_open(b'/x', 64))", "check(libc.inotify_init())",
        "check(libc.personality(0x40000))", "raw(447, 0)", "raw(9999, 0)", program=CTYPES,
    )  # fmt: skip


async def test_the_cage_cannot_be_weakened_from_inside(box: Any) -> None:
    await denied(
        box, "check(libc.prctl(1, 0, 0, 0, 0))", "check(libc.prctl(4, 0, 0, 0, 0))", "check(libc.prctl(22, 2, None, 0, 0))",
        "check(libc.prctl(35, 1, 0, 0, 0))", "raw(444, None, 0, 1)", "raw(446, 0, 0)", program=CTYPES,
    )  # fmt: skip


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the other doors into an x86 kernel")
@pytest.mark.parametrize(
    ("door", "machine_code"),
    [("32 bit", "b814000000cd80c3"), ("x32", "b827000040" + "0f05c3"), ("old x32", "b800020000" + "0f05c3")],
)
async def test_a_foreign_system_call_ends_the_process(own_box: Any, door: str, machine_code: str) -> None:
    program = f"""
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex({machine_code!r}))
ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
print("came back")
"""
    run = await own_box.run(program)
    assert run["reason"] == "signal"
    assert run["signal"] in (31, 11)  # SIGSYS; SIGSEGV where the kernel has no such door
    assert "came back" not in run["stdout"]


async def test_nothing_but_the_interpreter_can_be_executed(box: Any) -> None:
    program = TRY + "import subprocess\nopen('mine', 'w').write('#!/bin/sh\\n')\n"
    await denied(
        box, "subprocess.run(['/bin/sh', '-c', 'id'])", "subprocess.run(['/bin/su'])", "os.execv('/usr/bin/env', ['env'])",
        "os.execv('./mine', ['mine'])", program=program,
    )  # fmt: skip


async def test_no_privilege_can_be_gained(box: Any) -> None:
    program = CTYPES + "assert 0 not in os.getresuid() + os.getresgid()\n"
    attempts = ("os.setuid(0)", "os.setgid(0)", "os.setgroups([0])", "os.setresuid(0, 0, 0)")
    found = await outcomes(box, program, *attempts)
    assert set(found.values()) <= {"EPERM", "EINVAL"}  # EINVAL: nobody there is called so


# -- lying ---------------------------------------------------------------------------------------------------------------------


async def test_the_code_cannot_forge_its_result(box: Any) -> None:
    program = """
import json, os, struct
body = json.dumps({"reason": "ok", "exit_code": 0, "signal": None, "left": 0}).encode()
frame = struct.pack(">cI", b"R", len(body)) + body
for fd in range(256):
    try: os.write(fd, frame)
    except OSError: pass
raise SystemExit(3)
"""
    run = await box.run(program)
    assert (run["reason"], run["exit_code"]) == ("error", 3)
    assert run["stdout"].startswith("R")


async def test_the_code_cannot_reach_its_warden(box: Any) -> None:
    await denied(
        box, "os.kill(os.getppid(), 0)", "os.open(f'/proc/{os.getppid()}/fd/0', os.O_RDWR)",
        "os.open(f'/proc/{os.getppid()}/mem', os.O_RDWR)", "raw(438, 3, 0, 0)", "raw(434, os.getppid(), 0)", program=CTYPES,
    )  # fmt: skip


def test_these_attempts_are_made_by_an_unconfined_python_too(tmp_path: Path) -> None:
    """The control: what the tests above call denied succeeds for the same program outside a cage."""
    (tmp_path / "secret").write_text("canary", encoding="ascii")
    tries = [
        f"open({str(tmp_path / 'secret')!r}).close()", "os.kill(os.getppid(), 0)", "socket.socket(1).close()", "os.listdir('/')",
        "os.close(os.memfd_create('x'))",
    ]  # fmt: skip
    program = CTYPES + "import socket\nprint([" + ", ".join(f"attempt(lambda: {text})" for text in tries) + "])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(["open"] * 5)
