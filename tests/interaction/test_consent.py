"""A person lets the gateway use their account at an upstream: the whole way on real sockets, and every way to go astray."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import httpx2
import pytest
from mcp import Client, MCPError, UrlElicitationRequiredError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitRequestURLParams, ElicitResult

from gateway.configuration import load
from gateway.problem import ProblemError
from tests.interaction.consent_world import Person, Servers, gateway_in, link_in, onward, servers
from tests.interaction.world import LEGACY, MODERN, ROOT, Gateway, Heard, Peers, free_port
from tests.mcp.world import reference_server

ERAS = pytest.mark.parametrize("version", [LEGACY, MODERN])
_PEOPLE = iter(f"person-{number}" for number in range(1000))


@pytest.fixture(scope="module")
def idp() -> Iterator[Servers]:
    with servers() as running:
        yield running


@pytest.fixture(scope="module")
def vaulting(upstreams: Peers, idp: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = gateway_in(tmp_path_factory.mktemp("vaulting"), upstreams, idp)
    try:
        yield gateway.start()
    finally:
        gateway.stop()


@pytest.fixture(autouse=True)
def _as_they_are(idp: Servers, peers: Peers) -> Iterator[None]:
    yield
    Person.leave()
    idp.lifetime, idp.says_iss, idp.before = 3600, "own", lambda _: None
    idp.id_claims.clear()
    peers.heard.clear()


@pytest.fixture
def name() -> str:
    """Somebody whom no other test knows."""
    return next(_PEOPLE)


def call(gateway: Gateway, idp: Servers, name: str, tool: str = "desk.read", **more: Any) -> httpx.Response:
    return gateway.call(tool, idp.token(name, gateway.url), **more)


def link(gateway: Gateway, idp: Servers, name: str, tool: str = "desk.read") -> str:
    """The link that somebody gets who has not consented yet."""
    return link_in(call(gateway, idp, name, tool).text)


def shown(peers: Peers) -> str:
    return peers.heard[-1].headers.get("authorization", "")


def kept(gateway: Gateway, idp: Servers, name: str) -> list[str]:
    """What is kept of a person, as they may see it."""
    answer = gateway.http.get("/api/vault", headers={"Authorization": f"Bearer {idp.token(name, gateway.url)}"})
    return [each["upstream"] for each in answer.raise_for_status().json()["upstreams"]]


def members(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


# ------------------------------------------------------------------------------------------------ the way
@ERAS
def test_a_person_consents_once_and_their_own_token_is_shown_from_then_on(
    vaulting: Gateway, idp: Servers, peers: Peers, name: str, version: str
) -> None:
    answer = call(vaulting, idp, name, version=version).json()["result"]
    assert answer["isError"] is True
    assert answer["_meta"]["bailiwick/code"] == "consent-required"
    assert not peers.heard
    person = Person(name)
    page = person.open(link_in(answer["content"][0]["text"]))
    assert page.status_code == 200
    assert "<b>desk</b>" in page.text
    assert "notes.write" in page.text
    assert page.url.path == "/vault/consent"
    done = person.follow(person.say(page))
    assert (done.status_code, done.url.path) == (200, "/vault/done")
    for _ in range(2):
        assert call(vaulting, idp, name, version=version).json()["result"]["content"][0]["text"] == "done"
        assert idp.access[shown(peers).removeprefix("Bearer ")] == name
    assert [record.leaf["cred"] for record in vaulting.records(kind="call.start")][-1] == "person"
    assert kept(vaulting, idp, name) == ["desk"]


def test_the_agent_that_asked_is_named_to_the_person(vaulting: Gateway, idp: Servers, name: str) -> None:
    answer = vaulting.call("desk.read", idp.token(name, vaulting.url, client="courier-app"))
    person = Person(name)
    assert "<b>courier</b>, which works for you" in person.open(link_in(answer.text)).text


def test_nothing_of_the_person_or_of_a_token_stands_in_a_url_the_ledger_or_the_log(
    vaulting: Gateway, idp: Servers, peers: Peers, name: str
) -> None:
    person = Person(name)
    ticket = link(vaulting, idp, name)
    assert person.consent(ticket).status_code == 200
    assert call(vaulting, idp, name).status_code == 200
    token = shown(peers).removeprefix("Bearer ")
    secrets = [token, *idp.refresh, ticket.rpartition("/")[2]]
    ours = [url for url in person.seen if url.startswith(vaulting.url)]
    assert not any(name in url or token in url for url in ours)
    assert not any(secret.encode() in vaulting.ledger_file.read_bytes() for secret in secrets)
    state = b"".join(path.read_bytes() for path in (vaulting.folder / "data").glob("*.db*"))
    assert not any(secret.encode() in state for secret in secrets)
    assert not any(secret in vaulting.log.read_text() for secret in secrets)
    wanted = [record for record in vaulting.records(kind="vault.consent") if record.leaf["upstream"] == "desk"]
    assert wanted[-1].leaf["scope"] == ["notes.read", "notes.write"]


def test_a_link_is_handed_out_again_until_it_was_used_and_no_retry_makes_another(
    vaulting: Gateway, idp: Servers, name: str
) -> None:
    with ThreadPoolExecutor(8) as threads:
        links = set(threads.map(lambda _: link(vaulting, idp, name), range(16)))
    assert len(links) == 1
    assert link(vaulting, idp, name, "vault.open") not in links
    Person(name).open(links.pop())
    database = sqlite3.connect(f"file:{vaulting.folder}/data/state.db?mode=ro", uri=True)
    assert database.execute("select count(*) from vault_tickets").fetchone()[0] < 40
    database.close()


def test_a_person_whose_token_is_short_has_the_link_for_as_long_as_everybody_else(
    vaulting: Gateway, idp: Servers, name: str
) -> None:
    """Agents retry with what they have: no retry may put the link out of force that the person is about to open."""
    now = int(time.time())
    tokens = [idp.token(name, vaulting.url, iat=now, exp=now + 30 + number) for number in range(3)]
    links = {link_in(vaulting.call("desk.read", token).text) for token in tokens}
    assert len(links) == 1
    assert Person(name).consent(links.pop()).status_code == 200


def test_every_page_forbids_scripts_frames_caches_and_referrers(vaulting: Gateway, idp: Servers, name: str) -> None:
    person = Person(name)
    page = person.open(link(vaulting, idp, name))
    said = person.say(page)
    for answer in (page, said, person.follow(said), Person(name).open(f"{vaulting.url}/vault/{'x' * 64}")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script" not in answer.text
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] in {"no-referrer", "same-origin"}
        assert answer.headers["x-content-type-options"] == "nosniff"
    entered = Person(name).http.get(link(vaulting, idp, name, "vault.open"))
    assert "HttpOnly" in entered.headers["set-cookie"]
    assert "SameSite=lax" in entered.headers["set-cookie"]


def test_who_says_no_is_asked_again_the_next_time_and_nothing_is_kept(vaulting: Gateway, idp: Servers, name: str) -> None:
    person = Person(name)
    first = link(vaulting, idp, name)
    assert "did not consent" in person.say(person.open(first), "no").text
    assert link(vaulting, idp, name) != first
    reluctant = Person(name)
    page = reluctant.say(reluctant.open(link(vaulting, idp, name)))
    reluctant.http.cookies.set("login", "no")
    assert "did not consent" in reluctant.follow(page).text
    assert kept(vaulting, idp, name) == []


# ------------------------------------------------------------------------------------------------ renewal
def test_a_token_that_has_ended_is_refreshed_once_however_many_calls_wait(
    vaulting: Gateway, idp: Servers, peers: Peers, name: str
) -> None:
    idp.lifetime = 1
    assert Person(name).consent(link(vaulting, idp, name)).status_code == 200
    first = len(idp.requests)
    idp.lifetime = 3600
    with ThreadPoolExecutor(16) as threads:
        for _ in range(50):  # until the second is over
            answers = list(threads.map(lambda _: call(vaulting, idp, name).json()["result"]["isError"], range(16)))
            assert answers == [False] * 16
            if len(idp.requests) > first:
                break
    assert [form["grant_type"] for form in idp.requests[first:]] == ["refresh_token"]
    assert len({heard.headers["authorization"] for heard in peers.heard}) == 2


def test_what_the_server_takes_back_is_forgotten_on_record_and_the_person_is_asked_again(
    vaulting: Gateway, idp: Servers, name: str
) -> None:
    idp.lifetime = 1
    assert Person(name).consent(link(vaulting, idp, name)).status_code == 200
    idp.refresh.clear()
    again = ""
    until = time.monotonic() + 30
    while time.monotonic() < until:  # the second is soon over
        answer = call(vaulting, idp, name).json()["result"]
        if answer["isError"]:
            again = link_in(answer["content"][0]["text"])
            break
    assert again
    assert vaulting.records(kind="vault.forget")[-1].leaf["why"] == "taken back"
    assert kept(vaulting, idp, name) == []
    idp.lifetime = 3600
    assert Person(name).consent(again).status_code == 200
    assert kept(vaulting, idp, name) == ["desk"]


# ------------------------------------------------------------------------------------------------ attacks
def test_another_person_who_opens_the_link_gets_nothing_is_on_record_and_the_link_is_dead(
    vaulting: Gateway, idp: Servers, name: str
) -> None:
    ticket = link(vaulting, idp, name)
    page = Person("mallory").open(ticket)
    assert page.status_code == 403
    assert "somebody else" in page.text
    assert name not in page.text
    denied = vaulting.records(kind="decision.deny")[-1]
    assert denied.leaf["refused"]["code"] == "not-owner"
    assert denied.leaf["upstream"] == "desk"
    assert vaulting.audit("show", denied.id).returncode == 0
    assert vaulting.audit("tail").returncode == 0
    assert Person(name).open(ticket).status_code == 410
    assert kept(vaulting, idp, name) == kept(vaulting, idp, "mallory") == []


def test_a_ticket_leads_to_one_consent_and_no_second_one(vaulting: Gateway, idp: Servers, name: str) -> None:
    ticket = link(vaulting, idp, name)
    one, other = Person(name), Person(name)
    entered = other.http.get(ticket)  # both stand at the login with the same link
    assert one.consent(ticket).status_code == 200
    back = other.open(str(entered.next_request.url if entered.next_request else ""))
    assert back.status_code == 410
    assert one.open(ticket).status_code == 410


def test_a_step_that_was_taken_cannot_be_taken_again(vaulting: Gateway, idp: Servers, name: str) -> None:
    person = Person(name)
    page = person.open(link(vaulting, idp, name))
    cookies = dict(person.http.cookies)
    said = person.say(page)
    thief = Person(name)
    thief.http.cookies.update(cookies)
    assert thief.say(page).status_code == 400
    assert person.follow(said).status_code == 200
    callback = next(url for url in person.seen if "/vault/callback/" in url)
    thief.http.cookies.update(dict(person.http.cookies))
    assert thief.open(callback).status_code == 400


def test_an_answer_without_the_cookie_of_its_browser_or_with_a_foreign_state_is_refused(
    vaulting: Gateway, idp: Servers, name: str
) -> None:
    person, stranger = Person(name), Person("mallory")
    entered = person.http.get(link(vaulting, idp, name))
    login = idp_answer(person, str(entered.next_request.url if entered.next_request else ""))
    assert stranger.open(login).status_code == 400  # login CSRF: the answer of one browser in another
    foreign = stranger.http.get(link(vaulting, idp, "mallory"))
    assert stranger.open(login).status_code == 400  # its own cookie, another's state
    assert foreign.status_code == 303
    assert stranger.open(foreign.headers["location"]).status_code == 200  # and it cost nobody their link
    page = person.open(login)
    assert page.status_code == 200
    callback = idp_answer(person, onward(person.say(page)))
    assert stranger.open(callback).status_code == 400
    state = members(callback)["state"]
    assert person.open(callback.replace(state, "x" * 43)).status_code == 400
    assert person.open(callback).status_code == 200
    assert kept(vaulting, idp, name) == ["desk"]
    assert kept(vaulting, idp, "mallory") == []


def idp_answer(person: Person, url: str) -> str:
    """Where a server sends the browser back to, not yet gone there."""
    answer = person.http.get(url)
    assert answer.status_code == 302
    return answer.headers["location"]


def test_a_code_that_was_begun_elsewhere_cannot_be_put_in_anothers_flow(vaulting: Gateway, idp: Servers, name: str) -> None:
    """Code injection: the thief's own code, in the victim's answer with the victim's state and cookie."""
    thief = Person("mallory")
    stolen = idp_answer(thief, onward(thief.say(thief.open(link(vaulting, idp, "mallory")))))
    person = Person(name)
    callback = idp_answer(person, onward(person.say(person.open(link(vaulting, idp, name)))))
    injected = callback.replace(members(callback)["code"], members(stolen)["code"])
    assert person.open(injected).status_code == 502
    assert idp.requests[-1]["code"] == members(stolen)["code"]  # it was shown to the server, which refused the verifier
    assert kept(vaulting, idp, name) == []
    at_login = Person(name)
    back = idp_answer(at_login, at_login.http.get(link(vaulting, idp, name)).headers["location"])
    other = idp_answer(thief, thief.http.get(link(vaulting, idp, "mallory")).headers["location"])
    assert at_login.open(back.replace(members(back)["code"], members(other)["code"])).status_code == 400


