"""What a token endpoint answers where it issues nothing (RFC 6749 §5.2, RFC 8693 §2.2.2)."""

from __future__ import annotations

from typing import Literal

from gateway.model import Refused

Error = Literal[
    "invalid_request",
    "invalid_client",
    "invalid_dpop_proof",
    "invalid_grant",
    "invalid_scope",
    "invalid_target",
    "unauthorized_client",
    "unsupported_grant_type",
]


class OAuthError(Exception):
    """`description` is for whoever writes the client and never says why a credential is bad; `refusal` does, for the ledger."""

    def __init__(self, error: Error, description: str, refusal: Refused | None = None) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
        self.refusal = refusal
