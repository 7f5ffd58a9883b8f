"""`POST /oauth/token` and the metadata that names it (RFC 8414): bounded, strictly read, and recorded before a token leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from audit.model import Entry, LedgerUnavailableError
from gateway.asgi import DECISION_HEADER, ClientGoneError, Slots, make_arrival
from gateway.bodies import Bodies
from gateway.identity.dpop import ALGORITHMS
from gateway.identity.exchange import ACCESS_TOKEN, CLIENT_CREDENTIALS, JWT, TOKEN_EXCHANGE, Exchange, Issued
from gateway.identity.oauth_error import OAuthError
from gateway.model import Arrival, Principal, Refused
from gateway.reasons import PROSE, Code
from policies.model import AccessRequest, Decision
from policies.workflows.story import Step

if TYPE_CHECKING:
    from gateway.administration import Administration
    from gateway.policy.records import Append

HandedOn = AbstractAsyncContextManager[tuple[Decision, Step | None]]
"""Within it the record is written; what was reserved is given up where that fails."""

TOKEN_PATH: Final = "/oauth/token"
METADATA_PATH: Final = "/.well-known/oauth-authorization-server"
MOST_BYTES: Final = 64 * 1024
MOST_FIELDS: Final = 32
MOST_AT_ONCE: Final = 64
MOST_COMING: Final = 256
SECONDS: Final = 20.0
_FORM: Final = "application/x-www-form-urlencoded"
_NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_LATER: Final = frozenset({Code.LEDGER_UNAVAILABLE, Code.OVERLOADED, Code.INTERNAL_ERROR, Code.CREDENTIAL_UNAVAILABLE})
_TOLD: Final = frozenset({Code.DELEGATION_LOOP, Code.DELEGATION_TOO_DEEP, Code.TOO_LARGE, Code.INSUFFICIENT_SCOPE})


class Workflows(Protocol):
    """What the policy in force says of workflows."""

    def define(self, tenant: str, said: str) -> str | None:
        """The name of the definition that somebody means by its name or digest; None where there is none."""

    def handed_on(self, principal: Principal, request: AccessRequest, decision: Decision, call: str) -> HandedOn:
        """A hand-on has its place in the workflow's history as a message to that agent would; `Refused` by a rule."""


def register(  # noqa: PLR0917  what the endpoint is made of
    api: FastAPI, public_url: str, exchange: Exchange, administration: Administration, append: Append, workflows: Workflows
) -> None:
    """Add the routes."""
    desk = _Desk(exchange, administration, append, workflows)

    @api.post(TOKEN_PATH, tags=["oauth"])
    async def token(request: Request) -> JSONResponse:
        """Delegation tokens for agents (RFC 8693): begin a workflow, renew, hand on, or use a standing grant."""
        return await desk.answer(request)

    @api.get(METADATA_PATH, tags=["oauth"])
    async def metadata() -> JSONResponse:
        """What the token endpoint takes (RFC 8414).  People sign in at their own identity provider, never here."""
        return JSONResponse(_metadata(public_url, exchange.methods), headers={"Access-Control-Allow-Origin": "*"})


def _metadata(public_url: str, methods: tuple[str, ...]) -> dict[str, object]:
    return {
        "issuer": public_url,
        "token_endpoint": f"{public_url}{TOKEN_PATH}",
        "jwks_uri": f"{public_url}/.well-known/jwks.json",
        "response_types_supported": [],
        "grant_types_supported": [TOKEN_EXCHANGE, CLIENT_CREDENTIALS],
        "token_endpoint_auth_methods_supported": list(methods),
        "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "dpop_signing_alg_values_supported": list(ALGORITHMS),
    }


