"""Histories of workflows: the same on every replica, one decision after the other, and nothing counts that did not happen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from gateway.model import Refused
from gateway.state import State
from gateway.state import history_rows as rows
from gateway.state.histories import Asked, Kept
from policies.workflows import judge as judging
from policies.workflows import story
from policies.workflows.judge import Spent
from policies.workflows.model import Workflow
from policies.workflows.story import Step
from tests.policies.workflows.conftest import workflow_of

S = story.State
Open = Callable[[], Awaitable[State]]
DAY = 86_400
NOW = 1_788_955_200
"""A Wednesday, noon UTC."""
BUDGET = """\
workflow: w
before:
  - tool: erp.write_po
    needs: risk.score
    by: agent:checker
    same: {supplier: vendor}
    within: 2h
    result: {field: score, max: 60}
budget:
  - {tool: erp.write_po, count: 3, sum: amount, max: 100}
"""


def step(number: int, resource: str = "erp.write_po", actor: str = "agent:helper", at: int = 0, **fields: Any) -> Step:
    sums = {"amount": Decimal(fields.pop("amount", 10))} if resource == "erp.write_po" else {}
    return Step(
        id=f"c{number:03}",
        resource=resource,
        actor=actor,
        subject=fields.pop("subject", "user:dev/paul"),
        at=(NOW + at) * 1_000_000 + number,
        held=frozenset(["w"]),
        marks=MappingProxyType(fields.pop("marks", {})),
        sums=MappingProxyType(sums),
    )


class Flow:
    """One workflow on one replica."""

    def __init__(self, state: State, definition: Workflow, workflow: str = "wf-1") -> None:
        self.histories = state.histories
        self.definition = definition
        self.workflow = workflow

    async def ask(self, one: Step) -> str:
        """The reason for which it is refused, or "ok"."""
        asked = Asked("acme", self.workflow, one.at // 1_000_000 + DAY, one, (self.definition,))
        judged, durable = await self.histories.reserve(asked)
        await durable
        breaches = [breach for each in judged for breach in each.breaches]
        return breaches[0].reason.value if breaches else "ok"

    async def settle(self, one: Step, state: S, **results: Any) -> bool:
        return await self.histories.settle(Kept("acme", self.workflow, one), state, results)

    async def did(self, one: Step, **results: Any) -> None:
        assert await self.ask(one) == "ok"
        assert await self.settle(one, S.OK, **results)


SUPPLIER = {"supplier": "m-77"}
SCORED = {"score": Decimal(31)}


def score(number: int, vendor: str = "m-77", **fields: Any) -> Step:
    return step(number, "risk.score", "agent:checker", marks={"vendor": vendor}, **fields)


async def test_a_step_that_succeeded_satisfies_on_every_replica_and_after_a_restart(open_state: Open) -> None:
    definition = workflow_of(BUDGET)
    one, other = Flow(await open_state(), definition), Flow(await open_state(), definition)
    assert await one.ask(step(1, marks=SUPPLIER)) == "step-missing"
    await other.did(score(2), **SCORED)
    assert await one.ask(step(3, marks=SUPPLIER)) == "ok"
    assert await Flow(await open_state(), definition).ask(step(4, marks=SUPPLIER)) == "ok"
    assert await one.ask(step(5, marks={"supplier": "m-78"})) == "step-missing"
    assert await Flow(await open_state(), definition, "wf-2").ask(step(6, marks=SUPPLIER)) == "step-missing"


@pytest.mark.parametrize("state", [S.FAILED, S.OPEN, S.UNCERTAIN, S.UNSENT, None], ids=str)
async def test_what_failed_is_unknown_or_still_runs_never_satisfies(open_state: Open, state: S | None) -> None:
    flow = Flow(await open_state(), workflow_of(BUDGET))
    assert await flow.ask(score(1)) == "ok"
    if state is not None:
        assert await flow.settle(score(1), state, **SCORED)
    assert await flow.ask(step(2, marks=SUPPLIER)) == "step-missing"


async def test_a_refused_call_leaves_nothing_behind(open_state: Open) -> None:
    flow = Flow(await open_state(), workflow_of(BUDGET))
    assert await flow.ask(step(1, marks=SUPPLIER)) == "step-missing"
    assert await flow.histories.steps("acme", "wf-1") == ()
    assert await flow.histories.workflows() == ()


async def test_a_step_is_settled_once(open_state: Open) -> None:
    flow = Flow(await open_state(), workflow_of(BUDGET))
    await flow.did(score(1), **SCORED)
    assert not await flow.settle(score(1), S.FAILED)
    assert not await flow.settle(step(9), S.OK)
    assert [each.state for each in await flow.histories.steps("acme", "wf-1")] == [S.OK]


async def test_what_came_to_nothing_gives_its_share_back_and_nothing_else_does(open_state: Open) -> None:
    flow = Flow(await open_state(), workflow_of("workflow: w\nbudget: [{tool: erp.write_po, sum: amount, max: 30}]\n"))
    for number, state in enumerate((S.FAILED, S.UNSENT, S.FAILED, S.UNSENT)):
        assert await flow.ask(step(number, amount=30)) == "ok"
        assert await flow.ask(step(100 + number, amount=1)) == "budget-spent"
        assert await flow.settle(step(number), state)
    for number, state in enumerate((S.OK, S.UNCERTAIN, S.OPEN), 10):
        assert await flow.ask(step(number, amount=10)) == "ok"
        assert await flow.settle(step(number), state)
    assert await flow.ask(step(20, amount="0.0000000001")) == "budget-spent"
    assert await flow.ask(step(21, amount=0)) == "ok"


PER: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("per: [subject, day]", {}, {"subject": "user:dev/mia"}),
    ("per: [agent, day]", {}, {"actor": "agent:checker"}),
    ("per: [tool, day]", {}, {"resource": "erp.approve_po"}),
    ("per: [day]", {}, {"at": DAY}),
    ("per: [subject, agent, tool, day]", {}, {"actor": "agent:checker"}),
]


@pytest.mark.parametrize(("per", "same", "other"), PER, ids=[per for per, *_ in PER])
async def test_a_budget_is_counted_over_all_workflows_by_what_it_is_per(
    open_state: Open,
    per: str,
    same: Any,
    other: Any,
) -> None:
    definition = workflow_of(f"workflow: w\nbudget: [{{tool: erp.*, count: 2, {per}}}]\n")
    flows = [Flow(await open_state(), definition, f"wf-{number}") for number in range(4)]
    assert await flows[0].ask(step(1, **same)) == "ok"
    assert await flows[1].ask(step(2, **same)) == "ok"
    assert await flows[2].ask(step(3, **same)) == "budget-spent"
    assert await flows[3].ask(step(4, **other)) == "ok"


async def test_a_budget_is_counted_from_the_steps_where_nobody_has_counted_it(open_state: Open) -> None:
    """A rule that comes into force counts what was done before it."""
    flow = Flow(await open_state(), workflow_of("workflow: w\nonce: [{tool: erp.read}]\nbinds: [{tool: erp.*}]\n"))
    for number in range(3):
        await flow.did(step(number, amount=20))
    flow.definition = workflow_of("workflow: w\nbudget: [{tool: erp.write_po, sum: amount, max: 70, per: [subject, day]}]\n")
    assert await flow.ask(step(3, amount=11)) == "budget-spent"
    assert await flow.ask(step(4, amount=10)) == "ok"
    await flow.histories.recount()
    assert await flow.ask(step(5, amount=1)) == "budget-spent"


async def test_of_calls_that_race_for_the_last_of_a_budget_one_wins(open_state: Open) -> None:
    definition = workflow_of("workflow: w\nbudget: [{tool: erp.write_po, count: 5, sum: amount, max: 45}]\n")
    replicas = [Flow(await open_state(), definition) for _ in range(3)]
    answers = await asyncio.gather(*(replicas[number % 3].ask(step(number)) for number in range(30)))
    assert sorted(answers) == ["budget-spent"] * 26 + ["ok"] * 4


async def test_workflows_that_race_for_one_budget_do_not_exceed_it_and_none_waits_for_ever(
    open_state: Open,
) -> None:
    pairs = [(tool, per) for tool in ("erp.*", "erp.write_po") for per in ("subject", "agent")]
    rules = "\n".join(f"  - {{tool: {tool}, count: 7, per: [{per}, day]}}" for tool, per in pairs)
    definition = workflow_of(f"workflow: w\nbudget:\n{rules}\n")
    states = [await open_state() for _ in range(3)]
    flows = [Flow(states[number % 3], definition, f"wf-{number}") for number in range(12)]
    answers = await asyncio.gather(*(flow.ask(step(10 * n + k)) for n, flow in enumerate(flows) for k in range(3)))
    assert sorted(answers) == ["budget-spent"] * 29 + ["ok"] * 7


async def test_different_persons_are_told_apart_over_workflows(open_state: Open) -> None:
    text = "workflow: w\ndistinct: [{steps: [erp.write_po, erp.approve_po], of: person, same: supplier}]\n"
    definition = workflow_of(text)
    mine, hers = Flow(await open_state(), definition), Flow(await open_state(), definition, "wf-2")
    await mine.did(step(1, marks=SUPPLIER))
    assert await Flow(await open_state(), definition, "wf-3").ask(step(2, "erp.approve_po", marks=SUPPLIER)) == "same-hands"
    assert await mine.ask(step(3, "erp.approve_po", marks={"supplier": "m-78"})) == "ok"
    assert await hers.ask(step(4, "erp.approve_po", marks=SUPPLIER, subject="user:dev/fiona")) == "ok"
    assert await hers.ask(step(5, marks=SUPPLIER, subject="user:dev/fiona")) == "same-hands"


async def test_one_person_cannot_win_both_steps_by_racing(open_state: Open) -> None:
    text = "workflow: w\ndistinct: [{steps: [erp.write_po, erp.approve_po], of: person, same: supplier}]\n"
    definition = workflow_of(text)
    flows = [Flow(await open_state(), definition, f"wf-{number}") for number in range(2)]
    for number in range(0, 20, 2):
        marks = {"supplier": f"m-{number}"}
        both = await asyncio.gather(
            flows[0].ask(step(number, marks=marks)), flows[1].ask(step(number + 1, "erp.approve_po", marks=marks))
        )
        assert sorted(both) == ["ok", "same-hands"]


async def test_a_workflow_is_forgotten_after_its_time_and_not_before(open_state: Open) -> None:
    state = await open_state()
    flow = Flow(state, workflow_of(BUDGET))
    await flow.did(score(1), **SCORED)
    later = Flow(state, flow.definition, "wf-2")
    await later.did(score(2, at=30 * DAY), **SCORED)
    assert len(await flow.histories.steps("acme", "wf-1")) == 1
    await later.did(score(3, at=31 * DAY + 61), **SCORED)
    assert await flow.histories.steps("acme", "wf-1") == ()
    assert len(await later.histories.steps("acme", "wf-2")) == 2


async def test_how_long_histories_are_kept_is_a_setting_and_they_go_without_another_call(url: str) -> None:
    state = await asyncio.to_thread(State.open, url, 2)
    try:
        flow = Flow(state, workflow_of(BUDGET))
        await flow.did(score(1), **SCORED)
        assert await state.histories.sweep(NOW + 3 * DAY) == 0
        assert await state.histories.sweep(NOW + 3 * DAY + 1) == 1
        assert (await state.histories.workflows(), len(state.histories._stories._told)) == ((), 0)
    finally:
        await state.close()


async def test_an_erased_persons_history_is_in_no_row_and_no_replicas_memory(open_state: Open) -> None:
    one, other = await open_state(), await open_state()
    for number, state in enumerate((one, other), 1):
        await Flow(state, workflow_of(BUDGET), f"wf-{number}").did(score(number), **SCORED)
        await Flow(state, workflow_of(BUDGET), f"wf-{number}").did(score(number + 50), **SCORED)
        hers = Flow(state, workflow_of(BUDGET), f"wf-mia-{number}")
        await hers.did(score(number + 100, subject="user:dev/mia"), **SCORED)
        await hers.did(score(number + 150, subject="user:dev/mia"), **SCORED)
    assert await one.people.erase("workflows", "user:dev/paul") == 6
    assert [subject for _, _, subject, _ in await one.histories.workflows()] == ["user:dev/mia"] * 2
    assert sorted(name for _, name in one.histories._stories._told) == ["wf-mia-1"]
    await other.histories.sweep(NOW)  # which every replica does every few minutes
    assert sorted(name for _, name in other.histories._stories._told) == ["wf-mia-2"]
    assert await Flow(other, workflow_of(BUDGET), "wf-mia-2").ask(step(200, marks=SUPPLIER, subject="user:dev/mia")) == "ok"


async def test_a_history_is_bounded(open_state: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.state.histories.MOST_STEPS", 3)
    flow = Flow(await open_state(), workflow_of(BUDGET))
    for number in range(3):
        await flow.did(score(number))
    with pytest.raises(Refused, match="at most 3 steps"):
        await flow.ask(score(4))


async def test_what_is_forgotten_in_memory_is_read_again(open_state: Open) -> None:
    state = await open_state()
    state.histories._stories._most = 2
    flows = [Flow(state, workflow_of(BUDGET), f"wf-{number}") for number in range(5)]
    for flow in flows:
        for number in range(3):
            await flow.did(score(100 * flows.index(flow) + number), **SCORED)
    assert state.histories._stories._size <= 4
    for number, flow in enumerate(flows):
        assert await flow.ask(step(900 + number, marks=SUPPLIER)) == "ok"


# --- every interleaving

MOVES = st.lists(
    st.tuples(
        st.integers(0, 1),  # the replica
        st.integers(0, 2),  # the workflow
        st.sampled_from(["erp.write_po", "risk.score"]),
        st.integers(0, 60),  # the amount
        st.sampled_from([S.OK, S.FAILED, S.UNCERTAIN, S.UNSENT, None]),
        st.booleans(),  # settled at once, or at the end
    ),
    max_size=14,
)
LAWS = """\
workflow: w
before: [{tool: erp.write_po, needs: risk.score}]
budget:
  - {tool: erp.write_po, count: 3, sum: amount, max: 100}
  - {tool: erp.write_po, count: 5, sum: amount, max: 150, per: [subject, day]}
