"""`bailiwick policy test`: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from .conftest import PROCUREMENT, Run

FAILING = "tests:\n  - {who: mia, via: erp-integration, tool: erp.read, args: {id: '1'}, expect: allow, because: MKT-1}\n"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the example's bundle, to be broken."""
    return Path(shutil.copytree(PROCUREMENT, tmp_path / "bundle"))


def test_the_example_passes_with_its_coverage(run: Run) -> None:
    ran = run("policy", "test", PROCUREMENT, "--min-coverage", 100)
    assert ran.code == 0
    assert "all passed" in ran.out
    assert "(100.0 %)" in ran.out
    assert "FAILED" not in ran.out


def test_a_failing_row_shows_what_was_expected_what_came_and_by_which_lines(run: Run, bundle: Path) -> None:
    (bundle / "tests" / "wrong.yaml").write_text(FAILING)
    ran = run("policy", "test", bundle)
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert lines[:6] == [
        "FAILED tests/wrong.yaml:2  mia > erp-integration: call erp.read → allow",
        "  - expected allow",
        "  + got      deny (user-lacks-right)",
        "  - expected that rule MKT-1 speaks",
        "  + got      SEC-5, AGT-9",
        lines[5],
    ]
    assert "user:dev/mia asked agent:erp-integration to call erp.read in tenant acme: denied" in lines[5]
    assert "AGT-9 (grants/agents.csv:12)" in ran.out
    assert "1 failed" in ran.out


def test_a_broken_invariant_shows_who_could_and_by_which_lines(run: Run, bundle: Path) -> None:
    (bundle / "tests" / "wrong.yaml").write_text("never:\n  - {group: procurement-managers, tool: mail.send}\n")
    ran = run("policy", "test", bundle)
    assert ran.code == 1
    assert ran.out.splitlines()[:2] == [
        "BROKEN tests/wrong.yaml:2  group procurement-managers never: mail.send",
        ("  + could call mail.send in tenant acme: anybody with group procurement-managers by PRO-3 (grants/people.csv:8)"),
    ]


def test_rules_that_no_row_exercises_are_listed_and_can_fail_the_command(run: Run, bundle: Path) -> None:
    for name in ("controls", "limits"):
        (bundle / "tests" / f"{name}.yaml").unlink()
    ran = run("policy", "test", bundle)
    assert ran.code == 0
    assert "never exercised   PRO-3      grants/people.csv:8" in ran.out
    assert "seen one way      po-within-limit" in ran.out
    ran = run("policy", "test", bundle, "--min-coverage", 90)
    assert ran.code == 1
    assert "90 % are asked for" in ran.out


def test_a_bundle_that_proves_no_denial_is_a_finding(run: Run, bundle: Path) -> None:
    shutil.rmtree(bundle / "tests")
    ran = run("policy", "test", bundle)
    assert ran.code == 1
    assert "This bundle would not go live: tests: no test expects a denial" in ran.out


def test_rows_can_be_chosen_by_their_text_and_then_they_alone_count(run: Run, bundle: Path) -> None:
    (bundle / "tests" / "wrong.yaml").write_text(FAILING)
    assert run("policy", "test", bundle, "-k", "Fiona").code == 0
    chosen = run("policy", "test", bundle, "-k", "wrong.yaml", "--json")
    assert chosen.code == 1
    assert [case["title"] for case in chosen.json["tests"]] == ["mia > erp-integration: call erp.read → allow"]
    assert chosen.json["invariants"] == []
    assert chosen.json["unproven"] is None


def test_the_machine_readable_answer_has_every_row_every_invariant_and_the_coverage(run: Run, bundle: Path) -> None:
    (bundle / "tests" / "wrong.yaml").write_text(FAILING + "never:\n  - {who: paul, tool: mail.send}\n")
    ran = run("policy", "test", bundle, "--json")
    found = ran.json
    assert (ran.code, found["passed"], found["unproven"]) == (1, False, None)
    (case,) = [case for case in found["tests"] if not case["passed"]]
    assert (case["source"], case["expected"], case["effect"], case["reason"]) == (
        "tests/wrong.yaml:2", "allow", "deny", "user-lacks-right",
    )  # fmt: skip
    assert case["differences"][0] == {"what": "effect", "expected": "allow", "got": "deny (user-lacks-right)"}
    (broken,) = [each for each in found["invariants"] if not each["passed"]]
    assert broken["violations"][0]["rules"] == ["PRO-3"]
    rules = {each["rule"]: each for each in found["coverage"]["rules"]}
    assert rules["PRO-3"]["decisive"] > 0
    assert {each["condition"] for each in found["coverage"]["conditions"]} == {
        "po-within-limit", "no-network", "blocked-supplier", "po-needs-approval", "invoice-within-limit",
    }  # fmt: skip


