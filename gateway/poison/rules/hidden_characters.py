"""Characters that no reader sees and every model reads, and those that move what is seen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from gateway.poison.subject import Subject
from policies.pinning import Grade
from policies.unseen import BIDI, SELECTORS, TAGS

GRADE: Grade = "high"
_FLAG: Final = re.compile("\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{2,6}\U000e007f")
_MARKS: Final = "\u061c\u200e\u200f"
_KINDS: Final = (
    (re.compile(f"[{TAGS}]+"), "tag characters, which spell out text that nobody sees"),
    (re.compile(f"(?![{_MARKS}])[{BIDI}]+"), "characters that turn the direction of text around"),
    (re.compile(f"[{SELECTORS}]{{2,}}|[\U000e0100-\U000e01ef]"), "a row of variation selectors, which can carry any bytes"),
    (re.compile("[\u115f\u1160\u3164\uffa0\u2800]"), "fillers, which are letters that draw nothing"),
    (re.compile("[\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd]{4,}"), "a row of private characters"),
)


def find(subject: Subject) -> Iterator[tuple[str, str]]:
    """A text holds characters that cannot be seen but are read by a model: Unicode tags, variation selectors in a row, fillers;
    or characters that show text in another order than it is read.

    Whoever reviews the definition sees another text than the model does. Nothing honest needs them in a tool's description;
    flags among emoji are left alone, and so are the plain marks of right-to-left scripts.

    `bailiwick tools review` writes them out by their numbers. Ask whoever runs the server what they are for.
    """
    for text in subject.texts:
        if text.text.isascii():
            continue
        bare = _FLAG.sub("", text.text)
        for pattern, what in _KINDS:
            if found := pattern.search(bare):
                yield text.where, f"{what}: U+{ord(found[0][0]):04X}, {len(found[0])} in a row"
