"""Streams that stand open for notices: what the upstream says, what the gateway says itself, and an end that always comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from gateway.mcp.lists import Could
from gateway.mcp.methods import LISTEN
from gateway.mcp.subscriptions import ACKNOWLEDGED
from gateway.model import Clock, Intent, Principal, Refused, Reply, UpstreamError, wall_clock
from gateway.reasons import Code
from gateway.upstream.client import Upstreams
from policies.model import AccessRequest, Decision

ROOM: Final = 64
"""Messages that wait for a slow client before the upstream is held back."""
Judge = Callable[[Principal], Callable[[AccessRequest], Decision]]
_SLICE: Final = 16
Objects = Callable[[str], Iterable[tuple[str, str]]]
"""What of a server stands in lists, as far as policy knows it: (the kind of list, the object).  Called in a thread."""


@dataclass(frozen=True, slots=True)
class StreamTerms:
    """How streams are kept.

    upstreams  with connections of their own, beside those of calls; None: the calls' own.
    seconds    how long one stands at most; `clock` in UTC microseconds says when a person's authority is over.
    levels     by server, the least level of log messages that is passed on.
    strict     servers for which answers count only where the question is known to have been asked.
    """

    upstreams: Upstreams | None = None
    seconds: float = 12 * 3600.0
    clock: Clock = wall_clock
    levels: Mapping[str, str] = field(default_factory=dict)
    strict: frozenset[str] = frozenset()

    def lasting(self, principal: Principal) -> float:
        """Seconds for which a stream of this principal may stand: never longer than its authority lasts."""
        return min(self.seconds, max(principal.ends - self.clock() / 1e6, 0.0))


class Standing:
    """Every stream that stands open in this process, and the policy that they are held against.

    judge  who decides for a principal now.
    """

    def __init__(self, judge: Judge, could: Could) -> None:
        self._judge = judge
        self._could = could
        self._open: set[Stream] = set()
        self._holding: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def enforce(self, could: Could, objects: Objects) -> None:
        """Hold every stream against another policy: one that is no longer allowed ends, and whose lists changed is told so.

        It takes many questions where many streams stand, so other work goes on in between.
        """
        before, self._could = self._could, could
        if self._open:
            self._holding = asyncio.create_task(self._hold(self._holding, before, could, objects))

    async def close(self) -> None:
        """Hold nothing against anything any more."""
        if self._holding is not None:
            self._holding.cancel()
            await asyncio.gather(self._holding, return_exceptions=True)

    async def _hold(self, earlier: asyncio.Task[None] | None, before: Could, could: Could, objects: Objects) -> None:
        if earlier is not None:
            await asyncio.wait([earlier])
        streams = list(self._open)
        for stream in streams:
            stream.judged(self._judge)
            await asyncio.sleep(0)
        every: dict[str, frozenset[tuple[str, str]]] = {}
        for stream in streams:
            server, principal = stream.intent.permit.call.target, stream.intent.permit.principal
            if server not in every:
                every[server] = frozenset(await asyncio.to_thread(objects, server))
            differs: set[str] = set()
            for asked, (kind, one) in enumerate(sorted(every[server])):
                if stream.over:
                    break
                if kind not in differs and before(principal, one) != could(principal, one):
                    differs.add(kind)
                if asked % _SLICE == 0:
                    await asyncio.sleep(0)
            stream.told(differs)

    def changed(self, server: str, kinds: Iterable[str] = ("tools",)) -> None:
        """Tell everybody who listens to this server that these lists changed, for a reason of the gateway's own."""
        for stream in list(self._open):
            if stream.intent.permit.call.target == server:
                stream.told(kinds)

    async def merged(self, intent: Intent, replies: AsyncGenerator[Reply, None], until: float) -> AsyncGenerator[Reply, None]:
        """The upstream's messages and the gateway's own as they come; ends with the upstream, or `until` (of the loop's clock).

        A gateway's own notice is a `Reply` whose payload is the kind of list, for the road to put into words.
        """
        stream = Stream(intent)
        self._open.add(stream)
        pump = asyncio.create_task(stream.pump(replies))
        try:
            while True:
                try:
                    async with asyncio.timeout_at(until):
                        await stream.woken.wait()
                except TimeoutError:
                    return
                stream.woken.clear()
                while (reply := stream.next()) is not None:
                    yield reply
                if stream.over:
                    if stream.error is not None:
                        raise stream.error
                    if pump.done():
                        pump.result()  # a defect of ours is one here too
                    return
        finally:
            self._open.discard(stream)
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)


class Stream:
    """One of them."""

    __slots__ = ("_changed", "_ready", "_room", "_waiting", "error", "intent", "over", "woken")

    def __init__(self, intent: Intent) -> None:
        self.intent = intent
        self.woken = asyncio.Event()
        self.over = False
        self.error: Exception | None = None
        self._waiting: list[Reply] = []
        self._room = asyncio.Semaphore(ROOM)
        self._changed: dict[str, None] = {}  # kinds, in order, each once however often it changed
        self._ready = intent.permit.call.method != LISTEN  # whose first word is the acknowledgement

    async def pump(self, replies: AsyncGenerator[Reply, None]) -> None:
        """Take what the upstream says, as fast as the client takes it."""
        try:
            async with aclosing(replies):
                async for reply in replies:
                    await self._room.acquire()
                    self._waiting.append(reply)
                    self._ready = self._ready or (isinstance(reply.payload, dict) and reply.payload.get("method") == ACKNOWLEDGED)
                    self.woken.set()
        except (UpstreamError, Refused) as error:  # raised on the client's side
            self.error = self.error or error
        finally:
            self.over = True
            self.woken.set()

    def next(self) -> Reply | None:
        """The next message; None where there is none."""
        if self._waiting:
            self._room.release()
            return self._waiting.pop(0)
        if self._changed and self._ready and not self.over:
            kind = next(iter(self._changed))
            del self._changed[kind]
            return Reply(kind, is_final=False)
        return None

    def told(self, kinds: Iterable[str]) -> None:
        """These lists changed."""
        self._changed |= dict.fromkeys(sorted(kinds))
        self.woken.set()

    def judged(self, judge: Judge) -> None:
        """End, where policy no longer lets it stand."""
        permit = self.intent.permit
        decision = judge(permit.principal)(permit.request)
        if not decision.allowed:
            self.error = Refused(Code(decision.reason.value), "policy no longer lets the stream stand", decision=decision)
            self.over = True
            self.woken.set()
