"""A definition that speaks of another server's tools."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from gateway.poison.subject import Subject
from policies.pinning import Grade
from policies.unseen import shown

GRADE: Grade = "medium"
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{2,127}")
_TELLING: Final = 5
"""Shorter names, and names of one plain word, stand in many texts without being meant."""


def find(subject: Subject) -> Iterator[tuple[str, str]]:
    """A text names a tool of another server: `send_email` of `mail` in the description of a calculator.

    A definition that says how another server's tool is to be used changes what that tool does, without ever being called: the
    model reads all definitions at once.

    Say in the instructions of the agent how tools go together, not in one server's definitions.
    """
    for text in subject.texts:
        if text.where == "name":
            continue
        for word in dict.fromkeys(_WORD.findall(text.text)):
            name = word.strip("./-")
            server, own = _meant(name, subject)
            if server:
                yield text.where, f"it speaks of the tool '{shown(own)}' of the server '{server}'"


def _meant(word: str, subject: Subject) -> tuple[str, str]:
    """Whose tool a word names, if another server's: by its own name, or as `server.tool`, `server__tool`."""
    for mark in (".", "__", "/"):
        server, found, own = word.partition(mark)
        if found and subject.elsewhere.get(own) == server != subject.server:
            return server, own
    telling = (len(word) >= _TELLING and any(mark in word[1:-1] for mark in "_-./")) or any(c.isupper() for c in word[1:])
    server = subject.elsewhere.get(word, "") if telling else ""
    return (server, word) if server and server != subject.server else ("", "")
