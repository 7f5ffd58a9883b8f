"""How a person lets the gateway keep a credential of theirs: a link, a proof of who they are, their yes, the upstream's yes.

Whoever opens the link must be whom it was made for.  Every step is good once and for minutes; all that is known between two
steps is sealed, in the cookie or in the store, so that any replica serves any step.  No URL holds a token or a name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar
from urllib.parse import urlencode

import msgspec

from audit.model import Entry, LedgerUnavailableError
from gateway.identity.keys import b64url
from gateway.identity.login import Login
from gateway.identity.marks import Marks
from gateway.identity.token_request import TokenRefusedError
from gateway.identity.vault import Append, Held, Provider, Vault
from gateway.model import Clock, Principal, Refused, new_id
from gateway.reasons import Code
from gateway.state.sealing import Sealer, UnsealableError
from gateway.state.vault import Key, Tickets

TICKET_SECONDS: Final = 600
STEP_SECONDS: Final = 600
ANEW_SECONDS: Final = 300
"""A link that is good for less than this is not handed out again: another takes its place."""
_TRIES: Final = 5
_MAX_COOKIE: Final = 4096
_MAX_CODE: Final = 2048
T = TypeVar("T", bound=msgspec.Struct)

Why = Literal["link", "again", "person", "login", "upstream", "stopped", "cancelled", "later"]


class ConsentError(Exception):
    """A step that leads nowhere.  `why` is all that the browser learns."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why: Why = why


class Asked(msgspec.Struct, frozen=True):
    """Whose consent, for what, and on whose wish: the chain of agents that was refused for want of it."""

    tenant: str
    subject: str
    upstream: str
    workflow: str
    actors: tuple[str, ...]
    issued: int
    until: int

    @property
    def key(self) -> Key:
        return Key(self.tenant, self.subject, self.upstream)

    def principal(self) -> Principal:
        """Of whom kills are asked at every step."""
        return Principal(
            self.subject, self.actors, self.tenant, self.workflow, self.until, method="browser", credential="", issued=self.issued
        )


class _Entering(msgspec.Struct, frozen=True):
    """The cookie between the link and the person's login."""

    ticket: str
    state: str
    nonce: str
    verifier: str
    until: int


class _Step(msgspec.Struct, frozen=True):
    """What the store keeps from the login on; `state` and `verifier` are empty until the person has agreed."""

    asked: Asked
    csrf: str
    until: int
    state: str = ""
    verifier: str = ""


@dataclass(frozen=True, slots=True)
class Onward:
    """Where the browser goes next, and the cookie that it needs there."""

    location: str
    cookie: str


@dataclass(frozen=True, slots=True)
class Question:
    """What the person is asked."""

    asked: Asked
    scope: tuple[str, ...]
    csrf: str


