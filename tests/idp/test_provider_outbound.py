"""What a tool server gets instead of the person's token: one that the provider, or the server's own, issued for it (RFC 8693)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.idp.provider import LEDGERS, Idp, claims_of
from tests.idp.trusting import Trusting
from tests.interaction.world import Heard, Peers, done

pytestmark = pytest.mark.node


class Exchanging(Trusting):
    """`desk` takes tokens of the provider, `vault` those of an authorization server of its own, which trusts the provider."""

    def __init__(self, folder: Path, peers: Peers) -> None:
        super().__init__(folder, peers)
        self.other = Idp(self.public_url)

    def configure(self) -> None:
        super().configure()
        self.other.trusts = self.idp.issuer
        self.other.start()
        (self.folder / "other-secret").write_text(self.other.gateway_secret)
        (self.folder / "other-secret").chmod(0o600)
        ours = {"url": f"{self.idp.issuer}/token", "client": {"id": "gateway", "secret": {"file": "idp-secret"}}}
        theirs = {"url": f"{self.other.issuer}/token", "client": {"id": "gateway", "secret": {"file": "other-secret"}}}
        wanted = {"resource": LEDGERS, "scope": ["ledgers.read"], "endpoint": ours}
        servers = self.settings["mcp"]
        servers["desk"] = {"url": servers["desk"]["url"], "credentials": wanted | {"strategy": "token_exchange"}}
        jag = wanted | {"strategy": "id_jag", "redeem": theirs, "audience": self.other.issuer}
        servers["vault"] = {"url": servers["vault"]["url"], "credentials": jag}

    def end(self) -> None:
        try:
            super().end()
        finally:
            self.other.stop()


@pytest.fixture(scope="module")
def gate(_installed: None, upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exchanging]:
    made = Exchanging(tmp_path_factory.mktemp("exchanging"), upstreams)
    try:
        made.begin()
        yield made
    finally:
        made.end()


@pytest.fixture
def seen(peers: Peers) -> list[str]:
    """What stood in Authorization at the tool servers."""
    shown: list[str] = []

    def look(heard: Heard) -> dict[str, Any]:
        shown.append(heard.headers.get("authorization", ""))
        return done("done")

    peers.tools["desk.read"] = peers.tools["vault.open"] = look
    return shown


def test_the_provider_gives_the_gateway_a_token_for_the_tool_server(gate: Exchanging, seen: list[str]) -> None:
    token = gate.idp.login("paul")["access_token"]
    assert gate.code(token) == ""
    (shown,) = seen
    said = claims_of(shown.removeprefix("Bearer "))
    assert (said["iss"], said["sub"], said["aud"]) == (gate.idp.issuer, "paul", "https://ledgers.example")
    assert (said["client_id"], said["act"], said["scope"]) == ("gateway", {"sub": "gateway"}, "ledgers.read")
    assert token not in shown


def test_the_servers_own_authorization_server_redeems_the_providers_assertion(gate: Exchanging, seen: list[str]) -> None:
    assert gate.code(gate.idp.login("paul")["access_token"], "vault.open") == ""
    (shown,) = seen
    said = claims_of(shown.removeprefix("Bearer "))
    assert (said["iss"], said["sub"], said["aud"]) == (gate.other.issuer, "paul", "https://ledgers.example")


def test_what_was_issued_for_the_tool_server_is_nothing_at_the_gateway(gate: Exchanging, seen: list[str]) -> None:
    assert gate.code(gate.idp.login("paul")["access_token"]) == ""
    assert gate.code(gate.idp.login("paul")["access_token"], "vault.open") == ""
    assert [gate.code(shown.removeprefix("Bearer ")) for shown in seen] == ["invalid-credential"] * 2


def test_each_person_has_a_token_of_their_own_at_the_tool_server(gate: Exchanging, seen: list[str], peers: Peers) -> None:
    for person in ("paul", "mia", "paul"):
        gate.idp.control(people={"mia": {"groups": ["procurement-managers"]}})
        assert gate.code(gate.idp.login(person)["access_token"]) == ""
    assert [claims_of(shown.removeprefix("Bearer "))["sub"] for shown in seen] == ["paul", "mia", "paul"]


def test_while_the_provider_is_away_no_call_is_sent_without_its_credential(gate: Exchanging, seen: list[str]) -> None:
    token = gate.idp.login("paul")["access_token"]
    assert gate.http.get("/api/whoami", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    gate.idp.stop()
    try:
        assert gate.code(token) == "credential-unavailable"
        assert seen == []
    finally:
        gate.idp.start()
    assert gate.code(gate.idp.login("paul")["access_token"]) == ""


def test_no_credential_stands_in_the_ledger_or_the_log(gate: Exchanging, seen: list[str]) -> None:
    token = gate.idp.login("paul")["access_token"]
    assert gate.code(token) == ""
    written = gate.log.read_text() + json.dumps([record.leaf for record in gate.records()])
    for secret in (token, seen[0].removeprefix("Bearer "), gate.idp.gateway_secret):
        assert secret not in written
