"""Laws that hold for every policy and every question: what adding, removing, reordering and breaking may and may not change."""

from __future__ import annotations

import gc
import random
import sys
from dataclasses import replace
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as varied

from bench import differential_policy as campaign
from policies.bundle import Bundle, Rule
from policies.engine import Engine
from policies.model import OF_WORKFLOWS, AccessRequest, Decision, Effect, Reason, Source

SEEDS = st.integers(min_value=0, max_value=2**32)
ENOUGH = settings(max_examples=50, deadline=None, derandomize=True)


def world(seed: int) -> tuple[random.Random, Bundle, list[AccessRequest]]:
    rng = random.Random(seed)
    bundle, asked = campaign.scenario(rng)
    return rng, bundle, asked


def line(rng: random.Random, effect: str, **fixed: str) -> Rule:
    made = campaign.with_rules([campaign._line(rng, effect=effect, **fixed) | {"id": "NEW-1"}], [])
    return made.rules[0]


def with_line(bundle: Bundle, rng: random.Random, rule: Rule) -> Bundle:
    rules = list(bundle.rules)
    rules.insert(rng.randrange(len(rules) + 1), rule)
    return replace(bundle, rules=tuple(rules))


def heard(decision: Decision) -> list[tuple[str, bool, frozenset[str]]]:
    return [(a.question.principal, a.allowed, frozenset(m.rule for m in a.matched)) for a in decision.answers]


def test_the_laws_are_tried_on_questions_that_are_allowed_about_as_often_as_denied() -> None:
    decisions = []
    for seed in range(150):
        _, bundle, asked = world(seed)
        engine = Engine(bundle)
        decisions += [(len(request.actors), engine.decide(request)) for request in asked]
    allowed = [chain for chain, decision in decisions if decision.allowed]
    assert 0.4 < len(allowed) / len(decisions) < 0.7
    assert set(allowed) == {0, 1, 2, 3}, "chains of every length are allowed sometimes"
    assert {decision.reason for _, decision in decisions} >= set(Reason) - {Reason.DECISION_ERROR} - OF_WORKFLOWS
    assert any(decision.obligations for _, decision in decisions)
    assert any(answer.near for _, decision in decisions for answer in decision.answers)


@ENOUGH
@given(SEEDS)
def test_another_agent_earlier_in_the_chain_never_grants(seed: int) -> None:
    rng, bundle, asked = world(seed)
    engine = Engine(bundle)
    for request in asked:
        at = rng.randrange(len(request.actors) + 1)
        longer = varied(request, actors=(*request.actors[:at], rng.choice(campaign.AGENTS), *request.actors[at:]))
        if at < len(request.actors) or not request.actors:
            assert engine.decide(request).allowed or not engine.decide(longer).allowed


@ENOUGH
@given(SEEDS)
def test_a_call_is_never_allowed_beyond_the_person_and_beyond_each_agent(seed: int) -> None:
    _, bundle, asked = world(seed)
    engine = Engine(bundle)
    for request in asked:
        decision = engine.decide(request)
        if decision.allowed:
            assert engine.decide(varied(request, actors=())).allowed
            assert all(any(m.effect == "allow" for m in answer.matched) for answer in decision.answers)
            assert all(m.effect != "deny" for m in decision.matched)


@ENOUGH
@given(SEEDS)
def test_a_deny_line_for_any_principal_of_the_chain_or_for_everybody_denies(seed: int) -> None:
    rng, bundle, asked = world(seed)
    for request in asked:
        who = rng.choice([request.subject, *request.actors, *(f"idp:{group}" for group in request.groups), "*"])
        tool = rng.choice([*campaign._patterns(request.resource), "*"])
        rule = line(rng, "deny", who=who, tenant=rng.choice([request.tenant, "*"]), tool=tool, action="*", when="-")
        decision = Engine(with_line(bundle, rng, rule)).decide(request)
        assert decision.reason in (Reason.GUARDRAIL, Reason.UNKNOWN_RESOURCE)
        assert decision.effect is Effect.DENY


