"""What a refusal and a failure look like in A2A's bindings: a stable code and the decision id, never a detail.

What a caller may not know of is answered exactly as the unknown: a hidden agent as no agent, somebody's task as no task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from gateway.model import Refused, UpstreamError
from gateway.reasons import Code
from gateway.receipts import text_of
from gateway.wanting import stronger
from policies.model import NOTHING

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL: Final = -32603
REFUSED: Final = -32000  # outside A2A's own -32001 … -32099
TASK_NOT_FOUND: Final = -32001
PUSH_NOT_SUPPORTED: Final = -32003
TASK_NOT_CANCELABLE: Final = -32002
UNSUPPORTED_OPERATION: Final = -32004
CONTENT_TYPE_NOT_SUPPORTED: Final = -32005
INVALID_AGENT_RESPONSE: Final = -32006
EXTENDED_CARD_NOT_CONFIGURED: Final = -32007
EXTENSION_REQUIRED: Final = -32008
VERSION_NOT_SUPPORTED: Final = -32009

SUPPORTED_VERSIONS: Final = ("1.0",)
ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"
RETRY_INFO: Final = "type.googleapis.com/google.rpc.RetryInfo"
A2A_DOMAIN: Final = "a2a-protocol.org"
OUR_DOMAIN: Final = "bailiwick"

RpcId = str | int | None
Form = Literal["rpc", "old", "plain", "rest"]
"""`rpc`: an answer to JSON-RPC; `old`: the same in 0.3; `plain`: with HTTP's own status, to a GET; `rest`: HTTP+JSON (A2A 1.0
§11.6)."""


class RpcRefused(Refused):
    """A refusal that knows more about its JSON-RPC answer than its code says.

    rpc_code  of the error, where the code alone leaves a choice; 0 leaves it to the code.
    rpc_id    of the request, where it could be read before the call stood.
    status    HTTP status, where it is not the code's.
    allow     the HTTP methods that the resource has; of a refusal that says so (405).
    """

    def __init__(
        self, code: Code, detail: str = "", *, rpc_code: int = 0, rpc_id: RpcId = None, status: int = 0, allow: str = ""
    ) -> None:
        super().__init__(code, detail)
        self.rpc_code = rpc_code
        self.rpc_id = rpc_id
        self.status = status
        self.allow = allow


def unsupported(served: Sequence[str], rpc_id: RpcId) -> RpcRefused:
    """The agent is served in other versions of the protocol."""
    refusal = RpcRefused(Code.UNSUPPORTED_VERSION, rpc_id=rpc_id)
    refusal.data = {"supported": tuple(served)}
    return refusal


@dataclass(frozen=True, slots=True)
class Answer:
    """An error, ready to be sent: HTTP status, JSON-RPC body, further headers."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Row:
    """status: of a JSON-RPC answer; plain: of an HTTP+JSON one; domain: who says so."""

    rpc: int
    message: str
    reason: str
    status: int = 200
    plain: int = 400
    domain: str = A2A_DOMAIN