def test_the_reports_are_written_where_they_are_asked_for(run: Run, tmp_path: Path, bundle: Path) -> None:
    (bundle / "tests" / "wrong.yaml").write_text(FAILING)
    junit, pages = tmp_path / "results.xml", tmp_path / "a" / "pages"
    assert run("policy", "test", bundle, "--junit", junit, "--coverage-html", pages).code == 1
    root = ET.parse(junit).getroot()
    assert {suite.attrib["name"] for suite in root} == {
        f"tests/{name}.yaml" for name in ("controls", "limits", "purchase", "wrong")
    }
    assert root.attrib["failures"] == "1"
    assert "grants/people.csv" in (pages / "index.html").read_text()


def test_the_settings_name_the_bundle_and_so_does_the_folder_beside_them(
    run: Run, tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "bailiwick.yaml"
    config.write_text("tenant: acme\npolicies: bundle\n")
    assert run("policy", "test", "--config", config).code == 0
    monkeypatch.chdir(tmp_path)
    assert run("policy", "test").code == 0
    config.unlink()
    bundle.rename(tmp_path / "policies")
    assert run("policy", "test").code == 0


MISUSES = {
    "no such folder": ("nowhere",),
    "two bundles": ("{bundle}", "--config", "x.yaml"),
    "nothing that fits": ("{bundle}", "-k", "no row says this"),
    "coverage of some rows": ("{bundle}", "-k", "mia", "--min-coverage", "50"),
    "more than everything": ("{bundle}", "--min-coverage", "101"),
    "a report where none can be": ("{bundle}", "--junit", "{bundle}"),
    "a page where none can be": ("{bundle}", "--coverage-html", "{bundle}/model.conf"),
}


@pytest.mark.parametrize("what", MISUSES)
def test_a_command_that_makes_no_sense_is_misuse(what: str, run: Run, bundle: Path) -> None:
    ran = run("policy", "test", *(word.format(bundle=bundle) for word in MISUSES[what]))
    assert ran.code == 2
    assert ran.err


def test_a_table_that_cannot_be_read_is_neither_passed_nor_failed(run: Run, bundle: Path) -> None:
    (bundle / "tests" / "wrong.yaml").write_text(FAILING.replace("mia", "maia"))
    ran = run("policy", "test", bundle)
    assert ran.code == 2
    assert "wrong.yaml:2:11" in ran.err
    assert "did you mean 'mia'?" in ran.err
    told = run("policy", "test", bundle, "--json")
    assert told.code == 2
    assert told.json["problems"][0]["code"] == "unknown-who"


def test_a_history_that_is_none_is_refused_and_not_ignored(run: Run, bundle: Path) -> None:
    (bundle / "tests" / "wrong.yaml").write_text("history:\n  done: []\ntests: []\n")
    ran = run("policy", "test", bundle)
    assert ran.code == 2
    assert "wrong.yaml:2:9: a history is a list of 1 to 1000 steps" in ran.err


def test_a_name_cannot_dress_itself_up_on_a_terminal(run: Run, bundle: Path) -> None:
    named = json.dumps({"name": "[bold]x[/bold] \u202eevil :smile:", "who": "mia", "tool": "erp.read", "expect": "allow"})
    (bundle / "tests" / "wrong.yaml").write_text(f"tests:\n  - {named}\n")
    ran = run("policy", "test", bundle)
    assert ran.code == 1
    assert "[bold]x[/bold] \\x202eevil :smile:" in ran.out


def test_a_new_folder_passes_its_own_tests_and_its_tables_say_how_to_go_on(run: Run, tmp_path: Path) -> None:
    source = tmp_path / ".mcp.json"
    source.write_text('{"mcpServers": {"Git Hub": {"type": "http", "url": "https://mcp.example/mcp"}}}')
    for folder, more in ((tmp_path / "plain", ()), (tmp_path / "adopted", ("--from", source))):
        assert run("init", folder, *more).code == 0
        assert run("policy", "test", "--config", folder / "bailiwick.yaml").code == 0
    text = (tmp_path / "adopted" / "policies" / "tests" / "denials.yaml").read_text()
    assert "# - {who: stranger, via: <agent>, tool: git-hub.<tool>" in text
