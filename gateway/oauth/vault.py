"""`/api/vault`: which upstreams a person let the gateway use for them, and taking that back.

For the person, in their own hands; for others, where policy grants `read` or `change` on `admin:grants`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse

from gateway.model import Principal
from gateway.reasons import Code
from gateway.state.vault import Key

if TYPE_CHECKING:
    from gateway.administration import Administration
    from gateway.identity.vault import Vault

Subject = Annotated[str, Query(max_length=400)]


def register(api: FastAPI, vault: Vault, administration: Administration) -> None:
    """Add the routes."""

    @api.get("/api/vault", tags=["vault"])
    async def listed(request: Request, subject: Subject = "") -> dict[str, Any]:
        """What is kept of the caller, or of `subject`; of the credentials nothing."""
        if subject:
            principal = (await administration.permit(request, "read", "grants", "vault.forget", subject)).principal
        else:
            principal, subject = await _own(request, administration)
        rows = await vault.listed(principal.tenant, subject)
        shown = [{"upstream": r.upstream, "since": _time(r.created_at), "renewed": _time(r.used_at)} for r in rows]
        return {"subject": subject, "upstreams": shown}

    @api.delete("/api/vault/{upstream}", tags=["vault"])
    async def forget(request: Request, upstream: str, subject: Subject = "") -> JSONResponse:
        """Forget what is kept for this upstream: the next call asks the person again.  404 where nothing is."""
        by = ""
        if subject:
            wish = await administration.permit(request, "change", "grants", "vault.forget", f"{upstream} of {subject}")
            principal, by = wish.principal, wish.id
        else:
            principal, subject = await _own(request, administration)
        if not await vault.forget(Key(principal.tenant, subject, upstream), "asked for", by):
            from gateway.api import problem  # noqa: PLC0415  it registers these routes
            from gateway.problem import Problem  # noqa: PLC0415

            return problem(404, Problem("not-kept", "nothing is kept for this upstream"))
        return JSONResponse({"subject": subject, "upstream": upstream, "forgotten": True})


async def _own(request: Request, administration: Administration) -> tuple[Principal, str]:
    """The person in their own hands; Refused(AGENT_LACKS_RIGHT) for an agent, whoever it acts for."""
    principal = await administration.whoami(request)
    if principal.actors:
        why = "what is kept of a person is for their own hands"
        await administration.refuse(request, principal, Code.AGENT_LACKS_RIGHT, why)
    return principal, principal.subject


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).isoformat(timespec="seconds")
