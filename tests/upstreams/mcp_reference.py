"""Reference MCP server for the tests (needs only `pip install mcp==2.3.0`).

One process speaks every revision the Python SDK 2.3.0 speaks: 2024-11-05 .. 2025-11-25 (initialize
handshake, sessions, GET stream, SSE resume) and 2026-07-28 (per-request envelope, MRTR, listen), over
Streamable HTTP or stdio.  It carries:

* every fixture the official conformance suite asks for (names and behaviour come from the scenario
  descriptions in @modelcontextprotocol/conformance), including the `io.modelcontextprotocol/tasks`
  extension (SEP-2663), which the SDK itself does not ship;
* extra `gw_*` tools for proving what a gateway does: echo of the received `_meta` and headers,
  a sleeper that records its cancellation, big payloads, change triggers.

    python mcp_reference.py --port 3901                 # http://127.0.0.1:3901/mcp
    python mcp_reference.py --stdio                     # stdio
    python mcp_reference.py --port 3901 --json          # JSON answers instead of SSE (costs some conformance verdicts)
    python mcp_reference.py --port 3901 --stateless     # legacy leg without sessions
"""

# ruff: noqa: ARG005, BLE001, N806, PLW0108  a fixture, kept as it is compared with elsewhere

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import secrets
import socket
import struct
import time
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import mcp_types as types
from mcp.server.caching import CacheHint
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourceUpdated,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

warnings.simplefilter("ignore", MCPDeprecationWarning)

TASKS_EXT = "io.modelcontextprotocol/tasks"
OBJECT = {"type": "object"}


# --------------------------------------------------------------------------- tiny media, built at import
def _png() -> str:
    def chunk(tag: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    raw = b"\x00" + bytes((220, 30, 60, 255))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 6, 0, 0, 0))
    return base64.b64encode(data + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")).decode()


def _wav() -> str:
    pcm = b"\x80" * 8
    head = b"RIFF" + struct.pack("<I", 36 + len(pcm)) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
    return base64.b64encode(head + b"data" + struct.pack("<I", len(pcm)) + pcm).decode()


PNG, WAV = _png(), _wav()


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def embedded(uri: str, mime: str, body: str) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime, "text": body}}


# --------------------------------------------------------------------------- registries
@dataclass
class Tool:
    name: str
    doc: str
    schema: dict[str, Any]
    run: Callable[..., Awaitable[Any]]
    job: str = "no"  # "no" | "may" | "must": task support
    out: dict[str, Any] | None = None  # what clients check structured content against

    def wire(self) -> types.Tool:
        return types.Tool(name=self.name, description=self.doc, input_schema=self.schema, output_schema=self.out)


TOOLS: dict[str, Tool] = {}


def tool(name: str, doc: str, schema: dict[str, Any] | None = None, job: str = "no"):
    def add(fn: Callable[..., Awaitable[Any]]):
        TOOLS[name] = Tool(name, doc, schema or dict(OBJECT), fn, job)
        return fn

    return add