def test_no_parameter_leads_a_browser_anywhere_else(vaulting: Gateway, idp: Servers, name: str) -> None:
    """Open redirect: where a step leads stands in settings and metadata alone."""
    evil = "?next=https://evil.example&redirect_uri=https://evil.example&url=https://evil.example"
    entered = Person(name).http.get(link(vaulting, idp, name) + evil)
    assert entered.headers["location"].startswith(f"{idp.issuer}/authorize?")
    assert members(entered.headers["location"])["redirect_uri"] == f"{vaulting.url}/vault/login"
    person = Person(name)
    page = person.open(link(vaulting, idp, name))
    leads = onward(
        person.http.post(
            f"{vaulting.url}/vault/consent{evil}",
            data={"csrf": page.text.partition('name="csrf" value="')[2][:43], "answer": "yes", "url": "https://evil.example"},
        )
    )
    assert leads.startswith(f"{idp.url}/as/authorize?")
    assert members(leads)["redirect_uri"] == f"{vaulting.url}/vault/callback/desk"
    assert "evil" not in leads


def test_a_form_that_another_site_sends_says_nothing_in_anybodys_name(vaulting: Gateway, idp: Servers, name: str) -> None:
    person = Person(name)
    page = person.open(link(vaulting, idp, name))
    assert person.say(page, csrf="").status_code == 400
    assert person.say(page, csrf="x" * 43).status_code == 400
    assert person.say(page, Origin="https://evil.example").status_code == 403
    foreign = Person("mallory")
    other = foreign.open(link(vaulting, idp, "mallory"))
    token = other.text.partition('name="csrf" value="')[2][:43]
    assert person.say(page, csrf=token).status_code == 400
    assert person.follow(person.say(page)).status_code == 200  # none of it cost the person their step
    assert kept(vaulting, idp, "mallory") == []


