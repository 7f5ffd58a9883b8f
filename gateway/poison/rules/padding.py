"""Space that pushes text out of sight."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from gateway.poison.subject import Subject
from policies.pinning import Grade

GRADE: Grade = "medium"
_GAP: Final = re.compile(r"[^\S\n]{40,}|(?:[^\S\n]{0,40}\n){10,}")


def find(subject: Subject) -> Iterator[tuple[str, str]]:
    """A text holds a gap of 40 spaces, or of ten empty lines, and goes on after it.

    What stands behind the gap is off the screen of whoever is asked to agree, and right before the model.

    Scroll, or read the text as `bailiwick tools review` writes it.
    """
    for text in subject.texts:
        if found := _GAP.search(text.text.rstrip()):
            yield text.where, f"a gap of {len(found[0])} characters, and text behind it"
