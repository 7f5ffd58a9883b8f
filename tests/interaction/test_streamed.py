"""Streamed answers through a whole gateway: the record of the end says how many messages went out, and which."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from audit.privacy import commitment
from audit.reader import Record
from tests.interaction.world import MODERN, ROOT, Gateway, Heard, Peers, done
from tests.interaction.world import peers as scripted

SAID = "the supplier is solvent"


class StreamPeers(Peers):
    """A tool that says how far it is, and agents whose tasks go on in events."""

    def answer(self, heard: Heard) -> dict[str, Any]:
        method, params = heard.message["method"], heard.message.get("params", {})
        answer = super().answer(heard)
        if method == "tools/call" and "progressToken" in params.get("_meta", {}):
            told = {"progressToken": params["_meta"]["progressToken"]}
            progress = [{"jsonrpc": "2.0", "method": "notifications/progress", "params": told | {"progress": n}} for n in (1, 2)]
            return {"messages": [*progress, answer]}
        if method == "SendStreamingMessage":
            task = answer["result"]["task"]
            ids = {"taskId": task["id"], "contextId": task["contextId"]}
            working = {"task": task | {"status": {"state": "TASK_STATE_WORKING"}, "artifacts": []}}
            artifact = {"artifactUpdate": ids | {"artifact": {"artifactId": "1", "parts": [{"text": SAID}]}}}
            over = {"statusUpdate": ids | {"status": {"state": "TASK_STATE_COMPLETED"}}}
            return answer | {"result": [working, artifact, over]}
        return answer


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with scripted(StreamPeers()) as world:
        gateway = Gateway(tmp_path_factory.mktemp("streaming"), world)
        try:
            yield gateway.start()
        finally:
            gateway.kill()


def over_mcp(gateway: Gateway) -> httpx.Response:
    return gateway.call("desk.read", gateway.token(), params={"_meta": {"progressToken": "p"}})


def over_a2a(gateway: Gateway) -> httpx.Response:
    message = {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "how do they stand?"}]}
    return gateway.ask("clerk", "SendStreamingMessage", {"message": message}, gateway.token())


def messages(answer: httpx.Response) -> list[bytes]:
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    return [line.removeprefix(b"data: ") for line in answer.content.splitlines() if line.startswith(b"data: ")]


def end_of(gateway: Gateway, answer: httpx.Response) -> Record:
    [end] = gateway.records(kind="call.end", call=answer.headers["Bailiwick-Decision"])
    return end


def held_against(gateway: Gateway, answer: httpx.Response, kept: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return gateway.audit("stream", answer.headers["Bailiwick-Decision"], str(kept), "--reason", "a dispute", *more)


@pytest.mark.parametrize("way", [over_mcp, over_a2a])
def test_the_end_of_a_stream_commits_to_every_message_that_was_released(streaming: Gateway, way: Any, tmp_path: Path) -> None:
    answer = way(streaming)
    kept, end = messages(answer), end_of(streaming, answer)
    assert len(kept) == 3
    salt = bytes.fromhex(streaming.opened(end, "stream_salt").decode())
    running = "00" * 32
    for message in kept:  # as whoever kept them makes it again, with nothing of ours but how a commitment is made
        running = commitment(salt, "stream", bytes.fromhex(running) + message)
    assert end.leaf["stream"] == {"chunks": 3, "c": running}
    assert SAID not in json.dumps(end.leaf)

    (tmp_path / "kept.sse").write_bytes(answer.content)
    said = held_against(streaming, answer, tmp_path / "kept.sse")
    assert (said.returncode, "these 3 messages are those that were released" in said.stdout) == (0, True), said.stderr
    (tmp_path / "kept.jsonl").write_bytes(b"\n".join(kept))
    assert json.loads(held_against(streaming, answer, tmp_path / "kept.jsonl", "--json").stdout)["messages"] == 3
    shown = streaming.audit("show", answer.headers["Bailiwick-Decision"]).stdout
    assert "stream  3 messages" in shown
    assert "3 streamed" in streaming.audit("trace", end.leaf["workflow"]).stdout


def test_what_was_not_sent_so_is_found(streaming: Gateway, tmp_path: Path) -> None:
    answer = over_a2a(streaming)
    (tmp_path / "kept").write_bytes(answer.content.replace(b"solvent", b"bankrupt"))
    said = held_against(streaming, answer, tmp_path / "kept")
    assert (said.returncode, "are not the 3 messages that were released" in said.stderr) == (1, True), said.stdout + said.stderr
    (tmp_path / "kept").write_bytes(answer.content + b'data: {"more": 1}\n\n')
    assert (
        "the first 3 messages are those that were released, and 1 more are not"
        in held_against(streaming, answer, tmp_path / "kept").stderr
    )


def test_an_answer_of_one_message_is_no_stream(streaming: Gateway, tmp_path: Path) -> None:
    answer = streaming.call("desk.read", streaming.token(), version=MODERN)
    assert answer.json()["result"] == done("done") | answer.json()["result"]
    assert "stream" not in end_of(streaming, answer).leaf
    (tmp_path / "kept").write_bytes(answer.content)
    said = held_against(streaming, answer, tmp_path / "kept")
    assert (said.returncode, "no stream is on record" in said.stderr) == (1, True), said.stderr


def test_nobody_learns_the_salt_without_a_reason_and_the_reading_is_on_record(streaming: Gateway, tmp_path: Path) -> None:
    answer = over_a2a(streaming)
    (tmp_path / "kept").write_bytes(answer.content)
    unasked = streaming.audit("stream", answer.headers["Bailiwick-Decision"], str(tmp_path / "kept"))
    assert (unasked.returncode, "--reason" in unasked.stderr) == (2, True)
    held_against(streaming, answer, tmp_path / "kept")
    [read] = streaming.records(kind="audit.read", wanted=f"the stream of record {answer.headers['Bailiwick-Decision']}")
    assert streaming.opened(read, "reason") == b"a dispute"


def test_a_strangers_verifier_takes_records_of_streams(streaming: Gateway) -> None:
    over_a2a(streaming)
    streaming.stop()
    script = [sys.executable, str(ROOT / "audit/verify.py"), str(streaming.ledger_file)]
    run = subprocess.run(script, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    streaming.start()
