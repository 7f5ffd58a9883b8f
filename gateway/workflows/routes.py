"""`/api/workflows`: where workflows stand, for the person whose they are, and for those to whom policy grants it.

An agent is told nothing here, whoever it acts for: it hears what is missing when a call is refused, and no more.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse

from gateway.model import Clock, Principal, Refused
from gateway.reasons import Code
from gateway.workflows import views

if TYPE_CHECKING:
    from gateway.administration import Administration
    from gateway.state.standing import Standings
    from policies.workflows.model import Workflows

PATH: Final = "/api/workflows"
AREA: Final = "workflows"
_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_UNFIT: Final = frozenset({Code.LEDGER_UNAVAILABLE, Code.OVERLOADED, Code.INTERNAL_ERROR})
"""Refusals that say nothing of who asks."""

Known = Callable[[str], "Workflows"]
"""The definitions that decide in a workflow, by its id."""


def register(api: FastAPI, standings: Standings, known: Known, administration: Administration, clock: Clock) -> None:
    """Add the routes."""
    desk = _Desk(standings, known, administration, clock)

    @api.get(PATH, tags=["workflows"])
    async def listed(request: Request, everybody: Annotated[bool, Query(alias="all")] = False) -> dict[str, Any]:
        """Your own; with `all` those of everybody in the tenant, for whom policy grants `read` on `admin:workflows`."""
        return {"workflows": await desk.listed(request, everybody=everybody)}

    @api.get(PATH + "/{name}", tags=["workflows"])
    async def show(request: Request, name: str) -> JSONResponse:
        """Where one stands: its steps, what may come next, and what it waits for.  404 for one that is not yours to know of."""
        found = await desk.show(request, name)
        return _none() if found is None else JSONResponse(found)


def _none() -> JSONResponse:
    from gateway.api import problem  # noqa: PLC0415  it registers these routes
    from gateway.problem import Problem  # noqa: PLC0415

    return problem(404, Problem("unknown-workflow", "there is no such workflow, or it is not yours to know of"))


class _Desk:
    """What the routes do."""

    def __init__(self, standings: Standings, known: Known, administration: Administration, clock: Clock) -> None:
        self._standings = standings
        self._known = known
        self._administration = administration
        self._clock = clock

    async def listed(self, request: Request, *, everybody: bool) -> list[dict[str, Any]]:
        """Those that end last first."""
        office = self._administration
        principal = await office.whoami(request)
        if everybody:
            await office.permit(request, "read", AREA, "", "all workflows", principal)
        elif not _in_own_hands(principal):
            await office.refuse(request, principal, Code.AGENT_LACKS_RIGHT, "workflows are shown to people in their own hands")
        found = await self._standings.listed(self._clock(), principal.tenant, "" if everybody else principal.subject)
        return [views.listed(each) for each in found]

    async def show(self, request: Request, name: str) -> dict[str, Any] | None:
        """None where there is none that this caller may know of; that somebody asked for another's is on record."""
        principal = await self._administration.whoami(request)
        found = None
        if _ID.fullmatch(name):
            found = await self._standings.of(principal.tenant, name, self._clock(), self._known(name))
        if found is not None and _in_own_hands(principal) and found.subject == principal.subject:
            return views.shown(found)
        if not await self._may_see_all(request, principal, name):
            return None
        return None if found is None else views.shown(found)

    async def _may_see_all(self, request: Request, principal: Principal, name: str) -> bool:
        try:
            await self._administration.permit(request, "read", AREA, "", name, principal)
        except Refused as refusal:
            if refusal.code in _UNFIT:
                raise
            return False
        return True


def _in_own_hands(principal: Principal) -> bool:
    return principal.subject.startswith("user:") and not principal.actors
