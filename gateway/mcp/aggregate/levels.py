"""The log levels that clients of handshakes have set, a session each.  Bounded; another replica passes on what servers say."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from gateway.mcp.aggregate.caller import Caller
from gateway.mcp.methods import LEVELS

SESSIONS = 4096
_MESSAGE = "notifications/message"


class Levels:
    """By session; a client without one is passed everything."""

    def __init__(self, sessions: int = SESSIONS) -> None:
        self._sessions = sessions
        self._set: OrderedDict[tuple[object, ...], str] = OrderedDict()

    def set(self, caller: Caller, level: str) -> None:
        """From now on this session is told what is as grave as this, or graver."""
        if caller.session is not None:
            self._set[caller.session] = level
            self._set.move_to_end(caller.session)
            while len(self._set) > self._sessions:
                self._set.popitem(last=False)

    def of(self, caller: Caller) -> str:
        """The level; "" where none was set."""
        return "" if caller.session is None else self._set.get(caller.session, "")

    def passes(self, caller: Caller, notice: Mapping[str, Any]) -> bool:
        """Whether a notice is grave enough, where it is a log message."""
        least = self.of(caller)
        if not least or notice.get("method") != _MESSAGE:
            return True
        level = notice["params"].get("level")
        return level in LEVELS and LEVELS.index(level) >= LEVELS.index(least)
