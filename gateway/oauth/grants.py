"""`/api/grants`: what people let agents do in their name while they are away, and taking that back.

For the person, in their own hands; for others, where policy grants `read` or `change` on `admin:grants`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from audit.model import Entry, LedgerUnavailableError
from gateway.asked import asked, invalid
from gateway.identity.standing import Standing, Wanted, WrongGrantError
from gateway.model import Principal, Refused, new_id
from gateway.reasons import Code
from gateway.state.grants import Grant
from gateway.state.kills import ADMIN, SELF, Kill

if TYPE_CHECKING:
    from gateway.administration import Administration
    from gateway.identity.revocation import Kills
    from gateway.policy.records import Append

PATH: Final = "/api/grants"
_MOST_BYTES: Final = 16 * 1024
_LONGEST: Final = 64 * 257


class Body(BaseModel):
    """The grant that somebody wants to make; `ends` in epoch seconds."""

    model_config = ConfigDict(extra="forbid", strict=True)

    agent: str = Field(min_length=1, max_length=63)
    scope: str = Field(min_length=1, max_length=_LONGEST)
    ends: int
    definition: str = Field("", max_length=128)


def register(api: FastAPI, standing: Standing, kills: Kills, administration: Administration, append: Append) -> None:
    """Add the routes."""
    desk = _Desk(standing, kills, administration, append)

    @api.post(PATH, tags=["grants"], status_code=201)
    async def add(request: Request) -> JSONResponse:
        """Let an agent begin work in your name later, within a scope, until an end."""
        return JSONResponse(await desk.add(request), 201)

    @api.get(PATH, tags=["grants"])
    async def listed(request: Request, everybody: Annotated[bool, Query()] = False) -> dict[str, Any]:
        """Your own; with `everybody` those of your tenant that are not revoked."""
        return await desk.listed(request, everybody=everybody)

    @api.delete(PATH + "/{name}", tags=["grants"])
    async def revoke(request: Request, name: str) -> JSONResponse:
        """Take one back: what runs by it ends, on every replica.  404 where there is none to take back."""
        revoked = await desk.revoke(request, name)
        if revoked is None:
            from gateway.api import problem  # noqa: PLC0415  it registers these routes
            from gateway.problem import Problem  # noqa: PLC0415

            return problem(404, Problem("unknown-grant", "there is no such standing grant in force"))
        return JSONResponse(revoked)


class _Desk:
    """What the routes do."""

    def __init__(self, standing: Standing, kills: Kills, administration: Administration, append: Append) -> None:
        self._standing = standing
        self._kills = kills
        self._administration = administration
        self._append = append

    async def add(self, request: Request) -> dict[str, Any]:
        """The grant, on record and kept."""
        principal = await self._own(request)
        body = await asked(request, Body, _MOST_BYTES)
        try:
            grant = self._standing.made(Wanted(body.agent, body.scope, body.ends, body.definition), principal)
        except WrongGrantError as error:
            raise invalid(str(error), error.member) from None
        await self._record("grant.set", grant.id, grant, principal)
        await self._standing.grants.add(grant)
        return shown(grant)

    async def listed(self, request: Request, *, everybody: bool) -> dict[str, Any]:
        """Newest first."""
        if everybody:
            wish = await self._administration.permit(request, "read", "grants", "grant.set", "")
            found = await self._standing.grants.all(wish.principal.tenant)
        else:
            principal = await self._own(request)
            found = await self._standing.grants.of(principal.tenant, principal.subject)
        return {"grants": [shown(grant) for grant in found]}

    async def revoke(self, request: Request, name: str) -> dict[str, Any] | None:
        """The grant as it is now; None where there is none in force that this caller may know of."""
        principal, clock = await self._administration.whoami(request), self._administration.clock
        grant = await self._standing.grants.get(name) if name.isascii() and name.isprintable() else None
        own = grant is not None and not principal.actors
        own = own and grant is not None and (grant.tenant, grant.subject) == (principal.tenant, principal.subject)
        wish = ""
        if not own:
            wanted = grant.id if grant is not None else "an id that is none"
            wish = (await self._administration.permit(request, "change", "grants", "grant.revoke", wanted, principal)).id
        if grant is None or grant.tenant != principal.tenant or grant.revoked_at is not None:
            return None
        at = clock()
        if own:
            await self._record("grant.revoke", new_id(at), grant, principal)
        await self._standing.grants.revoke(grant.id, at // 1_000_000)
        source, by = (SELF if own else ADMIN), principal.subject
        kill = Kill(new_id(at), "grant", grant.id, None, "the standing grant was revoked", source, by, at)
        ended = True
        try:
            await self._kills.kill(kill, about=principal.subject if own else None, request=wish)
        except Refused as refusal:
            if refusal.code is not Code.OVERLOADED:
                raise
            ended = False  # no renewal any more, so what runs by it ends with its tokens, minutes from now
        revoked = await self._standing.grants.get(grant.id)
        return None if revoked is None else shown(revoked) | {"ended": ended}

    async def _own(self, request: Request) -> Principal:
        """The person in their own hands; Refused for anybody else, before anything of the body is read."""
        principal = await self._administration.whoami(request)
        if principal.actors or not principal.subject.startswith("user:"):
            why = "standing grants are for people's own hands"
            await self._administration.refuse(request, principal, Code.AGENT_LACKS_RIGHT, why)
        return principal

    async def _record(self, kind: str, name: str, grant: Grant, principal: Principal) -> None:
        """Durable on return, or Refused(LEDGER_UNAVAILABLE)."""
        fields: dict[str, object] = {
            "proto": "http",
            "target": "",
            "tenant": principal.tenant,
            "workflow": principal.workflow,
            "chain": [["user", "@subject"]],
            "auth": {"method": principal.method, "cred": principal.credential, "jti": principal.jti},
            "grant": grant.id,
            "agent": f"agent:{grant.agent}",
            "scope": grant.scope.split(" "),
            "definition": grant.definition,
            "ends": grant.ends,
        }
        at = self._administration.clock()
        try:
            await self._append(Entry(kind, name, at, principal.subject, fields, tenant=principal.tenant))
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error


def shown(grant: Grant) -> dict[str, Any]:
    """As the API and the command line show it."""
    return {
        "id": grant.id,
        "subject": grant.subject,
        "agent": grant.agent,
        "scope": grant.scope,
        "definition": grant.definition,
        "ends": _time(grant.ends),
        "made": _time(grant.created_at),
        "revoked": None if grant.revoked_at is None else _time(grant.revoked_at),
    }


def _time(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
