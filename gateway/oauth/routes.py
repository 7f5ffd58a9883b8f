"""Adds every route of this package to the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response

from gateway.oauth.browser import Browser
from gateway.oauth.browser import register as register_browser
from gateway.oauth.events import register as register_events
from gateway.oauth.grants import register as register_grants
from gateway.oauth.kills import register as register_kills
from gateway.oauth.token import register as register_token
from gateway.oauth.vault import register as register_vault

if TYPE_CHECKING:
    from gateway.administration import Administration
    from gateway.identity.opening import Identity
    from gateway.oauth.token import Workflows
    from gateway.policy.records import Append

JWKS_PATH = "/.well-known/jwks.json"


@dataclass(frozen=True, slots=True)
class Desk:
    """What the routes need; `append` is the ledger's, durable on return."""

    public_url: str
    identity: Identity
    administration: Administration
    append: Append
    workflows: Workflows


def register(api: FastAPI, desk: Desk) -> None:
    """Add the routes."""

    @api.get(JWKS_PATH, tags=["oauth"])
    async def jwks(request: Request) -> Response:
        """The keys by which the gateway signs its own tokens (RFC 7517); a cache may keep them for five minutes."""
        document, etag = desk.identity.ring.document()
        headers = {"Cache-Control": "public, max-age=300", "ETag": etag, "Access-Control-Allow-Origin": "*"}
        if etag in {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}:
            return Response(status_code=304, headers=headers)
        return Response(document, media_type="application/jwk-set+json", headers=headers)

    register_kills(api, desk.identity.kills, desk.administration)
    register_events(api, desk.identity.receivers, desk.identity.kills, desk.administration)
    register_grants(api, desk.identity.exchange.standing, desk.identity.kills, desk.administration, desk.append)
    register_token(api, desk.public_url, desk.identity.exchange, desk.administration, desk.append, desk.workflows)
    vaulting = desk.identity.vaulting
    register_vault(api, vaulting.vault, desk.administration)
    if vaulting.consents is not None:
        register_browser(api, Browser(desk.public_url, vaulting.consents))
