"""Agent cards, rebuilt from an allow-list: what a caller reads is what the gateway serves, and no way around it.

A member that is not named here is not published; neither is any address of the agent, wherever in the card it stood.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from a2a.types import a2a_pb2 as pb

from gateway.a2a import v03
from gateway.a2a.errors import SUPPORTED_VERSIONS
from gateway.a2a.rest import PREFIX
from gateway.a2a.wire import UnreadableError, dump, load, to_json, to_proto
from gateway.model import Arrival, Clock, Reply, UpstreamError

CARD_SECONDS = 60
RETRY_SECONDS = 5
LAST_GOOD_SECONDS = 3600
MAX_SKILLS = 256
_DEPTH = 32
_MICRO = 1_000_000

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
class Card:
    """A published card: its bytes and their entity tag (RFC 9110 §8.8.3, with quotes)."""

    body: bytes
    etag: str


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


def rebuild(
    raw: bytes, agent: str, base: str, served: Sequence[Interface], hidden: tuple[str, ...] = (), *, push: bool = False
) -> Card:
    """The upstream's card as the gateway's own.

    base    public URL of the gateway, without a trailing slash.
    served  the interfaces that the card names.
    push    whether notifications are relayed.
    hidden  authorities (`host:port`) that must not stand in any text, beside those of the card's own interfaces.
    Raises `UpstreamError("protocol")` for what is no card, and for one that demands an extension which is not served.
    """
    try:
        said = load(raw, depth=_DEPTH)
        card = to_proto(said, pb.AgentCard())
    except UnreadableError as error:
        raise UpstreamError("protocol", f"agent card: {error}") from None
    if not card.name or len(card.skills) > MAX_SKILLS:
        raise UpstreamError("protocol", "agent card: name or skills")
    if any(extension.required for extension in card.capabilities.extensions):
        raise UpstreamError("protocol", "agent card: a required extension is not served here")
    here = public_url(base, agent)
    addresses = (*(interface.url for interface in card.supported_interfaces), *v03.addresses(said))
    authorities = {*hidden, *(urlsplit(url).netloc for url in addresses)}
    clean = _Scrub(frozenset(authority.lower() for authority in authorities if authority), here)
    published = _published(card, clean, served, base, push=push)
    body = dump(v03.card(published, to_json(published)))
    return Card(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _published(card: pb.AgentCard, clean: _Scrub, served: Sequence[Interface], base: str, *, push: bool) -> pb.AgentCard:
    """The allow-list.  `provider.url` is a required member; it says the gateway's address, as the provider's own is withheld."""
    published = pb.AgentCard(
        name=clean(card.name),
        description=clean(card.description),
        version=clean(card.version) or "0",
        supported_interfaces=[
            pb.AgentInterface(url=each.url, protocol_binding=each.binding, protocol_version=each.version) for each in served
        ],
        capabilities=pb.AgentCapabilities(
            streaming=card.capabilities.streaming,
            push_notifications=push and card.capabilities.push_notifications,
            extended_agent_card=False,
        ),
        default_input_modes=[clean(mode) for mode in card.default_input_modes],
        default_output_modes=[clean(mode) for mode in card.default_output_modes],
        skills=[_skill(skill, clean) for skill in card.skills],
    )
    if card.provider.organization:
        published.provider.CopyFrom(pb.AgentProvider(organization=clean(card.provider.organization), url=base))
    bearer = pb.HTTPAuthSecurityScheme(scheme="Bearer", bearer_format="JWT")
    published.security_schemes["bearer"].CopyFrom(pb.SecurityScheme(http_auth_security_scheme=bearer))
    published.security_requirements.append(pb.SecurityRequirement(schemes={"bearer": pb.StringList()}))
    return published


def _skill(skill: pb.AgentSkill, clean: _Scrub) -> pb.AgentSkill:
    return pb.AgentSkill(
        id=clean(skill.id),
        name=clean(skill.name),
        description=clean(skill.description),
        tags=[clean(tag) for tag in skill.tags],
        examples=[clean(example) for example in skill.examples],
        input_modes=[clean(mode) for mode in skill.input_modes],
        output_modes=[clean(mode) for mode in skill.output_modes],
    )


def released(card: Card, arrival: Arrival, headers: tuple[tuple[str, str], ...]) -> Reply:
    """The card as it is sent, or that the caller has it already."""
    headers = (*headers, ("ETag", card.etag), ("Cache-Control", "private, max-age=60"), ("Vary", "Authorization"))
    wanted = arrival.header("if-none-match") or ""
    if card.etag in (tag.strip().removeprefix("W/") for tag in wanted.split(",")):
        return Reply(card, is_final=True, body=b"", status=304, headers=headers)
    return Reply(card, is_final=True, body=card.body, headers=headers)


class _Scrub:
    """Replaces an agent's own addresses in prose: as a URL always, as a bare name only where a port makes it one."""

    __slots__ = ("_found", "_here")

    def __init__(self, authorities: frozenset[str], here: str) -> None:
        names = "|".join(re.escape(authority) for authority in sorted(authorities))
        ported = "|".join(re.escape(authority) for authority in sorted(authorities) if ":" in authority)
        patterns = [rf"[a-z][a-z0-9+.-]*://(?:{names})(?![\w-])[^\s\"'<>)\]]*"] if names else []
        patterns += [rf"(?:{ported})(?![\w-])"] if ported else []
        self._found = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None
        self._here = here

    def __call__(self, text: str) -> str:
        return self._found.sub(self._here, text) if self._found is not None else text


@dataclass(slots=True)
class _Kept:
    card: Card
    fetched: int
    fresh_until: int


class Cards:
    """The published cards of this process: fetched once a minute at most, and by one call at a time.

    While the agent does not answer, the last good card serves for an hour.
    """

    def __init__(self, base: str, clock: Clock, served: Served, *, push: bool = False) -> None:
        self._base = base
        self._served = served
        self._push = push
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._flights: dict[str, asyncio.Task[Card]] = {}

    async def get(self, agent: str, fetch: Fetch, hidden: tuple[str, ...] = ()) -> Card:
        """The published card of one registered agent; `UpstreamError` where there is none that may still be shown."""
        kept = self._kept.get(agent)
        if kept is not None and self._clock() < kept.fresh_until:
            return kept.card
        flight = self._flights.get(agent)
        if flight is None:
            flight = self._flights[agent] = asyncio.ensure_future(self._renew(agent, fetch, hidden))
            flight.add_done_callback(lambda done: self._landed(agent, done))
        return await asyncio.shield(flight)  # a client that leaves must not take the others' card with it

    async def aclose(self) -> None:
        """Stop fetching."""
        for flight in list(self._flights.values()):
            flight.cancel()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    def _landed(self, agent: str, flight: asyncio.Task[Card]) -> None:
        self._flights.pop(agent, None)
        if not flight.cancelled():
            flight.exception()  # whoever still waits gets it; nobody may be left

    async def _renew(self, agent: str, fetch: Fetch, hidden: tuple[str, ...]) -> Card:
        try:
            card = rebuild(await fetch(), agent, self._base, self._served(agent), hidden, push=self._push)
        except UpstreamError:
            kept, now = self._kept.get(agent), self._clock()
            if kept is None or now - kept.fetched > LAST_GOOD_SECONDS * _MICRO:
                self._kept.pop(agent, None)
                raise
            kept.fresh_until = now + RETRY_SECONDS * _MICRO
            return kept.card
        now = self._clock()
        self._kept[agent] = _Kept(card, now, now + CARD_SECONDS * _MICRO)
        return card
