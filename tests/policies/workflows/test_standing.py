"""What may come next in a workflow, said before anybody asks: held against the rules themselves, over many histories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import pytest

from policies.workflows import judge as judging
from policies.workflows.judge import Past, purses, shared, spent_by
from policies.workflows.model import Before, Budget, Locked, Once, Only, Rule, Within
from policies.workflows.standing import REST, Next, Now, definitions_of, drawn, holding, standing, steps_of
from policies.workflows.story import State, Step, Story
from tests.policies.workflows.conftest import workflow_of
from tests.policies.workflows.meaning import HERE, TOOLS, World
from tests.policies.workflows.test_workflow_laws import world_of

NOW = 1_788_955_200_000_000
MINUTE = 60_000_000
ORDERS = """\
workflow: orders
before:
  - {tool: erp.write_po, needs: contracts.search, by: agent:checker, same: supplier, within: 2h}
  - {tool: erp.write_po, needs: risk.score, same: {supplier: vendor}, result: {field: score, max: 60}}
budget: [{tool: erp.write_po, count: 2, sum: amount, max: 100}]
once: [{tool: erp.write_po, same: supplier}]
distinct: [{steps: [contracts.search, erp.approve_po]}]
"""


def made(resource: str, ago: int = 1, **fields: object) -> Step:
    step = Step(f"{resource}-{ago}", resource, "agent:checker", "user:dev/paul", NOW - ago * MINUTE, frozenset(["orders"]))
    return replace(step, **({"state": State.OK} | fields))  # type: ignore[arg-type]  # fields of a step


def of_supplier(name: str) -> dict[str, object]:
    return {"marks": {"supplier": name, "vendor": name}, "results": {"score": Decimal(31)}}


def stands(*steps: Step, at: int = NOW) -> dict[str, Next]:
    """Every step that the rules name, after these."""
    known = {"orders": workflow_of(ORDERS)}
    story = Story(steps)
    now = Now("acme", "user:dev/paul", HERE, story, at, {}, {})
    definitions = definitions_of(known, story, "orders")
    every = {name: holding(known, definitions, "acme", name) for name in steps_of(definitions)}
    wanted = {purse for name, held in every.items() for purse in drawn(held, name, now)}
    spent = {purse: spent_by(purse, [(HERE, step) for step in steps]) for purse in wanted}
    return {name: standing(name, held, replace(now, spent=spent)) for name, held in every.items()}


def test_every_step_that_rules_name_is_told_with_what_it_waits_for() -> None:
    found = stands()
    assert set(found) == {"erp.write_po", "contracts.search", "risk.score", "erp.approve_po"}
    order = found["erp.write_po"]
    assert [each.missing for each in order.refused] == [("contracts.search",), ("risk.score",)]
    assert "first call contracts.search, by agent:checker, with the same supplier" in order.refused[0].cure
    assert found["contracts.search"].ready
    assert found["erp.approve_po"].when == ("by another agent than the one who did contracts.search",)


def test_a_step_is_ready_once_what_it_needs_is_done_for_one_and_the_same_thing() -> None:
    searched = made("contracts.search", **of_supplier("S-1"))
    assert not stands(searched, made("risk.score", 2, **of_supplier("S-2")))["erp.write_po"].ready
    order = stands(searched, made("risk.score", 2, **of_supplier("S-1")))["erp.write_po"]
    assert order.ready
    told = ("with the same supplier as contracts.search", "with the same supplier as risk.score", "once for the same supplier")
    assert order.when == told


def test_what_is_done_no_longer_counts_after_its_time() -> None:
    both = made("contracts.search", 100, **of_supplier("S-1")), made("risk.score", 100, **of_supplier("S-1"))
    assert stands(*both)["erp.write_po"].ready
    assert [each.missing for each in stands(*both, at=NOW + 30 * MINUTE)["erp.write_po"].refused] == [("contracts.search",)]


def test_what_is_left_of_a_budget_is_told_and_one_that_is_spent_blocks() -> None:
    ready = [made("contracts.search", **of_supplier("S-1")), made("risk.score", 2, **of_supplier("S-1"))]
    one = made("erp.write_po", 3, sums={"amount": Decimal("60.5")}, state=State.RUNNING)
    (left,) = stands(*ready, one)["erp.write_po"].left
    assert (left.count, left.sum, left.total) == (1, "amount", Decimal("39.5"))
    two = replace(one, id="other", sums={"amount": Decimal("39.5")})
    order = stands(*ready, one, two)["erp.write_po"]
    assert ([each.reason.value for each in order.refused], order.left[0].count, order.left[0].total) == (["budget-spent"], 0, 0)


# --- held against the judge

ACTORS = ("agent:x", "agent:y", "agent:new")
MARKS: tuple[dict[str, str], ...] = ({}, {"k": "m1"}, {"k": "m2"}, {"k": "new"})


def told(world: World, resource: str, rules: tuple[Rule, ...]) -> Next:
    workflow = replace(world.workflow, rules=rules)
    story = Story(step for name, step in world.steps if name == HERE)
    now = Now("acme", world.asked.subject, HERE, story, world.asked.at, {}, {})
    spent = {purse: spent_by(purse, world.steps) for purse in drawn([workflow], resource, now)}
    return standing(resource, [workflow], replace(now, spent=spent))


def possible(world: World, resource: str, rules: tuple[Rule, ...]) -> bool:
    """Whether some call of it would be let through: by whomever, with whatever arguments."""
    workflow = replace(world.workflow, rules=rules)
    story = Story(step for name, step in world.steps if name == HERE)
    for actor in ACTORS:
        for marks in MARKS:
            step = replace(world.asked, resource=resource, actor=actor, marks=marks, sums={"n": Decimal("1E-60")})
            others = {
                one: tuple(each for _, each in world.steps if "w" in each.held and one in set(shared(workflow, each)))
                for one in shared(workflow, step)
            }
            spent = {purse: spent_by(purse, world.steps) for purse in purses(workflow, step, HERE)}
            if not judging.judge(workflow, step, Past(story, spent, others), HERE)[1]:
                return True
    return False


def plain(rule: Rule) -> bool:
    """Rules that are not about who makes a call, or about which were made before with the same arguments."""
    match rule:
        case Before() | Within() | Locked() | Only():
            return True
        case Once():
            return not rule.same
        case Budget():
            return rule.by is None and "agent" not in rule.per
        case _:
            return False


def questions() -> Iterator[tuple[World, str]]:
    return ((world, resource) for world in map(world_of, range(1200)) for resource in TOOLS)


def test_a_step_that_somebody_could_make_is_never_said_to_be_blocked() -> None:
    seen = {True: 0, False: 0}
    for world, resource in questions():
        ready = told(world, resource, world.workflow.rules).ready
        seen[ready] += 1
        assert ready or not possible(world, resource, world.workflow.rules), (world, resource)
    assert min(seen.values()) > 500


def test_a_step_that_is_said_to_be_ready_could_be_made() -> None:
    seen = {True: 0, False: 0}
    for world, resource in questions():
        rules = tuple(rule for rule in world.workflow.rules if plain(rule))
        ready = told(world, resource, rules).ready
        seen[ready] += 1
        assert ready == possible(world, resource, rules), (world, resource)
    assert min(seen.values()) > 500


@pytest.mark.parametrize(("steps", "ready"), [((), True), ((made("erp.read"),), False)])
def test_what_no_rule_names_is_locked_out_while_a_lock_stands(steps: tuple[Step, ...], *, ready: bool) -> None:
    workflow = workflow_of("workflow: orders\nbinds: [{agent: agent:helper}]\nlocked: [{steps: [erp.read, erp.write_po]}]\n")
    now = Now("acme", "user:dev/paul", HERE, Story(steps), NOW, {}, {})
    assert standing(REST, [workflow], now).ready is ready
