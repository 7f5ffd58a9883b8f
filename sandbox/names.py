"""Names that a profile or a job brings, read strictly: hosts with ports, files; and the one spelling behind digests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_NAME_BYTES, _PATH_BYTES, DEPTH = 255, 1024, 16


@dataclass(frozen=True, slots=True)
class Destination:
    """A host by name and a port.  `*.example.com` stands for every name beneath example.com, at any depth, and not for itself."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Destination:
        """`host:port`.  The host is a name of lower-case letters, digits and hyphens: no address, no list, no other spelling.

        ValueError for anything else, and for a wildcard that stands right beneath a top-level domain.
        """
        host, colon, port = text.rpartition(":")
        if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
            raise ValueError(f"{text!r} is not host:port")
        wild, name = host.startswith("*."), host.removeprefix("*.")
        labels = name.split(".")
        if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
            raise ValueError(f"{text!r} names no host: a-z, 0-9, inner hyphens and dots; `*.` in front at most")
        if not labels[-1][0].isalpha():  # 10.0.0.1, 0x7f.1, 2130706433: whatever a resolver takes for an address
            raise ValueError(f"{text!r} is an address; destinations are names")
        if wild and len(labels) < 2:
            raise ValueError(f"{text!r} stands for a whole top-level domain")
        return cls(host, int(port))

    def covers(self, host: str, port: int) -> bool:
        """Whether a connection to this name (lower case, no final dot) and port is meant."""
        if port != self.port:
            return False
        if self.host.startswith("*."):
            return host.endswith(self.host[1:]) and len(host) > len(self.host) - 1
        return host == self.host

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def file_name(name: str) -> str:
    """The name itself, where it is a relative POSIX path that reads the same to everybody; ValueError elsewhere.

    No empty part, `.` or `..`, no backslash, nothing that does not print; bounded in length and depth.
    """
    parts = name.split("/")
    raw = name.encode("utf-8")  # a lone surrogate raises UnicodeEncodeError, a ValueError
    if len(raw) > _PATH_BYTES or len(parts) > DEPTH or any(len(part.encode()) > _NAME_BYTES for part in parts):
        raise ValueError(f"the file name {name[:60]!r}… is too long")
    if not name.isprintable() or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{name!r} is not the relative name of a file")
    return name


def plainly(text: str) -> str:
    """A text as it may be shown anywhere: one that holds what does not print is spelled out."""
    return text if text.isprintable() else repr(text)


def file_names(names: list[str]) -> None:
    """ValueError for a name that is wrong, and for one that another needs as a folder."""
    files = {file_name(name) for name in names}
    for name in names:
        folders = set(accumulate(name.split("/")[:-1], "{}/{}".format))
        if folders & files:
            raise ValueError(f"{name!r} lies beneath a file")


def canonical_digest(value: Mapping[str, object]) -> str:
    """SHA-256 (hex) of the value as JSON: keys sorted, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return sha256(text.encode("utf-8")).hexdigest()
