"""What agents say of themselves, held against what they said before: seen first, changed, refused; each on record once.

The record comes before the note of it: after a crash between the two a change is recorded twice, never not at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Final

from audit.model import Entry, LedgerUnavailableError, Value
from gateway import signals
from gateway.model import Clock, Refused, new_id
from gateway.prometheus import Family, Sample
from gateway.reasons import Code
from gateway.state.cards import LastHeard
from policies.unseen import shown

if TYPE_CHECKING:
    from gateway.a2a.cards import Heard
    from gateway.state.cards import CardRows

log = logging.getLogger("gateway.a2a")

_MOST_SAID: Final = 512 * 1024
_VERDICT: Final = 200
Append = Callable[[Entry], Awaitable[object]]


class Drifts:
    """`gateway.a2a.cards.Drift` by the state store and the ledger; belongs to the event loop."""

    def __init__(self, rows: CardRows, append: Append, clock: Clock) -> None:
        self._rows = rows
        self._append = append
        self._clock = clock
        self._last: dict[str, LastHeard] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._changes: dict[str, int] = {}
        self._refused: dict[str, bool] = {}

    async def heard(self, heard: Heard, call: str) -> None:
        """See there."""
        now = LastHeard(heard.digest, (heard.why or _said(heard))[:_VERDICT])
        self._refused[heard.agent] = bool(heard.why)
        if self._last.get(heard.agent) == now:
            return
        async with self._turns.setdefault(heard.agent, asyncio.Lock()):
            before = await self._rows.get(heard.agent)
            if before != now:
                await self._news(heard, before, call)
                await self._rows.put(heard.agent, now, self._clock())
            self._last[heard.agent] = now

    async def _news(self, heard: Heard, before: LastHeard | None, call: str) -> None:
        kind = "card.refused" if heard.why else "card.seen" if before is None else "card.changed"
        fields: dict[str, object] = {
            "target": heard.agent,
            "call": call,
            "digest": heard.digest,
            "before": "" if before is None else before.digest,
            "published": heard.published,
            "signature": heard.verdict.word,
            "kid": shown(heard.verdict.kid),
            "why": shown(heard.why)[:_VERDICT],
        }
        at = self._clock()
        try:
            await self._append(Entry(kind, new_id(at), at, None, fields, (Value("said", heard.said[:_MOST_SAID]),)))
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error
        if before is not None:
            self._changes[heard.agent] = self._changes.get(heard.agent, 0) + 1
        if heard.why:
            log.error("the card of the agent %s is shown to nobody: %s", heard.agent, shown(heard.why)[:_VERDICT])
        elif before is not None:
            log.warning("the card of the agent %s has changed (signature: %s)", heard.agent, heard.verdict.word)

    def families(self) -> Iterator[Family]:
        """How often cards changed, and which are refused now.  Agents are a closed list: none of them can make a label."""
        changes = [Sample({"agent": agent}, count) for agent, count in sorted(self._changes.items())]
        yield Family(signals.CARD_CHANGES, "counter", "Changes of agents' cards, as this process heard them.", changes)
        refused = [Sample({"agent": agent}, int(is_refused)) for agent, is_refused in sorted(self._refused.items())]
        yield Family(signals.CARD_REFUSED, "gauge", "1 while an agent's card is shown to nobody.", refused)


def _said(heard: Heard) -> str:
    return f"{heard.verdict.word} {heard.verdict.kid}".strip()
