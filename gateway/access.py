"""OpenID AuthZEN 1.0: the decision point, asked over HTTP.  Every answer is recorded before it is given; nothing is forwarded.

A caller asks about itself.  Asking about others needs the right to `ask` on `admin:decisions`: no policy oracle for anybody else.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from msgspec.structs import replace as changed

from audit.model import Entry, LedgerUnavailableError, Receipt
from gateway.access_answers import Asked, answer, entry_of, exact
from gateway.api import problem
from gateway.asgi import small_body
from gateway.decided import Activated, nowhere
from gateway.identity import strictjson
from gateway.model import Clock, Principal, Refused, new_id
from gateway.problem import Problem
from gateway.reasons import Code
from gateway.scope import within
from gateway.workflows.asking import Answer
from policies import names
from policies.model import NOTHING, AccessRequest, Decision

EVALUATION: Final = "/access/v1/evaluation"
EVALUATIONS: Final = "/access/v1/evaluations"
METADATA: Final = "/.well-known/authzen-configuration"
MAX_BODY: Final = 256 * 1024
MAX_DEPTH: Final = 16
MAX_EVALUATIONS: Final = 50
MAX_TEXT: Final = 1000
MAX_SHARED: Final = 1024 * 1024
"""Bytes that a batch may have its questions share, counted once for each: with each of them they are recorded."""
ASK: Final = ("ask", "admin:decisions")
STOPS: Final = {"execute_all": None, "deny_on_first_deny": False, "permit_on_first_permit": True}
"""AuthZEN's semantics of a batch: the decision after which no further question is answered."""

_PARTS: Final = ("subject", "action", "resource", "context")
_WORKFLOW = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Access:
    """What the endpoint needs: who calls, who judges for them now, the ledger (durable on return), the clock, who is killed.

    ruled  what rules of workflows say: of who would call, the question, its decision, the workflow and the record's id.
    """

    public_url: str
    whoami: Callable[[Request], Awaitable[Principal]]
    judge: Callable[[Principal], Callable[[AccessRequest], Decision]]
    append: Callable[[Entry], Awaitable[Receipt]]
    clock: Clock
    dead: Callable[[Principal], bool]
    ruled: Callable[[Principal, AccessRequest, Decision, str, str], Awaitable[Answer]] | None = None
    activated: Activated = nowhere


class WrongError(Exception):
    """The request is no question; `where` names the member."""

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where


def add_access(api: FastAPI, access: Access) -> None:
    """Add the three routes."""

    @api.get(METADATA, tags=["authzen"])
    async def metadata() -> JSONResponse:
        """Where the decision point is asked (AuthZEN 1.0, policy decision point metadata)."""
        url = access.public_url
        return JSONResponse(
            {
                "policy_decision_point": url,
                "access_evaluation_endpoint": url + EVALUATION,
                "access_evaluations_endpoint": url + EVALUATIONS,
            }
        )

    @api.post(EVALUATION, tags=["authzen"])
    async def evaluation(request: Request) -> Response:
        """May this subject do this to that?"""
        return await _answered(request, access, batch=False)

    @api.post(EVALUATIONS, tags=["authzen"])
    async def evaluations(request: Request) -> Response:
        """Several questions at once, at most 50."""
        return await _answered(request, access, batch=True)


async def _answered(request: Request, access: Access, *, batch: bool) -> Response:
    principal = await access.whoami(request)  # from the frame alone: nothing of the body is read for a stranger
    try:
        body = _read(await _body(request))
        questions, stop = _questions(body, principal, access.clock(), batch=batch)
    except WrongError as wrong:
        return problem(400, Problem(Code.MALFORMED.value, wrong.message, wrong.where))
    except Refused as refusal:
        if refusal.code is Code.TOO_LARGE:
            return problem(413, Problem(Code.TOO_LARGE.value, f"at most {MAX_BODY} bytes are read"))
        return problem(400, Problem(refusal.code.value, "the body did not come whole and in time"))
    decide = access.judge(principal)  # one judge for the whole request, whatever comes into force meanwhile
    if any(asked.foreign for asked in questions):
        await _may_ask(principal, decide, access)
    answers, entries = [], []
    for each in questions:
        judge = access.judge(changed(principal, workflow=each.workflow)) if each.workflow else decide
        decision, asked, at = judge(each.request), _judged(each, principal, access), access.clock()
        record = new_id(at)
        if access.ruled is not None:
            ruled = await access.ruled(_caller(asked, principal), each.request, decision, asked.workflow, record)
            decision, asked = ruled.decision, replace(asked, ruled=ruled)
        entry = entry_of(record, at, principal, asked, decision, access.activated)
        entries.append(entry)
        answers.append(answer(entry.id, decision, asked))
        if answers[-1]["decision"] is stop:
            break
    await _record(entries, access)
    plain = answers[0] if not batch or not body.get("evaluations") else {"evaluations": answers}
    return JSONResponse(plain, headers=_headers(request))


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise WrongError("the body is JSON: send 'Content-Type: application/json'", "Content-Type")
    return await small_body(request.receive, MAX_BODY)


