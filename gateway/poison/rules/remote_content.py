"""Content that is fetched from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from gateway.poison.subject import Subject
from policies.pinning import Grade

GRADE: Grade = "medium"
_IMAGE: Final = re.compile(r"!\[[^\]]{0,200}\]\(\s*https?://|<\s*(?:img|script|iframe|link|object|embed)\b", re.IGNORECASE)
_FETCH: Final = re.compile(
    r"\b(?:follow|obey|load|fetch|read|download|see)\b[^.!?]{0,40}\b(?:instructions?|rules?|prompt)\b[^.!?]{0,40}https?://"
    r"|https?://\S{1,200}[^.!?]{0,40}\bfor (?:further |more |the )?(?:instructions?|rules?)\b"
)


def find(subject: Subject) -> Iterator[tuple[str, str]]:
    """A schema refers to a schema elsewhere, or a text shows a picture from elsewhere, holds HTML that loads something, or sends
    the model to an address for its instructions.

    What is fetched later is not what was approved; and a picture's address can carry away what the model knows.

    Have the server say everything itself.
    """
    for text in subject.texts:
        if text.where.endswith(".$ref") and not text.text.startswith("#"):
            yield text.where, f"a schema that stands elsewhere: {ascii(text.text[:80])[1:-1]}"
        elif found := _IMAGE.search(text.text):
            yield text.where, f"content from elsewhere: “{found[0][:60]}”"
        elif found := _FETCH.search(text.plain):
            yield text.where, f"instructions from elsewhere: “{found[0][:80]}”"
