"""Bytes to one strictly read MCP call (sans-I/O).  The parsed body is the truth; headers must agree and never decide.

What is sent on is what was read, written anew; never the bytes that came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from gateway.asgi import Headers, by_name, child_traceparent, read_traceparent
from gateway.mcp.errors import PARSE_ERROR, RpcId, RpcRefused
from gateway.mcp.methods import (
    ASSUMED,
    CALL_TOOL,
    CAPABILITIES_KEY,
    INITIALIZE,
    LEGACY,
    LEVEL_KEY,
    LEVELS,
    METHODS,
    MODERN,
    VERSION_KEY,
    Act,
    Method,
)  # fmt: skip
from gateway.mcp.params import bad_params, checked
from gateway.mcp.repeated import PARAM_PREFIX, decoded
from gateway.mcp.strict import TooDeepError, UnreadableError, disguised, exact, loads
from gateway.model import Arrival, Call, Trace
from gateway.reasons import Code

_ENVELOPE = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})
_META = frozenset(
    {
        VERSION_KEY,
        CAPABILITIES_KEY,
        "io.modelcontextprotocol/clientInfo",
        LEVEL_KEY,
        "progressToken",
        "traceparent",
        "tracestate",
        "baggage",
    }
)
_ROUTING = frozenset({"mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id"})
_READ = _ROUTING | {"content-type", "content-encoding", "accept"}
_USUAL_ACCEPT = "application/json, text/event-stream"
_LONGEST_ID = 256
_ID = (str, int)  # a union that is written where it is asked for is made anew each time
_LONGEST_STATE = 512
_OURS = "bailiwick/"
_REFUSE = Act.REFUSE
_DROPPED = frozenset({"traceparent", "tracestate", "baggage"})  # ours to write; baggage of strangers is not passed on


def read(arrival: Arrival, depth: int) -> Call:
    """The one call that these bytes and headers are, or `RpcRefused` at the first rung of the ladder that breaks.

    `message` of the call holds `jsonrpc`, `id`, `method` and `params` with a cleaned `_meta`, without what its row withholds and
    without any capability of the client: what it declares stands in `declares` alone.  `repeated` is as it came.
    """
    found = arrival.found or by_name(arrival.headers)
    headers, twice = _headers(found)
    if arrival.http_method != "POST":
        raise RpcRefused(Code.UNKNOWN_METHOD, arrival.http_method[:16], status=405)
    _media(headers)
    body = _json(arrival.body, depth)
    version = headers.get("mcp-protocol-version")
    modern = version in MODERN
    if not modern and isinstance(body, dict) and "method" not in body and ("result" in body or "error" in body):
        if twice:
            raise RpcRefused(Code.HEADER_MISMATCH, f"{twice} is repeated")
        return _response(arrival, headers, version, body)
    rpc_id, name, params = _envelope(body)
    if twice:
        raise RpcRefused(Code.HEADER_MISMATCH, f"{twice} is repeated", rpc_id=rpc_id)
    meta = _meta(params, rpc_id)
    if modern:
        _modern(headers, name, params, meta, rpc_id)
    else:
        _legacy(headers, version, name, meta, rpc_id)
    method = METHODS.get(name)
    act = None if method is None else method.modern if modern else method.legacy
    if method is None or act is None or act is _REFUSE or method.notification != ("id" not in body):
        status = 0 if "id" in body else (404 if modern else 400)
        raise RpcRefused(Code.UNKNOWN_METHOD, name[:64], rpc_id=rpc_id, status=status)
    if disguised(params, method.known):
        raise _disguise(rpc_id)
    tool = checked(name, params, rpc_id)
    declared = params.get("capabilities") if name == INITIALIZE else meta.get(CAPABILITIES_KEY)
    return Call(
        arrival=arrival,
        method=name,
        target=arrival.target,
        message=_message(body, method, params, meta),
        trace=_trace(arrival.trace, meta) if meta else arrival.trace,
        name=tool,
        arguments=exact(params.get("arguments", {})) if name == CALL_TOOL else None,
        rpc_id=rpc_id,
        version=_chosen(params) if name == INITIALIZE else version or ASSUMED,
        opens=_opens(declared) if declared else False,
        declares=declared,
        repeated=_repeated(arrival.headers) if PARAM_PREFIX in "\n".join(found) else (),
    )


def _headers(found: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], str]:
    """Headers that matter here, and the routing header that stands on two lines, which has two readings; "" for none."""
    headers: dict[str, str] = {}
    twice = ""
    for name in _READ:
        if name in found:
            values = found[name]
            if len(values) == 1:
                headers[name] = values[0].strip(" \t")
            else:
                headers[name] = ", ".join(values)
                if name in _ROUTING:
                    twice = name
    return headers, twice


def _repeated(headers: Headers) -> tuple[tuple[str, str], ...]:
    """The lines that repeat arguments, as they came."""
    return tuple([(name, value.strip(" \t")) for name, value in headers if name.startswith(PARAM_PREFIX)])


def _media(headers: Mapping[str, str]) -> None:
    kind = headers.get("content-type", "")
    if kind != "application/json" and kind.partition(";")[0].strip().lower() != "application/json":
        raise RpcRefused(Code.MALFORMED, "content-type", status=415)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise RpcRefused(Code.MALFORMED, "content-encoding", status=415)
    accept = headers.get("accept")
    if accept is None or accept == _USUAL_ACCEPT:
        return
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if "*/*" in kinds:
        return
    if not kinds & {"application/json", "application/*"} or not kinds & {"text/event-stream", "text/*"}:
        raise RpcRefused(Code.MALFORMED, "accept", status=406)


def _json(body: bytes, depth: int) -> Any:
    try:
        return loads(body, depth)
    except TooDeepError as error:
        raise RpcRefused(Code.TOO_LARGE, str(error), status=400) from None
    except UnreadableError as error:
        raise RpcRefused(Code.MALFORMED, str(error), rpc_code=PARSE_ERROR) from None


def _envelope(body: Any) -> tuple[RpcId, str, dict[str, Any]]:
    """(id, method, params) of one request or notification; batches and answers are neither."""
    if not isinstance(body, dict):
        raise RpcRefused(Code.MALFORMED, "not one message")
    raw: Any = body.get("id")
    rpc_id: RpcId = raw if raw.__class__ is int or (raw.__class__ is str and len(raw) <= _LONGEST_ID) else None
    if disguised(body, _ENVELOPE):
        raise RpcRefused(Code.MALFORMED, "a disguised member of the envelope", rpc_id=rpc_id)
    if body.get("jsonrpc") != "2.0" or "result" in body or "error" in body or ("id" in body and rpc_id is None):
        raise RpcRefused(Code.MALFORMED, "not a JSON-RPC 2.0 request", rpc_id=rpc_id)
    method, params = body.get("method"), body.get("params", {})
    if not isinstance(method, str) or not isinstance(params, dict):
        raise RpcRefused(Code.MALFORMED, "method or params", rpc_id=rpc_id)
    return rpc_id, method, params


def _response(arrival: Arrival, headers: Mapping[str, str], version: str | None, body: dict[str, Any]) -> Call:
    """What a client of the era of handshakes says to a server's question; whose question it was is yet to be found out."""
    rpc_id, error = body.get("id"), body.get("error")
    said = isinstance(error, dict) and isinstance(error.get("code"), int) and isinstance(error.get("message"), str)
    if disguised(body, _ENVELOPE) or body.get("jsonrpc") != "2.0" or not isinstance(rpc_id, str) or "params" in body:
        raise RpcRefused(Code.MALFORMED, "not a JSON-RPC 2.0 response")
    if ("result" in body) == ("error" in body) or (not said and "error" in body):
        raise RpcRefused(Code.MALFORMED, "a response has one result or one error")
    _legacy(headers, version, "", {}, None)
    kept = {key: body[key] for key in ("jsonrpc", "id", "result", "error") if key in body}
    return Call(
        arrival=arrival, method="", target=arrival.target, message=kept, trace=arrival.trace, version=version or ASSUMED,
        direction="answer",
    )  # fmt: skip


