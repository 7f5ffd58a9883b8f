"""`policy import casbin`: a folder that checks, a report of what is not in it, and nothing at all where a deny would be lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.bundle import load

from .conftest import Run

MODEL = """\
[request_definition]
r = sub, obj, act
[policy_definition]
p = sub, obj, act, eft
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))
[matchers]
m = g(r.sub, p.sub) && r.obj == p.obj && r.act == p.act
"""
POLICY = """\
# people
g, alice, staff
p, staff, reports, read, allow
p, bob, reports, write, allow
p, bob, old*, read, allow
p, alice, reports, write, deny
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    (tmp_path / "model.conf").write_text(MODEL)
    (tmp_path / "policy.csv").write_text(POLICY)
    return tmp_path / "model.conf", tmp_path / "policy.csv", tmp_path / "made" / "policies"


def test_a_folder_is_written_with_a_report_of_what_is_not_in_it(run: Run, files: tuple[Path, Path, Path]) -> None:
    model, policy, out = files
    ran = run("policy", "import", "casbin", model, policy, "--tenant", "acme", "--out", out)
    assert ran.code == 1
    assert f"{policy}:5: not in the bundle" in ran.out
    bundle = load(out)
    assert {(rule.who, rule.tool, rule.effect) for rule in bundle.rules} == {
        ("role:staff", "reports.read", "allow"),
        ("user:corp/bob", "reports.write", "allow"),
        ("user:corp/alice", "reports.write", "deny"),
    }
    assert "line 5: `p, bob, old*, read, allow`" in (out / "README.md").read_text()
    assert [path.name for path in out.parent.iterdir()] == ["policies"]
    checked = run("policy", "check", out, "--json")
    assert checked.code == 0
    policy.write_text(POLICY.replace("p, bob, old*, read, allow\n", ""))
    assert run("policy", "import", "casbin", model, policy, "--tenant", "acme", "--out", out.parent / "again").code == 0


def test_nothing_is_written_where_a_deny_line_would_be_lost(run: Run, files: tuple[Path, Path, Path]) -> None:
    model, policy, out = files
    policy.write_text(POLICY + "P, bob, reports, read, deny\n")
    ran = run("policy", "import", "casbin", model, policy, "--tenant", "acme", "--out", out, "--json")
    assert (ran.code, ran.json["written"], out.exists()) == (1, None, False)
    (lost,) = [each for each in ran.json["unmapped"] if each["widens"]]
    assert (lost["line"], lost["meant"]) == (7, "a line that starts with p or g")
    assert "no bundle is written" in run("policy", "import", "casbin", model, policy, "--tenant", "acme", "--out", out).out


def test_a_model_without_a_counterpart_is_shown_with_its_line(run: Run, files: tuple[Path, Path, Path]) -> None:
    model, policy, out = files
    model.write_text(MODEL.replace("r.obj == p.obj", "regexMatch(r.obj, p.obj)"))
    ran = run("policy", "import", "casbin", model, policy, "--tenant", "acme", "--out", out)
    assert ran.code == 1
    assert f"{model}:10:1: 'regexMatch(r.obj, p.obj)' has no counterpart" in ran.err
    assert not out.exists()


def test_misuse_is_no_finding_and_overwrites_nothing(run: Run, files: tuple[Path, Path, Path]) -> None:
    model, policy, out = files
    assert run("policy", "import", "casbin", model, policy, "--tenant", "A B", "--out", out).code == 2
    assert run("policy", "import", "casbin", model, policy.with_name("none.csv"), "--tenant", "acme", "--out", out).code == 2
    assert run("policy", "import", "casbin", model, policy, "--tenant", "acme", "--out", policy.parent).code == 2
    out.mkdir(parents=True)
    (out / "mine").write_text("")
    assert run("policy", "import", "casbin", model, policy, "--tenant", "acme", "--out", out).code == 2
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_attack_a_policy_that_dresses_up_the_terminal_is_shown_as_it_is(run: Run, files: tuple[Path, Path, Path]) -> None:
    model, policy, out = files
    policy.write_text("p, \x1b[2Jbob, reports, read, deny\n")
    ran = run("policy", "import", "casbin", model, policy, "--tenant", "acme", "--out", out)
    assert ran.code == 1
    assert "\x1b" not in ran.out + ran.err
