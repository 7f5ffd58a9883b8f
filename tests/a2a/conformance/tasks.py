"""Messages and tasks over every binding (A2A 1.0 §3.1, §4.1): states, follow-ups, history, parts of every kind, cancelling."""

from __future__ import annotations

import base64
import re
import uuid
from typing import Any

from tests.a2a.conformance.verdicts import WIRES, check, each
from tests.a2a.conformance.wires import INVALID, Wire

ALL = ("full", "minimal", "auth")
STATES = {
    "tck-complete-task": "TASK_STATE_COMPLETED",
    "tck-reject-task": "TASK_STATE_REJECTED",
    "tck-input-required": "TASK_STATE_INPUT_REQUIRED",
    "tck-auth-required": "TASK_STATE_AUTH_REQUIRED",
}
BYTES = bytes(range(256))
PARTS: dict[str, Any] = {
    "text": {"text": "žluťoučký 🐎 \u0000\u2028"},
    "bytes": {"raw": base64.b64encode(BYTES).decode(), "mediaType": "application/octet-stream", "filename": "all.bin"},
    "an address": {"url": "https://example.com/a?b=c&d=%20#e", "filename": "a b"},
    "data": {"data": {"text": "t", "float": 0.25, "list": [None, True, {}], "nested": {"a": {"b": {"c": -1}}}}},
    "a list as data": {"data": [1, "zwei", None]},
    "metadata": {"text": "t", "metadata": {"x": {"y": [1]}, "plain": "z"}},
}
HISTORY = {"none": 0, "one": 1, "two": 2, "more than there is": 50}


