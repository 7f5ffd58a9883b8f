"""What an issuer says about its people by itself (RFC 8417, CAEP 1.0, RISC): read strictly, and turned into kills.

An event only ever takes away; the one that gives back (`account-enabled`) gives back what the same issuer's event took.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

from audit.model import Entry, Value
from gateway.identity.keyfiles import resolve
from gateway.identity.keys import KeySet
from gateway.identity.revocation import entries_of
from gateway.identity.token import MAX_AUDIENCES, Unverified, check_signature, is_text, moment, read
from gateway.model import Refused, new_id
from gateway.problem import Problem, ProblemError
from gateway.state.kills import EVENT, Kill, Lift

if TYPE_CHECKING:
    from gateway.identity.access import AccessTokens
    from gateway.identity.keys import Fetch
    from gateway.settings import Issuer
    from gateway.state.used import Once

TYPES: Final = frozenset({"secevent+jwt", "application/secevent+jwt"})
OLDEST_SECONDS: Final = 24 * 3600
KEPT_SECONDS: Final = OLDEST_SECONDS + 3600
LEEWAY_SECONDS: Final = 60
MOST_EVENTS: Final = 8
LEAST_TOKEN: Final = 16
CAEP: Final = "https://schemas.openid.net/secevent/caep/event-type/"
RISC: Final = "https://schemas.openid.net/secevent/risc/event-type/"
DISABLED: Final = "account-disabled"
_NOT_OURS: Final = frozenset({"exp", "sub", "cnf", "act", "nonce", "at_hash"})
"""Claims of tokens for other uses: a security event has none of them (SSF 1.0 §4.1)."""


class EventError(Exception):
    """The event is not accepted: `err` is a code of RFC 8935 §2.4, `description` repeats nothing of it."""

    def __init__(self, err: str, description: str) -> None:
        super().__init__(f"{err}: {description}")
        self.err = err
        self.description = description


@dataclass(frozen=True, slots=True)
class Effect:
    """What one event does to one person.

    before  epoch seconds until which what was given is dead; None: everything.
    lifts   it takes back what `reason` did, and kills nothing.
    at      epoch seconds of what it tells.
    """

    subject: str
    reason: str
    before: int | None
    at: int
    lifts: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """A verified event; `types` are their URIs."""

    jti: str
    issued: int
    types: tuple[str, ...]
    effects: tuple[Effect, ...]
    payload: bytes = field(repr=False)


def _none(_event: Mapping[str, object]) -> bool:
    return True


def _taken_away(event: Mapping[str, object]) -> bool:
    return event.get("change_type") not in {"create", "update"}


def _decreased(event: Mapping[str, object]) -> bool:
    return event.get("change_direction") != "increase"


_BEFORE: Final[Mapping[str, Callable[[Mapping[str, object]], bool]]] = {
    f"{CAEP}session-revoked": _none,
    f"{CAEP}credential-change": _taken_away,
    f"{CAEP}token-claims-change": _none,  # groups may have shrunk: what was given with the old ones is dead
    f"{CAEP}assurance-level-change": _decreased,
    f"{RISC}sessions-revoked": _none,
    f"{RISC}credential-compromise": _none,
}
"""Events after which nothing that was given before them counts, where they say what the test wants."""
_FOR_GOOD: Final = {f"{RISC}account-disabled": DISABLED, f"{RISC}account-purged": "account-purged"}
_ENABLED: Final = f"{RISC}account-enabled"


class Receiver:
    """One issuer's events."""

    def __init__(self, issuer: Issuer, keys: KeySet, token: str) -> None:
        """`token` is what the transmitter shows; `issuer.events` is there."""
        assert issuer.events is not None  # noqa: S101  whoever makes one has looked
        self.alias = issuer.alias
        self.scope = f"event:{issuer.alias}"
        self._people = issuer.issuer
        self._issuer = issuer.events.issuer or issuer.issuer
        self._audience = issuer.events.audience
        self._algorithms = frozenset(issuer.algorithms)
        self.keys = keys
        self._token = hashlib.sha256(token.encode()).digest()

    def admits(self, authorization: str) -> bool:
        """Whether a request's only `Authorization` header is the transmitter's; in constant time."""
        kind, _, shown = authorization.partition(" ")
        same = hmac.compare_digest(hashlib.sha256(shown.encode("utf-8", "surrogateescape")).digest(), self._token)
        return same and kind.lower() == "bearer"

    async def read(self, text: str, now: int) -> Event:
        """The event, proven; `EventError` otherwise."""
        try:
            token = read(text)
        except Refused as refusal:
            raise EventError("invalid_request", refusal.detail) from None
        await self._prove(token)
        claims = token.unverified_claims  # from here on they are verified
        self._check(claims)
        jti = claims.get("jti")
        if not is_text(jti, 255):
            _invalid("jti is missing or not 1 to 255 printable characters")
        issued = _moment(claims, "iat")
        if not now - OLDEST_SECONDS <= issued <= now + LEEWAY_SECONDS:
            _invalid("iat is more than a day ago, or lies ahead")
        events = claims.get("events")
        if not isinstance(events, dict) or not 1 <= len(events) <= MOST_EVENTS:
            _invalid(f"events is not an object of 1 to {MOST_EVENTS} events")
        effects = tuple(
            effect for uri, event in events.items() if (effect := self._effect(uri, event, claims, issued, now)) is not None
        )
        return Event(str(jti), issued, tuple(events), effects, token.payload)

    async def _prove(self, token: Unverified) -> None:
        if token.typ.lower() not in TYPES:
            _invalid("typ is not secevent+jwt")
        key = await self.keys.get(token.kid)
        if key is None or token.alg not in self._algorithms or token.alg not in key.algorithms:
            raise EventError("invalid_key", "kid and alg are not those of a key of this issuer")
        try:
            check_signature(token.text, token.payload, key.public, token.alg)
        except Refused:
            raise EventError("invalid_key", "the signature does not verify") from None

    def _check(self, claims: Mapping[str, object]) -> None:
        if claims.get("iss") != self._issuer:
            raise EventError("invalid_issuer", "iss is another issuer")
        audience = claims.get("aud")
        audiences = [audience] if isinstance(audience, str) else audience
        if not isinstance(audiences, list) or len(audiences) > MAX_AUDIENCES or self._audience not in audiences:
            raise EventError("invalid_audience", "aud names somebody else")
        if _NOT_OURS & claims.keys():
            _invalid("a security event has no exp, and no sub beside sub_id")

    def _effect(self, uri: str, event: object, claims: Mapping[str, object], issued: int, now: int) -> Effect | None:
        if not isinstance(event, dict):
            _invalid("an event is an object")
        before = uri in _BEFORE and _BEFORE[uri](event)
        if not before and uri not in _FOR_GOOD and uri != _ENABLED:
            return None
        at = _moment(event, "event_timestamp") if "event_timestamp" in event else issued
        if at > now + LEEWAY_SECONDS:
            _invalid("event_timestamp lies ahead")
        subject = self._subject(claims.get("sub_id"))
        if uri == _ENABLED:
            return Effect(subject, DISABLED, None, at, lifts=True)
        reason = _FOR_GOOD.get(uri) or uri.rpartition("/")[2]
        return Effect(subject, reason, at if before else None, at)

    def _subject(self, sub_id: object) -> str:
        """RFC 9493: `iss_sub` of this issuer, or `opaque`, which is its `sub`; of a `complex` one the `user`."""
        if isinstance(sub_id, dict) and sub_id.get("format") == "complex":
            sub_id = sub_id.get("user")
        if not isinstance(sub_id, dict):
            _invalid("sub_id is missing or no subject identifier")
        kind = sub_id.get("format")
        if kind == "iss_sub":
            if sub_id.get("iss") != self._people:
                _invalid("sub_id is of another issuer")
            name = sub_id.get("sub")
        elif kind == "opaque":
            name = sub_id.get("id")
        else:
            _invalid("sub_id is neither iss_sub nor opaque: nobody is known here by an address")
        if not is_text(name, 255):
            _invalid("sub_id names nobody")
        return f"user:{self.alias}/{name}"


