"""The engine says what stock Casbin says and hears every rule that a naive reading hears; planted mistakes are found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import differential_policy as campaign
from policies import engine as engine_module
from policies import index as index_module
from policies import model as model_module
from policies.engine import Engine
from policies.membership import Closure
from policies.model import AccessRequest, Decision, Effect

COUNT = 100_000
SEEDS = (20260909, 20261122)
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(600)  # the campaign takes about a minute where nothing else runs


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    """The seeded campaign, half of it in each of two processes."""
    command = [sys.executable, "-m", "bench.differential_policy", "--json", "--varied", "7", "--count", str(COUNT // len(SEEDS))]
    running = [subprocess.Popen([*command, "--seed", str(seed)], cwd=ROOT, stdout=subprocess.PIPE) for seed in SEEDS]
    try:
        return [json.loads(process.communicate()[0]) for process in running]
    finally:
        for process in running:
            process.kill()


def total(results: list[dict[str, Any]], name: str) -> int:
    return sum(int(result[name]) for result in results)


def test_the_engine_answers_as_stock_casbin_and_hears_every_rule_in_a_hundred_thousand_random_checks(
    results: list[dict[str, Any]],
) -> None:
    assert total(results, "mismatches") == 0, [result["examples"] for result in results]
    assert total(results, "checks") >= COUNT
    assert total(results, "policies") > 1000


def test_the_random_questions_are_allowed_and_denied_about_as_often_and_for_every_reason(results: list[dict[str, Any]]) -> None:
    asked = total(results, "questions")
    for result in results:
        assert 0.4 < result["allow_rate"] < 0.7
    for reason in ("guardrail", "user-lacks-right", "agent-lacks-right", "unknown-resource"):
        assert sum(result["reasons"][reason] for result in results) > asked * 0.015, reason


def test_both_paths_are_taken_in_the_random_questions(results: list[dict[str, Any]]) -> None:
    assert total(results, "indexed") > total(results, "questions") * 0.8
    assert total(results, "stock") > total(results, "questions") * 0.02


def test_a_model_that_the_index_does_not_understand_takes_the_stock_path_and_says_why() -> None:
    bundle = campaign.with_rules([], [], "mixed-fields")
    engine = Engine(bundle)
    assert engine.path == "stock"
    assert "mixes fields" in engine.path_reason


def test_the_shipped_model_takes_the_indexed_path() -> None:
    assert Engine(campaign.base()).path == "indexed"


# --- planted mistakes

Patch = pytest.MonkeyPatch


def only_the_person_and_the_last_agent(patch: Patch) -> None:
    real = model_module.questions
    patch.setattr(engine_module, "questions", lambda s, a, x: real(s, a[-1:], x))


def the_chain_is_reversed(patch: Patch) -> None:
    real = model_module.questions
    patch.setattr(engine_module, "questions", lambda s, a, x: real(s, a[::-1], x))


def an_allow_overrides_a_deny(patch: Patch) -> None:
    patch.setattr(index_module, "_verdicts", lambda _effector: (False, True, False, True))


def a_deny_alone_allows(patch: Patch) -> None:
    patch.setattr(index_module, "_verdicts", lambda _effector: (False, True, True, False))


def a_require_line_grants(patch: Patch) -> None:
    patch.setattr(index_module, "_BITS", {"allow": 1, "deny": 2, "require": 1})


def nothing_said_is_a_yes(patch: Patch) -> None:
    patch.setattr(index_module, "_verdicts", lambda _effector: (True, True, False, False))


def unknown_is_a_yes(patch: Patch) -> None:
    def holds(self: Any, condition: str, _effect: str) -> bool:
        return condition == "-" or self._conditions[condition](self._gather()) is not False

    patch.setattr(engine_module._Ask, "holds", holds)


def unknown_is_a_no(patch: Patch) -> None:
    def holds(self: Any, condition: str, _effect: str) -> bool:
        return condition == "-" or self._conditions[condition](self._gather()) is True

    patch.setattr(engine_module._Ask, "holds", holds)


def conditions_are_ignored(patch: Patch) -> None:
    patch.setattr(engine_module._Ask, "holds", lambda _self, _condition, _effect: True)


def tenants_are_ignored(patch: Patch) -> None:
    patch_shape(patch, dom=lambda _r, _p: True)


def actions_are_ignored(patch: Patch) -> None:
    patch_shape(patch, act=lambda _r, _p: True)


def a_right_to_call_does_not_include_the_right_to_relay(patch: Patch) -> None:
    patch_shape(patch, act=lambda r, p: p in (r, "*"))


def lines_for_everybody_are_missed(patch: Patch) -> None:
    patch_shape(patch, wide_subjects=())


def patterns_are_missed(patch: Patch) -> None:
    patch_shape(patch, objects=frozenset({"equal", "set"}))


def sets_are_missed(patch: Patch) -> None:
    patch_shape(patch, objects=frozenset({"equal", "pattern"}))


def roles_are_missed(patch: Patch) -> None:
    patch_shape(patch, roles=False)


def roles_of_one_tenant_hold_in_all(patch: Patch) -> None:
    real = Closure.of
    patch.setattr(Closure, "of", lambda self, name, _tenant: real(self, name, "north") | real(self, name, "south"))


def groups_are_missed(patch: Patch) -> None:
    patch.setattr(Closure, "of_subject", lambda self, name, _groups, tenant: self.of(name, tenant))


def agents_have_the_persons_groups(patch: Patch) -> None:
    def asker(self: Any, question: Any, request: AccessRequest) -> Any:
        names = self._closure.of_subject(question.principal, request.groups, request.tenant)
        return index_module.Asker.of(question.principal, names)

    patch.setattr(engine_module.Engine, "_asker", asker)


def rules_are_heard_out_of_order(patch: Patch) -> None:
    patch.setattr(index_module, "_order", lambda row: -row.order)


def duties_of_the_first_principal_alone(patch: Patch) -> None:
    real = Engine._obligations
    patch.setattr(Engine, "_obligations", lambda self, answers: real(self, answers[:1]))


def one_yes_is_enough(patch: Patch) -> None:
    real = Engine._decide

    def decide(self: Engine, request: AccessRequest) -> Decision:
        decision = real(self, request)
        some = any(answer.allowed for answer in decision.answers)
        return Decision(Effect.ALLOW, decision.reason, decision.bundle, decision.answers) if some else decision

    patch.setattr(Engine, "_decide", decide)


def patch_shape(patch: Patch, **changes: Any) -> None:
    real = index_module.Shape.of

    def of(matcher: str) -> Any:
        shape = real(matcher)
        fields = {name: getattr(shape, name) for name in ("dom", "act", "objects", "wide_objects", "roles", "wide_subjects")}
        return index_module.Shape(**(fields | changes))

    patch.setattr(index_module.Shape, "of", of)


MISTAKES: list[Callable[[Patch], None]] = [
    only_the_person_and_the_last_agent,
    the_chain_is_reversed,
    an_allow_overrides_a_deny,
    a_deny_alone_allows,
    a_require_line_grants,
    nothing_said_is_a_yes,
    unknown_is_a_yes,
    unknown_is_a_no,
    conditions_are_ignored,
    tenants_are_ignored,
    actions_are_ignored,
    a_right_to_call_does_not_include_the_right_to_relay,
    lines_for_everybody_are_missed,
    patterns_are_missed,
    sets_are_missed,
    roles_are_missed,
    roles_of_one_tenant_hold_in_all,
    groups_are_missed,
    agents_have_the_persons_groups,
    rules_are_heard_out_of_order,
    duties_of_the_first_principal_alone,
    one_yes_is_enough,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda f: f.__name__)
def test_the_comparison_finds_a_planted_mistake(mistake: Callable[[Patch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    assert campaign.run(1500, seed=7, until_wrong=True)["mismatches"] > 0


def test_without_a_planted_mistake_the_same_questions_show_no_difference() -> None:
    assert campaign.run(800, seed=7, until_wrong=True)["mismatches"] == 0
