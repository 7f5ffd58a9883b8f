"""What is found in texts by its form alone: secrets, addresses of mail, accounts, cards.  Linear in the text, and total.

Against accidents: who means to hide something from a detector can.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from audit import detectors as secrets
from gateway.obligations import personal
from gateway.poison import RULES, Subject

MARK: Final = "[redacted by policy]"

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])")
_BETWEEN = "[ \u00a0\u202f-]?"
# Looked for at every place where one could begin: what stands before one must not hide it.
_IBAN = re.compile(rf"(?<![A-Za-z0-9])(?=([A-Za-z]{{2}}[0-9]{{2}}(?:{_BETWEEN}[A-Za-z0-9]){{11,30}}))")
_CARD = re.compile(rf"(?<![0-9])(?=([2-6](?:{_BETWEEN}[0-9]){{12,18}}))")


def _blanked(text: str, begins: re.Pattern[str], least: int, holds: Callable[[str], bool]) -> str:
    """The text without the longest thing that holds, from `least` characters on, at every place where one begins.

    Where two overlap both go: what holds by chance must not save a part of what is meant.
    """
    done, parts = 0, []
    for match in begins.finditer(text):
        start, found = match.start(), match[1]
        ends = [at for at, char in enumerate(found) if char.isalnum()]
        for count in range(len(ends), least - 1, -1):
            end = start + ends[count - 1] + 1
            if (end == len(text) or not text[end].isalnum()) and holds("".join([found[at] for at in ends[:count]])):
                if start >= done:
                    parts += [text[done:start], MARK]
                done = max(done, end)
                break
    return "".join([*parts, text[done:]]) if parts else text


def _is_iban(text: str) -> bool:
    """By its check digits (ISO 7064)."""
    turned = (text[4:] + text[:4]).upper()
    return int("".join([str(int(char, 36)) for char in turned])) % 97 == 1


def _is_card(text: str) -> bool:
    """By its check digit (Luhn)."""
    digits = [int(char) for char in reversed(text)]
    return sum([*digits[::2], *[digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[1::2]]]) % 10 == 0


def _secrets(text: str) -> str:
    try:
        cleaned, count = secrets.redacted(text.encode())
    except UnicodeEncodeError:  # half a character: it cannot be searched
        return MARK
    return cleaned.decode(errors="replace") if count else text


_WINDOW: Final = 20_000
_OVERLAP: Final = 400
_LONGEST: Final = 100_000
_SIGNS: Final = tuple(RULES[code] for code in ("orders-to-the-model", "speaks-as-the-system", "hidden-characters"))


def _injection(text: str) -> str:
    """The whole text goes: what stands around an order serves it.  So does one that is too long to be read."""
    if len(text) > _LONGEST:
        return MARK
    for start in range(0, max(len(text) - _OVERLAP, 1), _WINDOW - _OVERLAP):
        read = Subject("", "tool", "", {"description": text[start : start + _WINDOW]})
        if any(next(rule.find(read), None) is not None for rule in _SIGNS):
            return MARK
    return text


def _personal(text: str) -> str:
    found = personal.spans(text)
    if found is None:
        return MARK
    done, parts = 0, []
    for begin, end in found:
        if begin >= done:
            parts += [text[done:begin], MARK]
        done = max(done, end)
    return "".join([*parts, text[done:]]) if parts else text


DETECTORS: Final[Mapping[str, Callable[[str], str]]] = MappingProxyType(
    {
        "secrets": _secrets,
        "injection": _injection,
        "email": lambda text: _EMAIL.sub(MARK, text) if "@" in text else text,
        "iban": lambda text: _blanked(text, _IBAN, 15, _is_iban),
        personal.NAME: _personal,
        "card": lambda text: _blanked(text, _CARD, 13, _is_card),
    }
)
"""By name: the text with a mark in place of each that is found; the same text where there is none."""

SLOW: Final = (personal.NAME,)
"""Those that take long."""

SECRET_NAMES: Final = frozenset(name.decode() for name in secrets.NAMES)
"""Members of JSON whose text is a secret, in lower case."""
