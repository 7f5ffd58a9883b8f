"""Agent cards: fetched, held against pinned keys, rebuilt, and shown to each caller as far as it goes, under the gateway's name.

What a caller reads is what the gateway serves, and no way around it.  A card that does not verify is shown to nobody.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from a2a.types import a2a_pb2 as pb

from gateway.a2a import v03
from gateway.a2a.errors import SUPPORTED_VERSIONS
from gateway.a2a.extensions import Declared
from gateway.a2a.published import own_addresses, published, unfit
from gateway.a2a.rest import PREFIX
from gateway.a2a.signed import Verdict, digest_of, forms, judge, sign
from gateway.a2a.wire import UnreadableError, dump, load, to_json
from gateway.model import Arrival, Clock, Reply, UpstreamError

if TYPE_CHECKING:
    from gateway.identity.keys import KeySet
    from gateway.identity.signing import KeyRing

CARD_SECONDS = 60
RETRY_SECONDS = 5
LAST_GOOD_SECONDS = 3600
JWKS_PATH = "/.well-known/jwks.json"
MOST_MADE = 512
MOST_MADE_BYTES = 16 * 1024 * 1024
_DEPTH = 32
_MICRO = 1_000_000
_UNSIGNED = Verdict("unsigned")

Fetch = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Interface:
    """One way in that the gateway really serves for an agent, as its card names it.

    binding  `JSONRPC`, `HTTP+JSON` or `GRPC`; version: of the protocol, `1.0` or `0.3`; url: for gRPC `host:port`.
    """

    binding: str
    version: str
    url: str


Served = Callable[[str], Sequence[Interface]]
"""The interfaces that are served for an agent, the preferred one first."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is demanded of one agent's card, by settings of these names.

    keys        that sign it; None: nobody's signature is asked for.
    require     whether a card that none of them signed is shown to nobody; stops_calls: whether calls stop as well then.
    extensions  URIs of the extensions that are let through.
    """

    keys: KeySet | None = None
    require: bool = False
    stops_calls: bool = False
    extensions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Known:
    """An agent's card as it is published, with all of its skills, not signed.

    digest    of the agent's own; declared: the extensions that are let through, of those that it names.
    """

    card: pb.AgentCard
    digest: str
    declared: Declared
    verdict: Verdict = _UNSIGNED


@dataclass(frozen=True, slots=True)
class Card:
    """A card as one caller gets it: signed, its bytes and their entity tag (RFC 9110 §8.8.3, with quotes)."""

    message: pb.AgentCard
    body: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Heard:
    """What an agent was heard to say of itself: `why` it is not published, "" where it is."""

    agent: str
    digest: str
    published: str
    verdict: Verdict
    why: str
    said: bytes


class Drift(Protocol):
    """Notices what changes between one reading and the next, whichever replica made it."""

    async def heard(self, heard: Heard, call: str) -> None:
        """On record on return where it is news; `Refused` where it cannot be."""


class CardRefusedError(UpstreamError):
    """The agent answered, with a card that must not be shown."""


def public_url(base: str, agent: str) -> str:
    """Where the gateway serves an agent, with the closing slash that clients resolve against."""
    return f"{base}/a2a/{agent}/"


def by_http(base: str, agent: str, versions: Sequence[str] = SUPPORTED_VERSIONS) -> tuple[Interface, ...]:
    """What is served by HTTP: 1.0 by JSON-RPC and by HTTP+JSON, 0.3 by JSON-RPC alone."""
    here = public_url(base, agent)
    rest = [Interface("HTTP+JSON", version, here.rstrip("/") + PREFIX) for version in versions if version != v03.VERSION]
    return (
        *(Interface("JSONRPC", version, here) for version in versions[:1]),
        *rest,
        *(Interface("JSONRPC", version, here) for version in versions[1:]),
    )


def cacheable(payload: Any, body: bytes, etag: str, arrival: Arrival, headers: tuple[tuple[str, str], ...]) -> Reply:
    """What holds for this caller alone, and for a minute: sent, or not where the caller has it already."""
    headers = (*headers, ("ETag", etag), ("Cache-Control", f"private, max-age={CARD_SECONDS}"), ("Vary", "Authorization"))
    wanted = arrival.header("if-none-match") or ""
    if etag in (tag.strip().removeprefix("W/") for tag in wanted.split(",")):
        return Reply(payload, is_final=True, body=b"", status=304, headers=headers)
    return Reply(payload, is_final=True, body=body, headers=headers)


def etag_of(body: bytes) -> str:
    """The entity tag of a body."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


@dataclass(slots=True)
class _Kept:
    known: Known
    fetched: int
    fresh_until: int
    failing: bool = False


