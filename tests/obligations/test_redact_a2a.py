"""`redact` on A2A: messages on their way to an agent; answers, streams event by event, and tasks on their way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from a2a.types import a2a_pb2 as pb

from audit.privacy import commitment
from gateway.a2a.wire import dump, to_json, to_proto
from gateway.obligations.detect import MARK
from policies.model import Decision, Effect, Obligation, Reason
from tests.a2a.agents import Request, scripted, task
from tests.a2a.test_a2a_streams import events
from tests.a2a.world import gateway

IBAN, MAIL = "DE02120300000000202051", "paul@acme.example"


def allowing(**params: Any) -> Decision:
    return Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0", obligations=(Obligation("mask", "redact", params),))


def holding(*parts: dict[str, Any], state: str = "COMPLETED") -> dict[str, Any]:
    """A task with these parts everywhere where an agent can put some."""
    said = task(state)
    message = {"messageId": "a", "role": "ROLE_AGENT", "parts": list(parts), "metadata": {"mail": MAIL}}
    said["task"]["status"]["message"] = message
    said["task"]["history"] = [message]
    said["task"]["artifacts"] = [{"artifactId": "1", "name": MAIL, "parts": list(parts)}]
    return said


PARTS = ({"text": f"mail {MAIL}"}, {"data": {"iban": IBAN, "n": [1, {"mail": MAIL}]}}, {"raw": "AAAA", "filename": "x.bin"})


async def test_a_message_reaches_the_agent_without_what_must_not_be_sent(tmp_path: Path) -> None:
    async def script(request: Request) -> None:
        await request.result(task("COMPLETED"))

    async with scripted(script) as (url, agent), gateway(tmp_path, {"ref": url}) as world:
        world.verdicts["*", "a2a:ref"] = allowing(**{"in": "arguments", "detectors": ["email", "iban"]})
        params = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": list(PARTS), "metadata": {"mail": MAIL}}}
        answer = (await world.rpc("paul", "SendMessage", params)).json()
        assert answer["result"]["task"]["id"] == "t-1"
        sent = agent.requests[0].rpc["params"]["message"]
        start = next(entry for entry in world.ledger.entries if entry.kind == "call.start")
    assert sent["parts"] == [
        {"text": f"mail {MARK}"},
        {"data": {"iban": MARK, "n": [1, {"mail": MARK}]}},
        {"text": MARK, "filename": "x.bin"},
    ]
    assert sent["metadata"]["mail"] == MARK
    assert all(MAIL.encode() not in value.data and IBAN.encode() not in value.data for value in start.values)
    assert "originals" in start.fields


async def test_every_answer_that_shows_the_task_is_blanked_in_texts_data_and_metadata(tmp_path: Path) -> None:
    async def script(request: Request) -> None:
        said = holding(*PARTS)
        await request.result(said if request.rpc["method"] == "SendMessage" else said["task"])

    async with scripted(script) as (url, _), gateway(tmp_path, {"ref": url}) as world:
        world.verdicts["*", "a2a:ref"] = allowing(detectors=["email", "iban"])
        sent = await world.send("paul", "m")
        seen = (await world.rpc("paul", "GetTask", {"id": "t-1"})).json()
    for found in (sent["result"]["task"], seen["result"]):
        assert MAIL not in json.dumps(found)
        assert IBAN not in json.dumps(found)
        assert found["id"] == "t-1"
        assert found["artifacts"][0]["parts"][:2] == [
            {"text": f"mail {MARK}"},
            {"data": {"iban": MARK, "n": [1, {"mail": MARK}]}},
        ]
        assert found["artifacts"][0]["parts"][2] == {"text": MARK, "filename": "x.bin"}
    ends = [entry for entry in world.ledger.entries if entry.kind == "call.end"]
    assert len(ends) == 2
    assert all(MAIL.encode() not in value.data for entry in ends for value in entry.values)


async def test_a_stream_is_blanked_event_by_event_and_later_pieces_of_an_artifact_are_withheld(tmp_path: Path) -> None:
    async def script(request: Request) -> None:
        await request.event(holding(*PARTS, state="WORKING"))
        for text, append in ((f"half {MAIL}", False), ("paul@ac", False), ("me.example", True)):
            artifact = {"artifactId": "2", "parts": [{"text": text}]}
            await request.event({"artifactUpdate": {"taskId": "t-1", "contextId": "c-1", "artifact": artifact, "append": append}})
        await request.event({"statusUpdate": {"taskId": "t-1", "contextId": "c-1", "status": {"state": "TASK_STATE_COMPLETED"}}})
        await request.end()

    async with scripted(script) as (url, _), gateway(tmp_path, {"ref": url}) as world:
        world.verdicts["*", "a2a:ref"] = allowing(detectors=["email", "iban"])
        found = [data["result"] for _, data in await events(world)]
    assert len(found) == 5
    assert MAIL not in json.dumps(found)
    assert IBAN not in json.dumps(found)
    pieces = [each["artifactUpdate"]["artifact"]["parts"][0]["text"] for each in found[1:4]]
    assert pieces == [f"half {MARK}", "paul@ac", MARK]


@pytest.mark.parametrize("fields", [["iban"], ["/iban"]])
async def test_where_fields_are_looked_for_texts_must_be_json_and_an_agents_error_says_its_code_alone(
    tmp_path: Path, fields: list[str]
) -> None:
    async def script(request: Request) -> None:
        parts = ({"text": "iban " + IBAN}, {"text": json.dumps({"iban": IBAN, "n": 1})}, {"url": f"https://x.example/{IBAN}"})
        if request.rpc["params"]["message"]["messageId"] == "bad":
            await request.error({"code": -32603, "message": IBAN, "data": [{"iban": IBAN}]})
        else:
            await request.result(holding(*parts))

    async with scripted(script) as (url, _), gateway(tmp_path, {"ref": url}) as world:
        world.verdicts["*", "a2a:ref"] = allowing(fields=fields)
        parts = (await world.send("paul", "m"))["result"]["task"]["artifacts"][0]["parts"]
        failed = await world.send("paul", "bad")
    assert parts == [{"text": MARK}, {"text": json.dumps({"iban": MARK, "n": 1}, separators=(",", ":"))}, {"text": MARK}]
    assert failed["error"]["code"] == -32603
    assert IBAN not in json.dumps(failed)


async def test_the_ledger_commits_to_what_a_blanked_answer_was_and_to_nothing_where_nothing_was_blanked(tmp_path: Path) -> None:
    said = task("COMPLETED")
    said["task"]["artifacts"] = [{"artifactId": "1", "parts": [{"data": {"iban": "DE00", "name": "Paul"}}]}]

    async def script(request: Request) -> None:
        await request.result(said)

    async with scripted(script) as (url, _), gateway(tmp_path, {"ref": url}) as world:
        kept = []
        for fields in (["iban"], ["bic"]):
            duty = Obligation("mask", "redact", {"fields": fields})
            world.verdicts["*", "a2a:ref"] = Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0", obligations=(duty,))
            await world.send("paul", "m")
            kept.append(world.ledger.entries[-1])
    blanked, whole = kept
    (salt,) = [value.data for value in blanked.values if value.name == "original_salt"]
    original = blanked.fields["originals"]["response"]
    parsed = to_proto(said, pb.SendMessageResponse())
    body = dump(to_json(parsed))
    assert original == {"c": commitment(bytes.fromhex(salt.decode()), "response", body), "n": len(body)}
    assert "originals" not in whole.fields
    assert all(b"DE00" not in value.data for value in blanked.values)