@pytest.mark.parametrize("said", ["https://other.example", ""])
def test_an_answer_of_another_authorization_server_is_refused(vaulting: Gateway, idp: Servers, name: str, said: str) -> None:
    """Mix-up (RFC 9207): the code never goes to a server that did not make it."""
    idp.says_iss = said
    before = len(idp.requests)
    assert Person(name).consent(link(vaulting, idp, name)).status_code == 502
    assert len(idp.requests) == before


def test_an_answer_at_another_upstreams_address_is_refused(vaulting: Gateway, idp: Servers, name: str) -> None:
    person = Person(name)
    callback = idp_answer(person, onward(person.say(person.open(link(vaulting, idp, name)))))
    assert person.open(callback.replace("/vault/callback/desk", "/vault/callback/vault")).status_code == 400
    assert person.open(callback + "&code=another").status_code == 400
    assert person.open(callback).status_code == 200
    assert kept(vaulting, idp, name) == ["desk"]


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another-client"},
        {"aud": ["bailiwick-browser", "another-client"]},
        {"azp": "another-client"},
        {"nonce": "another"},
        {"nonce": None},
        {"iss": "https://other.example"},
        {"exp": 1_600_000_000},
        {"typ": "at+jwt"},
    ],
    ids=str,
)
def test_an_id_token_that_is_not_of_this_very_login_identifies_nobody(
    vaulting: Gateway, idp: Servers, name: str, claims: dict[str, Any]
) -> None:
    idp.id_claims |= claims
    assert Person(name).open(link(vaulting, idp, name)).status_code == 400
    assert kept(vaulting, idp, name) == []


