"""Legacy session ids, sealed: the upstream's own id and whose it is.  Possession is never authentication.

A thief of one can do nothing with it: it opens only for the principal that it was made for, who needs a credential besides.
"""

from __future__ import annotations

import base64
import binascii
import os
import time
from collections.abc import Callable

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.mcp.errors import RpcRefused
from gateway.model import Principal
from gateway.reasons import Code

LIFETIME_SECONDS = 12 * 3600
_CONTEXT = b"bailiwick mcp session 1"
_LONGEST = 2048
_LONGEST_UPSTREAM = 512


class Sessions:
    """Seals and opens session ids with AES-256-GCM; the same key on every replica."""

    def __init__(self, key: bytes, *, now: Callable[[], float] = time.time, lifetime: float = LIFETIME_SECONDS) -> None:
        """ValueError unless `key` is 32 bytes."""
        if len(key) != 32:
            raise ValueError("the session key is 32 bytes")
        self._seal = AESGCM(key)
        self._now = now
        self._lifetime = lifetime

    def seal(self, upstream: str, *, server: str, principal: Principal, opens: bool = False) -> str:
        """The id that the client gets for the upstream's session `upstream`; printable ASCII.

        `opens`: what the client said of itself when the session began, see `Call.opens`.
        """
        whose = [server, principal.tenant, principal.subject, list(principal.actors)]
        plain = orjson.dumps([*whose, opens, upstream, int(self._now() + self._lifetime)])
        nonce = os.urandom(12)
        return base64.urlsafe_b64encode(nonce + self._seal.encrypt(nonce, plain, _CONTEXT)).rstrip(b"=").decode("ascii")

    def open(self, sealed: str, *, server: str, principal: Principal) -> tuple[str, bool]:
        """The upstream's session id, and `opens`.

        UNKNOWN_SESSION for another server's, another caller's, an ended or a forged one.
        """
        if len(sealed) > _LONGEST or not sealed.isascii():
            raise RpcRefused(Code.UNKNOWN_SESSION, "not a session id")
        try:
            raw = base64.b64decode(sealed + "=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
            *whose, opens, upstream, ends = orjson.loads(self._seal.decrypt(raw[:12], raw[12:], _CONTEXT))
        except (binascii.Error, ValueError, InvalidTag):
            raise RpcRefused(Code.UNKNOWN_SESSION, "not sealed here") from None
        if ends < self._now():
            raise RpcRefused(Code.UNKNOWN_SESSION, "ended")
        if whose != [server, principal.tenant, principal.subject, list(principal.actors)]:
            raise RpcRefused(Code.UNKNOWN_SESSION, "another caller's, or another server's")
        return str(upstream), opens is True


def valid_upstream_id(text: str) -> bool:
    """Whether an upstream's session id is one (visible ASCII) and can be carried."""
    return 0 < len(text) <= _LONGEST_UPSTREAM and text.isascii() and text.isprintable() and " " not in text
