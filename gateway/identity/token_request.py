"""Token requests that must not be made twice: a code and a refresh token may be good once (RFC 6749 §4.1.2, §6).

Of an answer only what was asked for is believed, and of an error nothing but its code is told.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from gateway.identity.strictjson import loads
from gateway.model import Refused, UpstreamError
from gateway.reasons import Code
from gateway.upstream.message import HttpRequest, Url

if TYPE_CHECKING:
    from gateway.identity.client import OAuthClient
    from gateway.model import Clock
    from gateway.upstream.client import Upstreams

MAX_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 8
SECONDS: Final = 8.0
_ERROR = re.compile(r"[a-z_]{1,64}")


class TokenRefusedError(Exception):
    """The authorization server said no; `error` is its code (RFC 6749 §5.2), or `unknown`."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


class TokenRequests:
    """The gateway as a client that asks for tokens."""

    def __init__(self, client: OAuthClient, upstreams: Upstreams, clock: Clock, issuer: str = "") -> None:
        """`issuer`: for whom the client's assertion is; the endpoint where it is not known."""
        self._client = client
        self._upstreams = upstreams
        self._clock = clock
        self._issuer = issuer

    async def ask(self, url: str, form: Mapping[str, str]) -> Mapping[str, Any]:
        """The answer's members.

        `TokenRefusedError` where the server refuses, `Refused(CREDENTIAL_UNAVAILABLE)` where it does not answer as it should.
        """
        lines, members = self._client.proof(self._issuer or url, self._clock() // 1_000_000)
        headers = (
            *lines,
            (b"accept", b"application/json"),
            (b"cache-control", b"no-store"),
            (b"content-type", b"application/x-www-form-urlencoded"),
        )
        try:
            request = HttpRequest(Url.parse(url, allow_private=True), urlencode({**form, **members}).encode("ascii"), headers)
            async with asyncio.timeout(SECONDS):
                response = await self._upstreams.send(request)
                try:
                    status, body = response.status, await response.read(MAX_BYTES)
                finally:
                    await response.aclose()
        except (UpstreamError, TimeoutError, ValueError) as error:
            raise _unavailable(f"the authorization server cannot be asked: {type(error).__name__}") from None
        return _members(status, body)


def _members(status: int, body: bytes) -> Mapping[str, Any]:
    try:
        answer = loads(body, MAX_DEPTH)
    except ValueError:
        raise _unavailable(f"the authorization server answers {status}, and no JSON") from None
    if not isinstance(answer, dict):
        raise _unavailable("the authorization server's answer is no object")
    error = answer.get("error")
    if error is not None or status != 200:
        if status in {400, 401, 403, 200} and isinstance(error, str):  # some say it with 200
            raise TokenRefusedError(error if _ERROR.fullmatch(error) else "unknown")
        raise _unavailable(f"the authorization server answers {status}")
    return answer


def _unavailable(detail: str) -> Refused:
    return Refused(Code.CREDENTIAL_UNAVAILABLE, detail)
