"""Sets of Python packages that code finds installed: built once from a lock file with hashes, read-only, known by a digest.

Nothing is installed while code runs, and nothing of a set is believed that its digest does not say.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from sandbox.interpreter import Interpreter, choose, own_uids
from sandbox.scratch import UIDS
from sandbox.toolsets import Toolset

SHIPPED = Path(__file__).parent / "profiles"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
CAGES_OWN = ("/tmp", "/dev", "/proc", "/work", "/sentinel")  # noqa: S108
"""Places of which a cage has its own."""
_SECONDS = 1800
_LIBRARIES = ("/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/")
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class PackagesError(Exception):
    """A set cannot be built, or is not there as it was built; the message says what would help."""


@dataclass(frozen=True, slots=True)
class PackageSet:
    """A built set: where, for which Python, and the SHA-256 (hex) over all its files and names."""

    name: str
    folder: Path
    python: str
    digest: str

    def added_to(self, toolset: Toolset) -> Toolset:
        """Python with these packages, and the system's shared libraries, which theirs are linked with.

        Numeric libraries use one thread: a run's processors and memory are few.
        """
        path = str(self.folder)
        libraries = {str(Path(name).parent) for name in toolset.read if name.startswith(_LIBRARIES) and ".so" in name}
        environment = {**toolset.environment, "PYTHONPATH": path, **dict.fromkeys(_ONE_THREAD, "1")}
        read = (*toolset.read, *sorted(libraries), path)
        return replace(toolset, read=read, environment=MappingProxyType(environment), packages=self.digest)


def shipped_lock(name: str) -> Path | None:
    """The lock file of a shipped set."""
    path = SHIPPED / f"{name}.lock"
    return path if NAME.fullmatch(name) and path.is_file() else None


def build(name: str, lock: Path, folder: Path) -> PackageSet:
    """Install what the lock file names, wheels with the right hashes alone, for the Python that runs in the cage.

    The new set takes the place of an old one of that name in one stroke; runs that use the old one keep its files.  Blocks for
    as long as it takes; PackagesError where it fails, and then everything is as it was.
    """
    if not NAME.fullmatch(name):
        raise PackagesError("a set's name is made of a-z, 0-9 and inner hyphens")
    _seen(name, folder)
    interpreter = choose(UIDS.start if own_uids() else None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PackagesError(f"{name}: {folder}: {error.strerror}") from error
    making = folder / f".{name}-{secrets.token_hex(8)}"
    try:
        site = making / "site"
        site.mkdir(parents=True)
        _installed(interpreter, lock, site)
        _seal(site)
        found = _digest(site)
        place = folder / f"{name}-{found[:16]}"
        if place.exists():
            shutil.rmtree(making)
        else:
            making.chmod(0o755)
            making.rename(place)
        about = {"name": name, "folder": place.name, "python": interpreter.version, "digest": found}
        told = folder / f".{name}-{secrets.token_hex(8)}.json"
        told.write_text(json.dumps(about) + "\n", encoding="utf-8")
        told.replace(folder / f"{name}.json")
    except (OSError, subprocess.SubprocessError) as error:
        raise PackagesError(f"{name}: {error}") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return PackageSet(name, place / "site", interpreter.version, found)


def built(folder: Path) -> dict[str, str]:
    """Name → digest of the sets that were built here; not looked at any closer."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            about = _about(path)
        except PackagesError:
            continue
        found[path.stem] = about["digest"]
    return found


