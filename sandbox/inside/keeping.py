"""What a program with a folder that lasts must not reach of another's, tried; and that its own can be used.

Expects PARAMS; prints one JSON object: attempt → "open" or the errno's name.  Standard library only, Python 3.9.
"""

# ruff: noqa: PTH104, PTH118, PTH123, PTH208, PTH211  runs in the cage, where every import costs
from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PARAMS: dict[str, Any] = globals().get("PARAMS", {})
"""folder, name, caged: set by `sandbox/layers.py` in front of this text."""
OWN, OTHER, SECRET, LEFT = "own", "other", "secret", "left"
"""Folders of two owners beneath PARAMS['folder'], what lies in the other's, and what is left in one's own."""


def _own() -> str:
    return os.environ["HOME"] if PARAMS["caged"] else os.path.join(PARAMS["folder"], OWN, "files")


def _other(*names: str) -> str:
    return os.path.join(PARAMS["folder"], OTHER, "files", *names)


def _read(path: str) -> None:
    with open(path, "rb") as file:
        file.read()


def read_anothers_file() -> None:
    """By its path."""
    _read(_other(SECRET))


def list_anothers_folder() -> None:
    """By its path."""
    os.listdir(_other())


def list_all_folders() -> None:
    """Whose there are."""
    os.listdir(PARAMS["folder"])


def write_into_anothers_folder() -> None:
    """A new file."""
    with open(_other("new"), "wb") as file:
        file.write(b"x")


def go_up_from_ones_own() -> None:
    """`..` of it."""
    _read(os.path.join(_own(), "..", "..", OTHER, "files", SECRET))


def go_up_from_an_open_folder() -> None:
    """`..` of a descriptor of it."""
    top = os.open(_own(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.close(os.open(os.path.join("..", "..", OTHER, "files", SECRET), os.O_RDONLY, dir_fd=top))
    finally:
        os.close(top)


def go_through_ones_own_descriptors() -> None:
    """/proc/self/fd: a link that is none."""
    top = os.open(_own(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        _read(f"/proc/self/fd/{top}/../../{OTHER}/files/{SECRET}")
    finally:
        os.close(top)


def read_through_a_link() -> None:
    """A symbolic link in one's own folder, which is left there."""
    os.symlink(_other(SECRET), os.path.join(_own(), "soft"))
    _read(os.path.join(_own(), "soft"))


def read_through_a_hard_link() -> None:
    """Another's file under a name in one's own folder."""
    os.link(_other(SECRET), os.path.join(_own(), "hard"))


def put_into_anothers_folder() -> None:
    """One's own file, by renaming it."""
    path = os.path.join(_own(), "moved")
    with open(path, "wb") as file:
        file.write(b"x")
    os.rename(path, _other("moved"))


def exchange_ones_own_for_a_link() -> None:
    """Whoever opens it next would be led elsewhere."""
    os.rename(_own(), _own() + "-gone")
    os.symlink(_other(), _own())


# The last of them: outside it takes one's own folder away.
_ATTEMPTS: tuple[Callable[[], None], ...] = (
    read_anothers_file, list_anothers_folder, list_all_folders, write_into_anothers_folder, go_up_from_ones_own,
    go_up_from_an_open_folder, go_through_ones_own_descriptors, read_through_a_link, read_through_a_hard_link,
    put_into_anothers_folder, exchange_ones_own_for_a_link,
)  # fmt: skip


def _outcome(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    return "open"


def main() -> None:
    """Leave something in one's own folder, look that it is there, and try everything."""
    with open(os.path.join(_own(), LEFT), "w", encoding="ascii") as file:
        file.write(PARAMS["name"])
    _read(os.path.join(_own(), LEFT))
    print(json.dumps({attempt.__name__: _outcome(attempt) for attempt in _ATTEMPTS}))


if __name__ == "__main__":
    main()
