"""ClientHellos: real ones of OpenSSL, and ones that are made field by field."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

GREASE = 0x2A2A
ECH = 0xFE0D
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


def real(name: str, *, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """The first flight of OpenSSL's client."""
    context = ssl.create_default_context()
    context.maximum_version = most
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError


def server_name(*names: bytes, kind: int = 0) -> tuple[int, bytes]:
    entries = b"".join(bytes([kind]) + len(name).to_bytes(2) + name for name in names)
    return 0, len(entries).to_bytes(2) + entries


def message(extensions: Sequence[tuple[int, bytes]] | None, *, after: bytes = b"", ciphers: bytes = b"\x13\x01") -> bytes:
    body = b"\x03\x03" + bytes(32) + b"\x00" + len(ciphers).to_bytes(2) + ciphers + b"\x01\x00"
    if extensions is not None:
        block = b"".join(kind.to_bytes(2) + len(content).to_bytes(2) + content for kind, content in extensions)
        body += len(block).to_bytes(2) + block
    body += after
    return b"\x01" + len(body).to_bytes(3) + body


def records(message: bytes, *cuts: int, kind: int = 22) -> bytes:
    """The message in records that end at these places and at its end."""
    ends = [*cuts, len(message)]
    pieces = [message[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return b"".join(bytes([kind, 3, 1]) + len(piece).to_bytes(2) + piece for piece in pieces)


def made(name: bytes, *others: tuple[int, bytes]) -> bytes:
    return records(message([server_name(name), *others]))


def retry_request() -> bytes:
    body = b"\x03\x03" + RETRY + b"\x00" + b"\x13\x01" + b"\x00" + b"\x00\x06" + b"\x00\x2b\x00\x02\x03\x04"
    return records(b"\x02" + len(body).to_bytes(3) + body)


def server_hello() -> bytes:
    body = b"\x03\x03" + bytes(range(32)) + b"\x00" + b"\x13\x01" + b"\x00" + b"\x00\x06" + b"\x00\x2b\x00\x02\x03\x04"
    return records(b"\x02" + len(body).to_bytes(3) + body)
