"""When two names look alike: letters of other scripts, width, case, accents, invisible characters, `1` for `l` (after UTS #39).

Only names are compared, never texts.  A table of what is common stands for Unicode's whole: what it lacks is still of another
script, and told so by the scan.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from policies.unseen import IGNORABLE

_LETTERS: Final = {
    "a": "аɑαⱥ", "b": "ЬьƄ", "c": "сϲⅽ", "d": "ԁⅾɗ", "e": "еєҽε", "f": "ƒϝ", "g": "ɡցǥ", "h": "һհн", "i": "іıιɩї",
    "j": "јϳ", "k": "кκ", "l": "ӏⅼ|ǀ", "m": "мⅿ", "n": "ոռпη", "o": "оοօσ", "p": "рρ", "q": "ԛզ", "r": "гяɾ", "s": "ѕꜱ",
    "t": "тτ", "u": "υսцʋ", "v": "νѵⅴ", "w": "ԝωѡա", "x": "хχⅹ", "y": "уγүყ", "z": "ʐᴢ",
    "-": "‐‑‒–—−﹣", "_": "＿﹍", ".": "․。", "/": "⁄∕⧸",
}  # fmt: skip
_STRANGE: Final = str.maketrans({strange: plain for plain, every in _LETTERS.items() for strange in every if strange != "|"})
_SAME: Final = {**_STRANGE, **str.maketrans({"0": "o", "1": "l", "|": "l"})}
_SEPARATORS: Final = re.compile(r"[-_./\s]+")


def folded(text: str) -> str:
    """A text with letters of other scripts written as the Latin ones that they look like."""
    return text if text.isascii() else text.translate(_STRANGE)


def skeleton(name: str) -> str:
    """What a reader sees of a name at a glance: names with the same skeleton look alike."""
    seen = IGNORABLE.sub("", unicodedata.normalize("NFKC", name)).casefold()
    bare = "".join(c for c in unicodedata.normalize("NFD", seen) if not unicodedata.combining(c))
    return bare.translate(_SAME).replace("i", "l").replace("rn", "m").replace("vv", "w")


def glance(name: str) -> str:
    """As `skeleton`, without what stands between words: `read-file`, `readFile` and `read_file` are the same."""
    return _SEPARATORS.sub("", skeleton(name))
