"""`step-up`: the person must have proven who they are strongly, or lately, enough; else the caller is told what is wanted."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from gateway.model import Permit, Refused
from gateway.obligations.duty import Params, WrongParameterError, fulfilled, only, seconds, terms, words
from gateway.reasons import Code
from policies.model import Obligation

_ACR: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
"""What can stand in a challenge (RFC 6750 §3) as one of a list."""
_LEEWAY_SECONDS: Final = 30


class Terms(NamedTuple):
    """acr: of which the session's must be one; none: any.  max_age: seconds since the person last proved themselves."""

    acr: tuple[str, ...]
    max_age: int | None


def read(params: Params) -> Terms:
    """`{acr: NAME | [NAME …], max_age: 5m}`, one of them or both."""
    only(params, "acr", "max_age")
    found = Terms(words(params, "acr"), seconds(params, "max_age"))
    if not found.acr and found.max_age is None:
        raise WrongParameterError("", "neither acr nor max_age is said")
    for acr in found.acr:
        if not _ACR.fullmatch(acr):
            raise WrongParameterError("acr", f"acr: '{acr[:60]}' cannot stand in a challenge")
    return found


def fulfil(permit: Permit, obligation: Obligation) -> Permit:
    """Nothing changes where it is met; else `Refused(STEP_UP_REQUIRED)`, whose data say what is asked for (RFC 9470)."""
    wanted, principal = terms(permit, obligation, read), permit.principal
    strong = not wanted.acr or principal.acr in wanted.acr
    age = permit.call.arrival.at // 1_000_000 - principal.auth_time
    fresh = wanted.max_age is None or (principal.auth_time > 0 and -_LEEWAY_SECONDS <= age <= wanted.max_age)
    if strong and fresh:
        return fulfilled(permit, obligation)
    asked: dict[str, object] = {"acr_values": " ".join(wanted.acr)} if wanted.acr else {}
    if wanted.max_age is not None:
        asked["max_age"] = wanted.max_age
    raise Refused(Code.STEP_UP_REQUIRED, obligation.name, decision=permit.decision, data=asked)
