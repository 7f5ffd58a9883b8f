"""Duties that a decision carries: fulfilled here, or the call is refused.  A duty may only narrow a permit, never widen it.

What an answer loses is fulfilled again wherever the same answer can be had once more (`looked_at`); the rest once, for the call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from gateway.model import Permit, Refused
from gateway.obligations import approve, audit, budget, inspect, limit, notify, personal, redact, sandbox, step_up
from gateway.obligations.duty import Duty, Params, WrongParameterError, words
from gateway.obligations.inspector import Inspector
from gateway.reasons import Code
from policies.model import Decision, Obligation

READERS: Mapping[str, Callable[[Params], object]] = MappingProxyType(
    {
        "audit": audit.read,
        "budget": budget.read,
        "human-approval": approve.read,
        "inspect": inspect.read,
        "limit": limit.read,
        "notify": notify.read,
        "redact": redact.read,
        "redact-result": redact.read_result,
        "sandbox": sandbox.read,
        "step-up": step_up.read,
    }
)
"""Every duty this gateway knows, by its type in obligations.yaml, and what reads its parameters."""

DUTIES: Mapping[str, Duty] = MappingProxyType(
    {
        "audit": audit.fulfil,
        "budget": budget.fulfil,
        "human-approval": approve.fulfil,
        "inspect": Inspector().fulfil,
        "redact": redact.fulfil,
        "redact-result": redact.fulfil_result,
        "sandbox": sandbox.fulfil,
        "step-up": step_up.fulfil,
    }
)
"""Those that need nothing but the call."""

_TAKING = frozenset({limit.TYPE, notify.TYPE})
"""What takes or tells something: it comes last, so that a call which anything else refuses, or holds up, does none of it."""
_OF_ANSWERS: Mapping[str, Callable[..., Permit]] = MappingProxyType(
    {"inspect": inspect.looked_at, "redact": redact.fulfil, "redact-result": redact.fulfil_result}
)


async def fulfil(permit: Permit, duties: Mapping[str, Duty] = DUTIES) -> Permit:
    """The permit with every obligation of its decision taken care of.

    Raises `Refused(UNKNOWN_DUTY)` for a type nobody registered, and what the duty itself raises.
    """
    return await taken(await checked(permit, duties), duties)


async def checked(permit: Permit, duties: Mapping[str, Duty]) -> Permit:
    """The same of all but those that take or tell something: `taken`, for where a call may still be held up in between."""
    for obligation in permit.decision.obligations:
        duty = duties.get(obligation.type)
        if duty is None:
            raise Refused(Code.UNKNOWN_DUTY, f"{obligation.name}: type {obligation.type}", decision=permit.decision)
        if obligation.type not in _TAKING:
            permit = await _done(duty(permit, obligation))
    return permit


async def taken(permit: Permit, duties: Mapping[str, Duty]) -> Permit:
    """The rest, after `checked`."""
    for obligation in sorted(permit.decision.obligations, key=_rank):  # nobody is told of what a limit refuses
        if obligation.type in _TAKING:
            permit = await _done(duties[obligation.type](permit, obligation))
    return permit


async def _done(duty: Permit | Awaitable[Permit]) -> Permit:
    return duty if isinstance(duty, Permit) else await duty


def _rank(obligation: Obligation) -> bool:
    return obligation.type == notify.TYPE


def looked_at(permit: Permit) -> Permit:
    """The permit of a later look at what a call came to, with what the call's duties take from its answer.

    Raises as `fulfil` does for a type that is unknown.
    """
    for obligation in permit.decision.obligations:
        if obligation.type not in READERS:
            raise Refused(Code.UNKNOWN_DUTY, f"{obligation.name}: type {obligation.type}", decision=permit.decision)
        duty = _OF_ANSWERS.get(obligation.type)
        if duty is not None:
            permit = duty(permit, obligation)
    return permit


_WITHHOLDING = (audit.of_arguments, inspect.of_arguments, redact.of_arguments)


def withholds(decision: Decision) -> bool:
    """Whether what was asked for may stand in the ledger as a commitment alone."""
    return any(of(obligation) for obligation in decision.obligations for of in _WITHHOLDING)


def misread(
    kind: str, params: Params, receivers: frozenset[str] | None = None, searches: frozenset[str] | None = None
) -> tuple[str, str] | None:
    """The parameter at fault and what is wrong with it, where a duty of this type cannot read them; None where it can.

    receivers  whom the settings know to tell something; None: not known.
    searches   guards that the settings know, and the detectors that they switch on; None: not known.
    """
    try:
        READERS[kind](params)
        if kind == notify.TYPE and receivers is not None and (unknown := set(notify.read(params)) - receivers):
            return "to", f"the settings have no notify.{min(unknown)[:63]}"
        if kind == inspect.TYPE and searches is not None and (unknown := set(inspect.read(params).guards) - searches):
            return "guards", f"the settings have no inspect.guards.{min(unknown)[:63]}"
        if searches is not None and personal.NAME not in searches and personal.NAME in _detectors(kind, params):
            return "detectors", f"{personal.NAME}: the settings have no inspect.personal_data"
    except WrongParameterError as error:
        return error.key, error.message
    return None


def _detectors(kind: str, params: Params) -> tuple[str, ...]:
    return words(params, "detectors") if kind in {inspect.TYPE, redact.TYPE} else ()
