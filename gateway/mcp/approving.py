"""Asks clients for the approval that a call waits for: by the page on which people give it, or by a form where that is as good.

A client's word never approves for somebody else.  A form is put to nobody but a person in their own hands, who may approve their
own call: their yes is said as on every other way.  Everywhere else the client is only told where people can be sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
from msgspec.structs import replace

from gateway.approvals.saying import Over, is_person, may, said
from gateway.mcp.errors import APPROVAL_KEY, INVALID_PARAMS, URL_SINCE, ApprovalAsked, RpcRefused
from gateway.mcp.methods import CALL_TOOL, GET_PROMPT, MODERN, READ_RESOURCE
from gateway.mcp.questions import FORM, answered, declared
from gateway.mcp.sealed import LIFETIME, Purpose, Sealed, UnknownValueError
from gateway.mcp.strict import dumps
from gateway.model import Call, Permit, Principal, Refused
from gateway.reasons import Code

if TYPE_CHECKING:
    from gateway.approvals.approvals import Approvals
    from gateway.state.approvals import Parked

_INPUT: Final = frozenset({CALL_TOOL, GET_PROMPT, READ_RESOURCE})
_ASKED: Final = ("requestState", "inputResponses")
_OF_A_TRY: Final = frozenset({*_ASKED, "_meta"})
_LONGEST: Final = 256 * 1024
_SHOWN: Final = 2000
"""Characters of a call's arguments on a form: a longer one is approved on the page, where it is shown whole."""


@dataclass(frozen=True, slots=True)
class Came:
    """A call that comes back, or that carries values of its server's.

    values    `requestState` and `inputResponses` that are the server's own, as the client brought them.
    approval  that this is the answer about, "" for none; `digest` of what was asked about, and by which `mode`.
    did       what the person did with the question, "" where nothing was said; `yes` what they wrote in the form.
    """

    values: Mapping[str, Any]
    approval: str = ""
    digest: str = ""
    mode: str = ""
    did: str = ""
    yes: object = None


def returned(call: Call, principal: Principal, sealed: Sealed) -> Call:
    """The call as it was when its approval was asked for, with what the client says to that in `kept`.

    `RpcRefused(INVALID_PARAMS)` for the state of another call, or of another caller: arguments do not drift on the way.
    """
    params = call.message["params"]
    if call.method not in _INPUT or not any(name in params for name in _ASKED):
        return call
    values = {name: params[name] for name in _ASKED if name in params}
    try:
        state = sealed.open(Purpose.APPROVAL, values.get("requestState"), server=call.target, principal=principal)
    except UnknownValueError:
        return replace(call, kept=Came(values))
    approval, digest, mode, about, before = state
    if about != _about(call):
        raise _bad(call, "requestState: of another call")
    answers = values.get("inputResponses", {})
    answer = answers.get(APPROVAL_KEY) if isinstance(answers, dict) else None
    did, yes = "", None
    if answer is not None:
        try:
            did = answered(FORM, answer)
        except ValueError as error:
            raise _bad(call, f"inputResponses: {error}") from None
        yes = (answer.get("content") or {}).get("approve")
        if did == "accept" and mode == "form" and not isinstance(yes, bool):
            raise _bad(call, "inputResponses: neither yes nor no")
    bare = {name: value for name, value in params.items() if name not in _ASKED}
    message = {**call.message, "params": {**bare, **before}}
    # what is sent is what duties look at, and what the record says was asked for
    arrival = replace(call.arrival, body=dumps(message)) if before else call.arrival
    return replace(call, arrival=arrival, message=message, kept=Came(before, approval, digest, mode, did, yes))


