"""Which credential goes to which upstream, for whom: one strategy each, made at start.  What came in never goes out.

A strategy may only refuse a call, never let one through; what it gets for one person is shown for nobody else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from gateway.identity.fetched import ClientCredentials, Fetched, IdJag, TokenExchange
from gateway.identity.followed import Followed
from gateway.identity.oauthclient import TokenServer
from gateway.identity.transaction import Sent, TransactionTokens
from gateway.model import Permit, Refused
from gateway.problem import Problem, ProblemError
from gateway.reasons import Code
from gateway.upstream.credentials import EXCHANGED, Lines, Strategy, issuer_of

if TYPE_CHECKING:
    from gateway.identity.signing import KeyRing
    from gateway.identity.subjects import Subjects
    from gateway.model import Clock
    from gateway.settings import Credentials, Settings
    from gateway.upstream.client import Upstreams

_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


@dataclass(frozen=True, slots=True)
class Ground:
    """What every strategy may use.

    subjects  people's tokens that may be exchanged.
    tokens    what authorization servers gave so far.
    """

    public_url: str
    ring: KeyRing
    upstreams: Upstreams
    environ: Mapping[str, str]
    clock: Clock
    subjects: Subjects
    tokens: Fetched


@dataclass(frozen=True, slots=True)
class Making:
    """One upstream and what is said of it.

    place   of its settings, as `mcp.erp` or `agents.clerk`: unique, and good for errors.
    url     of the upstream.
    sent    what of a call a credential can be bound to.
    issuer  alias of the issuer whose people's tokens are exchanged, "" where none are.
    """

    place: str
    url: str
    credentials: Credentials
    sent: Sent
    ground: Ground
    issuer: str = ""

    def server(self, which: Literal["endpoint", "redeem"]) -> TokenServer:
        """One of the token endpoints of these settings; ProblemError where the gateway's client there cannot be had."""
        endpoint = getattr(self.credentials, which)
        place = f"{self.place}.credentials.{which}"
        return TokenServer(endpoint, self.ground.upstreams, self.ground.environ, self.ground.clock, place)


Make = Callable[[Making], Strategy]


class Nothing:
    """The strategy `none`."""

    personal = False

    async def for_call(self, permit: Permit) -> tuple[Lines, str]:  # noqa: ARG002  a strategy's shape
        """No line at all."""
        return (), ""

    async def rejected(self, permit: Permit) -> bool:  # noqa: ARG002  as above
        """There is nothing to forget."""
        return False


class StaticSecret:
    """The strategy `static_secret`: one for everybody, so the upstream cannot tell people apart.  Its changes are followed."""

    personal = False

    def __init__(self, making: Making) -> None:
        """ProblemError where there is no such secret."""
        credentials = making.credentials
        assert credentials.secret is not None  # noqa: S101  the settings say so
        self._name = credentials.header_name.lower().encode("ascii")
        self._bearer = self._name == b"authorization" and not credentials.secret.prefix
        self._place = f"{making.place}.credentials.secret"
        self._secret = Followed(credentials.secret, making.ground.environ, self._place)

    async def for_call(self, permit: Permit) -> tuple[Lines, str]:  # noqa: ARG002  as above
        """The secret of now.  Refused(CREDENTIAL_UNAVAILABLE) where it is gone, or cannot stand in a header."""
        try:
            value = await self._secret.value()
        except ProblemError as error:
            raise Refused(Code.CREDENTIAL_UNAVAILABLE, f"{self._place}: {error.problems[0].message}") from None
        if _VALUE.fullmatch(value) is None:
            raise Refused(Code.CREDENTIAL_UNAVAILABLE, f"{self._place}: the value cannot be sent")
        return ((self._name, (f"Bearer {value}" if self._bearer else value).encode("ascii")),), "shared"

    async def rejected(self, permit: Permit) -> bool:
        """A command is asked again; a file that has changed is seen at the next call by itself."""
        shown = permit.credentials[0][1].decode("ascii")
        try:
            return await self._secret.refused(shown.removeprefix("Bearer ") if self._bearer else shown)
        except ProblemError:
            return False


