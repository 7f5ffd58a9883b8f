"""What a comparison of two bundles says, as values: who gains and loses what, under which terms, and the duties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from policies.bundle import Rule
from policies.cases import Case
from policies.terms import Proof


class Kind(StrEnum):
    """What became of a right or a duty."""

    GAIN = "gain"  # there was no right, and is one; or a deny line was lifted
    WIDER = "wider"  # the same right under a wider condition
    CHANGED = "changed"  # under another condition: wider here, narrower there, or not known
    NARROWER = "narrower"
    LOSS = "loss"
    DUTY_REMOVED = "duty-removed"
    DUTY_CHANGED = "duty-changed"
    DUTY_ADDED = "duty-added"


GRANTING = (Kind.GAIN, Kind.WIDER, Kind.CHANGED)
TAKING = (Kind.LOSS, Kind.NARROWER, Kind.CHANGED)
DUTIES = (Kind.DUTY_REMOVED, Kind.DUTY_CHANGED, Kind.DUTY_ADDED)


@dataclass(frozen=True, slots=True)
class Change:
    """One change, for everybody and everything that it is the same for.

    who            names as roles.csv and grants say them, roles resolved; `*` is everybody.
    tools          sets and patterns resolved; a pattern is everything under it that no line names.
    actions        that are asked for.
    effect         of the lines that changed: a lifted deny line is a gain, too.
    before, after  the lines that speak, then and now.
    newly          arguments that are let through now by these lines; `no_longer`: that are not any more.
    opens, closes  arguments with which somebody, for itself and alone, was denied and is allowed now; or the other way round.
    felt_by        of a change for everybody: the names for which one of the two was found.
    proof          by what it is known that there is nothing further.
    """

    kind: Kind
    tenant: str
    who: tuple[str, ...]
    tools: tuple[str, ...]
    actions: tuple[str, ...]
    effect: str
    before: tuple[Rule, ...]
    after: tuple[Rule, ...]
    newly: Case | None
    no_longer: Case | None
    opens: Case | None
    closes: Case | None
    proof: Proof
    duty: str = ""
    felt_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """Things by name that came, went or changed: tools, sets, tests, lines that are only watched."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def named(before: Mapping[str, object], after: Mapping[str, object]) -> Named:
    """What came, went or changed, of things by name."""
    both = before.keys() & after.keys()
    changed = sorted(name for name in both if before[name] != after[name])
    return Named(tuple(sorted(after.keys() - both)), tuple(sorted(before.keys() - both)), tuple(changed))


@dataclass(frozen=True, slots=True)
class Diff:
    """Everything that differs.  `incomparable` says why rights could not be compared line by line; "" where they were.

    roles     members as `member → role (tenant)`.
    same      how many lines say the same in both.
    definitions  what of tools.lock, and of `servers` in tools.yaml, differs; opened: whether a server may say more than before.
    workflows    rules by their ids, what else a workflow says by its name; loosened: whether rules or labels may refuse less.
    """

    before: str
    after: str
    changes: tuple[Change, ...]
    roles: Named
    tools: Named
    sets: Named
    tests: Named
    shadow: Named
    model: bool
    incomparable: str
    same: int
    definitions: Named = Named()
    opened: bool = False
    workflows: Named = Named()
    labels: Named = Named()
    loosened: bool = False

    @property
    def granting(self) -> tuple[Change, ...]:
        """What may let something through that was denied; what surely does comes first."""
        return tuple(change for change in self.changes if change.kind in GRANTING)

    @property
    def taking(self) -> tuple[Change, ...]:
        """What may deny something that was allowed."""
        return tuple(change for change in self.changes if change.kind in TAKING)

    @property
    def duties(self) -> tuple[Change, ...]:
        """What became of duties."""
        return tuple(change for change in self.changes if change.kind in DUTIES)

    @property
    def grants(self) -> bool:
        """Whether anything could be allowed now that was denied."""
        return bool(self.granting or self.incomparable or self.opened or self.loosened)

    @property
    def empty(self) -> bool:
        """Whether nothing differs at all."""
        lists = (
            self.changes, self.roles, self.tools, self.sets, self.tests, self.shadow, self.incomparable, self.definitions,
            self.workflows, self.labels,
        )  # fmt: skip
        return not any(lists) and not self.model
