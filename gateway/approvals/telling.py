"""Telling whoever approves that a call waits: a signed notice to one address, beside the road, again until it is taken.

Crash story: that somebody is to be told stands in the row of the parked call, and so survives; a notice may come twice, and
says by its id that it is the same.  What the call says is never told: whoever may approve it looks at it here.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import orjson

from gateway.model import Refused, UpstreamError
from gateway.upstream.client import HttpRequest, Upstreams, Url

if TYPE_CHECKING:
    from gateway.model import Clock
    from gateway.state.approvals import ApprovalRows, Parked

log = logging.getLogger("gateway.approvals")

LEAST_SECRET: Final = 24
ATTEMPT_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 5.0
_ANSWER_BYTES: Final = 64 * 1024


class Telling:
    """Tells of calls that were parked.  `again` are the seconds until a notice that was not taken is sent again."""

    def __init__(  # noqa: PLR0917  made once
        self,
        rows: ApprovalRows,
        upstreams: Upstreams,
        url: Url,
        secret: bytes,
        public_url: str,
        clock: Clock,
        again: float,
    ) -> None:
        """ValueError for a secret that is too short to sign with."""
        if len(secret) < LEAST_SECRET:
            msg = f"the secret has at least {LEAST_SECRET} bytes"
            raise ValueError(msg)
        self._rows = rows
        self._upstreams = upstreams
        self._url = url
        self._secret = secret
        self._public_url = public_url
        self._clock = clock
        self._again = int(again * 1_000_000)
        self._woken = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Somebody is to be told."""
        self._woken.set()

    def start(self) -> None:
        """Begin to look."""
        self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """End that; what was not told yet is told after the next start."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            self._woken.clear()
            try:
                now = self._clock()
                for row in await self._rows.untold(now):
                    # whoever takes it is alone with it for as long as one attempt may last
                    lease = now + max(self._again, int(2 * ATTEMPT_SECONDS * 1_000_000))
                    if await self._rows.taken(row, lease):
                        told = await self._told(row)
                        await self._rows.told(row.id, None if told else self._clock() + self._again)
            except Refused as refusal:  # at the next look
                log.warning("nobody could be told of approvals: %s", refusal.code.value)
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _told(self, row: Parked) -> bool:
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                response = await self._upstreams.send(HttpRequest(self._url, *self._notice(row)))
                try:
                    await response.read(_ANSWER_BYTES)
                finally:
                    await response.aclose()
        except (UpstreamError, TimeoutError) as error:
            log.warning("the webhook for approvals does not answer (%s); it is tried again", type(error).__name__)
            return False
        if not 200 <= response.status < 300:
            log.warning("the webhook for approvals answers %d; it is tried again", response.status)
            return False
        return True

    def _notice(self, row: Parked) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
        """The body and its headers (standardwebhooks.com): the signature is over id, time and body."""
        body = orjson.dumps(
            {
                "type": "approval.ask",
                "timestamp": _time(row.created_at),
                "data": {
                    "id": row.id,
                    "tenant": row.tenant,
                    "resource": row.resource,
                    "digest": row.digest,
                    "expires": _time(row.expires_at),
                    "url": f"{self._public_url}/api/approvals/{row.id}",
                    "page": f"{self._public_url}/approvals/{row.id}",
                },
            }
        )
        at = b"%d" % (self._clock() // 1_000_000)
        signed = hmac.digest(self._secret, row.id.encode() + b"." + at + b"." + body, hashlib.sha256)
        headers = (
            (b"content-type", b"application/json"),
            (b"webhook-id", row.id.encode()),
            (b"webhook-timestamp", at),
            (b"webhook-signature", b"v1," + base64.b64encode(signed)),
        )
        return body, headers


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).isoformat(timespec="seconds")
