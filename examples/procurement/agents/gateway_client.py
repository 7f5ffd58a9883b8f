"""How the agents of this world call: every tool and every peer through the gateway, with the official clients.

An agent shows two things with each call: its own secret, and the delegation token that came with the request it is working on.
A refusal is an outcome, not a crash.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import httpx2
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.client.errors import A2AClientError
from a2a.helpers.proto_helpers import get_data_parts, new_data_message
from a2a.types import Role, SendMessageRequest, StreamResponse
from a2a.utils.errors import A2AError
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

TOOL_SECONDS = 60
AGENT_SECONDS = 180  # a peer makes calls of its own before it answers
_TLS = ssl.create_default_context()  # loading the trust store once, not once a call
_UPSTREAM_ERROR = -31502  # the gateway let the call through, and the server did not answer as it should

Status = Literal["ok", "refused", "failed"]


@dataclass(frozen=True)
class Outcome:
    """How one call ended.

    status    `ok`; `refused` by the gateway (code and decision say why); `failed` anywhere else.
    value     what the tool or the peer returned, {} where there is nothing.
    decision  id of the gateway's decision, by which `bailiwick` and the ledger know the call.
    """

    target: str
    status: Status
    value: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    decision: str = ""
    message: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For an agent's answer; empty fields are left out."""
        return {key: value for key, value in vars(self).items() if value}


async def call_tool(server: str, tool: str, arguments: Mapping[str, Any], delegation: str) -> Outcome:
    """Call an MCP tool through the gateway.  Never raises for what the other side does."""
    target, heard = f"{server}.{tool}", _Heard()
    http = httpx2.AsyncClient(
        headers=_credentials(delegation), timeout=TOOL_SECONDS, verify=_TLS, trust_env=False, event_hooks={"response": [heard]}
    )
    try:
        async with asyncio.timeout(TOOL_SECONDS), http:
            transport = streamable_http_client(f"{_gateway()}/mcp/{server}", http_client=http)
            async with Client(transport, cache=None) as client:
                result = await client.call_tool(tool, dict(arguments))
    except (MCPError, httpx2.HTTPError, TimeoutError, RuntimeError, ExceptionGroup) as caught:
        error = _first(caught)
        if isinstance(error, MCPError):
            return _unhappy(target, error.message, error.data, heard, rpc_code=error.code)
        return _unhappy(target, f"{type(error).__name__}: {error}", None, heard)
    texts = " ".join(block.text for block in result.content if block.type == "text")
    if result.is_error:
        return _unhappy(target, texts, result.meta, heard, value=result.structured_content)
    return Outcome(target, "ok", _object(result.structured_content, texts), decision=heard.decision)


async def ask_agent(agent: str, data: Mapping[str, Any], delegation: str) -> Outcome:
    """Send a data part to another agent through the gateway.  A peer's own refusal is handed on as one."""
    target, heard = f"a2a:{agent}", _Heard()
    http = httpx.AsyncClient(
        headers=_credentials(delegation), timeout=AGENT_SECONDS, verify=_TLS, trust_env=False, event_hooks={"response": [heard]}
    )
    answer: dict[str, Any] = {}
    try:
        async with asyncio.timeout(AGENT_SECONDS), http:
            card = await A2ACardResolver(http, f"{_gateway()}/a2a/{agent}").get_agent_card()
            client = ClientFactory(ClientConfig(httpx_client=http, streaming=False)).create(card)
            request = SendMessageRequest(message=new_data_message(dict(data), role=Role.ROLE_USER))
            async for reply in client.send_message(request):
                answer = _answer(reply)
    except (A2AError, A2AClientError, httpx.HTTPError, TimeoutError, ValueError) as error:
        rpc = heard.error
        return _unhappy(target, rpc.get("message") or str(error), rpc.get("data"), heard, rpc_code=rpc.get("code"))
    status = answer.get("status", "failed")
    if status == "ok":
        return Outcome(target, "ok", answer, decision=heard.decision)
    return Outcome(target, status, answer, answer.get("code", ""), answer.get("decision", ""), answer.get("message", ""))


class _Heard:
    """What the clients do not hand on: the decision id in the response header, and the error object of a refusal."""

    def __init__(self) -> None:
        self.decision = ""
        self.error: dict[str, Any] = {}
        self._asked = False

    async def __call__(self, response: httpx.Response | httpx2.Response) -> None:
        request = response.request
        if self._asked:  # the call itself has been answered; what follows is the client's housekeeping
            return
        self.decision = response.headers.get("bailiwick-decision", "")
        method = json.loads(request.content or b"{}").get("method") if request.method == "POST" else None
        self._asked = method in {"tools/call", "SendMessage"}
        if response.headers.get("content-type", "").startswith("application/json"):
            body = json.loads(await response.aread() or b"{}")
            error = body.get("error") if isinstance(body, dict) else None
            self.error = error if isinstance(error, dict) else {}


def _unhappy(
    target: str,
    message: str,
    details: Any,
    heard: _Heard,
    *,
    rpc_code: int | None = None,
    value: dict[str, Any] | None = None,
) -> Outcome:
    """Refused where the gateway gave a code of its own, failed where it is somebody else's error."""
    code, decision = _code_and_decision(details)
    status: Status = "refused" if code and rpc_code != _UPSTREAM_ERROR else "failed"
    return Outcome(target, status, value or {}, code, decision or heard.decision, message)


def _code_and_decision(details: Any) -> tuple[str, str]:
    """From a tool result's `_meta`, a JSON-RPC error's `data`, or A2A's list of `google.rpc.ErrorInfo`."""
    for one in details if isinstance(details, list) else [details]:
        if not isinstance(one, dict):
            continue
        info = one.get("metadata") if isinstance(one.get("metadata"), dict) else one
        code = info.get("bailiwick/code") or info.get("code")
        if code:
            return str(code), str(info.get("bailiwick/decision") or info.get("decision") or info.get("decisionId") or "")
    return "", ""


def _answer(reply: StreamResponse) -> dict[str, Any]:
    """The data of a peer's message, or of its task's artifacts."""
    parts = list(reply.message.parts) if reply.HasField("message") else [p for a in reply.task.artifacts for p in a.parts]
    data = get_data_parts(parts)
    return whole(data[-1]) if data and isinstance(data[-1], dict) else {}


def whole(value: Any) -> Any:
    """A2A carries every number as a double; what was a whole number becomes one again."""
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _object(structured: Any, texts: str) -> dict[str, Any]:
    if isinstance(structured, dict):
        return structured
    return {"text": texts}


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _gateway() -> str:
    return os.environ["GATEWAY_URL"].rstrip("/")


def _credentials(delegation: str) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {os.environ['AGENT_SECRET']}"}
    if re.fullmatch(r"[\x21-\x7e]+", delegation):  # it came in a header; nothing else may go out in one
        headers["Bailiwick-Delegation"] = delegation
    return headers
