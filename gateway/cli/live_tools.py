"""What a running MCP server says its tools are: asked through the one door out, bounded in bytes, pages and time.

An operator's question, before anybody is let through: no tool is called, and nobody's identity is used.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gateway.mcp.child import Child
from gateway.mcp.methods import (
    CAPABILITIES_KEY,
    DISCOVER,
    INITIALIZE,
    INITIALIZED,
    LEGACY,
    LIST_PROMPTS,
    LIST_TEMPLATES,
    LIST_TOOLS,
    MODERN,
    VERSION_KEY,
)  # fmt: skip
from gateway.mcp.strict import UnreadableError, dumps, loads_answer
from gateway.model import Refused, UpstreamError, wall_clock
from gateway.sandbox.servers import opened
from gateway.upstream.client import HttpRequest, HttpResponse, Upstreams
from gateway.upstream.credentials import with_static
from gateway.upstream.events import EventParser
from gateway.upstream.registry import McpTarget, mcp_targets

if TYPE_CHECKING:
    from gateway.settings import Settings

SECONDS = 30.0
_ANSWER_BYTES = 8 * 1024 * 1024
_PAGES = 50
_TOOLS = 5000
_CLIENT = {"name": "bailiwick", "version": "1"}


class _Speaker(Protocol):
    async def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a request; UpstreamError where there is none."""

    async def tell(self, method: str) -> None:
        """Send a notification."""


def target_of(settings: Settings, server: str, environ: Mapping[str, str]) -> McpTarget:
    """Where a configured server is; its secrets alone are resolved.  ProblemError or ValueError where it cannot be used."""
    from gateway.identity.keyfiles import resolve  # noqa: PLC0415  the command line pays for what it uses

    alone = settings.model_copy(
        update={
            "mcp": {server: with_static(settings.mcp[server])},
            "sandbox": settings.sandbox.model_copy(update={"enabled": False}),
        }
    )
    return mcp_targets(alone, lambda secret: resolve(secret.model_copy(update={"prefix": ""}), environ))[server]


@dataclass(frozen=True, slots=True)
class Word:
    """All that a server says of itself in one era: its instructions, None where it has none, and the entries of its lists, by
    method."""

    legacy: bool
    instructions: Any
    lists: Mapping[str, list[Any]]


