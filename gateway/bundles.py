"""From a folder of policy to a bundle, with its findings as problems for people."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gateway.problem import Problem, ProblemError
from policies.bundle import Bundle, BundleError, Finding, load


def read_bundle(folder: Path) -> Bundle:
    """The bundle; ProblemError with everything that is wrong with it."""
    try:
        return load(folder)
    except BundleError as error:
        raise ProblemError(*bundle_problems(error, folder)) from None


def bundle_problems(error: BundleError, folder: Path) -> list[Problem]:
    """Every finding as a problem, its file below `folder`."""
    return findings_as_problems(error.findings, folder)


def findings_as_problems(findings: Iterable[Finding], folder: Path) -> list[Problem]:
    """The same of findings that come from elsewhere."""
    return [
        Problem(
            found.code,
            found.message,
            f"{folder / found.file}:{found.line}:{found.column}" if found.line else f"{folder / found.file}",
            found.help,
            found.text,
            found.column,
        )
        for found in findings
    ]
