"""What a refusal asks of the caller, in the words of HTTP that both protocols share."""

from __future__ import annotations

from gateway.model import Refused


def stronger(refusal: Refused) -> str:
    """The parameters of a challenge that asks for a stronger, or newer, authentication of the person (RFC 9470 §3)."""
    said = ['error="insufficient_user_authentication"', 'error_description="the person has to authenticate anew"']
    said += [f'{name}="{refusal.data[name]}"' for name in ("acr_values", "max_age") if name in refusal.data]
    return ", ".join(said)
