"""A tool that wants to be called first, always, or instead of others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from gateway.poison.subject import Subject
from policies.pinning import Grade

GRADE: Grade = "medium"
_PUSH: Final = re.compile(
    r"\b(?:always|must|should|only) (?:be )?(?:use|used|call|called|invoke|invoked|run)\b.{0,30}"
    r"\b(?:this tool|this one|this function|it first)\b"
    r"|\bbefore (?:using|calling|invoking|running|any) (?:any |every |all |each )?"
    r"(?:other )?(?:tools?|functions?|requests?|actions?|call)\b"
    r"|\b(?:do not|don'?t|never) (?:use|call|invoke) (?:any |the )?other (?:tools?|functions?|servers?)\b"
    r"|\b(?:instead of|rather than|in place of) (?:using |calling )?(?:any |the |all )?"
    r"(?:other|built-?in|native|default) (?:\w+ )?(?:tools?|functions?)\b"
    r"|\b(?:overrides?|supersedes?|replaces?) (?:all |any |the )?(?:other|previous|existing) (?:\w+ )?(?:tools?|functions?)\b"
    r"|\b(?:highest|top|maximum) priority\b"
)


def find(subject: Subject) -> Iterator[tuple[str, str]]:
    """A text wants the tool to be called always, first, before or instead of others.

    It steers the model away from what others approved, and towards the one tool whose answers can say more.

    Much of it is salesmanship. Read it with the other definitions of the agent in mind.
    """
    for text in subject.texts:
        if found := _PUSH.search(text.plain):
            yield text.where, f"it pushes itself forward: “{found[0][:80]}”"
