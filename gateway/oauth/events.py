"""`POST /ssf/events/{alias}`: security events that an issuer pushes (RFC 8935).

What one leads to is on record and in force before it is acknowledged.  One that was acknowledged before is so again, and
does nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from gateway.asgi import small_body
from gateway.identity.events import KEPT_SECONDS, EventError, Receiver, Receivers, changes
from gateway.model import Refused
from gateway.reasons import Code

if TYPE_CHECKING:
    from gateway.administration import Administration
    from gateway.identity.revocation import Kills

PATH: Final = "/ssf/events/{alias}"
CONTENT_TYPE: Final = "application/secevent+jwt"
MOST_BYTES: Final = 64 * 1024
log = logging.getLogger("gateway.identity")


def register(api: FastAPI, receivers: Receivers, kills: Kills, administration: Administration) -> None:
    """Add the route."""

    @api.post(PATH, tags=["events"], status_code=202)
    async def receive(request: Request, alias: str) -> Response:
        """Take one security event token."""
        receiver = receivers.by_alias.get(alias)
        shown = request.headers.getlist("authorization")
        if receiver is None or len(shown) != 1 or not receiver.admits(shown[0]):
            await administration.note(request, Refused(Code.INVALID_CREDENTIAL, "event: the transmitter is not known"))
            return _error(401, EventError("authentication_failed", "the transmitter is not known"))
        try:
            await _take(request, receiver)
        except EventError as error:
            log.warning("an event of issuer %s is refused: %s", alias, error)
            await administration.note(request, Refused(Code.MALFORMED, f"event of {alias}: {error}"))
            return _error(400, error)
        except Refused as refusal:  # not durable: it is to be sent again
            log.error("an event of issuer %s could not be taken: %s", alias, refusal)
            return _error(503, EventError("temporarily_unavailable", "try again later"))
        return Response(status_code=202)

    async def _take(request: Request, receiver: Receiver) -> None:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != CONTENT_TYPE:
            raise EventError("invalid_request", f"the content type is {CONTENT_TYPE}")
        try:
            text = (await small_body(request.receive, MOST_BYTES)).decode("ascii")
        except (Refused, UnicodeDecodeError):
            raise EventError("invalid_request", "the body is too large, too slow, or no token") from None
        at = administration.clock()
        event = await receiver.read(text, at // 1_000_000)
        if await receivers.once.used(receiver.scope, event.jti):
            return
        made = changes(event, receiver.alias, at)
        until = event.issued + KEPT_SECONDS
        await kills.apply(receiver.scope, event.jti, until, made.kills, made.lifts, made.entries, at)


def _error(status: int, error: EventError) -> JSONResponse:
    """RFC 8935 §2.4."""
    headers = {"Content-Language": "en", "Cache-Control": "no-store"}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    elif status == 503:
        headers["Retry-After"] = "5"
    return JSONResponse({"err": error.err, "description": error.description}, status, headers=headers)
