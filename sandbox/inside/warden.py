"""The process that stands between the gateway and the code: it closes the cage, attests, receives the job, runs it, ends it.

Law: the warden stands in Landlock domain D1, the code in D2 nested in D1.  The code can neither signal, trace nor read the warden
and never holds the descriptor of the frames, so the result is not forged; a warden whose frames end kills everything and goes.
"""

# ruff: noqa: PTH103, PTH116, PTH120, PTH208  every import is paid for at each run; nothing here wants more than a descriptor
from __future__ import annotations

import _signal
import _socket
import errno
import fcntl
import os
import resource
import struct

from sandbox.inside import confine, gather, plain, relay, watch
from sandbox.inside.confine import failing

TYPE_CHECKING = False  # importing `typing` would cost more than everything else here
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

    from sandbox.inside.confine import Setup

_SPARE_PROCESSES = 8  # the kernel's bounds lie this much above the watchdog's, so that the watchdog can name the reason
_SPARE_TASKS_SHARED = 32  # where the kernel counts a uid that is not the run's alone, and others of it come and go
_SPARE_MEMORY = 128 << 20  # address space that is mapped but not used
_SPARE_FILE_BYTES, _SPARE_FILES = 65536, 16
_HIGH = 32  # descriptors are moved above this before the first four are given their meaning


