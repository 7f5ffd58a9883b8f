"""Syslog over TLS (RFC 5425): RFC 5424 messages, each behind its length.

The protocol acknowledges nothing, so each batch has a session of its own, and counts as taken once the receiver has ended it.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from audit.reader import Record
from audit.verify import outcome_of
from gateway.forwarding.receiver import NotTakenError, row_of
from gateway.upstream.tls_stream import StreamError, TlsPlace

_AUDIT: Final = 13
"""Facility "log audit"."""
_WARNING, _INFORMATIONAL = 4, 6
ENTERPRISE: Final = 32473
"""Of structured data; the number that RFC 5612 keeps for everybody's use."""


def message(form: str, log: str, record: Record, host: str) -> bytes:
    """One RFC 5424 message, with the record's place in structured data."""
    severity = _WARNING if outcome_of(record.leaf)[0] == "deny" else _INFORMATIONAL
    at = datetime.fromtimestamp(record.at / 1_000_000, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    data = f'[bailiwick@{ENTERPRISE} log="{_value(log)}" seq="{record.index}" leaf="{record.hash.hex()}"]'
    head = f"<{_AUDIT * 8 + severity}>1 {at} {_name(host, 255)} bailiwick - {_name(record.kind, 32)} {data} "
    return head.encode("ascii") + b"\xef\xbb\xbf" + row_of(form, log, record).encode()


def framed(messages: Sequence[bytes]) -> bytes:
    """RFC 5425 §4.3: octet counting."""
    return b"".join(b"%d %b" % (len(each), each) for each in messages)


class Syslog:
    """A session for each batch."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, form: str, own: str, *, lenient: bool = False) -> None:
        self._place = TlsPlace(host, port, context, lenient=lenient)
        self._form = form
        self._own = own

    async def take(self, log: str, records: Sequence[Record]) -> None:
        """See `Receiver`."""
        try:
            await self._place.deliver(framed([message(self._form, log, record, self._own) for record in records]))
        except StreamError as error:
            raise NotTakenError(str(error)) from error

    async def close(self) -> None:
        """Nothing is kept open."""


def _value(text: str) -> str:
    return (
        "".join(c for c in text if c.isascii() and c.isprintable()).replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
    )


def _name(text: str, most: int) -> str:
    return "".join(c for c in text if "!" <= c <= "~")[:most] or "-"
