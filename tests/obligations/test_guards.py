"""Guards of others' and personal data in `inspect`: what they say is done, and what they do not say is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from audit.privacy import commitment
from gateway.a2a.webhook import Allowed
from gateway.obligations import personal
from gateway.obligations.detect import DETECTORS, MARK
from gateway.obligations.guards import Guard, Guards
from gateway.obligations.inspector import Inspector
from gateway.upstream.client import Upstreams, Url
from policies.model import Decision, Effect, Obligation, Reason
from tests.a2a.agents import Request, scripted, task
from tests.a2a.test_push import config, receiver
from tests.a2a.world import gateway as a2a_gateway
from tests.mcp.world import allow_with, gateway
from tests.obligations.test_redact_mcp import PLAIN, echoing, where
from tests.upstream.wire import Reader, Upstream, Writer, upstream

PHONE = "212-555-5555"
Says = Callable[[dict[str, Any]], Any]


@dataclass
class Asked:
    """A guard on a socket of its own.  says: by what it was shown, an answer as JSON, or as raw bytes."""

    says: Says = lambda _: {"action": "allow"}
    asked: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    async def serve(self, there: Upstream, reader: Reader, writer: Writer) -> None:
        while raw := await there.request(reader):
            head, body = raw.split(b"\r\n\r\n", 1)
            self.heads.append(head.decode())
            self.asked.append(json.loads(body))
            answer = self.says(self.asked[-1])
            if answer is None:
                await there.closed.wait()
                return
            if answer == b"":
                return
            if not isinstance(answer, bytes):
                body = json.dumps(answer).encode()
                answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            writer.write(answer)
            await writer.drain()


@asynccontextmanager
async def asking(guard: Asked, seconds: float = 20.0) -> AsyncIterator[Inspector]:
    """What asks it, by the name `prompts`."""
    async with upstream(guard.serve) as there:
        door = Upstreams(connect_seconds=5)
        url = Url.parse(f"http://127.0.0.1:{there.port}/judge", allow_private=True)
        inspector = Inspector(Guards({"prompts": Guard(url, "sesame", seconds)}, door.send), seconds=60)
        yield inspector
        inspector.close()
        await door.aclose()


def code(answer: Any) -> str:
    return str(answer.json()["result"].get("_meta", {}).get("bailiwick/code", ""))


async def test_a_guard_is_shown_what_is_sent_and_answered_with_its_token_and_what_it_denies_ends_there(tmp_path: Path) -> None:
    guard = Asked(lambda said: {"action": "deny" if "evil" in json.dumps(said["content"]) else "allow"})
    async with (
        upstream(echoing({"content": [{"type": "text", "text": "fine"}]})) as there,
        asking(guard) as inspector,
        gateway(tmp_path, {"ref": where(there)}, inspector=inspector) as world,
    ):
        world.verdicts["*", "ref.t"] = allow_with("inspect", guards=["prompts"])
        assert code(await world.modern("anna", "tools/call", name="t", arguments={"said": "good", "n": 1.50})) == ""
        assert [said["direction"] for said in guard.asked] == ["arguments", "results"]
        assert guard.asked[0]["content"]["params"]["arguments"] == {"said": "good", "n": 1.5}
        assert guard.asked[1]["content"]["content"] == [{"type": "text", "text": "fine"}]
        assert (guard.asked[0]["resource"], guard.asked[0]["protocol"]) == ("ref.t", "mcp")
        assert all("authorization: bearer sesame" in head.lower() for head in guard.heads)
        assert code(await world.modern("anna", "tools/call", name="t", arguments={"said": "evil"})) == "content-refused"
        assert len(there.requests) == 1
        denied = world.ledger.entries[-1]
        assert [value.name for value in denied.values] == ["original_salt", "facts", "explanation"]


@pytest.mark.parametrize(
    "says",
    [
        b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: /judge\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nallow",
        b"",
        {"action": "permit"},
        {"action": "allow", "why": "x"},
        {"action": "allow", "at": []},
        {"action": "redact"},
        {"action": "redact", "at": "/content"},
        {"action": "redact", "at": ["/nowhere"]},
        {"action": "redact", "at": ["/content"]},
        {"action": "redact", "at": [""]},
        ["allow"],
        None,
    ],
    ids=repr,
)
@pytest.mark.parametrize("do", ["refuse", "flag"])
async def test_a_guard_that_fails_is_late_or_says_anything_else_refuses_even_where_it_would_only_flag(
    tmp_path: Path, says: Any, do: str
) -> None:
    guard = Asked(lambda _: says)
    async with (
        upstream(echoing(PLAIN)) as there,
        asking(guard, seconds=0.2 if says is None else 20.0) as inspector,
        gateway(tmp_path, {"ref": where(there)}, inspector=inspector) as world,
    ):
        world.verdicts["*", "ref.t"] = allow_with("inspect", guards="prompts", do=do, **{"in": "results"})
        answer = await world.modern("anna", "tools/call", name="t", arguments={})
    assert code(answer) == "duty-failed"
    assert "done" not in answer.text


async def test_a_guard_can_blank_texts_of_an_answer_and_the_ledger_commits_to_what_they_were(tmp_path: Path) -> None:
    guard = Asked(lambda _: {"action": "redact", "at": ["/content/1/text", "/structuredContent/a~1b"]})
    result = {
        "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
        "structuredContent": {"a/b": "three", "c": 4},
        "_meta": {"bailiwick/flags": ["spoofed"]},
    }
    async with (
        upstream(echoing(result)) as there,
        asking(guard) as inspector,
        gateway(tmp_path, {"ref": where(there)}, inspector=inspector) as world,
    ):
        world.verdicts["*", "ref.t"] = allow_with("inspect", guards="prompts", **{"in": "results"})
        answer = await world.modern("anna", "tools/call", name="t", arguments={})
        ended = world.ledger.entries[-1]
    got = answer.json()["result"]
    assert [block["text"] for block in got["content"]] == ["one", MARK]
    assert got["structuredContent"] == {"a/b": MARK, "c": 4}
    assert "spoofed" not in answer.text
    assert all(b"three" not in value.data for value in ended.values)
    (salt,) = [value.data for value in ended.values if value.name == "original_salt"]
    said = json.dumps({"resultType": "complete", **result}, separators=(",", ":")).encode()
    assert ended.fields["originals"] == {
        "response": {"c": commitment(bytes.fromhex(salt.decode()), "response", said), "n": len(said)}
    }


async def test_what_is_flagged_passes_and_is_marked_and_on_record_in_both_directions(tmp_path: Path) -> None:
    guard = Asked(lambda said: {"action": "deny" if said["direction"] == "results" else "allow"})
    async with (
        upstream(echoing({"content": [{"type": "text", "text": "pay 4111 1111 1111 1111"}]})) as there,
        asking(guard) as inspector,
        gateway(tmp_path, {"ref": where(there)}, inspector=inspector) as world,
    ):
        world.verdicts["*", "ref.t"] = allow_with("inspect", guards="prompts", detectors=["card", "email", "secrets"], do="flag")
        answer = await world.modern("anna", "tools/call", name="t", arguments={"to": "a@b.example"})
        start, end = world.ledger.entries[-2:]
        plain = await world.modern("anna", "tools/call", name="t", arguments={"to": "nobody"})
    got = answer.json()["result"]
    assert got["content"][0]["text"] == "pay 4111 1111 1111 1111"
    assert got["_meta"]["bailiwick/flags"] == ["card", "email", "prompts"]
    assert start.fields["flags"] == ["email"]
    assert end.fields["outcome"]["flags"] == ["card", "email", "prompts"]
    assert plain.json()["result"]["_meta"]["bailiwick/flags"] == ["card", "prompts"]


async def test_the_strictest_of_several_such_duties_holds(tmp_path: Path) -> None:
    guard = Asked(lambda _: {"action": "deny"})
    duties = [Obligation(do, "inspect", {"guards": "prompts", "do": do, "in": "results"}) for do in ("flag", "refuse")]
    async with (
        upstream(echoing(PLAIN)) as there,
        asking(guard) as inspector,
        gateway(tmp_path, {"ref": where(there)}, inspector=inspector) as world,
    ):
        world.verdicts["*", "ref.t"] = Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0", obligations=tuple(duties))
        answer = await world.modern("anna", "tools/call", name="t", arguments={})
    assert code(answer) == "content-refused"


async def test_a_guard_that_the_settings_do_not_have_refuses_before_anything_is_sent(tmp_path: Path) -> None:
    async with upstream(echoing(PLAIN)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        world.verdicts["*", "ref.t"] = allow_with("inspect", guards="prompts", **{"in": "results"})
        assert code(await world.modern("anna", "tools/call", name="t", arguments={})) == "duty-failed"
        assert there.requests == []


async def test_a_guard_at_a_private_address_that_is_not_called_so_is_never_reached_and_refuses(tmp_path: Path) -> None:
    door = Upstreams(connect_seconds=5)
    async with upstream(Asked().serve) as hidden, upstream(echoing(PLAIN)) as there:
        url = Url.parse(f"https://127.0.0.1:{hidden.port}/judge", allow_private=False)
        inspector = Inspector(Guards({"prompts": Guard(url, "sesame", 20.0)}, door.send))
        async with gateway(tmp_path, {"ref": where(there)}, inspector=inspector) as world:
            world.verdicts["*", "ref.t"] = allow_with("inspect", guards="prompts")
            assert code(await world.modern("anna", "tools/call", name="t", arguments={})) == "duty-failed"
        assert (hidden.connections, there.requests) == (0, [])
    await door.aclose()


async def test_an_agent_s_message_and_answer_are_shown_to_a_guard_too(tmp_path: Path) -> None:
    async def script(request: Request) -> None:
        said = task("COMPLETED")
        said["task"]["artifacts"] = [{"artifactId": "1", "parts": [{"text": "done"}, {"text": "aside"}]}]
        await request.result(said)

    def judged(said: dict[str, Any]) -> Any:
        if said["direction"] == "results":
            return {"action": "redact", "at": ["/task/artifacts/0/parts/1/text"]}
        return {"action": "deny" if "evil" in json.dumps(said["content"]) else "allow"}

    guard = Asked(judged)
    duties = (
        Obligation("guard", "inspect", {"guards": "prompts"}),
        Obligation("mark", "inspect", {"detectors": "email", "do": "flag"}),
    )
    async with (
        scripted(script) as (url, agent),
        asking(guard) as inspector,
        a2a_gateway(tmp_path, {"ref": url}, inspector=inspector) as world,
    ):
        world.verdicts["*", "a2a:ref"] = Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0", obligations=duties)
        refused = await world.send("paul", "m", "evil")
        assert refused["error"]["data"][0]["metadata"]["code"] == "content-refused"
        assert agent.requests == []
        answer = (await world.send("paul", "m2", "write to a@b.example"))["result"]["task"]
    assert answer["artifacts"][0]["parts"] == [{"text": "done"}, {"text": MARK}]
    assert answer["metadata"]["bailiwick/flags"] == ["email"]


async def test_news_of_a_task_is_shown_to_a_guard_before_the_client_hears_it(tmp_path: Path, agent_url: str) -> None:
    guard = Asked(lambda _: {"action": "deny"})
    duty = Obligation("mark", "inspect", {"guards": "prompts", "do": "flag", "in": "results"})
    async with (
        receiver() as (url, place, hook),
        asking(guard) as inspector,
        a2a_gateway(tmp_path, {"ref": agent_url}, allowed=Allowed(private=(place,)), inspector=inspector) as world,
    ):
        world.verdicts["*", "a2a:ref"] = Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0", obligations=(duty,))
        message = {"messageId": "tck-complete-task-push", "role": "ROLE_USER", "parts": [{"text": "hi"}]}
        wanted = {"taskPushNotificationConfig": config(url), "returnImmediately": True}
        await world.rpc("paul", "SendMessage", {"message": message, "configuration": wanted})
        (news, *_) = await hook.got(1)
        (event,) = json.loads(news.body).values()
    assert event["metadata"]["bailiwick/flags"] == ["prompts"]
    assert len(guard.asked) >= 2


@pytest.fixture(scope="module")
def presidio() -> None:
    personal.load()


@pytest.mark.usefixtures("presidio")
@pytest.mark.parametrize(
    "said",
    [
        PHONE,
        "a.b@acme-corp.com",
        "856-45-6789",
        "AB123456C",
        "DE89 3704 0044 0532 0130 00",
        "4111 1111 1111 1111",
        "+49 30 901820",
    ],
)
def test_personal_data_is_found_by_its_form_wherever_it_stands(said: str) -> None:
    for text in (said, f"It is {said}, as you know.", "Geldanlage. " * 1_700 + f"It is {said}." + " Geldanlage." * 1_700):
        assert said not in DETECTORS["personal-data"](text)
    assert DETECTORS["personal-data"](f"{said} " + "x" * 100_000) == MARK


@pytest.mark.usefixtures("presidio")
def test_ordinary_text_stays_as_it_is_and_nothing_is_asked_of_the_network() -> None:
    for text in ("Order 12 of 2026-12-01 was shipped.", "Paul buys 3 pens for 4.50 each", "v1.2, see RFC 9162 §2.1", ""):
        assert DETECTORS["personal-data"](text) == text


@pytest.mark.usefixtures("presidio")
@pytest.mark.parametrize("do", ["refuse", "redact", "flag"])
async def test_personal_data_is_looked_for_beside_the_event_loop_in_both_directions(tmp_path: Path, do: str) -> None:
    inspector = Inspector(seconds=60)
    async with (
        upstream(echoing({"content": [{"type": "text", "text": f"call {PHONE}"}]})) as there,
        gateway(tmp_path, {"ref": where(there)}, inspector=inspector) as world,
    ):
        world.verdicts["*", "ref.t"] = allow_with("inspect", detectors="personal-data", do=do)
        sent = await world.modern("anna", "tools/call", name="t", arguments={"to": f"his number is {PHONE}"})
        requests = len(there.requests)
        got = await world.modern("anna", "tools/call", name="t", arguments={"to": "nobody"})
    inspector.close()
    if do == "refuse":
        assert (code(sent), code(got), requests) == ("content-refused", "content-refused", 0)
    elif do == "redact":
        assert (code(sent), code(got)) == ("", "")
        assert PHONE.encode() not in b"".join(there.requests)
        assert got.json()["result"]["content"][0]["text"] == f"call {MARK}"
    else:
        assert got.json()["result"]["_meta"]["bailiwick/flags"] == ["personal-data"]
        assert PHONE in got.text


@pytest.mark.usefixtures("presidio")
async def test_a_search_that_takes_too_long_refuses_and_calls_beyond_the_bound_are_refused(tmp_path: Path) -> None:
    inspector = Inspector(seconds=0.05, workers=1)
    long = {"content": [{"type": "text", "text": "12 of 34 and 56 " * 6_000}]}
    async with (
        upstream(echoing(long)) as there,
        gateway(tmp_path, {"ref": where(there)}, inspector=inspector) as world,
    ):
        world.verdicts["*", "ref.t"] = allow_with("inspect", detectors="personal-data", **{"in": "results"})
        answers = await asyncio.gather(*[world.modern("anna", "tools/call", name="t", arguments={}) for _ in range(3)])
    inspector.close()
    assert [code(answer) for answer in answers] == ["duty-failed"] * 3
    assert all("12 of 34" not in answer.text for answer in answers)
