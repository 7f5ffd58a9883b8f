"""A child token never says more than its parent: properties over whole trees of delegation."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.identity.delegation import Delegated, Delegations, Terms
from gateway.model import Principal, Refused
from gateway.reasons import Code

NOW = 1_800_000_000
KEY = ec.generate_private_key(ec.SECP256R1())
URL = "https://gateway.example"
AGENTS = st.sampled_from([f"agent-{i}" for i in range(6)])


class Clock:
    def __init__(self) -> None:
        self.seconds = NOW

    def __call__(self) -> int:
        return self.seconds * 1_000_000


def person(groups: frozenset[str] = frozenset({"buyers"}), ends: int = NOW + 900) -> Principal:
    return Principal("user:idp/paul", (), "acme", "wf-" + "0" * 26, ends, "bearer", "0" * 64, groups)


def next_principal(token: Delegated) -> Principal:
    return Principal(
        token.subject,
        token.chain,
        token.tenant,
        token.workflow,
        token.ends,
        "delegation",
        "1" * 64,
        token.groups,
        token.jti,
        token.path,
    )


def claims_of(token: str) -> dict[str, object]:
    part = token.split(".")[1]
    parsed = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    assert isinstance(parsed, dict)
    return parsed


@settings(max_examples=60, deadline=None)
@given(
    hops=st.lists(st.tuples(AGENTS, st.integers(0, 200)), min_size=1, max_size=8),
    groups=st.frozensets(st.sampled_from(["a", "b", "c"])),
    ends=st.integers(NOW + 1, NOW + 2000),
)
def test_whatever_the_path_a_child_never_widens_its_parent_and_the_person_never_changes(hops, groups, ends: int) -> None:
    clock = Clock()
    delegations = Delegations(KEY, URL, max_depth=5, clock=clock)
    start = principal = person(groups, ends)
    parent: Delegated | None = None
    for agent, pause in hops:
        clock.seconds += pause
        looped, full = f"agent:{agent}" in principal.actors, len(principal.actors) >= 5
        if looped or full or clock.seconds >= ends:
            with pytest.raises(Refused) as caught:
                delegations.mint(principal, agent, "call")
            assert (caught.value.code is Code.DELEGATION_LOOP) == looped
            return
        child = delegations.verify(delegations.mint(principal, agent, "call"))
        assert (child.subject, child.groups, child.tenant, child.workflow, child.ends) == (
            start.subject,
            start.groups,
            start.tenant,
            start.workflow,
            start.ends,
        )
        assert child.expires <= child.ends
        assert child.expires <= clock.seconds + 300
        assert child.chain == (*principal.actors, f"agent:{agent}")
        assert child.path[:-1] == principal.path
        if parent is not None:
            assert child.left == parent.left - 1
        parent, principal = child, next_principal(child)


def test_the_token_names_its_kind_its_key_and_the_nested_actors() -> None:
    delegations = Delegations(KEY, URL, clock=Clock())
    first = delegations.verify(delegations.mint(person(), "analyst", "c1"))
    token = delegations.mint(next_principal(first), "erp", "c2")
    header = token.split(".")[0]
    assert json.loads(urlsafe_b64decode(header + "=" * (-len(header) % 4))) == {
        "alg": "ES256",
        "kid": delegations.ring.kid,
        "typ": "wf-dt+jwt",
    }
    claims = claims_of(token)
    assert claims["chain"] == ["agent:analyst", "agent:erp"]
    assert claims["act"] == {"sub": "agent:erp", "act": {"sub": "agent:analyst"}}
    assert claims["cnf"] == {"agent": "erp"}
    assert (claims["left"], claims["call"], claims["exp"]) == (3, "c2", NOW + 300)


def test_an_agent_cannot_stand_twice_in_a_chain() -> None:
    delegations = Delegations(KEY, URL, clock=Clock())
    principal = replace(person(), actors=("agent:a", "agent:b"))
    for agent in ("a", "b"):
        with pytest.raises(Refused) as caught:
            delegations.mint(principal, agent, "c")
        assert caught.value.code is Code.DELEGATION_LOOP


def test_a_service_cannot_delegate_to_itself() -> None:
    service = Principal("svc:erp", ("agent:erp",), "acme", "wf-" + "0" * 26, NOW + 900, "secret", "0" * 64)
    with pytest.raises(Refused) as caught:
        Delegations(KEY, URL, clock=Clock()).mint(service, "erp", "c")
    assert caught.value.code is Code.DELEGATION_LOOP


def test_the_chain_is_as_long_as_the_settings_allow_and_not_one_longer() -> None:
    delegations = Delegations(KEY, URL, max_depth=2, clock=Clock())
    delegations.mint(replace(person(), actors=("agent:a",)), "b", "c")
    with pytest.raises(Refused) as caught:
        delegations.mint(replace(person(), actors=("agent:a", "agent:b")), "c", "c")
    assert caught.value.code is Code.DELEGATION_TOO_DEEP


def test_nothing_is_minted_once_the_persons_time_is_over() -> None:
    with pytest.raises(Refused) as caught:
        Delegations(KEY, URL, clock=Clock()).mint(person(ends=NOW), "erp", "c")
    assert caught.value.code is Code.INVALID_CREDENTIAL


def test_groups_are_never_dropped_to_make_a_token_fit() -> None:
    delegations = Delegations(KEY, URL, clock=Clock())
    many = frozenset(f"group-{i}" for i in range(201))
    assert delegations.verify(delegations.mint(person(many), "erp", "c")).groups == many
    with pytest.raises(Refused) as caught:
        delegations.mint(person(many), "erp", "c", max_groups=200)
    assert caught.value.code is Code.TOO_LARGE
    with pytest.raises(Refused) as caught:
        delegations.mint(person(frozenset(f"{i}" * 80 for i in range(100, 300))), "erp", "c")
    assert caught.value.code is Code.TOO_LARGE


def test_a_token_ends_two_seconds_after_its_end_even_where_it_was_seen_before() -> None:
    clock = Clock()
    delegations = Delegations(KEY, URL, lifetime=10, clock=clock)
    token = delegations.mint(person(), "erp", "c")
    clock.seconds += 11
    delegations.verify(token)
    clock.seconds += 1
    with pytest.raises(Refused):
        delegations.verify(token)


def test_another_gateways_token_is_refused_although_the_key_is_the_same() -> None:
    token = Delegations(KEY, "https://other.example", clock=Clock()).mint(person(), "erp", "c")
    with pytest.raises(Refused):
        Delegations(KEY, URL, clock=Clock()).verify(token)


def test_another_key_is_refused() -> None:
    token = Delegations(ec.generate_private_key(ec.SECP256R1()), URL, clock=Clock()).mint(person(), "erp", "c")
    with pytest.raises(Refused):
        Delegations(KEY, URL, clock=Clock()).verify(token)


# --- what the token says besides, and every invariant once more


def signed(delegations: Delegations, claims: dict[str, object]) -> str:
    return delegations.ring.sign("wf-dt+jwt", claims)


NEW = ("scope", "start", "assurance", "acr", "grant")


@pytest.mark.parametrize("missing", [*NEW, "all of them"])
def test_a_token_of_an_older_release_is_refused(missing: str) -> None:
    delegations = Delegations(KEY, URL, clock=Clock())
    claims = claims_of(delegations.mint(person(), "erp", "c"))
    left_out = NEW if missing == "all of them" else (missing,)
    with pytest.raises(Refused, match="not the claims"):
        delegations.verify(signed(delegations, {name: value for name, value in claims.items() if name not in left_out}))


@pytest.mark.parametrize(
    "change",
    [
        {"scope": None},
        {"scope": ["erp.*"]},
        {"scope": "erp.read erp.*x"},
        {"scope": "mail.send erp.*"},
        {"scope": "erp.* "},
        {"scope": "* erp.read"},
        {"start": 0},
        {"start": NOW + 3},
        {"start": "now"},
        {"assurance": "strong"},
        {"assurance": ""},
        {"acr": 1},
        {"acr": " mfa"},
        {"grant": "not an id"},
        {"grant": None},
        {"cnf": {"agent": "clerk"}},
        {"cnf": {"agent": "erp", "jkt": "short"}},
        {"cnf": {"agent": "erp", "jkt": "k" * 43, "x5t#S256": "x"}},
        {"cnf": {"jkt": "k" * 43}},
        {"cnf": "erp"},
        {"act": {"sub": "agent:clerk"}},
        {"left": 16},
        {"left": True},
        {"path": ["a", "b", "c"]},
        {"path": []},
        {"chain": ["agent:erp", "agent:erp"]},
        {"chain": []},
        {"ends": NOW + 100},
        {"wf": "wf-1"},
        {"sub": "agent:erp"},
        {"more": 1},
    ],
)
def test_a_signed_token_that_breaks_an_invariant_is_refused_all_the_same(change: dict[str, object]) -> None:
    """As an old key or another release could have signed it."""
    delegations = Delegations(KEY, URL, clock=Clock())
    claims = claims_of(delegations.mint(person(), "erp", "c"))
    delegations.verify(signed(delegations, claims))
    with pytest.raises(Refused):
        delegations.verify(signed(delegations, claims | change))


def test_an_agents_own_terms_bound_its_tokens_whoever_mints_them() -> None:
    terms = {"erp": Terms(("erp.*",), 60)}
    delegations = Delegations(KEY, URL, clock=Clock(), terms=terms)
    bound = delegations.verify(delegations.mint(person(), "erp", "c"))
    assert (bound.scope, bound.expires) == (("erp.*",), NOW + 60)
    other = delegations.verify(delegations.mint(person(), "clerk", "c", most=("erp.read",), lifetime=30))
    assert (other.scope, other.expires) == (("erp.read",), NOW + 30)
    nothing = delegations.verify(delegations.mint(person(), "erp", "c", most=("mail.send",)))
    assert nothing.scope == ()  # an agent that may touch nothing can still answer
    assert delegations.verify(delegations.mint(person(), "clerk", "c", lifetime=9000)).expires == NOW + 300


def test_an_issuers_clock_that_is_ahead_gives_no_authority_of_the_future() -> None:
    delegations = Delegations(KEY, URL, clock=Clock())
    assert delegations.verify(delegations.mint(replace(person(), issued=NOW + 25), "erp", "c")).issued == NOW


def test_a_scope_that_no_token_can_carry_is_refused_and_not_cut() -> None:
    delegations = Delegations(KEY, URL, clock=Clock())
    scope = tuple(sorted(f"erp.t{number}" for number in range(65)))
    with pytest.raises(Refused) as caught:
        delegations.mint(replace(person(), scope=scope), "erp", "c")
    assert caught.value.code is Code.TOO_LARGE
