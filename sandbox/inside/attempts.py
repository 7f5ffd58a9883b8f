"""What must not be possible in a cage, tried.  The same program runs outside first, so that a denial inside means something.

Expects PARAMS; prints one JSON object: guarantee → attempt → "open" or the errno's name.  Standard library only, Python 3.9.
"""

# ruff: noqa: PTH101, PTH102, PTH104, PTH108, PTH116, PTH118, PTH123, PTH208, PTH211  runs in the cage, where every import costs
from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import socket
import time
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

PARAMS: dict[str, Any] = globals().get("PARAMS", {})
"""folder, victim, port, abstract, name, caged: set by `sandbox/layers.py` in front of this text."""

_libc = ctypes.CDLL(None, use_errno=True)
_ARM = os.uname().machine == "aarch64"
_IOPRIO_SET, _KEYCTL, _BPF, _PERF, _UFFD = (30, 219, 280, 241, 282) if _ARM else (251, 250, 321, 298, 323)
_PIDFD_SEND_SIGNAL, _IO_URING_SETUP, _PIDFD_OPEN = 424, 425, 434


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def _raw(number: int, *arguments: Any) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]))


def _reached(number: int, *arguments: Any) -> None:
    """Denied only where the call did not get as far as its arguments."""
    try:
        _raw(number, *arguments)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise


def _path(name: str) -> str:
    return os.path.join(PARAMS["folder"], name)


def _unchanged(before: Any, after: Any) -> None:
    if before == after:
        raise OSError(errno.EPERM, "no effect")


# fs_read


def read_a_file() -> None:
    """A file that the uid may read."""
    with open(_path("secret"), encoding="ascii") as file:
        file.read()


def list_a_folder() -> None:
    """Its folder."""
    os.listdir(PARAMS["folder"])


def read_through_a_link() -> None:
    """The file, by a link in the scratch folder."""
    os.symlink(_path("secret"), "soft-link")
    with open("soft-link", encoding="ascii") as file:
        file.read()


def read_through_a_hard_link() -> None:
    """The file, under a name in the scratch folder."""
    os.link(_path("secret"), "hard-link")
    with open("hard-link", encoding="ascii") as file:
        file.read()


def read_an_environment() -> None:
    """Another process's secrets."""
    with open(f"/proc/{PARAMS['victim']}/environ", "rb") as file:
        file.read()


def read_the_first_environment() -> None:
    """The secrets of whoever started everything."""
    with open("/proc/1/environ", "rb") as file:
        file.read()


# fs_write


def append_to_a_file() -> None:
    """Add to it."""
    with open(_path("secret"), "ab") as file:
        file.write(b"x")


def truncate_a_file() -> None:
    """By path."""
    os.truncate(_path("secret"), 1)


def create_a_file() -> None:
    """Beside it."""
    with open(_path("new"), "wb") as file:
        file.write(b"x")


def make_a_folder() -> None:
    """Beside it."""
    os.mkdir(_path("folder"))


def rename_a_file() -> None:
    """Under another name."""
    os.rename(_path("victim"), _path("renamed"))


def remove_a_file() -> None:
    """For good."""
    os.unlink(_path("removable"))


def change_a_mode() -> None:
    """chmod, and look whether it did anything."""
    before = os.stat(_path("mode")).st_mode
    os.chmod(_path("mode"), 0o604)
    _unchanged(before, os.stat(_path("mode")).st_mode)


def change_times() -> None:
    """utime, and look whether it did anything."""
    os.utime(_path("mode"), (1, 1))
    if os.stat(_path("mode")).st_mtime != 1:
        raise OSError(errno.EPERM, "no effect")


def change_an_owner() -> None:
    """To itself, which an owner may."""
    os.chown(_path("mode"), os.getuid(), -1)


def set_an_attribute() -> None:
    """An extended attribute of the user's own."""
    os.setxattr(_path("mode"), "user.probe", b"x")


def change_where_cores_go() -> None:
    """A kernel setting that a cage of root's could write: the next crash runs a program of its choice, as root."""
    os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))


# net_none


def connect_by_tcp() -> None:
    """To a listener on loopback."""
    socket.create_connection(("127.0.0.1", PARAMS["port"]), timeout=2).close()


def send_by_udp() -> None:
    """To anywhere on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", PARAMS["port"]))


def connect_to_a_named_socket() -> None:
    """By its path."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(_path("stream"))


def connect_to_an_abstract_socket() -> None:
    """By its name."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + PARAMS["abstract"])


def send_from_a_pair() -> None:
    """A datagram end needs no socket() to reach a named socket."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        left.sendto(b"x", _path("datagram"))


def any_family() -> None:
    """Any family, any type: routing, packets, crypto, vsock, Bluetooth …"""
    for family in range(1, 46):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            try:
                socket.socket(family, kind).close()
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EACCES):
                    continue
                if error.errno not in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EINVAL):
                    raise
            return  # made, or refused by the family itself: the call got through
    raise OSError(errno.EPERM, "no family at all")


def talk_to_the_hypervisor() -> None:
    """AF_VSOCK: no network namespace holds it."""
    socket.socket(40, socket.SOCK_STREAM).close()


def use_the_kernels_cryptography() -> None:
    """AF_ALG: where a container has been left."""
    socket.socket(38, socket.SOCK_SEQPACKET).close()


