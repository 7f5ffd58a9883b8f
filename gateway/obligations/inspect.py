"""`inspect`: what detectors find in a call, or in its answer, ends it, or is blanked.  What cannot be searched is withheld."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

import orjson

from gateway.model import Permit, Refused
from gateway.obligations import blank
from gateway.obligations.blank import DETECTOR, REFUSED
from gateway.obligations.detect import DETECTORS
from gateway.obligations.duty import Params, WrongParameterError, fulfilled, impossible, only, terms, words
from policies.model import Obligation

TYPE: Final = "inspect"
_SMALL: Final = 16 * 1024
"""What is larger is searched beside the event loop."""


class Terms(NamedTuple):
    """What is looked for, as `gateway.obligations.blank` reads it, and in which direction."""

    detectors: tuple[str, ...]
    arguments: bool
    results: bool
    refuse: bool

    @property
    def entries(self) -> frozenset[str]:
        """Entries that end the call, or blank what is found."""
        return frozenset((REFUSED if self.refuse else DETECTOR) + name for name in self.detectors)


def read(params: Params) -> Terms:
    """`{detectors: [NAME …], in: arguments | results | [both], do: refuse | redact}`; without `in` both, without `do` refuse."""
    only(params, "detectors", "in", "do")
    detectors = words(params, "detectors", tuple(DETECTORS))
    if not detectors:
        raise WrongParameterError("", "no detectors are named")
    where = words(params, "in", ("arguments", "results")) or ("arguments", "results")
    do = words(params, "do", ("refuse", "redact")) or ("refuse",)
    if len(do) != 1:
        raise WrongParameterError("do", "do is one of refuse and redact")
    return Terms(detectors, "arguments" in where, "results" in where, do == ("refuse",))


async def fulfil(permit: Permit, obligation: Obligation) -> Permit:
    """`Refused(CONTENT_REFUSED)` where a detector finds something in what was sent; the answer is searched as it comes."""
    found = terms(permit, obligation, read)
    if found.arguments and found.refuse:
        body = permit.call.arrival.body
        search = _search if len(body) <= _SMALL else _beside
        try:
            done = search(body, found.entries)
            if done is not None:
                await done
        except orjson.JSONDecodeError:
            raise impossible(permit, obligation, "what was sent cannot be searched") from None
        except Refused as refusal:
            refusal.decision = permit.decision
            raise
    elif found.arguments:
        permit = fulfilled(permit, obligation, redact_sent=permit.redact_sent | found.entries)
    return looked_at(permit, obligation) if found.results else fulfilled(permit, obligation)


def looked_at(permit: Permit, obligation: Obligation) -> Permit:
    """The permit of a look at the answer."""
    found = terms(permit, obligation, read)
    if not found.results:
        return permit
    return fulfilled(permit, obligation, redact=permit.redact | found.entries)


def of_arguments(obligation: Obligation) -> bool:
    """Whether what was sent must not be kept: a call that such a duty ends, or blanks, holds what nobody is to see."""
    if obligation.type != TYPE:
        return False
    try:
        return read(obligation.params).arguments
    except WrongParameterError:
        return True


def _search(body: bytes, entries: frozenset[str]) -> None:
    if body:
        blank.part(orjson.loads(body), entries)


async def _beside(body: bytes, entries: frozenset[str]) -> None:
    await asyncio.to_thread(_search, body, entries)
