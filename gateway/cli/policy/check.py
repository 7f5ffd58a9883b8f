"""`bailiwick policy check`: everything that can be known to be wrong with a bundle, for people, programs and code hosts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from gateway.cli.output import console, misuse, print_json, printable
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from gateway.settings import Settings
    from policies.finding import Finding
    from policies.lint import Facts, Result

_SETTINGS: Final = Path("bailiwick.yaml")


class Checked(NamedTuple):
    """A folder of policy, what was found in it, and the digest of the bundle where it loads."""

    folder: Path
    result: Result
    digest: str | None


def register(group: typer.Typer) -> None:
    """Add the verb."""
    group.command("check")(check)


def check(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="A bundle; default: the one that the settings name.")
    ] = None,
    *,
    config: Annotated[Path | None, typer.Option("--config", help="The settings to hold it against.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    live: Annotated[bool, typer.Option("--live", help="Ask the running servers what their tools are.")] = False,
    sarif: Annotated[Path | None, typer.Option("--sarif", metavar="FILE", help="Write the findings as SARIF 2.1.0, too.")] = None,
    explain: Annotated[str | None, typer.Option("--explain", metavar="RULE", help="Only show the help page of a rule.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Read a bundle, and find what is wrong with it or looks wrong.  Exits with 1 where something must be changed.

    A comment `# lint: allow RULE because …` on the line above silences one rule for one line.

    [bold]Example[/bold]   bailiwick policy check policies --strict
    """
    if explain is not None:
        _explain(explain, as_json=as_json)
        return
    settings = _settings(config, needed=folder is None or live)
    where = folder if folder is not None else settings.policies if settings is not None else Path()
    checked = checked_folder(where, facts_of(settings) if settings is not None else bare_facts(), settings if live else None)
    if sarif is not None:
        _write_sarif(sarif, checked)
    result = checked.result
    failed = bool(result.errors or (strict and result.complaints))
    if as_json:
        print_json(as_dict(checked, ok=not failed))
    else:
        _show(checked)
    raise typer.Exit(1 if failed else 0)


def _settings(config: Path | None, *, needed: bool) -> Settings | None:
    """The settings where they are named or needed.  ProblemError where they cannot be read."""
    from gateway.configuration import load  # noqa: PLC0415  the command line pays for what it uses

    if config is None and not needed:
        return None
    if config is None and not _SETTINGS.is_file():
        misuse(f"there is no {_SETTINGS} here", help="name the bundle's folder, or the settings with --config")
    return load(config or _SETTINGS, os.environ)


def bare_facts() -> Facts:
    """What this gateway knows without any settings."""
    from datetime import UTC, datetime  # noqa: PLC0415  the command line pays for what it uses

    from gateway.obligations import READERS, misread  # noqa: PLC0415
    from gateway.policy.checks import CONTEXT  # noqa: PLC0415
    from policies.lint import Facts  # noqa: PLC0415

    return Facts(duties=frozenset(READERS), parameters=misread, context=CONTEXT, now=datetime.now(UTC))


def facts_of(settings: Settings) -> Facts:
    """What the settings say of the world around a bundle."""
    from dataclasses import replace  # noqa: PLC0415  the command line pays for what it uses
    from functools import partial  # noqa: PLC0415

    from gateway.obligations import misread  # noqa: PLC0415
    from gateway.upstream.credentials import shared_servers  # noqa: PLC0415

    return replace(
        bare_facts(),
        parameters=partial(misread, receivers=frozenset(settings.notify), searches=settings.inspect.known),
        agents=frozenset(settings.agents),
        servers=frozenset(settings.mcp) | {"sandbox"},  # built in, whether enabled or not
        shared=shared_servers(settings),
    )


def checked_folder(folder: Path, facts: Facts, live: Settings | None = None) -> Checked:
    """Load and lint a folder; `live` are the settings by which its servers are asked."""
    from dataclasses import replace  # noqa: PLC0415  the command line pays for what it uses

    from policies.bundle import BundleError, load  # noqa: PLC0415
    from policies.lint import lint, refused  # noqa: PLC0415

    if not folder.is_dir():
        misuse(f"there is no folder {folder}", help="name the folder that holds model.conf")
    try:
        bundle = load(folder)
    except BundleError as error:
        return Checked(folder, refused(error), None)
    if live is not None:
        said, silent = asked(live)
        facts = replace(facts, live=said, silent=silent)
    return Checked(folder, lint(bundle, facts), bundle.digest)


def asked(settings: Settings) -> tuple[dict[str, dict[str, dict[str, str]]], dict[str, str]]:
    """What every configured server says its tools are, and why the others do not."""
    import asyncio  # noqa: PLC0415  the command line pays for what it uses

    from gateway.cli.live_tools import target_of, tools_of  # noqa: PLC0415
    from gateway.model import UpstreamError  # noqa: PLC0415
    from policies.schema import comparable, described  # noqa: PLC0415

    said: dict[str, dict[str, dict[str, str]]] = {}
    silent: dict[str, str] = {}

    async def ask(server: str) -> None:
        try:
            tools = await tools_of(target_of(settings, server, os.environ), settings)
        except UpstreamError as error:
            silent[server] = str(error)
        except ProblemError as error:  # its secret does not resolve
            silent[server] = "; ".join(problem.message for problem in error.problems)
        except ValueError as error:
            silent[server] = str(error)
        else:
            said[server] = {name: comparable(described(tool.get("inputSchema"))) for name, tool in tools.items()}

    async def ask_all() -> None:
        await asyncio.gather(*(ask(server) for server in settings.mcp))

    if settings.mcp:
        with console(stderr=True).status(f"asking {len(settings.mcp)} servers"):
            asyncio.run(ask_all())
    return said, silent


