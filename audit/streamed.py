"""A commitment to messages as they go by: how many, and which, so that who kept them can show that these were sent.

Each step commits to the one before it and to the next message.  Salted, as every commitment: who has no salt cannot try out what
was said, and once the salt is erased nobody can.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final

from audit.model import Value
from audit.privacy import SALT_SIZE, commitment

STREAM: Final = "stream"
"""The leaf's member: how many messages (`chunks`), and the commitment to them (`c`)."""
SALT: Final = "stream_salt"
"""The value with its salt, in hex."""
_BEGIN: Final = bytes(32)


class Chunks:
    """Of one stream: nothing of it is kept but where the commitment stands."""

    __slots__ = ("count", "running", "salt")

    def __init__(self, salt: bytes = b"") -> None:
        """Without `salt` a fresh one."""
        self.salt: Final = salt or os.urandom(SALT_SIZE)
        self.count = 0
        self.running = _BEGIN

    def add(self, message: bytes) -> None:
        """One more, as it is released."""
        self.running = bytes.fromhex(commitment(self.salt, STREAM, self.running + message))
        self.count += 1

    def said(self) -> tuple[Value, Mapping[str, object]]:
        """The salt, to be sealed, and what the leaf says."""
        return Value(SALT, self.salt.hex().encode()), {"chunks": self.count, "c": self.running.hex()}


def agreeing(messages: Iterable[bytes], salt: bytes, said: Mapping[str, object]) -> int | None:
    """How many of the messages, from the first on, are the stream that a leaf commits to; None where they are not."""
    chunks = Chunks(salt)
    for message in messages:
        if chunks.count == said.get("chunks"):
            break
        chunks.add(message)
    return chunks.count if chunks.said()[1] == dict(said) else None
