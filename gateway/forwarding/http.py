"""Receivers over HTTP: a webhook that gets JSON lines, and OTLP/HTTP for logs.  What is taken is acknowledged by a 2xx."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import orjson

from audit.reader import Record
from audit.verify import Row, row_otlp
from gateway.forwarding.receiver import NotTakenError, RefusedError, row_of
from gateway.model import UpstreamError
from gateway.upstream.client import HttpRequest, HttpResponse, Url

Send = Callable[[HttpRequest], Awaitable[HttpResponse]]
Headers = tuple[tuple[bytes, bytes], ...]

_MOST: Final = 64 * 1024
_REFUSED: Final = frozenset({400, 413, 422})
"""About what was sent.  Any other no is about us (a wrong token, a wrong path): somebody mends it, and nothing is left out."""


class _Http:
    def __init__(self, url: str, headers: Headers, send: Send) -> None:
        self._url = Url.parse(url, allow_private=True)
        self._headers = headers
        self._send = send

    async def post(self, kind: bytes, body: bytes, further: Headers = ()) -> bytes:
        """The body of a 2xx answer."""
        headers = ((b"content-type", kind), *further, *self._headers)
        try:
            response = await self._send(HttpRequest(self._url, body, headers))
            try:
                answer = await response.read(_MOST)
            finally:
                await response.aclose()
        except UpstreamError as error:
            raise NotTakenError(f"{self._url.host}: {error}") from error
        if 200 <= response.status < 300:
            return answer
        if response.status in _REFUSED:
            raise RefusedError(f"{self._url.host} answers {response.status}")
        raise NotTakenError(f"{self._url.host} answers {response.status}")

    async def close(self) -> None:
        """The connections are the gateway's."""


class Webhook(_Http):
    """Gets JSON lines; `Bailiwick-Records` says which records of the log they are, so that what came twice is known."""

    def __init__(self, url: str, headers: Headers, form: str, send: Send) -> None:
        super().__init__(url, headers, send)
        self._form = form

    async def take(self, log: str, records: Sequence[Record]) -> None:
        """See `Receiver`."""
        body = "".join(f"{row_of(self._form, log, record)}\n" for record in records).encode()
        span = b"%d-%d" % (records[0].index, records[-1].index)
        kind = b"application/x-ndjson" if self._form in {"jsonl", "ocsf"} else b"text/plain; charset=utf-8"
        await self.post(kind, body, ((b"bailiwick-log", log.encode()), (b"bailiwick-records", span)))


class Otlp(_Http):
    """OTLP/HTTP with JSON (opentelemetry.io/docs/specs/otlp)."""

    async def take(self, log: str, records: Sequence[Record]) -> None:
        """See `Receiver`."""
        entries = []
        for record in records:
            made = json.loads(row_otlp(Row(log, record.index, record.hash.hex(), record.data, record.leaf)))
            entries += made["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
        made["resourceLogs"][0]["scopeLogs"][0]["logRecords"] = entries
        answer = await self.post(b"application/json", orjson.dumps(made))
        try:
            partial = orjson.loads(answer or b"{}").get("partialSuccess") or {}
            rejected = int(partial.get("rejectedLogRecords") or 0)
        except (ValueError, TypeError, AttributeError):
            return  # a 2xx is what counts
        if rejected > 0:
            raise RefusedError(f"{rejected} records were rejected", min(rejected, len(records)))
