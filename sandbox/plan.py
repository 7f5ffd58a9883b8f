"""How cages are made on this machine, found out once for each probe; what the warden is told first."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sandbox.interpreter import ENVIRONMENT, Interpreter
from sandbox.scratch import Folder
from sandbox.seccomp import assemble, cage_filter, code_filter, digest
from sandbox.toolsets import Kit

PORT = 3128
"""Where, on 127.0.0.1 of the cage's own network, the gateway's proxy is to be found."""
_PROXIED = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), f"http://127.0.0.1:{PORT}"),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), ""),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the things of one cage are, in the cage's own names.

    scratch   the code's working folder.
    sentinel  a file that warden and code may not open once the cage is closed; with `sentinel_inside` the warden makes it.
    volumes   file systems of the cage's own that the code may write, `scratch` among them; none where it is a folder outside.
    hidden    paths that exist outside and must not exist inside.
    apart     whether the kernel counts the cage's processes by themselves, whoever's uid it is.
    kept      the folder that lasts, "" where there is none.
    """

    scratch: str
    sentinel: str
    sentinel_inside: bool = False
    volumes: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    apart: bool = False
    kept: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What every cage of one backend has in common."""

    interpreter: Interpreter
    machine: str
    abi: int
    sentinel: Path

    def setup(self, folder: Folder, place: Place, kit: Kit, passing: int = -1) -> dict[str, object]:
        """What the warden is told first (`sandbox.inside.confine.Setup`).

        `passing` is the descriptor through which it gives the listening socket out, where the kit has a network.
        """
        scratch, toolset = place.scratch, kit.toolset
        cage, code, _ = filters(self.machine, self.abi, kit.network)
        return {
            "limits": kit.limits.to_dict(),
            "scratch": scratch,
            "sentinel": place.sentinel,
            "sentinel_inside": place.sentinel_inside,
            "volumes": place.volumes,
            "hidden": place.hidden,
            "apart": place.apart or folder.uid is not None,
            "own_uid": folder.uid is not None,
            "abi": self.abi,
            "network": PORT if kit.network else 0,
            "passing": passing,
            "kept": place.kept,
            "kept_bytes": kit.kept_bytes,
            "read": toolset.read,
            "list": toolset.listed,
            "execute": toolset.execute,
            "address_space": toolset.address_space,
            "cage_filter": cage,
            "code_filter": code,
            "env": {**ENVIRONMENT, "HOME": place.kept or scratch, "TMPDIR": scratch, **(_PROXIED if kit.network else {})},
        }

    def layers(self, kit: Kit) -> dict[str, str]:
        """The mechanisms as facts for a record."""
        return {
            "landlock": f"abi {self.abi}",
            "seccomp": f"sha256:{filters(self.machine, self.abi, kit.network)[2]}",
            "interpreter": f"{self.interpreter.path} {self.interpreter.version}",
            "kernel": os.uname().release,
        }


@lru_cache(maxsize=16)
def filters(machine: str, abi: int, network: bool) -> tuple[str, str, str]:
    """(The cage's filter, the code's, digest of both): assembled once, as base64."""
    programs = (
        cage_filter(machine, truncate_by_landlock=abi >= 3, network=network),
        code_filter(machine, signals_by_landlock=abi >= 6),
    )
    cage, code = (base64.b64encode(assemble(program)).decode("ascii") for program in programs)
    return cage, code, digest(*programs)
