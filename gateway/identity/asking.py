"""How identity asks others over HTTP: one request, one whole answer, bounded in bytes and time; no redirect is followed.

A GET whose pooled connection turns out to be dead is sent once more.  A POST is not: its proof may be good once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from gateway.model import UpstreamError
from gateway.upstream.message import HttpRequest, Url

if TYPE_CHECKING:
    from gateway.upstream.client import Upstreams

MAX_BYTES = 1024 * 1024
SECONDS = 5.0

Headers = tuple[tuple[bytes, bytes], ...]
Ask = Callable[[str, Headers, bytes | None], Awaitable[tuple[int, bytes]]]
"""GET (no body) or POST of a form: status and whole body.  Raises OSError or UpstreamError where there is no answer."""


def asking(upstreams: Upstreams, *, private: bool, limit: int = MAX_BYTES, seconds: float = SECONDS) -> Ask:
    """By way of the gateway's door out.  `private`: whether the address may be private, as where the operator named it."""

    async def ask(url: str, headers: Headers, body: bytes | None) -> tuple[int, bytes]:
        lines = ((b"accept", b"application/json"), *headers)
        if body is not None:
            lines = (*lines, (b"content-type", b"application/x-www-form-urlencoded"))
        try:
            where = Url.parse(url, allow_private=private)
        except ValueError as error:
            raise UpstreamError("connect", str(error)) from None
        request = HttpRequest(where, body or b"", lines, method=b"GET" if body is None else b"POST", replay=body is None)
        try:
            async with asyncio.timeout(seconds):
                response = await upstreams.send(request)
                try:
                    return response.status, await response.read(limit)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise UpstreamError("timeout", "the whole answer did not come in time") from None

    return ask
