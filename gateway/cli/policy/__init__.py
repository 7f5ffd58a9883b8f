"""`bailiwick policy`: the workshop around a bundle, one file a verb."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import typer

VERBS: Final[tuple[str, ...]] = ("check", "test", "replay", "diff", "sign", "verify", "import_", "live")
"""Modules of this package in the order of `--help`; each has `register(group: typer.Typer) -> None`."""


def register(app: typer.Typer) -> None:
    """Add the group of verbs."""
    group = typer.Typer(help="Check, test, compare, replay and sign policy.", no_args_is_help=True)
    for verb in VERBS:
        import_module(f"gateway.cli.policy.{verb}").register(group)
    app.add_typer(group, name="policy")
