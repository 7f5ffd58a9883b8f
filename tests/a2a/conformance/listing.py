"""ListTasks (A2A 1.0 §3.1.4): filters, pages, and what each task shows."""

from __future__ import annotations

from typing import Any

from tests.a2a.conformance.verdicts import check, each
from tests.a2a.conformance.wires import INVALID, OVER_HTTP, Wire

BAD: dict[str, Any] = {
    "too large a page": {"pageSize": 101},
    "no page": {"pageSize": 0},
    "less than a page": {"pageSize": -1},
    "a token that is none": {"pageToken": "guess"},
    "a history of less than nothing": {"historyLength": -1},
}
WORDS: dict[str, Any] = {
    "a state that is none": {"status": "TASK_STATE_HAPPY"},
    "a time that is none": {"statusTimestampAfter": "yesterday"},
}
"""What no message of protobuf could say."""


async def three(wire: Wire) -> list[dict[str, Any]]:
    """Three tasks of one conversation; the newest first."""
    first = await wire.task("tck-artifact-text")
    rest = [await wire.task(prefix, contextId=first["contextId"]) for prefix in ("tck-reject-task", "tck-complete-task")]
    return [*reversed(rest), first]


async def listed(wire: Wire, **params: Any) -> dict[str, Any]:
    answer = await wire.ask("ListTasks", params)
    assert answer.error is None, answer.whole
    found: dict[str, Any] = answer.result
    return found


@check(kinds=("full", "minimal", "auth"))
async def a_list_has_every_member_and_the_newest_first(wire: Wire) -> None:
    tasks = await three(wire)
    found = await listed(wire, contextId=tasks[0]["contextId"])
    assert [task["id"] for task in found["tasks"]] == [task["id"] for task in tasks]
    assert (found["nextPageToken"], found["totalSize"], found["pageSize"]) == ("", 3, 50)


@check()
async def a_list_that_is_empty_has_every_member_too(wire: Wire) -> None:
    found = await listed(wire, contextId="never-was")
    assert (found["tasks"], found["nextPageToken"], found["totalSize"]) == ([], "", 0)


@check()
async def pages_join_to_the_list(wire: Wire) -> None:
    tasks = await three(wire)
    ids, token, sizes = [], "", []
    for _ in range(4):
        found = await listed(wire, contextId=tasks[0]["contextId"], pageSize=1, **({"pageToken": token} if token else {}))
        ids += [task["id"] for task in found["tasks"]]
        sizes.append((found["pageSize"], found["totalSize"]))
        token = found["nextPageToken"]
        if not token:
            break
    assert ids == [task["id"] for task in tasks]
    assert set(sizes) == {(1, 3)}


@check()
async def a_list_is_of_the_state_that_was_asked_for(wire: Wire) -> None:
    tasks = await three(wire)
    found = await listed(wire, contextId=tasks[0]["contextId"], status="TASK_STATE_REJECTED")
    assert [(task["id"], task["status"]["state"]) for task in found["tasks"]] == [(tasks[1]["id"], "TASK_STATE_REJECTED")]


@check()
async def a_list_is_of_the_time_that_was_asked_for(wire: Wire) -> None:
    tasks = await three(wire)
    after = {when: await listed(wire, contextId=tasks[0]["contextId"], statusTimestampAfter=when) for when in WHEN}
    assert [len(found["tasks"]) for found in after.values()] == [3, 0]


WHEN = ("2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z")


@check()
async def artifacts_are_listed_where_they_were_asked_for(wire: Wire) -> None:
    context = (await three(wire))[0]["contextId"]
    without = (await listed(wire, contextId=context))["tasks"]
    with_them = (await listed(wire, contextId=context, includeArtifacts=True))["tasks"]
    assert not any(task.get("artifacts") for task in without)
    assert with_them[-1]["artifacts"][0]["parts"][0]["text"] == "Generated text content"


@check()
async def history_is_listed_as_long_as_was_asked_for(wire: Wire) -> None:
    context = (await three(wire))[0]["contextId"]
    assert not any(task.get("history") for task in (await listed(wire, contextId=context, historyLength=0))["tasks"])
    assert all(len(task["history"]) == 1 for task in (await listed(wire, contextId=context, historyLength=1))["tasks"])


@each(BAD, kinds=("full", "minimal"))
async def a_list_of_nothing_that_there_is_is_refused(wire: Wire, params: Any) -> None:
    answer = await wire.ask("ListTasks", params)
    assert answer.error is not None, answer.whole
    assert answer.error["code"] in INVALID


@each(WORDS, bindings=tuple(OVER_HTTP), kinds=("full", "minimal"))
async def a_list_of_what_no_word_means_is_refused(wire: Wire, params: Any) -> None:
    await a_list_of_nothing_that_there_is_is_refused(wire, params)
