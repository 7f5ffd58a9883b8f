"""What the demo tells, as a terminal and as a pipe show it."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from gateway.cli import demo

from .conftest import Run

STEP = SimpleNamespace(
    number="1",
    ok=True,
    told="Paul, a procurement manager, asks for a purchase order.",
    seen=(
        "└── agent:erp-integration  call erp.write_po",
        "the ledger explains: user:dev/mia asked\n  a second line that is long, too",
    ),
)


def _told(*, terminal: bool) -> list[str]:
    text = io.StringIO()
    out = Console(file=text, width=30, force_terminal=terminal, no_color=True, color_system=None, markup=False, highlight=False,
                  soft_wrap=True)  # fmt: skip
    demo._Narrator(out).step(STEP)
    return text.getvalue().splitlines()


def test_a_terminal_breaks_lines_between_words_and_cuts_a_tree_at_its_edge() -> None:
    lines = [line.rstrip() for line in _told(terminal=True)]
    assert max(map(len, lines)) <= 30
    assert "Paul, a procurement manager," in lines
    assert "   └── agent:erp-integration …" in lines
    assert lines[-2:] == ["     a second line that is", "     long, too"]


def test_a_pipe_gets_every_line_whole() -> None:
    lines = _told(terminal=False)
    assert STEP.told in lines
    assert f"   {STEP.seen[0]}" in lines


def test_a_running_demo_keeps_its_folder(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    with demo._prepare(folder):
        (folder / "ledger").write_text("in use")
        ran = run("demo", "--once", "--folder", folder)
        assert ran.code == 2
        assert "a demo is running in" in ran.err
        assert (folder / "ledger").exists()
    with demo._prepare(folder):
        assert [path.name for path in folder.iterdir()] == [demo.MARKER]
