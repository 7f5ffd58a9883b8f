"""The decision point of a gateway that serves: what it says is what a call meets, and its record is in the ledger."""

from __future__ import annotations

from typing import Any

import httpx

from tests.interaction.world import Gateway


def ask(gateway: Gateway, token: str, tool: str, subject: str) -> httpx.Response:
    body: dict[str, Any] = {
        "subject": {"type": "user", "id": subject},
        "action": {"name": "call", "properties": {"arguments": {"text": "x"}}},
        "resource": {"type": "tool", "id": tool},
    }
    return gateway.http.post("/access/v1/evaluation", json=body, headers={"Authorization": f"Bearer {token}"})


def test_what_the_decision_point_says_is_what_a_call_meets_and_it_is_recorded(gateway: Gateway) -> None:
    token = gateway.token()
    me = gateway.http.get("/api/whoami", headers={"Authorization": f"Bearer {token}"}).json()
    subject = me["subject"].removeprefix("user:")
    for tool, allowed in (("desk.read", True), ("desk.seal", False), ("desk.none", False)):
        answer = ask(gateway, token, tool, subject)
        assert answer.status_code == 200, answer.text
        assert answer.json()["decision"] is allowed
        called = gateway.call(tool, token, arguments={"text": "x"}).json()
        assert ("result" in called and not called["result"].get("isError")) is allowed
        kinds = {record.id: record.kind for record in gateway.records(workflow=me["workflow"])}
        assert kinds[answer.json()["context"]["id"]] == "decision.evaluate"
    verdict = gateway.audit("verify")
    assert verdict.returncode == 0, verdict.stdout


def test_a_person_learns_nothing_about_another_and_a_stranger_nothing_at_all(gateway: Gateway) -> None:
    assert ask(gateway, gateway.token(), "desk.read", "dev/mia").status_code == 403
    assert gateway.http.post("/access/v1/evaluation", json={}).status_code == 401
    said = gateway.http.get("/.well-known/authzen-configuration").json()
    assert said["access_evaluation_endpoint"] == f"{gateway.public_url}/access/v1/evaluation"


def test_who_shows_a_bad_credential_is_told_so_and_who_shows_none_is_not(gateway: Gateway) -> None:
    bad = gateway.http.get("/api/whoami", headers={"Authorization": "Bearer nonsense"})
    none = gateway.http.get("/api/whoami")
    assert (bad.status_code, bad.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
    assert (none.status_code, none.headers["www-authenticate"]) == (401, "Bearer")