def test_a_link_that_nobody_was_given_leads_nowhere(vaulting: Gateway) -> None:
    for ticket in ("x" * 64, "x" * 63, "..%2f..%2fapi", "a" * 4000):
        answer = Person("mallory").open(f"{vaulting.url}/vault/{ticket}")
        assert answer.status_code in {404, 410}
        assert ticket not in answer.text


# ------------------------------------------------------------------------------------------------ taking it back
def test_a_person_sees_what_is_kept_and_takes_it_back_in_their_own_hands_alone(
    vaulting: Gateway, idp: Servers, name: str
) -> None:
    assert Person(name).consent(link(vaulting, idp, name)).status_code == 200
    agents = {"Authorization": f"Bearer {idp.token(name, vaulting.url, client='courier-app')}"}
    for method, path in (("GET", "/api/vault"), ("DELETE", "/api/vault/desk")):
        assert vaulting.http.request(method, path, headers=agents).status_code == 403
        assert vaulting.http.request(method, path).status_code == 401
    others = {"Authorization": f"Bearer {idp.token('mallory', vaulting.url)}"}
    assert vaulting.http.delete("/api/vault/desk", headers=others).status_code == 404
    subject = {"subject": f"user:corp/{name}"}
    assert vaulting.http.get("/api/vault", params=subject, headers=others).status_code == 403
    assert vaulting.http.delete("/api/vault/desk", params=subject, headers=others).status_code == 403
    own = {"Authorization": f"Bearer {idp.token(name, vaulting.url)}"}
    shown = vaulting.http.get("/api/vault", headers=own)
    assert [each["upstream"] for each in shown.json()["upstreams"]] == ["desk"]
    assert "at-" not in shown.text
    assert vaulting.http.delete("/api/vault/desk", headers=own).json()["forgotten"] is True
    assert vaulting.http.delete("/api/vault/desk", headers=own).status_code == 404
    assert vaulting.records(kind="vault.forget")[-1].leaf["why"] == "asked for"
    assert call(vaulting, idp, name).json()["result"]["isError"] is True