def props(required: list[str] | None = None, **fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": required if required is not None else list(fields)}


def fixed(name: str, doc: str, *content: dict[str, Any]) -> None:
    async def give(_call: Call) -> Any:
        return list(content)

    TOOLS[name] = Tool(name, doc, dict(OBJECT), give)


@dataclass
class Call:
    """What a tool body sees: the SDK context, the arguments, MRTR answers."""

    ctx: Any
    args: dict[str, Any]
    answers: dict[str, Any]
    state: str | None

    @property
    def modern(self) -> bool:
        return self.ctx.protocol_version in MODERN_PROTOCOL_VERSIONS

    def client_has(self, name: str) -> bool:
        caps = self.ctx.session.client_capabilities
        return caps is not None and getattr(caps, name, None) is not None

    def client_has_ext(self, ident: str) -> bool:
        caps = self.ctx.session.client_capabilities
        return self.modern and caps is not None and ident in (caps.extensions or {})

    def accepted(self, key: str) -> dict[str, Any] | None:
        got = self.answers.get(key)
        if isinstance(got, types.ElicitResult) and got.action == "accept":
            return dict(got.content or {})
        return None


# --------------------------------------------------------------------------- plain content fixtures
fixed("test_simple_text", "Return one text block", text("This is a simple text response for testing."))
fixed("test_image_content", "Return one image block", {"type": "image", "data": PNG, "mimeType": "image/png"})
fixed("test_audio_content", "Return one audio block", {"type": "audio", "data": WAV, "mimeType": "audio/wav"})
fixed(
    "test_embedded_resource",
    "Return one embedded resource",
    embedded("test://embedded-resource", "text/plain", "This is an embedded resource content."),
)
fixed(
    "test_multiple_content_types",
    "Return text, image and resource blocks together",
    text("Multiple content types test:"),
    {"type": "image", "data": PNG, "mimeType": "image/png"},
    embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
)


@tool("test_error_handling", "Always fails as a tool error")
async def _fails(_call: Call) -> Any:
    return types.CallToolResult(
        is_error=True, content=[types.TextContent(text="This tool intentionally returns an error for testing")]
    )


@tool(
    "json_schema_2020_12_tool",
    "Carries the JSON Schema 2020-12 vocabulary that must survive tools/list",
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {k: {"type": "string"} for k in ("street", "city")},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)
async def _schema_tool(_call: Call) -> Any:
    return "schema ok"


@tool(
    "test_x_mcp_header",
    "Mirrors `region` into Mcp-Param-Region (SEP-2243)",
    props([], region={"type": "string", "x-mcp-header": "Region"}),
)
async def _x_header(call: Call) -> Any:
    return f"region={call.args.get('region')}"


# --------------------------------------------------------------------------- notifications during a call
@tool("test_tool_with_logging", "Send three log notifications")
async def _logs(call: Call) -> Any:
    for i, line in enumerate(("Tool execution started", "Tool processing data", "Tool execution completed")):
        if i:
            await asyncio.sleep(0.05)
        await call.ctx.session.send_log_message("info", line, related_request_id=call.ctx.request_id)
    return "logged"


@tool("test_logging_tool", "Tries to log; a modern client hears it only when it set a log level")
async def _log_one(call: Call) -> Any:
    await call.ctx.session.send_log_message("info", "one line", related_request_id=call.ctx.request_id)
    return "done"


@tool("test_tool_with_progress", "Report progress 0, 50, 100")
async def _progress(call: Call) -> Any:
    for i, at in enumerate((0, 50, 100)):
        if i:
            await asyncio.sleep(0.05)
        await call.ctx.session.report_progress(at, 100, f"at {at}")
    return "progressed"


@tool("test_reconnection", "Close the SSE stream in mid-call (SEP-1699)")
async def _reconnect(call: Call) -> Any:
    if call.ctx.close_sse_stream is not None:
        await asyncio.sleep(
            0.1
        )  # the SDK sends the stream's first event beside this: one that is closed before it had an id is lost
        await call.ctx.close_sse_stream()
    await asyncio.sleep(0.2)
    return "Reconnection test completed"


# --------------------------------------------------------------------------- legacy server->client requests
@tool("test_sampling", "Ask the client for a completion (handshake era)", props(prompt={"type": "string"}))
async def _sampling(call: Call) -> Any:
    if not call.client_has("sampling"):
        raise MCPError(types.INVALID_REQUEST, "client has no sampling capability")
    got = await call.ctx.session.create_message(
        messages=[types.SamplingMessage(role="user", content=types.TextContent(text=call.args["prompt"]))],
        max_tokens=100,
        related_request_id=call.ctx.request_id,
    )
    return f"LLM response: {getattr(got.content, 'text', '')}"


async def _form(call: Call, message: str, schema: dict[str, Any]) -> str:
    if not call.client_has("elicitation"):
        raise MCPError(types.INVALID_REQUEST, "client has no elicitation capability")
    got = await call.ctx.session.elicit_form(message, schema, related_request_id=call.ctx.request_id)
    return f"action={got.action}, content={json.dumps(got.content or {})}"


@tool("test_elicitation", "Ask the user a form (handshake era)", props(message={"type": "string"}))
async def _elicit(call: Call) -> Any:
    schema = props(
        username={"type": "string", "description": "User's response"},
        email={"type": "string", "description": "User's email address"},
    )
    return "User response: " + await _form(call, call.args["message"], schema)


@tool("test_elicitation_sep1034_defaults", "Form with a default for every primitive type")
async def _elicit_defaults(call: Call) -> Any:
    schema = props(
        [],
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    )
    return "Elicitation completed: " + await _form(call, "Please fill the form", schema)


@tool("test_elicitation_sep1330_enums", "Form with the five enum spellings of SEP-1330")
async def _elicit_enums(call: Call) -> Any:
    titled = [{"const": f"value{i}", "title": f"Option {i}"} for i in (1, 2, 3)]
    plain = ["option1", "option2", "option3"]
    schema = props(
        [],
        untitledSingle={"type": "string", "enum": plain},
        titledSingle={"type": "string", "oneOf": titled},
        legacyEnum={"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["One", "Two", "Three"]},
        untitledMulti={"type": "array", "items": {"type": "string", "enum": plain}},
        titledMulti={"type": "array", "items": {"anyOf": titled}},
    )
    return "Elicitation completed: " + await _form(call, "Please choose", schema)


# --------------------------------------------------------------------------- MRTR (2026-07-28)
def need(state: str | None = None, **asks: dict[str, Any]) -> types.InputRequiredResult:
    wire: dict[str, Any] = {"resultType": "input_required"}
    if asks:
        wire["inputRequests"] = asks
    if state is not None:
        wire["requestState"] = state
    return types.InputRequiredResult.model_validate(wire)


def form(message: str, **fields: Any) -> dict[str, Any]:
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": props(**fields)}}


def sample(prompt: str, tokens: int) -> dict[str, Any]:
    return {
        "method": "sampling/createMessage",
        "params": {"messages": [{"role": "user", "content": text(prompt)}], "maxTokens": tokens},
    }


ROOTS = {"method": "roots/list", "params": {}}
NAME = form("What is your name?", name={"type": "string"})
CONFIRM = form("Please confirm", ok={"type": "boolean"})


@tool("test_input_required_result_elicitation", "One round of MRTR elicitation")
async def _m_elicit(call: Call) -> Any:
    got = call.accepted("user_name")
    return f"Hello, {got.get('name', '?')}!" if got is not None else need(user_name=NAME)


@tool("test_streaming_elicitation", "Streams a little, then asks by MRTR")
async def _m_stream(call: Call) -> Any:
    await call.ctx.session.report_progress(1, 2, "about to ask")
    got = call.accepted("user_name")
    return "thanks" if got is not None else need(user_name=NAME)


@tool("test_input_required_result_sampling", "One round of MRTR sampling")
async def _m_sample(call: Call) -> Any:
    got = call.answers.get("capital_question")
    if isinstance(got, types.CreateMessageResult):
        return f"model said: {getattr(got.content, 'text', '?')}"
    return need(capital_question=sample("What is the capital of France?", 100))


@tool("test_input_required_result_list_roots", "One round of MRTR roots")
async def _m_roots(call: Call) -> Any:
    got = call.answers.get("client_roots")
    if isinstance(got, types.ListRootsResult):
        return "roots: " + ", ".join(str(r.uri) for r in got.roots)
    return need(client_roots=ROOTS)


@tool("test_input_required_result_request_state", "requestState round trip")
async def _m_state(call: Call) -> Any:
    if call.accepted("confirm") is not None and call.state == "nonce-1":
        return "state-ok"
    return need("nonce-1", confirm=CONFIRM)


@tool("test_input_required_result_tampered_state", "Refuses a tampered requestState (the SDK boundary seals it)")
async def _m_tamper(call: Call) -> Any:
    return "state-ok" if call.state == "sealed" else need("sealed", confirm=CONFIRM)


@tool("test_input_required_result_multiple_inputs", "Three input requests at once")
async def _m_many(call: Call) -> Any:
    if {"user_name", "greeting", "client_roots"} <= set(call.answers):
        return "all three arrived"
    return need("many", user_name=NAME, greeting=sample("Generate a greeting", 50), client_roots=ROOTS)


@tool("test_input_required_result_multi_round", "Two rounds with evolving state")
async def _m_rounds(call: Call) -> Any:
    step = json.loads(call.state) if call.state else {}
    one, two = call.accepted("step1"), call.accepted("step2")
    if step.get("at") == 2 and two is not None:
        return f"{step['name']} likes {two.get('color')}"
    if step.get("at") == 1 and one is not None:
        after = json.dumps({"at": 2, "name": one.get("name")})
        return need(after, step2=form("Step 2: What is your favorite color?", color={"type": "string"}))
    return need(json.dumps({"at": 1}), step1=form("Step 1: What is your name?", name={"type": "string"}))


@tool("test_input_required_result_capabilities", "Asks only for what the client declared")
async def _m_caps(call: Call) -> Any:
    asks: dict[str, Any] = {}
    if call.client_has("sampling"):
        asks["s"] = sample("Say hello", 50)
    if call.client_has("elicitation"):
        asks["e"] = NAME
    return need("caps", **asks)


@tool("test_missing_capability", "Refuses with -32021 unless the client declared sampling")
async def _missing_cap(call: Call) -> Any:
    if not call.client_has("sampling"):
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            "Missing required client capability",
            {"requiredCapabilities": {"sampling": {}}},
        )
    return "sampling declared"


# --------------------------------------------------------------------------- change triggers
bus = InMemorySubscriptionBus()
extra: set[str] = set()  # names of what is switched on just now
subscribed: set[str] = set()


@tool("test_trigger_tool_change", "Switch `gw_dynamic` on or off and announce it")
async def _change_tools(call: Call) -> Any:
    extra.symmetric_difference_update({"tool"})
    await bus.publish(ToolsListChanged())
    if not call.modern:
        await call.ctx.session.send_tool_list_changed()
    return "gw_dynamic is " + ("on" if "tool" in extra else "off")


@tool("test_trigger_prompt_change", "Switch the `gw_dynamic` prompt on or off and announce it")
async def _change_prompts(call: Call) -> Any:
    extra.symmetric_difference_update({"prompt"})
    await bus.publish(PromptsListChanged())
    if not call.modern:
        await call.ctx.session.send_prompt_list_changed()
    return "prompt gw_dynamic is " + ("on" if "prompt" in extra else "off")


@tool("gw_touch_resource", "Announce that a resource changed", props(uri={"type": "string"}))
async def _touch(call: Call) -> Any:
    await bus.publish(ResourceUpdated(call.args["uri"]))
    if not call.modern and call.args["uri"] in subscribed:
        await call.ctx.session.send_resource_updated(call.args["uri"])
    return "touched"


# --------------------------------------------------------------------------- gateway probes
events: list[dict[str, Any]] = []


@tool("gw_echo", "Echo arguments, the _meta received and the HTTP headers received", {"type": "object"})
async def _echo(call: Call) -> Any:
    request = call.ctx.request
    headers = dict(request.headers) if request is not None else {}
    seen = {
        "arguments": call.args,
        "_meta": dict(call.ctx.params.get("_meta") or {}) if call.ctx.params else {},
        "headers": headers,
        "protocolVersion": call.ctx.protocol_version,
        "requestId": call.ctx.request_id,
    }
    return types.CallToolResult(content=[types.TextContent(text=json.dumps(seen))], structured_content=seen)


@tool("gw_structured", "Structured content of every kind of JSON value")
async def _structured(call: Call) -> Any:
    value = {
        "nested": {"list": [1, 2.5, "drei", None, True, {"": {}}], "empty": []},
        "text": "grün, \u2028, \U0001f600",
        "big": 9007199254740991,
        "small": 1e-7,
        "nothing": None,
    }
    return types.CallToolResult(content=[types.TextContent(text=json.dumps(value))], structured_content=value)


TOOLS["gw_structured"].out = {
    "type": "object",
    "properties": {"nested": {"type": "object"}, "text": {"type": "string"}, "big": {"type": "integer"}},
    "required": ["nested", "text", "big"],
}


@tool("gw_sleep", "Sleep; records start, end or cancellation", props([], seconds={"type": "number"}, tag={"type": "string"}))
async def _sleep(call: Call) -> Any:
    mark = {"tag": call.args.get("tag", ""), "at": time.time(), "what": "start"}
    events.append(mark)
    try:
        end = time.monotonic() + float(call.args.get("seconds", 1))
        n = 0
        while time.monotonic() < end:
            await asyncio.sleep(0.05)
            n += 1
            await call.ctx.session.report_progress(n)
    except BaseException as exc:
        events.append({**mark, "what": "cancelled", "why": type(exc).__name__})
        raise
    events.append({**mark, "what": "end"})
    return "slept"


@tool("gw_events", "What gw_sleep recorded")
async def _events(_call: Call) -> Any:
    return json.dumps(events[-200:])


@tool("gw_big", "Return a text of n bytes", props(n={"type": "integer"}))
async def _big(call: Call) -> Any:
    return "x" * int(call.args["n"])


@tool("gw_dynamic", "Only there while switched on")
async def _dynamic(_call: Call) -> Any:
    return "dynamic"


# --------------------------------------------------------------------------- tasks extension (SEP-2663)
@dataclass
class Job:
    id: str
    status: str = "working"
    made: str = field(default_factory=lambda: _now())
    seen: str = field(default_factory=lambda: _now())
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    asks: dict[str, Any] = field(default_factory=dict)
    waits: dict[str, asyncio.Future[Any]] = field(default_factory=dict)
    runner: asyncio.Task[None] | None = None

    def to(self, status: str) -> None:
        if self.status not in ("completed", "failed", "cancelled"):
            self.status, self.seen = status, _now()

    def wire(self, created: bool = False) -> dict[str, Any]:
        out: dict[str, Any] = {
            "resultType": "task" if created else "complete",
            "taskId": self.id,
            "status": self.status,
            "createdAt": self.made,
            "lastUpdatedAt": self.seen,
            "ttlMs": 600_000,
            "pollIntervalMs": 100,
        }
        if created:
            return out
        if self.status == "completed":
            out["result"] = self.result
        if self.status == "failed":
            out["error"] = self.error
        if self.status == "input_required":
            out["inputRequests"] = dict(self.asks)
        return out

    async def ask(self, **asks: dict[str, Any]) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        names = {key: f"{key}-{secrets.token_hex(4)}" for key in asks}
        for key, name in names.items():
            self.asks[name], self.waits[name] = asks[key], loop.create_future()
        self.to("input_required")
        return {key: await self.waits[name] for key, name in names.items()}

    def answer(self, given: dict[str, Any]) -> None:
        for name, value in given.items():
            wait = self.waits.get(name)
            if name in self.asks and wait is not None and not wait.done():
                del self.asks[name]
                wait.set_result(value)
        if self.status == "input_required" and not self.asks:
            self.to("working")


JOBS: OrderedDict[str, Job] = OrderedDict()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def start_job(body: Callable[[Job], Awaitable[Any]]) -> dict[str, Any]:
    job = Job(secrets.token_urlsafe(24))
    while len(JOBS) > 500:
        JOBS.popitem(last=False)
    JOBS[job.id] = job

    async def go() -> None:
        try:
            out = shape(await body(job))
            job.result = out.model_dump(by_alias=True, mode="json", exclude_none=True)
            job.result.pop("resultType", None)
            job.to("completed")
        except asyncio.CancelledError:
            job.to("cancelled")
        except MCPError as exc:
            job.error = {"code": exc.code, "message": exc.message}
            job.to("failed")
        except Exception as exc:  # a crash is a protocol error of the task
            job.error = {"code": -32603, "message": f"{type(exc).__name__}: {exc}"}
            job.to("failed")

    job.runner = asyncio.get_running_loop().create_task(go())
    return job.wire(created=True)


class TaskRef(types.RequestParams):
    task_id: str


class TaskAnswers(TaskRef):
    input_responses: dict[str, Any]


def _gate(ctx: Any, params: TaskRef) -> Job:
    Call_ = Call(ctx, {}, {}, None)
    if not Call_.client_has_ext(TASKS_EXT):
        raise lacks_tasks()
    request = ctx.request
    if request is not None and request.headers.get("mcp-name") != params.task_id:
        raise MCPError(types.HEADER_MISMATCH, "mcp-name header does not match params.taskId")
    job = JOBS.get(params.task_id)
    if job is None:
        raise MCPError(types.INVALID_PARAMS, "Task not found")
    return job


def lacks_tasks() -> MCPError:
    return MCPError(
        types.MISSING_REQUIRED_CLIENT_CAPABILITY,
        "Missing required client capability",
        {"requiredCapabilities": {"extensions": {TASKS_EXT: {}}}},
    )


async def tasks_get(ctx: Any, params: TaskRef) -> dict[str, Any]:
    return _gate(ctx, params).wire()


async def tasks_update(ctx: Any, params: TaskAnswers) -> dict[str, Any]:
    _gate(ctx, params).answer(params.input_responses)
    return {"resultType": "complete"}


async def tasks_cancel(ctx: Any, params: TaskRef) -> dict[str, Any]:
    job = _gate(ctx, params)
    if job.runner is not None and not job.runner.done():
        job.runner.cancel()
    return {"resultType": "complete"}


@tool("greet", "Say hello at once", props(name={"type": "string"}))
async def _greet(call: Call) -> Any:
    return f"Hello, {call.args.get('name', 'stranger')}!"


@tool("slow_compute", "Sleep some seconds; a task when the client can", props([], seconds={"type": "number"}), job="may")
async def _slow(call: Call, job: Job | None = None) -> Any:
    await asyncio.sleep(float(call.args.get("seconds", 1)))
    return f"computed for {call.args.get('seconds', 1)}s"


@tool("failing_job", "A task that ends in a tool error", job="must")
async def _failing(_call: Call, job: Job | None = None) -> Any:
    await asyncio.sleep(0.3)
    return types.CallToolResult(is_error=True, content=[types.TextContent(text="job failed on purpose")])


@tool("protocol_error_job", "A task that ends in a protocol error", job="must")
async def _crash(_call: Call, job: Job | None = None) -> Any:
    await asyncio.sleep(0.05)
    raise MCPError(types.INTERNAL_ERROR, "the job crashed on purpose")


@tool("confirm_delete", "A task that asks before deleting", props([], filename={"type": "string"}), job="must")
async def _confirm(call: Call, job: Job | None = None) -> Any:
    assert job is not None
    got = await job.ask(confirm=form(f"Delete {call.args.get('filename')}?", confirm={"type": "boolean"}))
    return f"confirm_delete answered {json.dumps(got['confirm'])}"


@tool("multi_input", "A task that asks two things at once", job="must")
async def _multi(_call: Call, job: Job | None = None) -> Any:
    assert job is not None
    got = await job.ask(first=form("First?", a={"type": "string"}), second=form("Second?", b={"type": "string"}))
    return f"multi_input answered {json.dumps(got)}"


@tool("test_tool_with_task", "MRTR first, then a task", job="must")
async def _mrtr_task(call: Call, job: Job | None = None) -> Any:
    await asyncio.sleep(0.05)
    return f"task for {(call.accepted('user_name') or {}).get('name', '?')}"


# --------------------------------------------------------------------------- the server
def shape(out: Any) -> types.CallToolResult:
    if isinstance(out, types.CallToolResult):
        return out
    blocks = [text(out)] if isinstance(out, str) else out
    return types.CallToolResult.model_validate({"content": blocks})


async def on_list_tools(ctx: Any, params: Any) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[t.wire() for t in TOOLS.values() if t.name != "gw_dynamic" or "tool" in extra])


