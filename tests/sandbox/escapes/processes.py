"""Other processes: a bystander of the gateway's user, the warden, other runs; signals, memory, limits, descriptors."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct

from tests.sandbox.escapes.kit import (
    BARE,
    ROOT_ALONE,
    ROOTS,
    P,
    at,
    attempt,
    check,
    in_child,
    libc,
    needs,
    opens,
    raw,
    reached,
    told,
)

_PIDFD_OPEN, _PIDFD_SIGNAL, _PIDFD_GETFD = (434, 434), (424, 424), (438, 438)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)  # a real signal, and one that harms nobody where it arrives


@attempt()
def signal_a_bystander() -> None:
    """kill of another process of the gateway's user."""
    _kill(P["bystander"])


@attempt()
def stop_a_bystander() -> None:
    """SIGSTOP, and SIGCONT at once."""
    os.kill(P["bystander"], signal.SIGSTOP)
    _kill(P["bystander"])


@attempt()
def signal_the_gateway() -> None:
    """kill of the gateway."""
    _kill(P["gateway"])


@attempt()
def signal_the_warden() -> None:
    """kill of whoever started the code."""
    _kill(P["warden"])


@attempt()
def signal_another_run() -> None:
    """kill of the processes of a run that goes on at the same time."""
    for pid in P["neighbours"]:
        try:
            return _kill(pid)
        except OSError:
            continue
    raise OSError(1, "none")


@attempt(ROOTS)
def signal_the_first_process() -> None:
    """kill of the first process, should it be the machine's."""
    os.kill(1, 0)
    if os.path.exists(f"/proc/{P['gateway']}") or P["environment"].startswith("root"):
        return
    raise OSError(3, "another first process")


@attempt()
def signal_a_group() -> None:
    """killpg of a bystander's process group."""
    os.killpg(P["bystander"], signal.SIGCONT)


@attempt()
def signal_a_thread() -> None:
    """tgkill of a bystander's first thread."""
    raw(234, 131, P["bystander"], P["bystander"], int(signal.SIGCONT))


@attempt()
def signal_a_thread_by_the_older_call() -> None:
    """tkill."""
    raw(200, 130, P["bystander"], int(signal.SIGCONT))


@attempt()
def queue_a_signal() -> None:
    """rt_sigqueueinfo, with a value."""
    info = ctypes.create_string_buffer(struct.pack("<iii", signal.SIGCONT, 0, -1) + bytes(116))
    raw(129, 138, P["bystander"], int(signal.SIGCONT), info)


@attempt()
def hold_a_process() -> None:
    """pidfd_open, from which the other calls follow."""
    os.close(raw(*_PIDFD_OPEN, P["bystander"], 0))


@attempt()
def signal_by_descriptor() -> None:
    """pidfd_send_signal."""
    raw(*_PIDFD_SIGNAL, raw(*_PIDFD_OPEN, P["bystander"], 0), int(signal.SIGCONT), None, 0)


@attempt(machine=True)
def signal_the_peer_of_a_socket() -> None:
    """SO_PEERPIDFD: a descriptor of whoever made the other end, of the way back where there is one, without pidfd_open."""
    if P["caged"]:
        ours, theirs = socket.socketpair() if 3 not in P["descriptors"] else (socket.socket(fileno=3), None)
    else:
        ours, theirs = socket.socket(socket.AF_UNIX), None
        ours.connect(at("stream"))
    fd = struct.unpack("i", ours.getsockopt(socket.SOL_SOCKET, 77, 4))[0]
    ours.detach()
    raw(*_PIDFD_SIGNAL, fd, int(signal.SIGCONT), None, 0)
    _ = theirs


@attempt()
def signal_by_proc_descriptor() -> None:
    """pidfd_send_signal through a descriptor of /proc/<pid>."""
    raw(*_PIDFD_SIGNAL, os.open(f"/proc/{P['bystander']}", os.O_RDONLY), int(signal.SIGCONT), None, 0)


@attempt(BARE)
def steal_a_descriptor() -> None:
    """pidfd_getfd of a file that a bystander has open."""
    fd = raw(*_PIDFD_GETFD, raw(*_PIDFD_OPEN, P["bystander"], 0), P["bystander_fd"], 0)
    told(os.pread(fd, 4096, 0))


