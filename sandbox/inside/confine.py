"""Closing the cage from inside: capabilities, Landlock, the system-call filter; and attesting, by trying, that it is closed."""

from __future__ import annotations

import _socket
import binascii
import ctypes
import os
import resource
import stat
import struct

TYPE_CHECKING = False  # importing `typing` would cost more than everything else here
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Setup = dict[str, Any]
    """What the gateway asks for: limits, paths, filters; `sandbox/plan.py` writes it."""


_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_EXECUTE, _WRITE, _READ, _LIST, _REMOVE_DIR, _REMOVE_FILE = 1, 2, 4, 8, 16, 32
_MAKE_DIR, _MAKE_REG, _MAKE_SYM, _REFER, _TRUNCATE, _IOCTL = 128, 256, 4096, 8192, 16384, 32768
_ON_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_SCRATCH = _WRITE | _READ | _LIST | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _REFER | _TRUNCATE
_CONNECT_TCP = 2
_HANDLED = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF}  # the file rights that each ABI knows; 0xFFFF from 5

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_PR_GET_SECCOMP, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 21, 22, 24
_PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 38, 39, 47
_CAPGET, _CAPSET = {"x86_64": (125, 126), "aarch64": (90, 91)}[os.uname().machine]
_CAP_HEADER = struct.pack("<Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: Any) -> int:
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    got: int = _libc.syscall(ctypes.c_long(number), *wide)
    if got < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return got


def prctl(option: int, *arguments: Any) -> int:
    """prctl(2); OSError where it fails."""
    wide = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in [*arguments, 0, 0, 0, 0][:4]]
    got: int = _libc.prctl(ctypes.c_int(option), *wide)
    if got < 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")
    return got


def drop_privileges() -> None:
    """No capability, and no way to gain one."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    failing(lambda: prctl(_PR_CAP_AMBIENT, 4))  # PR_CAP_AMBIENT_CLEAR_ALL
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), *[ctypes.c_ulong(0)] * 3) < 0:
            break  # needs CAP_SETPCAP, or is past the last one; no_new_privs holds without it
    _call(_CAPSET, ctypes.create_string_buffer(_CAP_HEADER), ctypes.create_string_buffer(24))


def enter_domain(setup: Setup, *, proc: bool) -> None:
    """Enter a Landlock domain, nested in the present one: interpreter and scratch, and /proc where `proc`."""
    abi = setup["abi"]
    handled = _HANDLED.get(abi, 0xFFFF)
    attributes = struct.pack("<QQQ", handled, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)  # files, TCP, scopes
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _call(_LANDLOCK_CREATE, ctypes.create_string_buffer(attributes[:size], size), size, 0)
    rules = [(path, _READ | _EXECUTE) for path in setup["execute"]]
    rules += [(path, _READ | _LIST) for path in setup["read"]]
    rules += [(path, _LIST) for path in setup["list"]]
    rules += [("/dev/null", _READ | _WRITE), ("/dev/zero", _READ), ("/dev/urandom", _READ)]
    rules += [(path, _SCRATCH) for path in setup["volumes"] or [setup["scratch"]]]
    if setup["kept"]:
        rules.append((setup["kept"], _SCRATCH))
    if proc:
        rules.append(("/proc", _READ | _WRITE | _LIST))
    for path, rights in rules:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        mask = handled if stat.S_ISDIR(os.fstat(fd).st_mode) else handled & _ON_FILES  # a folder's right on a file is an error
        _call(_LANDLOCK_ADD, ruleset, 1, ctypes.create_string_buffer(struct.pack("<Qi", rights & mask, fd), 12), 0)
        os.close(fd)
    if abi >= 4 and setup["network"]:
        port = struct.pack("<QQ", _CONNECT_TCP, setup["network"])
        _call(_LANDLOCK_ADD, ruleset, 2, ctypes.create_string_buffer(port, 16), 0)
    _call(_LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def listen(setup: Setup) -> None:
    """Listen where the code will look for the gateway's proxy, give the socket to the gateway, and keep nothing of it."""
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", setup["network"]))
    listener.listen(64)
    passing = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, setup["passing"])
    passing.sendmsg([b"L"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", listener.fileno()))])
    passing.close()
    listener.close()


def install_filter(encoded: str) -> None:
    """Put this process, and all that come of it, under an assembled filter (base64)."""
    raw = binascii.a2b_base64(encoded)
    program = ctypes.create_string_buffer(raw, len(raw))
    header = struct.pack("<HxxxxxxQ", len(raw) // 8, ctypes.addressof(program))
    prctl(_PR_SET_SECCOMP, 2, ctypes.create_string_buffer(header, len(header)))


def failing(attempt: Callable[[], object]) -> int:
    """The errno of the attempt; 0 where it succeeded."""
    try:
        attempt()
    except OSError as error:
        return error.errno or -1
    return 0


def can_open(path: str, flags: int) -> None:
    """Open and close; OSError where that is not allowed."""
    os.close(os.open(path, flags | os.O_CLOEXEC))


def attest(setup: Setup, parent: int) -> dict[str, Any]:
    """What holds for this process, by asking the kernel and by trying.  `parent` is outside its domain."""
    caps = ctypes.create_string_buffer(24)
    _call(_CAPGET, ctypes.create_string_buffer(_CAP_HEADER), caps)
    return {
        "pid": os.getpid(),
        "uids": os.getresuid(),
        "gids": os.getresgid(),
        "groups": os.getgroups(),
        "capabilities": caps.raw.hex(),
        "no_new_privs": prctl(_PR_GET_NO_NEW_PRIVS),
        "seccomp": prctl(_PR_GET_SECCOMP),
        "fds": [fd for fd in range(256) if not _is_closed(fd)],
        "rlimits": {name: resource.getrlimit(getattr(resource, name)) for name in setup["rlimits"]},
        "read_outside": failing(lambda: can_open(setup["sentinel"], os.O_RDONLY)),
        "write_outside": failing(lambda: can_open(setup["sentinel"], os.O_WRONLY)),
        "list_outside": failing(lambda: can_open("/", os.O_RDONLY | os.O_DIRECTORY)),
        "proc": failing(lambda: can_open(f"/proc/{parent}/status", os.O_RDONLY)),
        "signal": failing(lambda: os.kill(parent, 0)),
        "kept": failing(lambda: can_open(setup["kept"], os.O_RDONLY | os.O_DIRECTORY)) if setup["kept"] else -1,
        "hidden": [_seen(path) for path in setup["hidden"]],
        "namespaces": {name: _namespace(name) for name in ("user", "pid", "net", "ipc", "uts", "mnt")},
        "sockets": [_make_socket(family, _socket.SOCK_STREAM) for family in (1, 2, 10, 16, 17, 38, 40)],
        "others": [_make_socket(family, kind) for family in (1, 2, 10) for kind in (_socket.SOCK_DGRAM, _socket.SOCK_RAW)],
    }


def _seen(path: str) -> int:
    return failing(lambda: os.lstat(path))


def _namespace(name: str) -> str:
    try:
        return os.readlink("/proc/self/ns/" + name)  # noqa: PTH115  a text, not a path
    except OSError:
        return ""


def _is_closed(fd: int) -> bool:
    return failing(lambda: os.fstat(fd)) != 0


def _make_socket(family: int, kind: int) -> int:
    return failing(lambda: _socket.socket(family, kind).close())
