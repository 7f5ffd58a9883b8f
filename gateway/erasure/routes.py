"""`/api/erasures` and `/api/holds`: one person asks, another agrees; nothing of a body is read for a stranger.

Asking wants `change` on `admin:erasure`, agreeing `approve` there, in one's own hands; holds want `change` on `admin:holds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, StringConstraints

from audit.leaf import Kind
from audit.privacy import LOG
from gateway.api import problem
from gateway.asked import asked, invalid
from gateway.erasure.erasing import NotErasedError, Why
from gateway.problem import Problem
from gateway.reasons import Code

if TYPE_CHECKING:
    from gateway.administration import Administration
    from gateway.erasure.erasing import Erasing, Hold
    from gateway.model import Principal

ERASURES: Final = "/api/erasures"
HOLDS: Final = "/api/holds"
_MOST_BYTES: Final = 4096
_STATUS: Final = {
    Why.UNKNOWN_PERSON: 404,
    Why.UNKNOWN_REQUEST: 404,
    Why.UNKNOWN_HOLD: 404,
    Why.SAME_PERSON: 403,
    Why.HELD: 409,
}

Text = Annotated[str, StringConstraints(min_length=1, max_length=400, pattern=r"^[^\x00-\x1f\x7f]+$")]


class _Wish(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Wanted(_Wish):
    """Who is to be erased, and why."""

    subject: Text
    reason: Text


class Agreed(_Wish):
    """Whom the request is about: who agrees says it again, so that nobody agrees to an id."""

    subject: Text


class Held(_Wish):
    """Whom nobody may erase (`everybody` instead of `subject`: anybody), and why."""

    subject: Text | None = None
    everybody: bool = False
    reason: Text


class Cleared(_Wish):
    """Why."""

    reason: Text


def register(api: FastAPI, erasing: Erasing, administration: Administration, tenant: str) -> None:
    """Add the routes."""
    door = _Door(erasing, administration, tenant)
    _erasures(api, door)
    _holds(api, door)


def _erasures(api: FastAPI, door: _Door) -> None:
    administration, erasing = door.administration, door.erasing

    @api.exception_handler(NotErasedError)
    async def not_erased(_request: Request, error: NotErasedError) -> JSONResponse:
        return problem(_STATUS[error.why], Problem(error.why.value, error.detail))

    @api.post(ERASURES, tags=["erasure"], status_code=201)
    async def ask(request: Request) -> JSONResponse:
        """Ask for a person to be erased; another person has to agree within a week."""
        principal = await administration.whoami(request)
        wanted = await asked(request, Wanted, _MOST_BYTES)
        wish = await door.permit(request, "change", "erasure", Kind.ERASURE_ASK, "erase", principal)
        made = await erasing.ask(wanted.subject, wanted.reason, principal.subject, request=wish)
        return JSONResponse({"id": made, "state": "waits"}, 201)

    @api.post(ERASURES + "/{wish}/approval", tags=["erasure"])
    async def agree(request: Request, wish: str) -> JSONResponse:
        """Agree to what another person asked for; it is done when this answers."""
        principal = await administration.whoami(request)
        agreed = await asked(request, Agreed, _MOST_BYTES)
        if principal.actors:
            await administration.refuse(request, principal, Code.AGENT_LACKS_RIGHT, "people agree in their own hands")
        name = wish if len(wish) <= 40 and wish.isascii() and wish.isprintable() else "an id that is none"
        await door.permit(request, "approve", "erasure", Kind.ERASURE_APPROVE, f"approve {name}", principal)
        done = await erasing.agree(name, agreed.subject, principal.subject)
        state = "erased" if done.values is not None else "closed"  # the key is destroyed; deleting goes on
        return JSONResponse(
            {"id": done.request, "state": state, "pseudonym": done.pseudonym, "stores": dict(done.stores), "values": done.values}
        )


def _holds(api: FastAPI, door: _Door) -> None:
    administration, erasing = door.administration, door.erasing

    @api.get(HOLDS, tags=["erasure"])
    async def holds(request: Request) -> dict[str, Any]:
        """Legal holds in force."""
        principal = await administration.whoami(request)
        await door.of_the_house(request, principal)
        await administration.permit_on(request, "read", "admin:holds", Kind.AUDIT_READ, "legal holds", principal)
        return {"holds": [shown(each) for each in await erasing.holds()]}

    @api.post(HOLDS, tags=["erasure"], status_code=201)
    async def hold(request: Request) -> JSONResponse:
        """Set a legal hold."""
        principal = await administration.whoami(request)
        wanted = await asked(request, Held, _MOST_BYTES)
        if (wanted.subject is None) != wanted.everybody:
            raise invalid("give `subject`, or `everybody`", "subject")
        wish = await door.permit(request, "change", "holds", Kind.HOLD_SET, "hold", principal)
        made = await erasing.hold(wanted.subject, wanted.reason, principal.subject, request=wish)
        return JSONResponse({"id": made}, 201)

    @api.post(HOLDS + "/{hold_id}/clearing", tags=["erasure"])
    async def clear(request: Request, hold_id: str) -> dict[str, Any]:
        """Take a legal hold back."""
        principal = await administration.whoami(request)
        why = await asked(request, Cleared, _MOST_BYTES)
        name = hold_id if len(hold_id) <= 40 and hold_id.isascii() and hold_id.isprintable() else "an id that is none"
        wish = await door.permit(request, "change", "holds", Kind.HOLD_CLEAR, f"clear {name}", principal)
        await erasing.clear(name, why.reason, principal.subject, request=wish)
        return {"id": name, "state": "cleared"}


@dataclass(frozen=True, slots=True)
class _Door:
    erasing: Erasing
    administration: Administration
    tenant: str

    async def of_the_house(self, request: Request, principal: Principal) -> None:
        """`Refused` for a person of another tenant than the gateway's: their right is none here, be it to look."""
        if principal.tenant != self.tenant:
            await self.administration.refuse(request, principal, Code.USER_LACKS_RIGHT, "of another tenant")

    async def permit(  # noqa: PLR0917  the parts of one question
        self, request: Request, action: str, area: str, kind: Kind, wanted: str, principal: Principal
    ) -> str:
        """The id of the recorded wish of somebody who may; `Refused` otherwise."""
        await self.of_the_house(request, principal)
        return (await self.administration.permit(request, action, area, kind, wanted, principal)).id


def shown(hold: Hold) -> dict[str, Any]:
    """As the API and the command line show it."""
    whom = "everybody" if hold.pseudonym == LOG else hold.subject
    at = datetime.fromtimestamp(hold.at / 1e6, UTC).isoformat(timespec="milliseconds")
    return {"id": hold.id, "subject": whom, "pseudonym": hold.pseudonym, "at": at}