@attempt(BARE)
def steal_the_wardens_descriptor() -> None:
    """pidfd_getfd of the warden's socket to the gateway."""
    os.close(raw(*_PIDFD_GETFD, raw(*_PIDFD_OPEN, P["warden"], 0), 0, 0))


def _traced(request: int, pid: int) -> None:
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    in_child(lambda: check(libc.ptrace(request, pid, None, None)))


@attempt()
def seize_a_bystander() -> None:
    """PTRACE_SEIZE of another process, let go by ending."""
    _traced(0x4206, P["bystander"])


@attempt()
def seize_the_warden() -> None:
    """PTRACE_SEIZE of whoever started the code."""
    _traced(0x4206, P["warden"])


@attempt()
def be_traced() -> None:
    """PTRACE_TRACEME: the filter must know no exception."""
    _traced(0, 0)


def _vector(call: int, arm: int, pid: int) -> None:
    buffer = ctypes.create_string_buffer(8)
    local = ctypes.create_string_buffer(struct.pack("<QQ", ctypes.addressof(buffer), 8))
    remote = ctypes.create_string_buffer(struct.pack("<QQ", P["bystander_address"], 8))
    raw(call, arm, pid, local, 1, remote, 1, 0)


@attempt()
def read_a_bystanders_memory() -> None:
    """process_vm_readv."""
    _vector(310, 270, P["bystander"])


@attempt()
def write_a_bystanders_memory() -> None:
    """process_vm_writev."""
    _vector(311, 271, P["bystander"])


@attempt()
def open_a_bystanders_memory() -> None:
    """/proc/<pid>/mem, for writing."""
    opens(f"/proc/{P['bystander']}/mem", os.O_RDWR)


@attempt()
def open_the_wardens_memory() -> None:
    """/proc/<pid>/mem of whoever started the code, for writing."""
    opens(f"/proc/{P['warden']}/mem", os.O_RDWR)


@attempt()
def open_the_wardens_socket() -> None:
    """/proc/<pid>/fd of whoever started the code: what it is connected with."""
    os.listdir(f"/proc/{P['warden']}/fd")


@attempt(ROOT_ALONE)
def advise_a_bystanders_memory() -> None:
    """process_madvise: page another process's memory out."""
    vector = ctypes.create_string_buffer(struct.pack("<QQ", P["bystander_address"] & ~4095, 4096))
    raw(440, 440, raw(*_PIDFD_OPEN, P["bystander"], 0), vector, 1, 20, 0)


@attempt(BARE, machine=True)
def compare_with_a_bystander() -> None:
    """kcmp: what two processes share, an oracle for kernel addresses."""
    raw(312, 272, os.getpid(), P["bystander"], 0, 0, 0)


@attempt()
def find_a_bystanders_locks() -> None:
    """get_robust_list of another process: an address in its memory."""
    head, size = ctypes.c_void_p(), ctypes.c_size_t()
    raw(274, 100, P["bystander"], ctypes.byref(head), ctypes.byref(size))


@attempt()
def limit_a_bystander() -> None:
    """prlimit: set another process's limit to what it is."""
    limits = resource.prlimit(P["bystander"], resource.RLIMIT_NOFILE)
    resource.prlimit(P["bystander"], resource.RLIMIT_NOFILE, limits)


@attempt()
def limit_the_gateway() -> None:
    """prlimit of the gateway, to what it is."""
    limits = resource.prlimit(P["gateway"], resource.RLIMIT_NOFILE)
    resource.prlimit(P["gateway"], resource.RLIMIT_NOFILE, limits)


@attempt()
def limit_the_warden() -> None:
    """prlimit of whoever started the code, to what it is."""
    limits = resource.prlimit(P["warden"], resource.RLIMIT_CPU)
    resource.prlimit(P["warden"], resource.RLIMIT_CPU, limits)


@attempt(ROOT_ALONE, machine=True)
def lift_ones_own_limits() -> None:
    """setrlimit beyond the hard limit."""
    needs(24)
    try:
        most = resource.getrlimit(resource.RLIMIT_STACK)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (100, 1 << 40))
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, -1 if most == -1 else most + 4096))
    except ValueError as error:
        raise OSError(1, "not raised") from error


@attempt()
def renice_a_bystander() -> None:
    """setpriority of another process, one step down."""
    os.setpriority(os.PRIO_PROCESS, P["bystander"], os.getpriority(os.PRIO_PROCESS, P["bystander"]) + 1)


