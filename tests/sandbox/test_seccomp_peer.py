"""The filter against libseccomp's: the same rules given to both, the same verdict for every number, on both architectures."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import itertools
import os
import platform
import struct
from collections.abc import Iterator, Sequence

import pytest

from sandbox import seccomp
from sandbox.seccomp import Instruction, Program, cage_filter, code_filter
from sandbox.syscalls import HIGHEST, NUMBERS
from tests.sandbox.test_seccomp_filter import ALLOW, ARCHES, KILL, verdict

EPERM, ENOSYS, ENOTSUP = (0x00050000 | number for number in (errno.EPERM, errno.ENOSYS, errno.ENOTSUP))
NE, EQ, MASKED = 1, 4, 7
LOW = 0xFFFFFFFF
Condition = tuple[int, int, int, int]
"""Argument, comparison, and its two numbers."""


class _Compare(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def low(argument: int, value: int) -> Condition:
    """The argument's low half is this."""
    return (argument, MASKED, LOW, value & LOW)


class Peer:
    """A filter that libseccomp makes for one architecture."""

    def __init__(self, machine: str, default: int) -> None:
        path = ctypes.util.find_library("seccomp")
        if path is None:
            pytest.skip("libseccomp is not here")
        self._lib = ctypes.CDLL(path, use_errno=True)
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._lib.seccomp_init(ctypes.c_uint32(default)))
        self.machine = machine
        if machine != platform.machine():
            assert self._lib.seccomp_arch_add(self._context, ctypes.c_uint32(ARCHES[machine])) == 0
            assert self._lib.seccomp_arch_remove(self._context, ctypes.c_uint32(0)) == 0

    def rule(self, action: int, name: str, *conditions: Condition) -> bool:
        """Whether libseccomp knows the call there."""
        native = self._lib.seccomp_syscall_resolve_name(name.encode())
        if native == -1:  # newer than the library
            return False
        compared = (_Compare * max(1, len(conditions)))(*(_Compare(*each) for each in conditions))
        done = self._lib.seccomp_rule_add_array(self._context, ctypes.c_uint32(action), native, len(conditions), compared)
        assert done in (0, -errno.EDOM), (name, done)
        return True

    def program(self) -> Program:
        end = os.memfd_create("filter")
        try:
            assert self._lib.seccomp_export_bpf(self._context, end) == 0
            raw = os.pread(end, 1 << 20, 0)
        finally:
            os.close(end)
            self._lib.seccomp_release(self._context)
        return tuple(Instruction(code, k, jt, jf) for code, jt, jf, k in struct.iter_unpack("<HBBI", raw))


def number(machine: str, name: str) -> int | None:
    return NUMBERS[name][list(ARCHES).index(machine)]


def grid() -> Iterator[Sequence[int]]:
    firsts = (0, 1, 2, 4, 5, 8, 15, 22, 35, 0x11, 0x541C, 0x8901, 0x40000, 0x02000011, 0x10000011, 0x3D0F00, 0x59616D61, LOW)
    seconds = (0, 1, 2, 4, 8, 15, 5, 0x80801, 1024, 1026, 0x5401, 0x5412, 0x541C, 0x8901, 0x8902)
    return itertools.product(firsts, seconds)


@pytest.mark.parametrize("machine", ARCHES)
def test_every_call_has_the_verdict_that_libseccomp_gives_it(machine: str) -> None:
    """Those that are refused whatever their arguments, and those that are refused for some values of one."""
    peer, unknown = Peer(machine, ALLOW), set()
    for names, action in (
        (seccomp._REFUSED, EPERM),
        (seccomp._UNKNOWN, ENOSYS),
        (seccomp._UNSUPPORTED, ENOTSUP),
        (seccomp._WITHOUT_EFFECT, 0x50000),
    ):
        unknown |= {name for name in names if not peer.rule(action, name)}
    for name, argument, values in (
        ("ioctl", 1, seccomp._FORBIDDEN_IOCTLS),
        ("fcntl", 1, seccomp._FORBIDDEN_FCNTLS),
        ("prctl", 0, (35, 0x59616D61)),
    ):
        for value in values:
            peer.rule(EPERM, name, low(argument, value))
    peer.rule(EPERM, "prctl", low(0, 4), (1, NE, 1, 0))
    by_value = {number(machine, name) for name in ("clone", "socketpair", "personality", "setpriority", *seccomp._OF_ITSELF)}
    by_value |= {number(machine, name) for name in unknown}
    ours, theirs = cage_filter(machine), peer.program()
    for n in set(range(HIGHEST + 1)) - by_value:
        for arguments in grid() if n in {number(machine, each) for each in ("ioctl", "fcntl", "prctl")} else [(0, 0)]:
            assert verdict(ours, ARCHES[machine], n, arguments) == verdict(theirs, ARCHES[machine], n, arguments), (n, arguments)
    for arch in {*ARCHES.values(), 0x40000003} - {ARCHES[machine]}:
        assert verdict(ours, arch, 1) == KILL
        assert verdict(theirs, arch, 1) in (KILL, 0)  # kill the process, or the thread


@pytest.mark.parametrize("machine", ARCHES)
def test_the_calls_that_are_allowed_for_some_values_alone_are_those_that_libseccomp_allows(machine: str) -> None:
    peer = Peer(machine, EPERM)
    for name in seccomp._OF_ITSELF:
        peer.rule(ALLOW, name, low(0, 0))
    peer.rule(ALLOW, "setpriority", low(0, 0), low(1, 0))
    peer.rule(ALLOW, "clone", (0, MASKED, seccomp._NAMESPACES, 0))
    peer.rule(ALLOW, "socketpair", low(0, 1), (1, MASKED, 0xF, 1))
    for value in (0, LOW):
        peer.rule(ALLOW, "personality", low(0, value))
    ours, theirs = cage_filter(machine), peer.program()
    for name in ("clone", "socketpair", "personality", "setpriority", *seccomp._OF_ITSELF):
        n = number(machine, name)
        assert n is not None
        for arguments in grid():
            assert verdict(ours, ARCHES[machine], n, arguments) == verdict(theirs, ARCHES[machine], n, arguments), (
                name,
                arguments,
            )


@pytest.mark.parametrize("machine", ARCHES)
def test_what_the_code_loses_on_top_it_loses_by_libseccomp_too(machine: str) -> None:
    peer = Peer(machine, ALLOW)
    names = ("seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "tkill", "tgkill")
    unknown = {name for name in names if not peer.rule(EPERM, name)}
    for value in (1, 22):
        peer.rule(EPERM, "prctl", low(0, value))
    peer.rule(EPERM, "kill", (0, NE, 0, 0))
    ours, theirs = code_filter(machine, signals_by_landlock=False), peer.program()
    for n in set(range(HIGHEST + 1)) - {number(machine, name) for name in unknown}:
        for arguments in grid() if n in {number(machine, "prctl"), number(machine, "kill")} else [(0, 0)]:
            assert verdict(ours, ARCHES[machine], n, arguments) == verdict(theirs, ARCHES[machine], n, arguments), (n, arguments)
