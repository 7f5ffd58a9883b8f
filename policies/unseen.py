"""Characters that a reader does not see, or that move what is seen: said by their numbers wherever untrusted text is shown."""

from __future__ import annotations

import re
from typing import Final

TAGS: Final = "\U000e0000-\U000e007f"
BIDI: Final = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
SELECTORS: Final = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_OTHER: Final = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2028\u2029\u2060-\u2065\u206a-\u206f\u2800\u3164\ufeff\uffa0"
    "\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0080-\U000e00ff\U000e01f0-\U000e0fff"
)
IGNORABLE: Final = re.compile(f"[{TAGS}{BIDI}{SELECTORS}{_OTHER}]")
"""Unicode's Default_Ignorable_Code_Point, and what draws nothing besides (braille blank, line and paragraph separators)."""


def shown(text: str) -> str:
    """The text with every character that is not seen escaped as JSON does (`\\u202e`); line breaks too.  Safe on a terminal."""
    return "".join(_escaped(each) if not each.isprintable() or IGNORABLE.match(each) else each for each in text)


def written(text: str) -> str:
    """JSON text with every such character inside its strings escaped, line breaks between them kept: the same JSON."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(_escaped(c) if c != "\n" and (not c.isprintable() or IGNORABLE.match(c)) else c for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if code > 0xFFFF:
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return f"\\u{code:04x}"
