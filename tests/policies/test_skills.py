"""Skills on agents' cards: shown to whoever may send until a line names one, and from then on hidden unless a line allows."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from policies.bundle import load
from policies.engine import Engine
from policies.model import AccessRequest
from policies.names import skill

PAUL = AccessRequest("user:dev/paul", (), "acme", "read", "skill:erp/pay", 1_788_955_200_000_000, frozenset({"buyers"}))
MIA = replace(PAUL, subject="user:dev/mia", groups=frozenset())
SEND = "p, role:buyer, acme, a2a:*, send, allow, -, -, T-1"


def engine(write: Any, *lines: str) -> Engine:
    return Engine(load(write({"grants/people.csv": "\n".join(f"p, {line}" if line[:3] != "p, " else line for line in lines)})))


def test_a_bundle_that_names_no_skill_shows_all_of_them_to_whoever_may_send(write: Any) -> None:
    silent = engine(write, SEND)
    assert silent.decide(PAUL).allowed
    assert not silent.decide(MIA).allowed


def test_one_line_closes_the_list_of_its_agent_and_of_no_other(write: Any) -> None:
    closed = engine(write, SEND, "role:buyer, acme, skill:erp/pay, read, allow, -, -, T-2")
    assert closed.decide(PAUL).allowed
    assert not closed.decide(replace(PAUL, resource="skill:erp/refund")).allowed
    assert closed.decide(replace(PAUL, resource="skill:crm/refund")).allowed


@pytest.mark.parametrize(
    "line",
    [
        "user:dev/zoe, acme, skill:erp/pay, read, allow, -, -, T-2",
        "role:buyer, acme, skill:erp/pay, read, deny, -, -, T-2",
        "role:buyer, *, skill:erp/*, read, deny, -, -, T-2",
    ],
    ids=["somebody else's grant", "a denial", "a denial of all in every tenant"],
)
def test_any_line_closes_the_list_also_one_that_grants_the_caller_nothing(write: Any, line: str) -> None:
    closed = engine(write, SEND, line)
    assert not closed.decide(PAUL).allowed
    assert not closed.decide(replace(PAUL, resource="skill:erp/other")).allowed


def test_a_pattern_grants_all_skills_and_a_denial_takes_one_away(write: Any) -> None:
    most = engine(
        write,
        SEND,
        "role:buyer, acme, skill:erp/*, read, allow, -, -, T-2",
        "*, acme, skill:erp/pay, read, deny, -, -, T-3",
    )
    assert most.decide(replace(PAUL, resource="skill:erp/refund")).allowed
    assert not most.decide(PAUL).allowed


def test_every_agent_of_the_chain_is_asked_for_the_skill_too(write: Any) -> None:
    lines = [SEND, "role:buyer, acme, skill:erp/*, read, allow, -, -, T-2"]
    asked = replace(PAUL, actors=("agent:helper",))
    assert not engine(write, *lines).decide(asked).allowed
    lines.append("agent:helper, acme, skill:erp/pay, read, allow, -, -, T-3")
    assert engine(write, *lines).decide(asked).allowed


@pytest.mark.parametrize("text", ["pay\u200b", "рay", "ｐay", "p ay", "", "x" * 129, "pay\n"])  # the second one is Cyrillic
def test_an_id_that_can_stand_in_no_rule_is_no_object(write: Any, text: str) -> None:
    assert skill("erp", text) is None
    closed = engine(write, SEND, "role:buyer, acme, skill:erp/*, read, allow, -, -, T-2")
    assert not closed.decide(replace(PAUL, resource=f"skill:erp/{text}")).allowed


def test_everybody_may_ask_which_agents_there_are_in_a_tenant_that_is_known(write: Any) -> None:
    ask = replace(MIA, action="list", resource="a2a:*", actors=("agent:helper",))
    assert engine(write, SEND).decide(ask).allowed
    assert not engine(write, SEND).decide(replace(ask, tenant="globex")).allowed
