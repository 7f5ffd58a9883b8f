"""`limit` through a whole gateway: over MCP and A2A, by a second replica, and while calls are under way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.interaction.world import GUARDRAILS, LEGACY, MODERN, Gateway, Heard, Peers, done

DUTIES = """
two-an-hour: {type: limit, calls: 2, within: 1h, per: subject}
one-at-once: {type: limit, at_once: 1, per: [subject, tool]}
small:       {type: limit, request_bytes: 600, answer_bytes: 900}
"""
LINES = """\
p,   *,   acme,   desk.read, call,   require, -,    two-an-hour, LIM-1
p,   *,   acme,   a2a:clerk, send,   require, -,    two-an-hour, LIM-2
p,   *,   acme,   desk.slow, call,   require, -,    one-at-once, LIM-3
p,   *,   acme,   desk.seal, call,   require, -,    small,       LIM-4
p,   role:buyer, acme, desk.seal, call, allow, -,   -,           LIM-5
"""


@pytest.fixture
def limited(own_gateway: Callable[..., Gateway], peers: Peers, tmp_path: Any) -> Gateway:
    made = Gateway(tmp_path, peers)
    folder = made.folder / "policies"
    (folder / "obligations.yaml").write_text((folder / "obligations.yaml").read_text() + DUTIES)
    (folder / "grants" / "guardrails.csv").write_text(GUARDRAILS + LINES)
    return own_gateway()


@pytest.mark.parametrize("version", [LEGACY, MODERN])
def test_a_tool_call_beyond_the_rate_is_told_when_to_come_again_and_others_are_not_held(
    limited: Gateway, peers: Peers, version: str
) -> None:
    for _ in range(2):
        assert not limited.call("desk.read", limited.token(), version=version).json()["result"]["isError"]
    answer = limited.call("desk.read", limited.token(), version=version)  # another workflow of the same person
    result = answer.json()["result"]
    assert result["isError"]
    assert result["_meta"]["bailiwick/code"] == "limit-reached"
    seconds = result["_meta"]["bailiwick/retryAfter"]
    assert 0 < seconds <= 1800
    assert answer.headers["retry-after"] == str(seconds)
    assert f"try again in {seconds} seconds" in result["content"][0]["text"]
    assert len([heard for heard in peers.heard if heard.message["method"] == "tools/call"]) == 2
    (denied,) = limited.records(kind="decision.deny")
    assert denied.leaf["refused"] == {"code": "limit-reached", "detail": "two-an-hour"}


def test_a_message_beyond_the_rate_is_a_429_with_retry_info_on_whichever_replica(limited: Gateway, peers: Peers) -> None:
    twin = limited.twin("twin").start()
    try:
        assert "result" in limited.send("clerk", limited.token()).json()
        assert "result" in twin.send("clerk", limited.token()).json()
        answers = [limited.send("clerk", limited.token()), twin.send("clerk", limited.token())]
        assert "result" in twin.send("clerk", limited.token("mia")).json()
    finally:
        twin.stop()
    for answer in answers:
        assert answer.status_code == 429
        error = answer.json()["error"]
        info, retry = error["data"]
        assert (info["reason"], info["metadata"]["code"]) == ("LIMIT_REACHED", "limit-reached")
        assert retry == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": answer.headers["retry-after"] + "s"}
    assert len(peers.heard) == 3


def test_one_at_once_is_one_and_the_next_goes_when_it_is_over(limited: Gateway, peers: Peers) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait(_: Heard) -> dict[str, Any]:
        begun.set()
        go_on.wait(30)
        return done("done")

    peers.tools["desk.slow"] = wait
    token = limited.token()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(limited.call, "desk.slow", token)
        assert begun.wait(30)
        with httpx.Client(base_url=limited.url, trust_env=False, timeout=60) as client:
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "slow", "arguments": {"text": "x"}}}
            headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
            answer = client.post("/mcp/desk", json=message, headers=headers | {"MCP-Protocol-Version": LEGACY})
        assert answer.json()["result"]["_meta"]["bailiwick/code"] == "limit-reached"
        go_on.set()
        assert not running.result().json()["result"]["isError"]
    for _ in range(50):
        if not (last := limited.call("desk.slow", token).json()["result"])["isError"]:
            break
    assert not last["isError"]


def test_a_request_or_an_answer_that_is_too_large_is_not_passed_on(limited: Gateway, peers: Peers) -> None:
    token = limited.token()
    assert not limited.call("desk.seal", token).json()["result"]["isError"]
    large = limited.call("desk.seal", token, arguments={"text": "x" * 600})
    assert large.json()["result"]["_meta"]["bailiwick/code"] == "limit-reached"
    assert "retry-after" not in large.headers
    assert len(peers.heard) == 1
    peers.tools["desk.seal"] = lambda _: done("y" * 900)
    withheld = limited.call("desk.seal", token)
    assert "yyy" not in withheld.text
    assert withheld.json()["result"]["_meta"]["bailiwick/code"] == "limit-reached"