class _Desk:
    """One endpoint's bounds, and what it records."""

    def __init__(self, exchange: Exchange, administration: Administration, append: Append, workflows: Workflows) -> None:
        self._workflows = workflows
        self._exchange = exchange
        self._administration = administration
        self._append = append
        self._slots = Slots(MOST_AT_ONCE)
        self._bodies = Bodies(MOST_BYTES, MOST_COMING, seconds=SECONDS)

    async def answer(self, request: Request) -> JSONResponse:
        """The token, or the error that RFC 6749 §5.2 wants."""
        scope = {**request.scope, "method": request.method}
        arrival = make_arrival(scope, b"", protocol="mcp", target="", path="", clock=self._administration.clock)
        try:
            try:
                form = await self._form(request)
                with self._slots:
                    async with asyncio.timeout(SECONDS):
                        issued = await self._exchange.issue(arrival, form, self._judge, self._workflows.define)
                        await self._record(arrival, issued)
            except TimeoutError:
                raise Refused(Code.OVERLOADED, "token endpoint: it took too long") from None
        except OAuthError as error:
            await self._refused(arrival, error.refusal or Refused(Code.MALFORMED, f"token endpoint: {error.error}"))
            return _error(arrival, error.error, error.description)
        except Refused as refusal:
            await self._refused(arrival, refusal)
            return _refusal(arrival, refusal)
        kind = ACCESS_TOKEN if form.get("requested_token_type") == ACCESS_TOKEN else JWT
        now = self._administration.clock() // 1_000_000
        return JSONResponse(issued.answer(now, kind), headers=_NO_STORE | {DECISION_HEADER: arrival.id})

    def _judge(self, principal: Principal, request: AccessRequest) -> Decision:
        return self._administration.judge(principal)(request)

    async def _form(self, request: Request) -> Mapping[str, str]:
        """The form's fields that say something; `OAuthError` where it is not one plain form."""
        if request.scope.get("query_string"):
            raise OAuthError("invalid_request", "parameters stand in the body alone: an address ends up in logs")
        kinds = request.headers.getlist("content-type")
        if len(kinds) != 1 or kinds[0].partition(";")[0].strip().lower() != _FORM:
            raise OAuthError("invalid_request", f"the body is {_FORM}")
        try:
            body = await self._bodies.read(request.receive)
        except ClientGoneError:
            raise OAuthError("invalid_request", "the body did not come whole") from None
        except Refused as refusal:
            if refusal.code is Code.OVERLOADED:
                raise
            raise OAuthError("invalid_request", f"the body is {refusal.code.value}", refusal) from None
        return read_form(body)

    async def _refused(self, arrival: Arrival, refusal: Refused) -> None:
        """On record, as every refusal; one that cannot be recorded is a refusal all the same."""
        try:
            await self._administration.recorder.refusal(arrival, refusal)
        except Refused as unrecorded:
            if unrecorded.code is not Code.LEDGER_UNAVAILABLE:
                raise

    async def _record(self, arrival: Arrival, issued: Issued) -> None:
        """Durable on return: what cannot be recorded is not issued."""
        said, principal = issued.said, issued.principal
        wanted = f"{issued.way} {said.chain[-1]} until {said.expires}"
        if issued.request is not None and issued.decision is not None:
            handed = self._workflows.handed_on(principal, issued.request, issued.decision, arrival.id)
            wanted = f"{wanted} {said.jti}"
            async with handed as (decision, step):
                wish = self._administration.recorder.wish
                await wish("identity.delegate", arrival, principal, issued.request, decision, wanted, step)
            return
        fields: dict[str, object] = {
            "proto": "http",
            "target": "",
            "trace": arrival.trace.trace_id,
            "tenant": principal.tenant,
            "workflow": principal.workflow,
            "chain": [["user", "@subject"], *(["agent", actor] for actor in said.chain)],
            "auth": _auth(issued),
            "wanted": wanted,
            **({"definition": said.definition} if said.definition else {}),
            "token": {
                "jti": said.jti,
                "exp": said.expires,
                "ends": said.ends,
                "scope": list(said.scope) if said.scope is not None else ["*"],
                "assurance": said.assurance,
                "bound": bool(said.jkt),
            },
        }
        try:
            subject, tenant = principal.subject, principal.tenant
            await self._append(Entry("identity.delegate", arrival.id, arrival.at, subject, fields, tenant=tenant))
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error


def _auth(issued: Issued) -> dict[str, object]:
    principal = issued.principal
    auth: dict[str, object] = {"method": principal.method, "cred": principal.credential, "jti": principal.jti}
    return auth | {"grant": principal.grant} if principal.grant else auth


def read_form(body: bytes) -> Mapping[str, str]:
    """The fields of an `application/x-www-form-urlencoded` body; those without a value count as left out (RFC 6749 §3.2)."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=MOST_FIELDS
        )
    except ValueError:
        raise OAuthError("invalid_request", f"the body is no form of at most {MOST_FIELDS} fields") from None
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise OAuthError("invalid_request", "a parameter stands twice")
    return {name: value for name, value in pairs if value}


def _error(arrival: Arrival, error: str, description: str, status: int = 400) -> JSONResponse:
    headers = _NO_STORE | {DECISION_HEADER: arrival.id}
    if error == "invalid_client":
        status, headers = 401, headers | {"WWW-Authenticate": 'Basic realm="bailiwick"'}
    return JSONResponse({"error": error, "error_description": description}, status, headers=headers)


def _refusal(arrival: Arrival, refusal: Refused) -> JSONResponse:
    """What was well asked and is not given.  Of policy's reasons nobody is told more than that it said no."""
    if refusal.code in _LATER:
        return _error(arrival, "temporarily_unavailable", PROSE[refusal.code], 503)
    if refusal.code is Code.INSUFFICIENT_SCOPE:
        return _error(arrival, "invalid_scope", PROSE[refusal.code])
    told = PROSE[refusal.code] if refusal.code in _TOLD else "policy does not let this agent hand on to that one"
    return _error(arrival, "invalid_request", told)
