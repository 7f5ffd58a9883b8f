"""What decides now: one reference to values that never change, swapped whole.

A call takes the reference once, when it arrives, and keeps it to its end: its decision, its lists, what it may know of and its
record are all of one bundle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.policy.canary import is_canary
from policies.bundle import Bundle
from policies.engine import Engine
from policies.shadow import Shadow


@dataclass(frozen=True, slots=True)
class Pair:
    """A bundle and the engine that was built of it.

    since    when it came into force here, UTC microseconds.
    serial   of its signed manifest; None where it is not signed.
    """

    bundle: Bundle
    engine: Engine
    since: int
    serial: int | None = None

    @property
    def digest(self) -> str:
        """`sha256:<hex>`: as it stands in every record of its decisions."""
        return self.bundle.digest


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that decides, as one value.

    canary   decides instead for the workflows whose id falls under `percent`.
    shadow   a bundle that is asked beside and decides nothing.
    watched  what asks beside: that bundle, and the shadow lines of the active one; None where there is neither.
    """

    active: Pair
    canary: Pair | None = None
    shadow: Pair | None = None
    percent: float = 0
    watched: Shadow | None = None

    def watching(self) -> Policy:
        """The same with what asks beside.  It builds engines: for a thread."""
        shadow = Shadow(self.active.bundle, self.shadow.bundle if self.shadow is not None else None)
        return replace(self, watched=shadow if shadow.watches else None)

    def having(self, role: str, pair: Pair) -> Policy:
        """The same with another pair in this role: `active`, `canary` or `shadow`."""
        pairs = {"active": self.active, "canary": self.canary, "shadow": self.shadow} | {role: pair}
        return Policy(pairs["active"] or self.active, pairs["canary"], pairs["shadow"], self.percent)

    def pair_of(self, workflow: str) -> Pair:
        """Who decides for this workflow: always the same, as long as percent is."""
        if self.canary is not None and is_canary(workflow, self.percent):
            return self.canary
        return self.active


class InForce:
    """The reference.  It belongs to the event loop's thread: whoever swaps it does so between two steps of every call."""

    __slots__ = ("_listeners", "current")

    def __init__(self, policy: Policy) -> None:
        self.current = policy
        self._listeners: list[Callable[[Policy], None]] = []

    def follow(self, listener: Callable[[Policy], None]) -> None:
        """Tell `listener` of this policy and of every later one, before any call sees it."""
        self._listeners.append(listener)
        listener(self.current)

    def swap(self, policy: Policy) -> None:
        """From the next arrival on, this.  Nothing is awaited in here, so no call can see half of it."""
        self.current = policy
        for listener in self._listeners:
            listener(policy)