def io_uring() -> None:
    """Sockets without socket()."""
    _reached(_IO_URING_SETUP, 1, None)


# process_isolation


def signal_a_process() -> None:
    """Another process of this uid."""
    os.kill(PARAMS["victim"], 0)


def signal_by_descriptor() -> None:
    """Through a pidfd."""
    fd = _raw(_PIDFD_OPEN, PARAMS["victim"], 0)
    _raw(_PIDFD_SEND_SIGNAL, fd, 0, None, 0)
    os.close(fd)


def trace_a_process() -> None:
    """PTRACE_SEIZE, then let go by ending."""
    child = os.fork()
    if not child:
        os._exit(0 if _libc.ptrace(0x4206, PARAMS["victim"], None, None) == 0 else 1)
    if os.waitpid(child, 0)[1]:
        raise OSError(errno.EPERM, "")


def read_memory() -> None:
    """/proc/<pid>/mem of another process."""
    os.close(os.open(f"/proc/{PARAMS['victim']}/mem", os.O_RDONLY))


def limit_a_process() -> None:
    """Set another process's limit to what it is."""
    limits = resource.prlimit(PARAMS["victim"], resource.RLIMIT_NOFILE)
    resource.prlimit(PARAMS["victim"], resource.RLIMIT_NOFILE, limits)


def renice_a_process() -> None:
    """Another process's priority."""
    os.setpriority(os.PRIO_PROCESS, PARAMS["victim"], 1)


def pin_a_process() -> None:
    """Another process's processors."""
    os.sched_setaffinity(PARAMS["victim"], os.sched_getaffinity(PARAMS["victim"]))


def reschedule_input() -> None:
    """Another process's place in the queue of the disk."""
    _raw(_IOPRIO_SET, 1, PARAMS["victim"], 2 << 13 | 7)


# syscall_surface


def new_namespace() -> None:
    """A user namespace, in a child: it would not come back."""
    child = os.fork()
    if not child:
        os._exit(0 if _libc.unshare(0x10000000) == 0 else 1)
    if os.waitpid(child, 0)[1]:
        raise OSError(errno.EPERM, "")


def memory_file() -> None:
    """memfd_create: memory that no limit of a process counts."""
    os.close(os.memfd_create("probe"))


def shared_memory() -> None:
    """A System V segment: outlives its maker."""
    found = _check(_libc.shmget(0, 4096, 0o1600))
    _libc.shmctl(found, 0, None)


def watch_files() -> None:
    """inotify on outside files."""
    os.close(_check(_libc.inotify_init()))


def keyring() -> None:
    """The kernel's keyrings."""
    _reached(_KEYCTL, 0, -3, 0)


def load_a_program() -> None:
    """bpf."""
    _reached(_BPF, 0, None, 0)


def count_events() -> None:
    """perf_event_open."""
    _reached(_PERF, None, 0, -1, -1, 0)


def fault_handler() -> None:
    """userfaultfd."""
    _reached(_UFFD, -1)


# kill_tree


def _daemon() -> int:
    """A process that does all that a daemon does to be left alone; its pid here.  Its name is PARAMS['name']."""
    near, far = os.pipe()
    maker = os.fork()
    if not maker:
        _detach(far)
    found = int(os.read(near, 20))
    os.waitpid(maker, 0)
    return found


def _detach(far: int) -> NoReturn:
    os.setsid()
    if os.fork():
        os._exit(0)
    _libc.prctl(15, PARAMS["name"].encode(), 0, 0, 0)  # PR_SET_NAME
    os.write(far, str(os.getpid()).encode())
    os.closerange(0, 16)
    time.sleep(3600)
    os._exit(0)


def outlive_its_maker() -> None:
    """A detached daemon goes on; outside a cage it is ended here, and nothing of it is left."""
    _libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: a container's first process may collect nobody
    pid = _daemon()
    os.kill(pid, 9)
    os.waitpid(pid, 0)


_ATTEMPTS: dict[str, tuple[Callable[[], None], ...]] = {
    "fs_read": (
        read_a_file, list_a_folder, read_through_a_link, read_through_a_hard_link, read_an_environment,
        read_the_first_environment,
    ),
    "fs_write": (
        append_to_a_file, truncate_a_file, create_a_file, make_a_folder, rename_a_file, remove_a_file, change_a_mode,
        change_times, change_an_owner, set_an_attribute, change_where_cores_go,
    ),
    "net_none": (
        connect_by_tcp, send_by_udp, connect_to_a_named_socket, connect_to_an_abstract_socket, send_from_a_pair, any_family,
        talk_to_the_hypervisor, use_the_kernels_cryptography, io_uring,
    ),
    "process_isolation": (
        signal_a_process, signal_by_descriptor, trace_a_process, read_memory, limit_a_process, renice_a_process,
        pin_a_process, reschedule_input,
    ),
    "syscall_surface": (
        new_namespace, memory_file, shared_memory, watch_files, keyring, load_a_program, count_events, fault_handler,
    ),
}  # fmt: skip


def _outcome(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    return "open"


def main() -> None:
    """Try everything."""
    found: dict[str, Any] = {name: {a.__name__: _outcome(a) for a in attempts} for name, attempts in _ATTEMPTS.items()}
    if PARAMS["caged"]:
        _daemon()
    else:
        found["kill_tree"] = {outlive_its_maker.__name__: _outcome(outlive_its_maker)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