@ENOUGH
@given(SEEDS)
def test_the_order_of_lines_changes_nothing(seed: int) -> None:
    rng, bundle, asked = world(seed)
    shuffled = replace(bundle, rules=tuple(rng.sample(bundle.rules, len(bundle.rules))), roles=bundle.roles[::-1])
    first, second = Engine(bundle), Engine(shuffled)
    for request in asked:
        one, other = first.decide(request), second.decide(request)
        assert heard(one) == heard(other)
        assert (one.effect, one.reason, one.missing, one.visible) == (other.effect, other.reason, other.missing, other.visible)
        assert {d.name for d in one.obligations} == {d.name for d in other.obligations}


@ENOUGH
@given(SEEDS)
def test_a_deny_line_never_grants_an_allow_line_never_takes_and_a_require_line_only_adds_duties(seed: int) -> None:
    rng, bundle, asked = world(seed)
    before = Engine(bundle)
    after = {e: Engine(with_line(bundle, rng, line(rng, e))) for e in ("allow", "deny", "require")}
    for request in asked:
        old = before.decide(request)
        assert old.allowed or not after["deny"].decide(request).allowed
        assert after["allow"].decide(request).allowed or not old.allowed
        required = after["require"].decide(request)
        assert (required.effect, required.reason) == (old.effect, old.reason)
        assert {d.name for d in required.obligations} >= {d.name for d in old.obligations}


@ENOUGH
@given(SEEDS)
def test_lines_and_roles_of_another_tenant_never_matter(seed: int) -> None:
    _, bundle, asked = world(seed)
    for request in asked:
        own = replace(
            bundle,
            rules=tuple(r for r in bundle.rules if r.tenant in (request.tenant, "*")),
            roles=tuple(m for m in bundle.roles if m.tenant == request.tenant),
        )
        assert Engine(own).decide(request) == Engine(bundle).decide(request)


@ENOUGH
@given(SEEDS, st.sampled_from([None, "10", Decimal("NaN"), Decimal("-Infinity"), 1.0, True, [], {}, [1], "", b"x", object()]))
def test_breaking_or_removing_an_argument_never_grants(seed: int, broken: object) -> None:
    rng, bundle, asked = world(seed)
    engine = Engine(bundle)
    for request in asked:
        whole = varied(request, arguments={"n": rng.choice([1, 50]), "flag": rng.random() < 0.5, "tag": rng.choice("xz")})
        name = rng.choice(
            ["n", "tag"] if isinstance(broken, bool) else ["n", "flag"] if isinstance(broken, str) else ["n", "flag", "tag"]
        )
        damaged = varied(whole, arguments=dict(whole.arguments or {}) | {name: broken})
        missing = varied(whole, arguments={k: v for k, v in (whole.arguments or {}).items() if k != name})
        for worse in (damaged, missing):
            assert engine.decide(whole).allowed or not engine.decide(worse).allowed


@ENOUGH
@given(SEEDS)
def test_what_is_allowed_with_some_arguments_could_be_allowed_and_a_denial_says_whether_it_could(seed: int) -> None:
    rng, bundle, asked = world(seed)
    engine = Engine(bundle)
    for request in asked:
        could = engine.decide(varied(request, arguments=None))
        decision = engine.decide(request)
        assert could.allowed or not decision.allowed
        if not decision.allowed:
            assert decision.visible == could.allowed
        assert not could.allowed or could.visible
        others = [engine.decide(varied(request, arguments=campaign.arguments(rng))) for _ in range(5)]
        assert could.allowed or not any(other.allowed for other in others)


@ENOUGH
@given(SEEDS)
def test_the_stock_path_gives_the_same_decision_to_the_last_field(seed: int) -> None:
    _, bundle, asked = world(seed)
    indexed, stock = Engine(bundle), Engine(bundle, stock=True)
    assert (indexed.path, stock.path) == ("indexed", "stock")
    for request in asked:
        assert indexed.decide(request) == stock.decide(request)
        assert indexed.decide(varied(request, arguments=None)) == stock.decide(varied(request, arguments=None))


