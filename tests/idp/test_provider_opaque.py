"""Opaque tokens of a certified provider: it is asked what they say (RFC 7662), and what it took back is soon worth nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.idp.conftest import Make
from tests.idp.provider import OPAQUE, EcKey
from tests.idp.trusting import Trusting

pytestmark = pytest.mark.node

CACHE_SECONDS = 30


@pytest.fixture(scope="module")
def asking(shared_gateway: Make) -> Trusting:
    """A gateway that asks as an OAuth client of the provider; where, it found in the metadata."""
    return shared_gateway(
        introspection={"client": {"id": "gateway", "secret": {"file": "idp-secret"}}, "cache_seconds": CACHE_SECONDS}
    )


def test_an_opaque_token_says_as_much_as_a_signed_one(asking: Trusting) -> None:
    idp = asking.idp
    token = idp.login("paul", resource=OPAQUE)["access_token"]
    assert "." not in token
    me: dict[str, Any] = asking.http.get("/api/whoami", headers={"Authorization": f"Bearer {token}"}).json()
    assert (me["subject"], me["groups"], me["actors"]) == ("user:corp/paul", ["procurement-managers"], [])
    assert asking.code(token) == ""
    assert asking.code(idp.login("mia", resource=OPAQUE)["access_token"]) == "not-available"
    assert asking.code(idp.login("paul", "stranger", resource=OPAQUE)["access_token"]) == "invalid-credential"


def test_what_was_taken_back_is_refused_within_the_time_that_an_answer_counts(asking: Trusting) -> None:
    token = asking.idp.login("paul", resource=OPAQUE)["access_token"]
    assert asking.code(token) == ""
    asking.idp.revoke(token)
    asking.passed(CACHE_SECONDS + 1)
    assert asking.code(token) == "invalid-credential"


def test_a_refresh_token_that_the_provider_calls_active_is_no_access_token(asking: Trusting) -> None:
    tokens = asking.idp.login("paul", resource=OPAQUE)
    said = asking.idp.introspect(tokens["refresh_token"])
    assert said["active"] is True
    assert asking.code(tokens["refresh_token"]) == "invalid-credential"
    assert asking.code(tokens["access_token"]) == ""


def test_an_invented_token_is_refused(asking: Trusting) -> None:
    assert asking.code("k" * 43) == "invalid-credential"


def test_a_signed_token_is_never_asked_about(asking: Trusting) -> None:
    """The provider is away: what it signed still counts, of what it did not it is not known."""
    idp = asking.idp
    signed, opaque = idp.login("paul")["access_token"], idp.login("paul", resource=OPAQUE)["access_token"]
    assert asking.code(signed) == ""
    idp.stop()
    assert asking.code(signed) == ""
    assert asking.code(opaque) == "invalid-credential"
    idp.start()
    again = idp.login("paul", resource=OPAQUE)["access_token"]
    asking.passed(31)
    assert asking.code(again) == ""


def test_an_opaque_token_can_be_bound_to_a_key(asking: Trusting) -> None:
    key = EcKey()
    token = asking.idp.login("paul", resource=OPAQUE, key=key)["access_token"]
    assert asking.code(token) == "invalid-credential"
    assert asking.bound(token, key.proof("POST", f"{asking.public_url}/mcp/desk", token, asking.idp.ahead)) == ""
