"""Tokens that a certified provider bound to a key (DPoP, RFC 9449): worth nothing to a thief who has not that key."""

from __future__ import annotations

import pytest

from tests.idp.conftest import Make
from tests.idp.provider import EcKey, Idp, claims_of
from tests.idp.trusting import Trusting

pytestmark = pytest.mark.node


@pytest.fixture
def key() -> EcKey:
    return EcKey()


def url(gateway: Trusting) -> str:
    return f"{gateway.public_url}/mcp/desk"


def test_a_bound_token_works_with_a_proof_of_its_key(gateway: Trusting, idp: Idp, key: EcKey) -> None:
    token = idp.login("paul", key=key)["access_token"]
    assert claims_of(token)["cnf"] == {"jkt": key.thumbprint}
    assert gateway.bound(token, key.proof("POST", url(gateway), token)) == ""
    assert gateway.bound(token, key.proof("POST", url(gateway), token)) == ""  # each request has a proof of its own


def test_a_bound_token_is_refused_as_a_bearer_token(gateway: Trusting, idp: Idp, key: EcKey) -> None:
    token = idp.login("paul", key=key)["access_token"]
    assert gateway.code(token) == "invalid-credential"
    assert gateway.code(None, Authorization=f"DPoP {token}") == "invalid-credential"
    assert gateway.bound(token, key.proof("POST", url(gateway), token)) == ""
    assert gateway.code(token) == "invalid-credential"  # nor because it was seen with its proof a moment ago


def test_a_proof_counts_once(gateway: Trusting, idp: Idp, key: EcKey) -> None:
    token = idp.login("paul", key=key)["access_token"]
    proof = key.proof("POST", url(gateway), token)
    assert gateway.bound(token, proof) == ""
    assert gateway.bound(token, proof) == "invalid-credential"


def test_the_proof_of_another_key_method_url_token_or_time_is_refused(gateway: Trusting, idp: Idp, key: EcKey) -> None:
    token, other = (idp.login("paul", key=key)["access_token"] for _ in range(2))
    proofs = {
        "key": EcKey().proof("POST", url(gateway), token),
        "method": key.proof("GET", url(gateway), token),
        "url": key.proof("POST", f"{gateway.public_url}/mcp/vault", token),
        "token": key.proof("POST", url(gateway), other),
        "no token": key.proof("POST", url(gateway)),
        "past": key.proof("POST", url(gateway), token, ahead=-90),
        "future": key.proof("POST", url(gateway), token, ahead=90),
    }
    codes = {name: gateway.bound(token, proof) for name, proof in proofs.items()}
    assert codes == dict.fromkeys(proofs, "invalid-credential")
    assert gateway.bound(token, key.proof("POST", url(gateway), token)) == ""


def test_the_next_token_of_a_bound_session_is_bound_to_the_same_key(gateway: Trusting, idp: Idp, key: EcKey) -> None:
    next_one = idp.refresh(idp.login("paul", key=key), key=key)["access_token"]
    assert gateway.bound(next_one, key.proof("POST", url(gateway), next_one)) == ""
    assert gateway.code(next_one) == "invalid-credential"


def test_the_policy_and_the_ledger_see_that_the_key_was_shown(gateway: Trusting, idp: Idp, key: EcKey) -> None:
    token = idp.login("paul", key=key)["access_token"]
    assert gateway.bound(token, key.proof("POST", url(gateway), token)) == ""
    said = gateway.records(kind="call.start")[-1].leaf["auth"]
    assert (said["assurance"], said["method"]) == ("pop", "dpop")


def test_an_issuer_of_bound_tokens_alone_has_no_bearer_token_accepted(own_gateway: Make, key: EcKey) -> None:
    gateway = own_gateway(dpop="require")
    assert gateway.code(gateway.idp.login("paul")["access_token"]) == "invalid-credential"
    token = gateway.idp.login("paul", key=key)["access_token"]
    assert gateway.bound(token, key.proof("POST", url(gateway), token)) == ""
