"""What a cage is made of: how it is started, what it may prove at most, how its word is confirmed from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sandbox.interpreter import Interpreter
from sandbox.model import Guarantee, Strength
from sandbox.plan import Place, Plan
from sandbox.scratch import Folder
from sandbox.toolsets import Kit


class NotHereError(Exception):
    """This backend cannot make a cage on this machine; the message says what is missing and how to get it."""


class Backend(Protocol):
    """One way of making cages.  Nothing of it falls back to less: what it cannot do it raises."""

    @property
    def name(self) -> str:
        """`landlock`, `bwrap` …"""
        ...

    @property
    def help(self) -> Mapping[Guarantee, str]:
        """Guarantee → how an operator gains it, or gains more of it, with this backend."""
        ...

    def plan(self, interpreter: Interpreter, sentinel: Path, folder: Folder) -> Plan:
        """How cages are made here; `folder` is claimed, and free to try things in.  Blocks; NotHereError where they cannot be."""
        ...

    def place(self, plan: Plan, folder: Folder, kit: Kit) -> Place:
        """Where a cage's things are, in the cage's own names."""
        ...

    def candidates(self, plan: Plan, *, own_uid: bool) -> Mapping[Guarantee, Strength]:
        """The most that a cage of this backend could prove, before anything is tried."""
        ...

    def command(self, plan: Plan, folder: Folder, kit: Kit) -> Sequence[str]:
        """What the warden's own command line is put behind: a program that builds the cage around it; empty for none."""
        ...

    def confirmed(self, facts: Mapping[str, Any], started: int, uid: int | None, kit: Kit) -> bool:
        """Whether the kernel, asked from outside, says what warden and code said of themselves.

        `started` is the process that the gateway started; `uid` the run's own, None where it has the gateway's.  Blocks.
        Whatever malformed `facts` raise counts as no.
        """
        ...

    def code_of(self, facts: Mapping[str, Any], started: int) -> int:
        """The code's process, by its pid here; `facts` have been confirmed."""
        ...

    def in_memory(self, kit: Kit) -> int:
        """Most bytes that file systems of the cage's own may hold, which the kernel counts as memory of whoever writes them."""
        ...

    def end_of(self, started: int) -> int | None:
        """A descriptor that becomes readable once nothing of the cage is left; None where the kernel has no such thing for it.

        OSError where the cage is gone already.
        """
        ...

    def mark(self) -> str:
        """What the probe's findings rest on: where this changes, they no longer hold.  Cheap."""
        ...

    def layers(self) -> Mapping[str, str]:
        """Facts about this backend's mechanisms, for a run's record."""
        ...
