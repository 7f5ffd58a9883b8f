"""What a refusal and a failure look like in MCP: a stable code and the decision id, never a detail.

What a caller may not know of is answered exactly as the unknown, in both eras.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.mcp.methods import CALL_TOOL, COMPLETE, GET_PROMPT, MODERN, READ_RESOURCE, SUBSCRIBE, UNSUBSCRIBE
from gateway.mcp.strict import dumps
from gateway.model import Arrival, Call, Refused, UpstreamError
from gateway.reasons import PROSE, Code
from gateway.receipts import of_refusal
from gateway.wanting import stronger
from policies.model import NOTHING

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL: Final = -32603
HEADER_MISMATCH: Final = -32020
LACKS_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022
URL_NEEDED: Final = -32042
RESOURCE_NOT_FOUND: Final = -32002
"""Of the era of handshakes."""
POLICY: Final = -31403
UPSTREAM: Final = -31502
UNAVAILABLE: Final = -31503

META_CODE: Final = "bailiwick/code"
META_RETRY: Final = "bailiwick/retryAfter"
META_DECISION: Final = "bailiwick/decision"
META_MISSING: Final = "bailiwick/missing"
META_APPROVAL: Final = "bailiwick/approval"
NOT_AVAILABLE: Final = "not-available"
CONSENT_KEY: Final = "bailiwick/consent"
APPROVAL_KEY: Final = "bailiwick/approval"
"""Of the gateway's own questions within `inputRequests`; their answers are for the gateway, and no server hears of them."""
NO_RESOURCE: Final = "Resource not found"
URL_SINCE: Final = "2025-11-25"
"""The one revision of the era of handshakes that has URL elicitation."""

RpcId = str | int | None
Step = Callable[[str], str]
"""The value of WWW-Authenticate that asks for these scopes."""


def _no_step(scope: str) -> str:
    return f'Bearer error="insufficient_scope", scope="{scope}"'


MODERN_STATUS: Final[Mapping[int, int]] = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    LACKS_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
    METHOD_NOT_FOUND: 404,
}
"""HTTP status of a JSON-RPC error in the modern era; 200 for the others."""

_RPC: Final[Mapping[Code, tuple[int, int]]] = {
    Code.MALFORMED: (INVALID_REQUEST, 400),
    Code.TOO_LARGE: (INVALID_REQUEST, 413),
    Code.HEADER_MISMATCH: (HEADER_MISMATCH, 400),
    Code.UNSUPPORTED_VERSION: (UNSUPPORTED_VERSION, 400),
    Code.UNKNOWN_METHOD: (METHOD_NOT_FOUND, 0),
    Code.INVALID_PARAMS: (INVALID_PARAMS, 0),
    Code.AMBIGUOUS: (INVALID_PARAMS, 0),
    Code.UNKNOWN_SESSION: (INVALID_REQUEST, 404),
    Code.BAD_ORIGIN: (INVALID_REQUEST, 403),
    Code.LEDGER_UNAVAILABLE: (UNAVAILABLE, 503),
    Code.OVERLOADED: (UNAVAILABLE, 503),
    Code.INTERNAL_ERROR: (INTERNAL, 500),
    Code.DEFINITION_UNKNOWN: (UPSTREAM, 200),
}
"""JSON-RPC code and HTTP status; status 0: as the era has it.  What is not here is a denial."""

_INPUT: Final = frozenset({CALL_TOOL, GET_PROMPT, READ_RESOURCE})
"""Whose results may ask for input, in the stateless era."""
_APPROVALS: Final = frozenset({Code.APPROVAL_REQUIRED, Code.APPROVAL_DENIED})


class RpcRefused(Refused):
    """A refusal that knows more about its answer than its code says.

    rpc_code  where the code alone leaves a choice; 0 leaves it to the code.
    rpc_id    of the request, where it could be read before the call stood.
    status    HTTP status, where it is not the code's.
    text      what is said instead of the code's prose.
    """

    def __init__(
        self,
        code: Code,
        detail: str = "",
        *,
        rpc_code: int = 0,
        rpc_id: RpcId = None,
        status: int = 0,
        data: Mapping[str, object] = NOTHING,
        text: str = "",
    ) -> None:
        super().__init__(code, detail, data=data)
        self.text = text
        self.rpc_code = rpc_code
        self.rpc_id = rpc_id
        self.status = status


