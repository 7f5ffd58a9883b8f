"""An S3-compatible bucket that takes checkpoints, an object each; with Object Lock nobody takes them back, the operator included.

Requests are signed here (AWS Signature Version 4): a library that signs would also want to send, and one door leads out.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from audit.checkpoint import MAX_NOTE, Checkpoint, Vkey
from gateway.anchors.anchor import AnchorFailedError, compare, name_of
from gateway.model import Clock, UpstreamError
from gateway.upstream.client import HttpRequest, HttpResponse, Url

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key, its secret, and the region that requests are signed for."""

    access: str
    secret: str
    region: str

    def __repr__(self) -> str:
        return f"Credentials({self.access!r})"


def signed(  # noqa: PLR0917  the parts of one request
    credentials: Credentials, method: str, host: str, path: str, headers: Mapping[str, str], body: bytes, at: datetime
) -> dict[str, str]:
    """The headers with which the request is sent, `authorization` among them.  path is encoded; there is no query."""
    stamp, day = at.strftime("%Y%m%dT%H%M%SZ"), at.strftime("%Y%m%d")
    sent = dict(headers) | {"x-amz-content-sha256": hashlib.sha256(body).hexdigest(), "x-amz-date": stamp}
    lines = sorted((sent | {"host": host}).items())
    names = ";".join(name for name, _ in lines)
    canonical = "\n".join(
        (method, path, "", *(f"{name}:{value.strip()}" for name, value in lines), "", names, sent["x-amz-content-sha256"])
    )
    scope = f"{day}/{credentials.region}/s3/aws4_request"
    to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{credentials.secret}".encode()
    for part in (day, credentials.region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    return sent | {
        "authorization": f"{_ALGORITHM} Credential={credentials.access}/{scope}, SignedHeaders={names}, Signature={signature}"
    }


class BucketClient:
    """Objects of one bucket below a prefix, asked for by signed requests."""

    def __init__(  # noqa: PLR0917  made once
        self,
        endpoint: str,
        bucket: str,
        prefix: str,
        credentials: Credentials,
        send: Callable[[HttpRequest], Awaitable[HttpResponse]],
        clock: Clock,
    ) -> None:
        """`ValueError` where the endpoint is no URL."""
        self._base = Url.parse(endpoint, allow_private=True)
        self._folder = f"{self._base.target.decode().rstrip('/')}/{bucket}/{prefix.strip('/')}".rstrip("/")
        self._credentials = credentials
        self._send = send
        self._clock = clock

    async def put(self, name: str, body: bytes, headers: Mapping[str, str]) -> int:
        """The status of putting an object that is not there yet (412 where it is); `UpstreamError`."""
        checksum = base64.b64encode(hashlib.sha256(body).digest()).decode()  # wanted by buckets with Object Lock
        status, _ = await self.ask("PUT", name, {**headers, "if-none-match": "*", "x-amz-checksum-sha256": checksum}, body)
        return status

    async def ask(
        self, method: str, name: str, headers: Mapping[str, str], body: bytes, most: int = MAX_NOTE
    ) -> tuple[int, bytes]:
        """Status and body of the answer, of at most `most` bytes; `UpstreamError`."""
        base = self._base
        path = quote(f"{self._folder}/{name}", safe="/-_.~")
        at = datetime.fromtimestamp(self._clock() / 1_000_000, UTC)
        sent = signed(self._credentials, method, base.authority.decode(), path, headers, body, at)
        url = Url(base.scheme, base.host, base.port, base.authority, path.encode(), allow_private=True)
        lines = tuple((key.encode(), value.encode()) for key, value in sent.items())
        response = await self._send(HttpRequest(url, body, lines, method=method.encode()))
        try:
            return response.status, await response.read(most)
        finally:
            await response.aclose()


class BucketAnchor:
    """Objects that are put once.  Thief of the credentials: could put objects of his own, which are not signed by the log."""

    def __init__(self, bucket: BucketClient, own: Vkey) -> None:
        self._bucket = bucket
        self._own = own

    async def put(self, head: Checkpoint, note: str) -> None:
        """See `Anchor`.  What is there under the same name stays, and is looked at."""
        name = name_of(head.size)
        try:
            status = await self._bucket.put(name, note.encode(), {"content-type": "text/plain; charset=utf-8"})
            if status == 412:
                status, found = await self._bucket.ask("GET", name, {}, b"")
                if status == 200:
                    compare(found.decode("utf-8", "replace"), self._own, head)
        except UpstreamError as error:
            raise AnchorFailedError(f"the bucket cannot be reached: {error}") from None
        if status != 200:
            raise AnchorFailedError(f"the bucket answers {status}")
