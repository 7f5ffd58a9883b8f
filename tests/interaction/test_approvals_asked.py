"""Approvals that are asked for by MCP's elicitation: the client is led to a page, or its own person is asked by a form."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult

from tests.interaction.approvals_world import (
    FORM,
    URL,
    api,
    approve,
    arrived,
    ask_by_url,
    by_mcp,
    by_url,
    digest_of,
    kinds,
    of,
    retry,
    state_of,
    with_policy,
)
from tests.interaction.world import LEGACY, MODERN, Gateway, Heard, Peers

BOTH = {"elicitation": {"url": {}, "form": {}}}
NOBODY = "019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b"


@pytest.fixture(scope="module")
def desk(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = with_policy(Gateway(tmp_path_factory.mktemp("asked"), upstreams))
    try:
        yield running.start()
    finally:
        running.stop()


def asked(body: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """The approval that is asked for, the state to come back with, and the question."""
    result = body["result"]
    assert result["resultType"] == "input_required", result
    question = result["inputRequests"]["bailiwick/approval"]["params"]
    return result["_meta"]["bailiwick/approval"]["approval"], result["requestState"], question


def mine(gateway: Gateway, token: str, text: str = "chairs", capabilities: Any = FORM, **more: Any) -> dict[str, Any]:
    """The answer to a call that whoever makes it may approve."""
    arguments = {"text": text, "amount": 500}
    answer = gateway.call("desk.mine", token, version=MODERN, arguments=arguments, capabilities=capabilities, **more)
    return dict(answer.json())


def told(body: dict[str, Any]) -> str:
    """How a call was answered, in a word."""
    if "error" in body:
        return str(body["error"]["data"]["code"])
    result = body["result"]
    if result.get("resultType", "complete") != "complete":
        return str(result["resultType"])
    return result["_meta"]["bailiwick/code"] if result["isError"] else "done"


# ------------------------------------------------------------------------------------------------ the page is asked for
def test_a_client_that_can_lead_its_person_to_a_page_is_asked_and_comes_back(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    approval, state, question = asked(ask_by_url(desk, token))
    assert question["url"] == f"{desk.url}/approvals/{approval}"
    assert token not in str(question)
    early = asked(ask_by_url(desk, token, params=retry(state)))
    assert (early[0], arrived(peers)) == (approval, [])  # that the link was opened approves nothing
    approve(desk, approval)
    assert told(ask_by_url(desk, token, params=retry(early[1]))) == "done"
    assert len(arrived(peers)) == 1
    assert "requestState" not in arrived(peers)[0].message["params"]
    assert "inputResponses" not in arrived(peers)[0].message["params"]
    assert kinds(desk, approval) == ["approval.ask", "approval.grant", "approval.use"]


def test_arguments_that_drift_on_the_way_back_are_refused(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    approval, state, _ = asked(ask_by_url(desk, token, text="two chairs"))
    approve(desk, approval)
    for drifted in ({"text": "twenty chairs"}, {"tool": "swap", "text": "two chairs"}):
        assert told(ask_by_url(desk, token, **drifted, params=retry(state))) == "invalid-params"
    assert arrived(peers) == []
    assert told(ask_by_url(desk, token, text="two chairs", params=retry(state))) == "done"


def test_the_state_of_somebody_elses_call_opens_nothing(desk: Gateway, peers: Peers) -> None:
    _, state, _ = asked(ask_by_url(desk, desk.token()))
    inner: list[dict[str, Any]] = []

    def clerk(heard: Heard) -> str:
        delegation = {"Bailiwick-Delegation": heard.headers["authorization"].removeprefix("Bearer ")}
        inner.append(ask_by_url(desk, desk.agent_secrets["clerk"], params=retry(state), **delegation))
        return "done"

    peers.agents["clerk"] = clerk
    desk.send("clerk", desk.token())
    assert told(inner[0]) == "invalid-params"  # the same person, through an agent
    assert [told(ask_by_url(desk, desk.token(), params=retry(bad))) for bad in (state[:-2], state + "A", "x")] == [
        "invalid-params"
    ] * 3


def test_a_state_that_was_used_asks_anew_and_is_good_for_nothing(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    approval, state, _ = asked(ask_by_url(desk, token, text="lamps"))
    approve(desk, approval)
    assert told(ask_by_url(desk, token, text="lamps", params=retry(state))) == "done"
    again, _, _ = asked(ask_by_url(desk, token, text="lamps", params=retry(state)))
    assert (again == approval, len(arrived(peers))) == (False, 1)


@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_a_person_who_does_not_follow_the_link_ends_the_asking_and_not_the_approval(
    desk: Gateway, peers: Peers, action: str
) -> None:
    token = desk.token()
    approval, state, _ = asked(ask_by_url(desk, token, text=action))
    assert told(ask_by_url(desk, token, text=action, params=retry(state, action))) == "approval-required"
    assert (state_of(desk, approval), arrived(peers)) == ("open", [])


def test_a_no_is_told_to_whoever_comes_back(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    approval, state, _ = asked(ask_by_url(desk, token, text="yachts"))
    api(desk, "POST", f"/{approval}/deny", desk.token("fiona"), {"reason": "no"})
    assert (told(ask_by_url(desk, token, text="yachts", params=retry(state))), arrived(peers)) == ("approval-denied", [])


def test_a_duty_that_asks_by_an_error_asks_nobody_else(desk: Gateway) -> None:
    body = ask_by_url(desk, desk.token(), tool="plain")
    assert (told(body), body["result"]["isError"]) == ("approval-required", True)
    assert f"{desk.url}/approvals/" in body["result"]["content"][0]["text"]


def test_a_client_that_cannot_be_led_reads_where_the_page_is(desk: Gateway) -> None:
    said = by_mcp(desk, desk.token(), text="rugs")
    assert f"{desk.url}/approvals/{said.approval}" in said.text


def _session(gateway: Gateway, token: str, capabilities: Any, version: str = LEGACY) -> dict[str, str]:
    params = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": {"name": "t", "version": "1"}}
    headers = {"Accept": "application/json, text/event-stream", "Authorization": f"Bearer {token}"}
    begun = gateway.post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}, headers)
    return {**headers, "MCP-Protocol-Version": version, "Mcp-Session-Id": begun.headers["mcp-session-id"]}


def _legacy(gateway: Gateway, headers: dict[str, str], text: str) -> dict[str, Any]:
    params = {"name": "desk__pay", "arguments": {"text": text, "amount": 500}}
    answer = gateway.post("/mcp", {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}, headers)
    return dict(answer.json())


def test_a_client_of_handshakes_is_told_by_the_error_that_it_has_for_this(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    headers = _session(desk, token, URL)
    error = _legacy(desk, headers, "vases")["error"]
    (question,) = error["data"]["elicitations"]
    approval = question["elicitationId"]
    assert (error["code"], question["mode"], question["url"]) == (-32042, "url", f"{desk.url}/approvals/{approval}")
    approve(desk, approval)
    assert _legacy(desk, headers, "vases")["result"]["isError"] is False
    assert len(arrived(peers)) == 1


def test_a_client_of_an_older_revision_gets_a_result_that_its_model_reads(desk: Gateway) -> None:
    token = desk.token()
    result = _legacy(desk, _session(desk, token, URL, "2025-06-18"), "urns")["result"]
    assert (result["isError"], result["_meta"]["bailiwick/code"]) == (True, "approval-required")


def test_at_the_one_address_of_all_servers_the_same_is_asked(desk: Gateway, peers: Peers) -> None:
    token = desk.token()

    def call(params: dict[str, Any]) -> dict[str, Any]:
        prefix = "io.modelcontextprotocol/"
        meta = {f"{prefix}protocolVersion": MODERN, f"{prefix}clientCapabilities": URL}
        said = {"name": "desk__pay", "arguments": {"text": "desks", "amount": 500}, "_meta": meta, **params}
        headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call"}
        headers |= {"Mcp-Name": "desk__pay", "Authorization": f"Bearer {token}"}
        return dict(desk.post("/mcp", {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": said}, headers).json())

    approval, state, _ = asked(call({}))
    approve(desk, approval)
    assert (told(call(retry(state))), len(arrived(peers))) == ("done", 1)


@pytest.mark.parametrize("tool", ["pay", "mine"])
@pytest.mark.parametrize("path", ["/mcp/desk", "/mcp"])
async def test_the_official_client_leads_its_person_and_its_call_goes_through(
    desk: Gateway, peers: Peers, monkeypatch: pytest.MonkeyPatch, path: str, tool: str
) -> None:
    """By itself: what `pay` waits for is said on the page by somebody else, what `mine` waits for in the form."""
    plain = peers.answer

    def modern(heard: Heard) -> dict[str, Any]:
        answer = plain(heard)
        return {**answer, "result": {**answer["result"], "resultType": "complete"}}

    monkeypatch.setattr(peers, "answer", modern)
    modes: list[str] = []

    async def elicit(_context: Any, params: Any) -> ElicitResult:
        modes.append(params.mode)
        if params.mode == "form":
            return ElicitResult(action="accept", content={"approve": True})
        approval = params.url.rpartition("/")[2]
        page = await asyncio.to_thread(sign_in, desk, approval, await asyncio.to_thread(desk.token, "fiona"))
        await asyncio.to_thread(desk.http.post, f"/approvals/{approval}", data={**fields(page), "answer": "yes"})
        return ElicitResult(action="accept")

    headers = {"Authorization": f"Bearer {await asyncio.to_thread(desk.token)}"}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        Client(streamable_http_client(f"{desk.url}{path}", http_client=http), mode=MODERN, elicitation_callback=elicit) as client,
    ):
        result = await client.call_tool(tool if path.endswith("desk") else f"desk__{tool}", {"text": path, "amount": 500})
    assert (result.is_error, modes, len(arrived(peers))) == (False, ["url" if tool == "pay" else "form"], 1)


# ------------------------------------------------------------------------------------------------ a form, for one's own call
def test_whoever_may_approve_their_own_call_is_asked_by_a_form_and_their_yes_is_on_record(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    approval, state, question = asked(mine(desk, token))
    assert (question["mode"], '"text": "chairs"' in question["message"]) == ("form", True)
    assert list(question["requestedSchema"]["properties"]) == ["approve"]
    assert told(mine(desk, token, params=retry(state, approve=True))) == "done"
    assert len(arrived(peers)) == 1
    asked_for, granted, _ = of(desk, approval)
    assert kinds(desk, approval) == ["approval.ask", "approval.grant", "approval.use"]
    assert (granted.leaf["proto"], granted.leaf["subject"]) == ("mcp", asked_for.leaf["subject"])
    assert granted.leaf["digest"] == asked_for.leaf["digest"]


@pytest.mark.parametrize("yes", [True, False])
def test_a_client_of_handshakes_is_put_the_form_on_the_stream_of_its_call(desk: Gateway, peers: Peers, yes: bool) -> None:
    headers = _session(desk, desk.token(), FORM)
    params = {"name": "desk__mine", "arguments": {"text": f"stools {yes}", "amount": 500}}
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
    with desk.http.stream("POST", "/mcp", json=call, headers=headers) as stream:
        events = (json.loads(line.removeprefix("data:")) for line in stream.iter_lines() if line.startswith("data:"))
        question = next(events)
        assert (question["method"], question["params"]["mode"]) == ("elicitation/create", "form")
        assert f"stools {yes}" in question["params"]["message"]
        answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"approve": yes}}}
        assert httpx.post(f"{desk.url}/mcp", json=answer, headers=headers, trust_env=False, timeout=60).status_code == 202
        result = next(events)["result"]
    assert (result["isError"], len(arrived(peers))) == (not yes, int(yes))


def test_a_no_in_the_form_is_a_no(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    approval, state, _ = asked(mine(desk, token, "yachts"))
    assert told(mine(desk, token, "yachts", params=retry(state, approve=False))) == "approval-denied"
    assert (kinds(desk, approval), arrived(peers)) == (["approval.ask", "approval.deny"], [])


def test_a_form_is_put_to_nobody_but_whoever_may_approve_their_own_call(desk: Gateway) -> None:
    arguments = {"text": "chairs", "amount": 500}
    for tool in ("pay", "swap"):  # not by oneself
        body = desk.call(f"desk.{tool}", desk.token(), version=MODERN, arguments=arguments, capabilities=BOTH).json()
        assert asked(body)[2]["mode"] == "url"
    assert told(desk.call("desk.pay", desk.token(), version=MODERN, arguments=arguments, capabilities=FORM).json()) == (
        "approval-required"
    )
    assert asked(mine(desk, desk.token(), "x" * 3000, capabilities=BOTH))[2]["mode"] == "url"  # more than a form has room for


def test_an_agent_in_the_chain_is_put_no_form_and_answers_none(desk: Gateway, peers: Peers) -> None:
    inner: list[Any] = []
    _, of_paul, _ = asked(mine(desk, desk.token(), "bins"))

    def clerk(heard: Heard) -> str:
        more = {"Bailiwick-Delegation": heard.headers["authorization"].removeprefix("Bearer ")}
        secret = desk.agent_secrets["clerk"]
        first = asked(mine(desk, secret, "bins", BOTH, **more))
        inner.append(first[2]["mode"])
        inner.append(told(mine(desk, secret, "bins", BOTH, params=retry(of_paul, approve=True), **more)))
        inner.append(told(mine(desk, secret, "bins", BOTH, params=retry(first[1], approve=True), **more)))
        unasked = {"inputResponses": {"bailiwick/approval": {"action": "accept", "content": {"approve": True}}}}
        inner.append(told(mine(desk, secret, "bins", BOTH, params=unasked, **more)))
        inner.append(first[0])
        return "done"

    peers.agents["clerk"] = clerk
    desk.send("clerk", desk.token())
    assert inner[:4] == ["url", "invalid-params", "input_required", "input_required"]
    assert kinds(desk, inner[4]) == ["approval.ask"]
    assert arrived(peers) == [heard for heard in arrived(peers) if heard.message["method"] == "SendMessage"]


@pytest.mark.parametrize("content", [{}, {"approve": "true"}, {"approve": 1}, {"approve": None}])
def test_what_is_neither_yes_nor_no_in_a_form_is_refused(desk: Gateway, peers: Peers, content: dict[str, Any]) -> None:
    token = desk.token()
    approval, state, _ = asked(mine(desk, token, str(content)))
    answer = {"requestState": state, "inputResponses": {"bailiwick/approval": {"action": "accept", "content": content}}}
    assert told(mine(desk, token, str(content), params=answer)) == "invalid-params"
    assert (kinds(desk, approval), arrived(peers)) == (["approval.ask"], [])


def test_a_yes_in_the_form_of_another_call_or_once_more_approves_nothing(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    _, state, _ = asked(mine(desk, token, "pots"))
    other, _, _ = asked(mine(desk, token, "pans"))
    assert told(mine(desk, token, "pans", params=retry(state, approve=True))) == "invalid-params"
    assert told(mine(desk, token, "pots", params=retry(state, approve=True))) == "done"
    again, _, _ = asked(mine(desk, token, "pots", params=retry(state, approve=True)))
    assert (kinds(desk, other), kinds(desk, again), len(arrived(peers))) == (["approval.ask"], ["approval.ask"], 1)


def test_a_yes_to_the_page_in_the_place_of_the_forms_is_none(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    approval, state, question = asked(mine(desk, token, "crates", URL))
    assert question["mode"] == "url"
    assert told(mine(desk, token, "crates", URL, params=retry(state, approve=True))) == "input_required"
    assert (kinds(desk, approval), arrived(peers)) == (["approval.ask"], [])


# ------------------------------------------------------------------------------------------------ the page itself
def sign_in(gateway: Gateway, approval: str, token: str) -> httpx.Response:
    return gateway.http.post(f"/approvals/{approval}", data={"token": token})


def fields(page: httpx.Response) -> dict[str, str]:
    """What the form of a page carries."""
    return {
        name: page.text.partition(f'name="{name}" value="')[2].partition('"')[0].replace("&#x27;", "'")
        for name in ("session", "digest")
    }


def test_on_the_page_whoever_may_sees_the_exact_call_and_says_yes(desk: Gateway, peers: Peers) -> None:
    token, text = desk.token(), '<script>alert("sofas")</script>'
    first = by_url(desk, token, text=text)
    link = f"/approvals/{first.approval}"
    entered = desk.http.get(link)
    assert (entered.status_code, "sofas" in entered.text) == (200, False)
    page = sign_in(desk, first.approval, desk.token("fiona"))
    assert "&lt;script&gt;alert(" in page.text
    assert "<script" not in page.text
    for each in (entered, page):
        policy = each.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert (each.headers["cache-control"], "set-cookie" in each.headers) == ("no-store", False)
    assert desk.http.post(link, data={**fields(page), "answer": "yes"}).status_code == 200
    assert (by_url(desk, token, text=text).word, len(arrived(peers))) == ("done", 1)
    assert kinds(desk, first.approval) == ["approval.ask", "approval.grant", "approval.use"]


def test_on_the_page_a_no_is_said_with_its_reason(desk: Gateway) -> None:
    first = by_url(desk, desk.token(), text="boats")
    page = sign_in(desk, first.approval, desk.token("fiona"))
    said = desk.http.post(f"/approvals/{first.approval}", data={**fields(page), "answer": "no", "reason": "no boats"})
    assert said.status_code == 200
    assert desk.opened(of(desk, first.approval)[1], "reason") == b"no boats"
    over = desk.http.post(f"/approvals/{first.approval}", data={**fields(page), "answer": "yes"})
    assert over.status_code == 409


def test_a_form_that_another_site_sends_says_nothing(desk: Gateway) -> None:
    first, other = by_url(desk, desk.token(), text="cars"), by_url(desk, desk.token(), text="vans")
    digest = digest_of(desk, first.approval, desk.token("fiona"))
    page = sign_in(desk, other.approval, desk.token("fiona"))  # a session for one approval is none for another
    ambient = {"Authorization": f"Bearer {desk.token('fiona')}", "Cookie": f"session={fields(page)['session']}"}
    for session in ("", "AAAA", fields(page)["session"]):
        form = {"session": session, "digest": digest, "answer": "yes"}
        assert desk.http.post(f"/approvals/{first.approval}", data=form, headers=ambient).status_code == 403
    form = {**fields(page), "digest": digest, "answer": "yes"}
    assert desk.http.post(f"/approvals/{other.approval}", data=form).status_code == 409  # not what was looked at
    assert [kinds(desk, each.approval) for each in (first, other)] == [["approval.ask"]] * 2


def test_the_page_tells_nobody_more_than_the_api(desk: Gateway) -> None:
    first = by_url(desk, desk.token(), text="tents")
    unknown = sign_in(desk, NOBODY, desk.token("mia"))
    strange = sign_in(desk, first.approval, desk.token("mia"))
    assert (strange.status_code, strange.text) == (unknown.status_code, unknown.text) == (404, unknown.text)
    assert desk.http.get(f"/approvals/{first.approval}").text.replace(first.approval, NOBODY) == (
        desk.http.get(f"/approvals/{NOBODY}").text
    )
    own = sign_in(desk, first.approval, desk.token())
    assert ("tents" in own.text, fields(own)["session"]) == (True, "")  # whose call it is sees it, and has nothing to press
    assert sign_in(desk, first.approval, "not-a-token").status_code == 401
    assert sign_in(desk, first.approval, "a b\r\nc: d").status_code == 401
    assert sign_in(desk, first.approval, desk.agent_secrets["clerk"]).status_code == 404
    assert desk.http.get("/approvals/..%2fapi").status_code == 404
    double = f"token={desk.token('fiona')}&token=x"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert desk.http.post(f"/approvals/{first.approval}", content=double, headers=form).status_code == 400
