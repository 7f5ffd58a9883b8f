"""Calls that sandboxed code makes: frames on a pair of sockets, each carried down the one road as any MCP call is.

The code names a tool and arguments, and nothing else: it has no credential, no address, no word about who it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gateway.asgi import child_traceparent
from gateway.mcp.errors import INVALID_REQUEST, META_CODE, META_DECISION, METHOD_NOT_FOUND, UNSUPPORTED_VERSION
from gateway.mcp.methods import CALL_TOOL, CAPABILITIES_KEY, INITIALIZE, INITIALIZED, LEGACY, MODERN, VERSION_KEY
from gateway.mcp.repeated import encoded
from gateway.mcp.strict import UnreadableError, dumps, loads, loads_answer
from gateway.model import Arrival, Call, Clock, Principal, Refused, Trace, new_id, random16
from gateway.reasons import PROSE, Code

FRAME_BYTES: Final = 1 << 20
ANSWER_BYTES: Final = 16 << 20
WAITING_BYTES: Final = 4 << 20
"""Of calls that wait because others of the same run are under way."""
_DEPTH: Final = 32
_NOT_UNDERSTOOD: Final = frozenset({UNSUPPORTED_VERSION, INVALID_REQUEST, METHOD_NOT_FOUND})
"""What a server of the other era says to a request that it has not carried out."""


@dataclass(frozen=True, slots=True)
class CallBounds:
    """Of one run's calls back: how many at once, how many in all, and bytes of all answers together."""

    at_once: int = 4
    most: int = 100
    answer_bytes: int = ANSWER_BYTES


@dataclass(frozen=True, slots=True)
class Answered:
    """What the road gave: the JSON-RPC message, {} for a notification; and the session's id, where one began."""

    message: dict[str, Any]
    session: str = ""


class Within(Protocol):
    """The MCP road from inside the gateway: the same stages, but for how the caller is known."""

    async def __call__(self, arrival: Arrival, authenticate: Callable[[Arrival], Awaitable[Principal]]) -> tuple[bytes, str]:
        """Carry one call: the JSON-RPC answer as on the wire, also of a refusal, b"" for a notice; and the session that began."""


@dataclass(frozen=True, slots=True)
class Means:
    """What calls back are made with.

    mint      the token by which the sandbox goes on for a principal, for the call that runs the code; raises `Refused`.
    identify  the principal that such a token makes, as it is now.
    """

    within: Within
    mint: Callable[[Principal, str], str]
    identify: Callable[[str], Principal]
    clock: Clock
    bounds: CallBounds = CallBounds()


