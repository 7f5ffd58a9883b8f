"""The ring in memory: one signs, several verify, only public members are shown, and a stranger's signer fits."""

from __future__ import annotations

import json
from collections.abc import Mapping

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.identity.signing import KeyRing, LocalSigner
from gateway.model import Refused


def new() -> LocalSigner:
    return LocalSigner(ec.generate_private_key(ec.SECP256R1()))


class Token:
    """A signer as a PKCS#11 token would be one: it has the key, we have two methods.  It shows more than it should."""

    def __init__(self) -> None:
        self._inner = new()
        self.jwk: Mapping[str, str] = {**self._inner.jwk, "d": "c2VjcmV0", "pin": "1234", "key_ops": "sign"}

    def sign(self, data: bytes) -> bytes:
        return self._inner.sign(data)


def test_what_a_strangers_signer_signs_verifies_and_nothing_secret_of_it_is_published() -> None:
    ring = KeyRing(Token())
    token = ring.sign("x+jwt", {"sub": "paul"})
    key = ring.public(ring.kid)
    assert key is not None
    assert jwt.decode(token, key.public, algorithms=["ES256"]) == {"sub": "paul"}  # type: ignore[arg-type]  # it is an EC key
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "typ": "x+jwt", "kid": ring.kid}
    (shown,) = json.loads(ring.document()[0])["keys"]
    assert shown.keys() == {"kty", "crv", "x", "y", "kid", "alg", "use"}


def test_the_entity_tag_changes_with_the_keys_and_with_nothing_else() -> None:
    one, two = new(), new()
    ring = KeyRing(one)
    first = ring.document()
    ring.swap(one, [])
    assert ring.document() == first
    ring.swap(one, [two.jwk])
    assert ring.document()[1] != first[1]
    assert json.loads(ring.document()[0]) == ring.jwks()


def test_a_key_that_stays_is_the_same_object() -> None:
    one, two = new(), new()
    ring = KeyRing(one)
    key = ring.public(one.jwk["kid"])
    ring.swap(two, [one.jwk])
    assert ring.public(one.jwk["kid"]) is key
    assert ring.kids == {one.jwk["kid"], two.jwk["kid"]}


def test_without_a_signer_nothing_is_signed_and_what_counts_still_counts() -> None:
    one = new()
    ring = KeyRing(one)
    ring.swap(None, [one.jwk])
    assert ring.kid == ""
    assert ring.public(one.jwk["kid"]) is not None
    with pytest.raises(Refused):
        ring.sign("x+jwt", {})


@pytest.mark.parametrize(
    "jwk",
    [
        {**new().jwk, "kid": new().jwk["kid"]},
        {**new().jwk, "x": "AAAA"},
        {**new().jwk, "use": "enc"},
        {**new().jwk, "alg": "ES384"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "1"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "1"},
        {},
    ],
    ids=["another kid", "no point", "encryption", "another algorithm", "a secret", "RSA", "nothing"],
)
def test_only_public_p256_keys_of_their_own_kid_enter_a_ring(jwk: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="key"):
        KeyRing(new(), [jwk])
