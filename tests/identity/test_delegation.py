"""A child token never says more than its parent: properties over whole trees of delegation."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.identity.delegation import Delegated, Delegations
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
