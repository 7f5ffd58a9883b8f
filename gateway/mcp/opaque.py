"""Upstreams' opaque values on their way through: sealed for the client, opened for the upstream, and never seen by the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from gateway.mcp.errors import APPROVAL_KEY, CONSENT_KEY, INVALID_PARAMS, RpcRefused
from gateway.mcp.questions import METHOD_OF, answered, guessed
from gateway.mcp.sealed import Purpose, Sealed, UnknownValueError
from gateway.model import Call, Permit, Principal, UpstreamError
from gateway.reasons import Code

LONGEST_CURSOR: Final = 8192
LONGEST_STATE: Final = 256 * 1024
MOST_ANSWERS: Final = 64


def with_opened(call: Call, principal: Principal, sealed: Sealed, *, unasked: bool = True) -> Call:
    """The call as its upstream may read it; `RpcRefused(INVALID_PARAMS)` for a value that is not this caller's, here and now.

    `unasked`: whether answers go on to questions that nobody here knows to have been asked.
    """
    params = call.message["params"]
    if "cursor" in params:
        cursor = _opened(call, params["cursor"], principal, sealed, Purpose.CURSOR, call.method)
        return _with(call, {**params, "cursor": cursor})
    if "requestState" in params or "inputResponses" in params:
        return _answering(call, params, principal, sealed, unasked=unasked)
    return call


def answering(call: Call, principal: Principal, sealed: Sealed) -> Call:
    """A client's response, to the question that it was put; one that answers none that it was put is nobody's answer."""
    try:
        rpc_id, needs, record = sealed.open(
            Purpose.QUESTION, call.message["id"], server=call.target, principal=principal, bound=call.session or ""
        )
        did = answered(needs, call.message["result"]) if "result" in call.message else ""
    except UnknownValueError as error:
        raise _bad(call, f"question: {error}", status=400) from None
    except ValueError as error:
        raise _bad(call, f"answer: {error}", status=400) from None
    said = {key: value for key, value in call.message.items() if key in {"jsonrpc", "result", "error"}}
    return replace(call, method=METHOD_OF[needs], message={**said, "id": rpc_id}, said=((record, needs, did),), about=(record,))


def with_sealed(result: dict[str, Any], permit: Permit, sealed: Sealed) -> dict[str, Any]:
    """The result as this caller may keep it."""
    cursor = result.get("nextCursor") if permit.call.method.endswith("/list") else None
    if cursor is None:
        return result
    if not isinstance(cursor, str) or len(cursor) > LONGEST_CURSOR:
        raise UpstreamError("protocol", "cursor")
    call = permit.call
    text = sealed.seal(Purpose.CURSOR, cursor, server=call.target, principal=permit.principal, bound=call.method)
    return {**result, "nextCursor": text}


def state(inner: object, put: Mapping[str, tuple[str, str]], permit: Permit, sealed: Sealed) -> str:
    """A `requestState` that remembers what was asked: by key, of which kind, and the id of the record."""
    if not (inner is None or (isinstance(inner, str) and len(inner) <= LONGEST_STATE)):
        raise UpstreamError("protocol", "requestState")
    said = [inner, {key: list(each) for key, each in put.items()}]
    call = permit.call
    return sealed.seal(Purpose.STATE, said, server=call.target, principal=permit.principal, bound=_named(call))


def _answering(call: Call, params: Mapping[str, Any], principal: Principal, sealed: Sealed, *, unasked: bool) -> Call:
    """A call that comes again with answers: bound to the same method and name, and what nobody asked about is told apart."""
    sent = {key: value for key, value in params.items() if key not in {"requestState", "inputResponses"}}
    put: dict[str, list[str]] | None = None
    if "requestState" in params:
        inner, put = _opened(call, params["requestState"], principal, sealed, Purpose.STATE, _named(call))
        if inner is not None:
            sent["requestState"] = inner
    if "inputResponses" not in params:
        return _with(call, sent)
    answers = params["inputResponses"]
    if not isinstance(answers, dict) or len(answers) > MOST_ANSWERS:
        raise _bad(call, "inputResponses")
    kept: dict[str, Any] = {}
    said: list[tuple[str, str, str]] = []
    for key, answer in answers.items():
        if key in {CONSENT_KEY, APPROVAL_KEY} and (put is None or key not in put):
            continue  # what the gateway itself asked: what came of it is known here by now, or it will ask again
        needs, record = put.get(key, ("", "")) if put is not None else (guessed(answer), "")
        if not needs or (put is None and not unasked):
            continue  # not asked: to the server it would be an answer all the same
        try:
            did = answered(needs, answer)
        except ValueError as error:
            raise _bad(call, f"inputResponses: {error}") from None
        kept[key] = answer
        said.append((record, needs, did))
    if kept:
        sent["inputResponses"] = kept
    about = tuple(dict.fromkeys(record for record, _, _ in said if record))
    return replace(_with(call, sent), said=tuple(said), about=about)


def _opened(call: Call, text: object, principal: Principal, sealed: Sealed, purpose: Purpose, bound: str) -> Any:  # noqa: PLR0917
    try:
        return sealed.open(purpose, text, server=call.target, principal=principal, bound=bound)
    except UnknownValueError as error:
        raise _bad(call, f"{purpose.value}: {error}") from None


def _named(call: Call) -> str:
    """What a state is good for: the same method of the same tool, prompt or resource."""
    return f"{call.method}\0{call.name or ''}"


def _with(call: Call, params: dict[str, Any]) -> Call:
    return replace(call, message={**call.message, "params": params})


def _bad(call: Call, what: str, status: int = 0) -> RpcRefused:
    return RpcRefused(Code.INVALID_PARAMS, what, rpc_code=INVALID_PARAMS, rpc_id=call.rpc_id, status=status)