def _headers(request: Request) -> dict[str, str]:
    sent = request.headers.getlist("x-request-id")
    echoed = {"X-Request-ID": sent[0]} if len(sent) == 1 and _REQUEST_ID.fullmatch(sent[0]) else {}
    return {"Cache-Control": "no-store"} | echoed


# --- from bytes to questions


def _read(data: bytes) -> dict[str, Any]:
    """One JSON object, every member once, numbers exact: the caller enforces what was asked, not what a double makes of it."""
    try:
        strictjson.loads(data, MAX_DEPTH)
        body = json.loads(data, parse_float=Decimal)
    except ValueError as error:
        raise WrongError(f"the body is not JSON that is read here: {error}") from None
    if not isinstance(body, dict):
        raise WrongError("the body is an object")
    return body


def _questions(body: dict[str, Any], principal: Principal, at: int, *, batch: bool) -> tuple[list[Asked], bool | None]:
    _only(body, (*_PARTS, "evaluations", "options") if batch else _PARTS, "")
    options = _mapping(body.get("options", {}), "options")
    _only(options, ("evaluations_semantic",), "options")
    semantic = options.get("evaluations_semantic", "execute_all")
    if not isinstance(semantic, str) or semantic not in STOPS:
        raise WrongError(f"known are {', '.join(STOPS)}", "options.evaluations_semantic")
    items = body.get("evaluations", [])
    if not isinstance(items, list) or len(items) > MAX_EVALUATIONS:
        raise WrongError(f"a list of at most {MAX_EVALUATIONS} questions", "evaluations")
    shared: dict[str, Any] = {part: body[part] for part in _PARTS if part in body}
    if len(items) * len(orjson.dumps(exact(shared))) > MAX_SHARED:
        raise WrongError(
            f"what {len(items)} questions share is recorded with each: at most {MAX_SHARED} bytes of it", "evaluations"
        )
    if not items:  # as the standard has it: the request itself is the question
        return [_question(shared, principal, at, "")], None
    asked = []
    for number, item in enumerate(items):
        where = f"evaluations[{number}]"
        _only(_mapping(item, where), _PARTS, where)
        asked.append(_question(shared | item, principal, at, f"{where}."))
    return asked, STOPS[semantic]


def _question(item: Mapping[str, Any], principal: Principal, at: int, where: str) -> Asked:
    """A question with everything that it leaves out filled from the caller's own credential."""
    subject, own = _entity(item, "subject", ("actors", "groups"), where), _own(principal, at)
    action = _mapping(item.get("action"), f"{where}action")
    _only(action, ("name", "properties"), f"{where}action")
    given = _mapping(action.get("properties", {}), f"{where}action.properties")
    _only(given, ("arguments",), f"{where}action.properties")
    resource = _entity(item, "resource", (), where)
    name, kind = resource["id"], names.kind_of(resource["id"])
    request = changed(
        own,
        subject=f"{subject['type']}:{subject['id']}",
        action=_text(action.get("name"), f"{where}action.name"),
        resource=name if kind is not None and kind.name == resource["type"] else "",  # of another kind: known to nobody
        arguments=_mapping(given.get("arguments", {}), f"{where}action.properties.arguments"),
    )
    facts = _mapping(item.get("context", {}), f"{where}context")
    _only(facts, ("agent", "ctx", "workflow"), f"{where}context")
    workflow = _workflow(facts.pop("workflow"), f"{where}context.workflow") if "workflow" in facts else ""
    properties = subject["properties"]
    if "actors" in properties:
        request = changed(request, actors=tuple(_texts(properties["actors"], f"{where}subject.properties.actors")))
    elif request.subject != own.subject:
        request = changed(request, actors=())
    if "groups" in properties:
        request = changed(request, groups=frozenset(_texts(properties["groups"], f"{where}subject.properties.groups")))
    elif request.subject != own.subject:
        request = changed(request, groups=frozenset())
    if facts:
        read = {key: _mapping(value, f"{where}context.{key}") for key, value in facts.items()}
        request = changed(request, context=dict(own.context) | read)
    same = (own.subject, own.actors, own.groups, own.context)
    foreign = (request.subject, request.actors, request.groups, request.context) != same
    foreign = foreign or workflow not in ("", principal.workflow)
    return Asked(request, foreign, item, not foreign and not within(principal.scope, request.resource), workflow=workflow)


