"""The process that stands between the gateway and the code: it closes the cage, attests, receives the code, runs it, ends it.

Law: the warden stands in Landlock domain D1, the code in D2 nested in D1.  The code can neither signal, trace nor read the warden
and never holds the descriptor of the frames, so the result is not forged; a warden whose frames end kills everything and goes.
A frame is one byte of kind, four of length (big-endian), and the payload.
"""

# ruff: noqa: PTH116, PTH208  every import is paid for at each run; nothing here wants more than a descriptor
from __future__ import annotations

import errno
import json
import os
import resource
import signal
import struct
from typing import TYPE_CHECKING, NoReturn

from sandbox.inside import confine, watch
from sandbox.inside.confine import failing

if TYPE_CHECKING:
    from sandbox.inside.confine import Setup

_FRAMES = 0  # the socket to the gateway
_FRAME_BYTES = 8 << 20
_SPARE_PROCESSES = 8  # the kernel's bound lies this much above the watchdog's, so that the watchdog can name the reason
_SPARE_MEMORY = 128 << 20  # address space that is mapped but not used


def _read(count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = os.read(_FRAMES, count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def receive(kind: bytes) -> bytes:
    """The payload of the next frame; EOFError where the gateway has gone or says anything else."""
    got, length = struct.unpack(">cI", _read(5))
    if got != kind or length > _FRAME_BYTES:
        raise EOFError
    return _read(length)


def send(kind: bytes, payload: bytes) -> None:
    """One frame to the gateway."""
    data = struct.pack(">cI", kind, len(payload)) + payload
    while data:
        data = data[os.write(_FRAMES, data) :]


def _become_code(setup: Setup, warden: int, streams: tuple[int, int], report: int, go: int) -> NoReturn:
    """In the forked child: close the inner cage, attest, wait to be released, and become the interpreter."""
    try:
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)  # the frames' descriptor is gone with this
        os.dup2(streams[0], 1)
        os.dup2(streams[1], 2)
        low, high = sorted((report, go))
        os.closerange(3, low)
        os.closerange(low + 1, high)
        os.closerange(high + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        for number in (signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        confine.prctl(confine.PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != warden:
            os._exit(70)
        failing(lambda: _write_file("/proc/self/oom_score_adj", b"1000"))
        confine.enter_domain(setup, proc=False)
        for name, (soft, hard) in setup["rlimits"].items():
            resource.setrlimit(getattr(resource, name), (soft, hard))
        confine.install_filter(setup["code_filter"])
        os.write(report, json.dumps(confine.attest(setup, warden)).encode())
        if os.read(go, 1) != b"g":
            os._exit(70)
        os.execve(setup["interpreter"], [setup["interpreter"], *setup["arguments"]], setup["env"])  # noqa: S606  no shell
    except BaseException as error:  # noqa: BLE001  a forked child must not return into the warden's code
        message = b"!" + repr(error).encode()
        failing(lambda: os.write(report, message))
    os._exit(70)


def _write_file(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    while data:
        data = data[os.write(fd, data) :]
    os.close(fd)


def _threads_of_uid() -> int:
    """Threads that this uid has now, as far as they can be seen."""
    total = 0
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.stat("/proc/" + entry).st_uid == os.getuid():
                total += len(os.listdir(f"/proc/{entry}/task"))
        except OSError:
            continue
    return total


def _rlimits(setup: Setup) -> dict[str, tuple[int, int]]:
    limits = setup["limits"]
    space, cpu = limits["memory_bytes"] + _SPARE_MEMORY, limits["cpu_seconds"]
    tasks = limits["processes"] + _SPARE_PROCESSES + _threads_of_uid()  # the kernel counts the uid's, not the run's
    return {
        "RLIMIT_AS": (space, space),
        "RLIMIT_CPU": (cpu, cpu + 1),
        "RLIMIT_FSIZE": (limits["file_bytes"], limits["file_bytes"]),
        "RLIMIT_NPROC": (tasks, tasks),
        "RLIMIT_NOFILE": (limits["open_files"], limits["open_files"]),
        "RLIMIT_STACK": (8 << 20, 8 << 20),
        "RLIMIT_MEMLOCK": (65536, 65536),
        # 1, not 0: with a piped core_pattern the kernel starts its handler, as root and outside, whatever the limit but for 1.
        "RLIMIT_CORE": (1, 1),
        **dict.fromkeys(("RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO"), (0, 0)),
    }


def _close_cage(setup: Setup) -> bool:
    """Close the outer cage; whether kill(-1) now reaches nobody outside it.

    OSError where the sentinel, or the gateway (unless this uid is its own), is not within reach before: a denial afterwards
    would prove nothing.
    """
    gateway = os.getppid()  # 0 for the first process of a namespace: nobody outside has a name there
    if setup["sentinel_inside"]:
        _write_file(setup["sentinel"], b"")
    for flags in (os.O_RDONLY, os.O_WRONLY):
        confine.can_open(setup["sentinel"], flags)
    if gateway and not setup["own_uid"]:
        os.kill(gateway, 0)
    setup["rlimits"] = _rlimits(setup)
    confine.drop_privileges()
    confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
    confine.enter_domain(setup, proc=True)
    confine.install_filter(setup["cage_filter"])
    return not gateway or failing(lambda: os.kill(gateway, 0)) == errno.EPERM


def main() -> None:
    """Cage, attest, receive the code, run it, tell how it ended."""
    setup: Setup = json.loads(receive(b"S"))
    os.umask(0o077)
    at_once = _close_cage(setup)
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    (out, out_end), (err, err_end), (report, report_end), (go, go_end) = os.pipe(), os.pipe(), os.pipe(), os.pipe()
    warden = os.getpid()
    code = os.fork()
    if not code:
        _become_code(setup, warden, (out_end, err_end), report_end, go)
    try:
        for fd in (out_end, err_end, report_end, go):
            os.close(fd)
        attested = os.read(report, 65536)
        if not attested.startswith(b"{"):
            raise RuntimeError("the code's process did not come up: " + attested.decode())
        facts = {"warden": confine.attest(setup, os.getppid()), "code": json.loads(attested)}
        send(b"A", json.dumps(facts).encode())
        _write_file(setup["scratch"] + "/main.py", receive(b"C"))
        os.set_blocking(out, False)
        os.set_blocking(err, False)
        run = watch.Watch(setup, code, (out, err), wake, _FRAMES, at_once=at_once)
        os.write(go_end, b"g")
        left = run.run()
        failure = os.read(report, 4096)  # nothing: a successful exec closed it
        if failure:
            raise RuntimeError("the interpreter did not start: " + failure.decode())
        send(b"O", bytes(run.streams[out]))
        send(b"E", bytes(run.streams[err]))
        send(b"R", json.dumps(run.result(left)).encode())
    finally:
        watch.kill_below(at_once=at_once, wake=wake)
