"""What the code is born with: descriptors, environment, arguments, terminal, group, signals; and whose result it writes."""

from __future__ import annotations

import fcntl
import os
import signal
import stat

from tests.sandbox.escapes.kit import ALWAYS, ROOTS, P, attempt, told


def _inherited() -> list[int]:
    allowed = set(P["descriptors"])
    found = []
    for fd in range(4096):
        try:
            os.fstat(fd)
        except OSError:
            continue
        if fd not in allowed:
            found.append(fd)
    return found


@attempt()
def find_an_inherited_descriptor() -> None:
    """Any descriptor beyond those that the code is meant to have; the pipe to our parent is one of ours."""
    if len(_inherited()) <= 1:
        raise OSError(9, "none")


@attempt()
def read_an_inherited_descriptor() -> None:
    """A secret by a descriptor that was left open."""
    for fd in _inherited():
        try:
            got = os.pread(fd, 4096, 0)
        except OSError:
            continue
        if P["canary"].encode() in got:
            return
    raise OSError(9, "none")


@attempt()
def find_a_secret_in_the_environment() -> None:
    """The gateway's own variables."""
    told("\n".join(os.environ.values()).encode())


@attempt()
def find_a_secret_in_memory() -> None:
    """What the interpreter was born with, as libc keeps it: environment and auxiliary strings."""
    import ctypes

    environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
    found, at = [], 0
    while environ[at]:
        found.append(environ[at])
        at += 1
    told(b"\n".join(found))


@attempt()
def write_to_the_standard_input() -> None:
    """Descriptor 0, should it be the warden's socket."""
    os.write(0, b"R")


@attempt()
def read_what_others_print() -> None:
    """Descriptor 1, read instead of written."""
    fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK)
    os.read(1, 1)


@attempt()
def turn_a_descriptor_into_a_terminal() -> None:
    """A terminal among the three, to type into."""
    if not any(stat.S_ISCHR(os.fstat(fd).st_mode) and os.isatty(fd) for fd in (0, 1, 2)):
        raise OSError(25, "none")


@attempt(frozenset())
def open_the_controlling_terminal() -> None:
    """/dev/tty; there is none outside either, so there is no control."""
    os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))


@attempt()
def belong_to_the_gateways_session() -> None:
    """The session of the gateway: a terminal's signals and TIOCSCTTY would reach us and it together."""
    if os.getsid(0) != os.getsid(P["gateway"]):
        raise OSError(3, "another session")


@attempt(ROOTS)
def belong_to_roots_groups() -> None:
    """Group 0, or a supplementary group that the gateway has."""
    if 0 not in {*os.getgroups(), *os.getresgid()}:
        raise OSError(1, "not a member")


@attempt(ROOTS)
def have_roots_identity() -> None:
    """Uid 0, in force or kept for later."""
    if 0 not in os.getresuid():
        raise OSError(1, "not root")


@attempt(ALWAYS)
def make_files_for_everybody() -> None:
    """A mask that leaves what is written open to other users."""
    mask = os.umask(0o77)
    if mask & 0o077 == 0o077:
        raise OSError(1, "nobody else's")


@attempt()
def inherit_a_blocked_signal() -> None:
    """Signals that the gateway's thread blocks or ignores would not end us."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    ignored = {n for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU) if signal.getsignal(n) == signal.SIG_IGN}
    if not blocked and not ignored:
        raise OSError(1, "none")


@attempt()
def find_the_gateways_sources() -> None:
    """Modules of the gateway or the sandbox on the path."""
    import importlib.util

    if importlib.util.find_spec("sandbox") is None:
        raise OSError(2, "not here")


@attempt(frozenset())
def find_installed_packages() -> None:
    """Third-party packages that nobody offered."""
    import sys

    if not any("site-packages" in path or "dist-packages" in path for path in sys.path):
        raise OSError(2, "not here")
