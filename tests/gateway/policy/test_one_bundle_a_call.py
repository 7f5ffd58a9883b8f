"""No call sees two bundles: real sockets, a process, and policy that changes under it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from policies.bundle import load_texts
from tests.gateway.policy.live import ASKED_ONLY, QUICK, live, only, write
from tests.interaction.world import Heard, Peers, done, plain

SWAPS = 12
CALLERS = 4
READ, SLOW = only("desk.read"), only("desk.slow")
ALLOWED = {load_texts(READ).digest: "read", load_texts(SLOW).digest: "slow"}
LIST = {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {}}
FRAME = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"}


def test_under_load_each_answer_and_its_record_are_of_exactly_one_bundle(tmp_path: Path, peers: Peers) -> None:
    """Two bundles, each granting what the other does not; they are swapped while callers call and list."""
    over = threading.Event()
    answers: list[tuple[str, httpx.Response]] = []

    with live(tmp_path, peers, READ, **QUICK) as running:
        gateway, token = running.gateway, running.admin

        def caller(number: int) -> None:
            with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as http:
                frame = FRAME | {"Authorization": f"Bearer {token}"}
                while not over.is_set():
                    for tool in ("read", "slow"):
                        params = {"name": tool, "arguments": {"text": "hello"}}
                        message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
                        answers.append((tool, http.post("/mcp/desk", json=message, headers=frame)))
                    answers.append(("list", http.post("/mcp/desk", json=LIST, headers=frame)))

        with ThreadPoolExecutor(CALLERS) as pool:
            callers = [pool.submit(caller, number) for number in range(CALLERS)]
            try:
                for number in range(SWAPS):
                    files = (SLOW, READ)[number % 2]
                    write(running.folder, files)
                    running.becomes(load_texts(files).digest)
            finally:
                over.set()
            for each in callers:
                each.result()
        records = {record.id: record for record in gateway.records() if record.kind in {"call.start", "decision.deny"}}

    seen = {"read": 0, "slow": 0}
    for asked, answer in answers:
        record = records[answer.headers["bailiwick-decision"]]
        (digest,) = {record.leaf["decision"]["policy"]}
        granted = ALLOWED[digest]
        seen[granted] += 1
        if asked == "list":
            assert [tool["name"] for tool in answer.json()["result"]["tools"]] == [granted]
        elif asked == granted:
            assert record.kind == "call.start", answer.text
            assert plain(answer.json()["result"]) == done("done")
        else:
            assert record.kind == "decision.deny"
            assert "result" not in answer.json()
    assert min(seen.values()) > SWAPS, seen  # both bundles did decide
    assert {record.leaf["decision"]["policy"] for record in records.values()} == set(ALLOWED)


def test_a_call_that_began_before_the_swap_ends_under_the_bundle_it_began_with(tmp_path: Path, peers: Peers) -> None:
    """The upstream holds its list back until another bundle is in force; the list is still narrowed by the first one."""
    arrived, swapped = threading.Event(), threading.Event()

    def held(heard: Heard) -> dict[str, Any]:
        if heard.message["method"] == "tools/list":
            arrived.set()
            assert swapped.wait(60)
        return Peers.answer(peers, heard)

    peers.answer = held  # type: ignore[method-assign]
    with live(tmp_path, peers, READ, **ASKED_ONLY) as running, ThreadPoolExecutor(1) as pool:
        frame = FRAME | running.frame
        waiting = pool.submit(lambda: httpx.post(f"{running.gateway.url}/mcp/desk", json=LIST, headers=frame, timeout=60))
        assert arrived.wait(60)
        write(running.folder, SLOW)
        assert running.reload().json()["active"] == {"result": "activated", "digest": load_texts(SLOW).digest}
        assert "result" in running.gateway.call("desk.slow", running.admin).json()  # the new one decides
        swapped.set()
        answer = waiting.result()
        (record,) = [each for each in running.gateway.records() if each.id == answer.headers["bailiwick-decision"]]
    assert [tool["name"] for tool in answer.json()["result"]["tools"]] == ["read"]
    assert record.leaf["decision"]["policy"] == load_texts(READ).digest


def test_what_a_caller_may_know_of_is_answered_by_the_bundle_of_its_call(tmp_path: Path, peers: Peers) -> None:
    """A server of which nothing is granted any more is unknown from the next call on, and known again after the next swap."""
    nothing = only("vault.open")
    with live(tmp_path, peers, READ, **ASKED_ONLY) as running:
        for files, known in ((READ, True), (nothing, False), (READ, True)):
            write(running.folder, files)
            assert running.reload().status_code == 200
            answer = running.gateway.http.post("/mcp/desk", json=LIST, headers=FRAME | running.frame)
            assert ("result" in answer.json()) is known, answer.text
            absent = running.gateway.http.post("/mcp/nowhere", json=LIST, headers=FRAME | running.frame)
            assert "result" not in absent.json()
            assert known or answer.status_code == absent.status_code