class Calls:
    """The calls of one run.  `made` and `refused` count them."""

    def __init__(self, means: Means, call: Call, principal: Principal) -> None:
        self._means = means
        self._call = call
        self._principal = principal
        self._token = ""
        self._until = 0
        self._left = means.bounds.answer_bytes
        self._asked = self._waiting = 0
        self._sessions: dict[str, str] = {}  # of servers that know the era of handshakes alone
        self._shaking: dict[str, asyncio.Lock] = {}
        self.made = 0
        self.refused = 0

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[socket.socket]:
        """The code's end of the pair; the calls end with the body, also those under way."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours, limit=FRAME_BYTES)
        serving = asyncio.create_task(self._serve(reader, writer))
        try:
            yield theirs
        finally:
            theirs.close()
            serving.cancel()
            await asyncio.wait({serving})
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read on whatever is under way: the runner passes these bytes on beside the run's output, which must not wait for us.

        What is no call, more than may wait, and more answers than there may be end the channel.
        """
        slots = asyncio.Semaphore(self._means.bounds.at_once)
        async with asyncio.TaskGroup() as group:
            while self._left > 0 and self._waiting <= WAITING_BYTES:
                frame, size = await _frame(reader)
                if frame is None:
                    break
                self._asked += 1
                if self._asked > self._means.bounds.most:
                    self.refused += 1
                    self._say(writer, frame["id"], _no(Code.OVERLOADED.value, "this run has made as many calls as it may"))
                else:
                    self._waiting += size
                    group.create_task(self._answer(frame, size, slots, writer))
            writer.transport.abort()  # not closed in good order: that would wait for code which does not read

    async def _answer(self, frame: dict[str, Any], size: int, slots: asyncio.Semaphore, writer: asyncio.StreamWriter) -> None:
        async with slots:
            answer = await self._result(frame["tool"], frame["arguments"])
        self._waiting -= size
        self._say(writer, frame["id"], answer)

    def _say(self, writer: asyncio.StreamWriter, number: int, answer: dict[str, Any]) -> None:
        """Without waiting for whether it is read: all answers of a run together are bounded."""
        data = dumps({"id": number, **answer})
        self._left -= len(data)
        if self._left < 0:
            data = dumps({"id": number, **_no(Code.TOO_LARGE.value, "the answers of this run are larger than allowed")})
        if not writer.is_closing():
            writer.write(struct.pack(">I", len(data)) + data)

    async def _result(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        server, dot, name = tool.partition(".")
        if not dot or not name:
            self.refused += 1
            return _no("not-available", "a tool is named server.tool")
        self.made += 1
        answer = _said(await self._called(server, name, arguments))
        if "result" not in answer:
            self.refused += 1
        return answer

    async def _called(self, server: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        params = {"name": name, "arguments": arguments}
        if server not in self._sessions:
            answer = (await self._sent(server, CALL_TOOL, params)).message
            if answer.get("error", {}).get("code") not in _NOT_UNDERSTOOD or _ours(answer):
                return answer
            async with self._shaking.setdefault(server, asyncio.Lock()):
                if server not in self._sessions:
                    self._sessions[server] = await self._handshake(server)
        return (await self._sent(server, CALL_TOOL, params, session=self._sessions[server])).message

    async def _handshake(self, server: str) -> str:
        info = {"name": "bailiwick-sandbox", "version": "1"}
        params = {"protocolVersion": LEGACY[0], "capabilities": {}, "clientInfo": info}
        session = (await self._sent(server, INITIALIZE, params, session="")).session
        await self._sent(server, INITIALIZED, {}, session=session, notice=True)
        return session

    async def _sent(
        self, server: str, method: str, params: dict[str, Any], *, session: str | None = None, notice: bool = False
    ) -> Answered:
        """One message down the road; with a `session` ("" is none yet), of the era of handshakes."""
        at = self._means.clock()
        modern = session is None
        headers = [("accept", "application/json, text/event-stream"), ("content-type", "application/json")]
        if modern:
            params = {**params, "_meta": {VERSION_KEY: MODERN[0], CAPABILITIES_KEY: {}}}
            headers += [("mcp-method", method), ("mcp-name", encoded(params["name"])), ("mcp-protocol-version", MODERN[0])]
        else:
            headers.append(("mcp-protocol-version", LEGACY[0]))
            headers += [("mcp-session-id", session)] if session else []
        message = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if notice else {"id": self.made})
        arrival = Arrival(
            id=new_id(at),
            protocol="mcp",
            target=server,
            headers=tuple(headers),
            body=dumps(message),
            at=at,
            trace=self._trace(),
            peer="sandbox",
            url_path=f"/mcp/{server}",
        )
        refused: list[Refused] = []

        async def authenticate(_arrival: Arrival) -> Principal:
            try:
                return self._identified()
            except Refused as refusal:
                refusal.principal = refusal.principal or self._principal  # whose it was is known, whatever the token says
                refused.append(refusal)
                raise

        body, began = await self._means.within(arrival, authenticate)
        if refused:  # nobody else's business, and so no secret: the run itself can go no further
            code = refused[0].code
            return Answered({"error": {"message": PROSE[code], "data": {"code": code.value, "decision": arrival.id}}})
        return Answered(loads_answer(body) if body else {}, began)

    def _identified(self) -> Principal:
        """The road's first stage for these calls: what the run's own token says, verified as any other is."""
        now = self._means.clock() // 1_000_000
        if now >= self._until:
            self._token = self._means.mint(self._principal, self._call.arrival.id)
            self._until = now + RENEW_SECONDS
        return self._means.identify(self._token)

    def _trace(self) -> Trace:
        """The run's own trace; its parent is the hop to the sandbox."""
        parent = child_traceparent(self._call.trace).split("-")[2]
        return Trace(self._call.trace.trace_id, random16()[:8].hex(), parent, self._call.trace.flags, self._call.trace.state)


RENEW_SECONDS: Final = 30
"""A run's token is minted anew so often: none is ever presented near its end."""


async def _frame(reader: asyncio.StreamReader) -> tuple[dict[str, Any] | None, int]:
    """The next call, and its size; None where the code says no more, or something that is no call."""
    try:
        length: int = struct.unpack(">I", await reader.readexactly(4))[0]
        if length > FRAME_BYTES:
            return None, 0
        frame = loads(await reader.readexactly(length), _DEPTH)
    except (asyncio.IncompleteReadError, UnreadableError, OSError):
        return None, 0
    if not isinstance(frame, dict) or frame.keys() != {"id", "tool", "arguments"}:
        return None, 0
    number = frame["id"]
    good = isinstance(number, int) and not isinstance(number, bool) and abs(number) < 1 << 53
    return (frame if good and isinstance(frame["tool"], str) and isinstance(frame["arguments"], dict) else None), length


def _ours(answer: dict[str, Any]) -> bool:
    """Whether the gateway itself said no."""
    data = answer["error"].get("data")
    return isinstance(data, dict) and isinstance(data.get("decision"), str) and isinstance(data.get("code"), str)


def _said(answer: dict[str, Any]) -> dict[str, Any]:
    """A JSON-RPC answer as the code is told it."""
    if "error" in answer:
        error = answer["error"]
        data = error.get("data")
        data = data if isinstance(data, dict) else {}
        code = data.get("code") if isinstance(data.get("code"), str) else "tool-error"
        return _no(str(code), str(error.get("message", "")), str(data.get("decision", "")))
    result = answer.get("result", {})
    meta = result.get("_meta")
    meta = meta if isinstance(meta, dict) else {}
    content = result.get("content")
    blocks = content if isinstance(content, list) else []
    texts = [block.get("text", "") for block in blocks if isinstance(block, dict) and block.get("type") == "text"]
    if result.get("isError") is True:
        code = meta.get(META_CODE, "tool-error")
        return _no(str(code), "\n".join(map(str, texts)), str(meta.get(META_DECISION, "")))
    if isinstance(result.get("structuredContent"), dict):
        return {"result": result["structuredContent"]}
    if len(texts) == len(blocks):
        return {"result": "\n".join(map(str, texts))}
    return {"result": blocks}


def _no(code: str, message: str, decision: str = "") -> dict[str, Any]:
    return {"code": code, "message": message[:2000]} | ({"decision": decision} if decision else {})