def _meta(params: Mapping[str, Any], rpc_id: RpcId) -> dict[str, Any]:
    if "_meta" not in params:
        return {}
    meta = params["_meta"]
    if not isinstance(meta, dict):
        bad_params("_meta is not an object", rpc_id)
    if disguised(meta, _META):
        raise _disguise(rpc_id)
    token = meta.get("progressToken")
    if isinstance(token, bool) or not (token is None or isinstance(token, _ID)):
        bad_params("progressToken", rpc_id)
    if LEVEL_KEY in meta and meta[LEVEL_KEY] not in LEVELS:
        bad_params("logLevel", rpc_id)
    return meta


def _disguise(rpc_id: RpcId) -> RpcRefused:
    return RpcRefused(Code.MALFORMED, "a disguised member", rpc_id=rpc_id)


def _modern(
    headers: Mapping[str, str],
    name: str,
    params: Mapping[str, Any],
    meta: Mapping[str, Any],
    rpc_id: RpcId,
) -> None:
    """The stateless era: each request says everything, and headers and body say the same."""
    version = headers["mcp-protocol-version"]
    if rpc_id is not None and (VERSION_KEY not in meta or not isinstance(meta.get(CAPABILITIES_KEY), dict)):
        bad_params("_meta lacks the protocol version or the client's capabilities", rpc_id, status=400)
    if meta.get(VERSION_KEY, version) != version:
        raise RpcRefused(Code.HEADER_MISMATCH, "mcp-protocol-version", rpc_id=rpc_id)
    if headers.get("mcp-method") != name:
        raise RpcRefused(Code.HEADER_MISMATCH, "mcp-method", rpc_id=rpc_id)
    method = METHODS.get(name)
    if method is not None and method.named and decoded(headers.get("mcp-name")) != params.get(method.named):
        raise RpcRefused(Code.HEADER_MISMATCH, "mcp-name", rpc_id=rpc_id)


