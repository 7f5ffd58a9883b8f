"""The frame that every verb stands in."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.tree import Tree

from gateway import cli
from gateway.cli import version
from gateway.cli.output import console

from .conftest import Run


def commands() -> dict[str, Any]:
    """Every command by its words, those inside groups too."""
    app = typer.Typer()
    for verb in cli.VERBS:
        import_module(f"gateway.cli.{verb.replace('-', '_')}").register(app)
    found, left = {}, [("", typer.main.get_command(app))]
    while left:
        words, command = left.pop()
        inner = getattr(command, "commands", None)
        if inner is None:
            found[words.strip()] = command
        else:
            left += [(f"{words} {name}", each) for name, each in inner.items()]
    return found


LONG_RUNNING = {"serve", "demo", "audit witness", "sandbox runner"}  # they speak in log lines


def test_every_command_has_help_with_an_example_and_a_json_answer() -> None:
    found = commands()
    assert {"explain", "policy diff", "policy import casbin", "audit reproduce", "tools import"} <= found.keys()
    assert [words for words, command in found.items() if "Example" not in (command.help or "")] == []
    options = {words: {o for p in command.params for o in p.opts} for words, command in found.items()}
    assert [words for words in found if "--json" not in options[words] and words not in LONG_RUNNING] == []


def test_the_list_of_verbs_is_what_help_shows(run: Run) -> None:
    out = run("--help").out
    assert all(f" {verb} " in out for verb in cli.VERBS)


def test_the_version_is_told_to_people_and_to_programs(run: Run) -> None:
    assert run("version").out.startswith("bailiwick ")
    assert run("--version").out == run("version").out
    assert set(run("version", "--json").json) == {"bailiwick", "python", "pycasbin", "a2a-sdk", "opentelemetry"}


def left_early(*words: str, both: bool = False) -> tuple[int, str]:
    """Exit code and stderr of a command whose output nobody reads: its reader is gone before it begins."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "gateway.cli", *words]
        to = writing if both else subprocess.PIPE
        ran = subprocess.run(command, stdout=writing, stderr=to, timeout=120, check=False)
    finally:
        os.close(writing)
    return ran.returncode, (ran.stderr or b"").decode()


@pytest.mark.parametrize(
    "words",
    [("--help",), ("audit", "--help"), ("audit", "tail", "--help"), ("serve", "-h"), ("version",), ("version", "--json"), ()],
)
def test_a_reader_that_leaves_early_is_no_error(run: Run, words: tuple[str, ...]) -> None:
    assert left_early(*words) == (run(*words).code, "")


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("words", [("check", "--config", "nowhere.yaml", "--json"), ("check", "--config", "nowhere.yaml")])
def test_the_exit_code_says_what_was_found_whoever_reads_it(words: tuple[str, ...], both: bool) -> None:
    code, told = left_early(*words, both=both)
    assert code == 1
    assert "Error" not in told


@pytest.mark.parametrize("words", [("nonsense",), ("version", "--nonsense"), ("init", "a", "b"), ()])
def test_a_command_that_makes_no_sense_exits_with_2(words: tuple[str, ...], run: Run) -> None:
    assert run(*words).code == 2


def test_misuse_too_is_one_json_document_when_asked(run: Run) -> None:
    ran = run("policy", "check", "no-such-folder", "--json")
    assert (ran.code, [problem["code"] for problem in ran.json["problems"]]) == (2, ["misuse"])


def test_problems_are_one_json_document_when_asked(run: Run, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    ran = run("init", tmp_path, "--json")
    assert ran.code == 1
    assert [p["code"] for p in ran.json["problems"]] == ["file-exists"]


def test_a_defect_is_one_line_that_shows_no_value(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, str]:
        raise RuntimeError("hunter2")

    monkeypatch.setattr(version, "facts_of_this_installation", fail)
    ran = run("version")
    assert ran.code == cli.DEFECT
    assert ran.err == "bailiwick: unexpected RuntimeError; BAILIWICK_DEBUG=1 shows where\n"


def test_a_developer_gets_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, str]:
        raise RuntimeError("a defect")

    monkeypatch.setattr(version, "facts_of_this_installation", fail)
    monkeypatch.setenv("BAILIWICK_DEBUG", "1")
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main(["version"])


def test_a_small_command_imports_neither_the_judge_nor_the_server_nor_the_sdk() -> None:
    script = (
        "import sys\nfrom gateway.cli import main\ntry: main(['version'])\nexcept SystemExit: pass\n"
        "heavy = {'casbin', 'uvicorn', 'fastapi', 'sqlmodel', 'opentelemetry.sdk', 'a2a', 'ruamel.yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_a_file_says_cannot_dress_up_the_terminal(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bailiwick.yaml"
    path.write_text('"[red]\\e[31mx": 1\n')
    ran = run("check", "--config", path)
    assert ran.code == 1
    assert "\x1b" not in ran.out
    assert "[red]" in ran.out


@pytest.mark.parametrize("words", [("audit", "verify"), ("audit", "tail"), ("token", "--user", "paul")])
def test_settings_that_cannot_be_read_are_never_mistaken_for_an_answer(words: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    ran = run(*words, "--config", tmp_path / "none.yaml")
    assert ran.code == 2
    assert "none.yaml" in ran.err


def test_a_stranger_verifies_a_copy_without_any_settings(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run("audit", "verify", "--ledger", "none.db", "--key", "x+00000000+AA")
    assert ran.code == 2
    assert "bailiwick.yaml" not in ran.err


def test_nothing_is_cut_off_on_its_way_into_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 100 + "end"
    tree = Tree("root")
    tree.add(long)
    console().print(tree)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == ["root", f"└── {long}"]