def _workflow(value: object, where: str) -> str:
    name = _text(value, where)
    if _WORKFLOW.fullmatch(name) is None:
        raise WrongError("the id of a workflow is needed", where)
    return name


def _own(principal: Principal, at: int) -> AccessRequest:
    """What every question about the caller itself has."""
    return AccessRequest(
        subject=principal.subject,
        actors=principal.actors,
        tenant=principal.tenant,
        action=ASK[0],
        resource=ASK[1],
        at=at,
        groups=principal.groups,
        arguments=NOTHING,
        context=principal.facts("authzen", "evaluation", "1.0"),
    )


def _entity(item: Mapping[str, Any], part: str, properties: tuple[str, ...], where: str) -> dict[str, Any]:
    given = _mapping(item.get(part), f"{where}{part}")
    _only(given, ("type", "id", "properties"), f"{where}{part}")
    own = _mapping(given.get("properties", {}), f"{where}{part}.properties")
    _only(own, properties, f"{where}{part}.properties")
    read = {key: _text(given.get(key), f"{where}{part}.{key}") for key in ("type", "id")}
    return {**read, "properties": own}


def _only(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """What is not understood is refused: the caller may have meant it to matter."""
    for key in given:
        if key not in known:
            place = f"{where}.{key}".strip(".")[:200]
            raise WrongError(f"this member is not read here; known are {', '.join(known) or 'none'}", place)


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WrongError("an object is needed", where)
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT:
        raise WrongError(f"a text of 1 to {MAX_TEXT} characters is needed", where)
    return value


def _texts(value: object, where: str) -> list[str]:
    if not isinstance(value, list) or len(value) > 200:
        raise WrongError("a list of at most 200 texts is needed", where)
    return [_text(each, where) for each in value]


# --- who may ask about others


async def _may_ask(principal: Principal, decide: Callable[[AccessRequest], Decision], access: Access) -> None:
    """Raise `Refused` unless policy lets the caller's whole chain ask about others; the refusal is recorded."""
    asking = Asked(_own(principal, access.clock()), foreign=False, said={}, outside=not within(principal.scope, ASK[1]))
    decision = decide(asking.request)
    fulfilled = all(duty.type == "audit" for duty in decision.obligations)  # which the records fulfil
    if decision.allowed and fulfilled and not asking.outside:
        return
    at = access.clock()
    await _record([entry_of(new_id(at), at, principal, asking, decision, access.activated)], access)
    if not decision.allowed:
        raise Refused(Code(decision.reason.value), decision=decision)
    raise Refused(Code.INSUFFICIENT_SCOPE if asking.outside else Code.DUTY_FAILED, decision=decision)


def _caller(asked: Asked, principal: Principal) -> Principal:
    """Who would call: of others as they would be, had they signed in just now."""
    request, now = asked.request, asked.request.at // 1_000_000
    if not asked.foreign:
        return principal
    return Principal(request.subject, request.actors, request.tenant, "", now, "authzen", "", issued=now)


def _judged(asked: Asked, principal: Principal, access: Access) -> Asked:
    """With what kills say.  `Refused` where it is not known."""
    request, principal = asked.request, _caller(asked, principal)
    to = (f"agent:{request.resource[4:]}",) if request.resource.startswith("a2a:") else ()
    return replace(asked, revoked=access.dead(changed(principal, actors=(*principal.actors, *to))))


async def _record(entries: list[Entry], access: Access) -> None:
    try:
        await asyncio.gather(*(access.append(entry) for entry in entries))
    except LedgerUnavailableError as error:
        raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error