async def on_call_tool(ctx: Any, params: types.CallToolRequestParams) -> Any:
    known = TOOLS.get(params.name)
    if known is None or (known.name == "gw_dynamic" and "tool" not in extra):
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
    call = Call(ctx, dict(params.arguments or {}), dict(params.input_responses or {}), params.request_state)
    if known.job != "no":
        if call.client_has_ext(TASKS_EXT):
            if known.name == "test_tool_with_task" and call.accepted("user_name") is None:
                return need(user_name=NAME)
            return start_job(lambda job: known.run(call, job))
        if known.job == "must":
            raise lacks_tasks()
    try:
        out = await known.run(call)
    except MCPError:
        raise
    except Exception as exc:
        return types.CallToolResult(is_error=True, content=[types.TextContent(text=f"{type(exc).__name__}: {exc}")])
    return out if isinstance(out, types.InputRequiredResult) else shape(out)


RESOURCES = {
    "test://static-text": ("static-text", "text/plain", "This is the content of the static text resource."),
    "test://static-binary": ("static-binary", "image/png", None),
    "test://watched-resource": ("watched-resource", "text/plain", "Watched resource content"),
}


async def on_list_resources(ctx: Any, params: Any) -> types.ListResourcesResult:
    return types.ListResourcesResult(
        resources=[
            types.Resource(uri=uri, name=name, description=f"Fixture {name}", mime_type=mime)
            for uri, (name, mime, _) in RESOURCES.items()
        ]
    )


