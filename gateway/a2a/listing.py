"""ListTasks: the caller's own tasks out of all that an agent lists, in pages of their own.

An agent behind a shared credential lists everybody's tasks, so its pages are filtered by the ownership table and refilled, and
its tokens travel sealed for the person they were made for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol

from a2a.types import a2a_pb2 as pb

from gateway.a2a.operations import MAX_PAGE
from gateway.model import Principal, UpstreamError

USUAL_PAGE: Final = 50
MOST_PAGES: Final = 50
"""Of the agent, for one page of ours: a person with few tasks among very many gets a short page, and goes on from there."""
COUNTED_PAGES: Final = 10
"""Of the agent, that are read after a first page of ours is full, to tell how many tasks there are."""
_LONGEST_TOKEN: Final = 4096
UNCOUNTED: Final = -1

Ask = Callable[[pb.ListTasksRequest], Awaitable[pb.ListTasksResponse]]
Mine = Callable[[Sequence[str]], Awaitable[frozenset[str]]]


class Place(NamedTuple):
    """Where a page of ours begins: the agent's token of its page, how many of its tasks come before, how many there are at all.

    total   as it was when the first page was made; UNCOUNTED where nobody counted so far.
    """

    token: str = ""
    skip: int = 0
    total: int = UNCOUNTED


class PageTokens(Protocol):
    """Seals places for one person at one agent; what is another's opens for nobody else."""

    def seal(self, principal: Principal, agent: str, place: Place) -> str:
        """Printable text."""

    def open(self, principal: Principal, agent: str, text: str) -> Place:
        """ValueError for what was not sealed for them here."""


class _NoTokens:
    """Every page is the last one, as far as anybody can ask."""

    def seal(self, principal: Principal, agent: str, place: Place) -> str:  # noqa: ARG002  see `PageTokens`
        return ""

    def open(self, principal: Principal, agent: str, text: str) -> Place:  # noqa: ARG002
        raise ValueError("no token was ever made")


NO_TOKENS: Final = _NoTokens()


class Page(NamedTuple):
    """Tasks of the caller, where the next page begins (None: there is none), and how many tasks there are (or UNCOUNTED)."""

    tasks: list[pb.Task]
    next: Place | None
    total: int


async def page(request: pb.ListTasksRequest, place: Place, ask: Ask, mine: Mine) -> Page:
    """The page that begins at `place`.  `UpstreamError` for an agent that pages in a circle."""
    size = request.page_size or USUAL_PAGE
    counts = not place.token and not place.skip
    found: list[pb.Task] = []
    own, after, left = 0, None, MOST_PAGES
    token, skip, seen = place.token, place.skip, {place.token}
    while left:
        answer = await ask(_asked(request, token, counted=after is not None))
        known = await mine([task.id for task in answer.tasks])
        for at, task in enumerate(answer.tasks):
            if at < skip or task.id not in known:
                continue
            own += 1
            if len(found) < size:
                found.append(task)
            elif after is None:
                after = Place(token, at, place.total)
        if not answer.next_page_token:
            total = own if counts else place.total
            return Page(found, None if after is None else after._replace(total=total), total)
        if after is not None and not counts:
            return Page(found, after, place.total)
        token, skip = answer.next_page_token, 0
        if token in seen or len(token) > _LONGEST_TOKEN:
            raise UpstreamError("protocol", "the agent's pages go round in a circle")
        seen.add(token)
        left = left - 1 if after is None else min(left - 1, COUNTED_PAGES)
    return Page(found, after or Place(token, 0, place.total), place.total)


def _asked(request: pb.ListTasksRequest, token: str, *, counted: bool) -> pb.ListTasksRequest:
    """What the agent is asked for: as much as it gives at once; of tasks that are only counted no more than it must."""
    asked = pb.ListTasksRequest()
    asked.CopyFrom(request)
    asked.page_size, asked.page_token = MAX_PAGE, token
    if counted:
        asked.history_length, asked.include_artifacts = 0, False
    return asked
