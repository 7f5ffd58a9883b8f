"""A call that is held at one replica and gone on with at another: the client's word goes there, what the server says comes back.

Both sides leave what they say, sealed, in the store that replicas share: the client's word once, under the `requestState` that it
goes on with; then, one after the other, that it was taken, each message of the server, and the last one.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from secrets import token_urlsafe
from typing import Any, Final

import orjson

from gateway.mcp.aggregate.caller import ASKED, Caller, Leg, UnroutedError, Way
from gateway.mcp.aggregate.elsewhere import Elsewhere
from gateway.mcp.aggregate.questions import UnansweredError
from gateway.mcp.errors import INVALID_PARAMS
from gateway.mcp.strict import dumps
from gateway.model import Principal, Refused, Reply, UpstreamError
from gateway.reasons import Code

TAKEN_SECONDS = 15.0
"""How long the other replica has to take the client's word: it may have gone, and the call with it."""
_PIECE: Final = 128 * 1024
_AHEAD: Final = 8
_TAKEN, _SAID, _REFUSED, _FAILED, _UNANSWERED, _UNKNOWN = "taken", "said", "refused", "failed", "unanswered", "unknown"
Said = tuple[Reply, Way]


def plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """What a call is about: the same when it is made again."""
    return {key: value for key, value in params.items() if key not in ASKED and key != "_meta"}


def unknown(what: str, caller: Caller) -> UnroutedError:
    """The call cannot be gone on with."""
    return UnroutedError(Code.INVALID_PARAMS, what, rpc_code=INVALID_PARAMS, rpc_id=caller.call.rpc_id)


def about(params: Mapping[str, Any]) -> str:
    """A digest of `plain`."""
    return hashlib.sha256(json.dumps(plain(params), sort_keys=True).encode()).hexdigest()


def token_of(params: Mapping[str, Any]) -> str | int | None:
    """A request's token of progress."""
    found: str | int | None = params.get("_meta", {}).get("progressToken")
    return found


def scope_of(principal: Principal) -> list[str] | None:
    """What its credential is for, None for anything."""
    return None if principal.scope is None else sorted(principal.scope)


@dataclass(frozen=True, slots=True)
class Word:
    """What a client says at another replica to a call that waits.

    key        of what is said back, and of this conversation.
    about      what the call is about, as a digest.
    responses  its answers; token that of its progress; scope that of its credential, which has to be the call's.
    """

    key: str
    about: str
    responses: Any
    token: str | int | None
    scope: list[str] | None

    @property
    def gone(self) -> str:
        """Under which it is said that the client waits no more."""
        return f"{self.key} gone"


async def resumed(elsewhere: Elsewhere, caller: Caller, leg: Leg) -> AsyncGenerator[Said, None]:
    """The rest of a call that another replica holds; as `Held.resumed`."""
    params = caller.call.message["params"]
    word = Word(token_urlsafe(16), about(params), params.get("inputResponses", {}), token_of(params), scope_of(caller.principal))
    try:
        left = await elsewhere.leave(caller, leg.server, params["requestState"], asdict(word))
    except Refused as refusal:  # of the store
        raise UnroutedError(refusal.code, refusal.detail, rpc_id=caller.call.rpc_id) from None
    if not left:
        raise unknown("requestState: gone on with already, or with more than another replica can be told", caller)
    over = False
    letters = _Letters(elsewhere, caller, leg.server, word.key)
    try:
        async with asyncio.timeout(TAKEN_SECONDS):
            taken = await letters.next()
        if taken[0] == _TAKEN:
            leg.id = taken[1]
            while True:
                reply, way = _read(await letters.whole(), caller, leg)
                over = reply.is_final
                yield reply, way
                if over:
                    return
        over = True
        _read(taken, caller, leg)
    except TimeoutError:
        raise unknown("requestState: over, or its replica has gone", caller) from None
    except (Refused, UpstreamError, UnansweredError):
        over = True
        raise
    finally:
        if not over:
            with suppress(Refused):
                await asyncio.shield(elsewhere.leave(caller, leg.server, word.gone, True))


class _Letters:
    """What comes back, in its order."""

    def __init__(self, elsewhere: Elsewhere, caller: Caller, server: str, key: str) -> None:
        self._elsewhere = elsewhere
        self._whose = caller, server
        self._key = key
        self._at = 0
        self._early: dict[str, Any] = {}

    async def next(self) -> Any:
        wanted = [f"{self._key} {number}" for number in range(self._at, self._at + _AHEAD)]
        while wanted[0] not in self._early:
            self._early |= await self._elsewhere.found({each: self._whose for each in wanted if each not in self._early})
        self._at += 1
        return self._early.pop(wanted[0])

    async def whole(self) -> Any:
        """The next one, of all its pieces."""
        letter = await self.next()
        pieces = [letter]
        while letter[0] == _SAID and letter[1]:
            letter = await self.next()
            pieces.append(letter)
        if letter[0] != _SAID or len(pieces) == 1:
            return letter
        return [*letter[:2], "".join(piece[2] for piece in pieces), *letter[3:]]


def _read(letter: Any, caller: Caller, leg: Leg) -> Said:
    what, *rest = letter
    if what == _SAID:
        _, data, is_final, status, failed, way = rest
        return Reply(orjson.loads(base64.b64decode(data)), is_final, status=status, failed=failed), Way(*way)
    if what == _REFUSED:
        leg.id = rest[2]
        raise Refused(Code(rest[0]), rest[1])
    if what == _FAILED:
        raise UpstreamError(*rest)
    if what == _UNANSWERED:
        raise UnansweredError(rest[0])
    raise unknown(rest[0], caller)


class Back:
    """The way back to the replica at which the client goes on."""

    def __init__(self, elsewhere: Elsewhere, caller: Caller, server: str, key: str) -> None:
        self._elsewhere = elsewhere
        self._caller, self._server, self._key = caller, server, key
        self._at = 0

    async def taken(self, leg: Leg) -> None:
        """The call goes on."""
        await self._put([_TAKEN, leg.id])

    async def say(self, reply: Reply, way: Way) -> None:
        """One message of the server."""
        data = dumps(reply.payload)
        pieces = [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)] or [b""]
        said = [way.modern, way.version, way.session]
        for number, piece in enumerate(pieces, 1):
            text = base64.b64encode(piece).decode("ascii")
            await self._put([_SAID, number < len(pieces), text, reply.is_final, reply.status, reply.failed, said])

    async def end(self, error: Exception, leg: Leg) -> None:
        """It goes on no more."""
        if isinstance(error, UnroutedError):
            await self._put([_UNKNOWN, error.detail])
        elif isinstance(error, Refused):
            await self._put([_REFUSED, error.code.value, error.detail, leg.id])
        elif isinstance(error, UnansweredError):
            await self._put([_UNANSWERED, str(error)])
        elif isinstance(error, UpstreamError):
            await self._put([_FAILED, error.kind, error.detail])
        else:
            await self._put([_FAILED, "closed", ""])

    async def _put(self, letter: list[Any]) -> None:
        if not await self._elsewhere.leave(self._caller, self._server, f"{self._key} {self._at}", letter):
            raise UpstreamError("too-large", "for another replica")
        self._at += 1