# --- what was found


def as_problem(folder: Path, finding: Finding) -> Problem:
    """A finding for people, its code at the end of the message: the word that `--explain` and a silencing comment want."""
    place = f"{folder / finding.file}:{finding.line}:{finding.column}" if finding.line else f"{folder / finding.file}"
    return Problem(finding.code, finding.message, place, finding.help, finding.text, finding.column)


def as_dict(checked: Checked, *, ok: bool) -> dict[str, object]:
    """The whole answer as JSON says it."""

    def one(finding: Finding, **more: object) -> dict[str, object]:
        place = {"file": finding.file, "line": finding.line, "column": finding.column}
        return {**more, **as_problem(checked.folder, finding).to_dict(), **place}

    return {
        "ok": ok,
        "bundle": checked.digest,
        "problems": [one(each.finding, severity=each.severity) for each in checked.result.complaints],
        "suppressed": [one(each.finding, why=each.why) for each in checked.result.suppressed],
        "untold": checked.result.untold,
    }


def _show(checked: Checked) -> None:
    from dataclasses import replace  # noqa: PLC0415  the command line pays for what it uses

    out, result = console(), checked.result
    for complaint in result.complaints:
        out.print(f"{complaint.severity}: ", style="bold red" if complaint.severity == "error" else "bold yellow", end="")
        problem = as_problem(checked.folder, complaint.finding)
        out.print(printable(replace(problem, message=f"{problem.message} [{problem.code}]").render()), end="\n\n")
    for silenced in result.suppressed:
        out.print(
            printable(f"silenced: {checked.folder / silenced.finding.location}: {silenced.finding.code}, because {silenced.why}")
        )
    if result.untold:
        out.print(f"{_count(result.untold, 'finding')} more of the same rules")
    if result.complaints:
        out.print(f"{_count(result.errors, 'error')}, {_count(result.warnings, 'warning')}")
    else:
        out.print(printable(f"{checked.folder}: no findings"))


def _count(number: int, of: str) -> str:
    return f"{number} {of}{'' if number == 1 else 's'}"


def _explain(code: str, *, as_json: bool) -> None:
    from policies.finding import suggest  # noqa: PLC0415  the command line pays for what it uses
    from policies.lint import PAGES, RULES  # noqa: PLC0415

    if code not in PAGES:
        misuse(f"there is no rule '{printable(code[:80])}'", help=suggest(code, PAGES) or f"known are {', '.join(sorted(PAGES))}")
    severity = RULES[code].severity if code in RULES else "warning" if code == "idle-suppression" else "error"
    if as_json:
        print_json({"code": code, "severity": severity, "page": PAGES[code]})
    else:
        out = console()
        out.print(f"{code} ({severity})\n", style="bold")
        out.print(PAGES[code])


# --- SARIF


def _write_sarif(file: Path, checked: Checked) -> None:
    import json  # noqa: PLC0415  the command line pays for what it uses

    from gateway.cli.whole_file import write_whole  # noqa: PLC0415

    try:
        write_whole(file, json.dumps(as_sarif(checked), indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        misuse(f"{file} cannot be written: {error.strerror}", help="name a file in a folder that exists")


def as_sarif(checked: Checked) -> dict[str, Any]:
    """The findings as SARIF 2.1.0, which code hosts show beside the lines; silenced ones are there, marked so."""
    from policies.lint import PAGES  # noqa: PLC0415  the command line pays for what it uses

    def one(finding: Finding, level: str, why: str | None = None) -> dict[str, Any]:
        region = {"startLine": finding.line, "startColumn": max(finding.column, 1)} if finding.line else None
        place: dict[str, Any] = {"artifactLocation": {"uri": _uri(checked.folder / finding.file)}}
        text = f"{finding.message}. {finding.help}" if finding.help else finding.message
        return {
            "ruleId": finding.code,
            "level": level,
            "message": {"text": text},
            "locations": [{"physicalLocation": place | ({"region": region} if region else {})}],
        } | ({"suppressions": [{"kind": "inSource", "justification": why}]} if why is not None else {})

    results = [one(each.finding, each.severity) for each in checked.result.complaints]
    results += [one(each.finding, "note", each.why) for each in checked.result.suppressed]
    rules: list[Mapping[str, Any]] = [
        {"id": code, "shortDescription": {"text": PAGES[code].split("\n", 1)[0]}, "help": {"text": PAGES[code]}}
        for code in sorted({result["ruleId"] for result in results})
    ]
    driver = {"name": "bailiwick policy check", "rules": rules}
    return {
        "version": "2.1.0",
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }


def _uri(file: Path) -> str:
    """Relative to where the command runs, which is a repository's root in CI; absolute for what lies elsewhere."""
    from urllib.parse import quote  # noqa: PLC0415  the command line pays for what it uses

    path = Path(os.path.abspath(file))  # noqa: PTH100  links stay as they are written
    here = Path.cwd()
    return quote(path.relative_to(here).as_posix()) if path.is_relative_to(here) else path.as_uri()
