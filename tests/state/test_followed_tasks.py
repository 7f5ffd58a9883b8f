"""Steps of tasks: claimed for one record, settled by it alone, and found again by nobody else, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

from gateway.model import new_id
from gateway.state import State
from gateway.state.histories import Claimed, Kept
from policies.workflows import story
from tests.policies.workflows.conftest import workflow_of
from tests.state.test_histories import NOW, Flow, step

S = story.State
Open = Callable[[], Awaitable[State]]
RULES = "workflow: w\nbudget: [{tool: erp.write_po, count: 1, sum: amount, max: 100}]\n"
TASK = "f" * 64


async def opened(flow: Flow, number: int = 1, task: str = TASK) -> Any:
    """A step that went on as a task."""
    one = step(number)
    assert await flow.ask(one) == "ok"
    assert await flow.histories.settle(Kept("acme", flow.workflow, one), S.OPEN, task=task)
    return one


def claims(flow: Flow, record: str, tenant: str = "acme", task: str = TASK, wanted: bool = True) -> Awaitable[Claimed]:
    return flow.histories.claim(tenant, [task], record, lambda _: wanted)


async def test_of_many_looks_on_two_replicas_one_claims_and_settles_once(open_state: Open) -> None:
    definition = workflow_of(RULES)
    flows = [Flow(await open_state(), definition), Flow(await open_state(), definition)]
    one = await opened(flows[0])
    records = [new_id(NOW * 1_000_000) for _ in range(12)]
    found = await asyncio.gather(*(claims(flows[at % 2], record) for at, record in enumerate(records)))
    (winner,) = [record for record, claimed in zip(records, found, strict=True) if claimed.steps]
    assert [claimed.taken for claimed in found].count(True) == 11
    settled = await asyncio.gather(
        *(flows[at % 2].histories.settle(Kept("acme", "wf-1", one), S.FAILED, by=record) for at, record in enumerate(records))
    )
    assert settled.count(True) == 1
    assert settled[records.index(winner)]
    assert await flows[1].ask(step(2)) == "ok", "what it drew is given back"
    assert await flows[0].ask(step(3)) == "budget-spent", "once"


async def test_a_claim_that_came_to_nothing_is_somebody_elses_to_make(open_state: Open) -> None:
    flow = Flow(await open_state(), workflow_of(RULES))
    one = await opened(flow)
    assert (await claims(flow, "r-1")).steps
    assert [by for _, by in await flow.histories.claimed()] == ["r-1"]
    assert not await flow.settle(one, S.OK), "nobody else settles what is claimed"
    await flow.histories.unclaim([one.id], "r-2")
    assert (await claims(flow, "r-2")).taken, "only whoever claimed it gives it back"
    await flow.histories.unclaim([one.id], "r-1")
    (again,) = (await claims(flow, "r-2")).steps
    assert await flow.histories.settle(again, S.OK, {"score": Decimal(31)}, by="r-2")
    (stands,) = await flow.histories.steps("acme", "wf-1")
    assert (stands.state, dict(stands.results), stands.task) == (S.OK, {"score": Decimal(31)}, TASK)
    assert await claims(flow, "r-3") == Claimed((), taken=False), "what is settled is open to nobody"


async def test_another_tenants_task_another_task_and_one_that_nobody_wants_are_not_claimed(open_state: Open) -> None:
    flow = Flow(await open_state(), workflow_of("workflow: w\nbudget: [{tool: erp.write_po, count: 9}]\n"))
    await opened(flow)
    await opened(flow, 2, task="")
    for other in ({"tenant": "globex"}, {"task": "e" * 64}, {"task": ""}, {"wanted": False}):
        assert await claims(flow, "r-1", **other) == Claimed((), taken=False), other  # type: ignore[arg-type]
    assert await flow.ask(step(3)) == "ok"
    running = step(3)
    assert not (await flow.histories.claim("acme", [running.task], "r-1", lambda _: True)).steps
