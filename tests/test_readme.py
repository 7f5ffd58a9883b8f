"""The README runs as written: its commands are taken from the page itself, and must print what the page shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
PROGRAM = Path(sys.executable).with_name("bailiwick")


def shown() -> list[tuple[str, str]]:
    """Every command that the page shows with its output."""
    fences = re.findall(r"^```\n\$ (.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    found = []
    for fence in fences:
        command = re.match(r"(?:.*\\\n)*.*\n", fence)
        assert command is not None
        found.append((command[0].replace("\\\n", " ").strip(), fence[command.end() :].rstrip()))
    return found


def run(command: str, cwd: Path = ROOT) -> tuple[int, str]:
    words = shlex.split(command)
    assert words[0] in {".venv/bin/bailiwick", "bailiwick"}
    environment = os.environ | {"COLUMNS": "160", "NO_COLOR": "1"}
    done = subprocess.run(
        [str(PROGRAM), *words[1:]], cwd=cwd, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    return done.returncode, re.sub(r"sha256:[0-9a-f]{64}", "sha256:…", done.stdout).rstrip()


def test_the_page_shows_an_allowed_call_a_refused_one_and_its_proof() -> None:
    verbs = [shlex.split(command)[1:3] for command, _ in shown()]
    assert [verb[0] for verb in verbs] == ["explain", "explain", "audit"]
    assert [output.split(maxsplit=1)[0] for _, output in shown()[:2]] == ["ALLOWED", "DENIED"]


@pytest.mark.parametrize(("command", "output"), shown()[:2], ids=["allowed", "refused"])
def test_explain_prints_what_the_page_shows(command: str, output: str) -> None:
    code, printed = run(command)
    assert printed == output
    assert code == (0 if output.startswith("ALLOWED") else 1)


def test_the_starter_commands_work_as_written(tmp_path: Path) -> None:
    (tmp_path / "claude_desktop_config.json").write_text(
        '{"mcpServers": {"notes": {"command": "notes-server", "args": ["--stdio"], "env": {"TOKEN": "not-to-be-copied"}}}}'
    )
    block = next(fence for fence in re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE) if "init --from" in fence)
    commands = [line.partition("#")[0].strip() for line in block.splitlines()]
    assert [shlex.split(command)[1] for command in commands] == ["init", "check", "serve"]
    assert run(commands[0], tmp_path)[0] == 0
    assert run(commands[1], tmp_path)[0] == 0
    assert "not-to-be-copied" not in (tmp_path / "gateway-config" / "bailiwick.yaml").read_text()


def test_every_make_target_that_the_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)\b", TEXT)) <= targets