def _become_code(setup: Setup, warden: int, ends: tuple[int, ...], report: int, go: int) -> NoReturn:
    """In the forked child: close the inner cage, attest, wait to be released, and become the program.

    `ends` become standard input, output, error and, as descriptor 3, the way back.
    """
    try:
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH) for fd in (*ends, report, go)]
        for number, fd in enumerate(high[:4]):
            os.dup2(fd, number)  # with 0, the frames' descriptor is gone
        report, go = high[4:]
        os.closerange(4, report)
        os.closerange(report + 1, go)  # a descriptor that was passed in may have any number
        os.closerange(go + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        # Whatever the gateway blocks, or ignores as one under nohup does, is not the code's.
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        for number in range(1, _signal.NSIG):
            try:
                _signal.signal(number, _signal.SIG_DFL)
            except OSError:
                continue  # SIGKILL, SIGSTOP, and those that are the C library's own
        os.setsid()
        confine.prctl(confine.PR_SET_PDEATHSIG, int(_signal.SIGKILL))
        if os.getppid() != warden:
            os._exit(70)
        failing(lambda: _write_file("/proc/self/oom_score_adj", b"1000"))
        confine.enter_domain(setup, proc=False)
        for name, (soft, hard) in setup["rlimits"].items():
            resource.setrlimit(getattr(resource, name), (soft, hard))
        confine.install_filter(setup["code_filter"])
        os.write(report, plain.dumps(confine.attest(setup, warden)))
        program = plain.loads(_all_of(go))  # nothing where the warden has gone: an error
        if not program["tools"]:
            os.close(3)
        if program["cwd"]:
            os.chdir(program["cwd"])
        os.execve(program["command"][0], program["command"], program["environment"])  # noqa: S606  no shell
    except BaseException as error:  # noqa: BLE001  a forked child must not return into the warden's code
        message = b"!" + repr(error).encode()
        failing(lambda: os.write(report, message))
    os._exit(70)


def _all_of(fd: int) -> bytes:
    data = bytearray()
    while piece := os.read(fd, 65536):
        data += piece
    return bytes(data)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _write_file(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    _write_all(fd, data)
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
    memory, cpu = limits["memory_bytes"] + _SPARE_MEMORY, limits["cpu_seconds"]
    space = memory if setup["address_space"] else resource.RLIM_INFINITY  # V8 reserves more than it will ever use
    size, files = limits["file_bytes"] + _SPARE_FILE_BYTES, limits["open_files"] + _SPARE_FILES
    tasks = limits["processes"] + _SPARE_PROCESSES + _threads_of_uid()  # the kernel counts the uid's, not the run's
    if not setup["apart"]:
        tasks += _SPARE_TASKS_SHARED
    return {
        "RLIMIT_AS": (space, space),
        "RLIMIT_DATA": (memory, memory),
        "RLIMIT_CPU": (cpu, cpu + 1),
        "RLIMIT_FSIZE": (size, size),
        "RLIMIT_NPROC": (tasks, tasks),
        "RLIMIT_NOFILE": (files, files),
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
    if setup["network"]:
        confine.listen(setup)
    setup["rlimits"] = _rlimits(setup)
    confine.drop_privileges()
    confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
    confine.enter_domain(setup, proc=True)
    confine.install_filter(setup["cage_filter"])
    return not gateway or failing(lambda: os.kill(gateway, 0)) == errno.EPERM


class Pipes:
    """The pairs of descriptors between warden and code: the code's ends, and the warden's, which do not block once it runs."""

    def __init__(self) -> None:
        self.in_end, self.stdin = os.pipe()
        self.out, self.out_end = os.pipe()
        self.err, self.err_end = os.pipe()
        self.report, self.report_end = os.pipe()
        self.go_end, self.go = os.pipe()
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self.tools, self.tools_end = ours.detach(), theirs.detach()
        self.wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # readable when a child has ended
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        _signal.set_wakeup_fd(woken, warn_on_full_buffer=False)

    @property
    def of_code(self) -> tuple[int, ...]:
        """Standard input, output, error, way back."""
        return self.in_end, self.out_end, self.err_end, self.tools_end

    def close_ends(self) -> None:
        """Those that are the code's."""
        for fd in (*self.of_code, self.report_end, self.go_end):
            os.close(fd)


def _lay_out(root: str, names: list[list[Any]], data: memoryview) -> dict[str, bytes]:
    """Write the job's files into its folder, where nothing runs yet: name → bytes."""
    given: dict[str, bytes] = {}
    at = 0
    for name, size in names:
        given[name] = bytes(data[at : at + size])
        at += size
        path = root + "/" + name
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        _write_file(path, given[name])
    return given


def _release(setup: Setup, job: Mapping[str, Any], pipes: Pipes) -> None:
    """Let the code's process become the program."""
    environment = {**setup["env"], **job["environment"], **({"BAILIWICK_TOOLS": "3"} if job["tools"] else {})}
    program = plain.dumps({**{name: job[name] for name in ("command", "tools", "cwd")}, "environment": environment})
    _write_all(pipes.go, program)
    os.close(pipes.go)


def _wait_for_job(setup: Setup, frames: relay.Frames, code: int, facts: Any) -> bytes:
    """Attest, and attest anew as often as the gateway asks before it hands the job over."""
    kind, payload = b"P", b""
    while kind == b"P":
        if os.waitpid(code, os.WNOHANG)[0]:
            raise RuntimeError("the code's process has gone")
        frames.send(b"A", plain.dumps({"warden": confine.attest(setup, os.getppid()), "code": facts}))
        kind, payload = frames.receive(b"JP")
    return payload


def _carry_out(setup: Setup, frames: relay.Frames, pipes: Pipes, code: int, order: bytes, *, at_once: bool) -> None:
    """Run the job, pass on what it says, and tell how it ended and what it left."""
    payload = memoryview(order)
    length = struct.unpack_from(">I", payload)[0]
    job, data = plain.loads(bytes(payload[4 : 4 + length])), payload[4 + length :]
    files = sum(size for _, size in job["files"])
    given = _lay_out(setup["scratch"], job["files"], data[:files])
    goes_on = job["stdin"] is None
    for fd in (pipes.out, pipes.err, pipes.stdin, pipes.tools, relay.FRAMES):
        os.set_blocking(fd, False)
    if not job["tools"]:
        os.close(pipes.tools)
    ends = pipes.out, pipes.err, pipes.stdin, pipes.tools if job["tools"] else None
    streams = relay.Relay(frames, pipes.wake, ends, None if goes_on else setup["limits"]["output_bytes"])
    run = watch.Watch(setup, code, streams, job["wall"], job["idle"], at_once=at_once)
    _release(setup, job, pipes)
    if not goes_on:
        streams.give(b"I", bytes(data[files:]))
        streams.give(b"I", b"")
    left = run.run(pipes.wake)
    failure = os.read(pipes.report, 4096)  # nothing: a successful exec closed it
    if failure:
        raise RuntimeError("the program did not start: " + failure.decode())
    taken = gather.Gather(given, setup["limits"]["artifacts"], setup["limits"]["artifact_bytes"])
    gone = []
    if not goes_on and setup["limits"]["artifacts"]:
        taken.folder(setup["scratch"])
        gone = taken.gone()
    for name, content in taken.files:
        raw = name.encode()
        frames.send(b"F", struct.pack(">H", len(raw)) + raw + content)
    frames.send(b"R", plain.dumps({**run.result(left), "skipped": taken.skipped, "gone": gone}))
    if goes_on or job["tools"]:
        frames.drain()


def _be_kept() -> None:
    """Go on in a child, and stay as its keeper: should the warden be killed, what it watched comes to the keeper, and ends.

    For a cage whose processes nobody outside could tell from the gateway's own: without a uid or a namespace of its own.
    """
    confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
    keeper, warden = os.getpid(), os.fork()
    if not warden:
        confine.prctl(confine.PR_SET_PDEATHSIG, int(_signal.SIGKILL))
        if os.getppid() != keeper:
            os._exit(70)
        return
    os.closerange(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0])  # the frames among them: their end is the warden's alone
    while os.wait()[0] != warden:
        continue
    watch.kill_below(at_once=False, wake=os.pipe2(os.O_NONBLOCK)[0])
    os._exit(0)


def main() -> None:
    """Cage, attest, receive the job, run it, tell how it ended."""
    frames = relay.Frames()
    setup: Setup = plain.loads(frames.receive(b"S")[1])
    if not setup["own_uid"] and os.getppid():
        _be_kept()
    os.umask(0o077)
    at_once = _close_cage(setup)
    pipes, warden = Pipes(), os.getpid()
    code = os.fork()
    if not code:
        _become_code(setup, warden, pipes.of_code, pipes.report_end, pipes.go_end)
    try:
        pipes.close_ends()
        attested = os.read(pipes.report, 65536)
        if not attested.startswith(b"{"):
            raise RuntimeError("the code's process did not come up: " + attested.decode())
        order = _wait_for_job(setup, frames, code, plain.loads(attested))
        _carry_out(setup, frames, pipes, code, order, at_once=at_once)
    finally:
        watch.kill_below(at_once=at_once, wake=pipes.wake)
