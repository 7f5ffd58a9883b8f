"""A witness over HTTP (c2sp.org/tlog-witness): small, bounded, and with nothing of a gateway behind it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from audit.witness import MAX_REQUEST, Answer, Witness
from gateway.asgi import Receive, Scope, Send, send_json, small_body
from gateway.model import Refused

log = logging.getLogger("gateway.witness")

_ADDRESSES: Final = 1024
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(slots=True)
class Rate:
    """So many requests a second from one address and from all of them together, with room for short bursts."""

    each: float = 5.0
    all: float = 50.0
    clock: Callable[[], float] = time.monotonic
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict)

    def admits(self, address: str) -> bool:
        """Whether one more from there may be looked at."""
        return self._take(address, self.each) and self._take("", self.all)

    def _take(self, name: str, rate: float) -> bool:
        now = self.clock()
        left, since = self._buckets.pop(name, (2 * rate, now))
        left = min(2 * rate, left + (now - since) * rate)
        self._buckets[name] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > _ADDRESSES:
            del self._buckets[next(iter(self._buckets))]
        return left >= 1


class WitnessDoor:
    """The ASGI application.

    `POST /add-checkpoint` is the protocol; `GET /<SHA-256 of a log's origin, hex>/checkpoint` shows what was cosigned last, for
    auditors; `GET /` the witness's verifier key.
    """

    def __init__(self, witness: Witness, origins: Iterable[str], rate: Rate | None = None) -> None:
        self._witness = witness
        self._shown = {f"/{hashlib.sha256(origin.encode()).hexdigest()}/checkpoint": origin for origin in origins}
        self._rate = rate or Rate()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif not self._rate.admits((scope.get("client") or ("",))[0]):
            await send_json(send, 429, b"come again later\n", [("Retry-After", "10")], _TEXT)
        else:
            answer = await self._answer(scope, receive)
            await send_json(send, answer.status, answer.body.encode(), content_type=answer.content_type)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        method, path = scope["method"], scope["path"]
        if (method, path) == ("POST", "/add-checkpoint"):
            try:
                body = await small_body(receive, MAX_REQUEST)
            except Refused:
                return Answer(400, "not an add-checkpoint request\n")
            try:
                answer = await asyncio.to_thread(self._witness.add_checkpoint, body)
            except OSError as error:
                log.error("what was seen cannot be remembered, so nothing is cosigned: %s", error)
                return Answer(503, "what was seen cannot be remembered\n")
            if answer.status != 200:
                log.warning("not cosigned: %d %s", answer.status, answer.body.strip())
            return answer
        if method == "GET" and path == "/":
            return Answer(200, f"{self._witness.vkey}\n")
        if method == "GET" and path in self._shown:
            note = await asyncio.to_thread(self._witness.newest, self._shown[path])
            return Answer(404, "nothing was cosigned yet\n") if note is None else Answer(200, note)
        return Answer(404, "there is nothing here\n")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
