"""What every client is asked to do, step by step.  `@KEY@` names the run, `@HOOK@` its webhook, `$step.member` an earlier answer.

A step with `then` begins a stream, and once so many of its events are there, makes another call beside it.
"""

from __future__ import annotations

from typing import Any, Final

Step = dict[str, Any]
ZERO: Final = "00000000-0000-4000-8000-000000000000"


def _message(message_id: str, text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"messageId": f"{message_id}-@KEY@", "role": "ROLE_USER", "parts": [{"text": text}], **more}


def _step(name: str, op: str, **params: Any) -> Step:
    return {"step": name, "op": op, "params": params}


def _send(name: str, message_id: str, *, stream: bool = False, configuration: Any = None, **more: Any) -> Step:
    params = {"message": _message(message_id, **more)} | ({"configuration": configuration} if configuration else {})
    return {"step": name, "op": "SendStreamingMessage" if stream else "SendMessage", "params": params}


def _then(step: Step, events: int, other: Step) -> Step:
    return step | {"then": {"events": events} | other}


_RICH: Final = [
    {
        "text": "some text",
        "mediaType": "text/plain",
        "metadata": {"colour": "blue", "deep": {"list": [1, 2.5, None, "drei", {}]}},
    },
    {"raw": "AAECAwT/", "mediaType": "application/octet-stream", "filename": "bytes.bin"},
    {"url": "https://example.com/a?b=c#d", "filename": "a"},
    {"data": {"n": 9007199254740991, "f": 0.1, "unicode": "žluťoučký 🐎 \u2028", "empty": [], "none": None}},
]
_CONFIG: Final = {"url": "@HOOK@", "token": "token-of-client", "authentication": {"scheme": "Bearer", "credentials": "of-client"}}

SCRIPT: Final[tuple[Step, ...]] = (
    _step("card", "Card"),
    # messages and what comes of them
    _send("answered by a message", "tck-message-response"),
    _send("done", "plain"),
    _send("rich", "plain-rich", parts=_RICH, metadata={"colour": "blue", "n": 1}),
    _send("rejected", "tck-reject-task"),
    _send("needs authorisation", "tck-auth-required"),
    _send("needs input", "tck-input-required"),
    _send("goes on", "tck-complete-task-next", taskId="$needs input.id", contextId="$needs input.contextId"),
    _send("after the end", "tck-complete-task-late", taskId="$needs input.id"),
    _send("another context than the task's", "plain-context", taskId="$needs authorisation.id", contextId="$done.contextId"),
    _send("refers to a task", "tck-complete-task-refers", referenceTaskIds=["$done.id"], contextId="$done.contextId"),
    _send("a context of one's own", "tck-complete-task-own", contextId="talk-@KEY@"),
    _send("stream in it", "tck-stream-artifact-chunked-own", stream=True, contextId="talk-@KEY@"),
    _step("list it", "ListTasks", contextId="talk-@KEY@", historyLength=5),
    _send("from another task", "plain-from", taskId="$needs authorisation.id", contextId="talk-@KEY@"),
    _send("a file by address", "tck-artifact-file-url"),
    _send("a file", "tck-artifact-file"),
    _send("data", "tck-artifact-data"),
    _send("text", "tck-artifact-text"),
    _send("at once", "gw-auth-open-@KEY@-once", configuration={"returnImmediately": True}),
    _send("released", "gw-release-@KEY@-once"),
    _send("without history", "plain-short", configuration={"historyLength": 0}),
    # streams
    _send("stream in chunks", "tck-stream-artifact-chunked", stream=True),
    _send("stream of a message", "tck-message-response-stream", stream=True),
    _send("stream of a file", "tck-stream-artifact-file", stream=True),
    _send("stream that needs input", "tck-input-required-stream", stream=True),
    _send("stream that goes on", "tck-stream-001", stream=True, taskId="$needs authorisation.id"),
    # reading
    _step("read", "GetTask", id="$goes on.id"),
    _step("read without history", "GetTask", id="$goes on.id", historyLength=0),
    _step("read the newest", "GetTask", id="$goes on.id", historyLength=1),
    _step("read with too little", "GetTask", id="$goes on.id", historyLength=-1),
    _step("list", "ListTasks"),
    _step("list a context", "ListTasks", contextId="$done.contextId"),
    _step("list with artifacts", "ListTasks", contextId="$done.contextId", includeArtifacts=True, historyLength=1),
    _step("list a state", "ListTasks", status="TASK_STATE_REJECTED"),
    _step("list since then", "ListTasks", statusTimestampAfter="2020-01-01T00:00:00Z", pageSize=100),
    _step("list since tomorrow", "ListTasks", statusTimestampAfter="2999-01-01T00:00:00Z"),
    _step("first page", "ListTasks", pageSize=3),
    _step("second page", "ListTasks", pageSize=3, pageToken="$first page.nextPageToken"),
    _step("no page", "ListTasks", pageSize=101),
    _step("less than a page", "ListTasks", pageSize=0),
    _step("not a token", "ListTasks", pageToken="guess"),
    _step("list a context that is not", "ListTasks", contextId=ZERO),
    # ending and following
    _send("to be cancelled", "tck-input-required-cancel"),
    _step("cancel", "CancelTask", id="$to be cancelled.id"),
    _step("cancel again", "CancelTask", id="$to be cancelled.id"),
    _send("to be followed", "gw-auth-open-@KEY@-follow", configuration={"returnImmediately": True}),
    _then(
        _step("follow", "SubscribeToTask", id="$to be followed.id"),
        1,
        _send("let it go on", "gw-release-@KEY@-follow"),
    ),
    _step("follow what is over", "SubscribeToTask", id="$done.id"),
    # webhooks
    _send("to be told of", "tck-input-required-push"),
    _step("create", "CreateTaskPushNotificationConfig", taskId="$to be told of.id", id="mine", **_CONFIG),
    _step("create another", "CreateTaskPushNotificationConfig", taskId="$to be told of.id", id="other", url="@HOOK@"),
    _step("get", "GetTaskPushNotificationConfig", taskId="$to be told of.id", id="mine"),
    _step("list all", "ListTaskPushNotificationConfigs", taskId="$to be told of.id"),
    _step("delete", "DeleteTaskPushNotificationConfig", taskId="$to be told of.id", id="other"),
    _step("delete again", "DeleteTaskPushNotificationConfig", taskId="$to be told of.id", id="other"),
    _step("get what is gone", "GetTaskPushNotificationConfig", taskId="$to be told of.id", id="other"),
    _step("list what is left", "ListTaskPushNotificationConfigs", taskId="$to be told of.id"),
    _send("news", "tck-complete-task-push", taskId="$to be told of.id"),
    _send("news from the start", "tck-complete-task-inline", configuration={"taskPushNotificationConfig": _CONFIG}),
    # what is not there
    _step("read nothing", "GetTask", id=ZERO),
    _step("cancel nothing", "CancelTask", id=ZERO),
    _step("follow nothing", "SubscribeToTask", id=ZERO),
    _send("send to nothing", "plain-nothing", taskId=ZERO),
    _send("stream to nothing", "plain-nothing-stream", taskId=ZERO, stream=True),
    _step("create for nothing", "CreateTaskPushNotificationConfig", taskId=ZERO, id="x", **_CONFIG),
    _step("get of nothing", "GetTaskPushNotificationConfig", taskId=ZERO, id="x"),
    _step("list of nothing", "ListTaskPushNotificationConfigs", taskId=ZERO),
    _step("delete of nothing", "DeleteTaskPushNotificationConfig", taskId=ZERO, id="x"),
    _step("extended card", "GetExtendedAgentCard"),
)
