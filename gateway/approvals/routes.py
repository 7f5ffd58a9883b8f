"""`/api/approvals`: calls that wait for a person's yes; for whoever may give it, and for those on whose behalf they are made.

A person in their own hands alone may say yes or no: an agent is refused, whoever it acts for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway.approvals.approvals import Standing, about_of, iso
from gateway.approvals.saying import Over, is_own, is_person, may, said
from gateway.asked import asked
from gateway.model import Principal, Refused
from gateway.reasons import Code
from gateway.state.approvals import State

if TYPE_CHECKING:
    from gateway.administration import Administration
    from gateway.approvals.approvals import Approvals
    from gateway.state.approvals import Parked

PATH: Final = "/api/approvals"
_MOST_BYTES: Final = 4096
_ID: Final = re.compile(r"[0-9a-f-]{36}")


class No(BaseModel):
    """Why not; the reason is sealed in the ledger."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str = Field("", max_length=1000)


class Yes(BaseModel):
    """Yes to the call with this digest: to what was looked at, and to nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True)

    digest: str = Field(min_length=1, max_length=80)


def register(api: FastAPI, desk: Desk) -> None:
    """Add the routes."""

    @api.get(PATH, tags=["approvals"])
    async def listed(request: Request, over: Annotated[bool, Query(alias="all")] = False) -> dict[str, Any]:
        """Those that you may approve, and those of calls that are made for you; with `all` also those that are over."""
        return {"approvals": await desk.listed(request, over=over)}

    @api.get(PATH + "/{name}", tags=["approvals"])
    async def show(request: Request, name: str) -> JSONResponse:
        """One of them with everything that its digest is of: the exact call, for whom, through which agents, by which policy."""
        found = await desk.show(request, name)
        return _none() if found is None else JSONResponse(found)

    @api.post(PATH + "/{name}/approve", tags=["approvals"])
    async def approve(request: Request, name: str) -> JSONResponse:
        """Say yes to the call with that digest.  409 where nothing can be said to it any more."""
        principal = await desk.person(request)
        said = await asked(request, Yes, _MOST_BYTES)
        return await _answered(desk, request, principal, name, said)

    @api.post(PATH + "/{name}/deny", tags=["approvals"])
    async def deny(request: Request, name: str) -> JSONResponse:
        """Say no: the same call is refused until the approval's time is over."""
        principal = await desk.person(request)
        said = await asked(request, No, _MOST_BYTES)
        return await _answered(desk, request, principal, name, said)


async def _answered(desk: Desk, request: Request, principal: Principal, name: str, said: Yes | No) -> JSONResponse:
    from gateway.api import problem  # noqa: PLC0415  it registers these routes
    from gateway.problem import Problem  # noqa: PLC0415

    try:
        found = await desk.said(request, principal, name, said)
    except Over as over:
        return problem(409, Problem("approval-over", over.why))
    return _none() if found is None else JSONResponse(found)


def _none() -> JSONResponse:
    from gateway.api import problem  # noqa: PLC0415  it registers these routes
    from gateway.problem import Problem  # noqa: PLC0415

    return problem(404, Problem("unknown-approval", "there is no such approval, or it is not yours to know of"))


class Desk:
    """What the routes do, and the page."""

    def __init__(self, approvals: Approvals, administration: Administration) -> None:
        self._approvals = approvals
        self._administration = administration

    async def person(self, request: Request) -> Principal:
        """A person in their own hands; Refused for anybody else, before anything of the body is read."""
        principal = await self._administration.whoami(request)
        if not is_person(principal):
            await self._administration.refuse(request, principal, Code.AGENT_LACKS_RIGHT, "approvals are for people's own hands")
        return principal

    async def listed(self, request: Request, *, over: bool) -> list[dict[str, Any]]:
        """Newest first."""
        principal = await self._administration.whoami(request)
        found = []
        for row in await self._approvals.rows.listed(principal.tenant, self._approvals.clock(), over=over):
            standing = await self._approvals.standing(row)
            mine, can = is_own(principal, row), may(self._approvals, principal, standing)[1]
            if mine or can:
                found.append(shown(standing, self._approvals.clock()) | {"mine": mine, "may_approve": bool(can)})
        return found

    async def show(self, request: Request, name: str) -> dict[str, Any] | None:
        """None where there is none that this caller may know of."""
        principal = await self._administration.whoami(request)
        row = await self._row(principal, name)
        if row is None:
            return None
        standing = await self._approvals.standing(row)
        mine, can = is_own(principal, row), may(self._approvals, principal, standing)[1]
        if not mine and not can:
            return None
        return self._full(standing) | {"mine": mine, "may_approve": bool(can)}

    async def said(self, request: Request, principal: Principal, name: str, words: Yes | No) -> dict[str, Any] | None:
        """How it stands after a person's yes or no; None where there is none that they may know of, `Over` where it is over."""
        office, approvals = self._administration, self._approvals
        row = await self._row(principal, name)
        if row is None:
            await office.note(request, Refused(Code.NOT_OWNER, "no such approval", principal=principal))
            return None
        digest, reason = (words.digest, "") if isinstance(words, Yes) else (None, words.reason)
        try:
            after = await said(approvals, row, principal, digest, reason)
        except Refused as refusal:
            if refusal.code is Code.SAME_HANDS:
                await office.refuse(request, principal, refusal.code, refusal.detail)
            if refusal.code is not Code.USER_LACKS_RIGHT:
                raise
            await office.note(request, refusal)
            if not is_own(principal, row):
                return None
            raise Refused(Code.USER_LACKS_RIGHT, row.id) from None
        return None if after is None else self._full(await approvals.standing(after))

    async def _row(self, principal: Principal, name: str) -> Parked | None:
        row = await self._approvals.rows.get(name) if _ID.fullmatch(name) else None
        return row if row is not None and row.tenant == principal.tenant else None

    def _full(self, standing: Standing) -> dict[str, Any]:
        kept = standing.kept
        return shown(standing, self._approvals.clock()) | {"call": about_of(kept), "because": list(kept.because)}


def shown(standing: Standing, now: int) -> dict[str, Any]:
    """As the API and the command line list it."""
    row, kept = standing.row, standing.kept
    state = row.state
    if state == State.OPEN:
        expired, void = row.expires_at <= now, bool(standing.void)
        state = "expired" if expired else "void" if void else "granted" if standing.granted else "open"
    return {
        "id": row.id,
        "state": state,
        "resource": row.resource,
        "subject": row.subject,
        "actors": list(kept.principal.actors),
        "workflow": row.workflow,
        "duties": [name for name, _ in kept.duties],
        "missing": list(standing.missing),
        "approved_by": list(standing.by),
        "digest": row.digest,
        "policy": row.bundle,
        "asked": iso(row.created_at),
        "expires": iso(row.expires_at),
        "used_by": row.used_by,
    }