@ENOUGH
@given(SEEDS)
def test_a_server_may_be_approached_exactly_by_an_acting_principal_that_could_use_something_of_it(seed: int) -> None:
    _, bundle, asked = world(seed)
    engine = Engine(bundle)
    for request in asked:
        for server in ("s1", "s2", "s3"):
            things = [("call", f"{server}.{tool}") for tool in engine.tools_of(server)]
            things += [("read", f"res:{server}/file:///a"), ("get", f"prompt:{server}/a")]  # no rule of these names a single one
            decisions = [engine.decide(varied(request, action=a, resource=r, arguments=None)) for a, r in things]
            could = [bool(d.answers) and d.answers[-1].allowed for d in decisions]
            listed = engine.decide(varied(request, action="list", resource=server))
            assert listed.allowed == any(could)
            if not listed.allowed:
                assert (listed.reason, listed.visible) == (Reason.UNKNOWN_RESOURCE, False)


@ENOUGH
@given(SEEDS)
def test_deciding_changes_neither_the_request_nor_later_answers(seed: int) -> None:
    _, bundle, asked = world(seed)
    engine = Engine(bundle)
    copies = [varied(request, arguments=dict(request.arguments or {})) for request in asked]
    first = [engine.decide(request) for request in asked]
    assert asked == copies
    assert [engine.decide(request) for request in reversed(asked)] == first[::-1]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3) | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(SEEDS, JUNK, JUNK, JUNK)
def test_whatever_the_arguments_are_the_engine_decides_and_never_fails_over_them(seed: int, n: Any, flag: Any, tag: Any) -> None:
    _, bundle, asked = world(seed)
    engine = Engine(bundle)
    for request in asked[:2]:
        decision = engine.decide(varied(request, arguments={"n": n, "flag": flag, "tag": tag}, context={"agent": n, "ctx": flag}))
        assert decision.reason is not Reason.DECISION_ERROR


def kept(engine: Engine, names: int) -> int:
    """Blocks of memory that are still held after `names` questions about what nobody knows."""

    def strange(n: int) -> None:
        who, agent = f"user:dev/{n}", f"agent:x{n}"
        tool, peer, page = f"s1.tool{n}", f"a2a:x{n}", f"res:s1/file:///{n}"
        for action, resource in (("call", tool), ("send", peer), ("read", page), ("list", f"server{n}")):
            engine.decide(AccessRequest(who, (agent,), "north", action, resource, 0, frozenset({f"g{n}"}), {f"arg{n}": n}))
        engine.decide(AccessRequest(who, (agent,), f"tenant{n}", "call", "s1.read", 0))

    for n in range(100):
        strange(n)
    gc.collect()
    before = sys.getallocatedblocks()
    for n in range(1000, 1000 + names // 5):
        strange(n)
    gc.collect()
    return sys.getallocatedblocks() - before


def open_to_all() -> Engine:
    _, bundle, _ = world(1)
    return Engine(replace(bundle, rules=(*bundle.rules, line(random.Random(1), "allow", who="*", tool="a2a:*", action="send"))))


def test_nothing_that_a_caller_names_is_kept_in_a_hundred_thousand_unknown_names() -> None:
    assert kept(open_to_all(), 100_000) < 1000


def test_a_planted_memory_of_names_is_noticed() -> None:
    engine = open_to_all()
    index: Any = engine._enforcer._index
    index._known = type("Everything", (), {"__contains__": lambda _self, _name: True})()
    assert kept(engine, 5000) > 1000


def test_the_plans_that_are_kept_are_those_of_registered_tools_and_of_sets_of_patterns() -> None:
    _, bundle, asked = world(1)
    engine = Engine(bundle)
    index = engine._enforcer._index
    assert index is not None
    for request in asked:
        engine.decide(request)
    for n in range(300):
        engine.decide(AccessRequest("user:dev/ada", (), "north", "send", f"a2a:x{n}", 0))
    assert {resource for _, resource, _ in index._plans} <= set(bundle.tools)
    assert len(index._shared) <= len(bundle.tenants) * 3 * 2 ** len({rule.tool for rule in bundle.rules if "*" in rule.tool})


def test_a_new_rule_has_the_place_it_was_given() -> None:
    assert line(random.Random(1), "allow").source == Source("grants/x.csv", 1)
