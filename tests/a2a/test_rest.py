"""HTTP+JSON: every operation by its route, strictly read, the same wall between people, errors in the binding's own envelope."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.a2a.rest import ROUTES
from tests.a2a.world import DENY, HIDDEN, World

MEDIA = "application/a2a+json"


async def ask(world: World, person: str | None, verb: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    sent = {"a2a-version": "1.0"} | (world.token(person) if person else {})
    if body is not None:
        sent["content-type"] = MEDIA
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await world.client.request(verb, f"/a2a/ref/rest{path}", content=content, headers=sent)


def message(message_id: str, **more: Any) -> dict[str, Any]:
    return {"message": {"messageId": message_id, "role": "ROLE_USER", "parts": [{"text": "hi"}], **more}}


async def task_of(world: World, person: str, message_id: str) -> dict[str, Any]:
    answer = await ask(world, person, "POST", "/message:send", message(message_id))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["task"]
    return found


async def test_a_task_is_made_read_listed_and_cancelled_by_its_owner(world: World) -> None:
    made = await ask(world, "paul", "POST", "/message:send", message("tck-input-required-rest"))
    assert made.headers["content-type"] == MEDIA
    assert made.headers["bailiwick-workflow"]
    task = made.json()["task"]
    read = await ask(world, "paul", "GET", f"/tasks/{task['id']}?historyLength=0")
    assert read.json()["id"] == task["id"]
    assert "history" not in read.json()
    listed = (await ask(world, "paul", "GET", f"/tasks?contextId={task['contextId']}")).json()
    assert [each["id"] for each in listed["tasks"]] == [task["id"]]
    assert (listed["nextPageToken"], listed["totalSize"], listed["pageSize"]) == ("", 1, 50)
    cancelled = await ask(world, "paul", "POST", f"/tasks/{task['id']}:cancel", {})
    assert cancelled.json()["status"]["state"] == "TASK_STATE_CANCELED"
    again = await ask(world, "paul", "POST", f"/tasks/{task['id']}:cancel")
    assert (again.status_code, again.json()["error"]["status"]) == (400, "FAILED_PRECONDITION")
    assert again.json()["error"]["details"][0]["reason"] == "TASK_NOT_CANCELABLE"


@pytest.mark.parametrize("verb", ["GET", "POST"])
async def test_a_running_task_is_followed_by_its_owner(world: World, verb: str) -> None:
    body = message(f"test-resubscribe-message-id-{verb}") | {"configuration": {"returnImmediately": True}}
    task = (await ask(world, "paul", "POST", "/message:send", body)).json()["task"]
    headers = world.token("paul") | {"a2a-version": "1.0"}
    async with world.client.stream(verb, f"/a2a/ref/rest/tasks/{task['id']}:subscribe", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: ")]
    assert events[0]["task"]["id"] == task["id"]
    assert events[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert (await ask(world, "mia", verb, f"/tasks/{task['id']}:subscribe")).status_code == 404


async def test_a_stream_arrives_and_its_events_are_bare(world: World) -> None:
    headers = world.token("paul") | {"a2a-version": "1.0", "content-type": MEDIA}
    body = json.dumps(message("tck-stream-artifact-chunked-rest")).encode()
    async with world.client.stream("POST", "/a2a/ref/rest/message:stream", content=body, headers=headers) as answer:
        found = [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: ")]
    assert "jsonrpc" not in found[0]
    texts = [each["artifactUpdate"]["artifact"]["parts"][0]["text"] for each in found if "artifactUpdate" in each]
    assert texts == ["chunk-1 ", "chunk-2"]


@pytest.mark.parametrize(
    ("verb", "path"), [("GET", "/tasks/{id}"), ("POST", "/tasks/{id}:cancel"), ("GET", "/tasks/{id}:subscribe")]
)
async def test_the_task_of_another_is_as_one_that_never_was(world: World, verb: str, path: str) -> None:
    task = await task_of(world, "paul", f"tck-input-required-{len(path)}")
    foreign = await ask(world, "mia", verb, path.format(id=task["id"]))
    unknown = await ask(world, "mia", verb, path.format(id="never-was"))
    assert (foreign.status_code, foreign.content) == (unknown.status_code, unknown.content)
    assert foreign.status_code == 404
    assert foreign.json()["error"]["details"][0]["reason"] == "TASK_NOT_FOUND"


async def test_a_list_holds_the_callers_own_tasks_in_pages_of_their_own(world: World) -> None:
    people = ["paul", "mia"] * 4
    tasks = [await task_of(world, person, f"tck-complete-task-{n}") for n, person in enumerate(people)]
    mine = {task["id"] for task, person in zip(tasks, people, strict=True) if person == "paul"}
    seen: list[str] = []
    token = ""
    for _ in range(5):
        page = (await ask(world, "paul", "GET", f"/tasks?pageSize=3{f'&pageToken={token}' if token else ''}")).json()
        seen += [each["id"] for each in page["tasks"]]
        assert page["totalSize"] == 4
        token = page["nextPageToken"]
        if not token:
            break
        stolen = await ask(world, "mia", "GET", f"/tasks?pageSize=3&pageToken={token}")
        assert (stolen.status_code, stolen.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert sorted(seen) == sorted(mine)
    other = (await ask(world, "mia", "GET", f"/tasks?contextId={tasks[0]['contextId']}")).json()
    assert other == (await ask(world, "mia", "GET", "/tasks?contextId=never-was")).json()
    assert other["tasks"] == []


async def test_a_page_says_its_size_and_how_many_tasks_there_are_of_what_was_asked_for(world: World) -> None:
    for number, kind in enumerate(("complete-task", "reject-task", "complete-task", "message-response", "complete-task")):
        await ask(world, "paul", "POST", "/message:send", message(f"tck-{kind}-{number}"))
    first = (await ask(world, "paul", "GET", "/tasks?pageSize=2&status=TASK_STATE_COMPLETED")).json()
    rest = f"/tasks?pageSize=2&status=TASK_STATE_COMPLETED&pageToken={first['nextPageToken']}"
    second = (await ask(world, "paul", "GET", rest)).json()
    assert [(len(page["tasks"]), page["pageSize"], page["totalSize"]) for page in (first, second)] == [(2, 2, 3), (1, 2, 3)]
    assert second["nextPageToken"] == ""
    none = (await ask(world, "mia", "GET", "/tasks")).json()
    assert (none["tasks"], none["pageSize"], none["totalSize"]) == ([], 50, 0)


async def test_a_body_may_say_the_id_of_its_path_again_and_no_other(world: World) -> None:
    """The official client of Python says it twice."""
    task = await task_of(world, "paul", "tck-input-required-twice")
    for other in ({"id": "another"}, {"id": None}, {"id": [task["id"]]}):
        refused = await ask(world, "paul", "POST", f"/tasks/{task['id']}:cancel", other)
        assert (refused.status_code, refused.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    done = await ask(world, "paul", "POST", f"/tasks/{task['id']}:cancel", {"id": task["id"]})
    assert done.json()["status"]["state"] == "TASK_STATE_CANCELED"


async def test_errors_come_in_the_bindings_own_envelope(world: World) -> None:
    world.verdicts["user:dev/mia", "a2a:ref"] = DENY
    world.verdicts["user:dev/eve", "a2a:ref"] = HIDDEN
    nobody = await ask(world, None, "GET", "/tasks/x")
    assert (nobody.status_code, nobody.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert nobody.headers["www-authenticate"].startswith("Bearer")
    denied = await ask(world, "mia", "POST", "/message:send", message("m"))
    assert (denied.status_code, denied.json()["error"]["status"]) == (403, "PERMISSION_DENIED")
    detail = denied.json()["error"]["details"][0]
    assert (detail["reason"], detail["metadata"]["decisionId"]) == ("POLICY_DENIED", denied.headers["bailiwick-decision"])
    hidden = await ask(world, "eve", "GET", "/tasks/x")
    gone = await world.client.get("/a2a/nobody/rest/tasks/x", headers=world.token("eve") | {"a2a-version": "1.0"})
    strip = [answer.json()["error"]["details"][0]["metadata"].pop("decisionId") for answer in (hidden, gone)]
    assert len(set(strip)) == 2
    assert (hidden.status_code, hidden.json()["error"]["message"]) == (gone.status_code, gone.json()["error"]["message"])
    old = await ask(world, "paul", "GET", "/tasks/x", a2a_version="0.3")
    assert (old.status_code, old.json()["error"]["details"][0]["reason"]) == (400, "VERSION_NOT_SUPPORTED")


@pytest.mark.parametrize(
    ("verb", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("PUT", "/tasks/x", None, 405),
        ("POST", "/tasks", None, 405),
        ("GET", "/acme/tasks/x", None, 404),
        ("POST", "/message:send", b"{", 400),
        ("POST", "/message:send", b"[]", 400),
        ("POST", "/message:send", b'{"message":{"messageId":"a"},"message":{}}', 400),
        ("POST", "/message:send", {"message": {"messageId": "m", "role": 1, "parts": [{"text": "x"}]}}, 400),
        ("POST", "/message:send", {"message": {"messageId": "m", "message_id": "n", "parts": [{"text": "x"}]}}, 400),
        ("POST", "/tasks/x:cancel", {"id": "y"}, 400),
        ("GET", "/tasks?pageSize=x", None, 400),
        ("GET", "/tasks?pageSize=0", None, 400),
        ("GET", "/tasks?pageSize=101", None, 400),
        ("GET", "/tasks?pageSize=1&pageSize=2", None, 400),
        ("GET", "/tasks?includeArtifacts=yes", None, 400),
        ("GET", "/tasks?status=7", None, 400),
        ("GET", "/tasks?pageToken=guess", None, 400),
    ],
)
async def test_what_could_be_read_in_two_ways_or_none_is_refused_unsent(
    world: World, verb: str, path: str, body: Any, status: int
) -> None:
    answer = await ask(world, "paul", verb, path, body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == status
    assert world.ledger.kinds() == ["decision.deny"]


async def test_a_parameter_that_no_route_names_does_nothing(world: World) -> None:
    await task_of(world, "paul", "tck-complete-task-alias")
    spelled = (await ask(world, "paul", "GET", "/tasks?context_id=never-was&tenant=other")).json()
    assert len(spelled["tasks"]) == 1


async def test_many_at_once_do_not_mix(world: World) -> None:
    people = [f"person-{number}" for number in range(8)]
    found = await asyncio.gather(*(task_of(world, person, f"tck-complete-task-{person}") for person in people))
    lists = await asyncio.gather(*(ask(world, person, "GET", "/tasks") for person in people))
    assert [[each["id"] for each in answer.json()["tasks"]] for answer in lists] == [[task["id"]] for task in found]


@given(st.text(st.characters(blacklist_characters="/:", blacklist_categories=("Cs",)), min_size=1, max_size=40))
def test_every_id_without_a_slash_finds_its_route_whole(name: str) -> None:
    found = [(route.method, match["id"]) for route in ROUTES if (match := route.path.fullmatch(f"/tasks/{name}")) is not None]
    assert found == ([("GetTask", name)] if "\n" not in name or found else [])
