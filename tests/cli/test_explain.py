"""A decision, asked for by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import PROCUREMENT, Ran, Run

CHAIN = "procurement-analyst,agent:erp-integration"
ORDER = '{"supplier": "S-77", "amount": 500, "currency": "EUR", "cost_center": "CC-100"}'


def _explain(run: Run, *words: str) -> Ran:
    return run("explain", "--policies", PROCUREMENT, *words)


def test_an_allowed_call_shows_every_principal_its_rules_and_the_duties(run: Run) -> None:
    ran = _explain(
        run,
        "--for",
        "user:dev/paul",
        "--groups",
        "procurement-managers",
        "--via",
        CHAIN,
        "--call",
        "erp.write_po",
        "--args",
        ORDER,
    )
    assert ran.code == 0
    assert ran.out.startswith("ALLOWED\n")
    for part in (
        "user:dev/paul (subject)",
        "agent:procurement-analyst (relay)",
        "agent:erp-integration (actor)",
        "PRO-2",
        "grants/people.csv:",
        "full-audit",
    ):
        assert part in ran.out


def test_a_denied_call_says_whose_right_is_missing(run: Run) -> None:
    ran = _explain(
        run, "--for", "user:dev/mia", "--groups", "marketing-managers", "--via", CHAIN, "--call", "erp.write_po", "--args", ORDER
    )
    assert ran.code == 1
    assert ran.out.startswith("DENIED  user-lacks-right\n")


def test_a_rule_that_nearly_granted_is_shown_with_its_condition(run: Run) -> None:
    order = ORDER.replace("500", "300000")
    ran = _explain(
        run,
        "--for",
        "user:dev/paul",
        "--groups",
        "procurement-managers",
        "--via",
        CHAIN,
        "--call",
        "erp.write_po",
        "--args",
        order,
    )
    assert ran.code == 1
    line = next(line for line in ran.out.splitlines() if "nearly" in line)
    assert "PRO-2" in line
    assert "250" in line


def test_the_machine_readable_answer_is_an_authzen_evaluation(run: Run) -> None:
    ran = _explain(
        run,
        "--for",
        "user:dev/mia",
        "--groups",
        "marketing-managers",
        "--via",
        CHAIN,
        "--call",
        "erp.write_po",
        "--args",
        ORDER,
        "--json",
    )
    context = ran.json["context"]
    assert ran.json["decision"] is False
    assert context["reason"] == "user-lacks-right"
    assert context["missing"] == ["user:dev/mia"]
    assert context["bundle"].startswith("sha256:")
    assert [(a["principal"], a["role"], a["action"]) for a in context["answers"]] == [
        ("user:dev/mia", "subject", "call"),
        ("agent:procurement-analyst", "relay", "relay"),
        ("agent:erp-integration", "actor", "call"),
    ]


def test_an_agent_is_sent_to_without_saying_so(run: Run) -> None:
    ran = _explain(
        run,
        "--for",
        "user:dev/paul",
        "--groups",
        "procurement-managers",
        "--via",
        "procurement-analyst",
        "--call",
        "a2a:erp-integration",
        "--json",
    )
    assert ran.json["context"]["request"]["action"] == "send"
    assert ran.code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("--for", "paul", "--call", "erp.read"),
        ("--for", "user:dev/paul", "--via", "Not An Agent", "--call", "erp.read"),
        ("--for", "user:dev/paul", "--call", "erp.read", "--args", "[1]"),
        ("--for", "user:dev/paul", "--call", "erp.read", "--args", '{"a": 1, "a": 2}'),
        ("--for", "user:dev/paul", "--call", "erp.read", "--args", '{"a": NaN}'),
        ("--for", "user:dev/paul", "--call", "erp.read", "--args", "[" * 100_000),
        ("--for", "user:dev/paul", "--call", "erp.read", "--action", "fly"),
        ("--for", "user:dev/paul", "--call", "erp.read", "--action", "send"),
        ("--for", "user:dev/paul", "--call", "a2a:erp-integration", "--action", "call"),
        ("--for", "user:dev/paul", "--call", "erp.read", "--config", "x.yaml"),
        ("--for", "user:dev/paul", "--call", "erp.read", "--tenant", "nowhere"),
        ("--for", "user:dev/paul"),
        ("--call", "erp.read"),
    ],
)
def test_a_question_that_makes_no_sense_is_misuse(words: tuple[str, ...], run: Run) -> None:
    assert _explain(run, *words).code == 2


def test_a_broken_bundle_is_neither_a_yes_nor_a_no(run: Run, tmp_path: Path) -> None:
    assert run("explain", "--policies", tmp_path / "none", "--for", "user:dev/paul", "--call", "erp.read").code == 2


def test_numbers_are_exact_beyond_what_a_float_holds(run: Run) -> None:
    order = ORDER.replace("500", "250000.00000000000000000001")
    ran = _explain(
        run,
        "--for",
        "user:dev/paul",
        "--groups",
        "procurement-managers",
        "--via",
        CHAIN,
        "--call",
        "erp.write_po",
        "--args",
        order,
    )
    assert ran.code == 1


def test_the_settings_name_the_bundle_and_the_tenant(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "bailiwick.yaml"
    config.write_text(f"tenant: acme\npolicies: {PROCUREMENT}\n")
    ran = run("explain", "--config", config, "--for", "user:dev/mia", "--call", "erp.read", "--json")
    assert ran.json["context"]["request"]["tenant"] == "acme"
    assert ran.code == 1


def test_a_group_may_be_written_as_roles_csv_writes_it(run: Run) -> None:
    ran = _explain(
        run, "--for", "user:dev/paul", "--groups", "idp:procurement-managers", "--call", "erp.write_po", "--args", ORDER
    )
    assert (ran.code, ran.out.startswith("ALLOWED")) == (0, True)


def test_a_tool_that_is_spelt_wrong_gets_a_suggestion(run: Run) -> None:
    ran = _explain(run, "--for", "user:dev/paul", "--call", "erp.wirte_po")
    assert ran.code == 1
    assert "did you mean 'erp.write_po'?" in ran.out


def test_conditions_that_had_no_arguments_to_decide_by_are_said(run: Run) -> None:
    words = ("--for", "user:dev/paul", "--groups", "procurement-managers", "--call", "erp.write_po")
    assert "No --args were given" in _explain(run, *words).out
    assert "No --args were given" not in _explain(run, *words, "--args", ORDER).out


@pytest.mark.parametrize(
    ("name", "action"),
    [("prompt:desk/hello", "get"), ("res:desk/file:///a", "subscribe"), ("admin:policy", "change"), ("sampling:desk", "")],
)
def test_every_governed_thing_can_be_asked_about(run: Run, name: str, action: str) -> None:
    asked = ("--action", action) if action else ()
    ran = run("explain", "--for", "user:dev/mia", "--call", name, *asked, "--policies", PROCUREMENT, "--no-nearest", "--json")
    assert ran.code == 1
    assert ran.json["decision"] is False
