"""Signatures of agent cards (A2A 1.0 §8.4): whose they are by pinned keys, and our own in their place.

The SDKs sign two forms of a card: what the protocol's own model holds of it (Python, JavaScript), and the JSON as it stands (Go).
A foreign signature counts over either; ours stand over both, where they differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from a2a.types import a2a_pb2 as pb
from a2a.utils._jcs import CanonicalizationError, canonicalize
from a2a.utils.signing import _canonicalize_agent_card

from gateway.a2a.wire import UnreadableError
from gateway.identity.detached import signed_by

if TYPE_CHECKING:
    from gateway.identity.keys import KeySet
    from gateway.identity.signing import KeyRing

Word = Literal["verified", "unsigned", "invalid", "unchecked"]
"""`verified` by a pinned key; `invalid`: by none of them; `unchecked`: signed, and no key is pinned."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a card's signatures come to; kid: of the pinned key that signed it."""

    word: Word
    kid: str = ""


def forms(card: pb.AgentCard, said: Mapping[str, Any]) -> tuple[bytes, ...]:
    """The canonical bytes (RFC 8785) that a signature may stand over, each once.  `said` is the card as JSON.

    `UnreadableError` where it has no canonical form.
    """
    try:
        modelled = _canonicalize_agent_card(card)  # the SDK's own: its verifiers compare with nothing else
        plain = canonicalize({name: value for name, value in said.items() if name != "signatures"})
        return tuple(dict.fromkeys((modelled.encode(), plain.encode())))
    except (CanonicalizationError, UnicodeEncodeError):
        raise UnreadableError("no canonical form") from None


def digest_of(forms: tuple[bytes, ...]) -> str:
    """SHA-256 of a card as its JSON stands, without its signatures: the same however often it is signed anew."""
    return f"sha256:{hashlib.sha256(forms[-1]).hexdigest()}"


async def judge(card: pb.AgentCard, forms: tuple[bytes, ...], keys: KeySet | None) -> Verdict:
    """Whether a pinned key signed the card."""
    if not card.signatures:
        return Verdict("unsigned")
    if keys is None:
        return Verdict("unchecked")
    kid = await signed_by(keys, [(each.protected, each.signature) for each in card.signatures], forms)
    return Verdict("invalid") if kid is None else Verdict("verified", kid)


def sign(forms: tuple[bytes, ...], ring: KeyRing, jku: str) -> list[pb.AgentCardSignature]:
    """Signatures by the gateway's key of now over each form; `jku` is where its keys are published.

    `Refused` where no key can sign.  A required text that is empty would be missing in what SDKs sign: `published` leaves none.
    """
    signed = [ring.sign_document(form, jku) for form in forms]
    return [pb.AgentCardSignature(protected=protected, signature=signature) for protected, signature in signed]
