"""CVE-2026-87766 tried: a link `x -> /oldroot/...` left in a kept folder makes a flawed bubblewrap create files outside.

It does so when it next mounts beneath that folder.  No cage of ours keeps a folder or mounts beneath one; that is seen here.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from sandbox.backend import NotHereError
from sandbox.interpreter import identity
from sandbox.namespaces import why_not
from sandbox.scratch import Folder

_SECONDS = 20
_PLANT = """
import os
for place in {places!r}:
    for name in ("x", "main.py", "work", "tmp", "usr", "proc", "dev", "file"):
        os.symlink("/oldroot" + {bait!r}, os.path.join(place, name))
        assert os.path.islink(os.path.join(place, name))
"""
_LOOK = "import os\nprint([os.listdir(place) for place in {places!r}], end='')"


def tried(
    program: Path, command: Callable[[], Sequence[str]], interpreter: str, places: Sequence[str], folder: Folder
) -> str:  # fmt: skip
    """What came of it, for the record.  NotHereError where a cage does not start, keeps anything, or reaches outside.

    `command` starts a cage around what follows it; `places` are what code may write in it; `folder` is claimed.  Blocks.
    """
    bait, kept = folder.path / "bait", folder.path / "kept"
    for path in (bait, kept):
        path.mkdir(mode=0o700)
        if folder.uid is not None:
            os.chown(path, folder.uid, folder.uid)

    def caged(source: str) -> bytes:
        return _run([*command(), interpreter, "-I", "-S", "-c", source], folder)

    caged(_PLANT.format(places=tuple(places), bait=str(bait)))
    found = caged(_LOOK.format(places=tuple(places)))
    if found != repr([[] for _ in places]).encode() or list(bait.iterdir()):
        raise NotHereError("a link that was planted in one cage is there in the next")
    # The control: the same link in a folder that is kept, with a mount point made beneath it.
    (kept / "x").symlink_to(f"/oldroot{bait}")
    bare = [str(program), "--unshare-user", "--ro-bind", "/usr", "/usr", "--bind", str(kept), "/kept", "--dir", "/kept/x/planted"]
    subprocess.run(  # noqa: S603  the system's bubblewrap
        [*bare, "/usr/bin/true"], env={}, cwd=folder.path, stdin=subprocess.DEVNULL, capture_output=True,
        timeout=_SECONDS, check=False, start_new_session=True, **identity(folder.uid),
    )  # fmt: skip
    flawed = (bait / "planted").exists()
    return ("this bubblewrap has the flaw" if flawed else "not in this bubblewrap") + "; a planted link reached nothing"


def _run(command: Sequence[str], folder: Folder) -> bytes:
    done: subprocess.CompletedProcess[bytes] = subprocess.run(  # noqa: S603  the system's bubblewrap, a proven interpreter
        command, env={}, cwd=folder.path, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False,
        start_new_session=True, **identity(folder.uid),
    )  # fmt: skip
    if done.returncode:
        raise NotHereError("bubblewrap does not start here: " + why_not(done.stderr.decode("utf-8", "backslashreplace")))
    return done.stdout
