"""A call that went on as a task is settled by the look that says what became of it: its owner's, on record, and once."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from a2a.types import a2a_pb2 as pb
from a2a.types.a2a_pb2_grpc import A2AServiceStub

from tests.interaction.task_world import TaskPeers, TaskPlay, hook, task_gateway
from tests.interaction.test_replayed_workflows import verb
from tests.interaction.test_workflow_histories import settled, workflows
from tests.interaction.workflow_world import AGENTS, TOOLS, code_of, until
from tests.interaction.world import Gateway, free_port
from tests.interaction.world import peers as scripted

ONE = {"supplier": "S-1", "amount": 10}
GRPC = free_port()
FILES = {
    "found": "before: [{tool: <order>, needs: <find>, same: supplier}]\nbudget: [{tool: <find>, count: 1}]",
    "scored": "before: [{tool: <order>, needs: <score>, result: {field: risk, max: 60}}]",
    "labels": "taint: [{after: source:confidential, deny: sink:external}]",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, TaskPeers]]:
    with scripted(TaskPeers()) as upstreams:
        assert isinstance(upstreams, TaskPeers)
        more: dict[str, Any] = {"a2a": {"grpc": {"agents": {"clerk": {"port": GRPC}}}}}
        with hook() as (address, _):
            more["push"] = {"private": [address.split("/")[2]]}
            upstreams.hook = address
            gateway = task_gateway(tmp_path_factory.mktemp("tasks"), upstreams, FILES, **more)
            try:
                yield gateway.start(), upstreams
            finally:
                gateway.stop()


@pytest.fixture(params=["mcp", "a2a"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def name(protocol: str, step: str) -> str:
    return (TOOLS if protocol == "mcp" else AGENTS)[step]


def play(world: tuple[Gateway, TaskPeers], definition: str, protocol: str) -> TaskPlay:
    gateway, upstreams = world
    upstreams.setup()
    upstreams.works = {name(protocol, "find"), name(protocol, "score")}
    return TaskPlay(gateway, upstreams, f"{definition}-{protocol}")


def begun(story: TaskPlay, protocol: str, step: str = "find", who: str = "paul:lead") -> tuple[str, str]:
    """A task of a step: its id as its owner has it, and as the upstream has it."""
    task = story.begin(who, name(protocol, step), ONE)
    return task, story.inner(name(protocol, step))


def ordered(story: TaskPlay, protocol: str, who: str = "paul:lead") -> str:
    return code_of(story.does(who, name(protocol, "order"), ONE))


def settles(story: TaskPlay) -> list[dict[str, str]]:
    """What records say of steps of other calls, since this history began."""
    ends = [record.leaf for record in story.gateway.records(kind="call.end") if "settles" in record.leaf]
    return [each for leaf in ends if leaf["workflow"] == story.workflow("paul") for each in leaf["settles"]]


def test_a_task_that_is_completed_satisfies_once_its_owner_has_seen_it(world: tuple[Gateway, TaskPeers], protocol: str) -> None:
    story = play(world, "found", protocol)
    task, inner = begun(story, protocol)
    assert ordered(story, protocol) == "step-missing"
    assert code_of(story.look("paul:lead", name(protocol, "find"), task)) == ""
    assert ordered(story, protocol) == "step-missing", "it goes on"
    story.peers.move(inner, "completed", {"note": "x"})
    assert ordered(story, protocol) == "step-missing", "nobody has seen it"
    looks = [story.look("paul:lead", name(protocol, "find"), task) for _ in range(2)]
    assert [code_of(look) for look in looks] == ["", ""]
    assert ordered(story, protocol) == ""
    (said,) = settles(story)
    assert said["step"] == "ok"
    assert code_of(story.does("paul:lead", name(protocol, "find"), ONE)) == "budget-spent", "what was done counts"


@pytest.mark.parametrize(
    ("protocol", "state"), [*((each, state) for each in ("mcp", "a2a") for state in ("failed", "cancelled")), ("a2a", "rejected")]
)
def test_a_task_that_came_to_nothing_satisfies_nothing_and_gives_back_what_it_drew(
    world: tuple[Gateway, TaskPeers], protocol: str, state: str
) -> None:
    story = play(world, "found", protocol)
    task, inner = begun(story, protocol)
    assert code_of(story.does("paul:lead", name(protocol, "find"), ONE)) == "budget-spent", "it is reserved while it goes on"
    story.peers.move(inner, state)
    assert code_of(story.look("paul:lead", name(protocol, "find"), task)) == ""
    assert ordered(story, protocol) == "step-missing"
    assert [said["step"] for said in settles(story)] == ["failed"]
    again, inner = begun(story, protocol)
    story.peers.move(inner, "completed", {})
    story.look("paul:lead", name(protocol, "find"), again)
    assert ordered(story, protocol) == ""


def test_bounds_are_read_in_the_result_of_the_task(world: tuple[Gateway, TaskPeers], protocol: str) -> None:
    story = play(world, "scored", protocol)
    for risk, code in ((61, "step-missing"), ("12", "step-missing"), (60, "")):
        task, inner = begun(story, protocol, "score")
        story.peers.move(inner, "completed", {"risk": risk})
        story.look("paul:lead", name(protocol, "score"), task)
        assert ordered(story, protocol) == code, risk
    assert [said["step"] for said in settles(story)] == ["ok"] * 3


def test_a_tool_that_says_no_in_its_tasks_result_failed(world: tuple[Gateway, TaskPeers]) -> None:
    story = play(world, "found", "mcp")
    task, inner = begun(story, "mcp")
    story.peers.move(inner, "completed", {})
    story.peers.tasks[inner]["result"]["isError"] = True
    story.look("paul:lead", "desk.find", task)
    assert ordered(story, "mcp") == "step-missing"
    assert [said["step"] for said in settles(story)] == ["failed"]


def test_a_cancelled_task_is_settled_by_the_answer_that_says_so(world: tuple[Gateway, TaskPeers]) -> None:
    story = play(world, "found", "a2a")
    task, _ = begun(story, "a2a")
    assert code_of(story.cancel("paul:lead", "a2a:clerk", task)) == ""
    assert [said["step"] for said in settles(story)] == ["failed"]
    story = play(world, "found", "mcp")
    task, inner = begun(story, "mcp")
    assert code_of(story.cancel("paul:lead", "desk.find", task)) == ""
    assert settles(story) == [], "the server has taken it to its knowledge, no more"
    story.peers.move(inner, "cancelled")
    story.look("paul:lead", "desk.find", task)
    assert [said["step"] for said in settles(story)] == ["failed"]


def test_a_message_that_goes_on_with_a_task_settles_what_began_it(world: tuple[Gateway, TaskPeers]) -> None:
    story = play(world, "scored", "a2a")
    task, inner = begun(story, "a2a", "score")
    story.peers.move(inner, "input_required")
    story.look("paul:lead", "a2a:courier", task)
    assert settles(story) == []
    story.peers.move(inner, "completed", {"risk": 3})
    message = {"messageId": str(uuid.uuid4()), "role": "ROLE_USER", "parts": [{"text": "yes"}], "taskId": task}
    assert code_of(story.a2a("paul:lead", "a2a:courier", "SendMessage", {"message": message})) == ""
    assert [said["step"] for said in settles(story)] == ["ok"]
    assert ordered(story, "a2a") == ""


def test_a_list_settles_what_it_shows(world: tuple[Gateway, TaskPeers]) -> None:
    """Without its artifacts a task shows no result, and rules that bound one wait for a look that does."""
    story = play(world, "scored", "a2a")
    _, scored = begun(story, "a2a", "score")
    story.peers.move(scored, "completed", {"risk": 3})
    for more, code in (({}, "step-missing"), ({"includeArtifacts": True}, "")):
        assert code_of(story.a2a("paul:lead", "a2a:courier", "ListTasks", more)) == ""
        assert ordered(story, "a2a") == code
    assert [said["step"] for said in settles(story)] == ["ok"]
    story = play(world, "found", "a2a")
    _, found = begun(story, "a2a")
    story.peers.move(found, "completed", {})
    story.a2a("paul:lead", "a2a:clerk", "ListTasks", {})
    assert ordered(story, "a2a") == ""


def test_a_stream_of_a_tasks_events_settles_it_at_its_end(world: tuple[Gateway, TaskPeers]) -> None:
    story = play(world, "scored", "a2a")
    task, inner = begun(story, "a2a", "score")
    story.peers.move(inner, "completed", {"risk": 3})
    answer = story.a2a("paul:lead", "a2a:courier", "SubscribeToTask", {"id": task})
    assert "TASK_STATE_COMPLETED" in answer.text
    assert [said["step"] for said in settles(story)] == ["ok"]
    assert ordered(story, "a2a") == ""


def test_a_stream_of_notices_settles_the_tasks_that_it_told_of_at_its_end(world: tuple[Gateway, TaskPeers]) -> None:
    story = play(world, "scored", "mcp")
    task, inner = begun(story, "mcp", "score")
    other, _ = begun(story, "mcp", "score", who="fiona:lead")
    story.peers.move(inner, "completed", {"risk": 3})
    asked = {"notifications": {"taskIds": [task, other]}}
    answer = story.mcp("paul:lead", "desk", "subscriptions/listen", "", asked)
    assert (task in answer.text, "completed" in answer.text, other in answer.text) == (True, True, False)
    assert [said["step"] for said in settles(story)] == ["ok"]
    assert ordered(story, "mcp") == ""


def test_tasks_of_all_servers_at_once_settle_as_those_of_one(world: tuple[Gateway, TaskPeers]) -> None:
    story = play(world, "found", "mcp")
    made = story.mcp("paul:lead", "", "tools/call", "desk__find", {"name": "desk__find", "arguments": ONE})
    task, inner = made.json()["result"]["taskId"], story.inner("desk.find")
    story.peers.move(inner, "completed", {})
    assert code_of(story.mcp("paul:lead", "", "tasks/get", task, {"taskId": task})) == ""
    assert [said["step"] for said in settles(story)] == ["ok"]
    assert ordered(story, "mcp") == ""


def test_news_that_reached_its_webhook_settles(world: tuple[Gateway, TaskPeers]) -> None:
    story = play(world, "found", "a2a")
    task, inner = begun(story, "a2a")
    config = {"taskId": task, "url": story.peers.hook}
    assert code_of(story.a2a("paul:lead", "a2a:clerk", "CreateTaskPushNotificationConfig", config)) == ""
    callback = story.peers.callbacks[task]
    update = {"taskId": task, "contextId": story.peers.tasks[inner]["contextId"]}
    for state in ("TASK_STATE_WORKING", "TASK_STATE_COMPLETED"):
        event = {"statusUpdate": update | {"status": {"state": state}}}
        secret = {"Authorization": f"Bearer {callback['authentication']['credentials']}"}
        assert (
            story.gateway.http.post(callback["url"].replace(story.gateway.public_url, ""), json=event, headers=secret).status_code
            == 200
        )
    assert until(lambda: [said["step"] for said in settles(story)] == ["ok"])
    assert ordered(story, "a2a") == ""


def test_looks_by_http_and_json_and_by_grpc_settle_too(world: tuple[Gateway, TaskPeers]) -> None:
    for way in ("rest", "grpc"):
        story = play(world, "found", "a2a")
        task, inner = begun(story, "a2a")
        story.peers.move(inner, "completed", {})
        secret, delegation = story.frame("paul:lead")
        lines = {"a2a-version": "1.0", "authorization": f"Bearer {secret}", "bailiwick-delegation": delegation}
        if way == "rest":
            assert story.gateway.http.get(f"/a2a/clerk/rest/tasks/{task}", headers=lines).status_code == 200
        else:
            with grpc.insecure_channel(f"127.0.0.1:{GRPC}") as channel:
                client: Any = A2AServiceStub(channel)  # type: ignore[no-untyped-call]
                assert client.GetTask(pb.GetTaskRequest(id=task), metadata=tuple(lines.items())).id == task
        assert [said["step"] for said in settles(story)] == ["ok"], way
        assert ordered(story, "a2a") == ""


def test_attack_another_person_or_a_made_up_id_settles_nothing(world: tuple[Gateway, TaskPeers], protocol: str) -> None:
    story = play(world, "found", protocol)
    find = name(protocol, "find")
    task, inner = begun(story, protocol)
    story.peers.move(inner, "completed", {})
    other, _ = begun(story, protocol, who="fiona:lead")
    for who, said in (("fiona:lead", task), ("paul:lead", other), ("paul:lead", inner + "x"), ("paul:lead", "")):
        assert "error" in story.look(who, find, said).json(), (who, said)
    if protocol == "mcp":
        assert "error" in story.look("paul:lead", find, inner).json(), "the upstream's own id is nobody's"
    assert settles(story) == []
    assert ordered(story, protocol) == "step-missing"


def test_attack_an_upstream_that_answers_with_another_task_settles_nothing(
    world: tuple[Gateway, TaskPeers], protocol: str
) -> None:
    story = play(world, "found", protocol)
    task, inner = begun(story, protocol)
    lie = {key: value for key, value in story.peers.tasks[inner].items() if key != "agent"}
    story.peers.lies[inner] = (
        lie | {"taskId": "t-other", "status": "completed", "result": {"content": []}}
        if protocol == "mcp"
        else lie | {"id": str(uuid.uuid4()), "status": {"state": "TASK_STATE_COMPLETED"}}
    )
    assert "error" in story.look("paul:lead", name(protocol, "find"), task).json()
    assert settles(story) == []
    assert ordered(story, protocol) == "step-missing"


def test_a_result_that_is_withheld_settles_nothing(world: tuple[Gateway, TaskPeers]) -> None:
    """Here it is larger than a duty lets through."""
    story = play(world, "found", "mcp")
    task, inner = begun(story, "mcp")
    story.peers.move(inner, "completed", {"note": "x" * 5000})
    assert "xxx" not in story.look("paul:lead", "desk.find", task).text
    assert settles(story) == []
    assert ordered(story, "mcp") == "step-missing"
    story.peers.move(inner, "completed", {"note": "x"})
    story.look("paul:lead", "desk.find", task)
    assert ordered(story, "mcp") == ""


def test_a_look_from_another_workflow_brings_what_came_into_the_first(world: tuple[Gateway, TaskPeers]) -> None:
    """The result of a tool, or of what it was told, is read there: what policy keeps in leaves by neither."""
    first, second = play(world, "labels", "mcp"), TaskPlay(*world, "labels-mcp")
    task, inner = begun(first, "mcp")
    first.peers.move(inner, "completed", {})
    assert code_of(second.does("paul:lead", "desk.mail", ONE)) == ""
    assert code_of(second.look("paul:lead", "desk.find", task)) == ""
    assert code_of(second.does("paul:lead", "desk.mail", ONE)) == "dataflow"


def test_what_was_decided_after_looks_comes_out_the_same_again(world: tuple[Gateway, TaskPeers]) -> None:
    for protocol in ("mcp", "a2a"):
        story = play(world, "found", protocol)
        for state, codes in (("failed", ("step-missing", "step-missing")), ("completed", ("step-missing", ""))):
            task, inner = begun(story, protocol)
            before = ordered(story, protocol)
            story.peers.move(inner, state, {})
            story.look("paul:lead", name(protocol, "find"), task)
            assert (before, ordered(story, protocol)) == codes
    status, found = verb(world[0], "audit", "reproduce")
    assert (status, found["differing"], found["undecidable"]) == (0, 0, {}), found


def test_histories_with_tasks_are_told_again_from_the_ledger(world: tuple[Gateway, TaskPeers]) -> None:
    """The last of this file: everything that the others did is there, and every state."""
    gateway, _ = world
    open_ = play(world, "found", "a2a")
    task, inner = begun(open_, "a2a")
    assert settled(gateway)["differences"] == []
    with sqlite3.connect(gateway.folder / "data" / "state.db") as state:
        told = dict(state.execute("SELECT state, count(*) FROM workflow_steps WHERE task <> '' GROUP BY state").fetchall())
        assert {"ok", "failed", "open"} <= told.keys()
        state.execute("UPDATE workflow_steps SET state = 'open', results = '{}' WHERE task <> ''")
    status, found = workflows(gateway, "rebuild")
    assert (status, len(found["differences"])) == (0, told["ok"] + told["failed"])
    assert settled(gateway)["differences"] == []
    open_.peers.move(inner, "completed", {})
    open_.look("paul:lead", "a2a:clerk", task)
    assert ordered(open_, "a2a") == "", "what is open can be settled as before"
    assert settled(gateway)["differences"] == []
