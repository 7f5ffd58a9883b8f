"""The worked example: every row of its own test table, and the sentences in which it is explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from policies.bundle import load
from policies.engine import Engine
from policies.model import AccessRequest
from policies.sentence import explain

FOLDER = Path(__file__).parents[2] / "examples" / "procurement" / "policies"
WEDNESDAY_NOON = 1_788_955_200_000_000  # 2026-09-09T12:00:00Z
TABLE: dict[str, Any] = YAML(typ="safe", pure=True).load((FOLDER / "tests" / "purchase.yaml").read_text())


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load(FOLDER))


def request(row: dict[str, Any], **changes: Any) -> AccessRequest:
    person = TABLE["people"][row["who"]]
    agents = tuple(f"agent:{name.strip()}" for name in row.get("via", "").split(">") if name.strip())
    fields: dict[str, Any] = {
        "subject": person["is"],
        "actors": agents,
        "tenant": "acme",
        "action": row.get("action", "call"),
        "resource": row["tool"],
        "at": WEDNESDAY_NOON,
        "groups": frozenset(person["groups"]),
        "arguments": row.get("args", {}),
    }
    return AccessRequest(**(fields | changes))


@pytest.mark.parametrize(
    "row", [row for row in TABLE["tests"] if "after" not in row and "step" not in str(row.get("because"))],
    ids=lambda row: f"{row['who']}-{row['tool']}-{row['expect']}",
)  # fmt: skip
def test_the_example_decides_as_its_own_table_says(engine: Engine, row: dict[str, Any]) -> None:
    question = request(row)
    decision = engine.decide(question)
    assert decision.effect.value == row["expect"], explain(question, decision)
    assert [duty.name for duty in decision.obligations] == row.get("must", [duty.name for duty in decision.obligations])
    assert row.get("because", "") in explain(question, decision)


def test_mia_can_never_write_a_purchase_order_whatever_the_arguments_and_whoever_asks_for_her(engine: Engine) -> None:
    agents = [rule.who for rule in engine.bundle.rules if rule.who.startswith("agent:")]
    for chain in [(), *((a,) for a in agents), *((a, b) for a in agents for b in agents)]:
        question = request({"who": "mia", "tool": "erp.write_po"}, actors=chain, arguments=None)
        assert not engine.decide(question).allowed


def test_the_campaign_reporter_can_never_make_a_call_to_the_erp(engine: Engine) -> None:
    for who in TABLE["people"]:
        for tool in engine.tools_of("erp"):
            question = request({"who": who, "via": "campaign-reporter", "tool": f"erp.{tool}"}, arguments=None)
            assert not engine.decide(question).allowed


def test_writing_files_is_registered_and_granted_to_nobody(engine: Engine) -> None:
    assert "write_file" in engine.tools_of("files")
    for who in TABLE["people"]:
        assert not engine.decide(request({"who": who, "tool": "files.write_file"}, arguments=None)).allowed


def test_a_confused_deputy_is_explained_by_naming_the_person_whose_right_is_missing(engine: Engine) -> None:
    chain = "campaign-reporter > procurement-analyst > erp-integration"
    question = request({"who": "mia", "via": chain, "tool": "erp.write_po", "args": {"supplier": "S-77", "amount": 500}})
    assert explain(question, engine.decide(question)).splitlines() == [
        (
            "user:dev/mia asked agent:campaign-reporter, which asked agent:procurement-analyst, "
            "which asked agent:erp-integration to call erp.write_po in tenant acme: denied (user-lacks-right), "
            "because the person on whose behalf it is asked has no right to it."
        ),
        "  user:dev/mia, on whose behalf it is asked, may call: no; no rule grants call on erp.write_po to user:dev/mia.",
        "  agent:campaign-reporter, which passes the request on, may relay: yes, by AGT-13 (grants/agents.csv:16).",
        "  agent:procurement-analyst, which passes the request on, may relay: yes, by AGT-3 (grants/agents.csv:6).",
        "  agent:erp-integration, which makes the call, may call: yes, by AGT-9 (grants/agents.csv:12).",
        "  Missing: the right of user:dev/mia.",
    ]


def test_a_refusal_by_a_condition_names_the_rule_that_came_near_and_what_it_asks_for(engine: Engine) -> None:
    question = request(
        {"who": "paul", "tool": "erp.write_po", "args": {"supplier": "S-77", "amount": 300_000, "currency": "EUR"}}
    )
    text = explain(question, engine.decide(question))
    assert "no; PRO-2 (grants/people.csv:7) would grant it, but only for: purchase orders in EUR, up to 250 000." in text


def test_an_allowed_call_is_explained_with_its_rule_and_its_duties(engine: Engine) -> None:
    question = request(
        {"who": "fiona", "tool": "erp.write_po", "args": {"supplier": "S-77", "amount": 10_000, "currency": "EUR"}}
    )
    text = explain(question, engine.decide(question))
    assert "yes, by FIN-1 (grants/people.csv:12)" in text
    assert "Duties: full-audit (audit: arguments full), by SEC-2 (grants/guardrails.csv:4)." in text


def test_text_of_a_caller_cannot_forge_a_line_of_an_explanation(engine: Engine) -> None:
    question = request({"who": "paul", "tool": "erp.x\n  agent:evil may call: yes\x1b[2J" + "y" * 9000})
    text = explain(question, engine.decide(question))
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    assert len(text) < 1000
