"""`/mcp` at two replicas without stickiness: an answer reaches the call that waits for it, whichever of them it is given to."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.aggregate.elsewhere import Elsewhere
from gateway.mcp.sealed import Sealed
from gateway.model import wall_clock
from gateway.state import State
from gateway.state.notices import Notices
from tests.mcp.aggregate_world import of_era
from tests.mcp.test_aggregate_questions import ASKS, FORM, Asker, answered, both, calling
from tests.mcp.world import World, gateway
from tests.postgres_server import Server, database, server


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(params=["polled", pytest.param("told", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store that is looked into again and again, and one whose replicas are told."""
    if request.param == "polled":
        monkeypatch.setattr("gateway.mcp.aggregate.elsewhere.POLL_SECONDS", 0.02)
        yield f"sqlite:///{tmp_path}/state.db"
    else:
        monkeypatch.setattr("gateway.mcp.aggregate.elsewhere.POLL_SECONDS", 3600)
        with database(request.getfixturevalue("postgres")) as made:
            yield made


@asynccontextmanager
async def replicas(folder: Path, url: str, servers: dict[str, Any]) -> AsyncIterator[tuple[World, World, State]]:
    """Two gateways that share their keys and a store."""
    sealed = Sealed([secrets.token_bytes(32)])
    async with AsyncExitStack() as stack:
        worlds: list[World] = []
        for me in ("first", "second"):
            state = await asyncio.to_thread(State.open, url)
            stack.push_async_callback(state.close)
            shared = Elsewhere(state.tickets, sealed, wall_clock)
            if Notices.possible(url):
                notices = Notices(url, "bailiwick_answers", me, shared.wake)
                stack.push_async_callback(notices.aclose)
                shared.tell = notices.say
                notices.start()
                await asyncio.wait_for(notices.listening.wait(), 20)
            public = {"public_url": worlds[0].url} if worlds else {}
            world = gateway(folder, servers, sealed=sealed, shared=lambda _, own=shared: own, **public)
            worlds.append(await stack.enter_async_context(world))
        yield worlds[0], worlds[1], state


@pytest.mark.parametrize("kind", ["old", "new"])
async def test_an_answer_reaches_the_call_that_waits_whichever_replica_it_is_given_to(
    tmp_path: Path, server_url: str, url: str, kind: str
) -> None:
    async with replicas(tmp_path, url, both(server_url)) as (first, second, _):
        session = await first.handshake("anna", "", capabilities=ASKS)
        for asking, telling in ((first, second), (second, first), (first, first)):
            async with calling(asking, session, FORM[kind][0], **FORM[kind][1]) as stream:
                question = await stream.until("elicitation/create")
                assert await answered(telling, session, question["id"]) == 202
                assert "Ada" in json.dumps(await stream.next())


async def test_a_refusal_at_another_replica_ends_the_call_and_a_second_answer_changes_nothing(tmp_path: Path, url: str) -> None:
    asker = Asker(rounds=1)
    async with asker.served() as there, replicas(tmp_path, url, {"srv": of_era("srv", there, "modern")}) as (first, second, _):
        session = await first.handshake("anna", "", capabilities=ASKS)
        async with calling(first, session, "srv__t") as stream:
            question = await stream.next()
            assert await answered(second, session, question["id"], error={"code": -1, "message": "no"}) == 202
            await answered(second, session, question["id"])
            assert (await stream.next())["result"]["_meta"]["bailiwick/code"] == "question-unanswered"
        assert await answered(first, session, question["id"]) == 400
    assert asker.answers == []


async def test_at_another_replica_nobody_else_answers_and_what_is_left_is_sealed(tmp_path: Path, server_url: str) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    async with replicas(tmp_path, url, both(server_url)) as (first, second, state):
        anna, again = [await first.handshake("anna", "", capabilities=ASKS) for _ in range(2)]
        ben = await first.handshake("ben", "", capabilities=ASKS)
        async with calling(first, anna, FORM["new"][0]) as stream:
            question = await stream.until("elicitation/create")
            for person, session, status in (("ben", ben, 400), ("ben", anna, 404), ("anna", again, 400)):
                assert await answered(second, session, question["id"], person=person) == status
            assert await answered(second, anna, question["id"], result={"action": "maybe"}) == 400
            assert await answered(second, anna, question["id"] + "A") == 400
            too_long = {"action": "accept", "content": {"name": "x" * 300_000}}
            assert await answered(second, anna, question["id"], result=too_long) == 400
            assert await answered(second, anna, question["id"]) == 202
            assert await answered(second, anna, question["id"]) == 400  # one is there already
            kept = await asyncio.to_thread((tmp_path / "state.db-wal").read_bytes)
            assert question["id"].encode() not in kept
            assert b"Ada" not in kept
    assert state is not None


async def test_where_the_store_is_away_an_answer_is_refused_there_and_still_counts_where_it_is_waited_for(
    tmp_path: Path, server_url: str
) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    async with replicas(tmp_path, url, both(server_url)) as (first, second, state):
        session = await first.handshake("anna", "", capabilities=ASKS)
        async with calling(first, session, FORM["new"][0]) as stream:
            question = await stream.until("elicitation/create")
            await state.close()
            assert await answered(second, session, question["id"]) == 500
            assert second.ledger.kinds() == ["decision.deny"]
            assert await answered(first, session, question["id"]) == 202
            assert "Ada" in json.dumps(await stream.next())


async def test_without_a_store_in_common_an_answer_that_another_replica_waits_for_is_refused_on_record(
    tmp_path: Path, server_url: str
) -> None:
    sealed = Sealed([secrets.token_bytes(32)])
    async with (
        gateway(tmp_path, both(server_url), sealed=sealed) as first,
        gateway(tmp_path, both(server_url), sealed=sealed, public_url=first.url) as second,
    ):
        session = await first.handshake("anna", "", capabilities=ASKS)
        async with calling(first, session, FORM["new"][0]) as stream:
            question = await stream.until("elicitation/create")
            assert await answered(second, session, question["id"]) == 400
            assert second.ledger.kinds() == ["decision.deny"]
            assert await answered(first, session, question["id"]) == 202
            assert "Ada" in json.dumps(await stream.next())
