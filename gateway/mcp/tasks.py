"""Calls that became tasks (the `tasks` extension): owned by whoever called, governed as the call was, for as long as they last.

A task's id travels sealed with its tool and what is blanked in its results; the gateway keeps nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from gateway.mcp.errors import INVALID_PARAMS, LACKS_CAPABILITY, RpcRefused
from gateway.mcp.methods import TASKS, UPDATE_TASK
from gateway.mcp.questions import FOLDERS, FORM, LATER, SAMPLING, URL, answered
from gateway.mcp.sealed import Purpose, Sealed, UnknownValueError
from gateway.model import Call, Permit, Principal, UpstreamError
from gateway.reasons import Code

LONGEST: Final = 1024
MOST_ANSWERS: Final = 64
_KINDS: Final = (FORM, URL, SAMPLING, FOLDERS)


class Task(msgspec.Struct, frozen=True, gc=False):
    """A task as its owner's client says it: the upstream's id, the id that the client has for it, and the tool.

    workflow  id of the one in which it was begun; "" where that is not said.
    """

    id: str
    sealed: str
    tool: str
    withhold: frozenset[str] = frozenset()
    workflow: str = ""


def opened(text: object, server: str, principal: Principal, sealed: Sealed) -> Task:
    """`UnknownValueError` for anybody else's, or one of another server."""
    inner, tool, withhold, *more = sealed.open(Purpose.TASK, text, server=server, principal=principal)
    return Task(inner, str(text), tool, frozenset(withhold), str(more[0]) if more else "")


def with_task(call: Call, principal: Principal, sealed: Sealed) -> Call:
    """A request about a task, as its upstream may read it; somebody else's is answered as one that never was."""
    params = call.message["params"]
    if LATER not in call.declared:
        data: dict[str, object] = {"requiredCapabilities": {"extensions": {TASKS: {}}}}
        raise RpcRefused(Code.INVALID_PARAMS, "not declared", rpc_code=LACKS_CAPABILITY, rpc_id=call.rpc_id, data=data)
    try:
        task = opened(params.get("taskId"), call.target, principal, sealed)
    except UnknownValueError as error:
        raise RpcRefused(Code.INVALID_PARAMS, f"taskId: {error}", rpc_code=INVALID_PARAMS, rpc_id=call.rpc_id) from None
    sent = {**params, "taskId": task.id}
    said: tuple[tuple[str, str, str], ...] = ()
    if call.method == UPDATE_TASK:
        sent["inputResponses"], said = _answers(call, task, principal, sealed)
    message = {**call.message, "params": sent}
    return replace(call, message=message, name=task.id, said=said, withhold=task.withhold, kept=task)


def _answers(
    call: Call, task: Task, principal: Principal, sealed: Sealed
) -> tuple[dict[str, Any], tuple[tuple[str, str, str], ...]]:
    """Answers to what this task asked this principal, under the server's own keys; others are nobody's answers."""
    answers = call.message["params"].get("inputResponses")
    if not isinstance(answers, dict) or len(answers) > MOST_ANSWERS:
        raise RpcRefused(Code.INVALID_PARAMS, "inputResponses", rpc_code=INVALID_PARAMS, rpc_id=call.rpc_id)
    kept: dict[str, Any] = {}
    said = []
    for text, answer in answers.items():
        key, _, mark = text.rpartition(".")
        needs = next(
            (kind for kind in _KINDS if sealed.marked(mark, Purpose.QUESTION, task.id, key, kind, principal=principal)), ""
        )
        if not needs:
            continue
        try:
            did = answered(needs, answer)
        except ValueError as error:
            raise RpcRefused(Code.INVALID_PARAMS, f"answer: {error}", rpc_code=INVALID_PARAMS, rpc_id=call.rpc_id) from None
        kept[key] = answer
        said.append(("", needs, did))
    return kept, tuple(said)


def key_of(task: Task, key: str, needs: str, principal: Principal, sealed: Sealed) -> str:
    """The key under which a task's question reaches the client: the same at every look, and proof that it was asked."""
    return f"{key}.{sealed.mark(Purpose.QUESTION, task.id, key, needs, principal=principal)}"


def made(result: dict[str, Any], permit: Permit, sealed: Sealed) -> dict[str, Any]:
    """The result that makes a task of a call, as its owner may keep it."""
    task = result.get("taskId")
    if not isinstance(task, str) or not 0 < len(task) <= LONGEST or not task.isascii() or not task.isprintable():
        raise UpstreamError("protocol", "taskId")
    call = permit.call
    inner = [task, call.name or "", sorted(permit.redact), permit.principal.workflow]
    return {**result, "taskId": sealed.seal(Purpose.TASK, inner, server=call.target, principal=permit.principal)}


def blanked(result: dict[str, Any], permit: Permit, redact: Callable[[Any, frozenset[str]], Any]) -> dict[str, Any]:
    """What a task says of itself, or a result that is not the last word, without what a duty takes from the tool's result."""
    if not permit.redact:
        return result
    told = {key: value for key, value in result.items() if key != "statusMessage"}
    if isinstance(result.get("result"), dict):
        told["result"] = redact(result["result"], permit.redact)
    if isinstance(result.get("error"), dict):
        told["error"] = {"code": result["error"].get("code"), "message": "[withheld by policy]"}
    return told
