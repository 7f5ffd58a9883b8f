"""`inspect`: what detectors find, or a guard says, ends a call, is blanked or flagged.  What cannot be searched is withheld."""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.model import Permit
from gateway.obligations.blank import DETECTOR, FLAG, FLAG_GUARD, GUARD, REFUSED
from gateway.obligations.detect import DETECTORS
from gateway.obligations.duty import Params, WrongParameterError, about_arguments, fulfilled, only, terms, words
from policies.model import Obligation

TYPE: Final = "inspect"
_DOES: Final = {"refuse": REFUSED, "redact": DETECTOR, "flag": FLAG}


class Terms(NamedTuple):
    """What is looked for, as `gateway.obligations.blank` reads it, by whom, in which direction, and what becomes of it."""

    detectors: tuple[str, ...]
    guards: tuple[str, ...]
    arguments: bool
    results: bool
    do: str

    @property
    def entries(self) -> frozenset[str]:
        """Entries that end the call, blank what is found, or flag it."""
        guard = FLAG_GUARD if self.do == "flag" else GUARD
        return frozenset(_DOES[self.do] + name for name in self.detectors) | {guard + name for name in self.guards}


def read(params: Params) -> Terms:
    """`{detectors: [NAME …], guards: [NAME …], in: arguments | results | [both], do: refuse | redact | flag}`.

    Without `in` both, without `do` refuse.
    """
    only(params, "detectors", "guards", "in", "do")
    detectors, guards = words(params, "detectors", tuple(DETECTORS)), words(params, "guards")
    if not detectors and not guards:
        raise WrongParameterError("", "neither detectors nor guards are named")
    where = words(params, "in", ("arguments", "results")) or ("arguments", "results")
    do = words(params, "do", tuple(_DOES)) or ("refuse",)
    if len(do) != 1:
        raise WrongParameterError("do", "do is one of refuse, redact and flag")
    return Terms(detectors, guards, "arguments" in where, "results" in where, do[0])


def looked_at(permit: Permit, obligation: Obligation) -> Permit:
    """The permit of a look at the answer."""
    found = terms(permit, obligation, read)
    if not found.results:
        return permit
    return fulfilled(permit, obligation, redact=permit.redact | found.entries)


def of_arguments(obligation: Obligation) -> bool:
    """Whether what was sent must not be kept: a call that such a duty ends, or blanks, holds what nobody is to see."""
    return about_arguments(obligation, TYPE, read)