_DENIED = _Row(REFUSED, "Denied by policy. Do not retry.", "POLICY_DENIED", plain=403, domain=OUR_DOMAIN)
_HIDDEN = _Row(REFUSED, "There is no such agent.", "UNKNOWN_AGENT", status=404, plain=404, domain=OUR_DOMAIN)
_UNAVAILABLE = _Row(
    INTERNAL, "The gateway cannot take this call now; try again later.", "UNAVAILABLE", 503, 503, domain=OUR_DOMAIN
)
_SCOPE = _Row(REFUSED, "The token lacks a scope.", "INSUFFICIENT_SCOPE", 403, 403, domain=OUR_DOMAIN)
_CREDENTIAL = _Row(REFUSED, "Authentication is required.", "UNAUTHENTICATED", 401, 401, domain=OUR_DOMAIN)
_STEP_UP = _Row(
    REFUSED, "The person has to authenticate more strongly, or anew.", "STEP_UP_REQUIRED", 401, 401, domain=OUR_DOMAIN
)
_LIMIT = _Row(REFUSED, "Denied by policy: the limit for this is reached.", "LIMIT_REACHED", 429, 429, domain=OUR_DOMAIN)
_CONSENT = _Row(
    REFUSED,
    "The person has to consent first: show them the URL, then try again.",
    "CONSENT_REQUIRED",
    plain=403,
    domain=OUR_DOMAIN,
)
_APPROVAL = _Row(
    REFUSED,
    "A person must approve this message first: send the very same again once they have.",
    "APPROVAL_REQUIRED",
    plain=403,
    domain=OUR_DOMAIN,
)
_BY_RPC_CODE: Final[Mapping[int, _Row]] = {
    PARSE_ERROR: _Row(PARSE_ERROR, "Invalid JSON payload", "JSON_PARSE_ERROR"),
    INVALID_REQUEST: _Row(INVALID_REQUEST, "Invalid Request", "INVALID_REQUEST"),
    METHOD_NOT_FOUND: _Row(METHOD_NOT_FOUND, "Method not found", "METHOD_NOT_FOUND", plain=404),
    INVALID_PARAMS: _Row(INVALID_PARAMS, "Invalid params", "INVALID_PARAMS"),
    TASK_NOT_FOUND: _Row(TASK_NOT_FOUND, "Task not found", "TASK_NOT_FOUND", plain=404),
    EXTENDED_CARD_NOT_CONFIGURED: _Row(
        EXTENDED_CARD_NOT_CONFIGURED, "Authenticated Extended Card is not configured", "EXTENDED_AGENT_CARD_NOT_CONFIGURED"
    ),
    PUSH_NOT_SUPPORTED: _Row(PUSH_NOT_SUPPORTED, "Push Notification is not supported", "PUSH_NOTIFICATION_NOT_SUPPORTED"),
    TASK_NOT_CANCELABLE: _Row(TASK_NOT_CANCELABLE, "Task cannot be canceled", "TASK_NOT_CANCELABLE"),
    UNSUPPORTED_OPERATION: _Row(UNSUPPORTED_OPERATION, "This operation is not supported", "UNSUPPORTED_OPERATION"),
    EXTENSION_REQUIRED: _Row(EXTENSION_REQUIRED, "Extension support required", "EXTENSION_SUPPORT_REQUIRED"),
    VERSION_NOT_SUPPORTED: _Row(VERSION_NOT_SUPPORTED, "Version not supported", "VERSION_NOT_SUPPORTED"),
}
_BY_CODE: Final[Mapping[Code, _Row]] = {
    Code.NO_CREDENTIAL: _CREDENTIAL,
    Code.INVALID_CREDENTIAL: _CREDENTIAL,
    Code.REVOKED: _CREDENTIAL,
    Code.SCOPE_REQUIRED: _SCOPE,
    Code.MALFORMED: _BY_RPC_CODE[INVALID_REQUEST],
    Code.TOO_LARGE: _Row(INVALID_REQUEST, "The request is too large.", "TOO_LARGE", 413, 413, OUR_DOMAIN),
    Code.HEADER_MISMATCH: _BY_RPC_CODE[INVALID_REQUEST],
    Code.UNSUPPORTED_VERSION: _BY_RPC_CODE[VERSION_NOT_SUPPORTED],
    Code.UNKNOWN_METHOD: _BY_RPC_CODE[METHOD_NOT_FOUND],
    Code.UNKNOWN_TARGET: _HIDDEN,
    Code.INVALID_PARAMS: _BY_RPC_CODE[INVALID_PARAMS],
    Code.BAD_ORIGIN: _Row(INVALID_REQUEST, "This origin is not allowed.", "BAD_ORIGIN", 403, 403, OUR_DOMAIN),
    Code.NOT_OWNER: _BY_RPC_CODE[TASK_NOT_FOUND],
    Code.CONSENT_REQUIRED: _CONSENT,
    Code.STEP_UP_REQUIRED: _STEP_UP,
    Code.LIMIT_REACHED: _LIMIT,
    Code.APPROVAL_REQUIRED: _APPROVAL,
    Code.APPROVAL_DENIED: _Row(
        REFUSED, "A person said no to this message.  Do not retry.", "APPROVAL_DENIED", plain=403, domain=OUR_DOMAIN
    ),
    Code.CARD_UNVERIFIED: _Row(
        REFUSED, "The agent's card does not verify; no call is made to it.", "CARD_UNVERIFIED", plain=502, domain=OUR_DOMAIN
    ),
    Code.LEDGER_UNAVAILABLE: _UNAVAILABLE,
    Code.OVERLOADED: _UNAVAILABLE,
    Code.INTERNAL_ERROR: _Row(INTERNAL, "Internal error", "INTERNAL_ERROR", plain=500, domain=OUR_DOMAIN),
}
_TOLD: Final[Mapping[str, Mapping[str, str]]] = {
    "CONSENT_REQUIRED": {"url": "url"},
    "STEP_UP_REQUIRED": {"acrValues": "acr_values", "maxAge": "max_age"},
    "APPROVAL_REQUIRED": {"approval": "approval", "expires": "expires", "url": "url"},
    "APPROVAL_DENIED": {"approval": "approval"},
}
"""By reason: what of a refusal's data is told, and under which name."""
_REST: Final[Mapping[int, tuple[int, str]]] = {  # A2A 1.0 §5.4
    PARSE_ERROR: (400, "INVALID_ARGUMENT"),
    INVALID_REQUEST: (400, "INVALID_ARGUMENT"),
    METHOD_NOT_FOUND: (404, "NOT_FOUND"),
    INVALID_PARAMS: (400, "INVALID_ARGUMENT"),
    INTERNAL: (500, ""),
    TASK_NOT_FOUND: (404, "NOT_FOUND"),
    TASK_NOT_CANCELABLE: (400, "FAILED_PRECONDITION"),
    PUSH_NOT_SUPPORTED: (400, "FAILED_PRECONDITION"),
    UNSUPPORTED_OPERATION: (400, "FAILED_PRECONDITION"),
    CONTENT_TYPE_NOT_SUPPORTED: (400, "INVALID_ARGUMENT"),
    INVALID_AGENT_RESPONSE: (500, "INTERNAL"),
    EXTENDED_CARD_NOT_CONFIGURED: (400, "FAILED_PRECONDITION"),
    EXTENSION_REQUIRED: (400, "FAILED_PRECONDITION"),
    VERSION_NOT_SUPPORTED: (400, "FAILED_PRECONDITION"),
}
_STATUS_NAMES: Final[Mapping[int, str]] = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 405: "UNIMPLEMENTED",
    413: "INVALID_ARGUMENT", 415: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 502: "UNAVAILABLE",
    503: "UNAVAILABLE",
}  # fmt: skip
_UNREACHABLE = _Row(INTERNAL, "The agent cannot be reached.", "AGENT_UNAVAILABLE", plain=502, domain=OUR_DOMAIN)
_BAD_ANSWER = _Row(INVALID_AGENT_RESPONSE, "Invalid agent response", "INVALID_AGENT_RESPONSE", plain=500)
_RPC: Final = frozenset({"rpc", "old"})
_OLD_CODES: Final = range(EXTENDED_CARD_NOT_CONFIGURED, TASK_NOT_FOUND + 1)
_UNREACHABLE_KINDS = frozenset({"connect", "timeout", "closed"})


