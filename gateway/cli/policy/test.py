"""`bailiwick policy test`: a bundle's own tables against its rules, its invariants, and what the tests leave untouched."""

# ruff: noqa: PT028  a verb that is called `test`, and no test

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.output import console, misuse, print_json, print_problems, printable

if TYPE_CHECKING:
    from policies.bundle import Bundle
    from policies.coverage import Coverage
    from policies.finding import Finding
    from policies.testing import CaseResult, InvariantResult, Results, Suite

_SHOWN: Final = 20


def register(group: typer.Typer) -> None:
    """Add the verb."""
    group.command("test")(tested)


def tested(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="A policy bundle; default: that of the settings.")
    ] = None,
    *,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The settings that name the bundle.")] = None,
    only: Annotated[str, typer.Option("-k", metavar="TEXT", help="Only rows whose title or place holds this.")] = "",
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Also write the results as JUnit XML.")] = None,
    coverage_html: Annotated[
        Path | None, typer.Option("--coverage-html", metavar="DIR", help="Also write index.html: every rule, coloured.")
    ] = None,
    min_coverage: Annotated[
        float, typer.Option("--min-coverage", metavar="PERCENT", min=0, max=100, help="Fewer rules exercised is a failure.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Run the tables in a bundle's tests/.  Exits with 0 if the bundle may go live, 1 if not, 2 if there is nothing to run.

    It may go live where every row and every invariant passes, and a row proves a denial.  With -k only what was asked for counts.

    [bold]Example[/bold]   bailiwick policy test policies --junit results.xml --min-coverage 90
    """
    if folder is not None and config is not None:
        misuse("give FOLDER or --config, not both")
    if only and min_coverage:
        misuse("give -k or --min-coverage, not both", help="the coverage of some rows says nothing of the bundle")
    from policies.coverage import measure  # noqa: PLC0415  the command line pays for what it uses
    from policies.engine import Engine  # noqa: PLC0415
    from policies.testing import run, unproven  # noqa: PLC0415

    bundle, suite = _read(folder if folder is not None else _folder(config), as_json=as_json)
    if only and not (suite := suite.only(only)).rows:
        misuse(f"no row holds '{printable(only)}'", help="the text is looked for in the rows' titles, files and lines")
    with console(stderr=True).status("asking every question of the tests"):  # shown on a terminal alone
        results = run(suite, Engine(bundle))
        coverage = measure(results)
    missing = None if only else unproven(results)
    low = coverage.percent < min_coverage
    _write(results, coverage, missing, junit, coverage_html)
    passed = results.passed and missing is None and not low
    if as_json:
        print_json(_document(results, coverage, missing, min_coverage, passed=passed))
    else:
        _tell(results, coverage, missing)
        if low:
            message = f"{coverage.percent:.1f} % of the rules are exercised, {min_coverage:g} % are asked for"
            console().print(message, style="bold red")
    raise typer.Exit(0 if passed else 1)


def _folder(config: Path | None) -> Path:
    """The settings' bundle; without settings, the folder `policies`."""
    from gateway.configuration import load as load_settings  # noqa: PLC0415

    default = Path("bailiwick.yaml")
    if config is None and not default.exists() and Path("policies").is_dir():
        return Path("policies")
    return load_settings(config or default, os.environ).policies


def _read(folder: Path, *, as_json: bool) -> tuple[Bundle, Suite]:
    """The bundle and its tables.  What cannot be read was not tested: neither passed nor failed."""
    from gateway.bundles import bundle_problems, read_bundle  # noqa: PLC0415
    from policies.bundle import BundleError  # noqa: PLC0415
    from policies.testing import read_tests  # noqa: PLC0415

    bundle = read_bundle(folder)
    try:
        return bundle, read_tests(bundle)
    except BundleError as error:
        print_problems(bundle_problems(error, folder), as_json=as_json)
    raise typer.Exit(2)


def _write(results: Results, coverage: Coverage, missing: Finding | None, junit: Path | None, folder: Path | None) -> None:
    """The files that were asked for."""
    from policies import report  # noqa: PLC0415

    try:
        if junit is not None:
            junit.write_text(report.junit(results, missing), encoding="utf-8")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "index.html").write_text(report.coverage_html(results, coverage), encoding="utf-8")
    except OSError as error:
        misuse(f"{printable(str(error.filename))} cannot be written: {error.strerror}")


# --- for programs


def _document(results: Results, coverage: Coverage, missing: Finding | None, least: float, *, passed: bool) -> dict[str, object]:
    return {
        "passed": passed,
        "bundle": results.bundle.digest,
        "tests": [_case(case) for case in results.cases],
        "invariants": [_invariant(each) for each in results.invariants],
        "unproven": str(missing) if missing is not None else None,
        "notes": [str(note) for note in results.suite.notes],
        "coverage": {
            "percent": round(coverage.percent, 1),
            "least": least,
            "rules": [
                {"rule": each.rule.id, "source": str(each.rule.source), "matched": each.matched, "decisive": each.decisive}
                for each in coverage.rules
            ],
            "conditions": [
                {
                    "condition": each.condition.name,
                    "source": str(each.condition.source),
                    "true": each.true,
                    "false": each.false,
                    "unknown": each.unknown,
                }
                for each in coverage.conditions
            ],
        },
    }


def _case(case: CaseResult) -> dict[str, object]:
    return {
        "title": case.case.title,
        "source": str(case.case.source),
        "passed": case.passed,
        "expected": case.case.expect.value,
        "effect": case.decision.effect.value,
        "reason": case.decision.reason.value,
        "duties": [duty.name for duty in case.decision.obligations],
        "rules": [match.rule for match in case.decision.matched],
        "differences": [{"what": each.what, "expected": each.expected, "got": each.got} for each in case.differences],
        "sentence": case.explanation,
    }


def _invariant(each: InvariantResult) -> dict[str, object]:
    return {
        "title": each.invariant.title,
        "source": str(each.invariant.source),
        "passed": each.passed,
        "violations": [
            {"sentence": violation.sentence, "rules": [match.rule for match in violation.matches], "help": violation.help}
            for violation in each.violations
        ],
    }


# --- for people


def _tell(results: Results, coverage: Coverage, missing: Finding | None) -> None:
    out = console()
    for case in results.cases:
        if not case.passed:
            _tell_case(case)
    for each in results.invariants:
        if not each.passed:
            _tell_invariant(each)
    for note in results.suite.notes:
        out.print("note: ", style="bold yellow", end="")
        out.print(printable(str(note)))
    failed = sum(not case.passed for case in results.cases) + sum(not each.passed for each in results.invariants)
    figures = f"{_count(len(results.cases), 'row')} and {_count(len(results.invariants), 'invariant')}"
    out.print(f"{figures}: {f'{failed} failed' if failed else 'all passed'}", style="bold red" if failed else "bold green")
    if missing is not None:
        out.print("This bundle would not go live: ", style="bold red", end="")
        out.print(printable(str(missing)))
    _tell_coverage(coverage)


def _tell_case(case: CaseResult) -> None:
    out = console()
    out.print("FAILED ", style="bold red", end="")
    out.print(printable(f"{case.case.source}  {case.case.title}"))
    for each in case.differences:
        out.print(printable(f"  - expected {each.expected}"), style="green")
        out.print(printable(f"  + got      {each.got}"), style="red")
    out.print(printable("\n".join(f"  {line}" for line in case.explanation.split("\n"))), end="\n\n")


def _tell_invariant(each: InvariantResult) -> None:
    out = console()
    out.print("BROKEN ", style="bold red", end="")
    out.print(printable(f"{each.invariant.source}  {each.invariant.title}"))
    for violation in each.violations:
        out.print(printable(f"  + could {violation.sentence}"), style="red")
    out.print(printable(f"  help: {each.violations[0].help}"), end="\n\n")


def _tell_coverage(coverage: Coverage) -> None:
    out = console()
    both = sum(each.both_ways for each in coverage.conditions)
    out.print(
        f"\nCoverage: {coverage.exercised} of {len(coverage.rules)} rules exercised ({coverage.percent:.1f} %), "
        f"{both} of {len(coverage.conditions)} conditions seen both ways"
    )
    for rule in coverage.unexercised[:_SHOWN]:
        out.print(printable(f"  never exercised   {rule.id:<10} {rule.source}"))
    if len(coverage.unexercised) > _SHOWN:
        out.print(f"  and {len(coverage.unexercised) - _SHOWN} more; --coverage-html shows them all")
    for each in coverage.conditions:
        if not each.both_ways:
            seen = f"true {each.true} times, false {each.false} times, unknown {each.unknown} times"
            out.print(printable(f"  seen one way      {each.condition.name:<10} {each.condition.source}  {seen}"))


def _count(number: int, of: str) -> str:
    return f"{number} {of}{'' if number == 1 else 's'}"
