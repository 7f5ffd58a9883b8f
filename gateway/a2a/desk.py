"""What a caller reads of agents: their cards, public and extended, and the directory of those that it may use.

Everything that is shown is asked of the judge that decides calls: a skill by its own name, an agent as its card is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from gateway.a2a.answers import AgentSaysNo
from gateway.a2a.cards import Card, Cards, Known, etag_of
from gateway.a2a.errors import RpcRefused
from gateway.a2a.hop import Hop
from gateway.a2a.normalise import normalise
from gateway.a2a.operations import CARD, CARD_PATH, EXTENDED_CARD, Asked
from gateway.a2a.wire import dump, to_json
from gateway.model import Permit, Principal, Refused, Reply, UpstreamError
from gateway.reasons import Code
from gateway.scope import within
from policies.model import NOTHING, AccessRequest, Decision

PATIENCE: Final = 5.0
"""Seconds that an agent has for its card, where others are listed beside it."""
MOST_AGENTS: Final = 1000
_AT_ONCE: Final = 32
_NAME, _TEXT = 200, 1000

Judge = Callable[[Principal], Callable[[AccessRequest], Decision]]
"""Who decides for a principal."""
Shared = Callable[[Permit], Awaitable[Permit]]
"""The permit with what its upstream is shown for nobody in particular; may raise `Refused`."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The directory as one caller gets it."""

    body: bytes
    etag: str


class Desk:
    """Cards by agent; `hops` are the ways to them."""

    def __init__(self, cards: Cards, hops: Mapping[str, Hop], judge: Judge, shared: Shared, patience: float = PATIENCE) -> None:
        self._cards = cards
        self._hops = hops
        self._judge = judge
        self._shared = shared
        self._patience = patience

    def judged_by(self, judge: Judge) -> Desk:
        """The same, asking another judge."""
        return Desk(self._cards, self._hops, judge, self._shared, self._patience)

    async def vouch(self, permit: Permit) -> None:
        """`Refused(CARD_UNVERIFIED)` where settings stop calls to an agent whose card does not verify, and it does not now."""
        call = permit.call
        if not self._cards.terms(call.target).stops_calls:
            return
        try:
            await self._known(permit, call.target)
        except UpstreamError as error:
            raise RpcRefused(Code.CARD_UNVERIFIED, str(error), rpc_id=call.rpc_id) from None

    async def public(self, permit: Permit) -> Card:
        """The public card.  `UpstreamError` where there is none that may be shown."""
        agent = permit.call.target
        known = await self._known(permit, agent)
        asked = normalise(replace(permit.call, method=EXTENDED_CARD, kept=Asked()), permit.principal)
        extended = known.card.capabilities.extended_agent_card and self._judge(permit.principal)(asked).allowed
        return await self._cards.shown(agent, known, self._sees(permit, agent), extended=extended)

    async def extended(self, permit: Permit) -> Reply:
        """The extended card, asked for as the caller's own call, and rebuilt as the public one is."""
        agent = permit.call.target
        hop = self._hops[agent]
        answers = await hop.send(permit, permit.call.message)
        try:
            async with aclosing(answers.items()) as items:
                item = await anext(items)
        finally:
            await answers.aclose()
        answer = answers.read(item)
        if isinstance(answer, AgentSaysNo):
            return Reply(answer, is_final=True, failed=True)
        known = await self._cards.read(agent, answer, answers.said(item) or to_json(answer), hop.hidden)
        card = await self._cards.shown(agent, known, self._sees(permit, agent), extended=True)
        return Reply(card.message, is_final=True)

    async def directory(self, permit: Permit) -> Listing:
        """Every agent to which the caller could send, also one that is down; none that it may not know of."""
        could = [agent for agent in sorted(self._hops) if self._could(permit, agent)]
        slots = asyncio.Semaphore(_AT_ONCE)

        async def entry(agent: str) -> dict[str, Any]:
            async with slots:
                return await self._entry(permit, agent)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(entry(agent)) for agent in could[:MOST_AGENTS]]
        listed: dict[str, Any] = {"agents": [task.result() for task in tasks]}
        body = dump(listed | ({"truncated": True} if len(could) > MOST_AGENTS else {}))
        return Listing(body, etag_of(body))

    async def _entry(self, permit: Permit, agent: str) -> dict[str, Any]:
        interfaces = [
            {"url": each.url, "protocolBinding": each.binding, "protocolVersion": each.version}
            for each in self._cards.served(agent)
        ]
        where = {"cardUrl": self._cards.url(agent).rstrip("/") + CARD_PATH, "supportedInterfaces": interfaces}
        try:
            async with asyncio.timeout(self._patience):
                card = (await self._known(permit, agent)).card
        except (UpstreamError, TimeoutError):
            return {"id": agent, "status": "unavailable", **where}
        except Refused as refusal:
            if refusal.code is Code.LEDGER_UNAVAILABLE:
                raise
            return {"id": agent, "status": "unavailable", **where}
        status = "last-known" if self._cards.is_stale(agent) else "current"
        texts = {"name": card.name[:_NAME], "description": card.description[:_TEXT], "version": card.version[:_NAME]}
        return {"id": agent, "status": status, **texts, **where}

    async def _known(self, permit: Permit, agent: str) -> Known:
        """The card of an agent; where it has to be fetched, as for nobody in particular: others will see it too."""
        hop = self._hops[agent]

        async def fetch() -> bytes:
            call = replace(permit.call, target=agent)
            return await hop.card(await self._shared(replace(permit, call=call, credentials=(), credential="")))

        return await self._cards.get(agent, fetch, hop.hidden, permit.call.arrival.id)

    def _could(self, permit: Permit, agent: str) -> bool:
        principal = permit.principal
        asked = normalise(replace(permit.call, method=CARD, target=agent), principal)
        return self._judge(principal)(asked).allowed and within(principal.scope, asked.resource)

    def _sees(self, permit: Permit, agent: str) -> Callable[[str], bool]:
        """Which skills of an agent the caller is told of.  A workflow's scope speaks of agents, so it is not asked again."""
        request = replace(permit.request, action="read", arguments=NOTHING)
        decide = self._judge(permit.principal)
        return lambda skill: decide(replace(request, resource=f"skill:{agent}/{skill}")).allowed
