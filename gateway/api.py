"""The JSON API beside the data plane: health, metrics, the log's public head, OAuth metadata, and who one is.

Nothing here forwards a call; nothing here decides about one.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from gateway.model import Principal, Refused
from gateway.pages import form
from gateway.policy.routes import PolicyDoor
from gateway.policy.routes import register as register_policy
from gateway.problem import Problem
from gateway.protected import METADATA, PROBED, metadata
from gateway.reasons import PROSE, Code

_ADDRESS = re.compile(r"|/mcp|/(mcp|a2a)/[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_FOR_PAGES = {"Access-Control-Allow-Origin": "*", "Cache-Control": "public, max-age=300"}
_PREFLIGHT = {"Access-Control-Allow-Methods": "GET", "Access-Control-Allow-Headers": "*", "Access-Control-Max-Age": "600"}
PROBLEM_JSON = "application/problem+json"
MOST_FORM_BYTES: Final = 1024
_STATUS = {
    Code.NO_CREDENTIAL: 401,
    Code.INVALID_CREDENTIAL: 401,
    Code.REVOKED: 401,
    Code.LEDGER_UNAVAILABLE: 503,
    Code.OVERLOADED: 503,
    Code.INTERNAL_ERROR: 500,
}


@dataclass(frozen=True, slots=True)
class Doors:
    """What the API may look at, as callables: it holds no store and no key.

    issuers      who issues tokens; scopes: what these must have.
    faults       what keeps the gateway from working now; empty: ready.
    metrics      Prometheus' text format.
    remembered   who outside remembers the log, in words; and what of that should be looked at.
    checkpoint   the latest signed head of the log (C2SP signed note), or None before the first.
    whoami       authenticates the request's frame.
    policy       what is in force, and who may change it.
    issue        the development issuer, by a person's name; None where there is none.
    """

    public_url: str
    issuers: tuple[str, ...]
    scopes: tuple[str, ...]
    faults: Callable[[], Mapping[str, str]]
    metrics: Callable[[], bytes]
    remembered: Callable[[], tuple[str, Mapping[str, str]]]
    checkpoint: Callable[[], Awaitable[str | None]]
    whoami: Callable[[Request], Awaitable[Principal]]
    policy: PolicyDoor
    issue: Callable[[str], str] | None = None


def make_api(doors: Doors) -> FastAPI:
    """The FastAPI application; its routes never overlap the data plane's, which are taken before it."""
    api = FastAPI(title="Bailiwick", version=version("bailiwick"), docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    _health(api, doors)
    _public(api, doors)
    register_policy(api, doors.policy)
    _errors(api)
    if doors.issue is not None:
        _development(api, doors.issue)
    return api


def _health(api: FastAPI, doors: Doors) -> None:
    @api.get("/healthz", tags=["health"], response_class=PlainTextResponse)
    async def healthz() -> str:
        """The process answers."""
        return "ok\n"

    @api.get("/readyz", tags=["health"])
    async def readyz() -> JSONResponse:
        """Calls can be decided, recorded and forwarded; 503 names what cannot, `degraded` what should be looked at."""
        faults = dict(doors.faults())
        ledger, wrong = doors.remembered()
        answer: dict[str, Any] = {"ready": not faults, "faults": faults, "ledger": ledger}
        degraded = dict(wrong)
        if doors.policy.opened.activation.stale:  # it works, by the last good bundle
            degraded["policy"] = "stale"
        if degraded:
            answer["degraded"] = degraded
        return JSONResponse(answer, status_code=503 if faults else 200)

    @api.get("/metrics", tags=["health"])
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(doors.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _public(api: FastAPI, doors: Doors) -> None:
    @api.get("/api/version", tags=["api"])
    async def show_version() -> dict[str, str]:
        """The version that runs."""
        return {"name": "bailiwick", "version": api.version}

    @api.get("/api/checkpoint", tags=["ledger"])
    async def checkpoint() -> Response:
        """The latest signed head of the ledger (C2SP tlog-checkpoint): keep it elsewhere, and a rewritten log is found."""
        note = await doors.checkpoint()
        if note is None:
            return problem(404, Problem("no-checkpoint", "nothing has been recorded yet"))
        return PlainTextResponse(note)

    @api.get("/api/whoami", tags=["api"])
    async def whoami(request: Request) -> dict[str, Any]:
        """As whom the presented credential acts."""
        principal = await doors.whoami(request)
        return {
            "subject": principal.subject,
            "actors": list(principal.actors),
            "groups": sorted(principal.groups),
            "tenant": principal.tenant,
            "workflow": principal.workflow,
            "method": principal.method,
        }

    _protected(api, doors)


def _protected(api: FastAPI, doors: Doors) -> None:
    """RFC 9728, for every name the same, so that it tells nobody which servers exist; and nothing where clients look for more.

    Web pages may read it: it is public, and clients that run in them send headers for which browsers ask first.
    """

    @api.get(METADATA + "{path:path}", tags=["oauth"])
    async def protected_resource(path: str) -> Response:
        """Who issues tokens for this address: the gateway as a whole, `/mcp`, `/mcp/<server>` or `/a2a/<agent>`."""
        if _ADDRESS.fullmatch(path) is None:
            return Response(status_code=404)
        return JSONResponse(metadata(doors.public_url, path, doors.issuers, doors.scopes), headers=_FOR_PAGES)

    @api.options(METADATA + "{path:path}", include_in_schema=False)
    async def preflight(path: str) -> Response:
        """What a browser asks before it lets a page read it."""
        return Response(status_code=204 if _ADDRESS.fullmatch(path) else 404, headers=_FOR_PAGES | _PREFLIGHT)


def _development(api: FastAPI, issue: Callable[[str], str]) -> None:
    @api.post("/dev/token", tags=["development"])
    async def dev_token(request: Request) -> JSONResponse:
        """An access token of the development issuer for the form's `user`.  Exists on a loopback address alone."""
        try:
            user = (await form(request, MOST_FORM_BYTES)).get("user", "")
        except ValueError as error:
            return problem(422, Problem("invalid-request", str(error)))
        if not user:
            return problem(422, Problem("invalid-request", "the form has no `user`", location="body.user"))
        try:
            token = issue(user)
        except KeyError:
            return problem(404, Problem("unknown-person", "the development issuer does not know this person"))
        return JSONResponse({"access_token": token, "token_type": "Bearer"}, headers={"Cache-Control": "no-store"})


def _errors(api: FastAPI) -> None:
    @api.exception_handler(404)
    async def missing(request: Request, error: HTTPException) -> Response:
        if PROBED in request.url.path or request.url.path == "/register":
            return Response(status_code=404)  # clients that look for an authorization server here read any JSON as its metadata
        return await http_exception_handler(request, error)

    @api.exception_handler(Refused)
    async def refused(_request: Request, refusal: Refused) -> Response:
        answer = problem(_STATUS.get(refusal.code, 403), Problem(refusal.code.value, PROSE[refusal.code]))
        if answer.status_code == 401 and refusal.code is not Code.NO_CREDENTIAL:
            answer.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'  # RFC 6750 §3.1
        answer.headers.update(dict(refusal.challenge))
        return answer

    @api.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        where = ".".join(str(part) for part in error.errors()[0].get("loc", ()))
        return problem(422, Problem("invalid-request", str(error.errors()[0].get("msg", "")), location=where))


def problem(status: int, what: Problem) -> JSONResponse:
    """RFC 9457 problem details."""
    body = {"type": "about:blank", "title": what.code, "status": status, "detail": what.message, "instance": what.location}
    challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({k: v for k, v in body.items() if v != ""}, status, headers=challenge, media_type=PROBLEM_JSON)
