"""`/api/kills`: who may act no more.  For those to whom policy grants `admin:kills`, and for everybody about what is their own.

Nothing of a body is read for a stranger; a wish, and then the kill, are on record before it is in force.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gateway.asked import asked, invalid
from gateway.identity.killed import OWN
from gateway.model import Principal, new_id
from gateway.reasons import Code
from gateway.state.kills import ADMIN, SELF, Kill

if TYPE_CHECKING:
    from gateway.administration import Administration
    from gateway.identity.revocation import Kills

PATH: Final = "/api/kills"
MOST_SHOWN: Final = 1000
_MOST_BYTES: Final = 4096
_AHEAD: Final = 60
_EARLIEST: Final = 1_000_000_000

Text = Annotated[str, StringConstraints(min_length=1, max_length=400, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Wanted(BaseModel):
    """What is to act no more.

    before  epoch seconds: only what was given until then; without it, everything until the kill is lifted.
    mine    of what is one's own alone, which needs no right.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Literal["user", "agent", "workflow", "branch", "token", "grant", "tenant"]
    target: Text
    before: int | None = Field(None, ge=_EARLIEST)
    reason: Annotated[Text, StringConstraints(max_length=256)]
    mine: bool = False


def register(api: FastAPI, kills: Kills, administration: Administration) -> None:
    """Add the routes."""
    door = _Door(kills, administration)

    @api.post(PATH, tags=["kills"], status_code=201)
    async def kill(request: Request) -> JSONResponse:
        """Let somebody or something act no more, on every replica, calls under way included."""
        principal = await administration.whoami(request)
        return JSONResponse(shown(await door.kill(request, principal, await asked(request, Wanted, _MOST_BYTES))), 201)

    @api.get(PATH, tags=["kills"])
    async def listed(
        request: Request, lifted: Annotated[bool, Query()] = False, mine: Annotated[bool, Query()] = False
    ) -> dict[str, Any]:
        """The newest kills that are in force; `lifted` shows history too, `mine` only what one asked for oneself."""
        principal = await administration.whoami(request)
        if not mine:
            await door.permit(request, "read", "identity.kill", "", principal)
        found = await kills.listed(MOST_SHOWN, lifted=lifted, by=principal.subject if mine else None)
        return {"kills": [shown(each) for each in found]}

    @api.delete(PATH + "/{kill_id}", tags=["kills"])
    async def lift(request: Request, kill_id: str) -> JSONResponse:
        """Take a kill back."""
        principal = await administration.whoami(request)
        wanted = kill_id if len(kill_id) <= 40 and kill_id.isascii() and kill_id.isprintable() else "an id that is none"
        await door.permit(request, "change", "identity.lift", wanted, principal)
        lifted = await kills.lift(wanted, administration.clock())
        if lifted is None:
            from gateway.api import problem  # noqa: PLC0415  it registers these routes
            from gateway.problem import Problem  # noqa: PLC0415

            return problem(404, Problem("unknown-kill", "there is no kill of that id"))
        return JSONResponse(shown(lifted))


@dataclass(frozen=True, slots=True)
class _Door:
    kills: Kills
    administration: Administration

    async def kill(self, request: Request, principal: Principal, wanted: Wanted) -> Kill:
        """The kill that stands, in force here."""
        at = self.administration.clock()
        _check(wanted, self.kills, at)
        if wanted.mine and wanted.kind == "user" and wanted.target != principal.subject:
            raise invalid("that is somebody else; `mine` is of what is one's own alone", "target")
        if wanted.mine and principal.actors:
            why = "people end what is theirs with a token of their own"
            await self.administration.refuse(request, principal, Code.AGENT_LACKS_RIGHT, why)
        own = _own(principal, wanted)
        made = Kill(
            id=new_id(at),
            kind=wanted.kind,
            target=wanted.target,
            before=wanted.before,
            reason=wanted.reason,
            source=SELF if own else ADMIN,
            by=principal.subject,
            created_at=at,
        )
        if own:
            return await self.kills.kill(made, about=principal.subject)
        wish = await self.permit(request, "change", "identity.kill", f"{made.kind} {made.id}", principal)
        return await self.kills.kill(made, about=made.target if made.kind == "user" else None, request=wish)

    async def permit(self, request: Request, action: str, kind: str, wanted: str, principal: Principal) -> str:
        """The id of the recorded wish of somebody who may; `Refused` otherwise."""
        if principal.tenant != self.kills.names.tenant:  # a kill reaches over tenants: a right of another tenant's is none here
            await self.administration.refuse(request, principal, Code.USER_LACKS_RIGHT, "of another tenant")
        return (await self.administration.permit(request, action, "kills", kind, wanted, principal)).id


def _own(principal: Principal, wanted: Wanted) -> bool:
    """Whether it is the person's own, in their own hands: an agent does not end what it was lent."""
    own = wanted.mine or (wanted.kind, wanted.target) in {("user", principal.subject), ("workflow", principal.workflow)}
    return own and not principal.actors


def _check(wanted: Wanted, kills: Kills, at: int) -> None:
    wrong = kills.names.wrong(wanted.kind, wanted.target)
    if wrong:
        raise invalid(wrong, "target")
    if wanted.before is not None and wanted.before > at // 1_000_000 + _AHEAD:
        raise invalid("it lies ahead; without it, the kill stands until it is lifted", "before")
    if wanted.before is not None and wanted.target.startswith("svc:"):
        raise invalid("a service shows its credential anew at every call; leave it out, and lift the kill later", "before")
    if wanted.mine and wanted.kind not in OWN:
        raise invalid(f"nobody's own is of kind {wanted.kind}; people may kill their own {', '.join(sorted(OWN))}", "mine")


def shown(kill: Kill) -> dict[str, Any]:
    """As the API and the command line show it."""
    return {
        "id": kill.id,
        "kind": kill.kind,
        "target": kill.target,
        "before": kill.before,
        "reason": kill.reason,
        "source": kill.source,
        "by": kill.by,
        "at": _time(kill.created_at),
        "lifted": None if kill.lifted_at is None else _time(kill.lifted_at),
    }


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).isoformat(timespec="milliseconds")
