"""The how-to shows what is run: each piece of code on it stands word for word in what the tests run."""

from __future__ import annotations

import re

import pytest

from tests.interaction.world import ROOT

BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/how-to/propagate.md").read_text(), re.DOTALL | re.MULTILINE)
RUN = [*sorted((ROOT / "examples/propagate").glob("*.py")), ROOT / "tests/delegation/told_agent.py"]
EXAMPLES = "\n".join(path.read_text() for path in RUN)


def test_there_is_code_for_what_comes_in_and_for_each_framework() -> None:
    assert len(BLOCKS) == 7


@pytest.mark.parametrize("block", BLOCKS)
def test_code_on_the_page_stands_in_what_is_run(block: str) -> None:
    assert block in EXAMPLES