async def on_list_templates(ctx: Any, params: Any) -> types.ListResourceTemplatesResult:
    return types.ListResourceTemplatesResult(
        resource_templates=[
            types.ResourceTemplate(
                uri_template="test://template/{id}/data",
                name="template",
                description="Data of one id",
                mime_type="application/json",
            )
        ]
    )


async def on_read(ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    uri = str(params.uri)
    one: dict[str, Any]
    if uri in RESOURCES:
        _, mime, body = RESOURCES[uri]
        one = {"uri": uri, "mimeType": mime, **({"text": body} if body is not None else {"blob": PNG})}
    elif uri.startswith("test://template/") and uri.endswith("/data") and uri.count("/") == 4:
        ident = uri.split("/")[3]
        one = {"uri": uri, "mimeType": "application/json", "text": json.dumps({"id": ident, "data": f"Data for ID: {ident}"})}
    else:
        modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
        raise MCPError(types.INVALID_PARAMS if modern else -32002, f"Resource not found: {uri}", {"uri": uri})
    return types.ReadResourceResult.model_validate({"contents": [one]})


async def on_subscribe(ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
    subscribed.add(str(params.uri))
    return types.EmptyResult()


async def on_unsubscribe(ctx: Any, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    subscribed.discard(str(params.uri))
    return types.EmptyResult()


async def on_set_level(ctx: Any, params: types.SetLevelRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


PROMPTS: dict[str, tuple[str, tuple[str, ...], Callable[[dict[str, str]], list[dict[str, Any]]]]] = {
    "test_simple_prompt": ("A prompt without arguments", (), lambda a: [text("This is a simple prompt for testing.")]),
    "test_prompt_with_arguments": (
        "A prompt with two arguments",
        ("arg1", "arg2"),
        lambda a: [text(f"Prompt with arguments: arg1='{a.get('arg1')}', arg2='{a.get('arg2')}'")],
    ),
    "test_prompt_with_embedded_resource": (
        "A prompt with a resource in it",
        ("resourceUri",),
        lambda a: [
            embedded(a.get("resourceUri", "test://none"), "text/plain", "Embedded resource content for testing."),
            text("Please process the embedded resource above."),
        ],
    ),
    "test_prompt_with_image": (
        "A prompt with an image in it",
        (),
        lambda a: [{"type": "image", "data": PNG, "mimeType": "image/png"}, text("Please analyze the image above.")],
    ),
    "test_input_required_result_prompt": ("A prompt that asks first (MRTR)", (), lambda a: [text("never")]),
    "gw_dynamic": ("Only there while switched on", (), lambda a: [text("dynamic")]),
}


async def on_list_prompts(ctx: Any, params: Any) -> types.ListPromptsResult:
    return types.ListPromptsResult(
        prompts=[
            types.Prompt(
                name=name,
                description=doc,
                arguments=[types.PromptArgument(name=a, required=True, description=f"Argument {a}") for a in args],
            )
            for name, (doc, args, _) in PROMPTS.items()
            if name != "gw_dynamic" or "prompt" in extra
        ]
    )


async def on_get_prompt(ctx: Any, params: types.GetPromptRequestParams) -> Any:
    if params.name not in PROMPTS or (params.name == "gw_dynamic" and "prompt" not in extra):
        raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")
    doc, _, make = PROMPTS[params.name]
    blocks = make(dict(params.arguments or {}))
    if params.name == "test_input_required_result_prompt":
        call = Call(ctx, {}, dict(params.input_responses or {}), params.request_state)
        got = call.accepted("user_context")
        if got is None:
            return need(user_context=form("What context should the prompt use?", context={"type": "string"}))
        blocks = [text(f"Use this context: {got.get('context')}")]
    return types.GetPromptResult.model_validate(
        {"description": doc, "messages": [{"role": "user", "content": b} for b in blocks]}
    )


async def on_completion(ctx: Any, params: types.CompleteRequestParams) -> types.CompleteResult:
    words = [w for w in ("paris", "park", "party") if w.startswith(params.argument.value)]
    return types.CompleteResult(completion=types.Completion(values=words, total=len(words), has_more=False))


class Events(EventStore):
    """Bounded in-memory SSE replay store."""

    def __init__(self, keep: int = 4096) -> None:
        self.rows: OrderedDict[int, tuple[str, Any]] = OrderedDict()
        self.last, self.keep = 0, keep

    async def store_event(self, stream_id: str, message: Any) -> str:
        self.last += 1
        self.rows[self.last] = (stream_id, message)
        while len(self.rows) > self.keep:
            self.rows.popitem(last=False)
        return str(self.last)

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        after = int(last_event_id) if last_event_id.isdigit() else -1
        if after not in self.rows:
            return None
        stream = self.rows[after][0]
        for number, (owner, message) in list(self.rows.items()):
            if owner == stream and number > after and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class Upstream(Server):
    def create_initialization_options(self, notification_options=None, experimental_capabilities=None, extensions=None):
        flags = notification_options or NotificationOptions(True, True, True)
        return super().create_initialization_options(flags, experimental_capabilities, {} if extensions is None else extensions)


def build() -> Server[Any]:
    server = Upstream(
        "gw-reference-upstream",
        version="1.0.0",
        instructions="Reference upstream for gateway tests.",
        cache_hints={
            m: CacheHint(ttl_ms=5000, scope="public")
            for m in ("server/discover", "tools/list", "prompts/list", "resources/list", "resources/templates/list")
        }
        | {"resources/read": CacheHint(ttl_ms=0, scope="private")},
        on_list_tools=on_list_tools,
        on_call_tool=on_call_tool,
        on_list_resources=on_list_resources,
        on_list_resource_templates=on_list_templates,
        on_read_resource=on_read,
        on_subscribe_resource=on_subscribe,
        on_unsubscribe_resource=on_unsubscribe,
        on_subscriptions_listen=ListenHandler(bus),
        on_list_prompts=on_list_prompts,
        on_get_prompt=on_get_prompt,
        on_completion=on_completion,
        on_set_logging_level=on_set_level,
    )
    server.extensions[TASKS_EXT] = {}
    server.add_request_handler("tasks/get", TaskRef, tasks_get)
    server.add_request_handler("tasks/update", TaskAnswers, tasks_update)
    server.add_request_handler("tasks/cancel", TaskRef, tasks_cancel)
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=server.name))
    return server


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--host", default="127.0.0.1")
    ap.add_argument("--port", type=int, default=3901)
    ap.add_argument("--stdio", action="store_true")
    ap.add_argument("--json", action="store_true")
    ap.add_argument("--stateless", action="store_true")
    ap.add_argument("--log-level", default="warning")
    opts = ap.parse_args()
    server = build()
    if opts.stdio:
        import anyio
        from mcp.server.stdio import stdio_server

        async def go() -> None:
            async with stdio_server() as (read, write):
                await server.run(read, write, server.create_initialization_options())

        anyio.run(go)
        return
    import uvicorn

    app = server.streamable_http_app(
        host=opts.host, json_response=opts.json, stateless_http=opts.stateless, event_store=Events(), retry_interval=100
    )
    sock = socket.create_server((opts.host, opts.port))
    print("ready", sock.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, http="h11", log_level=opts.log_level)).run(sockets=[sock])


if __name__ == "__main__":
    main()
