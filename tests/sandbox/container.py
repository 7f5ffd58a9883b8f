"""A container as Docker makes it by default, without Docker: run as `container.py UID COMMAND …`, by root or by a plain user.

Docker's capabilities (none for a plain user), its refused system calls, no new privileges; started by root also namespaces of its
own for mounts and processes, a /proc with masked places and a read-only /sys.  Nothing in it can make a namespace or a mount.
`UID+PROFILE` in place of UID: the list of a profile's file instead of Docker's, and a /proc without masks (Kubernetes' Unmasked).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import platform
import signal
import struct
import sys
from pathlib import Path

from sandbox import seccomp
from sandbox.seccomp import Instruction

# What moby's profiles/seccomp/default.json does not allow without further capabilities, as far as the house has the numbers.
REFUSED = """
    acct add_key bpf clock_settime create_module delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick
    get_kernel_syms init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl
    lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages nfsservctl open_by_handle_at open_tree
    open_tree_attr perf_event_open pidfd_getfd pivot_root query_module quotactl quotactl_fd reboot request_key set_mempolicy
    set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon syslog sysfs _sysctl umount2 unshare
    uselib userfaultfd ustat vhangup
""".split()  # noqa: SIM905
# CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP
CAPABILITIES = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31})
MASKED = ("kcore", "keys", "timer_list", "interrupts", "latency_stats", "sched_debug")
READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
_NEWNS, _NEWIPC, _NEWPID = 0x00020000, 0x08000000, 0x20000000
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_VSOCK, _ALG = 40, 38

_libc = ctypes.CDLL(None, use_errno=True)


def program(machine: str) -> tuple[Instruction, ...]:
    """Docker's list as far as it refuses something."""
    eperm = seccomp._give(1)
    body = [*seccomp._prologue(machine)[:4]]  # the architecture, and the number in the accumulator
    for name in REFUSED:
        body += seccomp._call(machine, name, [eperm])
    body += seccomp._call(machine, "clone3", [seccomp._give(38)])
    body += seccomp._call(machine, "clone", seccomp._by_argument()["clone"])
    body += seccomp._call(machine, "socket", seccomp._unless_in(0, (_VSOCK, _ALG)))
    return (*body, Instruction(seccomp._RET, seccomp._ALLOW))


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    _check(_libc.mount(source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), None), f"mount {target}")


class _Compare(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def load_profile(path: str) -> None:
    """Put this process under a runtime's profile, by libseccomp, as a runtime does."""
    lib = ctypes.CDLL(ctypes.util.find_library("seccomp") or "libseccomp.so.2")
    lib.seccomp_init.restype = ctypes.c_void_p
    profile = json.loads(Path(path).read_text(encoding="utf-8"))
    context = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(0x00050000 | profile["defaultErrnoRet"])))
    operators = {"SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_EQ": 4, "SCMP_CMP_GT": 6}
    for rule in profile["syscalls"]:
        action = 0x7FFF0000 if rule["action"] == "SCMP_ACT_ALLOW" else 0x00050000 | rule["errnoRet"]
        compared = [_Compare(each["index"], operators[each["op"]], each["value"], 0) for each in rule.get("args", ())]
        array = (_Compare * max(1, len(compared)))(*compared)
        for name in rule["names"]:
            number = lib.seccomp_syscall_resolve_name(name.encode())
            if number >= 0:  # as a runtime does: what this machine does not know is passed over
                _check(lib.seccomp_rule_add_array(context, ctypes.c_uint32(action), number, len(compared), array), name)
    _check(lib.seccomp_load(context), "seccomp_load")


def _own_namespaces(*, masked: bool) -> None:
    """As a container's runtime does: mounts, processes and System V objects of its own, /proc masked, /sys read-only."""
    _check(_libc.unshare(_NEWNS | _NEWPID | _NEWIPC), "unshare")
    inside = os.fork()
    if inside:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os.kill(inside, signal.SIGKILL))
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inside, 0)[1]) & 0xFF)
    _check(_libc.prctl(1, signal.SIGKILL, 0, 0, 0), "pdeathsig")
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("proc", "/proc", "proc", 0)
    for name in MASKED if masked else ():
        if Path("/proc", name).exists():
            _mount("/dev/null", f"/proc/{name}", None, _BIND)
    proc = [f"/proc/{name}" for name in READ_ONLY if masked and Path("/proc", name).exists()]
    for path in [*proc, "/sys", "/sys/fs/cgroup"]:
        _mount(path, path, None, _BIND | _REC)
        _mount(path, path, None, _BIND | _REMOUNT | _RDONLY)


def _confine(uid: int, profile: str) -> None:
    for capability in range(64):
        if capability not in CAPABILITIES and _libc.prctl(24, capability, 0, 0, 0) < 0:
            break
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if uid == 0:
        wanted = sum(1 << number for number in CAPABILITIES)
        low, high = wanted & 0xFFFFFFFF, wanted >> 32
        header = struct.pack("<Ii", 0x20080522, 0)
        number = {"x86_64": 126, "aarch64": 91}[platform.machine()]
        _check(_libc.syscall(number, header, struct.pack("<6I", low, low, 0, high, high, 0)), "capset")
    _check(_libc.prctl(38, 1, 0, 0, 0), "no_new_privs")
    if profile:
        load_profile(profile)
        return
    raw = seccomp.assemble(program(platform.machine()))
    held = ctypes.create_string_buffer(raw, len(raw))
    _check(_libc.prctl(22, 2, struct.pack("<HxxxxxxQ", len(raw) // 8, ctypes.addressof(held)), 0, 0), "seccomp")


def main() -> None:
    """Become the container's first program."""
    (uid, _, profile), command = sys.argv[1].partition("+"), sys.argv[2:]
    if os.geteuid() == 0:
        _own_namespaces(masked=not profile)
    _confine(int(uid), profile)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
