"""What isolation is truly in force here: attempts made outside, where they must succeed, and inside, where they must not.

An attempt that fails outside too proves nothing; a guarantee with no attempt that succeeds outside is not proven.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from sandbox.inside import attempts, keeping, outward
from sandbox.interpreter import ENVIRONMENT, identity
from sandbox.lasting import FILES
from sandbox.model import Guarantee, Strength
from sandbox.runner import Finding, Lasting
from sandbox.scratch import Folder, Scratch

_SECONDS = 20
_NAMES = ("secret", "mode", "victim", "removable")

_UNCONFIRMED = "what the cage said of itself was not confirmed by the kernel, asked from outside"
_BY_THE_KERNEL = {
    Guarantee.PIDS: "the bound is of the run's own uid or user namespace, attested from inside",
    Guarantee.DISK: "file systems of the run's own, their sizes seen from outside; the number of files by a watchdog",
}
_BOUNDS = "rlimits attested from inside; all processes together by a watchdog every 50 ms"
BY_TRYING = (
    Guarantee.FS_READ, Guarantee.FS_WRITE, Guarantee.NET_NONE, Guarantee.PROCESS_ISOLATION, Guarantee.SYSCALL_SURFACE,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of all attempts: guarantee → attempt → `open` or the errno's name, outside and inside."""

    outside: Mapping[str, Mapping[str, str]]
    inside: Mapping[str, Mapping[str, str]]

    def finding(self, name: Guarantee, help: str) -> Finding:  # noqa: A002  the house's word
        """HARD where nothing is open inside and something was outside, ABSENT otherwise, with `help`."""
        outside, inside = self.outside[name], self.inside[name]
        evidence = [f"{attempt.replace('_', ' ')}: {outside[attempt]} outside, {inside[attempt]} inside" for attempt in outside]
        kept = "open" in outside.values() and set(outside) == set(inside) and "open" not in inside.values()
        return Finding(Strength.HARD if kept else Strength.ABSENT, tuple(evidence), "" if kept else help)


def findings(
    tried: Tried,
    attested: Mapping[Guarantee, Strength],
    helps: Mapping[Guarantee, str],
    *,
    daemon_gone: bool,
    untouched: bool,
    bounds: Mapping[Guarantee, str],
) -> Mapping[Guarantee, Finding]:
    """What the probe found: the attempts, and never more than the cage attested.

    `helps` is the backend's; `bounds` what control groups were seen to hold, with the evidence.
    """
    found = {}
    for name in Guarantee:
        help_text = helps.get(name, "")
        if name in BY_TRYING:
            finding = tried.finding(name, help_text)
            if name is Guarantee.FS_WRITE and not untouched:
                finding = Finding(Strength.ABSENT, ("seen from outside, the files that were gone for have changed",), help_text)
        else:
            got = attested.get(name, Strength.ABSENT)
            finding = Finding(got, (bounds[name],) if name in bounds else _evidence(name, got))
        if name is Guarantee.KILL_TREE and (not daemon_gone or "open" not in tried.outside[name].values()):
            finding = Finding(Strength.ABSENT, ("a detached daemon outlived its run, or could not be made outside",))
        strength = min(finding.strength, attested.get(name, Strength.ABSENT))
        lost = (_UNCONFIRMED,) if strength < finding.strength else ()
        found[name] = Finding(strength, (*lost, *finding.evidence), help_text if strength < Strength.HARD else "")
    return MappingProxyType(found)


def outward_finding(
    outside: Mapping[str, str], inside: Mapping[str, str], attested: Mapping[Guarantee, Strength], help: str  # noqa: A002
) -> Finding:  # fmt: skip
    """Whether the proxy, and nothing else, is reached: the attempts of `sandbox.inside.outward`, and never more than attested."""
    name = Guarantee.NET_ALLOWLIST
    reached = inside.get("proxy") == outward.GREETING.decode()
    tried = Tried({name: outside}, {name: {attempt: got for attempt, got in inside.items() if attempt != "proxy"}})
    finding = tried.finding(name, help)
    strength = min(finding.strength if reached else Strength.ABSENT, attested.get(name, Strength.ABSENT))
    lost = (_UNCONFIRMED,) if strength < finding.strength else ()
    proxy = f"the gateway's proxy on 127.0.0.1:{outward.PROXY}: {'reached' if reached else 'not reached'}"
    return Finding(strength, (*lost, proxy, *finding.evidence), help if strength < Strength.HARD else "")


