"""The provider's token at the gateway's own token endpoint: an agent that holds it begins a workflow, and no other agent does."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.idp.provider import ACCESS_TOKEN, EXCHANGE, EcKey, Idp, claims_of
from tests.idp.trusting import Trusting

pytestmark = pytest.mark.node


def asked(gateway: Trusting, agent: str, token: str, **more: str) -> httpx.Response:
    """The agent asks, with its secret, to go on for whomever the token is."""
    form = {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN} | more
    return gateway.http.post("/oauth/token", data=form, auth=(agent, gateway.agent_secrets[agent]))


def shown(gateway: Trusting, agent: str, delegation: str, tool: str = "desk.read") -> str:
    return gateway.code(gateway.agent_secrets[agent], tool, **{"Bailiwick-Delegation": delegation})


def test_an_agent_begins_a_workflow_with_the_token_that_a_person_gave_its_client(gateway: Trusting, idp: Idp) -> None:
    token = idp.login("paul", "clerk-app")["access_token"]
    answer: dict[str, Any] = asked(gateway, "clerk", token).raise_for_status().json()
    claims = claims_of(answer["access_token"])
    assert (claims["sub"], claims["chain"], claims["groups"]) == ("user:corp/paul", ["agent:clerk"], ["procurement-managers"])
    assert claims["ends"] <= claims_of(token)["exp"]
    assert shown(gateway, "clerk", answer["access_token"]) == ""
    assert shown(gateway, "clerk", answer["access_token"], "desk.seal") == "not-available"  # granted to nobody
    assert shown(gateway, "courier", answer["access_token"]) == "invalid-credential"


def test_the_metadata_says_where_the_token_endpoint_is(gateway: Trusting) -> None:
    found = gateway.http.get("/.well-known/oauth-authorization-server").json()
    assert found["token_endpoint"] == f"{gateway.public_url}/oauth/token"


def test_a_token_that_was_issued_to_another_client_begins_nothing(gateway: Trusting, idp: Idp) -> None:
    """Whoever stole it from the clerk, or from the person's own client, is not the agent that the person let in."""
    for client, agent in (("clerk-app", "courier"), ("desk", "clerk"), ("desk", "courier"), ("stranger", "clerk")):
        answer = asked(gateway, agent, idp.login("paul", client)["access_token"])
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), client


def test_an_id_token_begins_nothing(gateway: Trusting, idp: Idp) -> None:
    assert asked(gateway, "clerk", idp.login("paul", "clerk-app")["id_token"]).status_code == 400


def test_the_clients_own_token_of_the_provider_is_no_proof_of_the_agent(gateway: Trusting, idp: Idp) -> None:
    token = idp.login("paul", "clerk-app")["access_token"]
    form = {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN}
    answer = gateway.http.post("/oauth/token", data=form, headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_a_scope_narrows_what_the_workflow_may_touch(gateway: Trusting, idp: Idp) -> None:
    token = idp.login("paul", "clerk-app")["access_token"]
    narrow = asked(gateway, "clerk", token, scope="vault.open").raise_for_status().json()
    assert narrow["scope"] == "vault.open"
    assert shown(gateway, "clerk", narrow["access_token"]) != ""


def test_a_workflow_goes_on_by_renewal_and_never_beyond_the_persons_token(gateway: Trusting, idp: Idp) -> None:
    token = idp.login("paul", "clerk-app")["access_token"]
    first = asked(gateway, "clerk", token).raise_for_status().json()["access_token"]
    second = asked(gateway, "clerk", first).raise_for_status().json()["access_token"]
    before, after = claims_of(first), claims_of(second)
    assert first != second
    assert before["exp"] <= after["exp"] <= after["ends"] <= claims_of(token)["exp"]
    for name in ("sub", "wf", "chain", "ends"):
        assert before[name] == after[name]
    assert shown(gateway, "clerk", second) == ""


def test_a_bound_token_begins_a_workflow_for_the_holder_of_its_key_alone(gateway: Trusting, idp: Idp) -> None:
    key, url = EcKey(), f"{gateway.public_url}/oauth/token"
    token = idp.login("paul", "clerk-app", key=key)["access_token"]
    form = {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN}
    auth = ("clerk", gateway.agent_secrets["clerk"])
    assert gateway.http.post("/oauth/token", data=form, auth=auth).status_code == 400
    thief = gateway.http.post("/oauth/token", data=form, auth=auth, headers={"DPoP": EcKey().proof("POST", url)})
    assert thief.status_code == 400
    own = gateway.http.post("/oauth/token", data=form, auth=auth, headers={"DPoP": key.proof("POST", url)})
    assert own.status_code == 200
    assert claims_of(own.json()["access_token"])["cnf"]["jkt"] == key.thumbprint