class ApprovalAsked(Refused):
    """A call that waits for people's approval, whose client can be asked for it: by a page, or by a form.

    page   parameters of an elicitation that leads to the page of the approval, which may be told to any client that can be led.
    form   of one that is as good, put to the person themselves; None where there is none.
    state  the `requestState` that comes back with the answer; "" where the client has none to bring.
    """

    def __init__(self, refusal: Refused, page: Mapping[str, object], form: Mapping[str, object] | None, state: str) -> None:
        super().__init__(refusal.code, refusal.detail, decision=refusal.decision, data=refusal.data)
        self.page = page
        self.form = form
        self.state = state

    def asking(self) -> dict[str, object] | None:
        """The form as a result that asks for input; None where there is no form, or no way back to the call."""
        if self.form is None or not self.state:
            return None
        requests = {APPROVAL_KEY: {"method": "elicitation/create", "params": dict(self.form)}}
        return {"resultType": "input_required", "inputRequests": requests, "requestState": self.state}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said instead of a result: HTTP status, body, further headers."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def is_modern(arrival: Arrival) -> bool:
    """Whether the caller speaks the stateless era, as far as the headers tell."""
    return arrival.header("mcp-protocol-version") in MODERN


def refused(
    refusal: Refused, arrival: Arrival | None, decision: str, *, knows: bool, challenge: str, step: Step = _no_step
) -> Answer:
    """The answer to a refused call.

    knows      whether the caller may know of the server; asked only where it matters.
    challenge  value of WWW-Authenticate for callers without a valid credential; `step` of that for a token that lacks a scope.
    """
    call = refusal.call
    rpc_id = call.rpc_id if call is not None else getattr(refusal, "rpc_id", None)
    modern = arrival is not None and is_modern(arrival)
    if refusal.code in {Code.NO_CREDENTIAL, Code.INVALID_CREDENTIAL, Code.REVOKED}:
        presented = ', error="invalid_token"' if refusal.code is not Code.NO_CREDENTIAL else ""
        header = refusal.challenge or (("WWW-Authenticate", challenge + presented),)
        return Answer(
            401, _error(rpc_id, INVALID_REQUEST, PROSE[refusal.code], refusal.code.value, decision, refusal=refusal), header
        )
    if refusal.code is Code.SCOPE_REQUIRED:
        header = (("WWW-Authenticate", step(str(refusal.data.get("scope", "")))),)
        return Answer(
            403, _error(rpc_id, INVALID_REQUEST, PROSE[refusal.code], refusal.code.value, decision, refusal=refusal), header
        )
    if refusal.code is Code.STEP_UP_REQUIRED:
        header = (("WWW-Authenticate", f"{challenge or 'Bearer'}{',' if '=' in challenge else ''} {stronger(refusal)}"),)
        body = _error(
            rpc_id, INVALID_REQUEST, PROSE[refusal.code], refusal.code.value, decision, refusal=refusal, data=refusal.data
        )
        return Answer(401, body, header)
    if refusal.code in _RPC:
        code, status = _RPC[refusal.code]
        code = getattr(refusal, "rpc_code", 0) or code
        if refusal.code is Code.TOO_LARGE and refusal.detail == "headers":
            status = 431
        status = getattr(refusal, "status", 0) or status or (MODERN_STATUS.get(code, 200) if modern else 200)
        text = getattr(refusal, "text", "") or PROSE[refusal.code]
        body = _error(rpc_id, code, text, refusal.code.value, decision, refusal=refusal, data=refusal.data)
        extra = (("Allow", "POST"),) if status == 405 else (("Retry-After", "1"),) if status == 503 else ()
        return Answer(status, body, extra)
    return _denied(refusal, rpc_id, decision, modern=modern, knows=knows)


