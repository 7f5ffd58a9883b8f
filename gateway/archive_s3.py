"""An S3-compatible bucket as the archive of a ledger's segments; under Object Lock not even the operator deletes them early."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

from audit.archive import ArchiveError
from audit.model import TamperedError
from gateway.anchors.s3 import BucketClient
from gateway.model import UpstreamError

_MOST: Final = 1 << 30


class BucketArchive:
    """An `Archive`, used in a thread beside the loop that sends.

    Thief of the credentials: reads leaves and sealed values, and can put what nobody asks for; what was put cannot be exchanged.
    """

    def __init__(self, bucket: BucketClient, loop: asyncio.AbstractEventLoop, *, object_lock: bool) -> None:
        self._bucket = bucket
        self._loop = loop
        self._locked = object_lock

    def put(self, name: str, data: bytes, keep_until: int) -> None:
        """See `Archive`."""
        asyncio.run_coroutine_threadsafe(self._put(name, data, keep_until), self._loop).result()

    def get(self, name: str) -> bytes:
        """See `Archive`."""
        return asyncio.run_coroutine_threadsafe(self._get(name), self._loop).result()

    async def _put(self, name: str, data: bytes, keep_until: int) -> None:
        headers = {"content-type": "application/octet-stream"}
        if self._locked:
            until = datetime.fromtimestamp(keep_until // 1_000_000, UTC)
            headers["x-amz-object-lock-mode"] = "COMPLIANCE"
            headers["x-amz-object-lock-retain-until-date"] = until.strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            status = await self._bucket.put(name, data, headers)
        except UpstreamError as error:
            raise ArchiveError(f"the bucket cannot be reached: {error}") from None
        if status == 412:
            if await self._get(name) != data:
                msg = f"{name} is in the bucket already, with other contents"
                raise TamperedError(msg)
        elif status != 200:
            hint = "; is Object Lock switched on there?" if self._locked and status == 400 else ""
            raise ArchiveError(f"the bucket answers {status} for {name}{hint}")

    async def _get(self, name: str) -> bytes:
        try:
            status, data = await self._bucket.ask("GET", name, {}, b"", _MOST)
        except UpstreamError as error:
            raise ArchiveError(f"the bucket cannot be reached: {error}") from None
        if status != 200:
            raise ArchiveError(f"the bucket answers {status} for {name}")
        return data
