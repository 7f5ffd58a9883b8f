"""Orders that are meant for the model, against the person whom it works for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from gateway.poison.subject import Subject
from policies.pinning import Grade

GRADE: Grade = "high"
_PEOPLE: Final = r"(?:the |your |any )?(?:user|users|human|humans|person|people|customer|operator|developer|anyone|anybody|them)"
_SAY: Final = r"(?:tell|inform|notify|alert|warn|mention|show|reveal|disclose|explain|report)"
_NOT: Final = r"(?:do not|don'?t|don’t|never|must not|should not|shouldn'?t|avoid|refrain from)"
_PAST: Final = r"(?:previous|prior|above|earlier|preceding|system|safety|your)"
_TOLD: Final = r"(?:instructions?|prompts?|rules?|guidelines?|guardrails?|directions?|directives?|restrictions?|policies)"
_ANY: Final = r"(?:all|any|other|existing) (?:\w+ ){0,2}(?:instructions?|prompts?|guardrails?|directives?)"
_ORDERS: Final = (
    (rf"\b(?:ignore|disregard|forget|override|bypass|discard)\b.{{0,30}}\b(?:{_PAST}\b.{{0,30}}\b{_TOLD}|{_ANY})\b",
     "to set aside its orders"),
    (rf"\b{_NOT} (?:\w+ ){{0,2}}{_SAY}(?:ing)?\b.{{0,40}}\b{_PEOPLE}\b", "to keep something from people"),
    (rf"\bwithout (?:\w+ ){{0,2}}(?:tell|inform|notify|alert|ask|warn|mention|show)ing\b.{{0,40}}\b{_PEOPLE}\b",
     "to keep something from people"),
    (rf"\b(?:keep|hide|conceal)\b.{{0,40}}\b(?:secret|hidden|private|from)\b.{{0,12}}\b{_PEOPLE}\b",
     "to keep something from people"),
    (rf"\b{_NOT} (?:mention|reveal|disclose|talk about)\b.{{0,30}}\b(?:this|these|that you|the fact|anything about)\b",
     "to keep silent about something"),
    (r"\b(?:secretly|silently|covertly|surreptitiously|stealthily)\b.{0,30}\b(?:read|send|call|copy|include|upload|forward|run|exec)",
     "to act in secret"),
    ((r"\b(?:you are now (?:a|an|the|in)|from now on,? you|act as if you|pretend (?:to be|that you)|"
     r"your new (?:role|task|instructions?|goal))\b"),
     "to become something else"),
    (r"\b(?:jailbreak|developer mode|dan mode|do anything now)\b", "to leave its bounds"),
)  # fmt: skip
_PATTERNS: Final = tuple((re.compile(pattern), what) for pattern, what in _ORDERS)


def find(subject: Subject) -> Iterator[tuple[str, str]]:
    """A text orders the model to do what the person whom it works for would not see or want: to set aside its instructions, to
    keep something from people, to act in secret, to become something else.

    A description says what a tool does. Whoever reads it is the model, and what it says there is as good as a prompt.

    Read the whole text. If the server is yours, say the same without orders.
    """
    for text in subject.texts:
        for pattern, what in _PATTERNS:
            if found := pattern.search(text.plain):
                yield text.where, f"it orders the model {what}: “{found[0][:80]}”"
                break