# ------------------------------------------------------------------------------------------------ protocols
def test_an_agent_to_agent_call_is_told_the_link_in_its_error(vaulting: Gateway, idp: Servers, peers: Peers, name: str) -> None:
    answer = vaulting.send("clerk", idp.token(name, vaulting.url)).json()["error"]
    info = answer["data"][0]
    assert info["reason"] == "CONSENT_REQUIRED"
    assert info["metadata"]["code"] == "consent-required"
    page = Person(name).consent(info["metadata"]["url"])
    assert page.status_code == 200
    assert "result" in vaulting.send("clerk", idp.token(name, vaulting.url)).json()
    assert idp.access[shown(peers).removeprefix("Bearer ")] == name
    assert "bailiwick-delegation" in peers.heard[-1].headers
    assert kept(vaulting, idp, name) == ["a2a:clerk"]


async def test_the_official_client_of_the_handshakes_gets_a_url_elicitation_error(
    vaulting: Gateway, idp: Servers, name: str
) -> None:
    """2025-11-25: the very first request is refused with -32042, as the upstream lets nobody in without a token."""
    asked: list[Any] = []

    async def elicit(_context: Any, params: Any) -> ElicitResult:
        asked.append(params)
        return ElicitResult(action="decline")

    headers = {"Authorization": f"Bearer {idp.token(name, vaulting.url)}"}
    async with httpx2.AsyncClient(headers=headers, trust_env=False) as http:
        raised: list[MCPError] = []
        try:
            async with Client(
                streamable_http_client(f"{vaulting.url}/mcp/desk", http_client=http), mode="legacy", elicitation_callback=elicit
            ):
                pass
        except* MCPError as group:
            raised += [error for error in _leaves(group) if isinstance(error, MCPError)]
    needed = UrlElicitationRequiredError.from_error(raised[0].error).elicitations
    assert [(each.mode, bool(each.elicitation_id)) for each in needed] == [("url", True)]
    assert "desk needs your consent" in needed[0].message
    assert (await asyncio.to_thread(Person(name).consent, needed[0].url)).status_code == 200
    assert call(vaulting, idp, name).json()["result"]["isError"] is False


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


