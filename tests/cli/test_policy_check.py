"""What `policy check` prints, writes and exits with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gateway.policy.checks import CONTEXT
from policies.lint import PAGES, RULES

from .conftest import PROCUREMENT, ROOT, Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(PROCUREMENT, tmp_path / "policies")
    return tmp_path / "policies"


def add(folder: Path, line: str, file: str = "grants/people.csv") -> int:
    """Append a line; its number."""
    path = folder / file
    path.write_text(path.read_text() + line + "\n")
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("shipped", [PROCUREMENT, ROOT / "policies" / "default"])
def test_the_shipped_bundles_pass_even_strictly(run: Run, shipped: Path) -> None:
    ran = run("policy", "check", shipped, "--strict")
    assert ran.code == 0
    assert "no findings" in ran.out


# The mistakes that anybody makes: (file, line, code, what is said, what helps).
PLANTED = [
    ("grants/people.csv", "p, role:procurment-manager, acme, erp.read, call, allow, -, -, X", "unknown-role",
     "nobody has 'role:procurment-manager'", "did you mean 'role:procurement-manager'?"),
    ("grants/people.csv", "p, role:employee, acme, erp.read, call, Deny, -, -, X", "unknown-effect",
     "effect 'Deny'",
     "did you mean 'deny'?"),
    ("grants/people.csv", "P, role:employee, acme, erp.read, call, deny, -, -, X", "unknown-line",
     "line starts with 'P'",
     "starts with 'p'"),
    ("grants/people.csv", "p, role:employee, acme, *.read, call, deny, -, -, X", "odd-tool",
     "'*.read' is no pattern",
     "stands at the end"),
    ("grants/people.csv", "p, role:employee, acme, erp.raed, call, deny, -, -, X", "unknown-tool",
     "no tool 'erp.raed'",
     "did you mean 'erp.read'?"),
    ("grants/people.csv", "p, role:employee, acem, erp.read, call, deny, -, -, X", "unknown-tenant",
     "no tenant 'acem'",
     "did you mean 'acme'?"),
    ("grants/people.csv", "p, role:employee, acme, erp.read, call, deny, no-netwrk, -, X", "unknown-condition",
     "no condition 'no-netwrk'", "did you mean 'no-network'?"),
    ("grants/people.csv", "p, role:employee, acme, erp.read, call, require, -, full-adit, X", "unknown-duty",
     "no duty 'full-adit'",
     "did you mean 'full-audit'?"),
    ("grants/people.csv", "p, role:employee, acme, erp.read, call, deny, -, -, PRO-1", "duplicate-id",
     "taken by grants/people.csv:6",
     "an id of its own"),
    ("grants/people.csv", "p, role:employee, acme, erp.read, call, deny, -, X", "wrong-column-count",
     "8 columns", "the columns are"),
    ("roles.csv", "g, role:employee, role:finance-controller, acme", "role-circle",
     "which is a member of it", "take one"),
    ("conditions.yaml", "big: {if: args.amount = 5, say: s}", "bad-condition",
     "a single '='", "write '==' to compare"),
    ("conditions.yaml", "no-network: {if: args.network, say: s}", "duplicate-key",
     "stands here twice", "keep one"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "line", "code", "message", "help_"), PLANTED)
def test_a_planted_mistake_is_shown_with_file_line_caret_and_help(
    run: Run, folder: Path, file: str, line: str, code: str, message: str, help_: str
) -> None:
    number = add(folder, line, file)
    ran = run("policy", "check", folder)
    assert ran.code == 1
    said = [part for part in ran.out.split("\n\n") if f"[{code}]" in part]
    assert len(said) == 1
    place, text, caret, *rest = said[0].splitlines()
    assert message in place
    assert caret.strip() == "^"
    assert help_ in rest[0]
    found = run("policy", "check", folder, "--json")
    assert found.code == 1
    (problem,) = [each for each in found.json["problems"] if each["code"] == code]
    if code != "role-circle":  # told at the line that closes the circle, whichever that is
        assert problem["location"].startswith(f"{folder / file}:{number}:")
        assert text.strip() == line
    assert found.json["bundle"] is None


def test_a_misspelt_argument_is_shown_in_the_condition_that_reads_it(run: Run, folder: Path) -> None:
    number = add(folder, 'net2: {if: args.netwrok == false, say: "s"}', "conditions.yaml")
    add(folder, "p, role:employee, acme, sandbox.run_python, call, deny, net2, -, X-1")
    (problem,) = run("policy", "check", folder, "--json").json["problems"]
    assert problem["location"] == f"{folder / 'conditions.yaml'}:{number}:12"
    assert problem["help"] == "did you mean 'network'?"


def test_a_stray_file_is_an_error(run: Run, folder: Path) -> None:
    (folder / "grants/people.csv.bak").write_text("")
    ran = run("policy", "check", folder, "--json")
    assert (ran.code, [each["code"] for each in ran.json["problems"]]) == (1, ["stray-file"])


def test_a_warning_fails_a_strict_check_alone(run: Run, folder: Path) -> None:
    number = add(folder, "p, role:employee, acme, erp.read, relay, allow, -, -, X-1")
    ran = run("policy", "check", folder)
    assert ran.code == 0
    assert "0 errors, 1 warning" in ran.out
    assert f"{folder / 'grants/people.csv'}:{number}:" in ran.out
    assert run("policy", "check", folder, "--strict").code == 1


def test_a_silenced_finding_stands_in_the_summary_with_its_reason(run: Run, folder: Path) -> None:
    add(folder, "# lint: allow everyone because mail is open to all")
    add(folder, "p, *, acme, mail.send, call, allow, -, -, X-1")
    ran = run("policy", "check", folder, "--json")
    silenced = [(each["code"], each["why"]) for each in ran.json["suppressed"]]
    assert ("everyone", "mail is open to all") in silenced
    assert "everyone, because mail is open to all" in run("policy", "check", folder).out


def test_settings_tell_what_is_around_the_bundle(run: Run, folder: Path) -> None:
    config = folder.parent / "bailiwick.yaml"
    config.write_text(
        "tenant: acme\nagents: {procurement-analyst: {}}\n"
        "mcp:\n  erp: {url: 'http://127.0.0.1:1/mcp', headers: {Authorization: {env: ERP}}}\n"
    )
    found = run("policy", "check", "--config", config, "--json").json["problems"]
    codes = {each["code"] for each in found}
    assert codes == {"unknown-agent", "unknown-server", "shared-credential"}
    assert run("policy", "check", folder, "--json").json["problems"] == []


def test_a_live_check_of_a_server_that_does_not_answer_fails(run: Run, folder: Path) -> None:
    config = folder.parent / "bailiwick.yaml"
    config.write_text("tenant: acme\nmcp:\n  erp: {url: 'http://127.0.0.1:1/mcp'}\n  risk: {url: 'http://169.254.169.254/mcp'}\n")
    ran = run("policy", "check", "--config", config, "--live", "--json")
    assert ran.code == 1
    silent = [each["message"] for each in ran.json["problems"] if each["code"] == "silent-server"]
    assert len(silent) == 2
    assert "connect" in silent[0]


def test_sarif_names_every_finding_and_the_silenced_ones(run: Run, folder: Path, tmp_path: Path) -> None:
    number = add(folder, "p, *, acme, mail.send, call, allow, -, -, X-1")
    file = tmp_path / "found.sarif"
    assert run("policy", "check", folder, "--sarif", file).code == 1
    document = json.loads(file.read_text())
    (one,) = document["runs"]
    assert document["version"] == "2.1.0"
    (error,) = [each for each in one["results"] if each["ruleId"] == "everyone"]
    place = error["locations"][0]["physicalLocation"]
    assert error["level"] == "error"
    assert place["artifactLocation"]["uri"] == (folder / "grants/people.csv").as_uri()
    assert place["region"] == {"startLine": number, "startColumn": 4}
    assert [each["suppressions"][0]["kind"] for each in one["results"] if "suppressions" in each] == ["inSource"] * 2
    assert {each["ruleId"] for each in one["results"]} == {rule["id"] for rule in one["tool"]["driver"]["rules"]}
    assert [path.name for path in tmp_path.glob(".found*")] == []


@pytest.mark.parametrize(
    "words",
    [
        ("no-such-folder",),
        ("--explain", "no-such-rule"),
        ("--config", "no-such-file.yaml"),
        ("policies", "--sarif", "no/such/folder/x.sarif"),
        (),
    ],
)
def test_misuse_is_no_finding(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    monkeypatch.chdir(folder.parent)
    assert run("policy", "check", *words).code == 2


def test_every_code_has_its_page_on_the_command_line(run: Run) -> None:
    for code in PAGES:
        ran = run("policy", "check", "--explain", code, "--json")
        assert (ran.code, ran.json["page"]) == (0, PAGES[code])
    assert "everyone (error)" in run("policy", "check", "--explain", "everyone").out


def test_the_reference_has_a_heading_for_every_code_and_no_other() -> None:
    text = (ROOT / "docs/reference/lint.md").read_text()
    assert sorted(line[4:] for line in text.splitlines() if line.startswith("### ")) == sorted(PAGES)
    for code, page in PAGES.items():
        section = text.split(f"\n### {code}\n", 1)[1].split("\n### ", 1)[0].split("\n## ", 1)[0]
        severity = f"*{RULES[code].severity}*" if code in RULES else ""
        assert " ".join(f"{severity} {page}".split()) in " ".join(section.split()), code


def test_the_names_that_the_gateway_fills_in_are_those_of_the_reference() -> None:
    text = (ROOT / "docs/reference/conditions.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith(("| `agent.", "| `ctx."))]
    named = {name.strip(" `") for row in rows for name in row.split(",")}
    assert named == CONTEXT
