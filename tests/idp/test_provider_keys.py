"""A provider turns its keys, goes away and comes back: what the gateway believes meanwhile."""

from __future__ import annotations

import pytest

from tests.idp.conftest import Make

pytestmark = pytest.mark.node

COOLDOWN, FRESH = 31, 301


def test_after_the_keys_were_turned_old_and_new_tokens_count(own_gateway: Make) -> None:
    gateway = own_gateway()
    old = gateway.idp.login("paul")["access_token"]
    assert gateway.code(old) == ""
    gateway.idp.turn_keys()
    new = gateway.idp.login("paul")["access_token"]
    assert gateway.code(new) == "invalid-credential"  # the set was read a moment ago: a stranger must not make us ask at will
    gateway.passed(COOLDOWN)
    assert gateway.code(new) == ""
    assert gateway.code(old) == ""


def test_a_token_of_a_key_that_was_taken_away_dies_with_the_cache(own_gateway: Make) -> None:
    gateway = own_gateway()
    old = gateway.idp.login("paul")["access_token"]
    assert gateway.code(old) == ""
    gateway.idp.turn_keys(keep=0)
    assert gateway.code(old) == ""  # for five minutes at most
    gateway.passed(COOLDOWN)
    assert gateway.code(gateway.idp.login("paul")["access_token"]) == ""  # a new key was seen, and so the new set was read
    assert gateway.code(old) == "invalid-credential"


def test_a_key_that_was_taken_away_is_noticed_although_no_new_one_is_used(own_gateway: Make) -> None:
    gateway = own_gateway()
    old = gateway.idp.login("paul")["access_token"]
    assert gateway.code(old) == ""
    gateway.idp.turn_keys(keep=0)
    gateway.passed(FRESH)
    answers = [gateway.code(old) for _ in range(20)]  # the first of them asks, beside its answer
    assert answers[-1] == "invalid-credential"


def test_while_the_provider_is_away_known_keys_go_on_and_unknown_ones_do_not(own_gateway: Make) -> None:
    gateway = own_gateway()
    idp = gateway.idp
    old = idp.login("paul")["access_token"]
    assert gateway.code(old) == ""
    idp.turn_keys()
    new = idp.login("paul")["access_token"]
    idp.stop()
    gateway.passed(FRESH)
    assert gateway.code(old) == ""
    assert gateway.code(new) == "invalid-credential"
    idp.start()
    gateway.passed(COOLDOWN)
    assert gateway.code(new) == ""
    assert gateway.code(old) == ""


def test_a_provider_that_is_away_for_more_than_a_day_is_not_believed_any_more(own_gateway: Make) -> None:
    gateway = own_gateway()
    idp = gateway.idp
    assert gateway.code(idp.login("paul")["access_token"]) == ""
    day = 24 * 3600 + 1
    idp.turn_clock(day)
    late = idp.login("paul")["access_token"]
    idp.stop()
    gateway.passed(day)
    assert gateway.code(late) == "invalid-credential"


def test_a_gateway_starts_while_its_provider_is_away_and_believes_nobody_until_it_is_back(own_gateway: Make) -> None:
    gateway = own_gateway()
    idp = gateway.idp
    token = idp.login("paul")["access_token"]
    gateway.stop()
    idp.stop()
    gateway.start()
    assert gateway.code(token) == "invalid-credential"
    idp.start()
    gateway.passed(COOLDOWN)
    assert gateway.code(token) == ""
