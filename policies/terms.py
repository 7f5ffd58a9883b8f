"""Two conditions compared: what the second lets through that the first did not, and the other way round, each with an example.

An example is printed only after both conditions were really asked about it.  "Never" is said only with a proof: by inclusion,
by trying every case, or by z3; everything else is "none was found".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from policies.cases import Case, cases_of
from policies.expression import Expression, spaced
from policies.prover import speaks_more
from policies.registry import ToolSpec


class Proof(StrEnum):
    """How it is known that there is no further example."""

    INCLUSION = "inclusion"  # the one holds every condition that the other holds
    EVERY_CASE = "every case was tried"
    Z3 = "z3"
    NONE = "no proof, example search only"


@dataclass(frozen=True, slots=True)
class Term:
    """When one of several lines of the same effect speaks: always, or under one of some conditions, or never.

    types are the arguments of the tool that the lines are about: a condition reads them by their declared types; `tool` is
    what tools.yaml says of it, None for what is no tool.
    """

    conditions: tuple[Expression, ...]
    types: Mapping[str, str]
    always: bool = False
    tool: ToolSpec | None = None

    @classmethod
    def of(cls, conditions: Iterable[Expression | None], types: Mapping[str, str], tool: ToolSpec | None = None) -> Term:
        """Of the lines' conditions; None is a line without one."""
        found = list(conditions)
        return cls(tuple(c for c in found if c is not None), types, None in found, tool)

    @property
    def never(self) -> bool:
        """Whether there is no line at all."""
        return not self.always and not self.conditions

    @property
    def parts(self) -> frozenset[tuple[object, ...]]:
        """The conditions by what they say: text, the types of the arguments that they read, and the tool, if they may read it."""
        return frozenset(
            (
                spaced(c.text),
                tuple(sorted((a, self.types.get(a, "")) for a in c.arguments)),
                (self.tool.name, self.tool.labels, self.tool.risk) if self.tool is not None and "tool" in c.text else None,
            )
            for c in self.conditions
        )

    @property
    def says(self) -> tuple[object, ...]:
        """Equal for terms that speak in the same cases."""
        return self.parts, self.always

    def speaks(self, case: Case, effect: str) -> bool:
        """Whether a line speaks: what cannot be decided is a no for allow lines and a yes for the others."""
        if self.always:
            return True
        facts = case.facts(self.types, self.tool)
        if effect == "allow":
            return any(condition(facts) is True for condition in self.conditions)
        return any(condition(facts) is not False for condition in self.conditions)

    def within(self, other: Term) -> bool:
        """Whether the other surely speaks wherever this one does, by what is written alone."""
        return other.always or (not self.always and self.parts <= other.parts)


@dataclass(frozen=True, slots=True)
class Relation:
    """How a term came out against an earlier one.

    wider, narrower          examples: the lines speak now and did not before; they did and do not now.
    may_widen, may_narrow    False: it is proven that there is none.
    proof                    what proves it, or that nothing does.
    """

    wider: Case | None
    narrower: Case | None
    may_widen: bool
    may_narrow: bool
    proof: Proof

    @property
    def same(self) -> bool:
        """Whether it is proven that nothing changed."""
        return not self.may_widen and not self.may_narrow


def compare(before: Term, after: Term, effect: str) -> Relation:
    """How `after` differs from `before` for lines of one effect."""
    may_widen, may_narrow = not after.within(before), not before.within(after)
    if not may_widen and not may_narrow:
        return Relation(None, None, may_widen=False, may_narrow=False, proof=Proof.INCLUSION)
    cases = cases_of((*before.conditions, *after.conditions), (before.types, after.types))
    wider = narrower = None
    for case in cases:
        then, now = before.speaks(case, effect), after.speaks(case, effect)
        if now and not then:
            wider = wider or case
        elif then and not now:
            narrower = narrower or case
        if (wider or not may_widen) and (narrower or not may_narrow):
            break
    if cases.complete:
        return Relation(wider, narrower, wider is not None, narrower is not None, Proof.EVERY_CASE)
    proofs = {Proof.INCLUSION}
    if may_widen and wider is None:
        may_widen, wider, proof = _asked(speaks_more(before, after, effect))
        proofs.add(proof)
    if may_narrow and narrower is None:
        may_narrow, narrower, proof = _asked(speaks_more(after, before, effect))
        proofs.add(proof)
    weakest = next(proof for proof in (Proof.NONE, Proof.Z3, Proof.INCLUSION) if proof in proofs)
    return Relation(wider, narrower, may_widen, may_narrow, weakest)


def _asked(answer: Case | Literal[False] | None) -> tuple[bool, Case | None, Proof]:
    """Whether there may be an example, which, and by what it is known."""
    if answer is None:
        return True, None, Proof.NONE
    return (False, None, Proof.Z3) if answer is False else (True, answer, Proof.Z3)


def search(terms: Iterable[Term], wanted: Callable[[Case], bool]) -> Case | None:
    """A case of these terms' conditions of which `wanted` is true; None where none was found."""
    found = list(terms)
    cases = cases_of([c for term in found for c in term.conditions], [term.types for term in found])
    return next((case for case in cases if wanted(case)), None)