def _legacy(headers: Mapping[str, str], version: str | None, name: str, meta: Mapping[str, Any], rpc_id: RpcId) -> None:
    """The era of handshakes: the routing headers are not asked for, but must not lie."""
    if version is not None and version not in LEGACY and meta.get(VERSION_KEY, version) == version:
        supported = MODERN if VERSION_KEY in meta else (*MODERN, *LEGACY)  # each era hears of what it can choose
        data = {"supported": list(supported), "requested": version[:64]}
        raise RpcRefused(Code.UNSUPPORTED_VERSION, version[:64], rpc_id=rpc_id, data=data)
    if meta.get(VERSION_KEY, version) != version:  # the body speaks another era than the headers
        raise RpcRefused(Code.HEADER_MISMATCH, "mcp-protocol-version", rpc_id=rpc_id)
    if headers.get("mcp-method", name) != name:
        raise RpcRefused(Code.HEADER_MISMATCH, "mcp-method", rpc_id=rpc_id)


def _message(body: Mapping[str, Any], method: Method, params: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    """What will be sent on: everything but what the row withholds, and of `_meta` what is the caller's to say."""
    sent = dict(params)
    sent.pop("_meta", None)
    if not method.withheld.isdisjoint(sent):
        sent = {key: value for key, value in sent.items() if key not in method.withheld}
    if method.name == INITIALIZE:
        sent["capabilities"] = {}
        sent["protocolVersion"] = _chosen(params)
    if meta:
        kept = {key: value for key, value in meta.items() if key not in _DROPPED and not key.startswith(_OURS)}
        if CAPABILITIES_KEY in kept:
            kept[CAPABILITIES_KEY] = {}  # until policy has said which of them this server may use
        if kept:
            sent["_meta"] = kept
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method.name, "params": sent}
    if "id" in body:
        message["id"] = body["id"]
    return message


def declaring(call: Call, capabilities: Mapping[str, Any]) -> Call:
    """The same call, which declares these capabilities of the client to the server."""
    params = call.message["params"]
    if call.method == INITIALIZE:
        params = {**params, "capabilities": capabilities}
    else:
        params = {**params, "_meta": {**params["_meta"], CAPABILITIES_KEY: capabilities}}
    return replace(call, message={**call.message, "params": params})


def _chosen(params: Mapping[str, Any]) -> str:
    """The version that an `initialize` asks its server for."""
    wanted = params.get("protocolVersion")
    return wanted if isinstance(wanted, str) and wanted in LEGACY else LEGACY[0]


def _opens(capabilities: object) -> bool:
    """Whether a client's capabilities declare `elicitation.url`."""
    elicitation = capabilities.get("elicitation") if isinstance(capabilities, dict) else None
    return isinstance(elicitation, dict) and isinstance(elicitation.get("url"), dict)


def _trace(arrived: Trace, meta: Mapping[str, Any]) -> Trace:
    """The caller's trace; what stands in the message goes before the header (SEP-414).  The span is ours in any case."""
    text = meta.get("traceparent")
    found = read_traceparent(text) if isinstance(text, str) else None
    if found is None:
        return arrived
    state = meta.get("tracestate", "")
    if not isinstance(state, str) or len(state) > _LONGEST_STATE or not state.isascii() or not state.isprintable():
        state = ""
    return Trace(found[0], arrived.span_id, parent=found[1], flags=found[2], state=state.strip(" "))


def onward(call: Call, parent: str | None = None) -> dict[str, Any]:
    """What is sent: the checked message, a request with the trace of this hop in `_meta` (SEP-414).

    `parent` is its `child_traceparent`, where whoever sends has made that for a header.
    """
    sent: dict[str, Any] = call.message
    if call.rpc_id is None:
        return sent
    params = sent["params"]
    meta = {**params.get("_meta", {}), "traceparent": parent or child_traceparent(call.trace)}
    if call.trace.state:
        meta["tracestate"] = call.trace.state
    return {**sent, "params": {**params, "_meta": meta}}


def arguments_of(call: Call) -> Any:
    """The arguments that are sent, `{}` where there are none."""
    return call.message.get("params", {}).get("arguments", {})


def peek_id(body: bytes, depth: int) -> RpcId:
    """The id of a request that was read before; None where there is none."""
    try:
        return _envelope(loads(body, depth))[0]
    except (UnreadableError, RpcRefused):
        return None


def peek_tool(body: bytes, depth: int) -> tuple[str, Mapping[str, object]]:
    """Name and arguments of a tool call that was read before; `RpcRefused` where the bytes are none."""
    rpc_id, _, params = _envelope(_json(body, depth))
    return str(checked(CALL_TOOL, params, rpc_id)), exact(params.get("arguments", {}))
