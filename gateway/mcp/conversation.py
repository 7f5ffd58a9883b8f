"""What an upstream says during one call, before anything of it is released: notices, questions, and results that ask for more.

Nothing is passed on because it is unknown: a message has its line here, or it goes no further.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from gateway.mcp import opaque, streams, tasks
from gateway.mcp.answers import ASKING, not_asked_for
from gateway.mcp.asking import MOST_AT_ONCE, Asking
from gateway.mcp.errors import METHOD_NOT_FOUND, POLICY, RpcId
from gateway.mcp.lists import Could
from gateway.mcp.methods import CALL_TOOL, CANCELLED, GET_TASK, LEVELS, LISTEN, MESSAGE, MODERN, PING, PROGRESS, SUBSCRIPTION_KEY
from gateway.mcp.questions import ELICIT, LATER, METHODS, URL, question
from gateway.mcp.sealed import Purpose, Sealed
from gateway.mcp.subscriptions import ACKNOWLEDGED, CHANGED, TASKS, UPDATED, Filter
from gateway.model import Intent, Refused, Reply, UpstreamError
from policies import names

COMPLETED: Final = "notifications/elicitation/complete"
URL_NEEDED: Final = -32042
_MOST_QUESTIONS: Final = 1000
"""Of one call, or of one stream that stands: each of them is a record."""
_REMEMBERED: Final = 64
"""Of them, so many of the last can be taken back."""
Tell = Callable[[Intent, dict[str, Any]], Awaitable[None]]
"""Sends the upstream a response of the gateway's own, to a question that was not put."""


@dataclass(frozen=True, slots=True)
class Means:
    """What every conversation needs. `levels`: by server, the least log level that is passed on."""

    asking: Asking
    sealed: Sealed
    levels: Mapping[str, str]


