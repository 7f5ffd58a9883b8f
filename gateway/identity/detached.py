"""Who signed a document that stands elsewhere (JWS, RFC 7515 appendix F): by keys that were known before, never by what it names.

A `jku`, `jwk`, `x5u` or `x5c` is not looked at: whoever can forge a document can point to keys of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gateway.identity.keys import b64url
from gateway.identity.token import check_signature, read_header
from gateway.model import Refused

if TYPE_CHECKING:
    from gateway.identity.keys import KeySet

MOST_SIGNATURES: Final = 8
"""Of one document; the others are not looked at."""
_CRITICAL: Final = frozenset({"crit", "b64"})  # what would change how the rest is read, and is not understood here


async def signed_by(keys: KeySet, signatures: Sequence[tuple[str, str]], forms: Sequence[bytes]) -> str | None:
    """The kid of the pinned key by which one of the signatures (protected header, signature) holds over one of the forms.

    The key says which algorithms it may be used with; of the header only `alg` and `kid` count, and both must be its own.
    """
    for protected, signature in signatures[:MOST_SIGNATURES]:
        try:
            header = read_header(protected)
        except Refused:
            continue
        kid, algorithm = header.get("kid"), header.get("alg")
        if not isinstance(kid, str) or not isinstance(algorithm, str) or not _CRITICAL.isdisjoint(header):
            continue
        key = await keys.get(kid)
        if key is None or algorithm not in key.algorithms:
            continue
        for form in forms:
            try:
                check_signature(f"{protected}.{b64url(form)}.{signature}", form, key.public, algorithm)
            except (Refused, ValueError):  # ValueError: a signature that is not even ASCII
                continue
            return kid
    return None