@pytest.mark.parametrize(("path", "tool"), [("/mcp/desk", "read"), ("/mcp", "desk__read")])
async def test_the_official_client_of_today_has_its_person_consent_and_its_call_goes_through(
    vaulting: Gateway, idp: Servers, peers: Peers, name: str, monkeypatch: pytest.MonkeyPatch, path: str, tool: str
) -> None:
    """2026-07-28: the call needs input, the client has the URL opened, and its retry finds the token."""
    pages: list[httpx.Response] = []
    plain = peers.answer

    def modern(heard: Heard) -> dict[str, Any]:
        answer = plain(heard)
        return {**answer, "result": {**answer["result"], "resultType": "complete"}}

    monkeypatch.setattr(peers, "answer", modern)

    async def elicit(_context: Any, params: Any) -> ElicitResult:
        assert isinstance(params, ElicitRequestURLParams)
        pages.append(await asyncio.to_thread(Person(name).consent, params.url))
        return ElicitResult(action="accept")

    headers = {"Authorization": f"Bearer {idp.token(name, vaulting.url)}"}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        Client(
            streamable_http_client(f"{vaulting.url}{path}", http_client=http), mode=MODERN, elicitation_callback=elicit
        ) as client,
    ):
        result = await client.call_tool(tool, {"text": "hello"})
    assert [page.status_code for page in pages] == [200]
    assert result.is_error is False
    (called,) = [heard.message for heard in peers.heard if heard.message["method"] == "tools/call"]
    assert "inputResponses" not in called["params"]
    assert idp.access[shown(peers).removeprefix("Bearer ")] == name


# ------------------------------------------------------------------------------------------------ kills
def killed(gateway: Gateway, idp: Servers, name: str) -> None:
    """The person lets nobody act for them any more."""
    wish = {"kind": "user", "target": f"user:corp/{name}", "reason": "a lost laptop", "mine": True}
    own = {"Authorization": f"Bearer {idp.token(name, gateway.url)}"}
    assert gateway.http.post("/api/kills", json=wish, headers=own).status_code == 201


def test_a_ticket_of_somebody_who_was_killed_leads_nowhere_from_any_step(vaulting: Gateway, idp: Servers) -> None:
    at_link, at_login, at_question, at_server = (next(_PEOPLE) for _ in range(4))
    ticket = link(vaulting, idp, at_link)
    killed(vaulting, idp, at_link)
    assert Person(at_link).open(ticket).status_code == 403

    person = Person(at_login)
    back = idp_answer(person, person.http.get(link(vaulting, idp, at_login)).headers["location"])
    killed(vaulting, idp, at_login)
    assert person.open(back).status_code == 403

    person = Person(at_question)
    page = person.open(link(vaulting, idp, at_question))
    killed(vaulting, idp, at_question)
    assert person.say(page).status_code == 403

    person = Person(at_server)
    callback = idp_answer(person, onward(person.say(person.open(link(vaulting, idp, at_server)))))
    killed(vaulting, idp, at_server)
    before = len(idp.requests)
    assert "This was stopped" in person.open(callback).text
    assert len(idp.requests) == before


