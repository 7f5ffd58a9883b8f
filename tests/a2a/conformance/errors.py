"""Errors (A2A 1.0 §3.3.2, §5.4, §9.5, §11.6): one meaning over every binding, in the binding's own envelope."""

from __future__ import annotations

import json
from typing import Any

from tests.a2a.conformance.verdicts import check, each
from tests.a2a.conformance.wires import Answer, Rest, Wire

ALL = ("full", "minimal", "auth")
CODES = {
    "TASK_NOT_FOUND": (-32001, 404, "NOT_FOUND"),
    "TASK_NOT_CANCELABLE": (-32002, 400, "FAILED_PRECONDITION"),
    "PUSH_NOTIFICATION_NOT_SUPPORTED": (-32003, 400, "FAILED_PRECONDITION"),
    "UNSUPPORTED_OPERATION": (-32004, 400, "FAILED_PRECONDITION"),
    "VERSION_NOT_SUPPORTED": (-32009, 400, "FAILED_PRECONDITION"),
}
UNKNOWN: dict[str, dict[str, Any]] = {
    "GetTask": {"id": "never-was"},
    "CancelTask": {"id": "never-was"},
    "CreateTaskPushNotificationConfig": {"taskId": "never-was", "id": "x", "url": "https://example.com/"},
    "GetTaskPushNotificationConfig": {"taskId": "never-was", "id": "x"},
    "ListTaskPushNotificationConfigs": {"taskId": "never-was"},
    "DeleteTaskPushNotificationConfig": {"taskId": "never-was", "id": "x"},
    "SendMessage": {},
}
VERSIONS: dict[str, str | None] = {
    "nobody's": "9.9", "no number": "one", "two": "1.0, 0.3", "one to come": "2.0", "with a patch": "1.0.1", "none": None
}  # fmt: skip


def said(wire: Wire, answer: Answer, reason: str) -> None:
    """The error of this reason as the binding says it."""
    rpc, status, name = CODES[reason]
    assert answer.error is not None, answer.whole
    assert answer.reason == reason, answer.whole
    assert answer.info["domain"] == "a2a-protocol.org"
    assert answer.error["message"]
    if wire.binding == "JSONRPC":
        assert (answer.status, answer.error["code"]) == (200, rpc)
        assert answer.whole["id"] == 1
    elif wire.binding == "GRPC":
        assert answer.error["code"] == name
    else:
        assert (answer.status, answer.error["code"], answer.error["status"]) == (status, status, name)
        assert answer.whole.keys() == {"error"}
        assert answer.kind == "application/json"


@each({op: op for op in UNKNOWN}, kinds=("full", "auth"))
async def an_unknown_task_is_not_found(wire: Wire, op: str) -> None:
    params = UNKNOWN[op] or wire.message("plain", taskId="never-was")
    said(wire, await wire.ask(op, params), "TASK_NOT_FOUND")


@check(kinds=ALL)
async def a_task_that_is_over_cannot_be_cancelled(wire: Wire) -> None:
    task = await wire.task("tck-complete-task")
    said(wire, await wire.ask("CancelTask", {"id": task["id"]}), "TASK_NOT_CANCELABLE")


@check(kinds=ALL)
async def a_task_that_is_over_supports_no_message(wire: Wire) -> None:
    task = await wire.task("tck-complete-task")
    answer = await wire.ask("SendMessage", wire.message("plain", taskId=task["id"]))
    said(wire, answer, "UNSUPPORTED_OPERATION")


@check(kinds=("minimal",))
async def an_agent_without_push_says_which_error(wire: Wire) -> None:
    task = await wire.task("tck-input-required")
    answer = await wire.ask("ListTaskPushNotificationConfigs", {"taskId": task["id"]})
    said(wire, answer, "PUSH_NOTIFICATION_NOT_SUPPORTED")


@check(kinds=("minimal", "auth"))
async def an_extended_card_that_is_not_declared_is_refused(wire: Wire) -> None:
    assert not wire.card["capabilities"].get("extendedAgentCard")
    answer = await wire.ask("GetExtendedAgentCard")
    assert answer.reason in {"EXTENDED_AGENT_CARD_NOT_CONFIGURED", "UNSUPPORTED_OPERATION"}, answer.whole


@each(VERSIONS, kinds=("full", "minimal"))
async def a_version_that_is_not_served_is_refused(wire: Wire, version: str | None) -> None:
    answer = await wire.ask("GetTask", {"id": "never-was"}, {"a2a-version": version})
    said(wire, answer, "VERSION_NOT_SUPPORTED")


@check(bindings=("HTTP+JSON",))
async def a_version_may_stand_in_the_query(wire: Rest) -> None:
    task = await wire.task("tck-complete-task")
    answer = await wire.request("GET", f"/tasks/{task['id']}?A2A-Version=1.0", headers={"a2a-version": None})
    assert answer.status == 200, answer.whole


@each(
    {
        "nothing": b"",
        "half": b'{"message": ',
        "words": b"hello",
        "a list": b"[]",
        "a text": b'"hi"',
        "no message": b"{}",
        "no parts": json.dumps({"message": {"messageId": "m", "role": "ROLE_USER"}}).encode(),
        "a role that is none": json.dumps(
            {"message": {"messageId": "m", "role": "ROLE_KING", "parts": [{"text": "a"}]}}
        ).encode(),
        "parts that are an object": json.dumps({"message": {"messageId": "m", "role": "ROLE_USER", "parts": {}}}).encode(),
    },
    bindings=("HTTP+JSON",),
)
async def a_body_that_is_none_is_an_invalid_argument(wire: Rest, body: bytes) -> None:
    for path in ("/message:send", "/message:stream"):
        answer = await wire.request("POST", path, body)
        assert answer.status == 400, answer.whole
        assert answer.error is not None
        assert (answer.error["code"], answer.error["status"]) == (400, "INVALID_ARGUMENT")


@check(bindings=("HTTP+JSON",), kinds=("full", "minimal"))
async def an_answer_is_of_the_media_type_of_a2a(wire: Rest) -> None:
    for kind in ("application/json", "application/a2a+json"):
        body = json.dumps(wire.message("tck-complete-task")).encode()
        answer = await wire.request("POST", "/message:send", body, {"content-type": kind})
        assert (answer.status, answer.kind) == (200, "application/a2a+json")


@check(bindings=("HTTP+JSON",))
async def a_body_of_another_media_type_is_refused(wire: Rest) -> None:
    body = json.dumps(wire.message("tck-complete-task")).encode()
    answer = await wire.request("POST", "/message:send", body, {"content-type": "text/plain"})
    assert answer.status in {400, 415}, answer.whole
    assert answer.error is not None


@each({verb: verb for verb in ("GET", "PUT", "PATCH", "DELETE")}, bindings=("HTTP+JSON",))
async def a_verb_that_is_not_served_is_no_success(wire: Rest, verb: str) -> None:
    answer = await wire.request(verb, "/message:send")
    assert answer.status in {404, 405, 501}


@each({op: op for op in (*UNKNOWN, "ListTasks")}, kinds=("auth",))
async def without_a_credential_nothing_is_done(wire: Wire, op: str) -> None:
    params = UNKNOWN.get(op, {}) or (wire.message("plain") if op == "SendMessage" else {})
    answer = await wire.ask(op, params, {"authorization": None})
    assert answer.error is not None
    if wire.binding == "GRPC":
        assert answer.error["code"] == "UNAUTHENTICATED"
    else:
        assert answer.status == 401, answer.whole
        assert "bearer" in answer.headers["www-authenticate"].lower()
