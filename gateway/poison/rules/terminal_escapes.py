"""Control characters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from gateway.poison.subject import Subject
from policies.pinning import Grade

GRADE: Grade = "high"
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def find(subject: Subject) -> Iterator[tuple[str, str]]:
    """A text holds control characters: terminal escapes (ANSI), backspaces, NUL.

    In a terminal they erase or colour what a person would read, set titles, or write to the clipboard; the model reads what
    was hidden. Tabs and line breaks are left alone.

    No definition needs them. Ask whoever runs the server.
    """
    for text in subject.texts:
        if found := _CONTROL.search(text.text):
            what = "a terminal escape" if found[0] in "\x1b\x9b" else "a control character"
            yield text.where, f"{what}: U+{ord(found[0]):04X}"
