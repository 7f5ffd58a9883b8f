"""Each requirement of the A2A proxy profile says how binding it is, has its number, and names tests that are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "a2a-proxy-profile.md"
ROW = re.compile(r"^\| (\d+)\.(\d+) \| (.+?) \| (.+?) \|$", re.MULTILINE)
ROWS = [
    (int(part), int(number), text, re.findall(r"`([^`]+)`", tests)) for part, number, text, tests in ROW.findall(PAGE.read_text())
]


@cache
def defined_in(file: str) -> frozenset[str]:
    """The tests that a file defines; of the conformance checks, the checks."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    decorated = "conformance/" in file
    return frozenset(node.name for node in functions if node.name.startswith("test_") or (decorated and _is_check(node)))


def _is_check(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = (each.func.id for each in node.decorator_list if isinstance(each, ast.Call) and isinstance(each.func, ast.Name))
    return bool({"check", "each"} & set(names))


def test_the_page_is_numbered_without_a_gap() -> None:
    assert len(ROWS) > 50
    assert sorted(ROWS) == ROWS
    for part in range(1, ROWS[-1][0] + 1):
        numbers = [number for each, number, _, _ in ROWS if each == part]
        assert numbers == list(range(1, len(numbers) + 1)) != []


@pytest.mark.parametrize(("part", "number", "text", "tests"), ROWS, ids=[f"{row[0]}.{row[1]}" for row in ROWS])
def test_a_requirement_says_how_binding_it_is_and_names_tests_that_are_there(
    part: int, number: int, text: str, tests: list[str]
) -> None:
    assert re.search(r"\b(MUST|SHOULD|MAY)\b", text)
    assert tests, "nothing shows this"
    missing = [test for test in tests if test.partition("::")[2] not in defined_in(test.partition("::")[0])]
    assert missing == []


def test_the_attacks_of_two_people_and_of_webhooks_stand_on_the_page() -> None:
    named = {test for *_, tests in ROWS for test in tests}
    for file in ("attacks/test_a2a_leaks.py", "attacks/test_a2a_tricks.py", "attacks/test_a2a_webhooks.py"):
        assert any(test.startswith(file) for test in named), file
