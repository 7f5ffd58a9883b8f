"""Parameters that want a credential."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from gateway.poison.subject import Subject
from policies.pinning import Grade

GRADE: Grade = "medium"
_WORDS: Final = re.compile(
    r"(?:^|_)(?:password|passwd|passphrase|pwd|secret|api_?key|access_?key|private_?key|ssh_?key|access_?token|auth_?token|bearer|"
    r"bearer_?token|refresh_?token|id_?token|credentials?|authorization|cookies?|session_?id|otp|totp|pin_?code|mfa_?code|cvv|cvc|"
    r"card_?number|credit_?card|iban|ssn|seed_?phrase|mnemonic)(?:$|_)"
)
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def find(subject: Subject) -> Iterator[tuple[str, str]]:
    """A parameter is called like a credential: `password`, `api_key`, `session_id`, `card_number`.

    The model is to fill it in, from what it was told or can find. What it puts there goes to the server, and into its logs.

    A server gets its credentials from the gateway (`mcp.<id>.credentials`), not from models. Where a tool manages credentials by
    its nature, approve it.
    """
    for text in subject.parameters:
        spelled = _CAMEL.sub("_", text.text).lower().replace("-", "_").replace(".", "_").replace(" ", "_")
        if _WORDS.search(spelled):
            yield text.where, f"a parameter that wants a credential: {ascii(text.text[:64])[1:-1]}"
