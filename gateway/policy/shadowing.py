"""Asking beside, off the road: a call hands over its question and its answer and goes on; a thread works out what had flipped.

The queue is short and never waited for: what finds it full is counted and forgotten.  Nothing here changes a decision.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from policies.model import AccessRequest, Decision
    from policies.shadow import Shadow

ROOM: Final = 512
MAX_LABELS: Final = 2000
"""Rules of every bundle that was in force since the start; beyond that, flips are counted under `(other)`."""

Decide = Callable[["AccessRequest"], "Decision"]
Asked = tuple["AccessRequest", "Decision", "Shadow"]


class Shadowing:
    """One thread, begun when there is first something to watch.  `wrap` belongs to the event loop."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._queue: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._flips: Counter[tuple[str, str, str]] = Counter()
        self.dropped = 0
        self.compared = 0

    def wrap(self, decide: Decide, shadow: Shadow | None) -> Decide:
        """The same judge, overheard; itself where there is nothing to watch."""
        if shadow is None:
            return decide
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="policy-shadow", daemon=True)
            self._thread.start()
        waiting = self._queue

        def overheard(request: AccessRequest) -> Decision:
            decision = decide(request)
            if waiting.qsize() < self._room:
                waiting.put((request, decision, shadow))
            else:
                self.dropped += 1
            return decision

        return overheard

    def note(self, rule: str) -> None:
        """A rule of a workflow that is only watched would have refused a call."""
        with self._lock:
            key = (rule, "allow->deny", "shadow")
            room = key in self._flips or len(self._flips) < MAX_LABELS
            self._flips[key if room else ("(other)", *key[1:])] += 1

    def flips(self) -> dict[tuple[str, str, str], int]:
        """How often which rule would have flipped a decision in which direction; the third is where the rule stands."""
        with self._lock:
            return dict(self._flips)

    def close(self) -> None:
        """End the thread; what waits is given up.  Blocks for at most one comparison."""
        if self._thread is not None:
            self._room = 0
            while not self._queue.empty():
                self._queue.get()
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (asked := self._queue.get()) is not None:
            request, decision, shadow = asked
            flips = shadow.compare(request, decision)
            with self._lock:
                self.compared += 1
                for flip in flips:
                    key = (flip.rule, flip.direction.value, flip.source)
                    if key not in self._flips and len(self._flips) >= MAX_LABELS:
                        key = ("(other)", *key[1:])
                    self._flips[key] += 1
