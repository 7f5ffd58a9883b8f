"""Servers' questions to clients of handshakes: each a request on the stream of its call, each answer a message of its own.

The mount has decided on a question and put it on record before it is seen here.  An answer goes down the road again: to a server
with sessions as it came, to a stateless one within the call that is made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from secrets import token_urlsafe
from typing import Any, Final

import msgspec

from gateway.mcp.aggregate import bridge
from gateway.mcp.aggregate.caller import Caller, Leg, UnroutedError, Way, answering
from gateway.mcp.aggregate.elsewhere import Elsewhere
from gateway.mcp.aggregate.standing import final
from gateway.mcp.errors import INVALID_PARAMS
from gateway.mcp.lists import Could
from gateway.mcp.methods import CANCELLED
from gateway.mcp.questions import URL, answered, question
from gateway.mcp.sealed import Purpose, Sealed, UnknownValueError
from gateway.model import Refused, UpstreamError
from gateway.pipeline import Stages
from gateway.reasons import Code

ANSWER_SECONDS = 540.0
"""How long a client has for all that one result asks for: the server's state, sealed by the mount, counts for a minute more."""
ROUNDS: Final = 10
"""Results of one call that ask for more; as many as the SDKs' clients of the stateless era go along with."""
OPEN: Final = 64
"""Questions of one call that wait for their answer at once."""
_PAUSE, _LONGEST_PAUSE = 0.05, 0.25
"""Seconds before a call is made again that a server asks to have made again without any question."""


class UnansweredError(Exception):
    """A stateless server's question has no answer that could go to the server; the message says why."""


_Waiting = asyncio.Future[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Open:
    """A question that can be answered: whose, of which server, and what waits for the result, if it is this process."""

    caller: Caller
    server: str
    waiting: _Waiting | None

    def say(self, message: Mapping[str, Any]) -> None:
        """This is what the client said to it."""
        if self.waiting is None or self.waiting.done():
            return
        if "error" in message:
            self.waiting.set_exception(UnansweredError(f"error {message['error']['code']}"))
            self.waiting.exception()  # seen: the call may be over before anybody looks
        else:
            self.waiting.set_result(message["result"])


class Questions:
    """Those of this process that are open, by the ids that clients know them by.

    An id says, sealed for the principal and bound to the client's session, how its answer goes on.  It counts once, while its
    call is under way.  This process knows that of its own ids alone; of another replica's the server knows, which waits.
    """

    def __init__(self, sealed: Sealed, stages: Stages, could: Could, elsewhere: Elsewhere | None = None) -> None:
        """`stages` and `could` are of the policy in force; `elsewhere` knows what was said at other replicas."""
        self.in_force = stages, could
        self._sealed = sealed
        self._me = token_urlsafe(8)
        self._open: dict[str, _Open] = {}
        self._elsewhere = elsewhere
        self._looking: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def during(self, caller: Caller, leg: Leg) -> Iterator[Dialogue]:
        """While one call is served; what is still open at its end can no longer be answered."""
        dialogue = Dialogue(self, caller, leg)
        try:
            yield dialogue
        finally:
            for known in dialogue.mine:
                self.close(known)

    def put(self, caller: Caller, server: str, needs: str, back: list[str] | None, waiting: _Waiting | None) -> str:
        """The id of a question of this server's.

        back  the mount's id of it, its session and the revision spoken there; None where the gateway itself is `waiting`.
        """
        inner = [self._me, needs, back]
        known = self._sealed.seal(Purpose.QUESTION, inner, server=server, principal=caller.principal, bound=_bound(caller))
        self._open[known] = _Open(caller, server, waiting)
        if waiting is not None and self._elsewhere is not None and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look(self._elsewhere))
        return known

    async def aclose(self) -> None:
        """Look for nothing any more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self, elsewhere: Elsewhere) -> None:
        """For answers that reached other replicas, as long as something waits for one."""
        while waiting := {known: (each.caller, each.server) for known, each in self._open.items() if each.waiting is not None}:
            for known, message in (await elsewhere.found(waiting)).items():
                each = self._open.pop(known, None)
                if each is not None:
                    each.say(message)

    def is_open(self, known: str) -> bool:
        """Whether it can still be answered."""
        return known in self._open

    def close(self, known: str) -> None:
        """It can no longer be answered."""
        each = self._open.pop(known, None)
        if each is not None and each.waiting is not None:
            each.waiting.cancel()

    async def answer(self, caller: Caller, leg: Leg) -> None:
        """Bring a client's answer to where it is waited for; `UnroutedError` for one that nobody waits for, or that is none."""
        message, known = caller.call.message, caller.call.message["id"]
        try:
            if caller.session is None:
                raise UnknownValueError("without a session")
            server, (whose, needs, back) = self._sealed.routed(
                Purpose.QUESTION, known, principal=caller.principal, bound=_bound(caller)
            )
            if "result" in message:
                answered(needs, message["result"])
            each = self._taken(known) if whose == self._me else None
        except UnknownValueError as error:
            raise _unknown(f"question: {error}") from None
        except ValueError as error:
            raise _unknown(f"answer: {error}") from None
        leg.server = server
        said = {key: value for key, value in message.items() if key != "id"}
        if back is not None:
            way = Way(modern=False, version=back[2], session=back[1])
            await final(answering(caller, leg, way, {**said, "id": back[0]}))
        elif each is not None:
            each.say(said)
        else:
            await self._leave(caller, server, known, said)

    async def _leave(self, caller: Caller, server: str, known: str, said: Mapping[str, Any]) -> None:
        try:
            left = self._elsewhere is not None and await self._elsewhere.leave(caller, server, known, said)
        except Refused as refusal:  # of the store
            raise UnroutedError(refusal.code, refusal.detail) from None
        if not left:
            raise _unknown("question: another replica's, which does not hear of this answer")

    def _taken(self, known: str) -> _Open:
        if known not in self._open:
            raise UnknownValueError("answered, or over")
        return self._open.pop(known)


