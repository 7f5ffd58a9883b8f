"""The pages by which a person consents: no script, nothing from elsewhere, nothing in a URL but what is good once.

What a step was refused for is told in one of a few sentences of ours; nothing that came in is ever repeated on a page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response

from gateway.identity.consent import ConsentError, Consents, Onward, Question, Why
from gateway.model import Refused
from gateway.pages import HEADERS, MOST_MEMBERS, form, page

if TYPE_CHECKING:
    from starlette.datastructures import QueryParams

COOKIE: Final = "bailiwick-vault"
COOKIE_SECONDS: Final = 600
_MOST_BYTES: Final = 1024
_SAID: Final[Mapping[Why, tuple[int, str, str]]] = {
    "link": (410, "This link is not good any more", "It was used before, or is too old. Ask your agent for a new one."),
    "again": (400, "This step cannot be taken", "It was taken before, or in another window. Ask your agent for a new link."),
    "person": (403, "This link was made for somebody else", "Only the person whose agent asked can consent. Nothing was kept."),
    "login": (400, "You could not be recognised", "Your login did not come to an end. Ask your agent for a new link."),
    "upstream": (502, "Nothing was kept", "The service did not give what was asked for. Ask your agent for a new link."),
    "stopped": (403, "This was stopped", "You, the agent or the work it was for may not go on here."),
    "cancelled": (200, "Nothing was kept", "You did not consent. Your agent cannot use your account."),
    "later": (503, "This cannot be done now", "Please try again in a while."),
}  # fmt: skip


class Browser:
    """Answers of the consent's steps, and the cookie between them."""

    def __init__(self, public_url: str, consents: Consents) -> None:
        self._consents = consents
        self._secure = urlsplit(public_url).scheme == "https"
        self._name = f"__Host-{COOKIE}" if self._secure else COOKIE  # that prefix demands Secure, which http cannot keep

    async def enter(self, ticket: str) -> Response:
        """The link."""
        return await self._step(lambda: self._consents.enter(ticket))

    async def login(self, request: Request) -> Response:
        """Back from the issuer."""
        return await self._step(lambda: self._consents.identified(self._cookie(request), _members(request.query_params)))

    async def question(self, request: Request) -> Response:
        """The page that asks."""

        async def ask() -> Response:
            return page(200, *_asked(await self._consents.question(self._cookie(request))), origin=True)

        return await self._guarded(ask)

    async def answer(self, request: Request) -> Response:
        """The person's answer.  Leads on by a page: a redirect after a form would be held to where forms may go."""

        async def take() -> Response:
            said = await _form(request)
            cookie, yes = self._cookie(request), said.get("answer") == "yes"
            onward = await self._consents.agree(cookie, said.get("csrf", ""), yes=yes)
            onto = page(200, "One step more", _onward(onward.location), refresh=onward.location)
            return self._with_cookie(onto, onward.cookie)

        return await self._guarded(take)

    async def callback(self, upstream: str, request: Request) -> Response:
        """Back from the upstream's authorization server."""

        async def take() -> Response:
            await self._consents.returned(upstream, self._cookie(request), _members(request.query_params))
            return self._forgetting(_redirect("/vault/done"))

        return await self._guarded(take)

    @staticmethod
    def done() -> Response:
        """The end, at a URL that says nothing."""
        return page(200, "Done", "<p>You can close this window and go back to your agent.</p>")

    async def _step(self, step: Callable[[], Awaitable[Onward]]) -> Response:
        async def take() -> Response:
            onward = await step()
            return self._with_cookie(_redirect(onward.location), onward.cookie)

        return await self._guarded(take)

    async def _guarded(self, take: Callable[[], Awaitable[Response]]) -> Response:
        try:
            return await take()
        except ConsentError as error:
            return self._refused(error)
        except Refused:  # the store, or the issuer's metadata
            return self._refused(ConsentError("later"))

    def _refused(self, error: ConsentError) -> Response:
        status, title, text = _SAID[error.why]
        told = page(status, title, f"<p>{text}</p>")
        return told if error.why in {"again", "later"} else self._forgetting(told)

    def _cookie(self, request: Request) -> str:
        """Its only value; two of one name are somebody's doing."""
        pairs = (part.strip().partition("=") for line in request.headers.getlist("cookie") for part in line.split(";"))
        values = [value for name, _, value in pairs if name == self._name]
        return values[0] if len(values) == 1 else ""

    def _with_cookie(self, response: Response, value: str) -> Response:
        response.set_cookie(
            self._name, value, max_age=COOKIE_SECONDS, path="/", secure=self._secure, httponly=True, samesite="lax"
        )
        return response

    def _forgetting(self, response: Response) -> Response:
        response.delete_cookie(self._name, path="/", secure=self._secure, httponly=True, samesite="lax")
        return response


