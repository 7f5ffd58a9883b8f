"""Two bundles compared at the command line: where they come from, what the exit code says, and that names are only text."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.cli.policy import sources
from policies.bundle import load

from .conftest import PROCUREMENT, Run

IDENTITY = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PROCUREMENT, tmp_path / "policies"))


def git(at: Path, *words: str) -> str:
    environ = {"PATH": os.environ["PATH"], "HOME": str(at), "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(["git", *IDENTITY, *words], cwd=at, check=True, capture_output=True, text=True, env=environ).stdout


@pytest.fixture
def repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = folder.parent
    git(root, "init", "-q")
    git(root, "add", "policies")
    git(root, "commit", "-qm", "one")
    monkeypatch.chdir(root)
    return root


def change(folder: Path, name: str, before: str, after: str) -> None:
    text = (folder / name).read_text()
    assert before in text
    (folder / name).write_text(text.replace(before, after))


def test_a_gain_ends_with_1_and_stands_first_with_an_example(run: Run, folder: Path) -> None:
    change(folder, "conditions.yaml", "250000", "300000")
    change(folder, "grants/people.csv", "p, role:finance-controller,  acme,   contracts.search", "#")
    ran = run("policy", "diff", PROCUREMENT, folder)
    assert ran.code == 1
    assert ran.out.index("DENY → ALLOW") < ran.out.index("ALLOW → DENY")
    assert "WIDER     idp:procurement-managers may, under other terms, call erp.write_po" in ran.out
    assert 'args.amount = 250001, args.currency = "EUR"' in ran.out
    assert "LOSES     idp:finance-controllers may no longer call contracts.search" in ran.out


def test_only_losses_and_duties_end_with_0_and_so_does_nothing(run: Run, folder: Path) -> None:
    change(folder, "conditions.yaml", "250000", "200000")
    change(folder, "obligations.yaml", "arguments: full", "arguments: hash")
    ran = run("policy", "diff", PROCUREMENT, folder)
    assert ran.code == 0
    assert "NARROWER" in ran.out
    assert "DUTY CHANGED" in ran.out
    ran = run("policy", "diff", PROCUREMENT, PROCUREMENT)
    assert (ran.code, "Nothing differs." in ran.out) == (0, True)


def test_the_document_for_programs_names_lines_by_file_and_line(run: Run, folder: Path) -> None:
    change(folder, "conditions.yaml", "250000", "300000")
    found = run("policy", "diff", PROCUREMENT, folder, "--json").json
    (each,) = found["changes"]
    assert (found["grants"], each["kind"], each["proof"]) == (True, "wider", "every case was tried")
    assert each["after"][0]["source"] == "grants/people.csv:7"
    assert (each["tools"], each["actions"], each["who"]) == (["erp.write_po"], ["call", "relay"], ["idp:procurement-managers"])


def test_a_revision_of_git_is_compared_without_a_checkout(run: Run, repository: Path) -> None:
    change(repository / "policies", "conditions.yaml", "250000", "300000")
    assert run("policy", "diff", "git:HEAD", "policies").code == 1
    assert run("policy", "diff", "policies", "git:HEAD:policies").code == 0
    assert run("policy", "diff", "git:HEAD:./policies/", "git:main").code == 0
    assert "300000" in (repository / "policies/conditions.yaml").read_text()
    os.chdir(repository / "policies")
    assert run("policy", "diff", "git:HEAD", ".").code == 1


def test_a_bundle_in_the_root_of_a_repository_is_read_too(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    monkeypatch.chdir(folder)
    assert run("policy", "diff", "git:HEAD:.", PROCUREMENT).code == 0


def test_hooks_and_configured_programs_of_the_repository_do_not_run(run: Run, repository: Path) -> None:
    ran = repository / "ran"
    script = repository / "evil.sh"
    script.write_text(f"#!/bin/sh\ntouch {ran}\n")
    script.chmod(0o755)
    for name in ("core.fsmonitor", "core.pager", "core.sshCommand", "diff.external", "filter.x.smudge", "core.hooksPath"):
        git(repository, "config", name, str(script))
    (repository / ".gitattributes").write_text("* filter=x diff=x\n")
    git(repository, "config", "diff.x.textconv", str(script))
    assert run("policy", "diff", "git:HEAD", "policies").code == 0
    assert not ran.exists()


@pytest.mark.parametrize(
    "word",
    [
        "git:--output=x", "git:-1", "git:HEAD;touch x", "git:$(touch x)", "git:nowhere", "git:", "git:HEAD:../policies",
        "git:HEAD:nothing", "git:HEAD:pol\x1bicies", "git:HEAD:policies/../policies", "nowhere", "sha256:" + "0" * 64,
    ],
)  # fmt: skip
def test_what_is_no_bundle_is_misuse_and_nothing_runs(run: Run, repository: Path, word: str) -> None:
    before = sorted(path.name for path in repository.iterdir())
    ran = run("policy", "diff", word, "policies")
    assert ran.code == 2
    assert "\x1b" not in ran.out + ran.err
    assert sorted(path.name for path in repository.iterdir()) == before


def test_a_link_and_a_stray_file_at_a_revision_are_refused(run: Run, repository: Path) -> None:
    (repository / "policies/grants/link.csv").symlink_to("people.csv")
    git(repository, "add", "policies")
    git(repository, "commit", "-qm", "two")
    assert "no plain file" in run("policy", "diff", "git:HEAD", "git:HEAD~1").err
    (repository / "policies/grants/link.csv").unlink()
    (repository / "policies/notes.txt").write_text("x")
    git(repository, "add", "policies")
    git(repository, "commit", "-qm", "three")
    ran = run("policy", "diff", "git:HEAD", "git:HEAD~2")
    assert (ran.code, "not part of a bundle" in ran.err) == (2, True)


def test_a_revision_with_too_many_or_too_large_files_is_refused_before_they_are_read(
    run: Run, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policies.reading.MAX_BYTES", 100)
    assert run("policy", "diff", "git:HEAD", "policies").code == 2


def test_a_kept_bundle_is_found_by_its_digest_and_must_be_what_it_was(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = tmp_path / "bundles"
    digest = load(folder).digest
    shutil.copytree(folder, kept / digest.removeprefix("sha256:"))
    monkeypatch.setattr(sources, "kept_folder", lambda _config: kept)
    assert run("policy", "diff", digest, folder).code == 0
    assert run("policy", "diff", digest.removeprefix("sha256:"), folder).code == 0
    assert run("policy", "diff", digest[:15], folder).code == 0  # as a difference shows it, and as `rollback` takes it
    shutil.copytree(folder, kept / (digest.removeprefix("sha256:")[:20] + "0" * 44))
    ran = run("policy", "diff", digest[:15], folder)
    assert (ran.code, "2 kept bundles begin so" in ran.err) == (2, True)
    change(kept / digest.removeprefix("sha256:"), "conditions.yaml", "250000", "1")
    ran = run("policy", "diff", digest, folder)
    assert (ran.code, "not what it was" in ran.err) == (2, True)


def test_a_comment_for_a_pull_request_has_what_opens_on_top_and_everything_else_folded(run: Run, folder: Path) -> None:
    change(folder, "conditions.yaml", "250000", "300000")
    change(
        folder,
        "roles.csv",
        "g, agent:campaign-reporter",
        "g, idp:interns, role:marketing-manager, acme\ng, agent:campaign-reporter",
    )
    change(folder, "grants/guardrails.csv", "sandbox-strict,     SEC-4", "full-audit, SEC-4")
    ran = run("policy", "diff", PROCUREMENT, folder, "--markdown")
    assert ran.code == 1
    assert ran.out.startswith("### Policy diff: **")
    assert ran.out.index("#### DENY → ALLOW") < ran.out.index("<details>")
    assert "`idp:interns` may now call `crm.campaign_report`" in ran.out
    assert ran.out.count("<details>") == ran.out.count("</details>") >= 2


def test_names_and_sentences_of_a_bundle_are_text_and_nothing_else_in_a_comment(run: Run, folder: Path) -> None:
    evil = "idp:<img src=x onerror=alert(1)>@team](http:x)|b"
    change(
        folder, "roles.csv", "g, agent:campaign-reporter", f"g, {evil}, role:marketing-manager, acme\ng, agent:campaign-reporter"
    )
    out = run("policy", "diff", PROCUREMENT, folder, "--markdown").out
    assert f"`{evil}`" in out
    outside = "".join(part for at, part in enumerate(out.split("`")) if at % 2 == 0)
    assert "<img" not in outside
    assert "@team" not in outside


def test_one_tenant_alone_and_what_is_misuse(run: Run, folder: Path) -> None:
    assert run("policy", "diff", PROCUREMENT, folder, "--tenant", "acme").code == 0
    assert run("policy", "diff", PROCUREMENT, folder, "--tenant", "nowhere").code == 2
    assert run("policy", "diff", PROCUREMENT, folder, "--json", "--markdown").code == 2
    (folder / "roles.csv").write_text("x\n")
    assert run("policy", "diff", PROCUREMENT, folder).code == 2


def test_more_changes_than_anybody_reads_are_counted_and_all_of_them_stand_in_the_json(run: Run, folder: Path) -> None:
    tools = "".join(f"  many.t{n}: {{args: {{n: number}}}}\n" for n in range(60))
    change(folder, "tools.yaml", "tools:\n", "tools:\n" + tools)
    lines = "".join(f"p, idp:g{n}, acme, many.t{n}, call, allow, -, -, M-{n}\n" for n in range(60))
    (folder / "grants/many.csv").write_text(lines)
    ran = run("policy", "diff", PROCUREMENT, folder, "--markdown")
    assert (ran.code, "- and 10 more" in ran.out, ran.out.count("**GAINS**")) == (1, True, 50)
    assert len(run("policy", "diff", PROCUREMENT, folder, "--json").json["changes"]) == 60
