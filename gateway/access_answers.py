"""AuthZEN's answers and their records: what a caller is told of a decision that was only asked about, and what stands of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson
from msgspec.structs import replace

from audit.model import Entry, Value
from gateway.decided import Activated, decided
from gateway.model import Principal
from gateway.reasons import Code
from gateway.workflows.asking import Answer
from policies.model import AccessRequest, Decision, Obligation, Role
from policies.sentence import explain


@dataclass(frozen=True, slots=True)
class Asked:
    """One question.

    foreign  it is not the caller's own subject, chain and facts.
    said     what stood in the request.
    outside  the caller's own workflow was begun for less than this: then no rule can allow it.
    revoked  somebody whom it is about, or the agent that would be sent to, was killed.
    workflow in which it is asked about, "" where none is named; `ruled` what its rules say.
    """

    request: AccessRequest
    foreign: bool
    said: Mapping[str, Any]
    outside: bool = False
    revoked: bool = False
    workflow: str = ""
    ruled: Answer | None = None


def answer(entry: str, decision: Decision, asked: Asked) -> dict[str, Any]:
    """AuthZEN's shape.  What the caller may not know of is answered as the unknown, unless it may ask about others."""
    shown = decision.allowed or decision.visible or asked.foreign
    if decision.allowed and (asked.revoked or asked.outside):
        reason = Code.REVOKED if asked.revoked else Code.INSUFFICIENT_SCOPE
        return {"decision": False, "context": {"id": entry, "reason": reason.value}}
    context: dict[str, Any] = {"id": entry, "reason": (decision.reason if shown else Code.UNKNOWN_RESOURCE).value}
    if decision.obligations:
        context["obligations"] = [_duty(duty) for duty in decision.obligations]
    ruled = asked.ruled
    if ruled is not None and (ruled.asked or ruled.held):
        context["workflow"] = _workflows(ruled)
    return {"decision": decision.allowed, "context": context}


def _workflows(ruled: Answer) -> dict[str, Any]:
    """Whether rules of workflows were asked, and what would have to come first: names of steps, never a value."""
    if not ruled.asked:
        return {"asked": False}
    refused = ruled.decision.ruling.refused if ruled.decision.ruling is not None else ()
    missing = dict.fromkeys(name for each in refused for name in each.missing)
    return {"asked": True, "id": ruled.asked, **({"missing": list(missing)} if missing else {})}


def _duty(duty: Obligation) -> dict[str, Any]:
    return {"id": duty.name, "type": duty.type, "properties": _plain(duty.params)}


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Decimal) else value


def exact(value: object) -> Any:
    """The same, with every number as it was written, however long: the question can be asked again from its record."""
    if isinstance(value, Mapping):
        return {str(key): exact(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [exact(inner) for inner in value]
    return orjson.Fragment(str(value)) if isinstance(value, Decimal) or type(value) is int else value


def entry_of(  # noqa: PLR0917  what stands in it
    record: str, at: int, principal: Principal, asked: Asked, decision: Decision, activated: Activated
) -> Entry:
    """Who asked, and what came of it.  About whom, where it is somebody else, is in the committed question alone."""
    request, ruled = asked.request, asked.ruled
    judged = decision if ruled is not None and ruled.asked else replace(decision, ruling=None)
    fields: dict[str, object] = {
        "proto": "authzen",
        "tenant": principal.tenant,
        "workflow": principal.workflow,
        "chain": [["user", "@subject"], *(["agent", actor] for actor in principal.actors)],
        "auth": {
            "method": principal.method,
            "cred": principal.credential,
            "jti": principal.jti,
            "assurance": principal.assurance,
        },
        "outside": asked.outside,
        "revoked": asked.revoked,
        "about": "other" if asked.foreign else "self",
        "action": request.action,
        "resource": request.resource,
        "decision": decided(judged, activated, lambda question: _who(question.principal, question.role, asked)),
    }
    said = {
        "question": asked.said, "subject": request.subject, "actors": request.actors, "groups": sorted(request.groups),
        "context": request.context, "at": request.at,
    }  # fmt: skip
    if ruled is not None and ruled.asked:
        fields["asked_of"] = ruled.asked
        fields |= {"definition": principal.definition} if principal.definition and not asked.foreign else {}
    whose = request.subject if asked.foreign and request.subject != principal.subject else None  # it goes when they are erased
    question = orjson.dumps(exact(said), option=orjson.OPT_SORT_KEYS)
    values = Value("question", question, whose), Value("explanation", explain(request, decision).encode(), whose)
    return Entry("decision.evaluate", record, at, principal.subject, fields, values, tenant=principal.tenant)


def _who(name: str, role: Role, asked: Asked) -> str:
    if role is not Role.SUBJECT:
        return name
    return "other" if asked.foreign else "@subject"