def lasting_finding(
    outside: Mapping[str, str], inside: Mapping[str, str], attested: Mapping[Guarantee, Strength], help: str,  # noqa: A002
    *, left: bool,
) -> Finding:  # fmt: skip
    """Whether a folder that lasts is one's own alone: the attempts of `sandbox.inside.keeping`, and never more than attested.

    `left` says whether what was left in it was found there afterwards, and the other's folder as it was.
    """
    name = Guarantee.FOLDER
    finding = Tried({name: outside}, {name: inside}).finding(name, help)
    strength = min(finding.strength if left else Strength.ABSENT, attested.get(name, Strength.ABSENT))
    lost = (_UNCONFIRMED,) if strength < finding.strength else ()
    seen = f"what was left in one's own, and another's unchanged: {'seen' if left else 'not seen'} from outside"
    return Finding(strength, (*lost, seen, *finding.evidence), help if strength < Strength.HARD else "")


def _evidence(name: Guarantee, got: Strength) -> tuple[str, ...]:
    if got is Strength.HARD and name in _BY_THE_KERNEL:
        return (_BY_THE_KERNEL[name],)
    if name is Guarantee.KILL_TREE:
        return ("outlive its maker: open outside; the daemon was gone when its run had ended",)
    if name is Guarantee.IDENTITY:
        return ("uid, groups, capabilities and no_new_privs attested from inside and confirmed from /proc",)
    return () if name is Guarantee.OWN_KERNEL else (_BOUNDS,)