@dataclass(frozen=True, slots=True)
class Receivers:
    """The issuers whose events are taken, by alias, and where it is known which were."""

    by_alias: Mapping[str, Receiver]
    once: Once

    async def close(self) -> None:
        """End what their own key sets have under way."""
        for receiver in self.by_alias.values():
            await receiver.keys.close()


def receivers(issuers: Iterable[Issuer], access: AccessTokens, fetch: Fetch, once: Once, environ: Mapping[str, str]) -> Receivers:
    """Those that the settings name; asks nobody yet.  ProblemError for a token that is none."""
    found: dict[str, Receiver] = {}
    for issuer in issuers:
        trusted = access.issuer(issuer.alias)
        if issuer.events is None or trusted is None:
            continue
        place = f"issuers.{issuer.alias}.events.token"
        token = resolve(issuer.events.token, environ, place)
        if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
            message = f"what the transmitter shows is at least {LEAST_TOKEN} printable ASCII characters without a space"
            raise ProblemError(Problem("wrong-secret", message, place, "openssl rand -hex 32"))
        keys = trusted.keys if issuer.events.jwks is None else KeySet(issuer.events.jwks, fetch)
        found[issuer.alias] = Receiver(issuer, keys, token)
    return Receivers(found, once)


@dataclass(frozen=True, slots=True)
class Changes:
    """What an event leads to; `entries` are on record first."""

    kills: tuple[Kill, ...]
    lifts: tuple[Lift, ...]
    entries: tuple[Entry, ...]


def changes(event: Event, alias: str, at: int) -> Changes:
    """The kills and lifts of a verified event, and what is recorded of it; `at` in UTC microseconds."""
    by = f"issuer:{alias}"
    kills = tuple(
        Kill(new_id(at), "user", effect.subject, effect.before, effect.reason, EVENT, by, at)
        for effect in event.effects
        if not effect.lifts
    )
    lifts = tuple(
        Lift("user", effect.subject, by, effect.reason, (effect.at + LEEWAY_SECONDS) * 1_000_000)
        for effect in event.effects
        if effect.lifts
    )
    people = {effect.subject for effect in event.effects}
    led_to = [kill.id for kill in kills]
    fields = {"issuer": alias, "event": [uri[:200] for uri in event.types], "jti": event.jti, "kills": led_to}
    about = people.pop() if len(people) == 1 else None
    record = Entry("identity.event", new_id(at), at, about, fields, (Value("payload", event.payload),))
    return Changes(kills, lifts, (record, *entries_of(kills)))


def _moment(claims: Mapping[str, object], name: str) -> int:
    try:
        return moment(claims, name)
    except Refused as refusal:
        raise EventError("invalid_request", refusal.detail) from None


def _invalid(description: str) -> NoReturn:
    raise EventError("invalid_request", description)