def _denied(refusal: Refused, rpc_id: RpcId, decision: str, *, modern: bool, knows: bool) -> Answer:
    call = refusal.call
    hidden = refusal.code is Code.UNKNOWN_TARGET or (refusal.decision is not None and not refusal.decision.visible)
    if not knows or call is None:
        return Answer(404, _error(rpc_id, INVALID_PARAMS, "Unknown server", NOT_AVAILABLE, decision, refusal=refusal))
    if hidden:
        said = _unknown(call, modern=modern)
        if said is None:
            return Answer(404, _error(rpc_id, INVALID_PARAMS, "Unknown server", NOT_AVAILABLE, decision, refusal=refusal))
        code, message = said
        return Answer(_status(code, modern=modern), _error(rpc_id, code, message, NOT_AVAILABLE, decision, refusal=refusal))
    again = (("Retry-After", str(refusal.data["retry_after"])),) if "retry_after" in refusal.data else ()
    if refusal.code is Code.CONSENT_REQUIRED:
        return Answer(200, _consent(refusal, call, decision, modern=modern))
    if isinstance(refusal, ApprovalAsked) and (asked := _approval_asked(refusal, call, decision, modern=modern)):
        return Answer(200, asked)
    if call.method != CALL_TOOL:
        told = _told(refusal, decision)
        status, data = (429, {"retryAfter": refusal.data["retry_after"]}) if again else (200, _approval(refusal))
        return Answer(status, _error(rpc_id, POLICY, told, refusal.code.value, decision, refusal=refusal, data=data), again)
    return Answer(200, _denied_call(call, refusal, decision, modern=modern), again)


def _unknown(call: Call, *, modern: bool) -> tuple[int, str] | None:
    """JSON-RPC code and text of what is not there, or what the caller may not know of; None for a method that names nothing."""
    if call.method == CALL_TOOL:
        return INVALID_PARAMS, f"Unknown tool: {call.name}"
    if call.method == GET_PROMPT:
        return INVALID_PARAMS, f"Unknown prompt: {call.name}"
    if call.method in {READ_RESOURCE, SUBSCRIBE, UNSUBSCRIBE}:
        return no_resource(modern=modern)[0], NO_RESOURCE
    if call.method == COMPLETE:
        ref = call.message["params"]["ref"]
        return INVALID_PARAMS, f"Unknown prompt: {ref['name']}" if "name" in ref else NO_RESOURCE
    return None


def _status(code: int, *, modern: bool) -> int:
    return MODERN_STATUS.get(code, 200) if modern else 200


def _missing(refusal: Refused) -> Mapping[str, object]:
    """The steps that would have to come first, by their public names; the seconds until a limit lets another call through."""
    names = {META_MISSING: "missing", META_RETRY: "retry_after"}
    return {name: refusal.data[key] for name, key in names.items() if key in refusal.data}


def _approval(refusal: Refused) -> Mapping[str, object]:
    """Which approval a call waits for, or was denied, and until when."""
    return {META_APPROVAL: dict(refusal.data)} if refusal.code in _APPROVALS else NOTHING


def _told(refusal: Refused, decision: str) -> str:
    """A denial as a sentence that a model can act on: where a workflow's rule says no, with what would cure it."""
    code, cure = refusal.code.value, refusal.data.get("cure")
    if "retry_after" in refusal.data:
        return f"Denied by policy for now (code: {code}): try again in {refusal.data['retry_after']} seconds, not before."
    if cure is not None:
        return f"Denied by policy (code: {code}): {cure}. An administrator can look up decision {decision}."
    if refusal.code is Code.APPROVAL_REQUIRED and "approval" in refusal.data:
        return (
            f"A person must approve this call first (code: {code}). Ask again with the very same arguments once approval "
            f"{refusal.data['approval']} is given, until {refusal.data['expires']}; with other arguments it is another call. "
            f"Whoever may approve it can do so at {refusal.data['url']}"
        )
    return (
        f"Denied by policy (code: {code}). Do not retry with the same arguments; "
        f"an administrator can look up decision {decision}."
    )


def no_resource(*, modern: bool) -> tuple[int, int]:
    """JSON-RPC code and HTTP status of a resource that is not there, or that the caller may not know of."""
    return (INVALID_PARAMS, MODERN_STATUS[INVALID_PARAMS]) if modern else (RESOURCE_NOT_FOUND, 200)


