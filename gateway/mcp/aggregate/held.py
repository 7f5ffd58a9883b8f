"""Calls of stateless clients at servers with sessions: held here while the client is asked, gone on with when it calls again.

Such a call is one request to the server and several of the client's.  The `requestState` between them names the call, sealed for
its principal and good once; it means something to this process alone, since the server's answer will come here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from secrets import token_urlsafe
from typing import Any, Final

import msgspec

from gateway.mcp.aggregate.caller import ASKED, Caller, Leg, UnroutedError, Way, answering
from gateway.mcp.aggregate.questions import ANSWER_SECONDS, UnansweredError, unanswered
from gateway.mcp.aggregate.standing import STATELESS, cancelled, final, unasked
from gateway.mcp.answers import ASKING
from gateway.mcp.errors import INVALID_PARAMS
from gateway.mcp.methods import CANCELLED, PROGRESS
from gateway.mcp.questions import URL, answered, question
from gateway.mcp.sealed import Purpose, Sealed, UnknownValueError
from gateway.model import Reply, UpstreamError
from gateway.reasons import Code

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

    def __init__(self, sealed: Sealed) -> None:
        self._sealed = sealed
        self._me = token_urlsafe(8)
        self._calls: dict[str, _Call] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._calls)

    async def aclose(self) -> None:
        """End every one of them."""
        calls, self._calls = list(self._calls.values()), {}
        await asyncio.gather(*self._ending, *(call.end() for call in calls), return_exceptions=True)

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
        call = self._calls.get(opened[1]) if opened is not None and opened[0] == self._me else None
        if opened is None or call is None or call.asked is None or call.turn != opened[2]:
            raise _unknown("requestState: over, or another replica's", caller)
        if _plain(params) != _plain(call.caller.call.message["params"]):
            raise _unknown("requestState: of another call", caller)
        said = params.get("inputResponses", {})
        answer = said.get(_key(call)) if isinstance(said, dict) else None
        if answer is not None:
            try:
                answered(call.asked[1], answer)
            except ValueError as error:
                raise _unknown(f"inputResponses: {error}", caller) from None
        del self._calls[call.key]
        if call.timer is not None:
            call.timer.cancel()
        leg.id = call.leg.id
        async with aclosing(self._told(call, caller, answer)) as messages:
            async for message in messages:
                yield message

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
        state = self._sealed.seal(Purpose.HELD, inner, server=call.leg.server, principal=principal, bound=_bound(call.caller))
        result = {"resultType": "input_required", "inputRequests": {_key(call): asked}, "requestState": state}
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
    token = caller.call.message["params"].get("_meta", {}).get("progressToken")
    return None if token is None else {**payload, "params": {**payload["params"], "progressToken": token}}


def _key(call: _Call) -> str:
    return f"question-{call.turn}"


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """What a call is about: the same when it is made again."""
    return {key: value for key, value in params.items() if key not in ASKED and key != "_meta"}


def _bound(caller: Caller) -> str:
    return f"/mcp {caller.call.method} {caller.call.name or ''}"


def _unknown(what: str, caller: Caller) -> UnroutedError:
    return UnroutedError(Code.INVALID_PARAMS, what, rpc_code=INVALID_PARAMS, rpc_id=caller.call.rpc_id)
