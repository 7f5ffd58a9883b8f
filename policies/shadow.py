"""Rules that are watched and decide nothing: what would they have changed?

Beside a decision that was really made, the shadow lines of its bundle are asked, each alone and all together, and a candidate
bundle as a whole.  Nothing here changes a decision or raises; it costs about a decision each, and belongs off the hot path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from msgspec.structs import replace as varied

from policies.bundle import Bundle
from policies.engine import Engine
from policies.model import AccessRequest, Decision, Match
from policies.replay import Direction, Verdict, change, rule_of

ALL: Final = "*"
"""Stands for a rule's id where the whole is meant: every shadow line together, or the candidate bundle."""
LINES: Final = "shadow"
CANDIDATE: Final = "candidate"


@dataclass(frozen=True, slots=True)
class Flip:
    """A decision that would have been another one.

    rule       the id of the shadow line that would have made it so, alone; or of a rule that makes the difference between the
               bundle that decided and the candidate; or `ALL`, once for each decision that would flip at all.
    direction  `deny->allow`, `allow->deny` or `duties`.
    source     `shadow` for lines of the active bundle, `candidate` for the other bundle.
    """

    rule: str
    direction: Direction
    source: str


class Shadow:
    """Watches by the shadow lines of `active` and by `candidate`.  Used by one thread at a time.

    Whatever a `Flip` names is a rule's id of one of the two bundles, `ALL` or a reason code in parentheses: a closed set.

    watches  whether there is anything to watch; where there is not, `compare` never finds anything.
    """

    def __init__(self, active: Bundle, candidate: Bundle | None = None) -> None:
        self._digest = active.digest
        self._lines = {rule.id: rule for rule in active.shadow}
        overlay = replace(active, rules=(*active.rules, *active.shadow), shadow=())
        self._overlay = Engine(overlay) if active.shadow else None
        self._candidate = Engine(candidate) if candidate is not None and candidate.digest != active.digest else None
        self.watches: bool = self._overlay is not None or self._candidate is not None

    def compare(self, request: AccessRequest, decision: Decision) -> tuple[Flip, ...]:
        """What would have become of this decision.  None for the shadow lines where another bundle than `active` decided."""
        flips: list[Flip] = []
        if self._overlay is not None and decision.bundle == self._digest:
            flips += self._of_lines(self._overlay, request, decision)
        if self._candidate is not None and decision.bundle != self._candidate.bundle.digest:
            flips += _of_candidate(decision, self._candidate.decide(request))
        return tuple(flips)

    def _of_lines(self, overlay: Engine, request: AccessRequest, decision: Decision) -> Iterator[Flip]:
        """Each line alone, then all of them."""
        together, listing = overlay.decide(request), request.action == "list"  # a list has no duties
        ways = _list_ways(overlay, request) if listing else [[a.matched for a in together.answers]]
        spoke = dict.fromkeys(m for way in ways for heard in way for m in heard if m.rule in self._lines)
        fulfilled = {duty.name for duty in decision.obligations}
        for line in spoke:
            allowed = any(self._passes(way, line.rule) for way in ways)
            if allowed != decision.allowed:
                yield Flip(line.rule, _direction(allowed=allowed), LINES)
            elif allowed and line.effect == "require" and self._lines[line.rule].must not in fulfilled and not listing:
                yield Flip(line.rule, Direction.DUTIES, LINES)
        if together.allowed != decision.allowed:
            yield Flip(ALL, _direction(allowed=together.allowed), LINES)
        elif together.allowed and _duties(together) != _duties(decision):
            yield Flip(ALL, Direction.DUTIES, LINES)

    def _passes(self, way: Sequence[Sequence[Match]], line: str) -> bool:
        """Whether every principal passes by the rules in force and this one line.

        It is the effect that every bundle's model must have (some allow, no deny), and the tests hold it against the engine's
        answer with the line really moved.
        """
        for heard in way:
            effects = {match.effect for match in heard if match.rule == line or match.rule not in self._lines}
            if "allow" not in effects or "deny" in effects:
                return False
        return bool(way)


def _list_ways(overlay: Engine, request: AccessRequest) -> list[list[tuple[Match, ...]]]:
    """A server may be listed by whoever could call one of its tools: what spoke for the acting principal at each of them."""
    ways = []
    for tool in overlay.tools_of(request.resource):
        resource = f"{request.resource}.{tool}"
        asked = varied(request, action="call", resource=resource, actors=request.actors[-1:], arguments=None)
        answers = overlay.decide(asked).answers
        if answers:
            ways.append([answers[-1].matched])
    return ways


def _of_candidate(decision: Decision, other: Decision) -> Iterator[Flip]:
    found = change(Verdict.of(decision), Verdict.of(other))
    if found is not None:
        yield Flip(ALL, found.direction, CANDIDATE)
        for text in found.rules:
            yield Flip(rule_of(text), found.direction, CANDIDATE)
    elif decision.allowed and other.allowed and _duties(decision) != _duties(other):
        yield Flip(ALL, Direction.DUTIES, CANDIDATE)  # the same duties by name, with other parameters


def _duties(decision: Decision) -> dict[str, tuple[str, dict[str, object]]]:
    return {duty.name: (duty.type, dict(duty.params)) for duty in decision.obligations}


def _direction(*, allowed: bool) -> Direction:
    return Direction.GRANTED if allowed else Direction.TAKEN