def _denied_call(call: Call, refusal: Refused, decision: str, *, modern: bool) -> bytes:
    """A result, so that the model reads it instead of its client raising."""
    result: dict[str, Any] = {
        "content": [{"type": "text", "text": _told(refusal, decision)}],
        "isError": True,
        "_meta": {
            META_CODE: refusal.code.value,
            META_DECISION: decision,
            **_missing(refusal),
            **_approval(refusal),
            **of_refusal(refusal),
        },
    }
    if modern:
        result["resultType"] = "complete"
    return dumps({"jsonrpc": "2.0", "id": call.rpc_id, "result": result})


def _consent(refusal: Refused, call: Call, decision: str, *, modern: bool) -> bytes:
    """The link by which the person consents: as a URL elicitation where the client knows those, else as a text to read."""
    url, said = refusal.data["url"], refusal.data["message"]
    asked = {"mode": "url", "message": said, "url": url}
    meta = {META_CODE: refusal.code.value, META_DECISION: decision, **of_refusal(refusal)}
    result: dict[str, Any]
    if call.opens and modern and call.method == CALL_TOOL:  # 2026-07-28: there is no -32042, and no elicitationId
        requests = {CONSENT_KEY: {"method": "elicitation/create", "params": asked}}
        result = {"resultType": "input_required", "inputRequests": requests, "_meta": meta}
    elif call.opens and call.version == URL_SINCE:
        data = {"elicitations": [{**asked, "elicitationId": refusal.data["elicitation"]}]}
        return _error(call.rpc_id, URL_NEEDED, str(said), refusal.code.value, decision, refusal=refusal, data=data)
    elif call.method != CALL_TOOL:
        return _error(call.rpc_id, POLICY, f"{said} {url}", refusal.code.value, decision, refusal=refusal, data={"url": url})
    else:
        text = f"{said}\n{url}\nShow this link to the person you work for, and call again once they have consented."
        result = {"content": [{"type": "text", "text": text}], "isError": True, "_meta": meta}
        if modern:
            result["resultType"] = "complete"
    return dumps({"jsonrpc": "2.0", "id": call.rpc_id, "result": result})


def _approval_asked(refusal: ApprovalAsked, call: Call, decision: str, *, modern: bool) -> bytes | None:
    """The question for the approval as this client knows such; None where it knows none."""
    if modern and call.method in _INPUT:
        requests = {APPROVAL_KEY: {"method": "elicitation/create", "params": dict(refusal.form or refusal.page)}}
        meta = {META_CODE: refusal.code.value, META_DECISION: decision, **_approval(refusal), **of_refusal(refusal)}
        result: dict[str, Any] = {"resultType": "input_required", "inputRequests": requests, "_meta": meta}
        if refusal.state:
            result["requestState"] = refusal.state
        return dumps({"jsonrpc": "2.0", "id": call.rpc_id, "result": result})
    if not modern and call.version == URL_SINCE and call.opens:
        asked = {**refusal.page, "elicitationId": refusal.data["approval"]}
        data = {"elicitations": [asked], **_approval(refusal)}
        return _error(call.rpc_id, URL_NEEDED, str(asked["message"]), refusal.code.value, decision, refusal=refusal, data=data)
    return None


def failed(error: UpstreamError, decision: str, *, server: str, rpc_id: RpcId) -> Answer:
    """The answer where the upstream did not do its part; of `error` only the kind is told."""
    message = f"The server {server} did not give an answer that can be passed on"
    return Answer(200, _error(rpc_id, UPSTREAM, message, f"upstream-{error.kind}", decision))


def _error(
    rpc_id: RpcId,
    code: int,
    message: str,
    ours: str,
    decision: str,
    *,
    refusal: Refused | None = None,
    data: Mapping[str, object] = NOTHING,
) -> bytes:
    said = {**data, "code": ours, "decision": decision, **of_refusal(refusal)}
    return dumps({"jsonrpc": "2.0", "id": rpc_id, "error": {"code": code, "message": message, "data": said}})