def test_what_is_kept_of_somebody_who_was_killed_is_not_used(vaulting: Gateway, idp: Servers, peers: Peers, name: str) -> None:
    assert Person(name).consent(link(vaulting, idp, name)).status_code == 200
    killed(vaulting, idp, name)
    assert call(vaulting, idp, name).status_code == 401
    assert not peers.heard


# ------------------------------------------------------------------------------------------------ the verb
def verb(gateway: Gateway, token: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`bailiwick vault WORDS --config …`, by whoever has the token."""
    command = [sys.executable, "-m", "gateway.cli", "vault", *words, "--config", str(gateway.config)]
    environment = os.environ | {"COLUMNS": "240", "NO_COLOR": "1", "BAILIWICK_TOKEN": token}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=ROOT)


def test_the_verb_lists_and_forgets(vaulting: Gateway, idp: Servers, name: str) -> None:
    own = idp.token(name, vaulting.url)
    assert Person(name).consent(link(vaulting, idp, name)).status_code == 200
    assert verb(vaulting, own, "list").stdout.startswith("desk: since ")
    listed = json.loads(verb(vaulting, own, "list", "--json").stdout)
    assert (listed["subject"], [each["upstream"] for each in listed["upstreams"]]) == (f"user:corp/{name}", ["desk"])
    others = verb(vaulting, idp.token("mallory", vaulting.url), "forget", "desk", "--subject", f"user:corp/{name}")
    assert (others.returncode, others.stdout) == (1, "")
    assert kept(vaulting, idp, name) == ["desk"]
    assert verb(vaulting, own, "forget", "desk").stdout == f"forgotten: desk of user:corp/{name}\n"
    again = verb(vaulting, own, "forget", "desk")
    assert (again.returncode, "not-kept" in again.stderr) == (1, True)
    assert verb(vaulting, "", "list").returncode == 2


SAAS = """\
      strategy: vault_oauth
      authorize_url: {authorize}
      endpoint: {{url: https://saas.example/token, client: {{id: bailiwick}}}}
"""
WANTED = "mcp:\n  desk:\n    url: https://saas.example/mcp\n    credentials:\n"
CORP = "issuers:\n  - {alias: corp, issuer: 'https://idp.example', audience: x}\n"
BROWSER = "browser: {issuer: corp, client: {id: bailiwick}}\n"
GOOD = SAAS.format(authorize="https://saas.example/authorize")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (CORP + WANTED + GOOD, "no-browser"),
        (CORP + BROWSER, "no-consent"),
        (CORP.replace("corp", "other") + BROWSER + WANTED + GOOD, "unknown-issuer"),
        (CORP.replace("audience: x", "audience: x, development: true") + BROWSER + WANTED + GOOD, "development-issuer"),
        (CORP + BROWSER + WANTED + SAAS.format(authorize="http://saas.example/authorize"), "insecure-url"),
        (CORP + BROWSER + WANTED + SAAS.format(authorize="https://saas.example/authorize#top"), "insecure-url"),
        (CORP + BROWSER + "server: {public_url: 'http://gateway.example'}\n" + WANTED + GOOD, "insecure-url"),
    ],
)
def test_settings_by_which_nobody_could_consent_safely_are_refused(tmp_path: Path, text: str, code: str) -> None:
    """`check` says it, and `serve` does not start."""
    (tmp_path / "bailiwick.yaml").write_text(text)
    with pytest.raises(ProblemError) as raised:
        load(tmp_path / "bailiwick.yaml", {})
    assert [problem.code for problem in raised.value.problems] == [code]
    (tmp_path / "good.yaml").write_text(CORP + BROWSER + WANTED + GOOD)
    assert load(tmp_path / "good.yaml", {}).browser is not None


async def test_what_a_client_of_the_handshakes_can_do_is_remembered_by_its_session(
    upstreams: Peers, idp: Servers, tmp_path: Path, name: str
) -> None:
    """A consent that is taken back in the middle of a session is asked for by URL elicitation, not by a text."""
    with reference_server() as url:
        gateway = gateway_in(tmp_path, upstreams, idp)
        gateway.settings["mcp"]["desk"]["url"] = url
        gateway.config.write_text(json.dumps(gateway.settings))
        await asyncio.to_thread(gateway.start)
        try:
            assert (await asyncio.to_thread(lambda: Person(name).consent(link(gateway, idp, name)))).status_code == 200
            for elicits in (True, False):
                await _taken_back(gateway, idp, name, elicits=elicits)
        finally:
            await asyncio.to_thread(gateway.stop)


async def _taken_back(gateway: Gateway, idp: Servers, name: str, *, elicits: bool) -> None:
    async def elicit(_context: Any, _params: Any) -> ElicitResult:
        return ElicitResult(action="decline")

    headers = {"Authorization": f"Bearer {idp.token(name, gateway.url)}"}
    callback = elicit if elicits else None
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        Client(
            streamable_http_client(f"{gateway.url}/mcp/desk", http_client=http), mode="legacy", elicitation_callback=callback
        ) as client,
    ):
        forgotten = await http.delete(f"{gateway.url}/api/vault/desk")
        assert forgotten.status_code == 200
        if elicits:
            with pytest.raises(MCPError) as raised:
                await client.session.call_tool("read", {"text": "hello"})
            needed = UrlElicitationRequiredError.from_error(raised.value.error).elicitations
            again = needed[0].url
        else:
            result = await client.session.call_tool("read", {"text": "hello"})
            assert result.is_error is True
            again = link_in(str(result.content))
        assert (await asyncio.to_thread(Person(name).consent, again)).status_code == 200


def test_on_https_the_cookie_is_bound_to_the_host_and_never_sent_in_the_clear(
    upstreams: Peers, idp: Servers, tmp_path: Path, name: str
) -> None:
    """Behind a proxy that ends TLS: what the gateway itself listens on does not matter."""
    server = {"port": free_port(), "public_url": "https://gateway.example"}
    gateway = gateway_in(tmp_path, upstreams, idp, server=server)
    gateway.port, gateway.url = server["port"], f"http://127.0.0.1:{server['port']}"
    gateway.start()
    try:
        token = idp.token(name, gateway.settings["issuers"][0]["audience"])
        found = re.search(r"https://gateway\.example(/vault/[A-Za-z0-9_-]{64})", gateway.call("desk.read", token).text)
        assert found is not None
        cookie = gateway.http.get(found[1]).headers["set-cookie"]
        assert cookie.startswith("__Host-bailiwick-vault=")
        for attribute in ("Secure", "HttpOnly", "Path=/", "SameSite=lax"):
            assert attribute in cookie.split("; ")
        assert "domain" not in cookie.lower()
    finally:
        gateway.stop()


def test_the_ledger_of_all_this_verifies_and_its_decisions_are_made_again(vaulting: Gateway, idp: Servers, name: str) -> None:
    """Also the records of a consent, of a stranger's visit and of what was taken back, which no call stands behind."""
    Person("mallory").open(link(vaulting, idp, name))
    assert Person(name).consent(link(vaulting, idp, name)).status_code == 200
    assert vaulting.http.delete(
        "/api/vault/desk", headers={"Authorization": f"Bearer {idp.token(name, vaulting.url)}"}
    ).is_success
    assert call(vaulting, idp, name).status_code == 200
    for words in (("verify",), ("tail",), ("reproduce",)):
        told = vaulting.audit(*words)
        assert told.returncode == 0, told.stdout + told.stderr
