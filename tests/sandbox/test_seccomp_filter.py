"""The filter's verdict on every system call, by a small interpreter of BPF and against libseccomp's table of numbers."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import struct
from collections.abc import Sequence

import pytest

from sandbox import seccomp
from sandbox.seccomp import Program, assemble, cage_filter, code_filter
from sandbox.syscalls import HIGHEST, NUMBERS

ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = 0x7FFF0000, 0x80000000


def verdict(program: Program, arch: int, number: int, arguments: Sequence[int] = ()) -> int:
    """What the kernel would answer: the program run on struct seccomp_data."""
    padded = [a & 0xFFFFFFFFFFFFFFFF for a in [*arguments, 0, 0, 0, 0, 0, 0][:6]]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *padded)
    at, accumulator = 0, 0
    while True:
        instruction = program[at]
        at += 1
        match instruction.code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, instruction.k)
            case 0x54:
                accumulator &= instruction.k
            case 0x06:
                return instruction.k
            case 0x05:
                at += instruction.k
            case code:
                taken = {
                    0x15: accumulator == instruction.k,
                    0x25: accumulator > instruction.k,
                    0x35: accumulator >= instruction.k,
                    0x45: bool(accumulator & instruction.k),
                }[code]
                at += instruction.jt if taken else instruction.jf


def error_of(answer: int) -> str:
    if answer == ALLOW:
        return "allow"
    if answer == KILL:
        return "kill"
    return errno.errorcode.get(answer & 0xFFFF, "OK")


def number(machine: str, name: str) -> int:
    found = NUMBERS[name][list(ARCHES).index(machine)]
    assert found is not None
    return found


@pytest.mark.parametrize("machine", ARCHES)
def test_every_number_of_the_table_is_the_one_libseccomp_knows(machine: str) -> None:
    path = ctypes.util.find_library("seccomp")
    if path is None:
        pytest.skip("libseccomp is not here")
    resolve = ctypes.CDLL(path).seccomp_syscall_resolve_name_arch
    resolve.argtypes, resolve.restype = [ctypes.c_uint32, ctypes.c_char_p], ctypes.c_int
    for name, numbers in NUMBERS.items():
        known = resolve(ARCHES[machine], name.encode())
        ours = numbers[list(ARCHES).index(machine)]
        if known >= 0:  # newer calls are unknown to an older library
            assert ours == known, name
        elif known < -1:
            assert ours is None, name


@pytest.mark.parametrize("machine", ARCHES)
def test_every_number_is_allowed_but_for_those_that_are_named(machine: str) -> None:
    program, named = cage_filter(machine), {n[list(ARCHES).index(machine)] for n in NUMBERS.values()}
    for n in range(HIGHEST + 1):
        if n not in named:
            assert verdict(program, ARCHES[machine], n) == ALLOW, n
    for name in (*seccomp._REFUSED, *seccomp._UNKNOWN, *seccomp._UNSUPPORTED):
        n = NUMBERS[name][list(ARCHES).index(machine)]
        if n is not None:
            assert error_of(verdict(program, ARCHES[machine], n)) in {"EPERM", "ENOSYS", "ENOTSUP", "EOPNOTSUPP"}, name


@pytest.mark.parametrize("machine", ARCHES)
def test_a_call_newer_than_the_table_does_not_exist(machine: str) -> None:
    for n in (HIGHEST + 1, 500, 511, 548, 10_000):
        assert error_of(verdict(cage_filter(machine), ARCHES[machine], n)) == "ENOSYS"


@pytest.mark.parametrize("program", [cage_filter("x86_64"), code_filter("x86_64")])
def test_foreign_architectures_and_x32_numbers_kill(program: Program) -> None:
    for arch in (0x40000003, ARCHES["aarch64"], 0):
        assert verdict(program, arch, 0) == KILL
    for n in (0x40000000, 0x40000027, 512, 547, 0xFFFFFFFF):
        assert verdict(program, ARCHES["x86_64"], n) == KILL


ARGUMENTS = [
    ("socketpair", (1, 1), "allow"), ("socketpair", (1, 1 | 0o2004000), "allow"), ("socketpair", (1, 2), "EPERM"),
    ("socketpair", (1, 5), "EPERM"), ("socketpair", (2, 1), "EPERM"), ("socketpair", (1 << 32 | 2, 1), "EPERM"),
    ("clone", (0x01200011,), "allow"), ("clone", (0x003D0F00,), "allow"), ("clone", (0x10000011,), "EPERM"),
    ("clone", (0x02000011,), "EPERM"), ("clone", (0x00020011,), "EPERM"),
    ("prlimit64", (0, 7), "allow"), ("prlimit64", (1, 7), "EPERM"), ("sched_setaffinity", (0,), "allow"),
    ("sched_setaffinity", (5,), "EPERM"), ("setpriority", (0, 0), "allow"), ("setpriority", (0, 4), "EPERM"),
    ("setpriority", (2, 0), "EPERM"), ("ioctl", (1, 0x5401), "allow"), ("ioctl", (1, 0x5412), "EPERM"),
    ("ioctl", (1, 0xDEAD00005412), "EPERM"), ("ioctl", (1, 0x541C), "EPERM"), ("fcntl", (1, 2), "allow"),
    ("fcntl", (1, 8), "EPERM"),
    ("fcntl", (1, 15), "EPERM"), ("personality", (0xFFFFFFFF,), "allow"), ("personality", (0,), "allow"),
    ("personality", (0x40000,), "EPERM"), ("prctl", (15,), "allow"), ("prctl", (4, 1), "allow"), ("prctl", (4, 0), "EPERM"),
    ("prctl", (35, 1), "EPERM"), ("prctl", (0x59616D61, 1), "EPERM"), ("chmod", (), "OK"), ("utimensat", (), "OK"),
    ("kill", (1, 9), "allow"), ("truncate", (), "allow"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "answer"), ARGUMENTS)
def test_some_calls_depend_on_their_arguments(name: str, arguments: tuple[int, ...], answer: str) -> None:
    for machine, arch in ARCHES.items():
        found = NUMBERS[name][list(ARCHES).index(machine)]
        if found is not None:
            assert error_of(verdict(cage_filter(machine), arch, found, arguments)) == answer


TCP = [
    ((2, 1, 0), "allow"), ((10, 1, 6), "allow"), ((2, 1 | 0o2004000, 0), "allow"), ((2, 2, 0), "EPERM"), ((10, 2, 17), "EPERM"),
    ((2, 3, 1), "EPERM"), ((2, 1, 132), "EPERM"), ((2, 1, 262), "EPERM"), ((2, 5, 132), "EPERM"), ((1, 1, 0), "EPERM"),
    ((16, 3, 0), "EPERM"), ((17, 3, 0), "EPERM"), ((38, 5, 0), "EPERM"), ((40, 1, 0), "EPERM"), ((0, 1, 0), "EPERM"),
    ((1 << 32 | 1, 1, 0), "EPERM"),
]  # fmt: skip


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize(("arguments", "answer"), TCP)
def test_with_a_network_tcp_can_be_connected_and_nothing_else(machine: str, arguments: tuple[int, ...], answer: str) -> None:
    arch, program = ARCHES[machine], cage_filter(machine, network=True)
    assert error_of(verdict(program, arch, number(machine, "socket"), arguments)) == answer
    assert error_of(verdict(program, arch, number(machine, "connect"))) == "allow"
    for name in ("bind", "listen", "accept", "accept4"):
        assert error_of(verdict(program, arch, number(machine, name))) == "EPERM"
    assert error_of(verdict(cage_filter(machine), arch, number(machine, "socket"), arguments)) == "EPERM"


@pytest.mark.parametrize("machine", ARCHES)
def test_what_an_older_landlock_does_not_hold_the_filter_holds(machine: str) -> None:
    arch = ARCHES[machine]
    assert error_of(verdict(cage_filter(machine, truncate_by_landlock=False), arch, number(machine, "truncate"))) == "EPERM"
    old, new = code_filter(machine, signals_by_landlock=False), code_filter(machine)
    for name in ("kill", "tkill", "tgkill"):
        assert error_of(verdict(old, arch, number(machine, name), (5, 5, 9))) == "EPERM"
        assert error_of(verdict(new, arch, number(machine, name), (5, 5, 9))) == "allow"
    assert error_of(verdict(old, arch, number(machine, "kill"), (-1, 9))) == "EPERM"
    assert error_of(verdict(old, arch, number(machine, "kill"), (0, 9))) == "allow"


@pytest.mark.parametrize("machine", ARCHES)
def test_the_code_can_neither_stack_filters_nor_outlive_its_warden(machine: str) -> None:
    program, arch = code_filter(machine), ARCHES[machine]
    for name in ("seccomp", "landlock_create_ruleset", "landlock_restrict_self"):
        assert error_of(verdict(program, arch, number(machine, name))) == "EPERM"
    for option in (1, 22):
        assert error_of(verdict(program, arch, number(machine, "prctl"), (option,))) == "EPERM"


def test_a_program_fits_what_the_kernel_takes_and_every_jump_stays_inside() -> None:
    for machine in ARCHES:
        for program in (cage_filter(machine), code_filter(machine)):
            assert len(program) <= 4096
            assert len(assemble(program)) == 8 * len(program)
            for at, instruction in enumerate(program):
                assert at + 1 + max(instruction.jt, instruction.jf) < len(program) or instruction.code == 0x06
            assert program[-1].k == ALLOW


def test_an_unknown_machine_has_no_filter() -> None:
    with pytest.raises(KeyError):
        cage_filter("riscv64")
