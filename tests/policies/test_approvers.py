"""Whom a duty's `by` names may approve what its line is about: decided by the engine like every other right, on either path."""

from __future__ import annotations

import pytest

from policies.bundle import Bundle, load_texts
from policies.engine import Engine
from policies.model import AccessRequest
from tests.policies.lint.test_lint_rules import BASE

DUTY = "yes: {type: human-approval, by: [role:boss, 'user:dev/ann']}\nopen: {type: human-approval, within: 1h}\n"
LINES = "p, *, acme, set:reading, call, require, -, yes, SEC-2\np, *, acme, erp.write_po, call, require, -, open, SEC-3\n"
WRITTEN = "p, role:boss, acme, approval:erp.write_po, approve, allow, -, -, BOSS-1\n"


def bundle(more: str = "") -> Bundle:
    roles = BASE["roles.csv"] + "g, idp:bosses, role:boss, acme\n"
    duties = BASE["obligations.yaml"] + DUTY
    return load_texts(BASE | {"roles.csv": roles, "obligations.yaml": duties, "grants/more.csv": LINES + more})


def asked(resource: str, *groups: str, who: str = "user:dev/bob", actors: tuple[str, ...] = ()) -> AccessRequest:
    return AccessRequest(who, actors, "acme", "approve", f"approval:{resource}", 1, frozenset(groups))


@pytest.mark.parametrize("stock", [False, True])
def test_by_is_a_right_to_approve_what_the_line_is_about_and_nothing_else(stock: bool) -> None:
    engine = Engine(bundle(), stock=stock)
    boss = engine.decide(asked("erp.read", "bosses"))
    assert (boss.allowed, engine.approves(boss)) == (True, {"yes"})
    assert engine.decide(asked("erp.read", who="user:dev/ann")).allowed
    for other in (asked("erp.read", "buyers"), asked("mail.send", "bosses"), asked("erp.write_po", "bosses")):
        assert not engine.decide(other).allowed
    assert not engine.decide(asked("erp.read", "bosses", actors=("agent:helper",))).allowed
    assert boss.obligations == ()


@pytest.mark.parametrize("stock", [False, True])
def test_a_deny_line_takes_it_away_and_an_allow_line_gives_it_where_there_is_no_by(stock: bool) -> None:
    denied = Engine(bundle("p, *, acme, approval:erp.*, approve, deny, -, -, SEC-9\n"), stock=stock)
    assert not denied.decide(asked("erp.read", "bosses")).allowed
    written = Engine(bundle(WRITTEN), stock=stock)
    found = written.decide(asked("erp.write_po", "bosses"))
    assert (found.allowed, written.approves(found)) == (True, {""})


@pytest.mark.parametrize("stock", [False, True])
def test_the_duty_is_asked_of_the_call_and_a_right_to_approve_is_none_to_call(stock: bool) -> None:
    engine = Engine(bundle(), stock=stock)
    call = AccessRequest("user:dev/bob", (), "acme", "call", "erp.read", 1, frozenset(("buyers",)), {"id": "1"})
    assert [duty.name for duty in engine.decide(call).obligations] == ["yes"]
    assert not engine.decide(AccessRequest("user:dev/ann", (), "acme", "call", "erp.read", 1)).allowed
