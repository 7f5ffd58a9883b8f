"""Our fences say which file they are, as ```yaml bailiwick.yaml: the tests read that, and the pages show it as a title."""

from __future__ import annotations

import re

_NAMED = re.compile(r'^```(\w+) +(?!\{)([^"\n=]+)$', re.MULTILINE)
_TOLD = re.compile(r"^```(\w+) +\w+=\d+$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """What mkdocs is given."""
    return _NAMED.sub(r'```\1 title="\2"', _TOLD.sub(r"```\1", markdown))