def _transaction(making: Making) -> Strategy:
    ground, credentials = making.ground, making.credentials
    return TransactionTokens(
        ground.ring,
        ground.public_url,
        credentials.audience or making.url,
        credentials.header_name,
        credentials.lifetime_seconds,
        making.sent,
        ground.clock,
    )


def _client(making: Making) -> Strategy:
    return ClientCredentials(making.place, making.credentials, making.server("endpoint"), making.ground.tokens)


def _exchange(making: Making) -> Strategy:
    ground, server = making.ground, making.server("endpoint")
    return TokenExchange(making.place, making.credentials, server, ground.tokens, ground.subjects, making.issuer)


def _id_jag(making: Making) -> Strategy:
    ground, server, redeem = making.ground, making.server("endpoint"), making.server("redeem")
    person = ground.subjects, making.issuer
    return IdJag(making.place, making.credentials, server, ground.tokens, *person, redeem, ground.clock)


STRATEGIES: Mapping[str, Make] = MappingProxyType(
    {
        "none": lambda _: Nothing(),
        "static_secret": StaticSecret,
        "txn_token": _transaction,
        "client_credentials": _client,
        "token_exchange": _exchange,
        "id_jag": _id_jag,
    }
)
"""By the word in the settings; `Outbound` takes more of them."""


def exchanged(settings: Settings) -> frozenset[str]:
    """Aliases of the issuers whose people's tokens some upstream needs."""
    chosen = [server.credentials for server in settings.mcp.values() if server.credentials is not None]
    chosen += [agent.credentials for agent in settings.agents.values() if agent.credentials is not None]
    return frozenset(issuer_of(each, settings) or "" for each in chosen if each.strategy in EXCHANGED)


class Outbound:
    """Every upstream's strategy, by protocol and id."""

    def __init__(
        self, settings: Settings, ground: Ground, sent: Mapping[str, Sent], strategies: Mapping[str, Make] = STRATEGIES
    ) -> None:
        """ProblemError for a strategy that cannot be made; blocks.  `sent` by protocol: see `Making`."""
        self._ground = ground
        self._strategies: dict[tuple[str, str], Strategy] = {}
        self._fixed: set[tuple[str, str]] = set()
        for protocol, group, upstreams in (("mcp", "mcp", settings.mcp), ("a2a", "agents", settings.agents)):
            for name, upstream in upstreams.items():
                if upstream.credentials is None:
                    if upstream.headers:
                        self._fixed.add((protocol, name))
                    continue
                place = f"{group}.{name}"
                make = strategies.get(upstream.credentials.strategy)
                if make is None:
                    text = f"the strategy {upstream.credentials.strategy} cannot be used here"
                    raise ProblemError(Problem("unknown-strategy", text, f"{place}.credentials.strategy"))
                issuer = issuer_of(upstream.credentials, settings) or ""
                making = Making(place, str(upstream.url), upstream.credentials, sent[protocol], ground, issuer)
                self._strategies[protocol, name] = make(making)

    async def aclose(self) -> None:
        """End what is being fetched."""
        await self._ground.tokens.aclose()

    async def fulfil(self, permit: Permit, *, shared: bool = False) -> Permit:
        """The permit with what its upstream is shown; `shared`: the answer will be other people's too, so nothing personal is.

        Refused(CREDENTIAL_UNAVAILABLE) or CONSENT_REQUIRED where it cannot be had.
        """
        upstream = permit.call.arrival.protocol, permit.call.target
        strategy = self._strategies.get(upstream)
        if strategy is None:
            return replace(permit, credential="shared") if upstream in self._fixed else permit
        if shared and strategy.personal:
            return permit
        lines, kind = await strategy.for_call(permit)
        return replace(permit, credentials=lines, credential=kind)

    async def rejected(self, permit: Permit, *, again: bool) -> Permit | None:
        """The upstream answered 401: what it was shown is forgotten.  With `again`, the permit with another credential.

        None where there is no other, or none may be tried.
        """
        strategy = self._strategies.get((permit.call.arrival.protocol, permit.call.target))
        if strategy is None or not permit.credentials:
            return None
        try:
            if not await strategy.rejected(permit) or not again:
                return None
            lines, kind = await strategy.for_call(permit)
        except Refused:  # the call was let through and sent: what came of it is the upstream's answer
            return None
        return replace(permit, credentials=lines, credential=kind)
