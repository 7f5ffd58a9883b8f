"""What a person let the gateway keep for one upstream: a refresh token, and the access token of the moment.

One refresh at a time on all replicas together, as a refresh token may be good once.  What the upstream's authorization server
takes back is forgotten here, and the person is asked again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from audit.model import Entry, LedgerUnavailableError
from gateway.identity.token_request import TokenRefusedError
from gateway.model import Clock, Refused, new_id
from gateway.reasons import Code
from gateway.state.sealing import Sealer, UnsealableError
from gateway.state.vault import Kept, Key, Vaulted

Append = Callable[[Entry], Awaitable[object]]
"""The ledger's, durable on return."""

LEASE_SECONDS: Final = 20
"""How long a replica that refreshes has it to itself; longer than a token request may take."""
LOOK_SECONDS: Final = 0.1
"""How often the others look whether it is done."""
EARLY_SECONDS: Final = 30
UNSAID_SECONDS: Final = 3600
"""For how long an access token is used whose end the server did not tell, where it can be refreshed."""
LONGEST_SECONDS: Final = 30 * 24 * 3600
MAX_TOKEN_CHARS: Final = 8192
_NO_END: Final = 1 << 40


class ForgottenError(Exception):
    """Nothing that could be used is kept: the person has to consent (again)."""


Ask = Callable[[Mapping[str, str]], Awaitable[Mapping[str, Any]]]
"""A token request (RFC 6749 §4.1.3, §6) by the gateway's client: the answer's members.

`TokenRefusedError` where the server refuses, `Refused(CREDENTIAL_UNAVAILABLE)` where it does not answer as it should.
"""


@dataclass(frozen=True, slots=True)
class Provider:
    """An upstream's authorization server, as settings describe it.

    issuer     `iss` of its answers (RFC 9207); "" where it says none.
    scope      what consent is asked for.
    resource   RFC 8707; "" where the server wants none.
    """

    upstream: str
    authorize_url: str
    client_id: str
    ask: Ask = field(repr=False)
    header: bytes = b"authorization"
    scope: tuple[str, ...] = ()
    resource: str = ""
    audience: str = ""
    issuer: str = ""

    def about(self) -> dict[str, str]:
        """What every request says of the token that is wanted."""
        wanted = {"resource": self.resource, "audience": self.audience}
        return {name: value for name, value in wanted.items() if value}