def load(name: str, folder: Path | None, interpreter: Interpreter, uid: int | None) -> PackageSet:
    """The set as it was built, for this interpreter, within reach of the runs' uid; PackagesError elsewhere.  Blocks."""
    help_ = f"build it: bailiwick sandbox packages build {name}"
    if folder is None or not os.path.isfile(folder / f"{name}.json"):  # noqa: PTH113  false, too, where it cannot be looked at
        raise PackagesError(f"there is no set of packages {name!r} here; {help_}")
    _seen(name, folder)
    about = _about(folder / f"{name}.json")
    site = (folder / about["folder"] / "site").resolve()
    if about["python"].rsplit(".", 1)[0] != interpreter.version.rsplit(".", 1)[0]:
        raise PackagesError(f"{name} was built for Python {about['python']}, and here is {interpreter.version}; {help_} again")
    closed = next((path for path in (site, *site.parents) if not _enters(path, uid)), None)
    if closed is not None:
        raise PackagesError(
            f"{name}: runs have a user id of their own, which cannot enter {closed}; "
            f"name a folder that everybody can enter as sandbox.packages, or chmod o+x {closed}"
        )
    try:
        found = _digest(site)
    except OSError as error:
        raise PackagesError(f"{name}: {error}") from error
    if found != about["digest"]:
        raise PackagesError(f"{name} is not as it was built: its files have changed; {help_} again")
    return PackageSet(name, site, about["python"], found)


def _seen(name: str, folder: Path) -> None:
    """A cage has places of its own, and what the machine has beneath them is not mounted there: code could write above it."""
    place = folder.resolve()
    own = next((path for path in CAGES_OWN if place.is_relative_to(path)), None)
    if own is not None:
        raise PackagesError(
            f"{name}: a cage has its own {own}, so that packages in {place} are not seen there; name another folder"
        )


def _about(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PackagesError(f"{path}: {error}") from error
    keys = {"name", "folder", "python", "digest"}
    if not isinstance(found, dict) or set(found) != keys or not all(isinstance(value, str) for value in found.values()):
        raise PackagesError(f"{path}: is not what a build writes")
    if "/" in found["folder"] or found["folder"].startswith("."):
        raise PackagesError(f"{path}: names a folder elsewhere")
    return found


def _installed(interpreter: Interpreter, lock: Path, site: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", interpreter.path, "--disable-pip-version-check", "--no-input", "--quiet"]
    install = ["install", "--no-deps", "--no-compile", "--require-hashes", "--only-binary=:all:", "--root-user-action=ignore"]
    _ran([*pip, *install, "--target", str(site), "-r", str(lock)], "pip")
    shutil.rmtree(site / "bin", ignore_errors=True)
    # Unchecked hashes: the compiled files are the same for every build, and nothing is compiled while code runs.
    compiling = ["-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    _ran([interpreter.path, "-I", "-S", *compiling, "-s", str(site), str(site)], "compileall")


def _ran(command: list[str], what: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False)  # noqa: S603
    if done.returncode:
        lines = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()[-8:]
        raise PackagesError(f"{what}: {' '.join(line.strip() for line in lines)[:1000] or f'exit code {done.returncode}'}")


def _seal(site: Path) -> None:
    """Everybody may read it, nobody may write it."""
    for path, about in _entries(site):
        if stat.S_ISDIR(about.st_mode):
            path.chmod(0o755)
        else:
            path.chmod(0o555 if about.st_mode & 0o111 else 0o444)
    site.chmod(0o755)


def _digest(site: Path) -> str:
    found = sha256()
    for path, about in _entries(site):
        if not stat.S_ISDIR(about.st_mode):
            inner = sha256(path.read_bytes()).hexdigest()
            found.update(f"{inner} {about.st_mode & 0o111:o} {path.relative_to(site).as_posix()}\n".encode())
    return found.hexdigest()


def _entries(site: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Files and folders beneath it, in the order of their names; PackagesError for anything else."""
    for path in sorted(site.rglob("*")):
        about = path.lstat()
        if not stat.S_ISDIR(about.st_mode) and not stat.S_ISREG(about.st_mode):
            raise PackagesError(f"{path} is neither a file nor a folder")
        yield path, about


def _enters(path: Path, uid: int | None) -> bool:
    if uid is None:
        return os.access(path, os.X_OK)
    try:
        about = path.stat()
    except OSError:
        return False
    return bool(about.st_mode & (0o100 if about.st_uid == uid else 0o001))
