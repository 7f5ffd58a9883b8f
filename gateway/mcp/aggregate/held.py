"""Calls of stateless clients at servers with sessions: held here while the client is asked, gone on with when it calls again.

Such a call is one request to the server and several of the client's.  The `requestState` between them names the call, sealed for
its principal and good once.  The server's answer will come here, so a request that reaches another replica is handed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from secrets import token_urlsafe
from typing import Any, Final

import msgspec

from gateway.mcp.aggregate import handed
from gateway.mcp.aggregate.caller import Caller, Leg, Way, answering
from gateway.mcp.aggregate.elsewhere import Elsewhere
from gateway.mcp.aggregate.handed import Word, about, scope_of, token_of, unknown
from gateway.mcp.aggregate.questions import ANSWER_SECONDS, UnansweredError, unanswered
from gateway.mcp.aggregate.standing import STATELESS, cancelled, final, unasked
from gateway.mcp.answers import ASKING
from gateway.mcp.lists import Could
from gateway.mcp.methods import CANCELLED, PROGRESS
from gateway.mcp.questions import URL, answered, question
from gateway.mcp.sealed import Purpose, Sealed, UnknownValueError
from gateway.model import Refused, Reply, UpstreamError
from gateway.pipeline import Stages

HELD: Final = 1024
OF_ONE: Final = 32
"""Calls that wait for answers at once, of all callers and of one: each holds a stream to its server."""
_ROOM: Final = 64
"""Messages of one call that wait for its client before the server is held back."""
Said = tuple[Reply, Way]


class _Call:
    """One that is under way, in a task of its own: whose client is not there cannot run it."""

    def __init__(self, caller: Caller, leg: Leg, replies: AsyncGenerator[Said, None]) -> None:
        self.caller = caller
        self.leg = leg
        self.key = token_urlsafe(12)
        self.turn = 0
        self.state = ""  # the `requestState` that goes on with it now
        self.asked: tuple[str, str, Way, dict[str, Any]] | None = None  # the mount's id, what it needs, where, and as it is shown
        self.timer: asyncio.TimerHandle | None = None
        self._has_ended = False
        self._said: asyncio.Queue[Said] = asyncio.Queue(_ROOM)
        self._task = asyncio.create_task(self._pump(replies))

    @property
    def is_over(self) -> bool:
        """Whether the server has said its last word, or will say none."""
        return self._has_ended or self._task.done()

    async def _pump(self, replies: AsyncGenerator[Said, None]) -> None:
        async with aclosing(replies):
            async for said in replies:
                self._has_ended = self._has_ended or said[0].is_final
                await self._said.put(said)

    async def next(self) -> Said:
        """The next message, or the exception that the call ended with."""
        if self._said.empty() and not self._task.done():
            getter = asyncio.ensure_future(self._said.get())
            try:
                await asyncio.wait({getter, self._task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not getter.done():
                    getter.cancel()
            if getter.done():
                return getter.result()
        if not self._said.empty():
            return self._said.get_nowait()
        self._task.result()
        raise UpstreamError("closed", "no answer")  # pragma: no cover  as in `Fan`

    async def end(self) -> None:
        """Give it up; the server is told, in its own way, where it still works."""
        if self.timer is not None:
            self.timer.cancel()
        if not self.is_over:
            await cancelled(self.caller, self.leg)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Held:
    """Those of this process."""

    def __init__(
        self, sealed: Sealed, stages: Stages, could: Could, elsewhere: Elsewhere | None = None, seconds: float = ANSWER_SECONDS
    ) -> None:
        """`stages` and `could` are of the policy in force; `elsewhere` knows what was said at other replicas.

        seconds  how long a call may go on for a client at another replica, which may be gone without a word.
        """
        self.in_force = stages, could
        self._seconds = seconds
        self._sealed = sealed
        self._me = token_urlsafe(8)
        self._calls: dict[str, _Call] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._elsewhere = elsewhere
        self._handed: dict[
            str, tuple[_Call, asyncio.Task[None]]
        ] = {}  # by the key under which their client says that it has gone
        self._looking: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._calls)

    async def aclose(self) -> None:
        """End every one of them."""
        calls, self._calls = list(self._calls.values()), {}
        working = [task for _, task in self._handed.values()] + ([] if self._looking is None else [self._looking])
        for task in working:
            task.cancel()
        await asyncio.gather(*self._ending, *working, *(call.end() for call in calls), return_exceptions=True)

    async def begun(self, caller: Caller, leg: Leg, replies: AsyncGenerator[Said, None]) -> AsyncGenerator[Said, None]:
        """A call from its beginning to its final word, or to the first question, which is a final word to the client."""
        async with aclosing(self._told(_Call(caller, leg, replies), caller, None)) as messages:
            async for said in messages:
                yield said

    def is_mine(self, caller: Caller, server: str) -> bool:
        """Whether the request goes on with a call at this server; whether it still can is `resumed`'s to say."""
        return self._opened(caller, server) is not None

    async def resumed(self, caller: Caller, leg: Leg) -> AsyncGenerator[Said, None]:
        """The rest of a call whose client has been asked; `UnroutedError` for one that waits no more, or that was another one."""
        params = caller.call.message["params"]
        opened = self._opened(caller, leg.server)
        if opened is not None and opened[0] != self._me and self._elsewhere is not None:
            async with aclosing(handed.resumed(self._elsewhere, caller, leg)) as messages:
                async for message in messages:
                    yield message
            return
        call = self._calls.get(opened[1]) if opened is not None and opened[0] == self._me else None
        if opened is None or call is None or call.turn != opened[2]:
            raise unknown("requestState: over, or another replica's", caller)
        answer = self._taken(call, caller, about(params), params.get("inputResponses", {}))
        leg.id = call.leg.id
        async with aclosing(self._told(call, caller, answer)) as messages:
            async for message in messages:
                yield message

    def _taken(self, call: _Call, caller: Caller, said_of: str, responses: Any) -> Any:
        """The client's answer to a call that waits, which it does no more; None where it has none."""
        if call.asked is None or said_of != about(call.caller.call.message["params"]):
            raise unknown("requestState: of another call", caller)
        answer = responses.get(_key(call)) if isinstance(responses, dict) else None
        if answer is not None:
            try:
                answered(call.asked[1], answer)
            except ValueError as error:
                raise unknown(f"inputResponses: {error}", caller) from None
        del self._calls[call.key]
        if call.timer is not None:
            call.timer.cancel()
        return answer

    async def _look(self, elsewhere: Elsewhere) -> None:
        """For clients that go on at other replicas, or have gone there, as long as a call waits for one."""
        while self._calls or self._handed:
            states = {call.state: call for call in self._calls.values()}
            whose = {**states, **{key: call for key, (call, _) in self._handed.items()}}
            found = await elsewhere.found({known: (call.caller, call.leg.server) for known, call in whose.items()})
            for known, said in found.items():
                if known in self._handed:
                    self._handed[known][1].cancel()
                elif states[known].key in self._calls and states[known].state == known:
                    word = Word(**said)
                    self._handed[word.gone] = states[known], asyncio.create_task(self._hand(elsewhere, states[known], word))

    async def _hand(self, elsewhere: Elsewhere, call: _Call, word: Word) -> None:
        """Go on with a call whose client is at another replica."""
        back = handed.Back(elsewhere, call.caller, call.leg.server, word.key)
        try:
            if word.scope != scope_of(call.caller.principal):
                raise unknown("requestState: of a credential with another scope", call.caller)
            caller = self._anew(call.caller, word.token)
            answer = self._taken(call, caller, word.about, word.responses)
            try:
                await back.taken(call.leg)
            except BaseException:  # from here on it waits for nobody: whoever cannot go on with it ends it
                await asyncio.shield(call.end())
                raise
            async with asyncio.timeout(self._seconds), aclosing(self._told(call, caller, answer)) as messages:
                async for reply, way in messages:
                    await back.say(reply, way)
        except TimeoutError:
            with suppress(Refused, UpstreamError):
                await back.end(UpstreamError("timeout"), call.leg)
        except (Refused, UpstreamError, UnansweredError) as error:
            with suppress(Refused, UpstreamError):
                await back.end(error, call.leg)
        except Exception as error:  # none that anybody expects: whoever waits there is told all the same
            with suppress(Refused, UpstreamError):
                await back.end(error, call.leg)
            raise
        finally:
            del self._handed[word.gone]

    def _anew(self, caller: Caller, token: str | int | None) -> Caller:
        """Whose call it is, by the policy in force now, with the token of progress of the request that is open now."""
        stages, could = self.in_force
        params = caller.call.message["params"]
        meta = {key: value for key, value in params.get("_meta", {}).items() if key != "progressToken"}
        meta |= {} if token is None else {"progressToken": token}
        call = msgspec.structs.replace(caller.call, message={**caller.call.message, "params": {**params, "_meta": meta}})
        return replace(caller, call=call, stages=replace(stages, authenticate=caller.stages.authenticate), could=could)

    def _opened(self, caller: Caller, server: str) -> tuple[str, str, int] | None:
        state = caller.call.message["params"].get("requestState")
        try:
            found, inner = self._sealed.routed(Purpose.HELD, state, principal=caller.principal, bound=_bound(caller))
        except UnknownValueError:
            return None
        return (inner[0], inner[1], inner[2]) if found == server else None

    async def _told(self, call: _Call, caller: Caller, answer: Any) -> AsyncGenerator[Said, None]:
        """What the server says; whoever leaves before its last word, or before a question, has cancelled the call."""
        waits = False
        try:
            if call.asked is not None and not call.is_over:  # else it has the last word already
                known, _, way, asked = call.asked
                if answer is None:  # not what was asked for: it is asked again
                    waits, said = True, self._waits(call, asked)
                    yield said, STATELESS
                    return
                await final(answering(caller, Leg(call.leg.server), way, {"jsonrpc": "2.0", "id": known, "result": answer}))
            while True:
                reply, way = await call.next()
                payload = reply.payload
                if reply.is_final:
                    yield reply, way
                    return
                if payload is None:
                    continue
                if "id" in payload:
                    if caller.call.method not in ASKING:
                        await unasked(caller, call.leg, way, payload["id"])
                        continue
                    asked = _shown(payload)
                    call.asked = payload["id"], question(payload["method"], payload["params"]).needs, way, asked
                    said = self._waits(call, asked)
                    waits = True
                    yield said, STATELESS
                    return
                if payload["method"] == PROGRESS:
                    payload = _progress(payload, caller)
                if payload is not None and payload["method"] != CANCELLED:  # of a question: the server goes on all the same
                    yield msgspec.structs.replace(reply, payload=payload), way
        finally:
            if not waits:
                await asyncio.shield(call.end())

    def _waits(self, call: _Call, asked: dict[str, Any]) -> Reply:
        """What is asked, as the result of the client's request; from now on the call waits for the next one."""
        whose = call.caller.whose
        if len(self._calls) >= HELD or sum(each.caller.whose == whose for each in self._calls.values()) >= OF_ONE:
            raise UnansweredError("too many calls wait for answers")
        call.turn += 1
        self._calls[call.key] = call
        principal = call.caller.principal
        seconds = min(ANSWER_SECONDS, max(principal.ends - call.caller.clock() / 1_000_000, 0))
        call.timer = asyncio.get_running_loop().call_later(seconds, self._expired, call)
        inner = [self._me, call.key, call.turn]
        bound = _bound(call.caller)
        call.state = self._sealed.seal(Purpose.HELD, inner, server=call.leg.server, principal=principal, bound=bound)
        if self._elsewhere is not None and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look(self._elsewhere))
        result = {"resultType": "input_required", "inputRequests": {_key(call): asked}, "requestState": call.state}
        return Reply({"jsonrpc": "2.0", "id": call.caller.call.rpc_id, "result": result}, is_final=True)

    def _expired(self, call: _Call) -> None:
        del self._calls[call.key]
        task = asyncio.create_task(_given_up(call))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


async def _given_up(call: _Call) -> None:
    await call.end()
    await unanswered(call.caller, call.leg, "no answer in time")


def _shown(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A question in the words of the stateless era, which knows no id of a page."""
    params = payload["params"]
    if question(payload["method"], params).needs == URL:
        params = {key: value for key, value in params.items() if key != "elicitationId"}
    return {"method": payload["method"], "params": params}


def _progress(payload: dict[str, Any], caller: Caller) -> dict[str, Any] | None:
    """By the token of the request that is open now; None where it has none."""
    token = token_of(caller.call.message["params"])
    return None if token is None else {**payload, "params": {**payload["params"], "progressToken": token}}


def _key(call: _Call) -> str:
    return f"question-{call.turn}"


def _bound(caller: Caller) -> str:
    return f"/mcp {caller.call.method} {caller.call.name or ''}"
