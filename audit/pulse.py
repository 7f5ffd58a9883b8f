"""A writer's signs of life: silence is evidence, and a clock that was set is said so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from audit.leaf import Kind
from audit.model import Entry
from audit.writer import record_id

HEARTBEAT_SECONDS: Final = 60.0
STEP_US: Final = 1_000_000
"""By how much the clock of the day may part from the one that is never set, between two signs of life, without a record."""


class Pulse:
    """When this writer last gave a sign of life, and since when it could not.  Used in the journal's event loop."""

    def __init__(self, clock: Callable[[], int], mono: Callable[[], int], seconds: float) -> None:
        """clock  UTC microseconds; mono  microseconds of a clock that is never set; seconds  between two heartbeats."""
        self.seconds: Final = seconds
        self._clock = clock
        self._mono = mono
        self._wall_at, self._mono_at = clock(), mono()
        self._failing_since: int | None = None
        self._failed_us = 0

    @property
    def promise(self) -> dict[str, object]:
        """What `writer.start` says of it."""
        return {"heartbeat_us": int(self.seconds * 1_000_000)}

    def failing(self) -> None:
        """From now on nothing can be written."""
        if self._failing_since is None:
            self._failing_since = self._mono()

    def works(self) -> bool:
        """Records are written (again); whether that is news: the next heartbeat says for how long they were not."""
        if self._failing_since is None:
            return False
        self._failed_us += self._mono() - self._failing_since
        self._failing_since = None
        return True

    def beat(self) -> list[Entry]:
        """A heartbeat; before it, by how much the clock was set since the last one, where it was."""
        wall, mono = self._clock(), self._mono()
        step = (wall - self._wall_at) - (mono - self._mono_at)
        self._wall_at, self._mono_at = wall, mono
        failed = self._failed_us + (mono - self._failing_since if self._failing_since is not None else 0)  # such a one is spooled
        fields: dict[str, object] = {"failed_us": failed} if failed else {}
        entries = [Entry(Kind.WRITER_HEARTBEAT, record_id(wall), wall, None, fields)]
        if abs(step) > STEP_US:
            entries.insert(0, Entry(Kind.CLOCK_STEP, record_id(wall), wall, None, {"by_us": step}))
        return entries

    def told(self) -> None:
        """The last heartbeat is durable: what it said of a failure need not be said again."""
        self._failed_us = 0
