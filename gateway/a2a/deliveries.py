"""Agents' callbacks to clients' webhooks: each a call of its own on the one road, in the order of its task, retried, bounded.

Crash story: a callback is acknowledged once it waits here; what waits when the process dies is lost, and the records say which
deliveries had begun.  The client's task is where it was, and `GetTask` tells.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
from a2a.types import a2a_pb2 as pb

from gateway.a2a import tracing, v03
from gateway.a2a.authorisation import Asks
from gateway.a2a.blanked import released
from gateway.a2a.contexts import contexts_in, told
from gateway.a2a.operations import Asked, mentioned_in, named_in_answer
from gateway.a2a.push import Found
from gateway.a2a.tasks import Ownership
from gateway.a2a.waiting import unforged
from gateway.a2a.webhook import Allowed
from gateway.a2a.wire import dump, to_json
from gateway.model import Arrival, Call, Intent, Permit, Principal, Refused, Reply, UpstreamError
from gateway.obligations import looked_at
from gateway.pipeline import Stages, govern
from gateway.reasons import Code
from gateway.upstream.client import HttpRequest, Upstreams

log = logging.getLogger("gateway.a2a")

METHOD: Final = "PushNotification"
WAITING: Final = 100
"""Of one task: one more is refused, and the agent may try again."""
TASKS: Final = 1000
PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt."""
ATTEMPT_SECONDS: Final = 15.0
_AGAIN: Final = frozenset({408, 425, 429})
_ANSWER_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class News:
    """One callback that was accepted: what came, what it says, and whose it is."""

    arrival: Arrival
    event: pb.StreamResponse
    found: Found


class Deliveries:
    """What waits for its webhook, by task.  stages: those of A2A, of which a delivery exchanges what is its own."""

    def __init__(  # noqa: PLR0917  made once
        self,
        stages: Callable[[], Stages],
        upstreams: Upstreams,
        allowed: Allowed,
        ownership: Ownership,
        pauses: tuple[float, ...] = PAUSES,
        asks: Asks | None = None,
    ) -> None:
        self._stages = stages
        self._upstreams = upstreams
        self._allowed = allowed
        self._ownership = ownership
        self._pauses = pauses
        self._asks = asks or Asks()
        self._waiting: dict[tuple[str, str], asyncio.Queue[News]] = {}
        self._workers: set[asyncio.Task[None]] = set()

    def put(self, news: News) -> None:
        """Deliver it after what waits for the same task; `Refused(OVERLOADED)` where too much waits."""
        task = news.found.row.callback, news.arrival.target
        queue = self._waiting.get(task)
        if queue is None:
            if len(self._waiting) >= TASKS:
                raise Refused(Code.OVERLOADED, "too many tasks have news")
            queue = self._waiting[task] = asyncio.Queue(WAITING)
            worker = asyncio.create_task(self._work(task, queue))
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        if queue.full():
            raise Refused(Code.OVERLOADED, "too much news of one task waits")
        queue.put_nowait(news)

    async def aclose(self) -> None:
        """Stop delivering; what was under way is recorded as interrupted."""
        for worker in list(self._workers):
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self, task: tuple[str, str], queue: asyncio.Queue[News]) -> None:
        try:
            while not queue.empty():
                await self._deliver(queue.get_nowait())
        finally:
            self._waiting.pop(task, None)

    async def _deliver(self, news: News) -> None:
        stages = replace(
            self._stages(),
            authenticate=_known(news.found.known.principal),
            parse=lambda arrival, _principal: _call(arrival, news),
            fulfil=self._looked_at,
            forward=lambda intent: self._forward(intent, news.found),
            filter=lambda reply, _intent: reply,
        )
        try:
            async with aclosing(govern(news.arrival, stages)) as replies:
                async for _ in replies:
                    pass
        except (Refused, UpstreamError) as error:  # on record already
            log.info("news of a task of agent %s was not delivered: %s", news.arrival.target, type(error).__name__)

    async def _looked_at(self, permit: Permit) -> Permit:
        """The duties of the call were fulfilled when it was made; what they take from its answer they take from its news."""
        permit = looked_at(permit)
        if not permit.redact:
            return permit
        looked = await self._stages().inspect(Reply(permit.call.message, is_final=False), permit)
        message = released(looked.payload, permit.redact) if looked.looked is None else looked.payload
        call = msgspec.structs.replace(permit.call, message=message)
        return msgspec.structs.replace(permit, call=call, flags=looked.looked or ())

    async def _forward(self, intent: Intent, found: Found) -> Reply:
        """Try until the webhook takes it, or will not."""
        call, webhook = intent.permit.call, found.known.webhook
        await self._ownership.learn(intent.permit, named_in_answer(call.message))
        await self._ownership.unmixed(intent.permit, mentioned_in(call.message))
        await self._asks.heard(call.message, intent)
        event = told(unforged(call.message), await self._ownership.words(intent.permit, contexts_in(call.message)))
        request = HttpRequest(
            self._allowed.url(webhook.url),
            dump(v03.news_of(event) if call.version == v03.VERSION else to_json(event)),
            (*webhook.headers(), (b"content-type", b"application/json"), *tracing.lines(call.trace)),
        )
        said = ""
        for attempt in range(len(self._pauses) + 1):
            if attempt:
                await asyncio.sleep(self._pauses[attempt - 1])
            try:
                status = await self._try(request)
            except (UpstreamError, TimeoutError) as error:
                said = f"attempt {attempt + 1}: {str(error) or 'timeout'}"
                continue
            if 200 <= status < 300:
                return Reply(None, is_final=True, status=status)
            said = f"attempt {attempt + 1}: the webhook answers {status}"
            if status < 500 and status not in _AGAIN:
                break
        raise UpstreamError("status", said)

    async def _try(self, request: HttpRequest) -> int:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            response = await self._upstreams.send(request)
            try:
                await response.read(_ANSWER_BYTES)
                return response.status
            finally:
                await response.aclose()


def _call(arrival: Arrival, news: News) -> Call:
    known = news.found.known
    return Call(arrival, METHOD, arrival.target, news.event, arrival.trace, version=known.version, kept=Asked(known.extensions))


def _known(principal: Principal) -> Callable[[Arrival], Any]:
    """For whom the configuration was kept: the agent showed the secret that only it was given."""

    async def authenticate(_arrival: Arrival) -> Principal:
        return principal

    return authenticate