class Conversation:
    """One call's.  `could` decides what may still be heard; `tell` brings the upstream what is said in the client's place."""

    __slots__ = ("_acknowledged", "_asked", "_call", "_could", "_intent", "_means", "_questions", "_tell")

    def __init__(self, means: Means, intent: Intent, could: Could, tell: Tell) -> None:
        self._means = means
        self._intent = intent
        self._call = intent.permit.call
        self._could = could
        self._tell = tell
        self._asked: dict[tuple[str, object], str] = {}  # the upstream's ids of questions, and the client's
        self._questions = 0
        self._acknowledged = False

    async def heard(self, reply: Reply) -> Reply | None:
        """The message as it may go on to the filter; None for one that goes no further."""
        payload = reply.payload
        event = streams.event_id(reply.event, self._intent.permit, self._means.sealed) if reply.event else ""
        if reply.event != event:
            reply = replace(reply, event=event)
        if payload is None:
            return reply if event or reply.is_final or not reply.retry else None
        if isinstance(payload, str):
            return self._own(payload)
        if reply.is_final:
            return await self.final(reply)
        found = await self._question(payload) if "id" in payload else await self._notice(payload)
        if found is None:
            return Reply(None, is_final=False, event=event) if event else None
        return replace(reply, payload=found)

    # notices

    def _own(self, kind: str) -> Reply | None:
        """A notice of the gateway's own: a list changed for this caller."""
        method = next(name for name, member in CHANGED.items() if member.startswith(kind))
        wanted = self._call.kept
        if isinstance(wanted, Filter) and CHANGED[method] not in wanted.lists:
            return None
        return Reply(self._marked({"jsonrpc": "2.0", "method": method, "params": {}}), is_final=False)

    async def _notice(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        method, params = payload["method"], payload.get("params")
        params = {} if params is None else params
        if not isinstance(params, dict):
            return None
        said = {"jsonrpc": "2.0", "method": method, "params": params}
        wanted = self._call.kept if isinstance(self._call.kept, Filter) else None
        if wanted is not None:
            return await self._listened(said, wanted)
        if self._intent.permit.redact:
            return None  # it cannot be searched for the fields that must not be seen
        if method == PROGRESS:
            return said
        if method == MESSAGE:
            return said if self._loud(params) else None
        if self._call.version in MODERN:
            return None  # whatever else there is has streams of its own
        if method in CHANGED:
            return said
        if method == UPDATED:
            return said if self._may_hear(params.get("uri")) else None
        if method == COMPLETED:
            return said if URL in self._call.declared else None
        return self._taken_back(said) if method == CANCELLED else None

    async def _listened(self, said: dict[str, Any], wanted: Filter) -> dict[str, Any] | None:
        method, params = said["method"], said["params"]
        if method == ACKNOWLEDGED:
            self._acknowledged = True
            honoured = params.get("notifications")
            told = wanted.told(honoured if isinstance(honoured, dict) else {})
            return self._marked({**said, "params": {**params, "notifications": told}})
        if not self._acknowledged:
            return None
        if method in CHANGED:
            return self._marked(said) if CHANGED[method] in wanted.lists else None
        if method == UPDATED:
            uri = self._form(params.get("uri"))
            if uri is None or uri not in wanted.uris or not self._may_hear(uri):
                return None
            return self._marked({**said, "params": {**params, "uri": wanted.uris[uri]}})
        if method == TASKS and (task := wanted.tasks.get(str(params.get("taskId")))) is not None:
            shown = await self._of_task(params, task)
            return None if shown is None else self._marked({**said, "params": shown})
        return None

    def _marked(self, said: dict[str, Any]) -> dict[str, Any]:
        """A frame of a `listen` stream says which one; in the era of handshakes there is one stream."""
        if self._call.rpc_id is None:
            return said
        meta = said["params"].get("_meta")
        meta = {**(meta if isinstance(meta, dict) else {}), SUBSCRIPTION_KEY: self._call.rpc_id}
        return {**said, "params": {**said["params"], "_meta": meta}}

    def _loud(self, params: Mapping[str, Any]) -> bool:
        level = params.get("level")
        least = self._means.levels.get(self._call.target, LEVELS[0])
        return level in LEVELS and LEVELS.index(level) >= LEVELS.index(least)

    def _form(self, uri: object) -> str | None:
        found = names.resource(self._call.target, uri) if isinstance(uri, str) else None
        return None if found is None else found.partition("/")[2]

    def _may_hear(self, uri: object) -> bool:
        form = self._form(uri)
        return form is not None and self._could(self._intent.permit.principal, f"res:{self._call.target}/{form}")

    # questions

    async def _question(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        """A request of the server's: put to the client under an id that any replica can read, or answered with an error."""
        rpc_id, method = payload["id"], payload["method"]
        if self._call.version in MODERN or not isinstance(rpc_id, str | int) or isinstance(rpc_id, bool):
            raise UpstreamError("protocol", "a request where the protocol has none")
        if method == PING:
            await self._say(rpc_id, {"result": {}})
            return None
        if method not in METHODS or self._call.session is None:
            await self._say(rpc_id, {"error": {"code": METHOD_NOT_FOUND, "message": "Method not found"}})
            return None
        self._questions += 1
        if self._questions > _MOST_QUESTIONS:
            raise UpstreamError("protocol", "more questions than one call can have")
        try:
            asked = question(method, payload.get("params"))
            params, record = await self._means.asking.put(asked, self._intent)
        except Refused as refusal:
            error = {"code": POLICY, "message": "Denied by policy", "data": {"code": refusal.code.value}}
            await self._say(rpc_id, {"error": error})
            return None
        inner = [rpc_id, asked.needs, record]
        known = self._means.sealed.seal(
            Purpose.QUESTION,
            inner,
            server=self._call.target,
            principal=self._intent.permit.principal,
            bound=self._call.session,
        )
        self._asked[type(rpc_id).__name__, rpc_id] = known
        while len(self._asked) > _REMEMBERED:  # whether it was answered is known where the answer came by
            del self._asked[next(iter(self._asked))]
        return {"jsonrpc": "2.0", "id": known, "method": method, "params": params}

    async def _say(self, rpc_id: RpcId, said: dict[str, Any]) -> None:
        await self._tell(self._intent, {"jsonrpc": "2.0", "id": rpc_id, **said})

    def _taken_back(self, said: dict[str, Any]) -> dict[str, Any] | None:
        """The server no longer waits for an answer: told by the id under which the client knows the question."""
        rpc_id = said["params"].get("requestId")
        known = self._asked.pop((type(rpc_id).__name__, rpc_id), None) if isinstance(rpc_id, str | int) else None
        return None if known is None else {**said, "params": {**said["params"], "requestId": known}}

    # the final word

    async def final(self, reply: Reply) -> Reply:
        """The answer, as it may go on to the filter."""
        if reply.payload is None:
            return reply
        result = reply.payload.get("result")
        if not isinstance(result, dict):
            error = reply.payload["error"]
            asks = error["code"] == URL_NEEDED and isinstance(error.get("data"), dict)
            return await self._pages(reply, error) if asks else reply
        if self._call.method == LISTEN:
            meta = result.get("_meta")
            meta = {**(meta if isinstance(meta, dict) else {}), SUBSCRIPTION_KEY: self._call.rpc_id}
            return replace(reply, payload={**reply.payload, "result": {**result, "_meta": meta}})
        if isinstance(self._call.kept, tasks.Task):
            told = await self._of_task(result, self._call.kept) if self._call.method == GET_TASK else result
            return self._forbidden("input") if told is None else replace(reply, payload={**reply.payload, "result": told})
        kind = result.get("resultType", "complete")
        if kind == "complete":
            return reply
        if kind == "input_required" and self._call.method in ASKING and self._call.version in MODERN:
            return await self._input(reply, result)
        if kind == "task" and self._call.method == CALL_TOOL and LATER in self._call.declared:
            made = tasks.made(result, self._intent.permit, self._means.sealed)
            return replace(reply, payload={**reply.payload, "result": made})
        return not_asked_for(reply, self._call)

    async def _input(self, reply: Reply, result: dict[str, Any]) -> Reply:
        asked = result.get("inputRequests", {})
        if not isinstance(asked, dict) or len(asked) > MOST_AT_ONCE:
            raise UpstreamError("protocol", "inputRequests")
        put: dict[str, tuple[str, str]] = {}
        told: dict[str, Any] = {}
        for key, each in asked.items():
            try:
                found = question(each.get("method"), each.get("params")) if isinstance(each, dict) else question(None, None)
                params, record = await self._means.asking.put(found, self._intent)
            except Refused as refusal:
                return self._forbidden(str(each.get("method") if isinstance(each, dict) else ""), refusal)
            put[key] = found.needs, record
            told[key] = {**each, "params": params}
        state = opaque.state(result.get("requestState"), put, self._intent.permit, self._means.sealed)
        said = {**result, "requestState": state} | ({"inputRequests": told} if "inputRequests" in result else {})
        return replace(reply, payload={**reply.payload, "result": said})

    async def _of_task(self, result: dict[str, Any], task: tasks.Task) -> dict[str, Any] | None:
        """What a task says of itself, under the client's id; None where it asks for what it may not."""
        if result.get("taskId", task.id) != task.id:
            raise UpstreamError("protocol", "another task than was asked for")
        told = {**result, "taskId": task.sealed}
        asked = result.get("inputRequests")
        if asked is None:
            return told
        if not isinstance(asked, dict) or len(asked) > MOST_AT_ONCE:
            raise UpstreamError("protocol", "inputRequests")
        told["inputRequests"] = put = {}
        for key, each in asked.items():
            try:
                found = question(each.get("method"), each.get("params")) if isinstance(each, dict) else question(None, None)
                params, _ = await self._means.asking.again((task.id, key), found, self._intent)
            except Refused:
                return None
            known = tasks.key_of(task, key, found.needs, self._intent.permit.principal, self._means.sealed)
            put[known] = {**each, "params": params}
        return told

    async def _pages(self, reply: Reply, error: dict[str, Any]) -> Reply:
        """An error by which a server of 2025-11-25 sends the person to pages: each of them is a question."""
        pages = error["data"].get("elicitations")
        if not isinstance(pages, list) or len(pages) > MOST_AT_ONCE:
            raise UpstreamError("protocol", "elicitations")
        told = []
        for page in pages:
            try:
                params = page if isinstance(page, dict) else {}
                told.append((await self._means.asking.put(question(ELICIT, {**params, "mode": "url"}), self._intent))[0])
            except Refused as refusal:
                return self._forbidden(ELICIT, refusal)
        said = {**error, "data": {**error["data"], "elicitations": told}}
        return replace(reply, payload={**reply.payload, "error": said})

    def _forbidden(self, what: str, refusal: Refused | None = None) -> Reply:
        """The server asked for what it may not have: told to the model that called, and nothing of the question."""
        kind = what if what in METHODS else "input"
        code = f" (code: {refusal.code.value})" if refusal is not None else ""
        text = f"The server asked for {kind}, which is not allowed here{code}. Decision {self._call.arrival.id}."
        said: dict[str, Any] = {"jsonrpc": "2.0", "id": self._call.rpc_id}
        if self._call.method == CALL_TOOL:
            said["result"] = {"content": [{"type": "text", "text": text}], "isError": True}
            if self._call.version in MODERN:
                said["result"]["resultType"] = "complete"
        else:
            said["error"] = {"code": POLICY, "message": text}
        return Reply(said, is_final=True, failed=True)
