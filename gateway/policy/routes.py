"""`/api/policy`: what is in force, what was refused and why; reading again, and rolling back.

For those to whom policy itself grants `read` or `change` on `admin:policy`; a wish to change is on record before it is fulfilled.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway.asked import asked as body_of
from gateway.model import Principal
from gateway.policy.activation import Looked, Rejected, Result
from gateway.policy.archive import ArchiveError
from gateway.policy.records import Asked

if TYPE_CHECKING:
    from gateway.administration import Administration
    from gateway.policy.in_force import Pair
    from gateway.policy.opening import Opened

_SHOWN: Final = 50
_MOST_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class PolicyDoor:
    """What the routes need: who asks, what decides about it, and where it is recorded."""

    opened: Opened
    administration: Administration

    async def permit(self, request: Request, action: str, wanted: str, principal: Principal | None = None) -> Asked:
        """The wish of somebody who may, recorded; raises `Refused` for everybody else, recorded too."""
        wish = await self.administration.permit(request, action, "policy", "policy.reload", wanted, principal)
        return Asked("request", wish.principal.subject, wish.principal.actors, wish.id)


class Wanted(BaseModel):
    """Which bundle is wanted back: its digest (or at least 8 characters of it), or its serial."""

    model_config = ConfigDict(extra="forbid", strict=True)

    bundle: str = Field(min_length=1, max_length=80)


def register(api: FastAPI, door: PolicyDoor) -> None:
    """Add the routes."""
    activation = door.opened.activation

    @api.get("/api/policy", tags=["policy"])
    async def policy(request: Request) -> dict[str, Any]:
        """What is in force and since when; what was refused last, and what for; what would have been flipped."""
        await door.permit(request, "read", "")
        return status(door.opened)

    @api.post("/api/policy/reload", tags=["policy"])
    async def reload(request: Request) -> JSONResponse:
        """Read the folders again now.  422 where one of them was refused: what is in force stays."""
        asked = await door.permit(request, "change", "reload")
        looked = {place.role: await activation.look(place, asked) for place in activation.places}
        refused = any(each.result is Result.REJECTED for each in looked.values())
        return JSONResponse({role: _looked(each) for role, each in looked.items()}, 422 if refused else 200)

    @api.post("/api/policy/rollback", tags=["policy"])
    async def rollback(request: Request) -> JSONResponse:
        """Put a bundle in force again that once was: it stays until the folder says something else than it says now."""
        principal = await door.administration.whoami(request)  # from the frame alone: nothing of the body is read for a stranger
        wanted = await body_of(request, Wanted, _MOST_BYTES)
        asked = await door.permit(request, "change", f"rollback {wanted.bundle}", principal)
        try:
            looked = await activation.roll_back(wanted.bundle, Asked("rollback", asked.subject, asked.actors, asked.request))
        except ArchiveError as error:
            from gateway.api import problem  # noqa: PLC0415  it registers these routes
            from gateway.problem import Problem  # noqa: PLC0415

            return problem(404, Problem("not-archived", str(error)))
        return JSONResponse({"active": _looked(looked)}, 422 if looked.result is Result.REJECTED else 200)


def status(opened: Opened) -> dict[str, Any]:
    """As `GET /api/policy` shows it."""
    activation, policy = opened.activation, opened.in_force.current
    pairs = {"active": policy.active, "canary": policy.canary, "shadow": policy.shadow}
    shown: dict[str, Any] = {role: _pair(pair) for role, pair in pairs.items() if pair is not None}
    if policy.canary is not None:
        shown["canary"]["percent"] = policy.percent
    shown["stale"] = activation.stale
    shown["rejected"] = {place.role: _rejected(place.rejected) for place in activation.places if place.rejected is not None}
    shown["reloads"] = [
        {"role": role, "result": result.value, "count": count} for (role, result), count in sorted(activation.counts.items())
    ]
    flips = sorted(opened.shadowing.flips().items())
    shown["would_flip"] = [{"rule": r, "direction": d, "source": s, "count": count} for (r, d, s), count in flips]
    shown["shadowed"] = {"compared": opened.shadowing.compared, "dropped": opened.shadowing.dropped}
    return shown


def _pair(pair: Pair) -> dict[str, Any]:
    shown: dict[str, Any] = {"digest": pair.digest, "since": _time(pair.since), "rules": len(pair.bundle.rules)}
    return shown if pair.serial is None else shown | {"serial": pair.serial}


def _looked(looked: Looked) -> dict[str, Any]:
    shown: dict[str, Any] = {"result": looked.result.value, "digest": looked.digest}
    return shown if looked.rejected is None else shown | {"rejected": _rejected(looked.rejected)}


def _rejected(rejected: Rejected) -> dict[str, Any]:
    found = [
        {"code": each.code, "location": each.location, "message": each.message, "help": each.help, "text": each.text}
        for each in rejected.findings[:_SHOWN]
    ]
    facts = {"at": _time(rejected.at), "cause": rejected.cause, "digest": rejected.digest, "tree": rejected.mark}
    return facts | {"count": len(rejected.findings), "findings": found}


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).isoformat(timespec="milliseconds")
