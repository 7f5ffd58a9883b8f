"""What a duty of type `human-approval` demands: who may approve, and for how long an approval is good."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from policies.membership import kind_of
from policies.model import Match, Obligation

if TYPE_CHECKING:
    from policies.rules import Rule

TYPE: Final = "human-approval"
ACTION: Final = "approve"
PREFIX: Final = "approval:"
USUAL_SECONDS: Final = 4 * 3600
MOST_SECONDS: Final = 30 * 24 * 3600
MOST_WAIT: Final = 300
MOST_NAMES: Final = 32

_PARAMS: Final = frozenset({"by", "not_same_user", "within", "wait", "asks"})
_ASKS: Final = {"protocol": True, "error": False}
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_SPAN: Final = re.compile(r"([1-9][0-9]{0,6})([smhd])")
_APPROVERS: Final = ("user", "idp", "role")


class WrongTermsError(ValueError):
    """Parameters that demand nothing that can be had; `key` is the one that is wrong."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True, slots=True)
class Terms:
    """One duty.

    by             people, groups and roles that may approve; empty: whom lines on `approval:` objects allow it.
    not_same_user  whether the person on whose behalf the call is made may not be the one who approves.
    within         seconds from the question to the end of its approval.
    wait           seconds for which the call is held open, 0 for none.
    asks           whether it is asked for as the protocol has it (MCP's elicitation, A2A's input-required), where the
                   caller can be asked so; otherwise the call is answered with a refusal.
    """

    by: tuple[str, ...] = ()
    not_same_user: bool = True
    within: int = USUAL_SECONDS
    wait: int = 0
    asks: bool = True


def terms_of(params: Mapping[str, object]) -> Terms:
    """The terms of these parameters; `WrongTermsError` for one that is unknown or wrong: ignoring it would weaken the duty."""
    unknown = sorted(set(params) - _PARAMS)
    if unknown:
        raise WrongTermsError(unknown[0], f"unknown parameter {unknown[0]}")
    same = params.get("not_same_user", True)
    if not isinstance(same, bool):
        raise WrongTermsError("not_same_user", "not_same_user is true or false")
    asks = params.get("asks", "protocol")
    if not isinstance(asks, str) or asks not in _ASKS:
        raise WrongTermsError("asks", "asks is protocol or error")
    return Terms(
        _names(params.get("by", ())),
        same,
        _seconds(params, "within", USUAL_SECONDS, MOST_SECONDS),
        _seconds(params, "wait", 0, MOST_WAIT),
        _ASKS[asks],
    )


def _names(said: object) -> tuple[str, ...]:
    found = (said,) if isinstance(said, str) else said
    if not isinstance(found, list | tuple) or len(found) > MOST_NAMES:
        raise WrongTermsError("by", "by is a name, or a list of names")
    for each in found:
        if not isinstance(each, str) or kind_of(each) not in _APPROVERS:
            raise WrongTermsError("by", "by names people: user:<issuer>/<sub>, idp:<group> or role:<name>")
    return tuple(dict.fromkeys(found))


def _seconds(params: Mapping[str, object], key: str, usual: int, most: int) -> int:
    said = params.get(key)
    if said is None:
        return usual
    match = _SPAN.fullmatch(said) if isinstance(said, str) else None
    seconds = int(match[1]) * _UNITS[match[2]] if match is not None else 0
    if not 1 <= seconds <= most:
        raise WrongTermsError(key, f"{key} is a span of at most {most} seconds, as 90s, 30m, 4h")
    return seconds


def object_of(resource: str) -> str:
    """The object that approvers are asked about."""
    return PREFIX + resource


class Line(NamedTuple):
    """A line that nobody wrote: whom a duty's `by` names may approve what the `require` line that names it is about."""

    who: str
    tenant: str
    tool: str
    duty: str
    match: Match


def lines(rules: Iterable[Rule], obligations: Mapping[str, Obligation], sets: Mapping[str, Collection[str]]) -> Iterator[Line]:
    """Those of a bundle.  Of a duty whose terms are wrong none: it fails for every call."""
    for rule in rules:
        duty = obligations[rule.must] if rule.must else None
        if duty is None or duty.type != TYPE:
            continue
        try:
            by = terms_of(duty.params).by
        except WrongTermsError:
            continue
        for tool in sorted(sets.get(rule.tool, (rule.tool,))):
            of_set = f":{tool}" if rule.tool in sets else ""
            for number, who in enumerate(by):
                match = Match(f"{rule.id}:by:{number}{of_set}", "allow", rule.source)
                yield Line(who, rule.tenant, object_of(tool), duty.name, match)
