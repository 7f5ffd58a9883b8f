"""A server that fails: what it was asked fails with it, another is started no sooner than it should be, nobody waits for ever."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from gateway.mcp.crew import UNHEALTHY, Backoff, Terms
from tests.mcp.world import World, answer_of
from tests.stdio.test_eras import Peers, peer


async def failing(world: World, person: str, name: str = "crash") -> str:
    said = (await world.modern(person, "tools/call", name=name)).json()
    assert said["error"]["code"] == -31502
    return str(said["error"]["data"]["code"])


async def until_seen(peers: Peers, calls: int) -> None:
    async with asyncio.timeout(10):
        while [method for method, _ in (await peers.who("carl"))["seen"]].count("tools/call") < calls:
            pass


async def test_all_that_a_shared_process_was_asked_fails_with_it_and_the_next_call_starts_another(tmp_path: Path) -> None:
    async with peer(tmp_path, "modern") as peers:
        waiting = [asyncio.create_task(failing(peers.world, person, "slow")) for person in ("anna", "ben")]
        await until_seen(peers, 3)
        assert await failing(peers.world, "carl") == "upstream-closed"
        assert await asyncio.gather(*waiting) == ["upstream-closed"] * 2
        first, again = peers.started[0], await peers.who("anna")
        assert (len(peers.started), first.ended != "") == (2, True)
        assert again["seen"] == [["server/discover", None], ["tools/call", None]]


async def test_one_that_ends_again_and_again_is_started_ever_later_and_called_unhealthy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with peer(tmp_path, "modern", first_wait=30.0) as peers:
        kinds = [await failing(peers.world, "anna") for _ in range(2)]
        assert kinds == ["upstream-closed"] * 2
        assert peers.server.crew.healthy
        assert [await failing(peers.world, person) for person in ("anna", "ben")] == ["upstream-connect"] * 2
        assert len(peers.started) == 2  # nothing was started in vain
    async with peer(tmp_path, "modern", first_wait=0.0) as peers:
        for _ in range(UNHEALTHY):
            await failing(peers.world, "anna")
        assert not peers.server.crew.healthy
        assert "the server ref is unhealthy: it ended 3 times in a row" in caplog.text
        assert (await peers.who("ben"))["era"] == "modern"  # it may still come to itself


async def test_somebodys_own_failing_process_keeps_nobody_else_from_theirs(tmp_path: Path) -> None:
    async with peer(tmp_path, "legacy", first_wait=30.0) as peers:
        for _ in range(2):
            session = await peers.world.handshake("anna")
            await peers.world.legacy("anna", "tools/call", session=session, name="crash")
        info = {"name": "test", "version": "1"}
        again = await peers.world.legacy("anna", "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=info)
        assert again.json()["error"]["data"]["code"] == "upstream-connect"
        assert (await peers.who("ben", await peers.world.handshake("ben")))["era"] == "legacy"


def test_the_wait_grows_is_bounded_never_the_same_for_all_and_forgotten_after_a_steady_life() -> None:
    for luck in (0.0, 0.5, 1.0):
        backoff, now, waits = Backoff(Terms(), lambda luck=luck: luck), 1000.0, []  # type: ignore[misc]
        for _ in range(12):
            backoff.failed(("it",), 0.1, now)
            waits.append(backoff.wait(("it",), now))
            now += waits[-1]
        assert waits[0] == 0.0
        assert waits[1:5] == [wait * (0.5 + luck / 2) for wait in (0.5, 1.0, 2.0, 4.0)]
        assert max(waits) == waits[-1] == 30.0 * (0.5 + luck / 2)
        assert backoff.worst(now) == 12
        assert backoff.failed(("it",), 61.0, now) == 1  # it had lived well
        assert backoff.worst(now + 61.0) == 0
        for key in range(5000):  # whoever fails under ever new names
            backoff.failed((str(key),), 0.0, now)
        assert len(backoff._failed) <= 4097


@pytest.mark.parametrize(("word", "kind"), [("leaves", "closed"), ("babbles", "closed"), ("deaf", "timeout")])
async def test_a_server_that_never_comes_up_fails_the_handshake_in_time_and_is_gone(tmp_path: Path, word: str, kind: str) -> None:
    async with peer(tmp_path, "legacy", word, start_seconds=0.5, line_bytes=1 << 20) as peers:
        info = {"name": "test", "version": "1"}
        said = await peers.world.legacy("anna", "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=info)
        assert said.json()["error"]["data"]["code"] == f"upstream-{kind}"
        assert (await peers.world.modern("ben", "tools/list")).json()["error"]["code"] == -31502
        assert peers.server.running() == 0
        async with asyncio.timeout(20):
            await asyncio.gather(*(process.wait() for process in peers.started))


async def test_what_is_no_message_and_a_flood_of_errors_are_passed_over(tmp_path: Path) -> None:
    async with peer(tmp_path, "modern") as peers:
        assert (await peers.who("anna", name="garbage"))["era"] == "modern"
        assert (await peers.who("anna", name="stderr"))["era"] == "modern"
        assert len(peers.started) == 1


async def test_one_that_does_not_read_is_ended_and_holds_no_more_than_so_much(tmp_path: Path) -> None:
    async with peer(tmp_path, "modern") as peers:
        await peers.who("anna")
        resting = asyncio.create_task(peers.world.modern("anna", "tools/call", name="rest", arguments={"seconds": 600}))
        await asyncio.sleep(0.1)
        big = {"data": "x" * 3_900_000}
        said = await asyncio.gather(*(peers.world.modern("ben", "tools/call", name="log", arguments=big) for _ in range(4)))
        assert {answer.json()["error"]["code"] for answer in said} == {-31502}
        assert (await resting).json()["error"]["code"] == -31502
        assert (await peers.who("ben"))["era"] == "modern"


async def test_its_end_comes_however_often_whoever_waits_for_it_is_cancelled(tmp_path: Path) -> None:
    async with peer(tmp_path, "legacy", "stubborn") as peers:
        session = await peers.world.handshake("anna")
        pid = (await peers.who("anna", session))["pid"]
        closing = asyncio.create_task(peers.server.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        again = await peers.world.legacy("anna", "tools/call", session=session, name="who")
        assert again.status_code == 404
        async with asyncio.timeout(20):
            await peers.started[0].wait()  # it ignores the end of its input, and SIGTERM
        assert pid not in running()


def running() -> set[int]:
    return {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()}


async def test_as_many_as_may_run_and_the_longest_unused_makes_room_but_none_that_works(tmp_path: Path) -> None:
    async with peer(tmp_path, "legacy", children=2) as peers:
        sessions = {person: await peers.world.handshake(person) for person in ("anna", "ben")}
        working = asyncio.create_task(peers.world.legacy("anna", "tools/call", session=sessions["anna"], name="slow", rpc_id=9))
        async with asyncio.timeout(10):
            while [method for method, _ in (await peers.who("anna", sessions["anna"]))["seen"]].count("tools/call") < 2:
                pass
        await peers.world.handshake("carl")
        assert (await peers.world.legacy("ben", "tools/call", session=sessions["ben"], name="who")).status_code == 404
        await peers.world.legacy("anna", "notifications/cancelled", session=sessions["anna"], rpc_id=None, requestId=9)
        assert answer_of(await working)["id"] == 9


async def test_one_that_nobody_uses_is_ended(tmp_path: Path) -> None:
    async with peer(tmp_path, "modern", keep_seconds=0.1) as peers:
        await peers.who("anna")
        async with asyncio.timeout(10):
            await peers.started[0].wait()
        assert peers.server.running() == 0
        assert peers.server.crew.healthy  # it was ended, and did not fail


async def test_a_child_that_ended_is_in_the_log_with_its_last_words_and_not_as_one_that_was_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with peer(tmp_path, "modern") as peers:
        await peers.who("anna")
    assert "ended by itself" not in caplog.text