@dataclass(frozen=True, slots=True)
class Held:
    """What is sealed in a row.

    until  epoch seconds until which the access token is used.
    lease  epoch seconds until which one replica refreshes and the others wait; 0: nobody does.
    """

    access: str = field(repr=False)
    refresh: str = field(repr=False)
    until: int
    scope: str
    lease: int = 0

    @classmethod
    def of(cls, answer: Mapping[str, Any], now: int, before: Held | None = None) -> Held:
        """What a token response (RFC 6749 §5.1) gives; Refused(CREDENTIAL_UNAVAILABLE) for what is none."""
        access, refresh = answer.get("access_token"), answer.get("refresh_token", before.refresh if before else "")
        if not _is_token(access) or not (refresh == "" or _is_token(refresh)) or not _is_bearer(answer.get("token_type")):
            raise _unavailable("the authorization server's answer holds no bearer token")
        scope, seconds = answer.get("scope", before.scope if before else ""), answer.get("expires_in")
        if not isinstance(scope, str) or len(scope) > 4096 or not scope.isprintable():
            raise _unavailable("the authorization server's answer has no readable scope")
        if seconds is None:
            until = now + UNSAID_SECONDS if refresh else _NO_END
        elif type(seconds) is int and seconds > 0:
            seconds = min(seconds, LONGEST_SECONDS)
            until = now + seconds - min(EARLY_SECONDS, seconds // 4)
        else:
            raise _unavailable("the authorization server's answer has no readable end")
        return cls(str(access), str(refresh), until, scope)


@dataclass(frozen=True, slots=True)
class Listed:
    """A row as its owner may see it; times in UTC microseconds."""

    upstream: str
    created_at: int
    used_at: int


class Vault:
    """Keeps, refreshes and forgets.  Raises `ForgottenError` where the person has to be asked."""

    def __init__(  # noqa: PLR0917  the parts it is made of
        self,
        rows: Vaulted,
        sealer: Sealer,
        providers: Mapping[str, Provider],
        append: Append,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`sealer`: of the purpose `vault`, the same on every replica; `providers` by upstream."""
        self.providers = providers
        self._rows = rows
        self._sealer = sealer
        self._append = append
        self._clock = clock
        self._monotonic = monotonic
        self._flights: dict[Key, asyncio.Task[str]] = {}

    async def token(self, key: Key) -> str:
        """An access token that is good for a while yet."""
        kept = await self._rows.get(key)
        held = await self._held(kept)
        if held.until > self._now:
            return held.access
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._refreshed(key), name="vault")
            flight.add_done_callback(lambda done: self._landed(key, done))
        try:
            return await asyncio.shield(flight)  # one caller that leaves must not leave the others without
        except Refused as refusal:
            raise Refused(refusal.code, refusal.detail) from None  # each caller's own: it will say whose call it befell

    async def keep(self, key: Key, held: Held) -> None:
        """Keep what a person's consent led to.  Its record is the caller's, and comes first."""
        await self._rows.put(key, self._seal(key, held), self._clock())

    async def worn(self, key: Key, access: str) -> bool:
        """The upstream did not take this access token; whether the next call may have another without asking the person."""
        kept = await self._rows.get(key)
        try:
            held = await self._held(kept)
        except ForgottenError:
            return False
        if kept is not None and held.access == access and held.until > self._now:
            await self._rows.swap(kept, self._seal(key, replace(held, until=0)), self._clock())
            return bool(held.refresh)
        return True  # it was renewed meanwhile

    async def forget(self, key: Key, why: str, by: str = "") -> bool:
        """Remove it, on record first; whether anything was kept.  `by`: who wanted it, where it was not the person."""
        if await self._rows.get(key) is None:
            return False
        await self._record_forget(key, why, by)
        return await self._rows.remove(key)

    async def listed(self, tenant: str, subject: str) -> list[Listed]:
        """What is kept of a person; of the credentials nothing."""
        return [Listed(row.key.upstream, row.created_at, row.updated_at) for row in await self._rows.of(tenant, subject)]

    async def close(self) -> None:
        """End refreshes that are under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    @property
    def _now(self) -> int:
        return self._clock() // 1_000_000

    def _landed(self, key: Key, done: asyncio.Task[str]) -> None:
        self._flights.pop(key, None)
        if not done.cancelled():
            done.exception()  # whoever waited has it; with nobody left it is no news

    async def _held(self, kept: Kept | None) -> Held:
        if kept is None:
            raise ForgottenError
        try:
            return Held(**orjson.loads(self._sealer.open(kept.key.binding, kept.sealed)))
        except (UnsealableError, TypeError, ValueError):  # the key was changed, or somebody changed the row
            await self._drop(kept, "unreadable")
            raise ForgottenError from None

    def _seal(self, key: Key, held: Held) -> bytes:
        members = {"access": held.access, "refresh": held.refresh, "until": held.until, "scope": held.scope, "lease": held.lease}
        return self._sealer.seal(key.binding, orjson.dumps(members))

    async def _refreshed(self, key: Key) -> str:
        ends = self._monotonic() + LEASE_SECONDS
        while True:
            kept = await self._rows.get(key)
            held = await self._held(kept)
            if kept is None or held.until > self._now:
                return held.access
            if not held.refresh:
                await self._drop(kept, "ended")
                raise ForgottenError
            if held.lease > self._now:  # another replica is at it
                if self._monotonic() > ends:
                    raise _unavailable("another replica refreshes it, and does not come to an end")
                await asyncio.sleep(LOOK_SECONDS)
                continue
            lease = replace(held, lease=self._now + LEASE_SECONDS)
            mine = await self._rows.swap(kept, self._seal(key, lease), self._clock())
            fresh = await self._renewed(mine, held) if mine is not None else None
            if fresh is not None:
                return fresh

    async def _renewed(self, mine: Kept, held: Held) -> str | None:
        """The new access token; None where the row was changed meanwhile: forgotten, or consented to anew."""
        provider = self.providers.get(mine.key.upstream)
        if provider is None:
            raise _unavailable("no such upstream keeps people's credentials")
        form = {"grant_type": "refresh_token", "refresh_token": held.refresh, **provider.about()}
        try:
            async with asyncio.timeout(LEASE_SECONDS / 2):
                fresh = Held.of(await provider.ask(form), self._now, held)
        except TokenRefusedError as refusal:
            if refusal.error == "invalid_grant":
                await self._drop(mine, "taken back")
                raise ForgottenError from None
            await self._let_go(mine, held)
            raise _unavailable(f"the authorization server refuses: {refusal.error}") from None
        except TimeoutError:
            await self._let_go(mine, held)
            raise _unavailable("the authorization server does not answer in time") from None
        except Refused:
            await self._let_go(mine, held)
            raise
        changed = await self._rows.swap(mine, self._seal(mine.key, fresh), self._clock())
        return fresh.access if changed is not None else None

    async def _let_go(self, mine: Kept, held: Held) -> None:
        await self._rows.swap(mine, self._seal(mine.key, held), self._clock())

    async def _drop(self, kept: Kept, why: str) -> None:
        """Remove this very row; nothing where it has become another."""
        if await self._rows.remove(kept.key, kept.version):
            await self._record_forget(kept.key, why)

    async def _record_forget(self, key: Key, why: str, by: str = "") -> None:
        at = self._clock()
        fields: dict[str, object] = {"tenant": key.tenant, "upstream": key.upstream, "why": why}
        if by:
            fields["request"] = by
        try:
            await self._append(Entry("vault.forget", new_id(at), at, key.subject, fields, tenant=key.tenant))
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error


def _unavailable(detail: str) -> Refused:
    return Refused(Code.CREDENTIAL_UNAVAILABLE, detail)


def _is_token(value: object) -> bool:
    """Visible ASCII: what can stand in a header (RFC 6749 appendix A.12 allows a space, RFC 6750 does not)."""
    return isinstance(value, str) and 1 <= len(value) <= MAX_TOKEN_CHARS and all("!" <= char <= "~" for char in value)


def _is_bearer(value: object) -> bool:
    return isinstance(value, str) and value.lower() == "bearer"