class Cards:
    """The cards of this process: fetched once a minute at most, and by one call at a time.

    While the agent does not answer, the last good card serves for an hour; one that is refused takes the last good one with it.
    """

    def __init__(
        self,
        base: str,
        clock: Clock,
        served: Served,
        *,
        ring: KeyRing,
        push: bool = False,
        terms: Mapping[str, Terms] = MappingProxyType({}),
        drift: Drift | None = None,
    ) -> None:
        """`base` is the gateway's public URL, without a trailing slash; `push`: whether notifications are relayed."""
        self._base = base
        self._served = served
        self._push = push
        self._clock = clock
        self._ring = ring
        self._terms = terms
        self._drift = drift
        self._kept: dict[str, _Kept] = {}
        self._refused: dict[str, tuple[int, str]] = {}
        self._flights: dict[str, asyncio.Task[Known]] = {}
        self._made: OrderedDict[tuple[object, ...], Card] = OrderedDict()
        self._made_bytes = 0

    def terms(self, agent: str) -> Terms:
        """What is demanded of this agent's card."""
        return self._terms.get(agent, _NO_TERMS)

    def served(self, agent: str) -> Sequence[Interface]:
        """The interfaces that its card names."""
        return self._served(agent)

    def url(self, agent: str) -> str:
        """Where the agent is served."""
        return public_url(self._base, agent)

    def declared(self, agent: str) -> Declared | None:
        """The extensions of the card that serves; None where none was read."""
        kept = self._kept.get(agent)
        return None if kept is None else kept.known.declared

    def is_stale(self, agent: str) -> bool:
        """Whether the last attempt to read the card that serves failed."""
        kept = self._kept.get(agent)
        return kept is not None and kept.failing

    async def get(self, agent: str, fetch: Fetch, hidden: tuple[str, ...] = (), call: str = "") -> Known:
        """The card of one registered agent; `UpstreamError` where there is none that may still be shown.

        call  id of the call for which it is read, if it has to be.
        """
        kept, now = self._kept.get(agent), self._clock()
        if kept is not None and now < kept.fresh_until:
            return kept.known
        until, refused = self._refused.get(agent, (0, ""))
        if now < until:
            raise CardRefusedError("protocol", refused)
        flight = self._flights.get(agent)
        if flight is None:
            flight = self._flights[agent] = asyncio.ensure_future(self._renew(agent, fetch, hidden, call))
            flight.add_done_callback(lambda done: self._landed(agent, done))
        return await asyncio.shield(flight)  # a client that leaves must not take the others' card with it

    async def read(self, agent: str, card: pb.AgentCard, said: Mapping[str, Any], hidden: tuple[str, ...]) -> Known:
        """A card that one caller was told, held against the same terms; nothing of it is kept.

        `UpstreamError` where it must not be shown.
        """
        try:
            told = await asyncio.to_thread(_told, card, said)
        except UnreadableError as error:
            raise CardRefusedError("protocol", f"extended agent card: {error}") from None
        verdict = await self._verdict(agent, told)
        why = self._unfit(agent, card, verdict)
        if why:
            raise CardRefusedError("protocol", f"extended agent card: {why}")
        return await self._publish(agent, told, verdict, hidden)

    async def shown(self, agent: str, known: Known, sees: Callable[[str], bool], *, extended: bool) -> Card:
        """The card with the skills that the caller sees, signed; `extended`: whether it may ask for the extended one."""
        skills = tuple(skill.id for skill in known.card.skills if sees(skill.id))
        has = extended and known.card.capabilities.extended_agent_card
        key = (agent, known.digest, skills, has, self._ring.kid)
        made = self._made.get(key)
        if made is None:
            message, said, canonical = await asyncio.to_thread(_part, known.card, frozenset(skills), extended=has)
            made = self._keep(key, self._signed(message, said, canonical))
        self._made.move_to_end(key)
        return made

    def _signed(self, message: pb.AgentCard, said: dict[str, Any], canonical: tuple[bytes, ...]) -> Card:
        message.signatures.extend(sign(canonical, self._ring, self._base + JWKS_PATH))
        body = dump(said | {"signatures": [to_json(each) for each in message.signatures]})
        return Card(message, body, etag_of(body))

    def _keep(self, key: tuple[object, ...], card: Card) -> Card:
        """So that what has not changed is not signed anew; of two that were made at once the first stays."""
        kept = self._made.setdefault(key, card)
        if kept is card:
            self._made_bytes += len(card.body)
            while len(self._made) > MOST_MADE or (self._made_bytes > MOST_MADE_BYTES and len(self._made) > 1):
                self._made_bytes -= len(self._made.popitem(last=False)[1].body)
        return kept

    async def aclose(self) -> None:
        """Stop fetching."""
        for flight in list(self._flights.values()):
            flight.cancel()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    def _landed(self, agent: str, flight: asyncio.Task[Known]) -> None:
        self._flights.pop(agent, None)
        if not flight.cancelled():
            flight.exception()  # whoever still waits gets it; nobody may be left

    async def _renew(self, agent: str, fetch: Fetch, hidden: tuple[str, ...], call: str) -> Known:
        try:
            known = await self._heard(agent, await fetch(), hidden, call)
        except CardRefusedError as error:
            self._kept.pop(agent, None)
            self._refused[agent] = self._clock() + RETRY_SECONDS * _MICRO, error.detail
            raise
        except UpstreamError:
            kept, now = self._kept.get(agent), self._clock()
            if kept is None or now - kept.fetched > LAST_GOOD_SECONDS * _MICRO:
                self._kept.pop(agent, None)
                raise
            kept.fresh_until, kept.failing = now + RETRY_SECONDS * _MICRO, True
            return kept.known
        now = self._clock()
        self._refused.pop(agent, None)
        self._kept[agent] = _Kept(known, now, now + CARD_SECONDS * _MICRO)
        return known

    async def _heard(self, agent: str, raw: bytes, hidden: tuple[str, ...], call: str) -> Known:
        """What the agent says of itself now; on record where it is news, before anybody is told."""
        try:
            told = await asyncio.to_thread(_read, raw)
        except UnreadableError as error:
            digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
            await self._noted(Heard(agent, digest, "", _UNSIGNED, f"unreadable: {error}", raw), call)
            kind = CardRefusedError if self.terms(agent).require else UpstreamError
            raise kind("protocol", f"agent card: {error}") from None
        verdict = await self._verdict(agent, told)
        why = self._unfit(agent, told.card, verdict)
        if why:
            await self._noted(Heard(agent, digest_of(told.forms), "", verdict, why, raw), call)
            raise CardRefusedError("protocol", f"agent card: {why}")
        known = await self._publish(agent, told, verdict, hidden)
        shown = hashlib.sha256(dump(to_json(known.card))).hexdigest()
        await self._noted(Heard(agent, known.digest, f"sha256:{shown}", verdict, "", raw), call)
        return known

    async def _verdict(self, agent: str, told: _Told) -> Verdict:
        keys = self.terms(agent).keys
        verdict = await judge(told.card, told.forms, keys)
        if keys is not None and verdict.word == "invalid" and keys.failure:  # it may be the keys: the last good card serves
            raise UpstreamError("connect", "the pinned keys of the agent's card cannot be read")
        return verdict

    def _unfit(self, agent: str, card: pb.AgentCard, verdict: Verdict) -> str:
        """Why the card must be shown to nobody; "" where it may be shown."""
        terms = self.terms(agent)
        if terms.require and verdict.word != "verified":
            return "it is not signed" if verdict.word == "unsigned" else "it is not signed by a pinned key"
        return unfit(card, terms.extensions)

    async def _publish(self, agent: str, told: _Told, verdict: Verdict, hidden: tuple[str, ...]) -> Known:
        made = await asyncio.to_thread(
            published, told.card, agent, self._base, public_url(self._base, agent), self._served(agent),
            hidden=(*hidden, *told.addresses), push=self._push, extensions=self.terms(agent).extensions,
        )  # fmt: skip
        return Known(made, digest_of(told.forms), Declared.by(made), verdict)

    async def _noted(self, heard: Heard, call: str) -> None:
        if self._drift is not None:
            await self._drift.heard(heard, call)


_NO_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class _Told:
    """An agent's own card: `forms` of it that may be signed, and every authority (`host:port`) that it names as its own."""

    card: pb.AgentCard
    forms: tuple[bytes, ...]
    addresses: tuple[str, ...]


def _read(raw: bytes) -> _Told:
    """For a thread, as a large card takes a while; `UnreadableError` for what is none."""
    said = load(raw, depth=_DEPTH)
    if not isinstance(said, dict):
        raise UnreadableError("not an object")
    return _told(v03.card_of(said), said)


def _told(card: pb.AgentCard, said: Mapping[str, Any]) -> _Told:
    return _Told(card, forms(card, said), own_addresses(card, said))


def _part(
    card: pb.AgentCard, skills: frozenset[str], *, extended: bool
) -> tuple[pb.AgentCard, dict[str, Any], tuple[bytes, ...]]:
    """What one caller gets of a card: as a message, as JSON, and the forms of it that are signed."""
    message = pb.AgentCard()
    message.CopyFrom(card)
    kept = [skill for skill in card.skills if skill.id in skills]
    del message.skills[:]
    message.skills.extend(kept)
    message.capabilities.extended_agent_card = extended
    said = v03.card(message, to_json(message))
    return message, said, forms(message, said)
