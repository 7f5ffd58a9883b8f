"""`/approvals/{id}`: a page on which whoever may looks at the exact call, and says yes or no.  No script, no cookie.

Before the person has signed in it is the same page for every id.  From then on each form of it carries the access token, sealed
for this one approval and for minutes: nothing that a browser sends by itself opens anything.  Every step is the API's own.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from gateway.approvals.routes import Desk, No, Yes
from gateway.approvals.saying import Over
from gateway.model import Refused
from gateway.pages import form, page
from gateway.reasons import Code
from gateway.state.sealing import Sealer, UnsealableError

if TYPE_CHECKING:
    from gateway.model import Clock

PATH: Final = "/approvals/"
SECONDS: Final = 600
"""How long one sign-in is good for, at one approval."""
_MOST_BYTES: Final = 64 * 1024
_MOST_TOKEN: Final = 16 * 1024
_MOST_REASON: Final = 1000
_ID: Final = re.compile(r"[0-9a-f-]{36}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_AMBIENT: Final = frozenset({b"authorization", b"bailiwick-delegation", b"cookie", b"dpop"})
_STRANGER: Final = frozenset({Code.NO_CREDENTIAL, Code.INVALID_CREDENTIAL, Code.REVOKED, Code.SCOPE_REQUIRED})
_LATER: Final = frozenset({Code.LEDGER_UNAVAILABLE, Code.OVERLOADED, Code.INTERNAL_ERROR})
_WAITS: Final = frozenset({"open", "granted"})


class _Session(msgspec.Struct, frozen=True):
    """What a form carries, sealed: the token that was signed in with, and until when it is taken from there."""

    token: str
    until: int


def register(api: FastAPI, desk: Desk, sealer: Sealer, clock: Clock) -> None:
    """Add the page.  `sealer`: of a purpose of its own."""
    pages = _Pages(desk, sealer, clock)

    @api.get(PATH + "{name}", include_in_schema=False)
    async def enter(name: str) -> HTMLResponse:
        return pages.enter(name)

    @api.post(PATH + "{name}", include_in_schema=False)
    async def take(request: Request, name: str) -> HTMLResponse:
        return await pages.take(request, name)


class _Pages:
    def __init__(self, desk: Desk, sealer: Sealer, clock: Clock) -> None:
        self._desk = desk
        self._sealer = sealer
        self._clock = clock

    def enter(self, name: str) -> HTMLResponse:
        """The page as everybody gets it."""
        if _ID.fullmatch(name) is None:
            return _unknown()
        return page(200, "A call waits for an approval", _sign_in(name))

    async def take(self, request: Request, name: str) -> HTMLResponse:
        """A form: somebody signs in, or says yes or no."""
        if _ID.fullmatch(name) is None:
            return _unknown()
        try:
            said = await form(request, _MOST_BYTES)
        except ValueError:
            return page(400, "This step cannot be taken", _sign_in(name))
        try:
            if "answer" in said:
                return await self._answered(request, name, said)
            token = said.get("token", "").strip()
            return await self._shown(_as(request, _checked(token)), name, token)
        except Refused as refusal:
            return _refused(refusal, name)

    async def _answered(self, request: Request, name: str, said: Mapping[str, str]) -> HTMLResponse:
        session = self._opened(name, said.get("session", ""))
        if session is None:
            return page(403, "Please sign in again", _sign_in(name))
        person = _as(request, session.token)
        principal = await self._desk.person(person)
        answer, reason = said["answer"], said.get("reason", "")
        if answer not in {"yes", "no"} or len(reason) > _MOST_REASON:
            return page(400, "This step cannot be taken", _sign_in(name))
        words = Yes(digest=said.get("digest", "")[:80] or "-") if answer == "yes" else No(reason=reason)
        try:
            found = await self._desk.said(person, principal, name, words)
        except Over as over:
            return page(409, "Nothing can be said to it any more", f"<p>{escape(over.why)}</p>")
        if found is None:
            return _unknown()
        title = "You said yes" if answer == "yes" else "You said no"
        return page(200, title, f"{_about(found)}<p>You can close this window.</p>")

    async def _shown(self, person: Request, name: str, token: str) -> HTMLResponse:
        found = await self._desk.show(person, name)
        if found is None:
            return _unknown()
        body = _about(found) + _exact(found)
        if not found["may_approve"]:
            body += "<p>You may look at it, and not approve it.</p>"
        elif found["state"] in _WAITS:
            session = msgspec.json.encode(_Session(token, self._clock() // 1_000_000 + SECONDS))
            sealed = base64.urlsafe_b64encode(self._sealer.seal(f"page\n{name}", session)).decode("ascii")
            body += _question(name, sealed, str(found["digest"]))
        return page(200, "May this call be made?", body)

    def _opened(self, name: str, text: str) -> _Session | None:
        try:
            sealed = base64.b64decode(text, altchars=b"-_", validate=True)
            session = msgspec.json.decode(self._sealer.open(f"page\n{name}", sealed), type=_Session)
        except (binascii.Error, ValueError, UnsealableError, msgspec.DecodeError):
            return None
        return session if session.until > self._clock() // 1_000_000 else None


def _checked(token: str) -> str:
    if len(token) > _MOST_TOKEN or _TOKEN.fullmatch(token) is None:
        raise Refused(Code.NO_CREDENTIAL)
    return token


def _as(request: Request, token: str) -> Request:
    """The same request as whoever holds the token: of what the browser sends by itself nothing says who that is."""
    kept = [(name, value) for name, value in request.scope["headers"] if name.lower() not in _AMBIENT]
    return Request({**request.scope, "headers": [*kept, (b"authorization", b"Bearer " + token.encode("ascii"))]})


def _sign_in(name: str) -> str:
    return (
        "<p>Sign in with an access token of your own to see the call, and to approve or deny it.</p>"
        f'<form method="post" action="{PATH}{name}">'
        '<p><label>Access token<input type="password" name="token" autocomplete="off" required></label></p>'
        "<button>Look at it</button></form>"
        f"<p>On the command line: <code>bailiwick approvals show {name}</code></p>"
    )


def _about(found: Mapping[str, Any]) -> str:
    chain = " through ".join([str(found["subject"]), *(str(actor) for actor in found["actors"])])
    rows = {
        "What": found["resource"],
        "On behalf of": chain,
        "State": found["state"],
        "Approved by": ", ".join(found["approved_by"]) or "nobody yet",
        "Waits for": ", ".join(found["missing"]) or "nobody",
        "Until": found["expires"],
    }
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{_plain(str(said))}</dd>" for name, said in rows.items()) + "</dl>"


def _exact(found: Mapping[str, Any]) -> str:
    """The call in ASCII: no letter on it can hide, or turn what stands beside it around."""
    text = json.dumps(found["call"], indent=2, ensure_ascii=True, sort_keys=True)
    because = "".join(f"<li>{_plain(str(each))}</li>" for each in found["because"])
    return f"<p>The exact call:</p><pre>{escape(text)}</pre><p>It waits because of:</p><ul>{because}</ul>"


def _question(name: str, session: str, digest: str) -> str:
    return (
        f'<form method="post" action="{PATH}{name}"><input type="hidden" name="session" value="{escape(session)}">'
        f'<input type="hidden" name="digest" value="{escape(digest)}">'
        f'<p><label>Why not, if not<input name="reason" maxlength="{_MOST_REASON}" autocomplete="off"></label></p>'
        '<button name="answer" value="yes">Approve this call</button> <button name="answer" value="no">Deny it</button></form>'
        f"<p>Digest <code>{escape(digest)}</code></p>"
    )


def _plain(text: str) -> str:
    return escape(text.encode("ascii", "backslashreplace").decode("ascii"))


def _unknown() -> HTMLResponse:
    return page(404, "There is no such approval", "<p>Or it is not yours to know of.</p>")


def _refused(refusal: Refused, name: str) -> HTMLResponse:
    if refusal.code in _STRANGER:
        return page(401, "You could not be recognised", _sign_in(name))
    if refusal.code in _LATER:
        return page(503, "This cannot be done now", "<p>Please try again in a while.</p>")
    if refusal.code is Code.SAME_HANDS:
        return page(403, "You cannot approve this", "<p>The call is made on your own behalf: somebody else has to say yes.</p>")
    return page(403, "You cannot approve this", "<p>Only a person in their own hands who may can say yes or no.</p>")
