"""Text that sends the model after secrets, or sends them on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from gateway.poison.subject import Subject
from policies.pinning import Grade

GRADE: Grade = "high"
_DO: Final = (
    r"(?:read|cat|open|load|get|fetch|include|send|pass|attach|append|add|upload|copy|forward|post|put|provide|paste|"
    r"exfiltrate|leak)"
)
_FILES: Final = (
    r"(?:~?/?\.ssh\b|\bid_(?:rsa|ed25519|ecdsa)\b|\.aws/(?:credentials|config)|\.netrc\b|\.npmrc\b|\.pypirc\b|\.kube/config|"
    r"\.docker/config|"
    r"(?<![\w.])\.env\b|/etc/(?:passwd|shadow)\b|\.git-credentials\b|\bmcp\.json\b|claude_desktop_config|\.cursor/|\.gnupg\b|wallet\.dat\b|"
    r"\bkeychain\b|\bprivate keys?\b|\bssh keys?\b|\benvironment variables\b)"
)
_TALK: Final = (
    r"\b(?:(?:entire|full|whole|complete|previous|all) (?:\w+ ){0,3}(?:conversation|chat|message|messages|context|dialogue)"
    r"(?: history)?|"
    r"conversation history|chat history|system prompt|chain of thought)\b"
)
_PATTERNS: Final = (
    (re.compile(rf"\b{_DO}\b[^.!?]{{0,80}}{_FILES}|{_FILES}[^.!?]{{0,60}}\b{_DO}\b"), "it sends the model after secrets"),
    (re.compile(rf"\b{_DO}\b[^.!?]{{0,60}}{_TALK}"), "it asks for what was said elsewhere"),
    (re.compile(
        rf"\b{_DO}\b[^.!?]{{0,80}}\b(?:passwords?|api[ _-]?keys?|access[ _-]?tokens?|credentials|secrets)\b[^.!?]{{0,60}}"
        r"\b(?:to|in|as|into)\b"
    ), "it has secrets sent on"),
)  # fmt: skip
_NOT: Final = re.compile(r"\b(?:do not|don'?t|don’t|never|must not|should not|avoid|without) $")


def _warns(text: str, at: int) -> bool:
    """Whether what begins there is what the text warns of: the very word before it says not to."""
    return _NOT.search(text, max(0, at - 16), at) is not None


def find(subject: Subject) -> Iterator[tuple[str, str]]:
    """A text has the model read key files, environment variables or settings, hand over the conversation or the system prompt,
    or put secrets into an argument.

    What an agent knows of others, or can read on the machine of the person whom it works for, then leaves with the next call.

    A tool that truly needs such a file reads it itself, with its own rights. Ask whoever runs the server.
    """
    for text in subject.texts:
        for pattern, what in _PATTERNS:
            found = pattern.search(text.plain)
            while found is not None and _warns(text.plain, found.start()):
                found = pattern.search(text.plain, found.start() + 1)
            if found is not None:
                yield text.where, f"{what}: “{found[0][:100]}”"
                break
