"""What travels with clients instead of being kept here: upstreams' opaque values, each for one purpose, one principal, one time.

A thief of one can do nothing with it: it opens only for the principal that it was made for, who needs a credential besides.
A thief of a key could make values of any of them, and would need their credentials still.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.model import Principal

KEY_BYTES: Final = 32
MOST_KEYS: Final = 8
_SALT = 16
_TAG = 16
_NONCE = bytes(12)  # every value has a key of its own, made of its salt: no count of values wears out a key
_FORM: Final = "bailiwick sealed 1"
_LONGEST: Final = 1 << 19


class Purpose(StrEnum):
    """What a value is good for.  The closed list: a value that was made for one is as unknown for another."""

    SESSION = "session"  # an upstream's session, of the era of handshakes
    STATE = "state"  # requestState, of a result that asks for input
    TASK = "task"  # taskId
    CURSOR = "cursor"
    HELD = "held"  # requestState, of a call that is held at the aggregate
    QUESTION = "question"  # the id of a server's request to the client
    ANSWER = "answer"  # a client's, on its way to the replica whose call waits for it
    NOTE = "note"  # what replicas keep of a session at the aggregate
    APPROVAL = "approval"  # requestState, of a call that people must approve
    EVENT = "event"  # the id of an event in a stream, at which it can be resumed


LIFETIME: Final = {
    Purpose.SESSION: 12 * 3600,
    Purpose.STATE: 600,
    Purpose.TASK: 7 * 24 * 3600,
    Purpose.CURSOR: 3600,
    Purpose.HELD: 600,
    Purpose.QUESTION: 3600,
    Purpose.ANSWER: 600,
    Purpose.NOTE: 12 * 3600,
    Purpose.APPROVAL: 24 * 3600,
    Purpose.EVENT: 12 * 3600,
}
"""Seconds for which a value counts."""


class UnknownValueError(ValueError):
    """Not sealed here, over, or for another server, principal or purpose.  The message is for the ledger alone."""


class Sealed:
    """Seals and opens with AES-256-GCM; the same keys on every replica, so that any of them opens what another one sealed.

    What is sealed says server and expiry inside; whose it is and what for is bound to it (associated data) and stands nowhere.
    """

    def __init__(self, keys: Sequence[bytes], *, now: Callable[[], float] = time.time) -> None:
        """The first key seals, all of them open.  ValueError unless there are one to eight, of 32 bytes each."""
        if not 0 < len(keys) <= MOST_KEYS or any(len(key) != KEY_BYTES for key in keys):
            msg = f"sealing takes 1 to {MOST_KEYS} keys of {KEY_BYTES} bytes"
            raise ValueError(msg)
        self._keys = tuple(keys)
        self._now = now

    def seal(
        self, purpose: Purpose, inner: Any, *, server: str, principal: Principal, bound: str = "", lifetime: float | None = None
    ) -> str:
        """`inner` (any JSON) as printable ASCII that a header can carry; `bound` is what must be said again to open it."""
        ends = int(self._now() + (LIFETIME[purpose] if lifetime is None else lifetime))
        plain = orjson.dumps([server, ends, inner])
        salt = os.urandom(_SALT)
        made = AESGCM(_own(self._keys[0], salt)).encrypt(_NONCE, plain, _about(purpose, principal, bound))
        return base64.urlsafe_b64encode(salt + made).rstrip(b"=").decode("ascii")

    def open(self, purpose: Purpose, text: object, *, server: str, principal: Principal, bound: str = "") -> Any:
        """What `seal` was given, where all of it is the same again; `UnknownValueError` otherwise."""
        found, inner = self.routed(purpose, text, principal=principal, bound=bound)
        if found != server:
            raise UnknownValueError("another server's")
        return inner

    def routed(self, purpose: Purpose, text: object, *, principal: Principal, bound: str = "") -> tuple[str, Any]:
        """The server that it is for, and what was sealed: for an endpoint that stands before several."""
        server, ends, inner = orjson.loads(self._plain(_raw(text), _about(purpose, principal, bound)))
        if ends < self._now():
            raise UnknownValueError("over")
        return server, inner

    def mark(self, purpose: Purpose, *said: str, principal: Principal) -> str:
        """A short proof that this was said to this principal: the same for the same every time, as long as the key is."""
        return self._mark(self._keys[0], purpose, said, principal)

    def marked(self, mark: str, purpose: Purpose, *said: str, principal: Principal) -> bool:
        """Whether `mark` is the proof of just that, under any of the keys."""
        if not mark.isascii():
            return False
        found = [hmac.compare_digest(mark, self._mark(key, purpose, said, principal)) for key in self._keys]
        return any(found)

    def _mark(self, key: bytes, purpose: Purpose, said: tuple[str, ...], principal: Principal) -> str:
        text = orjson.dumps([_FORM, "mark", *said]) + _about(purpose, principal, "")
        made = hmac.digest(hmac.digest(key, b"mark", hashlib.sha256), text, hashlib.sha256)[:16]
        return base64.urlsafe_b64encode(made).rstrip(b"=").decode("ascii")

    def _plain(self, raw: bytes, about: bytes) -> bytes:
        salt, made = raw[:_SALT], raw[_SALT:]
        for key in self._keys:
            try:
                return AESGCM(_own(key, salt)).decrypt(_NONCE, made, about)
            except InvalidTag:
                continue
        raise UnknownValueError("not sealed here, or for somebody or something else")


def _own(key: bytes, salt: bytes) -> bytes:
    return hmac.digest(key, salt, hashlib.sha256)


def _about(purpose: Purpose, principal: Principal, bound: str) -> bytes:
    return orjson.dumps([_FORM, purpose.value, principal.tenant, principal.subject, list(principal.actors), bound])


def _raw(text: object) -> bytes:
    """The bytes of one canonical spelling: a second one of the same value would be a second name for it."""
    if not isinstance(text, str) or not text.isascii() or len(text) > _LONGEST:
        raise UnknownValueError("not a sealed value")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise UnknownValueError("not a sealed value") from None
    if len(raw) < _SALT + _TAG or base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii") != text:
        raise UnknownValueError("not a sealed value")
    return raw
