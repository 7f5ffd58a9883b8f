"""One replica says that policy may have changed, the others look at once; see `gateway/state/notices.py`.

Whoever hears it reads its own folder, and checks it as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.state import notices

CHANNEL: Final = "bailiwick_policy"


class Notices(notices.Notices):
    """Notices of policy."""

    def __init__(self, url: str, me: str, heard: Callable[[], None]) -> None:
        """See `gateway.state.notices.Notices`."""
        super().__init__(url, CHANNEL, me, heard)
