"""Text that cannot be read as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from gateway.poison.subject import Subject
from policies.pinning import Grade

GRADE: Grade = "medium"
_BLOB: Final = re.compile(
    r"[A-Za-z0-9+/_-]{160,}={0,2}|(?:\\x[0-9a-fA-F]{2}){16,}|(?:\\u[0-9a-fA-F]{4}){12,}|(?:%[0-9a-fA-F]{2}){16,}"
)
_ORDER: Final = re.compile(r"\b(?:decode|base64|rot13|hex)\b.{0,60}\b(?:and|then)\b.{0,40}\b(?:follow|execute|run|obey|do)\b")


def find(subject: Subject) -> Iterator[tuple[str, str]]:
    """A text holds a long piece of Base64, hexadecimal or escapes, or has the model decode something and follow it.

    Models read such text as easily as plain one; people and filters do not.

    Icons are left alone. Decode the rest before you approve it.
    """
    for text in subject.texts:
        if found := _BLOB.search(text.text):
            yield text.where, f"{len(found[0])} encoded characters"
        elif found := _ORDER.search(text.plain):
            yield text.where, f"it has something decoded and followed: “{found[0][:80]}”"
