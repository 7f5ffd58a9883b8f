"""Tasks and two gateways that share PostgreSQL: many looks at once settle a step once, and both stores say the same after it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from gateway.model import new_id, wall_clock
from gateway.state import State
from gateway.workflows.reconciling import Reconciling
from tests.interaction.task_world import TaskPeers, TaskPlay, task_gateway
from tests.interaction.test_workflow_histories import workflows
from tests.interaction.workflow_world import code_of
from tests.interaction.world import Gateway
from tests.interaction.world import peers as scripted
from tests.postgres_server import database, server

pytestmark = pytest.mark.postgres
ONE = {"supplier": "S-1", "amount": 10}
FILES = {"found": "before: [{tool: <order>, needs: <find>, result: {field: risk, max: 60}}]\nbudget: [{tool: <find>, count: 1}]"}
MINUTE = 60_000_000


@dataclass(frozen=True)
class Replicas:
    """Two processes of one installation, their database, and what stands behind them."""

    one: Gateway
    two: Gateway
    url: str
    peers: TaskPeers

    def play(self) -> tuple[TaskPlay, TaskPlay]:
        """One history, played at both."""
        self.peers.setup()
        self.peers.works = {"desk.find", "a2a:clerk"}
        first = TaskPlay(self.one, self.peers, "found-a2a")
        first.begun("paul")
        return first, TaskPlay(self.two, self.peers, "found-a2a", tokens=first.tokens)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with server() as running, database(running) as url, scripted(TaskPeers()) as upstreams:
        assert isinstance(upstreams, TaskPeers)
        stores: dict[str, Any] = {"state": {"url": url}, "ledger": {"url": url, "origin": "test.invalid/acme"}}
        one = task_gateway(tmp_path_factory.mktemp("replicas"), upstreams, FILES, **stores)
        two = one.twin("twin")
        try:
            one.start()
            two.start()
            yield Replicas(one, two, url, upstreams)
        finally:
            one.stop()
            two.stop()


def test_of_many_looks_at_both_one_settles_and_whoever_looked_may_go_on(replicas: Replicas) -> None:
    for state, code in (("completed", ""), ("failed", "step-missing")):
        one, two = replicas.play()
        task = one.begin("paul:lead", "a2a:clerk", ONE)
        assert code_of(two.send("paul:lead", "a2a:clerk", ONE)) == "budget-spent"
        replicas.peers.move(task, state, {"risk": 5})

        def looked(at: int, one: TaskPlay = one, two: TaskPlay = two, task: str = task) -> str:
            mine = (one, two)[at % 2]
            assert code_of(mine.look("paul:lead", "a2a:clerk", task)) == ""
            return code_of(mine.send("paul:lead", "a2a:hermit", ONE))  # at once, whoever's look it was that settled

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(looked, range(8))) == {code}
        ends = [record.leaf for record in replicas.one.records(kind="call.end") if "settles" in record.leaf]
        (said,) = [each for leaf in ends for each in leaf["settles"] if each["step"] == {"completed": "ok"}.get(state, state)]
        assert said["call"]
        assert code_of(two.send("paul:lead", "a2a:clerk", ONE)) == ("budget-spent" if state == "completed" else "")
    assert workflows(replicas.one, "rebuild", "--check")[1]["differences"] == []


async def test_what_was_claimed_by_a_gateway_that_ended_is_told_by_the_ledger(replicas: Replicas) -> None:
    """On record and not settled: it is settled as the record says.  On no record: somebody else may say."""
    one, _ = replicas.play()
    task = one.begin("paul:lead", "a2a:clerk", ONE)
    replicas.peers.move(task, "completed", {"risk": 5})
    assert code_of(one.look("paul:lead", "a2a:clerk", task)) == ""
    state = await asyncio.to_thread(State.open, replicas.url)
    key = base64.b64decode((replicas.one.folder / "data" / "seal-key").read_text())

    def reconciling(later: int) -> Reconciling:
        return Reconciling(state.histories, lambda _: (replicas.url,), key, lambda: wall_clock() + later * MINUTE, 120)

    try:
        before = await state.histories.steps("acme", one.workflow("paul"))
        assert [step.state.value for step in before] == ["ok"]
        await _ended_between(replicas.url, "")
        assert await reconciling(0).once() == 0, "whoever claimed it may still be at it"
        assert await reconciling(2).once() >= 1
        assert await state.histories.steps("acme", one.workflow("paul")) == before
        await _ended_between(replicas.url, new_id(wall_clock()))
        for later, claimed in ((0, True), (1, True), (3, False)):
            assert await reconciling(later).once() == 0
            assert bool(await state.histories.claimed()) is claimed
    finally:
        await state.close()
    assert code_of(one.look("paul:lead", "a2a:clerk", task)) == ""
    assert code_of(one.send("paul:lead", "a2a:hermit", ONE)) == ""


async def _ended_between(url: str, record: str) -> None:
    """The last step that a look settled, as a gateway leaves it that ends before; `record` in place of the one that says so."""

    def change() -> None:
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            said = ", settler = %s" if record else ""
            newest = "SELECT max(call) FROM workflow_steps WHERE task <> ''"
            query = f"UPDATE workflow_steps SET state = 'open', results = '{{}}'{said} WHERE call = ({newest})"
            connection.execute(query, (record,) if record else ())  # type: ignore[arg-type]

    await asyncio.to_thread(change)
