"""A person's own account at a tool's service: consented to in a browser, with certified providers on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from tests.idp.provider import LEDGERS, Idp, claims_of, form
from tests.idp.trusting import Trusting
from tests.interaction.consent_world import Person, link_in
from tests.interaction.world import Heard, Peers, done

pytestmark = pytest.mark.node


class Vaulting(Trusting):
    """`desk` takes the tokens that a service gives to each of its own people; who they are, the provider says."""

    def __init__(self, folder: Path, peers: Peers) -> None:
        super().__init__(folder, peers)
        self.service = Idp(self.public_url)

    def configure(self) -> None:
        super().configure()
        self.service.redirects = (f"{self.public_url}/vault/callback/desk",)
        self.service.start()
        (self.folder / "service-secret").write_text(self.service.gateway_secret)
        (self.folder / "service-secret").chmod(0o600)
        self.settings["browser"] = {"issuer": "corp", "client": {"id": "gateway-web", "secret": {"file": "idp-secret"}}}
        self.settings["mcp"]["desk"] = {
            "url": self.settings["mcp"]["desk"]["url"],
            "credentials": {
                "strategy": "vault_oauth",
                "authorize_url": f"{self.service.issuer}/auth",
                "issuer": self.service.issuer,
                "endpoint": {
                    "url": f"{self.service.issuer}/token",
                    "client": {"id": "gateway-web", "secret": {"file": "service-secret"}},
                },
                "resource": LEDGERS,
                "scope": ["ledgers.read"],
            },
        }

    def end(self) -> None:
        try:
            super().end()
        finally:
            self.service.stop()


@pytest.fixture(scope="module")
def gate(_installed: None, upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vaulting]:
    made = Vaulting(tmp_path_factory.mktemp("vaulting"), upstreams)
    try:
        made.begin()
        yield made
    finally:
        made.end()


def through(page: httpx.Response, person: Person, login: str) -> httpx.Response:
    """Fill in every page on the way, as `login`, until the last one."""
    for _ in range(16):
        if page.status_code != 200 or page.url.path == "/vault/done":
            return page
        if 'http-equiv="refresh"' in page.text:
            page = person.follow(page)
        elif page.url.path == "/vault/consent":
            page = person.say(page)
        else:
            action, filled = form(page, login)
            answer = person.http.post(urljoin(str(page.url), action), data=filled)
            page = person.open(urljoin(str(answer.url), answer.headers["location"]))
    pytest.fail(f"no end of it: {page.url}")


def test_a_person_consents_in_a_browser_and_the_tool_sees_their_own_account(gate: Vaulting, peers: Peers) -> None:
    shown: list[str] = []

    def look(heard: Heard) -> dict[str, object]:
        shown.append(heard.headers["authorization"].removeprefix("Bearer "))
        return done("done")

    peers.tools["desk.read"] = look
    token = gate.idp.login("paul")["access_token"]
    refused = gate.call("desk.read", token)
    person = Person("paul")
    last = through(person.open(link_in(refused.text)), person, "paul")
    assert (last.status_code, last.url.path) == (200, "/vault/done")
    assert gate.code(token) == ""
    (first,) = shown
    said = claims_of(first)
    assert (said["iss"], said["sub"], said["aud"]) == (gate.service.issuer, "paul", "https://ledgers.example")
    assert said["client_id"] == "gateway-web"


def test_a_link_that_somebody_else_opens_gives_nobody_an_account(gate: Vaulting, peers: Peers) -> None:
    """Mia is let in as a buyer, gets a link, and Paul is lured into opening it: what he signs in with is not hers."""
    gate.idp.control(people={"mia": {"groups": ["procurement-managers"]}})
    token = gate.idp.login("mia")["access_token"]
    lured = Person("paul")
    last = through(lured.open(link_in(gate.call("desk.read", token).text)), lured, "paul")
    assert (last.status_code, last.url.path) != (200, "/vault/done")
    assert gate.code(token) == "consent-required"
    assert peers.tools == {}


@pytest.fixture(autouse=True)
def _leave() -> Iterator[None]:
    yield
    Person.leave()