def refused(refusal: Refused, decision: str, *, rpc_id: RpcId = None, form: Form = "rpc") -> Answer:
    """The answer to a refused call."""
    row = _row(refusal)
    if isinstance(refusal, RpcRefused):
        rpc_id = refusal.rpc_id if refusal.rpc_id is not None else rpc_id
    status = (isinstance(refusal, RpcRefused) and refusal.status) or (row.status if form in _RPC else row.plain)
    headers: tuple[tuple[str, str], ...] = ()
    if row is _CREDENTIAL:
        error = ', error="invalid_token"' if refusal.code is not Code.NO_CREDENTIAL else ""
        headers = refusal.challenge or (("WWW-Authenticate", f'Bearer realm="bailiwick"{error}'),)
    elif row is _SCOPE:
        headers = (("WWW-Authenticate", f'Bearer error="insufficient_scope", scope="{refusal.data.get("scope", "")}"'),)
    elif row is _STEP_UP:
        headers = (("WWW-Authenticate", f"Bearer {stronger(refusal)}"),)
    elif "retry_after" in refusal.data:
        headers = (("Retry-After", str(refusal.data["retry_after"])),)
    elif row is _UNAVAILABLE:
        headers = (("Retry-After", "1"),)
    elif isinstance(refusal, RpcRefused) and refusal.allow:
        headers = (("Allow", refusal.allow),)
    told = row_error(row, refusal, decision)
    if form == "rest":
        return Answer(status, rest_body(told, status), headers)
    return Answer(status, body(as_old(told) if form == "old" else told, rpc_id), headers)


