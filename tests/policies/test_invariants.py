"""`never:` is sound: where it holds, no question of its shape is ever allowed; where it does not, some line would grant one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as varied

from bench import differential_policy as campaign
from policies import invariants as checked
from policies import names
from policies.bundle import Bundle, load_texts
from policies.engine import Engine
from policies.invariants import violations
from policies.model import AccessRequest, Source
from policies.objects import Objects
from policies.testing import read_tests
from policies.testsuite import Invariant

SEEDS = st.integers(min_value=0, max_value=2**32)
STRANGER, LONER, NEWCOMER = "user:dev/nobody", "agent:loner", "a2a:newcomer"
Arguments = dict[str, object] | None
ARGUMENTS: tuple[Arguments, ...] = (
    {"n": 1, "flag": True, "tag": "x"},
    {"n": 50, "flag": False, "tag": "z"},
    {"n": 1, "flag": False, "tag": "z"},
    {"n": 50, "flag": True, "tag": "z"},
    None,
)
PATTERNS = (*campaign.TOOLS, *campaign.PEERS, "s1.*", "s2.*", "a2a:*", "set:reading", "*")


def every_question() -> Iterator[AccessRequest]:
    """Everything that could be asked in the small universe, by no agent, by each one, and by every chain of two.

    The same agent twice is one of them: loops are the gateway's to refuse.
    """
    agents = (*campaign.AGENTS, LONER)
    chains = [(), *((a,) for a in agents), *itertools.product(agents, repeat=2)]
    groups = [frozenset(g) for n in range(3) for g in itertools.combinations(campaign.GROUPS, n)]
    asked = [(tool, "call") for tool in campaign.TOOLS] + [(peer, "send") for peer in (*campaign.PEERS, NEWCOMER)]
    for subject, some, chain, tenant, (name, action) in itertools.product(
        (*campaign.USERS, STRANGER), groups, chains, campaign.TENANTS, asked
    ):
        yield AccessRequest(subject, chain, tenant, action, name, campaign.AT, some)


def allowed_ones(bundle: Bundle, rng: random.Random, arguments: tuple[Arguments, ...]) -> list[AccessRequest]:
    """All that is allowed with one of these arguments.

    A call is allowed where each principal of its chain is: each is asked once, and what is put together is asked again.
    """
    engine = Engine(bundle)
    parts: dict[object, bool] = {}

    def may(asked: AccessRequest, at: int) -> bool:
        answers = engine.decide(asked).answers
        return bool(answers) and answers[at].allowed

    def put_together(asked: AccessRequest) -> bool:
        place = (asked.tenant, asked.resource, id(asked.arguments))
        person = (asked.subject, asked.groups, *place)
        if person not in parts:
            parts[person] = may(varied(asked, actors=()), 0)
        if not parts[person]:
            return False
        for at, agent in enumerate(asked.actors):
            acting = at == len(asked.actors) - 1
            part = (agent, acting, *place)
            if part not in parts:
                parts[part] = may(varied(asked, actors=asked.actors[at:]), 1)
            if not parts[part]:
                return False
        return True

    allowed = []
    for asked in every_question():
        found = next((each for args in arguments if put_together(each := varied(asked, arguments=args))), None)
        if found is not None:
            allowed.append(found)
    for asked in rng.sample(allowed, min(len(allowed), 30)):
        assert engine.decide(asked).allowed
    return allowed


def an_invariant(rng: random.Random) -> Invariant:
    kind = rng.choice(["who", "who", "agent", "group", "role", "role"])
    role = rng.choice([*campaign.ROLES, *campaign.CREWS])
    principal = {
        "who": rng.choice([*campaign.USERS, STRANGER]),
        "agent": rng.choice([*campaign.AGENTS, LONER]),
        "group": f"idp:{rng.choice(campaign.GROUPS)}",
        "role": role,
    }[kind]
    agents = kind == "agent" or principal.startswith("agents:")
    actions = ["call", "send", *([names.RELAY] * 4 if agents else [])]
    chain = tuple(a[6:] for a in rng.sample([*campaign.AGENTS, LONER], rng.randrange(0, 3)))
    return Invariant(
        "made up",
        Source("tests/x.yaml", 1),
        kind,
        principal,
        rng.choice(PATTERNS),
        groups=frozenset(g for g in campaign.GROUPS if rng.random() < 0.5) if kind == "who" and rng.random() < 0.6 else None,
        action=rng.choice(actions) if rng.random() < 0.4 else None,
        via=None if agents or rng.random() < 0.7 else chain,
        tenant=rng.choice([None, None, *campaign.TENANTS]),
        alone=rng.random() < 0.3,
    )


def one_about(rng: random.Random, asked: AccessRequest) -> Invariant:
    """An invariant that this question, which is allowed, breaks."""
    kinds = ["who", *(["agent"] if asked.actors else []), *(["group"] if asked.groups else [])]
    kind = rng.choice(kinds)
    principal = {
        "who": asked.subject,
        "agent": asked.actors[-1] if asked.actors else "",
        "group": f"idp:{min(asked.groups, default='')}",
    }[kind]
    return Invariant(
        "made up",
        Source("tests/x.yaml", 1),
        kind,
        principal,
        rng.choice([*campaign._patterns(asked.resource), "*"]),
        groups=asked.groups if kind == "who" and rng.random() < 0.5 else None,
        via=tuple(agent[6:] for agent in asked.actors) if kind != "agent" and rng.random() < 0.3 else None,
        tenant=asked.tenant if rng.random() < 0.5 else None,
    )


def with_denials(rng: random.Random, bundle: Bundle) -> Bundle:
    """With deny lines that some arguments silence, and sometimes with every named agent forbidden, so that only others remain."""
    lines = [campaign._line(rng, effect="deny", when=rng.choice(["small", "open"]), action="*", id=f"D-{at}") for at in range(2)]
    if rng.random() < 0.5:
        lines += [
            campaign._line(rng, who="*", tenant="*", effect="deny", when="-", tool=peer, action="*", id=peer)
            for peer in campaign.PEERS
        ]
        lines += [campaign._line(rng, who="*", tenant="*", effect="allow", when="-", tool="a2a:*", action="*", id="A-1")]
    return replace(bundle, rules=(*bundle.rules, *campaign.with_rules(lines, []).rules))


# --- what an invariant is about, read without its checker


def all_names(bundle: Bundle, start: set[str], tenant: str) -> set[str]:
    found = set(start)
    for _ in bundle.roles:
        found |= {m.role for m in bundle.roles if m.member in found and m.tenant == tenant}
    return found


def is_about(invariant: Invariant, asked: AccessRequest, bundle: Bundle) -> bool:
    wide = invariant.tool[:-1] if invariant.tool.endswith("*") else None
    named = asked.resource == invariant.tool or asked.resource in bundle.sets.get(invariant.tool, ())
    relaying = invariant.action == names.RELAY
    return (
        invariant.tenant in (None, asked.tenant)
        and (named or (wide is not None and asked.resource.startswith(wide)))
        and (relaying or invariant.action in (None, asked.action))
        and (invariant.via is None or asked.actors == tuple(f"agent:{a}" for a in invariant.via))
        and is_of(invariant, asked, bundle)
    )


def is_of(invariant: Invariant, asked: AccessRequest, bundle: Bundle) -> bool:
    groups = {f"idp:{group}" for group in asked.groups}
    acting = asked.actors[:-1] if invariant.action == names.RELAY else asked.actors[-1:]
    if invariant.kind == "who":
        exact = invariant.groups if invariant.groups is not None else frozenset() if invariant.alone else None
        return asked.subject == invariant.principal and exact in (None, asked.groups)
    if invariant.kind == "agent":
        return invariant.principal in acting
    if invariant.kind == "group":
        return groups == {invariant.principal} and asked.subject == STRANGER if invariant.alone else invariant.principal in groups

    def has_role(start: set[str]) -> bool:
        return invariant.principal in all_names(bundle, start, asked.tenant)

    if invariant.via is None and any(has_role({agent}) for agent in acting):
        return True
    if invariant.alone and not (not groups or (len(groups) == 1 and asked.subject == STRANGER)):
        return False
    return has_role({asked.subject, *groups})


def counterexamples(
    seed: int, arguments: tuple[Arguments, ...], worlds: int = 1, *, bare: bool = False
) -> Iterator[tuple[bool, AccessRequest | None]]:
    """For random bundles and invariants: whether one is said to hold, and a question of its shape that is allowed."""
    rng = random.Random(seed)
    for _ in range(worlds):
        matcher = rng.choice([campaign.UNDERSTOOD] * 15 + list(campaign.MATCHERS))  # one takes stock Casbin's road, a slow one
        bundle, _asked = campaign.scenario(rng, matcher)
        if rng.random() < 0.5:
            bundle = with_denials(rng, bundle)
        if bare:
            bundle = replace(bundle, rules=tuple(replace(rule, when=None) for rule in bundle.rules))
        allowed = allowed_ones(bundle, rng, arguments)
        made = [an_invariant(rng) for _ in range(30)]
        made += [one_about(rng, rng.choice(allowed)) for _ in range(10 if allowed else 0)]
        for invariant, found in zip(made, violations(bundle, made), strict=True):
            broken_by = next((asked for asked in allowed if is_about(invariant, asked, bundle)), None)
            yield not found, broken_by


@settings(max_examples=10, deadline=None, derandomize=True)
@given(SEEDS)
def test_where_an_invariant_holds_no_question_of_its_shape_is_allowed(seed: int) -> None:
    for holds, broken_by in counterexamples(seed, ARGUMENTS):
        assert not (holds and broken_by), broken_by


@settings(max_examples=10, deadline=None, derandomize=True)
@given(SEEDS)
def test_without_conditions_an_invariant_holds_exactly_where_no_question_is_allowed(seed: int) -> None:
    for holds, broken_by in counterexamples(seed, ({},), bare=True):
        assert holds == (broken_by is None)


def test_the_campaign_is_not_vacuous() -> None:
    said = [(holds, broken_by is not None) for holds, broken_by in counterexamples(7, ARGUMENTS, worlds=5)]
    assert said.count((True, False)) > 40
    assert said.count((False, True)) > 40


# --- planted bugs: each must be caught by the same campaign


def _conditions_kept(bundle: Bundle) -> Iterator[Any]:
    yield from bundle.rules


def _deny_lines_always_count(bundle: Bundle) -> Iterator[Any]:
    yield from (replace(rule, when=None) for rule in bundle.rules if rule.effect != "require")


def _conditional_allows_dropped(bundle: Bundle) -> Iterator[Any]:
    yield from (rule for rule in bundle.rules if rule.when is None)


def _only_named(self: Objects, pattern: str, tenant: str) -> Iterator[Any]:
    yield from ((n, k) for n, k in _COVERED(self, pattern, tenant) if n == pattern)


def _no_stranger(self: Objects, kind: names.Kind, pattern: str) -> Iterator[str]:
    yield from (n for n in _OF(self, kind, pattern) if "stranger" not in n)


def _no_further_group(self: Any, place: Any, way: Any) -> Iterator[Any]:
    yield next(_SUBJECTS(self, place, way))


def _the_first_tenant(self: Objects, pattern: str, tenant: str) -> Iterator[Any]:
    yield from _COVERED(self, pattern, tenant) if tenant == "north" else ()


def _members_are_direct(self: Any, tenant: str) -> dict[str, tuple[str, ...]]:
    return {name: (name,) for name in self._named}


def _agents_are_never_members(self: Any, invariant: Invariant, tenant: str) -> Any:
    return _HOLDERS(self, invariant, tenant)[0], []


def _nobody_is_found(self: Any, place: Any) -> None:
    return None


_COVERED, _OF = Objects.covered, Objects._of
_SUBJECTS, _HOLDERS = checked._World._subjects, checked._World.holders

BUGS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "conditions are kept": (checked, "_loosened", _conditions_kept),
    "deny lines always count": (checked, "_loosened", _deny_lines_always_count),
    "conditional allow lines are dropped": (checked, "_loosened", _conditional_allows_dropped),
    "patterns cover only themselves": (Objects, "covered", _only_named),
    "agents that no rule names are forgotten": (Objects, "_of", _no_stranger),
    "further groups are forgotten": (checked._World, "_subjects", _no_further_group),
    "one tenant is enough": (Objects, "covered", _the_first_tenant),
    "roles are not followed": (checked._World, "members", _members_are_direct),
    "agents have no roles": (checked._World, "holders", _agents_are_never_members),
    "nobody is ever behind an agent": (checked._World, "somebody", _nobody_is_found),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_campaign_catches_a_planted_bug(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, what, instead = BUGS[bug]
    monkeypatch.setattr(where, what, instead)
    worlds = (counterexamples(seed, ARGUMENTS) for seed in range(30))
    assert any(holds and broken_by for holds, broken_by in itertools.chain.from_iterable(worlds))


# --- one by one


MODEL = campaign.base().model
TEXTS = {
    "model.conf": MODEL,
    "roles.csv": "g, idp:buyers, role:buyer, acme\ng, idp:interns, role:intern, acme\ng, agent:helper, agents:crew, acme\n",
    "tools.yaml": """\