def register(api: FastAPI, browser: Browser) -> None:
    """Add the pages.  The link is the last of them: a ticket has 64 characters, and is called like none of the others."""

    @api.get("/vault/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        return await browser.login(request)

    @api.get("/vault/consent", include_in_schema=False)
    async def question(request: Request) -> Response:
        return await browser.question(request)

    @api.post("/vault/consent", include_in_schema=False)
    async def answer(request: Request) -> Response:
        return await browser.answer(request)

    @api.get("/vault/callback/{upstream}", include_in_schema=False)
    async def callback(upstream: str, request: Request) -> Response:
        return await browser.callback(upstream, request)

    @api.get("/vault/done", include_in_schema=False)
    async def done() -> Response:
        return browser.done()

    @api.get("/vault/{ticket}", include_in_schema=False)
    async def enter(ticket: str) -> Response:
        return await browser.enter(ticket)


def _members(query: QueryParams) -> Mapping[str, str]:
    """The members of an answer, each once; what stands twice has two readings (RFC 6749 §3.1)."""
    pairs = query.multi_items()
    members = dict(pairs)
    if len(members) != len(pairs) or len(pairs) > MOST_MEMBERS:
        raise ConsentError("again")
    return members


async def _form(request: Request) -> Mapping[str, str]:
    try:
        return await form(request, _MOST_BYTES)
    except ValueError:
        raise ConsentError("again") from None


def _asked(question: Question) -> tuple[str, str]:
    """What a person reads before a yes: who wants it, for what, and how far it goes."""
    asked = question.asked
    agents = " through ".join(escape(actor.removeprefix("agent:")) for actor in reversed(asked.actors))
    who = f"The agent <b>{agents}</b>, which works for you, wants" if agents else "You want"
    upstream = escape(asked.upstream.removeprefix("a2a:"))
    scope = "".join(f"<li><code>{escape(item)}</code></li>" for item in question.scope)
    may = (
        f"<p>It will be asked for:</p><ul>{scope}</ul>"
        if scope
        else "<p>It will be asked for what it gives without further words.</p>"
    )
    body = (
        f"<p>{who} to use your account at <b>{upstream}</b>.</p>{may}"
        f"<p>If you agree, {upstream} will ask you as well. The gateway then keeps a key to your account there, sealed, and uses "
        "it for calls that agents make for you, as far as your organisation's rules let them. The agents never see it. "
        "You can take it back at any time.</p>"
        '<form method="post" action="/vault/consent">'
        f'<input type="hidden" name="csrf" value="{escape(question.csrf)}">'
        '<button name="answer" value="yes">I agree</button> <button name="answer" value="no">No</button></form>'
        "<p>Did you not ask an agent for this? Then say no, and tell your security team.</p>"
    )
    return f"May the gateway use your account at {asked.upstream.removeprefix('a2a:')}?", body


def _onward(location: str) -> str:
    return f'<p><a href="{escape(location)}" rel="noreferrer">Go on to {escape(urlsplit(location).netloc)}</a></p>'


def _redirect(location: str) -> Response:
    return RedirectResponse(location, 303, headers=dict(HEADERS))