async def tools_of(target: McpTarget, settings: Settings) -> dict[str, dict[str, Any]]:
    """Every tool of a server by its name, as the server describes it.  UpstreamError where it does not answer as it should.

    A program is started in the cage in which the gateway would start it; without network, whatever its profile says.
    """

    async def ask(speaker: _Speaker, version: str, _offer: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return await _listed(speaker, version)

    return await _spoken_to(target, settings, ask)


async def words_of(target: McpTarget, settings: Settings) -> tuple[Word, ...]:
    """All that a server says of itself, odd entries too, in each era that it speaks.  As `tools_of` otherwise."""
    first = await _spoken_to(target, settings, _word)
    if not first.legacy:
        return (first,)
    try:
        return first, await _spoken_to(target, settings, _word, stateless=True)
    except UpstreamError:  # as most servers do, that know one era
        return (first,)


async def _word(speaker: _Speaker, version: str, offer: Mapping[str, Any]) -> Word:
    if version in MODERN:
        offer = await speaker.ask(DISCOVER, _said(version))
    offered = offer.get("capabilities")
    offered = offered if isinstance(offered, dict) else {}
    lists = {LIST_TOOLS: await _entries(speaker, version, LIST_TOOLS, "tools")}
    for capability, method, member in (("prompts", LIST_PROMPTS, "prompts"), ("resources", LIST_TEMPLATES, "resourceTemplates")):
        if capability in offered:
            lists[method] = await _entries(speaker, version, method, member)
    return Word(version not in MODERN, offer.get("instructions"), lists)


T = TypeVar("T")
_Ask = Callable[["_Speaker", str, Mapping[str, Any]], Awaitable[T]]


async def _spoken_to(target: McpTarget, settings: Settings, ask: _Ask[T], *, stateless: bool = False) -> T:
    limits = settings.limits
    try:
        async with asyncio.timeout(SECONDS):
            if target.kind == "stdio":
                async with _child(target, settings) as speaker:
                    return await ask(speaker, *((MODERN[0], {}) if stateless else await _greet(speaker)))
            upstreams = Upstreams(connect_seconds=limits.upstream_connect_seconds, idle_seconds=SECONDS)
            try:
                if stateless:
                    return await ask(_Http(target, upstreams, MODERN[0]), MODERN[0], {})
                return await _over_http(target, upstreams, ask)
            finally:
                await upstreams.aclose()
    except TimeoutError:
        raise UpstreamError("timeout", f"no whole answer within {SECONDS:g} s") from None


async def _over_http(target: McpTarget, upstreams: Upstreams, ask: _Ask[T]) -> T:
    """The eras with a handshake first: a server of the stateless era alone says that it knows no handshake."""
    speaker = _Http(target, upstreams)
    try:
        version, offer = await _greet(speaker)
    except UpstreamError as error:
        if error.kind not in ("status", "protocol"):
            raise
        try:
            return await ask(_Http(target, upstreams, MODERN[0]), MODERN[0], {})
        except UpstreamError as second:
            raise (error if second.kind == "status" else second) from None
    speaker.version = version
    await speaker.tell(INITIALIZED)
    found = await ask(speaker, version, offer)
    with contextlib.suppress(UpstreamError):  # it would end by itself, later
        await speaker.leave()
    return found


async def _greet(speaker: _Speaker) -> tuple[str, Mapping[str, Any]]:
    """The revision that both speak, and what the server offers."""
    hello = {"protocolVersion": LEGACY[0], "capabilities": {}, "clientInfo": _CLIENT}
    offer = await speaker.ask(INITIALIZE, hello)
    version = offer.get("protocolVersion")
    if version not in LEGACY:
        raise UpstreamError("protocol", "the server speaks no revision that is known here")
    if isinstance(speaker, _Stdio):
        await speaker.tell(INITIALIZED)
    return str(version), offer


def _said(version: str) -> dict[str, Any]:
    """What a request of the stateless era says of itself."""
    return {"_meta": {VERSION_KEY: version, CAPABILITIES_KEY: {}}} if version in MODERN else {}


async def _listed(speaker: _Speaker, version: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for tool in await _entries(speaker, version, LIST_TOOLS, "tools"):
        name = tool.get("name") if isinstance(tool, dict) else None
        if not isinstance(name, str) or not name or name in found:
            raise UpstreamError("protocol", "a tool without a name, or a name that stands twice")
        found[name] = tool
    return found


async def _entries(speaker: _Speaker, version: str, method: str, member: str) -> list[Any]:
    found: list[Any] = []
    cursor: dict[str, str] = {}
    for _page in range(_PAGES):
        result = await speaker.ask(method, {**cursor, **_said(version)})
        entries = result.get(member)
        if not isinstance(entries, list):
            raise UpstreamError("protocol", f"not a list of {member}")
        found += entries
        if len(found) > _TOOLS:
            raise UpstreamError("too-large", f"more than {_TOOLS} {member}")
        following = result.get("nextCursor")
        if following is None:
            return found
        if not isinstance(following, str) or len(following) > 4096:
            raise UpstreamError("protocol", "cursor")
        cursor = {"cursor": following}
    raise UpstreamError("too-large", f"more than {_PAGES} pages")


def _result(message: object, number: int) -> dict[str, Any]:
    if not isinstance(message, dict) or message.get("id") != number:
        raise UpstreamError("protocol", "not an answer to what was asked")
    if "error" in message:
        error = message["error"]
        code = error.get("code") if isinstance(error, dict) else None
        raise UpstreamError("protocol", f"the server answered with the error {code}")
    result = message.get("result")
    if not isinstance(result, dict):
        raise UpstreamError("protocol", "an answer without a result")
    return result


class _Http:
    """One conversation over Streamable HTTP."""

    def __init__(self, target: McpTarget, upstreams: Upstreams, version: str = "") -> None:
        self.version = version
        self._target = target
        self._upstreams = upstreams
        self._session: bytes | None = None
        self._number = 0

    async def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        self._number += 1
        message = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": dict(params)}
        response = await self._send(message, method)
        try:
            if response.status != 200:
                raise UpstreamError("status", str(response.status))
            if method == INITIALIZE:
                self._session = response.header(b"mcp-session-id")
            return _result(await self._read(response), self._number)
        finally:
            await response.aclose()

    async def tell(self, method: str) -> None:
        response = await self._send({"jsonrpc": "2.0", "method": method}, method)
        await response.aclose()

    async def leave(self) -> None:
        """End the session, where there is one."""
        if self._session is not None:
            response = await self._send(None, "")
            await response.aclose()

    async def _send(self, message: dict[str, Any] | None, method: str) -> HttpResponse:
        headers: list[tuple[bytes, bytes]] = []
        if self.version:
            headers.append((b"mcp-protocol-version", self.version.encode()))
        if self.version in MODERN:
            headers.append((b"mcp-method", method.encode()))
        if self._session is not None:
            headers.append((b"mcp-session-id", self._session))
        if self._target.url is None:
            raise UpstreamError("connect", "the server has no URL")
        try:
            verb, body = (b"POST", dumps(message)) if message is not None else (b"DELETE", b"")
            request = HttpRequest(self._target.url, body, tuple(headers), self._target.static, verb)
            return await self._upstreams.send(request)
        except ValueError:  # a session id that is no header value
            raise UpstreamError("protocol", "session id") from None

    async def _read(self, response: HttpResponse) -> object:
        kind = (response.header(b"content-type") or b"").partition(b";")[0].strip().lower()
        if kind == b"application/json":
            return _parsed(await response.read(_ANSWER_BYTES))
        if kind != b"text/event-stream":
            raise UpstreamError("protocol", "neither JSON nor an event stream")
        parser, seen = EventParser(_ANSWER_BYTES), 0
        async with aclosing(response.chunks()) as chunks:
            async for chunk in chunks:
                seen += len(chunk)
                if seen > _ANSWER_BYTES:
                    raise UpstreamError("too-large", "stream")
                for data in parser.feed(chunk):
                    message = _parsed(data)
                    if isinstance(message, dict) and message.get("id") == self._number and "method" not in message:
                        return message
        raise UpstreamError("closed", "the stream ended before the answer")


class _Stdio:
    """One conversation with a child process."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._number = 0

    async def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        self._number += 1
        message = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": dict(params)}
        async with aclosing(self._child.request(message)) as said:
            messages = [each async for each in said]
        return _result(messages[-1], self._number)

    async def tell(self, method: str) -> None:
        self._child.notify({"jsonrpc": "2.0", "method": method, "params": {}})


@asynccontextmanager
async def _child(target: McpTarget, settings: Settings) -> AsyncIterator[_Stdio]:
    servers = opened(settings, None, wall_clock, None)
    try:
        child = Child(await servers.start(target, None), target.id, silence=SECONDS, line_bytes=_ANSWER_BYTES)
        try:
            yield _Stdio(child)
        finally:
            await child.stop()
    except Refused as error:
        raise UpstreamError("connect", str(error)) from None
    finally:
        await servers.aclose()


def _parsed(body: bytes) -> object:
    try:
        found: object = loads_answer(body)
    except UnreadableError:
        raise UpstreamError("protocol", "not JSON") from None
    return found
