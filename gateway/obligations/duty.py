"""The shape of a duty, and the two ways in which one ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from msgspec.structs import replace

from gateway.model import Call, Permit, Refused
from gateway.reasons import Code
from policies.model import Obligation

Duty = Callable[[Permit, Obligation], Permit | Awaitable[Permit]]
"""Takes a permit and one obligation; returns a permit that is narrower or equal, or raises `Refused`."""

Params = Mapping[str, object]
T = TypeVar("T")


class WrongParameterError(ValueError):
    """A duty's parameters cannot be read.  `key` is the parameter at fault, "" where one is missing."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key
        self.message = message


def fulfilled(permit: Permit, obligation: Obligation, **changes: Any) -> Permit:
    """The permit with the obligation marked as taken care of."""
    return replace(permit, fulfilled=(*permit.fulfilled, obligation.name), **changes)


def impossible(permit: Permit, obligation: Obligation, why: str) -> Refused:
    """The refusal of a duty that cannot be fulfilled for this call."""
    return Refused(Code.DUTY_FAILED, f"{obligation.name}: {why}", decision=permit.decision)


def terms(permit: Permit, obligation: Obligation, read: Callable[[Params], T]) -> T:
    """The obligation's parameters as its duty reads them, or the refusal of the call."""
    try:
        return read(obligation.params)
    except WrongParameterError as error:
        raise impossible(permit, obligation, error.message) from None


_MESSAGES: Final = frozenset({"SendMessage", "SendStreamingMessage"})


def begins(call: Call) -> bool:
    """Whether something is done by it: a call, or a message; not a look at what came of one that was made before."""
    if call.arrival.protocol == "a2a":
        return call.method in _MESSAGES
    return call.direction != "resume"


class OfArguments(Protocol):
    """Terms that say whether they are about what is sent."""

    @property
    def arguments(self) -> bool: ...


def about_arguments(obligation: Obligation, kind: str, read: Callable[[Params], OfArguments]) -> bool:
    """Whether it is of this kind and about what is sent; so, too, where its parameters cannot be read."""
    if obligation.type != kind:
        return False
    try:
        return read(obligation.params).arguments
    except WrongParameterError:
        return True


# --- readers of parameters: strict, since a parameter that is ignored would weaken the duty


def only(params: Params, *known: str) -> Params:
    """The parameters, all of which must be known."""
    for name in params:
        if name not in known:
            raise WrongParameterError(name, f"unknown parameter {name}; known are {', '.join(known)}")
    return params


def words(params: Params, key: str, known: Sequence[str] | None = None) -> tuple[str, ...]:
    """A word or a list of words; none where the parameter is absent."""
    said = params.get(key, ())
    found = (said,) if isinstance(said, str) else said
    if not isinstance(found, list | tuple) or (key in params and not found) or len(found) > 256:
        raise WrongParameterError(key, f"{key} must be a list of names")
    for word in found:
        if not isinstance(word, str) or not word or len(word) > 256:
            raise WrongParameterError(key, f"{key} must be a list of names")
        if known is not None and word not in known:
            raise WrongParameterError(key, f"{key}: '{word[:60]}' is none of {', '.join(known)}")
    return tuple(dict.fromkeys(found))


def whole(params: Params, key: str, most: int, least: int = 1) -> int | None:
    """A whole number within bounds; None where the parameter is absent."""
    if key not in params:
        return None
    value = params[key]
    if type(value) is not int or not least <= value <= most:
        raise WrongParameterError(key, f"{key} must be a whole number from {least} to {most}")
    return value


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(params: Params, key: str, most: int = 31 * 86_400) -> int | None:
    """A time as `90s`, `30m`, `2h` or `7d`; None where the parameter is absent."""
    if key not in params:
        return None
    said = params[key]
    number, unit = (said[:-1], said[-1:]) if isinstance(said, str) else ("", "")
    if not (number.isascii() and number.isdigit() and len(number) <= 7) or unit not in _SECONDS:
        raise WrongParameterError(key, f"{key} must be a time: 90s, 30m, 2h or 7d")
    found = int(number) * _SECONDS[unit]
    if not 1 <= found <= most:
        raise WrongParameterError(key, f"{key} is at most {most // 86_400}d, and not nothing")
    return found
