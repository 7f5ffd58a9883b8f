"""Who hears what a child says that belongs to no request: by who shares it, and what each of them may know of the others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from gateway.mcp.crew import Member, Owner, Sharing
from gateway.mcp.methods import MESSAGE
from gateway.mcp.subscriptions import CHANGED, UPDATED

_NOTICES: Final = 256


class Ear:
    """A stream for notices that one session holds open; of very many that wait the oldest goes."""

    def __init__(self) -> None:
        self._said: deque[dict[str, Any]] = deque(maxlen=_NOTICES)
        self._woken = asyncio.Event()
        self._over = False

    def say(self, message: dict[str, Any]) -> None:
        """One more."""
        self._said.append(message)
        self._woken.set()

    def close(self) -> None:
        """There will be no more."""
        self._over = True
        self._woken.set()

    async def messages(self) -> AsyncGenerator[dict[str, Any], None]:
        """As they come, until it is closed."""
        while True:
            while self._said:
                yield self._said.popleft()
            if self._over:
                return
            self._woken.clear()
            await self._woken.wait()


class Session:
    """One of the era of handshakes.  `ear` is the stream that it holds open, `uris` what it subscribed to."""

    __slots__ = ("ear", "id", "member", "owner", "uris")

    def __init__(self, session: str, owner: Owner, member: Member) -> None:
        self.id = session
        self.owner = owner
        self.member = member
        self.ear: Ear | None = None
        self.uris: set[str] = set()

    def hear(self, message: dict[str, Any], *, with_answers: bool) -> bool:
        """Whether it hears it: beside the answer that it waits for, where that may be, else on its stream."""
        waiting = self.member.child.waiting(self.id) if with_answers else []
        if waiting:
            waiting[-1].say(message)
        elif self.ear is not None:
            self.ear.say(message)
        return bool(waiting) or self.ear is not None


def heard(member: Member, sessions: Mapping[str, Session], message: dict[str, Any]) -> bool:
    """Whether anybody hears it.  A question is for the session that has the child to itself; others' are for nobody."""
    sharing, method = Sharing(member.key[1]), message["method"]
    mine = [sessions[session] for session in member.sessions if session in sessions]
    if sharing is Sharing.SESSION:
        first = method not in CHANGED and method != UPDATED
        return sum(_first(each, message, answers=first) for each in mine) > 0
    if "id" in message:
        return False
    if method in CHANGED:
        return sum(each.hear(message, with_answers=False) for each in mine) > 0
    if method == UPDATED:
        uri = message.get("params", {}).get("uri")
        return sum(each.hear(message, with_answers=False) for each in mine if uri in each.uris) > 0
    if method == MESSAGE and sharing is not Sharing.TENANT:
        return _to_the_only_one(member, message)  # what it is about nobody says; of a tenant it could be another's
    return False


def _first(session: Session, message: dict[str, Any], *, answers: bool) -> bool:
    """By the stream where there is one, or beside an answer: whichever fits the better, and the other one else."""
    if answers or session.ear is None:
        return session.hear(message, with_answers=True)
    return session.hear(message, with_answers=False)


def _to_the_only_one(member: Member, message: dict[str, Any]) -> bool:
    waiting = member.child.waiting()
    if len({pending.whose for pending in waiting}) != 1:
        return False
    waiting[-1].say(message)
    return True
