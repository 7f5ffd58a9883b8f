"""A2A by hand over each binding, without any client library: what was sent and what came back, in one shape for all of them."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from tests.a2a.pairs import Hook, Side

INVALID = frozenset({-32602, 400, "INVALID_ARGUMENT"})
"""What says over each binding that params are invalid."""
ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"


@dataclass(frozen=True)
class Answer:
    """What came back: the result, or the error with its code (JSON-RPC's, or HTTP's) and the reason in its details."""

    status: int
    kind: str
    headers: Mapping[str, str]
    whole: Any
    result: Any = None
    error: Mapping[str, Any] | None = None

    @property
    def details(self) -> list[Any]:
        found = (self.error or {}).get("data", (self.error or {}).get("details", []))
        return found if isinstance(found, list) else []

    @property
    def info(self) -> Mapping[str, Any]:
        """The ErrorInfo among the details, {} where there is none."""
        return next((each for each in self.details if each.get("@type") == ERROR_INFO), {})

    @property
    def reason(self) -> str:
        return str(self.info.get("reason", ""))


class Wire:
    """One agent over one binding.  `headers` go with every request; a check may drop or change them for one."""

    binding = ""

    def __init__(self, side: Side, http: httpx.AsyncClient, hook: Hook, card: Mapping[str, Any]) -> None:
        self.side, self.http, self.hook, self.card = side, http, hook, card
        self.headers = {"a2a-version": "1.0", **side.headers}
        self.run = uuid.uuid4().hex[:12]

    @property
    def base(self) -> str:
        """The URL that the card gives for this binding."""
        return next(each["url"] for each in self.card["supportedInterfaces"] if each["protocolBinding"] == self.binding)

    async def ask(self, op: str, params: Any = None, headers: Mapping[str, str | None] | None = None) -> Answer:
        """An operation without a stream."""
        raise NotImplementedError

    @asynccontextmanager
    async def stream(self, op: str, params: Any, headers: Mapping[str, str | None] | None = None) -> AsyncIterator[Stream]:
        """An operation with one, while it is open."""
        raise NotImplementedError
        yield

    async def close(self) -> None:
        """Leave nothing open."""

    async def events(self, op: str, params: Any) -> list[Any]:
        """All events of a stream, to its end."""
        async with self.stream(op, params) as stream:
            return [event async for event in stream.events]

    def message(self, prefix: str, *, configuration: Any = None, text: str = "hello", **more: Any) -> dict[str, Any]:
        """Params of SendMessage; the prefix says what the agent does."""
        said = {"messageId": f"{prefix}-{uuid.uuid4().hex}", "role": "ROLE_USER", "parts": [{"text": text}]} | more
        return {"message": said} | ({"configuration": configuration} if configuration is not None else {})

    async def task(self, prefix: str, **more: Any) -> dict[str, Any]:
        """A task that came of a message."""
        answer = await self.ask("SendMessage", self.message(prefix, **more))
        assert answer.error is None, answer.whole
        found: dict[str, Any] = answer.result["task"]
        return found

    def _with(self, headers: Mapping[str, str | None] | None, **more: str) -> dict[str, str]:
        whole = {name.replace("_", "-"): value for name, value in more.items()} | self.headers | (dict(headers or {}))
        return {name: value for name, value in whole.items() if value is not None}


@dataclass
class Stream:
    """A stream that is open: its head, its events as they come, and the one answer where it was none."""

    status: int
    kind: str
    headers: Mapping[str, str]
    events: AsyncIterator[Any]
    frames: list[Any] = field(default_factory=list)
    answer: Answer | None = None


def _kind(response: httpx.Response) -> str:
    return response.headers.get("content-type", "").partition(";")[0]


async def _frames(response: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    """(event, data) of server-sent events."""
    name, data = "message", []
    async for line in response.aiter_lines():
        if not line and data:
            yield name, json.loads("\n".join(data))
            name, data = "message", []
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line.startswith("event:"):
            name = line[6:].strip()


class Rpc(Wire):
    """JSON-RPC."""

    binding = "JSONRPC"

    async def post(self, body: bytes, headers: Mapping[str, str | None] | None = None, url: str = "") -> Answer:
        """Any bytes as they are."""
        sent = self._with(headers, content_type="application/json")
        return _rpc(await self.http.post(url or self.base, content=body, headers=sent))

    async def ask(self, op: str, params: Any = None, headers: Mapping[str, str | None] | None = None) -> Answer:
        said = {"jsonrpc": "2.0", "id": 1, "method": op} | ({"params": params} if params is not None else {})
        return await self.post(json.dumps(said).encode(), headers)

    @asynccontextmanager
    async def stream(self, op: str, params: Any, headers: Mapping[str, str | None] | None = None) -> AsyncIterator[Stream]:
        said = json.dumps({"jsonrpc": "2.0", "id": "stream-1", "method": op, "params": params}).encode()
        sent = self._with(headers, content_type="application/json", accept="text/event-stream")
        async with self.http.stream("POST", self.base, content=said, headers=sent) as response:
            frames: list[Any] = []

            async def events() -> AsyncIterator[Any]:
                async for _, frame in _frames(response):
                    frames.append(frame)
                    if "result" in frame:
                        yield frame["result"]

            stream = Stream(response.status_code, _kind(response), response.headers, events(), frames)
            if stream.kind != "text/event-stream":
                await response.aread()
                stream.answer = _rpc(response)
            yield stream


def _rpc(response: httpx.Response) -> Answer:
    whole = json.loads(response.content) if response.content else None
    found = whole if isinstance(whole, dict) else {}
    return Answer(response.status_code, _kind(response), response.headers, whole, found.get("result"), found.get("error"))


class Rest(Wire):
    """HTTP+JSON."""

    binding = "HTTP+JSON"

    async def request(self, verb: str, path: str, body: bytes | None = None, headers: Any = None) -> Answer:
        """Any request as it is."""
        sent = self._with(headers, **({"content_type": "application/a2a+json"} if body is not None else {}))
        return _rest(await self.http.request(verb, self.base + path, content=body, headers=sent))

    async def ask(self, op: str, params: Any = None, headers: Mapping[str, str | None] | None = None) -> Answer:
        verb, path, body = routed(op, params or {})
        return await self.request(verb, path, body, headers)

    @asynccontextmanager
    async def stream(self, op: str, params: Any, headers: Mapping[str, str | None] | None = None) -> AsyncIterator[Stream]:
        verb, path, body = routed(op, params)
        kind = {"content_type": "application/a2a+json"} if body is not None else {}
        sent = self._with(headers, accept="text/event-stream", **kind)
        async with self.http.stream(verb, self.base + path, content=body, headers=sent) as response:
            frames: list[Any] = []

            async def events() -> AsyncIterator[Any]:
                async for name, frame in _frames(response):
                    frames.append(frame)
                    if name != "error" and "error" not in frame:
                        yield frame

            stream = Stream(response.status_code, _kind(response), response.headers, events(), frames)
            if stream.kind != "text/event-stream":
                await response.aread()
                stream.answer = _rest(response)
            yield stream


def _rest(response: httpx.Response) -> Answer:
    whole = json.loads(response.content) if "json" in _kind(response) and response.content else response.text
    error = whole.get("error") if isinstance(whole, dict) and response.status_code >= 300 else None
    result = whole if response.status_code < 300 else None
    return Answer(response.status_code, _kind(response), response.headers, whole, result, error)


def routed(op: str, params: Mapping[str, Any]) -> tuple[str, str, bytes | None]:
    """(verb, path with its query, body) of an operation, as A2A 1.0 §5.3 has them."""
    rest = dict(params)

    def taken(name: str) -> str:
        return quote(str(rest.pop(name, "")), safe="")

    def tail() -> str:
        said = {name: value for name, value in rest.items() if value is not None}
        plain = {name: str(value).lower() if isinstance(value, bool) else value for name, value in said.items()}
        return f"?{urlencode(plain)}" if plain else ""

    configs = "/tasks/{}/pushNotificationConfigs"
    match op:
        case "SendMessage" | "SendStreamingMessage":
            return "POST", f"/message:{'send' if op == 'SendMessage' else 'stream'}", json.dumps(rest).encode()
        case "GetTask":
            return "GET", f"/tasks/{taken('id')}" + tail(), None
        case "ListTasks":
            return "GET", "/tasks" + tail(), None
        case "CancelTask":
            return "POST", f"/tasks/{taken('id')}:cancel", json.dumps(rest).encode()
        case "SubscribeToTask":
            return "GET", f"/tasks/{taken('id')}:subscribe", None
        case "CreateTaskPushNotificationConfig":
            path = configs.format(taken("taskId"))
            return "POST", path, json.dumps(rest).encode()
        case "GetTaskPushNotificationConfig" | "DeleteTaskPushNotificationConfig":
            path = f"{configs.format(taken('taskId'))}/{taken('id')}"
            return ("GET" if op.startswith("Get") else "DELETE"), path, None
        case "ListTaskPushNotificationConfigs":
            return "GET", configs.format(taken("taskId")) + tail(), None
        case "GetExtendedAgentCard":
            return "GET", "/extendedAgentCard", None
    raise AssertionError(op)


OVER_HTTP: Mapping[str, type[Wire]] = {"JSONRPC": Rpc, "HTTP+JSON": Rest}
