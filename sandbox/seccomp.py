"""The system-call filter: what escapes are made of is refused, whatever else holds.  Assembled here, installed by the warden.

A pure function of the architecture and of what the kernel's Landlock can do; the program's digest names it in records.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from hashlib import sha256

from sandbox.syscalls import HIGHEST, NUMBERS

# struct seccomp_data (linux/seccomp.h): nr, arch, instruction_pointer, args[6]; both architectures are little-endian.
_NR, _ARCH, _ARGS = 0, 4, 16
_LOAD, _JEQ, _JGT, _JGE, _AND, _RET = 0x20, 0x15, 0x25, 0x35, 0x54, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
_X32_OLD = 512  # 512-547 reached x32 entry points from 64-bit code on old kernels

# ruff: noqa: SIM905  names in columns are read and compared more easily than a list of strings
_REFUSED = """
    ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_open pidfd_getfd pidfd_send_signal
    perf_event_open bpf userfaultfd keyctl add_key request_key
    mount umount2 fsopen fsconfig fsmount fspick open_tree open_tree_attr move_mount mount_setattr pivot_root chroot statmount
    listmount setns unshare name_to_handle_at open_by_handle_at
    kexec_load kexec_file_load init_module finit_module delete_module create_module query_module get_kernel_syms reboot swapon
    swapoff acct quotactl quotactl_fd settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname iopl ioperm
    syslog fanotify_init fanotify_mark inotify_init inotify_init1 inotify_add_watch modify_ldt vhangup uselib _sysctl nfsservctl
    lookup_dcookie ustat sysfs
    mbind set_mempolicy set_mempolicy_home_node migrate_pages move_pages memfd_secret memfd_create mknod mknodat vmsplice
    lsm_set_self_attr ioprio_set rt_sigqueueinfo rt_tgsigqueueinfo
    chown fchown lchown fchownat
    socket connect bind listen accept accept4
""".split()  # fmt: skip
_UNKNOWN = """
    clone3 io_uring_setup io_uring_enter io_uring_register
    shmget shmat shmctl shmdt semget semop semtimedop semctl msgget msgsnd msgrcv msgctl
    mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
""".split()  # callers fall back, or do without
_UNSUPPORTED = """
    setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr setxattrat removexattrat file_setattr
""".split()
# Landlock does not mediate these, and outside a namespace of its own the cage's uid may own files that are not its business.
# Programs that copy or unpack files call them in passing, so they succeed and do nothing.
_WITHOUT_EFFECT = "chmod fchmod fchmodat fchmodat2 utime utimes utimensat futimesat sync syncfs".split()
_OF_ITSELF = "prlimit64 sched_setaffinity sched_setscheduler sched_setparam sched_setattr".split()  # pid 0 alone

_NAMESPACES = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_AF_UNIX, _SOCK_STREAM = 1, 1
_AF_INET, _AF_INET6, _IPPROTO_TCP = 2, 10, 6
_FORBIDDEN_IOCTLS = (0x5412, 0x541C, 0x8901, 0x8902)  # TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP
_FORBIDDEN_FCNTLS = (8, 15, 1024, 1026)  # F_SETOWN, F_SETOWN_EX, F_SETLEASE, F_NOTIFY
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_MM, _PR_SET_PTRACER = 1, 4, 22, 35, 0x59616D61


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of classic BPF (linux/filter.h)."""

    code: int
    k: int
    jt: int = 0
    jf: int = 0


Program = tuple[Instruction, ...]
Block = list[Instruction]


def cage_filter(machine: str, *, truncate_by_landlock: bool = True, network: bool = False) -> Program:
    """The filter that warden and code live under.

    `machine` as platform.machine() says it; KeyError for one that is not known.  Without `truncate_by_landlock` (Landlock
    before ABI 3) truncate(2) is refused too.  With `network` TCP sockets can be made and connected: only for a cage with a
    network namespace of its own, in which nothing but the gateway's proxy listens.
    """
    denied = [*_REFUSED, "truncate"] if not truncate_by_landlock else _REFUSED
    body = _prologue(machine)
    if network:
        denied = [name for name in denied if name not in ("socket", "connect")]
        body += _call(machine, "socket", _TCP_ALONE)
    for names, error in ((denied, errno.EPERM), (_UNKNOWN, errno.ENOSYS), (_UNSUPPORTED, errno.ENOTSUP), (_WITHOUT_EFFECT, 0)):
        for name in names:
            body += _call(machine, name, [_give(error)])
    for name, block in _by_argument().items():
        body += _call(machine, name, block)
    return (*body, Instruction(_RET, _ALLOW))


