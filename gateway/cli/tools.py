"""`bailiwick tools`: what servers offer: entries of tools.yaml for a person to judge, and definitions for one to approve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import tools_review
from gateway.cli.output import console, misuse, print_json, printable
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from gateway.cli.tool_entries import Draft
    from gateway.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the group of verbs."""
    group = typer.Typer(help="Tools of the servers behind the gateway.", no_args_is_help=True)
    group.command("import")(import_)
    tools_review.register(group)
    app.add_typer(group, name="tools")


def import_(
    server: Annotated[str, typer.Argument(help="A server of the settings' `mcp:`.")],
    *,
    config: Annotated[Path, typer.Option("--config", help="The settings.")] = Path("bailiwick.yaml"),
    write: Annotated[bool, typer.Option("--write", help="Add the new entries to tools.yaml; nothing else is changed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Ask a running server for its tools, and draft their entries of tools.yaml.

    A server's hints are untrusted: they become comments. An entry that stands there is never changed; what differs is shown.
    Exits with 1 where something differs, is missing, or cannot be registered.

    [bold]Example[/bold]   bailiwick tools import erp --config bailiwick.yaml --write
    """
    from gateway.cli.tool_entries import FILE, draft, registered  # noqa: PLC0415  the command line pays for what it uses
    from gateway.configuration import load  # noqa: PLC0415

    settings = load(config, os.environ)
    if server not in settings.mcp:
        _unknown(server, settings)
    path = settings.policies / FILE
    text = _text(path)
    known, wrong = registered(text)
    if wrong:
        raise ProblemError(
            *(Problem(f.code, f.message, f"{path}:{f.line}:{f.column}", f.help, f.text, f.column) for f in wrong),
        )
    made = draft(server, _ask(settings, server), known)
    if write and made.entries:
        _write(path, text, made)
    if as_json:
        print_json(_as_dict(server, made, written=write and bool(made.entries)))
    else:
        _show(server, path, made, written=write)
    raise typer.Exit(1 if made.findings else 0)


def _unknown(server: str, settings: Settings) -> None:
    from policies.finding import suggest  # noqa: PLC0415  the command line pays for what it uses

    if server == "sandbox":
        misuse("the server 'sandbox' is built in", help="its tool stands in the tools.yaml of `bailiwick init`")
    help_ = suggest(server, settings.mcp) or f"known are {', '.join(settings.mcp) or 'none'}"
    misuse(f"the settings have no server '{printable(server[:80])}'", help=help_)


def _text(path: Path) -> str:
    from policies.reading import MAX_YAML_BYTES  # noqa: PLC0415  the command line pays for what it uses

    try:
        with path.open("rb") as file:
            data = file.read(MAX_YAML_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise ProblemError(Problem("unreadable", f"the file cannot be read: {error.strerror}", str(path))) from None
    except UnicodeDecodeError:
        raise ProblemError(Problem("not-utf8", "the file is not UTF-8", str(path), "save it as UTF-8")) from None
    if len(data) > MAX_YAML_BYTES:
        raise ProblemError(Problem("too-large", f"the file is larger than {MAX_YAML_BYTES} bytes", str(path)))
    return text


def _ask(settings: Settings, server: str) -> dict[str, dict[str, Any]]:
    """The server's tools; ends the command with 1 where it does not say."""
    import asyncio  # noqa: PLC0415  the command line pays for what it uses

    from gateway.cli.live_tools import target_of, tools_of  # noqa: PLC0415
    from gateway.model import UpstreamError  # noqa: PLC0415

    try:
        target = target_of(settings, server, os.environ)
    except ValueError as error:
        raise ProblemError(Problem("unusable-server", str(error), f"mcp.{server}")) from None
    try:
        with console(stderr=True).status(f"asking {server}"):
            return asyncio.run(tools_of(target, settings))
    except UpstreamError as error:
        message = f"the server '{server}' did not say what its tools are: {error}"
        console(stderr=True).print(printable(Problem("silent-server", message, f"mcp.{server}", "start it").render()))
        raise typer.Exit(1) from None


def _write(path: Path, text: str, made: Draft) -> None:
    from gateway.cli.tool_entries import UnfitFileError, with_entries  # noqa: PLC0415  the command line pays for what it uses
    from gateway.cli.whole_file import write_whole  # noqa: PLC0415

    try:
        write_whole(path, with_entries(text, made.entries))
    except UnfitFileError as error:
        raise ProblemError(Problem("unfit-file", str(error), str(path), "without --write the entries are shown")) from None
    except OSError as error:
        raise ProblemError(Problem("unwritable", f"the file cannot be written: {error.strerror}", str(path))) from None


def _as_dict(server: str, made: Draft, *, written: bool) -> dict[str, object]:
    from gateway.cli.tool_entries import as_text  # noqa: PLC0415  the command line pays for what it uses

    return {
        "server": server,
        "entries": {e.name: {"args": dict(e.args), "risk": e.risk, "notes": list(e.notes)} for e in made.entries},
        "text": as_text(made.entries),
        "differences": [
            {"tool": each.tool, "argument": each.argument, "here": each.here or None, "there": each.there or None}
            for each in made.differences
        ],
        "missing": list(made.missing),
        "refused": dict(made.refused),
        "written": written,
    }


def _show(server: str, path: Path, made: Draft, *, written: bool) -> None:
    from gateway.cli.tool_entries import as_text  # noqa: PLC0415  the command line pays for what it uses

    out, said = console(), console(stderr=True)
    if made.entries:
        out.print(printable(as_text(made.entries)), end="")
    for each in made.differences:
        here, there = (f"{each.argument}: {kind}" if kind else "" for kind in (each.here, each.there))
        out.print(printable(f"{each.tool} differs, and stays as it is:"))
        out.print(printable("".join(f"  {sign} {side}\n" for sign, side in (("-", here), ("+", there)) if side)), end="")
    for name in made.missing:
        out.print(printable(f"{name} is registered, and '{server}' has no such tool"))
    for name, why in made.refused.items():
        out.print(printable(f"'{name}' is refused: {why}"), style="bold red")
    if made.entries and written:
        said.print(printable(f"{path}: {len(made.entries)} added; judge risk and labels before you grant anything"))
    elif made.entries:
        said.print(printable(f"{len(made.entries)} new; --write adds them to {path}"))
    else:
        said.print(f"{server}: nothing new")
