"""Text beyond what is looked through."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.poison.subject import MOST_TEXTS, Subject
from policies.pinning import Grade

GRADE: Grade = "high"


def find(subject: Subject) -> Iterator[tuple[str, str]]:
    """A text is longer than 20,000 characters, or all texts together are longer than 100,000, or there are 20,000 of them: the
    rest was not looked through.

    Whatever stands there was read by nothing but the model. No honest definition is so long.

    Read it as a file: `bailiwick tools review SERVER --json`; or have the server say less.
    """
    for text in subject.texts:
        if text.length > len(text.text):
            yield text.where, f"{text.length - len(text.text)} characters that were not looked through"
    if len(subject.texts) >= MOST_TEXTS:
        yield "", "more texts than are looked through"