class Dialogue:
    """What is asked during one call."""

    def __init__(self, questions: Questions, caller: Caller, leg: Leg) -> None:
        self._questions = questions
        self._caller = caller
        self._leg = leg
        self._relayed: dict[str, str] = {}  # the mount's ids, and ours
        self._waiting: dict[str, tuple[str, _Waiting]] = {}  # by the server's key: our id, and what comes of it
        self._state: str | None = None
        self._rounds = 0

    @property
    def mine(self) -> list[str]:
        """The ids of all that is asked here."""
        return [*self._relayed.values(), *[known for known, _ in self._waiting.values()]]

    def relayed(self, payload: dict[str, Any], way: Way) -> dict[str, Any] | None:
        """A message of a server's on its way, by the ids that the client knows; None for one that concerns no question of its."""
        if payload["method"] == CANCELLED:
            known = self._relayed.pop(payload["params"]["requestId"], None)
            if known is None:
                return None
            self._questions.close(known)
            return {**payload, "params": {**payload["params"], "requestId": known}}
        if "id" not in payload:
            return payload
        if len(self._relayed) >= OPEN:
            self._relayed = {theirs: ours for theirs, ours in self._relayed.items() if self._questions.is_open(ours)}
            if len(self._relayed) >= OPEN:
                raise UpstreamError("protocol", "more questions at once than one call can have")
        needs = question(payload["method"], payload["params"]).needs
        back = [payload["id"], way.session, way.version]
        self._relayed[payload["id"]] = known = self._questions.put(self._caller, self._leg.server, needs, back, None)
        return {**payload, "id": known}

    def asked(self, result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What a stateless server's result asks for, as requests to the client."""
        self._rounds += 1
        if self._rounds > ROUNDS:
            raise UnansweredError("more rounds than one call can have")
        self._state = result["requestState"]
        self._waiting = {}
        for key, each in result.get("inputRequests", {}).items():
            found = question(each["method"], each.get("params"))
            waiting: _Waiting = asyncio.get_running_loop().create_future()
            known = self._questions.put(self._caller, self._leg.server, found.needs, None, waiting)
            self._waiting[key] = known, waiting
            params = found.params
            if found.needs == URL:
                params = {**params, "elicitationId": token_urlsafe(16)}  # which only the era of handshakes has
            yield {"jsonrpc": "2.0", "id": known, "method": found.method, "params": params}

    async def answers(self) -> tuple[dict[str, Any], Caller]:
        """What the call has besides when it is made again, and by which policy; `UnansweredError` where it cannot be."""
        more: dict[str, Any] = {"requestState": self._state}
        if self._waiting:
            more["inputResponses"] = await self._answered()
        else:
            await asyncio.sleep(min(_PAUSE * self._rounds, _LONGEST_PAUSE))
        caller, (stages, could) = self._caller, self._questions.in_force  # which may have changed since the call was made
        return more, replace(caller, stages=replace(stages, authenticate=caller.stages.authenticate), could=could)

    async def _answered(self) -> dict[str, Any]:
        caller = self._caller
        seconds = min(ANSWER_SECONDS, max(caller.principal.ends - caller.clock() / 1_000_000, 0))
        waiting = [each for _, each in self._waiting.values()]
        done, late = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for error in [each.exception() for each in done]:
            if error is not None:
                raise error
        if late:
            raise UnansweredError("no answer in time")
        return {key: each.result() for key, (_, each) in self._waiting.items()}

    def taken_back(self) -> Iterator[dict[str, Any]]:
        """That nobody waits any more for what is still open."""
        for known, _ in self._waiting.values():
            if self._questions.is_open(known):
                params = {"requestId": known, "reason": "no longer needed"}
                yield {"jsonrpc": "2.0", "method": CANCELLED, "params": params}


async def unanswered(caller: Caller, leg: Leg, why: str) -> dict[str, Any]:
    """The answer to a call whose server got none, once that is on record."""
    arrival = msgspec.structs.replace(caller.call.arrival, target=leg.server)
    refusal = Refused(Code.QUESTION_UNANSWERED, why, principal=caller.principal, call=caller.call)
    caller.stages.observe(arrival, refusal, None)
    await caller.stages.record_refusal(arrival, refusal)
    leg.id = arrival.id
    return bridge.unanswered(caller.call, leg.server, arrival.id, refusal, modern=caller.modern)


def _bound(caller: Caller) -> str:
    """The client's session at the aggregate: never what a mount binds an id to, which is a server's own."""
    return f"/mcp {caller.call.arrival.header('mcp-session-id')}"


def _unknown(what: str) -> UnroutedError:
    return UnroutedError(Code.INVALID_PARAMS, what, rpc_code=INVALID_PARAMS, status=400)
