"""The result of what cannot be taken back."""

from __future__ import annotations

import asyncio

from audit.model import Receipt


class Kept(asyncio.Future[Receipt]):
    """The result of a record that is on its way.  Nothing takes that back: who is cancelled while waiting for it, is so then."""

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002  asyncio's signature
        """It cannot be; whoever waits is cancelled when it is done."""
        return False
