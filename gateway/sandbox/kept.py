"""Files that runs have left, for the principal whose run it was: in memory, bounded in count, bytes and time.

What is another's is as what is not there.
"""

from __future__ import annotations

import base64
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from gateway.model import Principal
from policies import uri as uris
from sandbox.result import Artifact

Owner = tuple[str, str, tuple[str, ...]]
"""Tenant, person, and the agents in between."""

FILES_OF_ONE: Final = 256
_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
_BY_NAME: Final = {"csv": "text/csv", "json": "application/json", "md": "text/markdown", "txt": "text/plain"}


@dataclass(frozen=True, slots=True)
class File:
    """One file that a run left.  `mime` follows from its bytes; where they are text, also from its name."""

    uri: str
    name: str
    data: bytes
    sha256: str
    mime: str

    @property
    def text(self) -> str | None:
        """It as text, None where it is none."""
        return None if self.mime == _BYTES or not self.mime.startswith(("text/", "application/json")) else self.data.decode()

    def contents(self) -> dict[str, Any]:
        """As `resources/read` gives it."""
        said: dict[str, Any] = {"uri": self.uri, "mimeType": self.mime}
        text = self.text
        return said | ({"blob": base64.b64encode(self.data).decode("ascii")} if text is None else {"text": text})

    def listed(self) -> dict[str, Any]:
        """As `resources/list` and a resource link give it."""
        return {"uri": self.uri, "name": self.name, "mimeType": self.mime, "size": len(self.data)}


_BYTES: Final = "application/octet-stream"


def mime_of(name: str, data: bytes) -> str:
    """What a client may do with it; never HTML, which would be the code's page in the client's window."""
    for magic, mime in _MAGIC:
        if data.startswith(magic):
            return mime
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return _BYTES
    return _BYTES if "\0" in text else _BY_NAME.get(name.rpartition(".")[2].lower(), "text/plain")


def owner_of(principal: Principal) -> Owner:
    """Whose a run's files are."""
    return principal.tenant, principal.subject, principal.actors


@dataclass(slots=True)
class _Left:
    """What one run left."""

    until: float
    files: tuple[File, ...]
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum(len(file.data) for file in self.files)


class Kept:
    """Runs' files by owner.  The oldest run's files make room."""

    def __init__(self, seconds: float, of_one: int, of_all: int, *, now: Callable[[], float] = time.monotonic) -> None:
        """`of_one` and `of_all` bytes, for one owner and for all together."""
        self._seconds = seconds
        self._of_one = of_one
        self._of_all = of_all
        self._now = now
        self._runs: OrderedDict[tuple[Owner, str], _Left] = OrderedDict()  # oldest first
        self._size = 0

    def erase(self, subject: str) -> int:
        """Let go of all that runs left for a person; how many files."""
        mine = [key for key in self._runs if key[0][1] == subject]
        gone = [self._runs.pop(key) for key in mine]
        self._size -= sum(each.size for each in gone)
        return sum(len(each.files) for each in gone)

    def keep(self, principal: Principal, run: str, artifacts: Iterable[Artifact]) -> tuple[File, ...]:
        """Keep what a run left, as much of it as is allowed; the files that can be read from now on."""
        self._forget_old()
        owner, room = owner_of(principal), self._of_one
        files: list[File] = []
        for artifact in artifacts:
            file = _file(run, artifact)
            if file is not None and len(artifact.data) <= room and len(files) < FILES_OF_ONE:
                files.append(file)
                room -= len(artifact.data)
        if not files:
            return ()
        left = self._runs[owner, run] = _Left(self._now() + self._seconds, tuple(files))
        self._size += left.size
        self._make_room(owner)
        return left.files

    def of(self, principal: Principal) -> list[File]:
        """All that this principal may read, newest run first."""
        self._forget_old()
        owner = owner_of(principal)
        return [file for (whose, _), left in reversed(self._runs.items()) if whose == owner for file in left.files]

    def get(self, principal: Principal, uri: str) -> File | None:
        """The file of that URI; None where there is none, where its time is over, and where it is another's."""
        return next((file for file in self.of(principal) if file.uri == uri), None)

    def _make_room(self, owner: Owner) -> None:
        mine = [key for key in self._runs if key[0] == owner]
        size, count = sum(self._runs[key].size for key in mine), sum(len(self._runs[key].files) for key in mine)
        for key in mine[:-1]:
            if size <= self._of_one and count <= FILES_OF_ONE:
                break
            size, count = size - self._runs[key].size, count - len(self._runs[key].files)
            self._drop(key)
        while self._size > self._of_all and len(self._runs) > 1:
            self._drop(next(iter(self._runs)))

    def _forget_old(self) -> None:
        now = self._now()
        for key in [key for key, left in self._runs.items() if left.until <= now]:
            self._drop(key)

    def _drop(self, key: tuple[Owner, str]) -> None:
        self._size -= self._runs.pop(key).size


def _file(run: str, artifact: Artifact) -> File | None:
    """None for a name that has no URI of one form."""
    uri = uris.canonical(f"sandbox://runs/{run}/files/" + quote(artifact.name, safe="/-._~'()*,"))
    if uri is None:
        return None
    return File(uri, artifact.name, artifact.data, artifact.sha256, mime_of(artifact.name, artifact.data))