@each({state: prefix for prefix, state in STATES.items()}, kinds=ALL)
async def a_message_makes_a_task_in_its_state(wire: Wire, prefix: str) -> None:
    task = await wire.task(prefix)
    assert task["status"]["state"] == STATES[prefix]
    assert task["id"]
    assert task["contextId"]
    stamp = task["status"]["timestamp"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", stamp), stamp
    read = (await wire.ask("GetTask", {"id": task["id"]})).result
    assert (read["id"], read["contextId"], read["status"]["state"]) == (task["id"], task["contextId"], STATES[prefix])


@check(kinds=ALL)
async def a_message_is_answered_by_a_message(wire: Wire) -> None:
    said = (await wire.ask("SendMessage", wire.message("tck-message-response"))).result
    assert said.keys() == {"message"}
    assert said["message"]["role"] == "ROLE_AGENT"
    assert said["message"]["messageId"]
    assert said["message"]["parts"] == [{"text": "Direct message response"}]


@check()
async def the_whole_answer_waits_for_the_end_of_the_task(wire: Wire) -> None:
    task = await wire.task("plain", text="so be it")
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert [artifact["parts"] for artifact in task["artifacts"]] == [[{"text": "echo: so be it"}]]


@check()
async def an_answer_at_once_shows_a_task_that_goes_on(wire: Wire) -> None:
    task = await wire.task("gw-auth-open", configuration={"returnImmediately": True})
    assert task["status"]["state"] in {"TASK_STATE_SUBMITTED", "TASK_STATE_WORKING", "TASK_STATE_AUTH_REQUIRED"}
    assert (await wire.ask("CancelTask", {"id": task["id"]})).result["status"]["state"] == "TASK_STATE_CANCELED"


@each(PARTS)
async def what_a_message_carries_is_kept_whole(wire: Wire, part: Any) -> None:
    task = await wire.task("tck-complete-task", parts=[part], metadata={"deep": {"list": [1, None]}})
    (said,) = [each for each in task["history"] if each["role"] == "ROLE_USER"]
    assert said["parts"] == [part]
    assert said["metadata"] == {"deep": {"list": [1, None]}}


@check()
async def a_large_message_comes_whole(wire: Wire) -> None:
    text = "€" * 200_000
    task = await wire.task("plain-large", text=text)
    assert task["artifacts"][0]["parts"][0]["text"] == f"echo: {text}"


@each(
    {
        "a file": ("tck-artifact-file", {"raw": base64.b64encode(b"tck").decode(), "mediaType": "text/plain"}),
        "its address": ("tck-artifact-file-url", {"url": "https://example.com/output.txt", "mediaType": "text/plain"}),
        "data": ("tck-artifact-data", {"data": {"key": "value", "count": 42}}),
        "text": ("tck-artifact-text", {"text": "Generated text content"}),
    }
)
async def an_artifact_comes_whole(wire: Wire, said: tuple[str, Any]) -> None:
    (artifact,) = (await wire.task(said[0]))["artifacts"]
    assert artifact["artifactId"]
    (part,) = artifact["parts"]
    assert part.items() >= said[1].items()


@check(kinds=ALL)
async def a_task_goes_on_under_its_ids(wire: Wire) -> None:
    first = await wire.task("tck-input-required")
    for more in ({"taskId": first["id"]}, {"taskId": first["id"], "contextId": first["contextId"]}):
        again = await wire.task("tck-input-required-again", **more)
        assert (again["id"], again["contextId"]) == (first["id"], first["contextId"])
        assert again["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    last = await wire.task("tck-complete-task", taskId=first["id"])
    assert last["status"]["state"] == "TASK_STATE_COMPLETED"


@check()
async def a_conversation_holds_several_tasks(wire: Wire) -> None:
    first = await wire.task("tck-complete-task")
    second = await wire.task("tck-complete-task", contextId=first["contextId"])
    assert second["contextId"] == first["contextId"]
    assert second["id"] != first["id"]


@check()
async def a_context_that_the_client_names_keeps_its_name(wire: Wire) -> None:
    word = f"talk of {uuid.uuid4()}"
    first = await wire.task("tck-complete-task", contextId=word)
    events = await wire.events("SendStreamingMessage", wire.message("tck-stream-001", contextId=word))
    named = [event[kind]["contextId"] for event in events for kind in event if kind != "metadata"]
    listed = (await wire.ask("ListTasks", {"contextId": word})).result
    assert {first["contextId"], *named, *(task["contextId"] for task in listed["tasks"])} == {word}
    assert len(listed["tasks"]) == 2
    assert first["id"] in {task["id"] for task in listed["tasks"]}


@check()
async def a_context_that_is_not_the_tasks_is_refused(wire: Wire) -> None:
    task, other = await wire.task("tck-input-required"), await wire.task("tck-complete-task")
    answer = await wire.ask("SendMessage", wire.message("tck-complete-task", taskId=task["id"], contextId=other["contextId"]))
    assert answer.error is not None
    assert answer.error["code"] in INVALID


@check(kinds=ALL)
async def a_task_that_is_over_takes_no_message(wire: Wire) -> None:
    task = await wire.task("tck-complete-task")
    answer = await wire.ask("SendMessage", wire.message("tck-complete-task", taskId=task["id"]))
    assert answer.reason == "UNSUPPORTED_OPERATION", answer.whole


@each(HISTORY)
async def history_is_as_long_as_was_asked_for(wire: Wire, length: int) -> None:
    task = await wire.task("tck-input-required")
    await wire.task("tck-input-required-b", taskId=task["id"])
    whole = (await wire.ask("GetTask", {"id": task["id"]})).result["history"]
    assert len(whole) >= 2
    read = (await wire.ask("GetTask", {"id": task["id"], "historyLength": length})).result
    assert read.get("history", []) == whole[len(whole) - min(length, len(whole)) :]
    sent = await wire.task("tck-input-required-c", taskId=task["id"], configuration={"historyLength": length})
    assert len(sent.get("history", [])) <= length


@check()
async def a_history_of_less_than_nothing_is_refused(wire: Wire) -> None:
    task = await wire.task("tck-complete-task")
    answer = await wire.ask("GetTask", {"id": task["id"], "historyLength": -1})
    assert answer.error is not None
    assert answer.error["code"] in INVALID


@check(kinds=ALL)
async def a_task_is_cancelled_once(wire: Wire) -> None:
    task = await wire.task("tck-input-required")
    done = await wire.ask("CancelTask", {"id": task["id"]})
    assert done.result["status"]["state"] == "TASK_STATE_CANCELED"
    assert (await wire.ask("GetTask", {"id": task["id"]})).result["status"]["state"] == "TASK_STATE_CANCELED"
    assert (await wire.ask("CancelTask", {"id": task["id"]})).reason == "TASK_NOT_CANCELABLE"


@check()
async def a_task_of_one_binding_is_the_same_over_the_other(wire: Wire) -> None:
    task = await wire.task("tck-artifact-text")
    seen = []
    for kind in WIRES.values():
        other = kind(wire.side, wire.http, wire.hook, wire.card)
        seen.append((await other.ask("GetTask", {"id": task["id"]})).result)
        listed = (await other.ask("ListTasks", {"contextId": task["contextId"], "includeArtifacts": True})).result["tasks"]
        assert [(each["id"], dense(each["artifacts"])) for each in listed] == [(task["id"], dense(task["artifacts"]))]
        await other.close()
    plain = [{name: value for name, value in dense(each).items() if name != "metadata"} for each in seen]
    assert all(each == plain[0] for each in plain)


def dense(value: Any) -> Any:
    """Without members that are empty: whether these stand there is nobody's promise."""
    if isinstance(value, dict):
        return {name: inner for name, each in value.items() if (inner := dense(each)) not in ("", [], {})}
    return [dense(each) for each in value] if isinstance(value, list) else value