@attempt()
def renice_a_user() -> None:
    """setpriority of all processes of a user, one that has none."""
    reached(lambda: os.setpriority(os.PRIO_USER, 4_242_424, 0))


@attempt(ROOT_ALONE)
def be_favoured() -> None:
    """A negative nice value for oneself."""
    in_child(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))


@attempt(ROOT_ALONE)
def run_in_real_time() -> None:
    """SCHED_FIFO: before everybody else."""
    in_child(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))


@attempt()
def pin_a_bystander() -> None:
    """sched_setaffinity of another process, to what it is."""
    os.sched_setaffinity(P["bystander"], os.sched_getaffinity(P["bystander"]))


@attempt()
def demote_a_bystander() -> None:
    """sched_setscheduler of another process, to what it is."""
    os.sched_setscheduler(P["bystander"], os.SCHED_OTHER, os.sched_param(0))


@attempt()
def demote_a_bystander_by_the_newer_call() -> None:
    """sched_setattr of another process."""
    nice = os.getpriority(os.PRIO_PROCESS, P["bystander"])
    attributes = ctypes.create_string_buffer(struct.pack("<IIQiIQQQ", 48, 0, 0, nice, 0, 0, 0, 0))
    raw(314, 274, P["bystander"], attributes, 0)


@attempt()
def queue_a_bystander_last_at_the_disk() -> None:
    """ioprio_set of another process."""
    raw(251, 30, 1, P["bystander"], 2 << 13 | 7)


@attempt(BARE)
def move_a_bystanders_pages() -> None:
    """move_pages of another process, asking where they are."""
    raw(279, 239, P["bystander"], 0, None, None, None, 0)


@attempt(BARE)
def migrate_a_bystander() -> None:
    """migrate_pages of another process, from nowhere to nowhere."""
    mask = ctypes.create_string_buffer(struct.pack("<Q", 1))
    raw(256, 238, P["bystander"], 2, mask, mask)


@attempt()
def send_a_files_signals_to_a_bystander() -> None:
    """F_SETOWN: SIGIO of one's own pipe to another process."""
    fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, P["bystander"])


@attempt()
def send_a_files_signals_by_the_newer_call() -> None:
    """F_SETOWN_EX."""
    fcntl.fcntl(os.pipe()[0], 15, struct.pack("<ii", 1, P["bystander"]))


@attempt()
def send_a_pipes_signals_by_ioctl() -> None:
    """FIOSETOWN on a socket."""
    left, _ = socket.socketpair()
    fcntl.ioctl(left.fileno(), 0x8901, struct.pack("<i", P["bystander"]))


@attempt()
def set_a_bystanders_coredump_filter() -> None:
    """/proc/<pid>/coredump_filter: what a dump of it holds."""
    opens(f"/proc/{P['bystander']}/coredump_filter", os.O_WRONLY)


@attempt()
def read_a_bystanders_stack() -> None:
    """/proc/<pid>/syscall or stack: where it is in the kernel."""
    opens(f"/proc/{P['bystander']}/auxv")


@attempt()
def enter_a_bystanders_namespace_file() -> None:
    """/proc/<pid>/ns/net, opened, as setns wants it."""
    opens(f"/proc/{P['bystander']}/ns/net")


@attempt(ROOT_ALONE)
def enter_the_gateways_namespace() -> None:
    """setns with the gateway's mount namespace."""
    fd = os.open(f"/proc/{P['gateway']}/ns/uts", os.O_RDONLY)
    in_child(lambda: check(libc.setns(fd, 0)))


@attempt()
def see_a_bystander() -> None:
    """/proc/<pid>/status of a process outside."""
    opens(f"/proc/{P['bystander']}/status")


@attempt()
def see_who_is_there() -> None:
    """A list of the machine's processes."""
    if str(P["bystander"]) not in os.listdir("/proc"):
        raise OSError(2, "another list")


@attempt(BARE, machine=True)
def count_a_bystanders_events() -> None:
    """perf_event_open on another process: software clock, user space only."""
    attributes = ctypes.create_string_buffer(struct.pack("<IIQQQQQ", 1, 112, 0, 0, 0, 0, 1 | 32 | 64) + bytes(64))
    raw(298, 241, attributes, P["bystander"], -1, -1, 0)
