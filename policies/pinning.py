"""What policy says of servers' definitions: who must approve them, and how suspicious one may look that nobody has approved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, get_args

from policies.lock import NOTHING_LOCKED, Lock
from policies.model import Source

Mode = Literal["quarantine", "trust-on-first-use", "off"]
MODES: Final[tuple[str, ...]] = get_args(Mode)
Grade = Literal["low", "medium", "high"]
"""How grave a sign of poisoning is."""
GRADES: Final[tuple[Grade, ...]] = get_args(Grade)
NEVER: Final = "never"
EVERY: Final = "*"
"""In the place of a server's name: every one that has no entry of its own."""


@dataclass(frozen=True, slots=True)
class ServerRules:
    """An entry of `servers` in tools.yaml; None: not said.

    definitions  `quarantine`: what is not in tools.lock is not shown; `trust-on-first-use`: what was seen first counts as
                 approved; `off`: nothing is compared.
    suspicious   from which grade of sign on a definition waits for a person even on first use; `never`: none does.
    """

    definitions: Mode | None
    suspicious: str | None
    source: Source


@dataclass(frozen=True, slots=True)
class Pinning:
    """The entries, and the lock that they are about."""

    servers: Mapping[str, ServerRules] = field(default_factory=lambda: MappingProxyType({}))
    lock: Lock = NOTHING_LOCKED

    def mode(self, server: str) -> Mode:
        """Its own entry; else quarantine where the lock names it; else the entry for every server; else first use."""
        own = self.servers.get(server)
        if own is not None and own.definitions is not None:
            return own.definitions
        if server in self.lock.servers:
            return "quarantine"
        every = self.servers.get(EVERY)
        return (every.definitions if every is not None else None) or "trust-on-first-use"

    def waits(self, server: str, grade: Grade | None) -> bool:
        """Whether a definition with a sign of this grade waits for a person."""
        entries = (self.servers.get(server), self.servers.get(EVERY))
        least = next((each.suspicious for each in entries if each is not None and each.suspicious is not None), "high")
        return grade is not None and least != NEVER and GRADES.index(grade) >= GRADES.index(least)