class Consents:
    """The way from a link to a kept credential.  Every method raises `ConsentError` for a step that is refused."""

    def __init__(  # noqa: PLR0917  the parts it is made of
        self,
        public_url: str,
        tickets: Tickets,
        sealer: Sealer,
        marks: Marks,
        login: Login,
        vault: Vault,
        append: Append,
        alive: Callable[[Principal], None],
        clock: Clock,
    ) -> None:
        """`sealer`: of the purpose `consent`; `alive`: as the authenticator's, of whoever was killed."""
        self._public_url = public_url
        self._tickets = tickets
        self._sealer = sealer
        self._marks = marks
        self._login = login
        self._vault = vault
        self._append = append
        self._alive = alive
        self._clock = clock

    async def link(self, principal: Principal, upstream: str) -> str:
        """The URL by which this person consents: one at a time for each upstream, until it was used or is about to end.

        Refused(CREDENTIAL_UNAVAILABLE) for somebody who cannot prove in a browser who they are.
        """
        if not principal.subject.startswith(f"user:{self._login.alias}/"):
            raise Refused(Code.CREDENTIAL_UNAVAILABLE, "nobody can consent for this subject in a browser")
        key = Key(principal.tenant, principal.subject, upstream)
        place = _digest(f"place\n{key.binding}")
        for _ in range(_TRIES):
            now = self._now
            held = await self._tickets.read(place, now)
            standing = "" if held is None else self._standing(place, held[0])
            if held is not None and held[1] - now > ANEW_SECONDS and await self._tickets.read(_digest(standing), now):
                return self._url(standing)
            until = now + TICKET_SECONDS  # whatever ends before: the person will prove themselves anew
            ticket = self._marks.fresh()
            digest = _digest(ticket)
            asked = Asked(*_of(key), principal.workflow, principal.actors, principal.issued, until)
            sealed = self._sealer.seal(digest, msgspec.json.encode(asked))
            pointer, gone = self._sealer.seal(place, ticket.encode()), _digest(standing) if standing else ""
            if await self._tickets.point(place, held[0] if held else None, pointer, (digest, sealed), gone, until, now):
                return self._url(ticket)
        raise Refused(Code.OVERLOADED, "too many ask for the same consent at once")

    async def enter(self, ticket: str) -> Onward:
        """The link was opened: to the issuer, to say who it is that opened it.  Nothing is used up, whoever looks."""
        await self._asked(ticket)
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        entering = _Entering(ticket, state, nonce, verifier, self._now + STEP_SECONDS)
        cookie = b64url(self._sealer.seal("entering", msgspec.json.encode(entering)))  # unpadded: cookies hold no "=" unquoted
        return Onward(await self._login.url(self._login_url, state, nonce, _challenge(verifier)), cookie)

    async def identified(self, cookie: str, answer: Mapping[str, str]) -> Onward:
        """The issuer sent the browser back.  The link is used up; only its own person goes on."""
        entering = self._entering(cookie)
        if not _same(answer.get("state", ""), entering.state):
            raise ConsentError("again")
        asked = await self._asked(entering.ticket)
        if not await self._login.is_from(answer) or not _is_code(answer.get("code", "")):
            raise ConsentError("login")
        if await self._tickets.take(_digest(entering.ticket), self._now) is None:
            raise ConsentError("link")
        try:
            subject = await self._login.subject(answer["code"], entering.verifier, entering.nonce, self._login_url, self._now)
        except Refused:
            raise ConsentError("login") from None
        if not _same(subject, asked.subject):
            await self._record_stranger(asked, subject)
            raise ConsentError("person")
        step = _Step(asked, secrets.token_urlsafe(32), self._now + STEP_SECONDS)
        return Onward(f"{self._public_url}/vault/consent", await self._next(step))

    async def question(self, cookie: str) -> Question:
        """What to ask the person who proved who they are."""
        step = await self._step(cookie, agreed=False)
        return Question(step.asked, self._provider(step.asked).scope, step.csrf)

    async def agree(self, cookie: str, csrf: str, *, yes: bool) -> Onward:
        """The person's answer; a yes leads to the upstream's authorization server."""
        step = await self._step(cookie, agreed=False)
        if not _same(csrf, step.csrf):
            raise ConsentError("again")
        await self._use(cookie)
        if not yes:
            raise ConsentError("cancelled")
        provider = self._provider(step.asked)
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        onward = replace_step(step, state, verifier, self._now + STEP_SECONDS)
        wanted = {
            "response_type": "code",
            "client_id": provider.client_id,
            "redirect_uri": self._callback_url(provider.upstream),
            "state": state,
            "code_challenge": _challenge(verifier),
            "code_challenge_method": "S256",
            **({"scope": " ".join(provider.scope)} if provider.scope else {}),
            **provider.about(),
        }
        return Onward(with_query(provider.authorize_url, wanted), await self._next(onward))

    async def returned(self, upstream: str, cookie: str, answer: Mapping[str, str]) -> None:
        """The upstream's server sent the browser back: its code becomes a kept credential, on record first."""
        step = await self._step(cookie, agreed=True)
        provider = self._provider(step.asked)
        if upstream != step.asked.upstream or not _same(answer.get("state", ""), step.state):
            raise ConsentError("again")
        await self._use(cookie)
        said = answer.get("iss", "")
        if provider.issuer and said != provider.issuer:  # RFC 9207: the answer of another server than the one that was asked
            raise ConsentError("upstream")
        if "error" in answer or not _is_code(answer.get("code", "")):
            raise ConsentError("cancelled" if answer.get("error") == "access_denied" else "upstream")
        form = {
            "grant_type": "authorization_code",
            "code": answer["code"],
            "redirect_uri": self._callback_url(upstream),
            "code_verifier": step.verifier,
            **provider.about(),
        }
        try:
            held = Held.of(await provider.ask(form), self._now)
        except (TokenRefusedError, Refused):
            raise ConsentError("upstream") from None
        self._check_alive(step.asked)
        await self._record(step.asked, provider)
        await self._vault.keep(step.asked.key, held)

    @property
    def _now(self) -> int:
        return self._clock() // 1_000_000

    @property
    def _login_url(self) -> str:
        return f"{self._public_url}/vault/login"

    def _callback_url(self, upstream: str) -> str:
        return f"{self._public_url}/vault/callback/{upstream}"  # of each upstream its own: RFC 9700 §4.4.2.2

    def _url(self, ticket: str) -> str:
        return f"{self._public_url}/vault/{ticket}"

    def _provider(self, asked: Asked) -> Provider:
        provider = self._vault.providers.get(asked.upstream)
        if provider is None:
            raise ConsentError("link")
        return provider

    def _check_alive(self, asked: Asked) -> None:
        try:
            self._alive(asked.principal())
        except Refused:
            raise ConsentError("stopped") from None

    def _standing(self, place: str, sealed: bytes) -> str:
        """The ticket of a place; "" where it was sealed under another key."""
        try:
            return self._sealer.open(place, sealed).decode()
        except UnsealableError:
            return ""

    def _open(self, binding: str, sealed: bytes) -> bytes:
        try:
            return self._sealer.open(binding, sealed)
        except UnsealableError:
            raise ConsentError("link") from None

    async def _asked(self, ticket: str) -> Asked:
        if not self._marks.made(ticket):
            raise ConsentError("link")
        digest = _digest(ticket)
        found = await self._tickets.read(digest, self._now)
        if found is None:
            raise ConsentError("link")
        asked = _decoded(self._open(digest, found[0]), Asked)
        self._provider(asked)
        self._check_alive(asked)
        return asked

    def _entering(self, cookie: str) -> _Entering:
        if len(cookie) > _MAX_COOKIE or not cookie.isascii():
            raise ConsentError("again")
        try:
            sealed = base64.b64decode(cookie + "=" * (-len(cookie) % 4), altchars=b"-_", validate=True)
        except binascii.Error:
            raise ConsentError("again") from None
        try:
            entering = _decoded(self._sealer.open("entering", sealed), _Entering)
        except UnsealableError:
            raise ConsentError("again") from None
        if entering.until <= self._now:
            raise ConsentError("again")
        return entering

    async def _step(self, cookie: str, *, agreed: bool) -> _Step:
        if not self._marks.made(cookie):
            raise ConsentError("again")
        digest = _digest(cookie)
        found = await self._tickets.read(digest, self._now)
        if found is None:
            raise ConsentError("again")
        step = _decoded(self._open(f"step\n{digest}", found[0]), _Step)
        if bool(step.state) != agreed:
            raise ConsentError("again")
        self._check_alive(step.asked)
        return step

    async def _use(self, cookie: str) -> None:
        if await self._tickets.take(_digest(cookie), self._now) is None:
            raise ConsentError("again")  # somebody was faster, with the same cookie

    async def _next(self, step: _Step) -> str:
        cookie = self._marks.fresh()
        digest = _digest(cookie)
        await self._tickets.add(digest, self._sealer.seal(f"step\n{digest}", msgspec.json.encode(step)), step.until)
        return cookie

    async def _record(self, asked: Asked, provider: Provider) -> None:
        fields = {**_about(asked), "scope": list(provider.scope)}
        await self._write("vault.consent", asked, asked.subject, fields)

    async def _record_stranger(self, asked: Asked, subject: str) -> None:
        """Somebody opened a link that was not theirs: phishing, or a link passed on."""
        detail = "a link to consent was opened by another person than the one it was made for"
        refused = {"code": Code.NOT_OWNER.value, "detail": detail}
        await self._write("decision.deny", asked, subject, {**_about(asked), "chain": [["user", "@subject"]], "refused": refused})

    async def _write(self, kind: str, asked: Asked, subject: str, fields: Mapping[str, object]) -> None:
        at = self._clock()
        try:
            await self._append(Entry(kind, new_id(at), at, subject, fields, tenant=asked.tenant))
        except LedgerUnavailableError:
            raise ConsentError("later") from None


def replace_step(step: _Step, state: str, verifier: str, until: int) -> _Step:
    """The next step of the same flow."""
    return msgspec.structs.replace(step, state=state, verifier=verifier, until=until)


def with_query(url: str, members: Mapping[str, str]) -> str:
    """The URL with more in its query; settings allow none with a fragment."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(members)}"


def _of(key: Key) -> tuple[str, str, str]:
    return key.tenant, key.subject, key.upstream


def _about(asked: Asked) -> dict[str, object]:
    chain = [["user", "@subject"], *[["agent", actor] for actor in asked.actors]]
    facts = {"tenant": asked.tenant, "workflow": asked.workflow, "chain": chain, "upstream": asked.upstream}
    return {"proto": "http", "wanted": "vault.consent", **facts}


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError:  # sealed by another version
        raise ConsentError("again") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _challenge(verifier: str) -> str:
    """RFC 7636 §4.2, S256."""
    return b64url(hashlib.sha256(verifier.encode("ascii")).digest())


def _same(one: str, other: str) -> bool:
    return bool(one) and hmac.compare_digest(one.encode(), other.encode())


def _is_code(text: str) -> bool:
    return 0 < len(text) <= _MAX_CODE and text.isascii() and text.isprintable()
