"""What a command needs of the machine to run in a cage: found out, and nothing guessed beyond it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway.sandbox.program import UnfitError, command_of
from gateway.upstream.registry import McpTarget


def reads(*command: str, **given: object) -> set[str]:
    target = McpTarget("it", "stdio", command=command, **given)  # type: ignore[arg-type]
    return {str(path) for path in command_of(target, network=False).read}


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_script_of_a_virtual_environment_needs_it_and_the_python_that_it_was_made_of(tmp_path: Path) -> None:
    base = program(tmp_path / "base/bin/python3.11", "")
    (tmp_path / "base/lib/python3.11").mkdir(parents=True)
    (tmp_path / "base/lib/secrets").mkdir()
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text("")
    (venv / "bin/python").symlink_to(base)
    script = program(venv / "bin/notes-server", f"#!{venv}/bin/python\n")
    found = reads(str(script), "--root", str(tmp_path / "base/lib/secrets"))
    assert found == {str(script), str(venv), str(venv / "bin/python"), str(base), str(tmp_path / "base/lib/python3.11")}


def test_a_package_of_npm_needs_its_node_modules_and_not_what_is_around_them(tmp_path: Path) -> None:
    entry = program(tmp_path / "node_modules/@x/server/index.js", "#!/usr/bin/env sh\n")
    (tmp_path / "node_modules/.bin").mkdir()
    link = tmp_path / "node_modules/.bin/server"
    link.symlink_to("../@x/server/index.js")
    expected = {str(tmp_path / "node_modules"), str(entry)}
    assert expected | {str(link)} <= reads(str(link))
    assert expected <= reads("sh", str(entry))
    assert str(tmp_path) not in reads(str(link), str(tmp_path))


def test_arguments_are_not_read_but_what_an_interpreter_runs(tmp_path: Path) -> None:
    script, data = program(tmp_path / "server.py", ""), program(tmp_path / "data.txt", "")
    found = reads(sys.executable, str(script), str(data))
    assert str(script) in found
    assert str(data) not in found
    assert str(script) not in reads(sys.executable, "-c", str(script))
    assert str(data) in reads(sys.executable, str(script), read=(data,))


def test_a_relative_command_is_looked_for_in_its_folder_and_links_without_end_end(tmp_path: Path) -> None:
    script = program(tmp_path / "here/server", "#!/bin/sh\n")
    target = McpTarget("it", "stdio", command=("./server",), folder=tmp_path / "here")
    assert command_of(target, network=False).line == (str(script),)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UnfitError, match="no program"):
        reads(str(tmp_path / "loop"))


def test_its_own_environment_comes_before_what_it_is_given_by_default(tmp_path: Path) -> None:
    script = program(tmp_path / "server", "#!/bin/sh\n")
    target = McpTarget("it", "stdio", command=(str(script),), environment={"PATH": "/mine", "TOKEN": "x"})
    found = command_of(target, network=False).environment
    assert (found["PATH"], found["TOKEN"], found["PYTHONHASHSEED"]) == ("/mine", "x", "random")


def test_what_fetches_may_try_where_its_profile_has_hosts(tmp_path: Path) -> None:
    program(tmp_path / "npx", "#!/bin/sh\n")
    target = McpTarget("it", "stdio", command=(str(tmp_path / "npx"), "server"))
    with pytest.raises(UnfitError, match="fetches"):
        command_of(target, network=False)
    assert command_of(target, network=True).environment["NODE_USE_ENV_PROXY"] == "1"
