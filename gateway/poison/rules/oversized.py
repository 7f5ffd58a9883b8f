"""Definitions that nobody reads to their end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.poison.subject import MOST_TEXTS, Subject
from policies.pinning import Grade

GRADE: Grade = "medium"
LONGEST: Final = 8_000
LONGEST_OF_ALL: Final = 64_000
LONGEST_INSTRUCTIONS: Final = 16_000
LONGEST_VALUE: Final = 1_000


def find(subject: Subject) -> Iterator[tuple[str, str]]:
    """A text is longer than any honest one (8,000 characters; instructions 16,000; an enumerated or default value 1,000), or all
    texts together are (64,000).

    What matters stands where nobody reads any more, and it fills the model's context, so that what was said before is forgotten.

    Read it as a file: `bailiwick tools review SERVER --json`.
    """
    longest = LONGEST_INSTRUCTIONS if subject.what == "instructions" else LONGEST
    for text in subject.texts:
        most = LONGEST_VALUE if text.part == "value" else longest
        if text.length > most:
            yield text.where, f"{text.length} characters"
    total = sum(text.length for text in subject.texts)
    if total > LONGEST_OF_ALL or len(subject.texts) >= MOST_TEXTS:
        yield "", f"{total} characters in {len(subject.texts)} texts"
