"""Characters without width, and words of two alphabets."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from gateway.poison.subject import Subject
from policies.pinning import Grade

GRADE: Grade = "medium"
_WIDTHLESS: Final = re.compile("[\u00ad\u034f\u180b-\u180f\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff0-\ufffb]")
_WORD: Final = re.compile(r"\w{3,64}")


def find(subject: Subject) -> Iterator[tuple[str, str]]:
    """A text holds characters without width (zero-width spaces, soft hyphens, word joiners), or a word that mixes Latin letters
    with Greek or Cyrillic ones.

    Both make a word look like another one, or hide it from a search for it.

    They also come from careless copying out of a web page. Read the text as `bailiwick tools review` writes it.
    """
    for text in subject.texts:
        if text.text.isascii():
            continue
        if found := _WIDTHLESS.search(text.text):
            yield text.where, f"a character without width: U+{ord(found[0]):04X}"
        for word in _WORD.findall(text.text):
            if not word.isascii() and {"LATIN"} < (_scripts(word) & {"LATIN", "GREEK", "CYRILLIC"}):
                yield text.where, f"a word of two alphabets: {ascii(word)[1:-1]}"
                break


def _scripts(word: str) -> set[str]:
    return {unicodedata.name(letter, "").partition(" ")[0] for letter in word if letter.isalpha()}