tenants: [acme]
tools:
  erp.read: {args: {id: string}}
  erp.write: {args: {amount: number}}
""",
    "conditions.yaml": """\
small: {if: args.amount <= 100, say: small orders}
night: {if: time.hour < 6, say: at night}
impossible: {if: "false and args.amount > 1", say: never}
certain: {if: "true or args.amount > 1", say: always}
""",
    "obligations.yaml": "",
}


def broken(grants: str, never: str, **changes: str) -> list[str]:
    """Sentences in which an invariant could be broken."""
    table = f"people:\n  bea: {{is: user:dev/bea, groups: [buyers]}}\nnever:\n  - {never}\n"
    bundle = load_texts(TEXTS | {"grants/a.csv": grants, "tests/a.yaml": table} | changes)
    return [violation.sentence for violation in violations(bundle, read_tests(bundle).invariants)[0]]


BUYS = "p, role:buyer, acme, erp.write, call, allow, small, -, BUY-1\n"


def test_a_broken_invariant_names_who_could_and_by_which_line_of_which_file() -> None:
    (sentence,) = broken(BUYS, "{who: bea, tool: erp.*}")
    assert sentence == ("call erp.write in tenant acme: user:dev/bea with group buyers by BUY-1 (grants/a.csv:1) [small orders]")


def test_a_condition_is_no_protection_and_an_impossible_one_grants_nothing() -> None:
    for name, count in (("small", 1), ("night", 1), ("certain", 1), ("impossible", 0)):
        assert len(broken(BUYS.replace("small", name), "{who: bea, tool: erp.write}")) == count


def test_a_deny_line_protects_only_where_no_fact_can_silence_it() -> None:
    for when, count in (("-", 0), ("certain", 0), ("small", 1), ("night", 1), ("impossible", 1)):
        deny = f"p, *, acme, erp.write, call, deny, {when}, -, SEC-1\n"
        assert len(broken(BUYS + deny, "{who: bea, tool: erp.write}")) == count


def test_a_group_is_asked_about_with_every_other_group_unless_it_is_alone() -> None:
    assert broken(BUYS, "{group: interns, tool: erp.write}") == [
        "call erp.write in tenant acme: anybody with groups buyers, interns by BUY-1 (grants/a.csv:1) [small orders]"
    ]
    assert broken(BUYS, "{group: interns, tool: erp.write, alone: true}") == []
    forbidden = "p, idp:interns, acme, erp.write, call, deny, -, -, SEC-1\n"
    assert broken(BUYS + forbidden, "{group: interns, tool: erp.write}") == []


def test_an_agent_without_anybody_behind_it_breaks_nothing() -> None:
    acts = "p, agent:helper, acme, erp.write, call, allow, -, -, AGT-1\n"
    assert broken(acts, "{agent: helper, tool: erp.write}") == []
    (sentence,) = broken(acts + BUYS, "{agent: helper, tool: erp.write}")
    assert sentence.endswith(
        "agent:helper by AGT-1 (grants/a.csv:1), and anybody with group buyers by BUY-1 (grants/a.csv:2) [small orders]"
    )


def test_relaying_is_no_calling_and_can_be_forbidden_for_itself() -> None:
    relays = (
        "p, agent:helper, acme, erp.write, relay, allow, -, -, AGT-1\np, agent:doer, acme, erp.write, call, allow, -, -, AGT-2\n"
    )
    assert broken(relays + BUYS, "{agent: helper, tool: erp.write}") == []
    (sentence,) = broken(relays + BUYS, "{agent: helper, tool: erp.write, action: relay}")
    assert "agent:helper as a relay by AGT-1" in sentence
    assert "agent:doer by AGT-2" in sentence
    assert len(broken(relays + BUYS, "{role: 'agents:crew', tool: erp.write, action: relay}")) == 1


def test_a_chain_is_asked_as_it_is_written() -> None:
    acts = "p, agent:doer, acme, erp.write, call, allow, -, -, AGT-1\n" + BUYS
    assert len(broken(acts, "{who: bea, via: doer, tool: erp.write}")) == 1
    assert broken(acts, "{who: bea, via: helper > doer, tool: erp.write}") == []
    assert broken(acts, "{who: bea, via: doer > helper, tool: erp.write}") == []


@pytest.mark.parametrize(
    ("tool", "action", "never"),
    [
        ("a2a:*", "send", "a2a:*"),
        ("a2a:*", "send", "a2a:nobody-named-it"),
        ("res:erp/*", "read", "res:erp/file:///ledgers/*"),
        ("res:erp/file:///ledgers/*", "subscribe", "res:erp/*"),
        ("res:erp/https://erp.example.com/*", "read", "res:*"),
        ("res:erp/mem:*", "read", "*"),
        ("prompt:erp/*", "get", "prompt:erp/*"),
        ("prompt:erp/greet", "get", "prompt:*"),
        ("sampling:*", "create", "sampling:erp"),
        ("elicitation:erp", "url", "elicitation:*"),
        ("roots:*", "read", "*"),
        ("task:*", "cancel", "task:erp"),
        ("admin:policy", "change", "admin:*"),
        ("admin:*", "approve", "admin:kills"),
        ("console:*", "read", "console:ledger"),
        ("audit:*", "export", "audit:ledger"),
    ],
)
def test_everything_that_rules_can_name_can_be_forbidden(tool: str, action: str, never: str) -> None:
    grants = f"p, role:buyer, acme, {tool}, {action}, allow, -, -, X-1\n"
    assert len(broken(grants, f'{{who: bea, tool: "{never}"}}')) >= 1
    assert len(broken(grants, f'{{who: bea, tool: "{never}", action: {action}}}')) >= 1
    assert broken(grants.replace("buyer", "intern"), f'{{who: bea, tool: "{never}"}}') == []


def test_every_kind_that_rules_name_asks_the_whole_chain_which_the_reasoning_rests_on() -> None:
    assert {kind.asks for kind in names.KINDS if kind.ruled and not kind.instead} == {"chain"}


def test_under_every_pattern_that_a_rule_may_hold_an_object_can_be_made_up() -> None:
    patterns = ["res:erp/", "res:erp/https:", "res:erp/https://", "res:erp/https://h.example/a/", "res:erp/file:", "res:erp/file:///",
                "res:erp/mem:", "res:erp/mem://", "res:erp/mem://x/", "res:erp/urn:isbn:", "res:erp/https://h.example:", "a2a:",
                "prompt:erp/", "sampling:", "elicitation:", "roots:", "task:"]  # fmt: skip
    for start in patterns:
        kind = names.kind_of_cell(start)
        assert kind is not None
        (made,) = Objects({}, {}, (), ())._of(kind, f"{start}*")
        assert kind.has(made)
        assert made.startswith(start)
