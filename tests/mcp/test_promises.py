"""Each known failure and each attack of the page has tests that are there, and each test that is there for one has its row."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.mcp.promises import ATTACKS, FAILURES, KNOWN, WORDS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "mcp-failures.md"
TABLES = {"Failures": FAILURES, "Attacks": ATTACKS}
NAMED = {test for table in TABLES.values() for tests in table.values() for test in tests}


@cache
def defined_in(file: str) -> frozenset[str]:
    """The tests that a file defines."""
    tree = ast.parse((ROOT / file).read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


@pytest.mark.parametrize("heading", TABLES)
def test_the_page_and_the_manifest_have_the_same_rows(heading: str) -> None:
    section = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!---)(.+?) \|", section, re.MULTILINE)[1:]
    assert rows == list(TABLES[heading])


@pytest.mark.parametrize(("row", "tests"), [*FAILURES.items(), *ATTACKS.items()], ids=[*FAILURES, *ATTACKS])
def test_a_row_names_tests_that_are_there(row: str, tests: tuple[str, ...]) -> None:
    assert tests, "nothing shows this"
    missing = [test for test in tests if test.partition("::")[2] not in defined_in(test.partition("::")[0])]
    assert missing == []


@pytest.mark.parametrize("file", [KNOWN, WORDS])
def test_a_test_that_is_there_for_a_failure_or_an_attack_stands_in_a_row(file: str) -> None:
    assert {f"{file}{test}" for test in defined_in(file.removesuffix("::"))} - NAMED == set()
