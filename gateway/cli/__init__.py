"""The command line: one file per verb, each imported only when it is asked for.

Exit codes: 0 fine, 1 a finding (or a denial), 2 misuse, 70 a defect of ours.  Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

VERBS: tuple[str, ...] = (
    "init",
    "check",
    "explain",
    "demo",
    "serve",
    "policy",
    "tools",
    "audit",
    "sandbox",
    "kill",
    "grants",
    "approvals",
    "vault",
    "workflows",
    "doctor",
    "keys",
    "agents",
    "token",
    "version",
)
"""Modules of this package, in the order of `--help`.  Each has `register(app: typer.Typer) -> None`, which adds the command (or
the group of commands) of the module's name, and imports what is heavy inside its functions."""

ANSWERING = frozenset(
    {
        "agents",
        "approvals",
        "audit",
        "doctor",
        "grants",
        "keys",
        "kill",
        "policy",
        "sandbox",
        "token",
        "tools",
        "vault",
        "workflows",
    }
)
"""Verbs whose 1 is an answer, as "the ledger was changed": settings that cannot be read are none, and so end them with 2."""

DEFECT = 70
"""EX_SOFTWARE of sysexits.h: neither a finding nor misuse, and never to be mistaken for an answer."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit the process.  `argv` is without the program's name; default: the process's own."""
    import typer  # noqa: PLC0415  the command line pays for what it uses

    from gateway.cli.output import (  # noqa: PLC0415
        AnsweredNoError,
        MisuseError,
        let_readers_leave,
        print_misuse,
        print_no,
        print_problems,
    )
    from gateway.problem import ProblemError  # noqa: PLC0415

    let_readers_leave()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        arguments = ["version"]
    app = typer.Typer(
        name="bailiwick",
        help="A governance gateway for AI agents: whose call it is, whether they may, and proof afterwards.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback()(_root)  # one command alone must still be named
    wanted = arguments[0] if arguments and arguments[0] in VERBS else None
    for verb in VERBS:
        if wanted in (None, verb):
            import_module(f"gateway.cli.{verb.replace('-', '_')}").register(app)
    try:
        app(args=arguments, prog_name="bailiwick")
    except MisuseError as error:
        print_misuse(error, as_json="--json" in arguments)
        raise
    except AnsweredNoError as error:
        print_no(error, as_json="--json" in arguments)
        raise
    except ProblemError as error:
        print_problems(error.problems, as_json="--json" in arguments)
        sys.exit(2 if wanted in ANSWERING else 1)
    except Exception as error:
        # The boundary of the program: a person gets one line, a developer the traceback.
        if os.environ.get("BAILIWICK_DEBUG") == "1":
            raise
        print(f"bailiwick: unexpected {type(error).__name__}; BAILIWICK_DEBUG=1 shows where", file=sys.stderr)
        sys.exit(DEFECT)


def _root() -> None:
    """Stands for the program itself; it has no options of its own."""
