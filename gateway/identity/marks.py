"""Random texts that show whose they are: a stranger's guess is told from ours without a look into any store."""

from __future__ import annotations

import base64
import hmac
import re
import secrets

from gateway.identity.keys import b64url

_FORM = re.compile(r"[A-Za-z0-9_-]{64}")
_DRAWN, _MARK = 32, 16


class Marks:
    """256 random bits and a keyed mark of 128; what a text means is its finder's to know."""

    def __init__(self, key: bytes) -> None:
        """`key`: 32 bytes, the same on every replica."""
        self._key = key

    def fresh(self) -> str:
        """A text of 64 characters that nobody else can make."""
        drawn = secrets.token_bytes(_DRAWN)
        return b64url(drawn + self._of(drawn))

    def made(self, text: str) -> bool:
        """Whether it was made here."""
        if _FORM.fullmatch(text) is None:
            return False
        data = base64.urlsafe_b64decode(text)
        return hmac.compare_digest(self._of(data[:_DRAWN]), data[_DRAWN:])

    def _of(self, drawn: bytes) -> bytes:
        return hmac.digest(self._key, drawn, "sha256")[:_MARK]