class Bait:
    """What the attempts go for: files, listeners and a process, all within the uid's reach.  Blocks; close it."""

    def __init__(self, scratch: Scratch, uid: int | None, python: str) -> None:
        self._stack = ExitStack()
        self._uid, self._python = uid, python
        self._laid: dict[str, dict[str, tuple[int, ...]]] = {}
        self._abstract = f"bailiwick-{secrets.token_hex(8)}"
        self._name = f"bait-{secrets.token_hex(5)}"  # a process's name has at most 15 letters
        try:
            self._folder = scratch.claim()
            self._stack.callback(scratch.release, self._folder)
            self._own(self._folder.path)
            self._port = self._listen(socket.AF_INET, ("127.0.0.1", 0)).getsockname()[1]
            self._listen(socket.AF_UNIX, "\0" + self._abstract)
            self._victim = self._start_victim()
        except BaseException:
            self._stack.close()
            raise

    @property
    def folder(self) -> Folder:
        """The claimed folder that holds the files."""
        return self._folder

    @property
    def victim(self) -> int:
        """Pid of a process with the run's uid outside its cage."""
        return self._victim

    def lay(self, name: str, *, caged: bool, program: ModuleType = attempts) -> str:
        """A fresh set of files, and the program that goes for them."""
        folder = self._folder.path / name
        folder.mkdir(mode=0o755)
        for each in _NAMES:
            (folder / each).write_text(secrets.token_hex(8), encoding="ascii")
            self._own(folder / each)
        for kind, path in ((socket.SOCK_STREAM, "stream"), (socket.SOCK_DGRAM, "datagram")):
            self._listen(socket.AF_UNIX, str(folder / path), kind)
            self._own(folder / path)
        if program is keeping:
            self._lay_folders(folder)
        self._own(folder)
        self._laid[name] = _contents(folder)
        params = {
            "folder": str(folder), "victim": self._victim, "port": self._port, "abstract": self._abstract, "name": self._name,
            "caged": caged,
        }  # fmt: skip
        source = Path(str(program.__file__)).read_text(encoding="utf-8")
        preset = f"PARAMS = __import__('json').loads({json.dumps(params)!r})\n"
        marker = "from __future__ import annotations\n"
        return source.replace(marker, marker + preset, 1)

    def _lay_folders(self, folder: Path) -> None:
        """Of two owners; outside their user id is free to use both."""
        for whose in (keeping.OWN, keeping.OTHER):
            outer, inner = folder / whose, folder / whose / FILES
            inner.mkdir(parents=True)
            self._own(inner)
            if folder.name == "control":
                self._own(outer)
        (folder / keeping.OTHER / FILES / keeping.SECRET).write_text(self._name, encoding="ascii")
        self._own(folder / keeping.OTHER / FILES / keeping.SECRET)

    @property
    def lasting(self) -> Lasting:
        """The caged one's own, once it is laid."""
        return Lasting(self._folder.path / "caged" / keeping.OWN, 1 << 20)

    def left(self) -> bool:
        """Whether the caged program's file is in its own folder, and in the other's nothing but what was laid there."""
        folder = self._folder.path / "caged"
        path = folder / keeping.OWN / FILES / keeping.LEFT
        if path.is_symlink() or not path.is_file() or path.read_text(encoding="ascii") != self._name:
            return False
        other = folder / keeping.OTHER / FILES
        return [each.name for each in other.iterdir()] == [keeping.SECRET]

    def control(self, program: ModuleType = attempts) -> Mapping[str, Any]:
        """The attempts outside the cage, as the same uid."""
        source = self.lay("control", caged=False, program=program)
        work = self._folder.path / "work"
        work.mkdir(mode=0o700)
        self._own(work)
        done = subprocess.run(  # noqa: S603  a proven interpreter, our own source
            [self._python, "-I", "-S", "-B", "-X", "utf8", "-"],
            input=source.encode(), env=ENVIRONMENT, cwd=work, capture_output=True, timeout=_SECONDS, check=True,
            start_new_session=True, **identity(self._uid),
        )  # fmt: skip
        found: Mapping[str, Any] = json.loads(done.stdout)
        return found

    def daemon_lives(self) -> bool:
        """Whether a process that the attempts have detached is still there, whatever its pid was inside."""
        for path in Path("/proc").glob("[0-9]*/comm"):
            with suppress(OSError):
                if path.read_text(encoding="utf-8", errors="replace").strip() == self._name:
                    return True
        return False

    def untouched(self, name: str) -> bool:
        """Whether the files of `lay(name)` are as they were laid while the control's are not: seen from outside."""
        same = {each: laid == _contents(self._folder.path / each) for each, laid in self._laid.items()}
        return same[name] and not same["control"]

    def close(self) -> None:
        """Take everything away again."""
        self._stack.close()

    def _own(self, path: Path) -> None:
        if self._uid is not None:
            os.chown(path, self._uid, self._uid, follow_symlinks=False)

    def _listen(self, family: int, address: Any, kind: int = socket.SOCK_STREAM) -> socket.socket:
        listener = self._stack.enter_context(socket.socket(family, kind))
        listener.bind(address)
        if kind == socket.SOCK_STREAM:
            listener.listen(8)
        return listener

    def _start_victim(self) -> int:
        process = subprocess.Popen(  # noqa: S603  a proven interpreter
            [self._python, "-I", "-S", "-c", "import sys; sys.stdin.read()"],
            env={**ENVIRONMENT, "SECRET": secrets.token_hex(8)}, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True, **identity(self._uid),
        )  # fmt: skip
        self._stack.callback(_end, process)
        return process.pid


def _contents(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name → what would change if anybody wrote to the file, or changed what is known of it."""
    found: dict[str, tuple[int, ...]] = {}
    for path in (folder, *sorted(folder.iterdir())):
        about = path.lstat()
        found[path.name] = (about.st_ino, about.st_mode, about.st_uid, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(2)
        return
    process.kill()
    process.wait()