"""


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=MOVES)
def test_no_interleaving_exceeds_a_budget_or_passes_a_missing_step(moves: Any, tmp_path_factory: Any) -> None:
    """Against the definition of both, by all steps that were let through, whoever asked where and whatever became of them."""
    definition = workflow_of(LAWS)
    url = f"sqlite:///{tmp_path_factory.mktemp('laws')}/state.db"
    asyncio.run(_played(definition, url, moves))


async def _played(definition: Workflow, url: str, moves: Any) -> None:
    states = [State.open(url), State.open(url)]
    known: dict[str, tuple[str, Step]] = {}
    late: list[tuple[Flow, Step, S]] = []

    async def move(number: int, replica: int, workflow: int, resource: str, amount: int, state: S | None, at_once: bool) -> None:
        flow, one = Flow(states[replica], definition, f"wf-{workflow}"), step(number, resource, amount=amount)
        if await flow.ask(one) != "ok":
            return
        known[one.id] = flow.workflow, one
        if resource == "erp.write_po":
            done = [s for w, s in known.values() if w == flow.workflow and s.resource == "risk.score" and s.state is S.OK]
            assert done, "a step was passed that had not succeeded"
        if state is not None and at_once:
            known[one.id] = flow.workflow, _as(one, state)
            assert await flow.settle(one, state)
        elif state is not None:
            late.append((flow, one, state))

    half = len(moves) // 2
    for number, each in enumerate(moves[:half]):
        await move(number, *each)
    await asyncio.gather(*(move(half + number, *each) for number, each in enumerate(moves[half:])))
    for flow, one, state in late:
        assert await flow.settle(one, state)
        known[one.id] = flow.workflow, _as(one, state)
    for workflow, one in known.values():
        for purse in judging.purses(definition, one, workflow):
            spent: Spent = judging.spent_by(purse, known.values())
            assert purse.budget.count is None or spent.count <= purse.budget.count
            assert purse.budget.max is None or spent.total <= purse.budget.max
    for workflow in {workflow for workflow, _ in known.values()}:
        live = {s.id: s.state for s in await states[0].histories.steps("acme", workflow)}
        assert live == {s.id: s.state for w, s in known.values() if w == workflow}
    for store in states:
        await store.close()


def _as(one: Step, state: S) -> Step:
    return Step(one.id, one.resource, one.actor, one.subject, one.at, one.held, state, one.marks, one.sums)


# --- planted bugs


def _not_kept(_connection: Any, tenant: str, _spent: Any, shares: Any) -> str:
    return rows.taken(tenant, shares)


def _of_everybody(_stories: Any, connection: Any, _head: Any) -> Any:
    return story.Story(rows.step_of(row) for row in connection.execute(select(rows.STEPS)))


BUGS: dict[str, tuple[object, str, Any]] = {
    "what is drawn is not written down": (rows, "draw", _not_kept),
    "a story is everybody's": (rows.Stories, "told", _of_everybody),
    "whatever happens gives its share back": (rows, "settle", lambda connection, key, one, by="": (
        _SETTLE(connection, key, one, by) and (rows.give_back(connection, _purses(connection, one.id)) or True))),
    "a step is ok before it is": (rows, "row_of", lambda *step: _ROW(*step) | {"state": "ok"}),
}  # fmt: skip
_SETTLE, _ROW = rows.settle, rows.row_of
PLAYED = [
    (0, 0, "risk.score", 0, None, True),
    (1, 0, "erp.write_po", 10, S.OK, True),
    (1, 0, "risk.score", 0, S.OK, True),
    *((number % 2, 0, "erp.write_po", 40, S.OK, True) for number in range(6)),
    *((number % 2, 1, "risk.score", 0, S.OK, True) for number in range(2)),
    *((number % 2, 1, "erp.write_po", 40, None, True) for number in range(6)),
    (0, 2, "erp.write_po", 1, S.OK, True),
]


def _purses(connection: Any, call: str) -> str:
    return str(connection.execute(select(rows.STEPS.c.purses).where(rows.STEPS.c.call == call)).scalar_one())


def test_the_played_moves_are_lawful_without_a_bug(tmp_path: Path) -> None:
    asyncio.run(_played(workflow_of(LAWS), f"sqlite:///{tmp_path}/state.db", PLAYED))


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_of_the_store_is_noticed(bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, wrong = BUGS[bug]
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(AssertionError):
        asyncio.run(_played(workflow_of(LAWS), f"sqlite:///{tmp_path}/state.db", PLAYED))
