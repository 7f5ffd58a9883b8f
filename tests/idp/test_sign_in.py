"""A person signs in at a certified provider and calls tools through the gateway: what counts, and what does not."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.idp.conftest import Make
from tests.idp.provider import ELSEWHERE, RSA_SIGNED, Idp, claims_of
from tests.idp.trusting import Trusting
from tests.interaction.world import LEGACY, MODERN, Heard, Peers, done, new_trace

pytestmark = pytest.mark.node


@pytest.mark.parametrize("version", [LEGACY, MODERN])
def test_who_signs_in_calls_a_tool_as_that_person(gateway: Trusting, idp: Idp, peers: Peers, version: str) -> None:
    token, trace = idp.login("paul")["access_token"], new_trace()
    me = gateway.http.get("/api/whoami", headers={"Authorization": f"Bearer {token}"}).json()
    assert (me["subject"], me["groups"]) == ("user:corp/paul", ["procurement-managers"])
    assert gateway.call("desk.read", token, version=version, trace=trace).json()["result"]["content"] == done("done")["content"]
    start, _ = gateway.records(trace=trace)
    assert [kind for kind, _ in start.leaf["chain"]] == ["user"]
    assert start.leaf["auth"]["jti"] == claims_of(token)["jti"]


def test_a_client_that_knows_only_the_gateways_address_finds_its_way(gateway: Trusting, idp: Idp) -> None:
    """401, protected resource metadata (RFC 9728), the server's metadata, sign-in for that resource (RFC 8707), the call."""
    refused = gateway.call("desk.read", None)
    assert refused.status_code == 401
    metadata = re.search(r'resource_metadata="([^"]+)"', refused.headers["www-authenticate"])
    assert metadata
    described = gateway.http.get(metadata[1]).json()
    assert described["resource"] == f"{gateway.public_url}/mcp/desk"
    (server,) = described["authorization_servers"]
    found = httpx.get(f"{server}/.well-known/openid-configuration", trust_env=False).json()
    assert (found["issuer"], found["code_challenge_methods_supported"]) == (idp.issuer, ["S256"])
    token = idp.login("paul", resource=described["resource"])["access_token"]
    assert claims_of(token)["aud"] == described["resource"]
    assert gateway.code(token) == ""
    assert gateway.http.get("/api/whoami", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    assert gateway.refused_for() == "the token is for another address of this gateway"


def test_who_signs_in_on_another_machine_by_a_device_code_is_that_person(gateway: Trusting, idp: Idp) -> None:
    """The way of the how-to pages, which takes two commands and no listening port."""
    token = idp.by_device("paul")["access_token"]
    me = gateway.http.get("/api/whoami", headers={"Authorization": f"Bearer {token}"}).json()
    assert (me["subject"], me["groups"], me["method"]) == ("user:corp/paul", ["procurement-managers"], "bearer")


def test_what_a_persons_groups_do_not_grant_is_refused(gateway: Trusting, idp: Idp) -> None:
    assert gateway.code(idp.login("mia")["access_token"]) == "not-available"
    assert gateway.code(idp.login("paul")["access_token"]) == ""


def test_a_token_of_an_agents_client_puts_that_agent_into_the_chain(gateway: Trusting, idp: Idp) -> None:
    """The client proves itself at the provider with its key (private_key_jwt); desk.slow is granted to the person alone."""
    token, trace = idp.login("paul", "clerk-app")["access_token"], new_trace()
    assert gateway.code(token, trace=trace) == ""
    assert gateway.records(trace=trace)[0].leaf["chain"][1:] == [["agent", "agent:clerk"]]
    assert gateway.code(idp.login("paul")["access_token"], "desk.slow") == ""
    assert gateway.code(token, "desk.slow") != ""


def test_a_token_that_the_client_fetched_for_itself_names_no_person(gateway: Trusting, idp: Idp) -> None:
    """A client's own token names the client as `sub`: no user never means that the user's rights are not asked for."""
    own = idp.token("clerk-app", {"grant_type": "client_credentials", "scope": "tools", "resource": idp.audience})
    token = own.raise_for_status().json()["access_token"]
    assert claims_of(token)["sub"] == "clerk-app"
    assert gateway.code(token) == "invalid-credential"
    assert gateway.refused_for() == "a client's own token names no person"


def test_a_key_of_either_kind_signs(gateway: Trusting, idp: Idp) -> None:
    assert gateway.code(idp.login("paul", resource=RSA_SIGNED)["access_token"]) == ""


def test_an_id_token_is_no_access_token(gateway: Trusting, idp: Idp) -> None:
    tokens = idp.login("paul")
    assert claims_of(tokens["id_token"])["sub"] == "paul"
    assert gateway.code(tokens["id_token"]) == "invalid-credential"


def test_a_refresh_token_is_no_access_token(gateway: Trusting, idp: Idp) -> None:
    assert gateway.code(idp.login("paul")["refresh_token"]) == "invalid-credential"


def test_a_token_for_another_audience_is_refused(gateway: Trusting, idp: Idp) -> None:
    assert gateway.code(idp.login("paul", resource=ELSEWHERE)["access_token"]) == "invalid-credential"


def test_a_token_of_a_client_that_nobody_registered_is_refused(gateway: Trusting, idp: Idp) -> None:
    assert gateway.code(idp.login("paul", "stranger")["access_token"]) == "invalid-credential"


def test_a_code_without_its_verifier_is_worth_nothing(idp: Idp) -> None:
    """PKCE: whoever caught the code in a redirect cannot redeem it."""
    verifier = "v" * 43
    code = idp.authorize("paul", "desk", verifier, idp.audience, "openid tools")
    data = {"grant_type": "authorization_code", "code": code, "redirect_uri": "http://127.0.0.1:9/callback"}
    assert idp.token("desk", data | {"code_verifier": "w" * 43}).json()["error"] == "invalid_grant"


def test_the_next_token_of_a_session_goes_on(gateway: Trusting, idp: Idp) -> None:
    first = idp.login("paul")
    assert gateway.code(first["access_token"]) == ""
    second = idp.refresh(first)
    assert claims_of(second["access_token"])["jti"] != claims_of(first["access_token"])["jti"]
    assert gateway.code(second["access_token"]) == ""


def test_the_tool_never_sees_the_persons_token(gateway: Trusting, idp: Idp, peers: Peers) -> None:
    token, seen = idp.login("paul")["access_token"], []

    def look(heard: Heard) -> dict[str, object]:
        seen.append(str(heard.headers) + str(heard.message))
        return done("done")

    peers.tools["desk.read"] = look
    assert gateway.code(token) == ""
    assert len(seen) == 1
    assert token not in seen[0]
    assert token.split(".")[2] not in seen[0]


@pytest.fixture(scope="module")
def clocked(shared_gateway: Make) -> Trusting:
    return shared_gateway()


@pytest.mark.parametrize(("ahead", "code"), [(20, ""), (-20, ""), (60, "invalid-credential")])
def test_a_provider_whose_clock_is_a_little_wrong_is_believed(clocked: Trusting, ahead: int, code: str) -> None:
    """Half a minute is forgiven; a token of the future is not."""
    right = clocked.idp.ahead
    clocked.idp.turn_clock(right + ahead)
    try:
        assert clocked.code(clocked.idp.login("paul")["access_token"]) == code
    finally:
        clocked.idp.turn_clock(right)


def test_a_token_that_has_ended_is_refused(clocked: Trusting) -> None:
    token = clocked.idp.login("paul")["access_token"]
    assert clocked.code(token) == ""
    clocked.passed(3600 + 31)
    assert clocked.code(token) == "invalid-credential"