class Approving:
    """Goes with a call to its approval, and asks its client where it waits."""

    def __init__(self, approvals: Approvals, sealed: Sealed) -> None:
        self._approvals = approvals
        self._sealed = sealed

    async def granted(self, permit: Permit, asked: Call) -> Permit:
        """As `Approvals.granted`, of a call that came as `asked`; `ApprovalAsked` where its client can be asked."""
        approval = permit.approval
        if approval is None or not approval.asks or not _can_be_asked(asked):
            return await self._approvals.granted(permit)
        came = asked.kept if isinstance(asked.kept, Came) else Came({})
        held = came.did == "accept" and came.mode == "url"
        waiting = permit if held else replace(permit, approval=replace(approval, wait=0))  # whoever can be asked is asked at once
        try:
            return await self._approvals.granted(waiting)
        except Refused as refusal:
            if refusal.code is not Code.APPROVAL_REQUIRED or "approval" not in refusal.data:
                raise
            first = refusal
        if came.mode == "form" and came.did == "accept" and came.approval == first.data["approval"]:
            await self._said(came, permit.principal)
            return await self._approvals.granted(waiting)
        if came.did in {"decline", "cancel"}:
            raise first
        row = await self._approvals.rows.get(str(first.data["approval"]))
        form = None if row is None else await self._form(row, permit, asked)
        if row is None or (form is None and not asked.opens):
            raise first
        message = f"A person must approve {row.resource} first, until {first.data['expires']}."
        page = {"mode": "url", "message": message, "url": first.data["url"]}
        raise ApprovalAsked(first, page, form, self._state(row, permit, asked, "url" if form is None else "form", came))

    async def _said(self, came: Came, principal: Principal) -> None:
        """The person's own word, as if they had said it to the API; `Refused` where it counts for nothing."""
        row = await self._approvals.rows.get(came.approval)
        if row is None:
            return
        try:
            await said(self._approvals, row, principal, came.digest if came.yes is True else None, proto="mcp")
        except Over as over:
            raise Refused(Code.APPROVAL_REQUIRED, over.why) from None

    async def _form(self, row: Parked, permit: Permit, asked: Call) -> dict[str, object] | None:
        """A form for the person themselves; None for whoever else is at the client, and where one yes is not all it takes."""
        principal, approval = permit.principal, permit.approval
        if approval is None or approval.not_same_user or not is_person(principal):
            return None
        if asked.version not in MODERN or FORM not in declared(asked.declares):
            return None
        standing, shown = await self._approvals.standing(row), _text(permit.call)
        missing = frozenset(standing.missing)
        if not shown or not missing or not missing <= may(self._approvals, principal, standing)[1]:
            return None
        return _form(permit, shown)

    def _state(self, row: Parked, permit: Permit, asked: Call, mode: str, came: Came) -> str:
        """What brings the client back to this very call; "" in the era of handshakes, and where it would be too long."""
        if asked.version not in MODERN or len(dumps(dict(came.values))) > _LONGEST:
            return ""
        lifetime = min((row.expires_at - self._approvals.clock()) / 1e6, LIFETIME[Purpose.APPROVAL])
        inner = [row.id, row.digest, mode, _about(asked), dict(came.values)]
        return self._sealed.seal(
            Purpose.APPROVAL, inner, server=asked.target, principal=permit.principal, lifetime=max(lifetime, 1)
        )


def _can_be_asked(call: Call) -> bool:
    if call.version in MODERN:
        return call.method in _INPUT and (call.opens or FORM in declared(call.declares))
    return call.opens and call.version == URL_SINCE


def _about(call: Call) -> str:
    """What a state is good for: this method, with these very arguments; whose it is and at which server is sealed besides."""
    params = {name: value for name, value in call.message["params"].items() if name not in _OF_A_TRY}
    return hashlib.sha256(orjson.dumps([call.method, params], option=orjson.OPT_SORT_KEYS)).hexdigest()


def _text(call: Call) -> str:
    """The arguments as they are sent, every letter of them visible; "" where a form has no room for them."""
    params = call.message["params"]
    text = json.dumps(params.get("arguments", params.get("uri", {})), ensure_ascii=True, sort_keys=True)
    return text if len(text) <= _SHOWN else ""


def _form(permit: Permit, shown: str) -> dict[str, object]:
    call = permit.call
    message = f"Approve this call of {permit.request.resource}? It is made once, just so: {call.method} {call.name or ''} {shown}"
    schema = {
        "type": "object",
        "properties": {"approve": {"type": "boolean", "title": "Approve this call", "default": False}},
        "required": ["approve"],
    }
    return {"mode": "form", "message": message, "requestedSchema": schema}


def _bad(call: Call, what: str) -> RpcRefused:
    return RpcRefused(Code.INVALID_PARAMS, what, rpc_code=INVALID_PARAMS, rpc_id=call.rpc_id)