def code_filter(machine: str, *, signals_by_landlock: bool = True) -> Program:
    """What the code loses on top of `cage_filter`, once the warden has finished with it.

    It keeps its parent-death signal and cannot stack filters or domains.  Without `signals_by_landlock` (before ABI 6) it
    may signal nothing but its own process group, which the warden made a session of its own.
    """
    body = _prologue(machine)
    for name in ("seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"):
        body += _call(machine, name, [_give(errno.EPERM)])
    body += _call(machine, "prctl", _unless_in(0, (_PR_SET_PDEATHSIG, _PR_SET_SECCOMP)))
    if not signals_by_landlock:
        body += _call(machine, "kill", _only(0, 0))
        body += [*_call(machine, "tkill", [_give(errno.EPERM)]), *_call(machine, "tgkill", [_give(errno.EPERM)])]
    return (*body, Instruction(_RET, _ALLOW))


def assemble(program: Program) -> bytes:
    """The program as an array of struct sock_filter."""
    return b"".join(struct.pack("<HBBI", i.code, i.jt, i.jf, i.k) for i in program)


def digest(*programs: Program) -> str:
    """SHA-256 (hex) over the assembled programs."""
    return sha256(b"".join(map(assemble, programs))).hexdigest()


def _prologue(machine: str) -> Block:
    block = [
        Instruction(_LOAD, _ARCH),
        Instruction(_JEQ, _ARCHES[machine], 1, 0),
        Instruction(_RET, _KILL),  # a 32-bit entry point: other numbers, other rules
        Instruction(_LOAD, _NR),
    ]
    if machine == "x86_64":
        block += [
            Instruction(_JGE, _X32, 2, 0),
            Instruction(_JGE, _X32_OLD, 0, 2),
            Instruction(_JGT, _X32_OLD + 35, 1, 0),
            Instruction(_RET, _KILL),
        ]
    return [*block, Instruction(_JGT, HIGHEST, 0, 1), _give(errno.ENOSYS)]


def _call(machine: str, name: str, block: Block) -> Block:
    """Run `block` for the call and nothing else; `block` ends in a return on every path."""
    number = NUMBERS[name][list(_ARCHES).index(machine)]
    return [] if number is None else [Instruction(_JEQ, number, 0, len(block)), *block]


def _give(error: int) -> Instruction:
    return Instruction(_RET, _ERRNO | error)


def _load(argument: int) -> Instruction:
    return Instruction(_LOAD, _ARGS + 8 * argument)  # the low half: the kernel takes these arguments as 32-bit integers


def _only(argument: int, *values: int) -> Block:
    """Allow the call for these values of the argument."""
    checks = [Instruction(_JEQ, value, len(values) - at, 0) for at, value in enumerate(values)]
    return [_load(argument), *checks, _give(errno.EPERM), Instruction(_RET, _ALLOW)]


def _unless_in(argument: int, values: tuple[int, ...]) -> Block:
    """Allow the call but for these values of the argument."""
    checks = [Instruction(_JEQ, value, len(values) - at, 0) for at, value in enumerate(values)]
    return [_load(argument), *checks, Instruction(_RET, _ALLOW), _give(errno.EPERM)]


# IPv4 or IPv6, stream, and its usual protocol: SCTP and MPTCP call themselves streams too.
_TCP_ALONE = [
    _load(0), Instruction(_JEQ, _AF_INET, 1, 0), Instruction(_JEQ, _AF_INET6, 0, 6),
    _load(1), Instruction(_AND, 0xF), Instruction(_JEQ, _SOCK_STREAM, 0, 3),
    _load(2), Instruction(_JEQ, 0, 2, 0), Instruction(_JEQ, _IPPROTO_TCP, 1, 0),
    _give(errno.EPERM), Instruction(_RET, _ALLOW),
]  # fmt: skip


def _by_argument() -> dict[str, Block]:
    deny, allow = _give(errno.EPERM), Instruction(_RET, _ALLOW)
    blocks = {name: _only(0, 0) for name in _OF_ITSELF}
    blocks["setpriority"] = [_load(0), Instruction(_JEQ, 0, 0, 2), _load(1), Instruction(_JEQ, 0, 1, 0), deny, allow]
    blocks["clone"] = [_load(0), Instruction(_AND, _NAMESPACES), Instruction(_JEQ, 0, 1, 0), deny, allow]
    # Only connected pairs: a datagram end could be sent to any socket that has a name.
    blocks["socketpair"] = [
        _load(0), Instruction(_JEQ, _AF_UNIX, 0, 3),
        _load(1), Instruction(_AND, 0xF), Instruction(_JEQ, _SOCK_STREAM, 1, 0), deny, allow,
    ]  # fmt: skip
    blocks["ioctl"] = _unless_in(1, _FORBIDDEN_IOCTLS)
    blocks["fcntl"] = _unless_in(1, _FORBIDDEN_FCNTLS)
    blocks["personality"] = _only(0, 0, 0xFFFFFFFF)
    # A process that is not dumpable hides its open files from the watchdog.
    blocks["prctl"] = [
        _load(0), Instruction(_JEQ, _PR_SET_MM, 4, 0), Instruction(_JEQ, _PR_SET_PTRACER, 3, 0),
        Instruction(_JEQ, _PR_SET_DUMPABLE, 0, 3), _load(1), Instruction(_JEQ, 1, 1, 0), deny, allow,
    ]  # fmt: skip
    return blocks
