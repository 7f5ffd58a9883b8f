"""Text that is dressed up as somebody else's: the system's, the assistant's, a person's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from gateway.poison.subject import Subject
from policies.pinning import Grade

GRADE: Grade = "high"
_DRESSED: Final = re.compile(
    r"""
      </?\s*(?:system|assistant|user|human|developer|instructions?|important|critical|secret|hidden|admin|override|thinking|
             system[-_ ](?:prompt|message|reminder|note)|function_calls|tool_(?:use|call|result)s?|antml:\w+)\b[^<>]{0,80}>
    | <\|[a-z_]{2,30}\|>
    | \[/?(?:inst|system|sys|admin)\]
    | <</?sys>>
    | (?:^|\n)[^\S\n]{0,20}[#*]{0,6}[^\S\n]{0,4}(?:system|assistant|human|developer|user)
             (?:\ (?:prompt|message|note|instructions?))?[*\s]{0,3}:\s
    | \b(?:system|developer)\ (?:prompt|message)\s*[:=]
    | \b(?:begin|start|end)\ (?:of\ )?(?:the\ )?system\ prompt\b
    """,
    re.IGNORECASE | re.VERBOSE,
)


def find(subject: Subject) -> Iterator[tuple[str, str]]:
    """A text imitates the frame that a model is spoken to in: tags such as `<system>` or `<IMPORTANT>`, tokens such as
    `<|im_start|>` or `[INST]`, lines that begin with `System:` or `Human:`.

    Models give more weight to what seems to come from their maker or from the person than to a tool's description; that is the
    use of such text here.

    Nothing that a tool does is said better so. Ask whoever runs the server.
    """
    for text in subject.texts:
        if text.part == "name":
            continue
        if found := _DRESSED.search(text.text):
            yield text.where, f"it imitates the frame of a conversation: “{' '.join(found[0].split())[:60]}”"
