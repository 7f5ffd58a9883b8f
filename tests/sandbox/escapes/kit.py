"""What every attempt is made of: its sentence, where it must succeed without a cage, and a way to try it.

The very same text runs in a cage and, as the control, outside of it; standard library only, Python 3.9.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT, USER, ROOT_IN_CONTAINER, USER_IN_CONTAINER = "root", "user", "root in a container", "user in a container"
ENVIRONMENTS = (ROOT, USER, ROOT_IN_CONTAINER, USER_IN_CONTAINER)
ALWAYS = frozenset(ENVIRONMENTS)
ROOTS = frozenset({ROOT, ROOT_IN_CONTAINER})
BARE = frozenset({ROOT, USER})
ROOT_ALONE = frozenset({ROOT})

OPEN, NO_EFFECT = "open", "no effect"
_ABSENT = (
    errno.ENOSYS,
    errno.EAFNOSUPPORT,
    errno.EPROTONOSUPPORT,
    errno.ESOCKTNOSUPPORT,
    errno.ENODEV,
    errno.ENXIO,
    errno.ENOENT,
)
_SECONDS = 5.0

P: dict[str, Any] = {}
"""What the attempts go for; `scene.py` says what there is."""


@dataclass(frozen=True)
class Attempt:
    """One attempt.  `control`: the environments in which it must succeed without a cage; `machine`: only if the kernel has it."""

    family: str
    name: str
    sentence: str
    control: frozenset[str]
    machine: bool
    call: Callable[[], object]


REGISTRY: list[Attempt] = []


class NoEffectError(Exception):
    """The call said yes and changed nothing."""


def attempt(control: frozenset[str] = ALWAYS, *, machine: bool = False) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Register an attempt under its function's name, with its docstring as its sentence."""

    def register(call: Callable[[], object]) -> Callable[[], object]:
        sentence = " ".join((call.__doc__ or "").split())
        REGISTRY.append(Attempt(call.__module__.rpartition(".")[2], call.__name__, sentence, control, machine, call))
        return call

    return register


# -- doing -----------------------------------------------------------------------------------------------------------------------

libc = ctypes.CDLL(None, use_errno=True)
ARM = os.uname().machine == "aarch64"


def check(result: int) -> int:
    """What libc answered; OSError where that is an error."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def raw(x86: int, arm: int, *arguments: Any) -> int:
    """A system call by its numbers."""
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return check(libc.syscall(ctypes.c_long(arm if ARM else x86), *wide))


def reached(call: Callable[[], object]) -> None:
    """Open where the call got as far as its arguments, which are nonsense so that nothing happens."""
    try:
        call()
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise


def in_child(call: Callable[[], object]) -> None:
    """Do it in a process of its own; OSError with the same errno where it fails there."""
    child = os.fork()
    if not child:
        code = 0
        try:
            call()
        except OSError as error:
            code = error.errno or errno.EIO
        except BaseException:
            code = errno.EIO
        os._exit(min(code, 255))
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        raise OSError(errno.EPERM, f"killed by signal {os.WTERMSIG(status)}")
    if os.WEXITSTATUS(status):
        raise OSError(os.WEXITSTATUS(status), os.strerror(os.WEXITSTATUS(status)))


def needs(capability: int) -> None:
    """Without a cage the attempt shows nothing where even its root lacks a capability, as in a container of containers."""
    if not P["caged"]:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            mask = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
        if not mask >> capability & 1:
            raise OSError(errno.ENODEV, "a capability that is not to be had here")


def at(name: str) -> str:
    """A path in the scene's folder."""
    return os.path.join(P["folder"], name)


def opens(path: str, flags: int = os.O_RDONLY, **options: Any) -> None:
    """Open and close."""
    os.close(os.open(path, flags, **options))


def reads(path: str, canary: bool = False) -> None:
    """Open and read; with `canary` the canary must be in what was read."""
    fd = os.open(path, os.O_RDONLY)
    try:
        got = os.read(fd, 1 << 16)
    finally:
        os.close(fd)
    if canary:
        told(got)


def told(got: bytes) -> None:
    """Open only where what came back holds the canary."""
    if P["canary"].encode() not in got:
        raise NoEffectError


def changed(before: Any, after: Any) -> None:
    """Open only where something changed."""
    if before == after:
        raise NoEffectError


# -- trying ----------------------------------------------------------------------------------------------------------------------


def _tell(call: Callable[[], object]) -> str:
    try:
        call()
    except NoEffectError:
        return NO_EFFECT
    except OSError as error:
        if error.errno is None:
            return f"refused: {error}"[:80]
        name = errno.errorcode.get(error.errno, str(error.errno))
        return f"absent: {name}" if error.errno in _ABSENT else f"refused: {name}"
    except (MemoryError, RecursionError, ImportError) as error:
        return f"refused: {type(error).__name__}"
    except BaseException as error:  # a mistake in the attempt: the test wants to know
        return f"broken: {error!r}"
    return OPEN


def _forked(one: Attempt, home: str) -> str:
    """Try it in a process of its own, in a folder of its own: whatever it does to itself ends with it."""
    folder = os.path.join(home, one.name)
    os.mkdir(folder)
    near, far = os.pipe()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        os.close(near)
        os.chdir(folder)
        outcome = _tell(one.call)
        os.write(far, outcome.encode())
        os._exit(0)
    os.close(far)
    said = os.read(near, 4096) if select.select([near], [], [], _SECONDS)[0] else b"stuck"
    os.close(near)
    for kill in (lambda: os.killpg(child, signal.SIGKILL), lambda: os.kill(child, signal.SIGKILL)):
        try:
            kill()
        except OSError:
            continue
    status = os.waitpid(child, 0)[1]
    return said.decode() or (f"killed: signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "said nothing")


def main() -> None:
    """Try everything that is registered; one JSON object on the real stdout: attempt → outcome."""
    P["warden"] = os.getppid()
    home = os.getcwd()
    wanted = set(P.get("only") or ())
    found = {one.name: _forked(one, home) for one in REGISTRY if not wanted or one.name in wanted}
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