def failed(error: UpstreamError, decision: str, *, rpc_id: RpcId = None, form: Form = "rpc") -> Answer:
    """The answer where the agent could not be reached (-32603) or did not answer as A2A demands (-32006)."""
    row = _UNREACHABLE if error.kind in _UNREACHABLE_KINDS else _BAD_ANSWER
    told = _error(row, {"decisionId": decision})
    if form == "rest":
        return Answer(row.plain, rest_body(told, row.plain))
    return Answer(row.status if form in _RPC else row.plain, body(as_old(told) if form == "old" else told, rpc_id))


def body(error: Mapping[str, Any], rpc_id: RpcId) -> bytes:
    """A JSON-RPC error response; `rpc_id` None where the request's id could not be read."""
    return orjson.dumps({"jsonrpc": "2.0", "id": rpc_id, "error": error})


def as_old(error: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same error in 0.3, whose own errors say nothing beside."""
    return {name: said for name, said in error.items() if name != "data"} if error["code"] in _OLD_CODES else error


def rest_body(error: Mapping[str, Any], status: int) -> bytes:
    """The same error in HTTP+JSON: google.rpc.Status under `error` (A2A 1.0 §11.6)."""
    said = {"code": status, "status": _STATUS_NAMES.get(status, "UNKNOWN"), "message": error["message"]}
    if _rest_of(error["code"])[1]:
        said["status"] = _rest_of(error["code"])[1]
    return orjson.dumps({"error": said | ({"details": error["data"]} if "data" in error else {})})


def rest_status(error: Mapping[str, Any]) -> int:
    """HTTP status of an error that an agent said by its JSON-RPC code."""
    return _rest_of(error["code"])[0]


def _rest_of(code: int) -> tuple[int, str]:
    return _REST.get(code, (500, "") if code != REFUSED else (403, ""))


def row_error(row: _Row, refusal: Refused, decision: str) -> Mapping[str, Any]:
    """The error member.  Of the A2A errors none but the gateway's own say a decision id, so that none gives its origin away."""
    if row.domain == A2A_DOMAIN:
        if row.rpc != VERSION_NOT_SUPPORTED:
            return _error(row, NOTHING)
        served = refusal.data.get("supported")
        return _error(row, {"supportedVersions": ", ".join(served if isinstance(served, tuple) else SUPPORTED_VERSIONS)})
    code = "not-available" if row is _HIDDEN else refusal.code.value
    cure = refusal.data.get("cure") if row is _DENIED else None
    if cure is not None:  # what a workflow's rule says no to, and what would cure it
        missing = {"missing": refusal.data["missing"]} if "missing" in refusal.data else NOTHING
        return _error(row, {"code": code, "decisionId": decision, **missing, **text_of(refusal)}, f"Denied by policy: {cure}.")
    more = {name: str(refusal.data[key]) for name, key in _TOLD.get(row.reason, {}).items() if key in refusal.data}
    told = _error(row, {"code": code, "decisionId": decision, **more, **text_of(refusal)})
    if "retry_after" not in refusal.data:
        return told
    retry = {"@type": RETRY_INFO, "retryDelay": f"{refusal.data['retry_after']}s"}
    message = f"Denied by policy for now: try again in {refusal.data['retry_after']} seconds, not before."
    return {**told, "message": message, "data": [*told["data"], retry]}


def task_not_found() -> Mapping[str, Any]:
    """The one form of -32001, whoever says it: the gateway of somebody else's task, or the agent of one it forgot."""
    return _error(_BY_RPC_CODE[TASK_NOT_FOUND], NOTHING)


def not_cancelable() -> Mapping[str, Any]:
    """-32002, of a task that is over."""
    return _error(_BY_RPC_CODE[TASK_NOT_CANCELABLE], NOTHING)


def _row(refusal: Refused) -> _Row:
    if refusal.decision is not None and not refusal.decision.allowed and not refusal.decision.visible:
        return _HIDDEN
    rpc_code = refusal.rpc_code if isinstance(refusal, RpcRefused) else 0
    return _BY_RPC_CODE.get(rpc_code) or _BY_CODE.get(refusal.code, _DENIED)


def _error(row: _Row, metadata: Mapping[str, object], message: str = "") -> Mapping[str, Any]:
    info = {"@type": ERROR_INFO, "reason": row.reason, "domain": row.domain, "metadata": dict(metadata)}
    return {"code": row.rpc, "message": message or row.message, "data": [info]}
