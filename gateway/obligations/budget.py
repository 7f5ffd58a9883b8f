"""`budget`: how often something is done, and what an argument of it comes to, counted as workflows' own budgets are.

The call's step draws on it when it is reserved (`gateway.workflows`), beside whatever workflows hold the call to: running calls
count, what came to nothing gives back.  Here it is seen to that it did; what has no step cannot be counted, and is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Final, NamedTuple

from gateway.model import Permit
from gateway.obligations.duty import Params, WrongParameterError, begins, fulfilled, impossible, only, terms, whole, words
from policies.model import Obligation, Source
from policies.schema import ARGUMENT
from policies.workflows.judge import amount
from policies.workflows.model import SCOPES, Budget, Steps, Workflow

TYPE: Final = "budget"
DUTY: Final = "duty:"
"""How the names of its definitions begin; no workflow is called so."""
_MOST: Final = 1_000_000_000
_ENDS: Final = frozenset({"workflow", "day"})


class Terms(NamedTuple):
    """What a duty of this kind says; None: nothing of that."""

    times: int | None
    sum: str | None
    max: Decimal | None
    per: tuple[str, ...]


def read(params: Params) -> Terms:
    """`{count, sum, max, per}`; see docs/reference/duties.md."""
    only(params, "count", "sum", "max", "per")
    count, most, total = whole(params, "count", _MOST), None, params.get("sum")
    if ("sum" in params) != ("max" in params):
        raise WrongParameterError(
            "sum" if "sum" in params else "max", "sum and max go together: an argument, and what it may come to"
        )
    if "sum" in params and (not isinstance(total, str) or not ARGUMENT.fullmatch(total)):
        raise WrongParameterError("sum", "sum must be the name of an argument")
    if "max" in params and ((most := amount(params["max"])) is None or not most):
        raise WrongParameterError("max", "max must be a number above zero")
    if count is None and total is None:
        raise WrongParameterError("", "nothing is counted: count, or sum and max")
    per = words(params, "per", SCOPES) or ("workflow",)
    if _ENDS.isdisjoint(per):
        raise WrongParameterError("per", "such a budget would never begin anew: add day or workflow")
    return Terms(count, total if isinstance(total, str) else None, most, tuple(scope for scope in SCOPES if scope in per))


def drawn_on(obligations: Iterable[Obligation]) -> tuple[Workflow, ...]:
    """The budgets among a call's duties, each as a definition of its own to which the call is held.

    One that cannot be read is left out: `fulfil` refuses the call.
    """
    found = []
    for each in obligations:
        if each.type == TYPE:
            try:
                found.append(_definition(each, read(each.params)))
            except WrongParameterError:
                continue
    return tuple(found)


def _definition(duty: Obligation, found: Terms) -> Workflow:
    """By the duty's name, so that it goes on where the numbers change."""
    where = duty.source or Source("obligations.yaml", 1)
    counted = Steps(f"what '{duty.name}' counts", beginnings=("",))
    rule = Budget("budget", duty.name, where, counted, found.per, None, found.times, found.sum, found.max)
    said = json.dumps([duty.name, found.times, found.sum, str(found.max), found.per]).encode()
    digest = f"sha256:{hashlib.sha256(said).hexdigest()}"
    return Workflow(_name(duty), digest, frozenset(), shadow=False, binds=(), rules=(rule,), source=where)


def _name(duty: Obligation) -> str:
    return f"{DUTY}{duty.name}"


def fulfil(permit: Permit, obligation: Obligation) -> Permit:
    """`{type: budget, count: 20, sum: amount, max: 5000, per: [subject, day]}`; of several each must have enough left."""
    terms(permit, obligation, read)
    drawn = permit.reserved is not None and _name(obligation) in permit.reserved.step.held
    if not drawn and begins(permit.call):
        raise impossible(permit, obligation, "this cannot be counted")
    return fulfilled(permit, obligation)
