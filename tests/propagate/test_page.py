"""The how-to shows what is run: each piece of code on it stands in an example, word for word, and the examples are tested."""

from __future__ import annotations

import re

import pytest

from tests.interaction.world import ROOT

BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/how-to/propagate.md").read_text(), re.DOTALL | re.MULTILINE)
EXAMPLES = "\n".join(path.read_text() for path in sorted((ROOT / "examples/propagate").glob("*.py")))


def test_there_is_code_for_what_comes_in_and_for_each_framework() -> None:
    assert len(BLOCKS) == 5


@pytest.mark.parametrize("block", BLOCKS)
def test_code_on_the_page_stands_in_an_example(block: str) -> None:
    assert block in EXAMPLES
