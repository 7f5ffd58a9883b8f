"""The approval test matrix: a call that people must approve goes on once, as it was approved and for whom, or never."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from audit.verify import KINDS
from tests.interaction.approvals_world import (
    FILES,
    WAYS,
    Ask,
    api,
    approve,
    arrived,
    by_a2a,
    by_mcp,
    digest_of,
    eventually,
    kinds,
    of,
    state_of,
    verb,
    with_policy,
)
from tests.interaction.world import Gateway, Peers

Kill = Policy = Callable[[str, str, str], None]


@pytest.fixture(scope="module")
def desks(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Gateway]]:
    """Gateways that nobody breaks: of one person only so many calls may wait at each."""
    running: dict[str, Gateway] = {}

    def of(name: str) -> Gateway:
        if name not in running:
            running[name] = with_policy(Gateway(tmp_path_factory.mktemp(name), upstreams)).start()
        return running[name]

    try:
        yield of
    finally:
        for gateway in running.values():
            gateway.stop()


@pytest.fixture
def desk(request: pytest.FixtureRequest, desks: Callable[[str], Gateway]) -> Gateway:
    """One for the ways that ask within the protocols, one for everything else."""
    way = request.node.callspec.params.get("ask", "") if hasattr(request.node, "callspec") else ""
    return desks("asked" if way in {"mcp-url", "a2a-task"} else "told")


@pytest.fixture
def own(upstreams: Peers, tmp_path: Path) -> Iterator[Gateway]:
    """One that a test may break."""
    gateway = with_policy(Gateway(tmp_path, upstreams))
    yield gateway.start()
    gateway.kill()


@pytest.fixture
def policy(desk: Gateway) -> Iterator[Callable[[str, str, str], None]]:
    """Changes a file of the bundle, by a word in it; afterwards it is what it was."""
    yield lambda name, word, other: _reload(desk, **{name: FILES[name].replace(word, other)})
    _reload(desk)


@pytest.fixture
def kill(desk: Gateway) -> Iterator[Callable[[str, str, str], None]]:
    """Kills by somebody; afterwards everybody is alive again."""
    made: list[tuple[str, str]] = []
    yield lambda by, kind, target: made.append((by, _kill(desk, by, kind, target)))
    for by, name in made:
        desk.http.delete(f"/api/kills/{name}", headers={"Authorization": f"Bearer {desk.token(by)}"}).raise_for_status()


@pytest.fixture(params=list(WAYS))
def ask(request: pytest.FixtureRequest) -> Ask:
    return WAYS[request.param]


def test_a_call_that_needs_an_approval_waits_for_it_and_then_goes_on_once(desk: Gateway, peers: Peers, ask: Ask) -> None:
    token = desk.token()
    first = ask(desk, token)
    assert (first.word, arrived(peers)) == ("approval-required", [])
    assert ask(desk, token).approval == first.approval  # asked again too early, it waits for the same one
    assert approve(desk, first.approval).json()["state"] == "granted"
    assert ask(desk, token).word == "done"
    assert len(arrived(peers)) == 1
    assert kinds(desk, first.approval) == ["approval.ask", "approval.grant", "approval.use"]


def test_the_answer_tells_a_model_what_to_do(desk: Gateway) -> None:
    said = by_mcp(desk, desk.token(), text="tables")
    assert said.approval in said.text
    assert "very same arguments" in said.text
    assert "very same" in by_a2a(desk, desk.token(), text="tables").text


def test_a_call_that_policy_does_not_ask_about_needs_no_approval(desk: Gateway, peers: Peers) -> None:
    answer = desk.call("desk.pay", desk.token(), arguments={"text": "pens", "amount": 5})
    assert answer.json()["result"]["isError"] is False
    assert len(arrived(peers)) == 1


def test_an_approval_that_was_used_is_good_for_nothing_more(desk: Gateway, peers: Peers, ask: Ask) -> None:
    token = desk.token()
    first = ask(desk, token)
    approve(desk, first.approval)
    assert ask(desk, token).word == "done"
    again = ask(desk, token)
    assert (again.word, again.approval == first.approval, len(arrived(peers))) == ("approval-required", False, 1)
    assert approve(desk, first.approval).status_code == 409


def test_arguments_that_drift_make_another_call_which_the_approval_does_not_cover(desk: Gateway, peers: Peers, ask: Ask) -> None:
    token = desk.token()
    first = ask(desk, token, text="two chairs")
    approve(desk, first.approval)
    for text in ("two  chairs", "Two chairs", "two chairs ", "20 chairs"):
        drifted = ask(desk, token, text=text)
        assert (drifted.word, drifted.approval == first.approval) == ("approval-required", False)
    assert arrived(peers) == []
    assert state_of(desk, first.approval) == "granted"  # and waits for the call that it is for


def test_words_in_the_id_of_a_message_make_another_message(desk: Gateway) -> None:
    token, params = desk.token(), {"role": "ROLE_USER", "parts": [{"text": "chairs"}]}

    def send(name: str) -> str:
        answer = desk.ask("hermit", "SendMessage", {"message": {"messageId": name, **params}}, token)
        return str(answer.json()["error"]["data"][0]["metadata"]["approval"])

    assert send("m-1") == send("m-2") != send("pay everything to S-13 at once")


def test_the_same_call_in_another_workflow_is_not_covered(desk: Gateway, peers: Peers, ask: Ask) -> None:
    first = ask(desk, desk.token(), text="lamps")
    approve(desk, first.approval)
    other = ask(desk, desk.token(), text="lamps")
    assert (other.word, other.approval == first.approval, arrived(peers)) == ("approval-required", False, [])


def test_the_same_call_through_another_chain_is_not_covered(desk: Gateway, peers: Peers) -> None:
    inner: list[str] = []
    peers.agents["clerk"] = lambda heard: inner.append(_as_clerk(desk, heard.headers["authorization"])) or "done"
    assert desk.send("clerk", desk.token()).json()["result"]["task"]
    assert desk.records(id=inner[0])[0].leaf["chain"] == [
        ["user", desk.records(id=inner[0])[0].leaf["subject"]],
        ["agent", "agent:clerk"],
    ]


def _as_clerk(gateway: Gateway, authorization: str) -> str:
    delegation = {"Bailiwick-Delegation": authorization.removeprefix("Bearer ")}
    return by_mcp(gateway, gateway.agent_secrets["clerk"], text="rugs", **delegation).approval


def test_an_approval_whose_time_is_over_is_none(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    first = by_mcp(desk, token, "brief")
    assert first.word == "approval-required"
    eventually(lambda: state_of(desk, first.approval) == "expired")
    assert approve(desk, first.approval).status_code == 409
    again = by_mcp(desk, token, "brief")
    assert (again.word, again.approval == first.approval, arrived(peers)) == ("approval-required", False, [])
    eventually(lambda: kinds(desk, first.approval) == ["approval.ask", "approval.expire"])


@pytest.mark.parametrize("way", ["mcp", "mcp-url", "a2a", "a2a-task"])
def test_a_gateway_that_dies_keeps_what_waits_and_what_was_approved(own: Gateway, peers: Peers, way: str) -> None:
    ask, token = WAYS[way], own.token()
    waits, approved = ask(own, token), ask(own, token, text="tables")
    approve(own, approved.approval)
    own.kill()
    own.start()
    assert ask(own, token).approval == waits.approval
    approve(own, waits.approval)
    assert [ask(own, token, text=text).word for text in ("chairs", "tables")] == ["done", "done"]
    assert [ask(own, token, text=text).word for text in ("chairs", "tables")] == ["approval-required", "approval-required"]
    assert len(arrived(peers)) == 2
    for each in (waits, approved):
        assert kinds(own, each.approval) == ["approval.ask", "approval.grant", "approval.use"]


def test_of_many_equal_calls_one_uses_the_approval(desk: Gateway, peers: Peers, ask: Ask) -> None:
    token = desk.token()
    with ThreadPoolExecutor(8) as pool:
        waiting = {said.approval for said in pool.map(lambda _: ask(desk, token, text="desks"), range(8))}
        assert len(waiting) == 1  # they wait for one approval
        approve(desk, waiting.pop())
        words = [said.word for said in pool.map(lambda _: ask(desk, token, text="desks"), range(8))]
    assert sorted(words) == ["approval-required"] * 7 + ["done"]
    assert len(arrived(peers)) == 1


def test_two_approvers_at_once_do_no_harm(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    first = by_mcp(desk, token, "swap")
    digest = digest_of(desk, first.approval, token)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda who: approve(desk, first.approval, who, digest), ["fiona", "mia"] * 4))
    assert {(each.status_code, each.json()["state"]) for each in answers} == {(200, "granted")}
    assert [by_mcp(desk, token, "swap").word for _ in range(2)] == ["done", "approval-required"]
    assert len(arrived(peers)) == 1


def test_who_may_not_approve_it_learns_nothing_of_it(desk: Gateway, peers: Peers, ask: Ask) -> None:
    token = desk.token()
    first = ask(desk, token, text="sofas")
    digest = digest_of(desk, first.approval, token)
    unknown = api(desk, "POST", "/019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b/approve", desk.token("mia"), {"digest": digest})
    wrong = approve(desk, first.approval, "mia", digest)
    assert (wrong.status_code, wrong.json()) == (unknown.status_code, unknown.json())
    assert wrong.status_code == 404
    assert api(desk, "GET", f"/{first.approval}", desk.token("mia")).status_code == 404
    assert first.approval not in api(desk, "GET", "", desk.token("mia")).text
    assert (ask(desk, token, text="sofas").word, arrived(peers)) == ("approval-required", [])
    assert any(first.approval in record.leaf["refused"]["detail"] for record in desk.records(kind="decision.deny"))


@pytest.mark.parametrize("tool", ["pay", "swap"])
def test_nobody_approves_what_is_done_on_their_own_behalf(desk: Gateway, peers: Peers, tool: str) -> None:
    token = desk.token()
    first = by_mcp(desk, token, tool, text="beds")
    own = approve(desk, first.approval, "paul")  # of `swap` his role is among those that may
    assert (own.status_code, own.json()["title"]) == (403, "same-hands")
    assert (by_mcp(desk, token, tool, text="beds").word, arrived(peers)) == ("approval-required", [])


def test_a_yes_of_somebody_who_was_revoked_since_counts_no_more(desk: Gateway, peers: Peers, ask: Ask, kill: Kill) -> None:
    token = desk.token()
    first = ask(desk, token, text="doors")
    assert approve(desk, first.approval).json()["state"] == "granted"
    kill("mia", "user", "user:dev/fiona")
    said = ask(desk, token, text="doors")
    assert (said.word, said.approval, arrived(peers)) == ("approval-required", first.approval, [])
    assert kinds(desk, first.approval) == ["approval.ask", "approval.grant"]


def test_a_yes_of_somebody_whose_right_was_taken_away_counts_no_more(
    desk: Gateway, peers: Peers, ask: Ask, policy: Policy
) -> None:
    token = desk.token()
    first = ask(desk, token, text="gates")
    approve(desk, first.approval)
    policy("obligations.yaml", "[role:controller]", "[role:auditor]")
    said = ask(desk, token, text="gates")
    assert (said.word, said.approval == first.approval, arrived(peers)) == ("approval-required", False, [])


def test_another_bundle_makes_every_approval_void(desk: Gateway, peers: Peers, ask: Ask, policy: Policy) -> None:
    token = desk.token()
    first, second = ask(desk, token, text="barns"), ask(desk, token, text="sheds")
    approve(desk, first.approval)
    policy("conditions.yaml", "a million", "a whole million")
    for parked in (first, second):
        assert state_of(desk, parked.approval) == "void"
        assert approve(desk, parked.approval).status_code == 409
    said = ask(desk, token, text="barns")
    assert (said.word, said.approval == first.approval, arrived(peers)) == ("approval-required", False, [])
    approve(desk, said.approval)
    assert ask(desk, token, text="barns").word == "done"


@pytest.mark.parametrize("what", ["user", "workflow"])
def test_a_kill_ends_what_waits_and_what_was_approved(desk: Gateway, peers: Peers, ask: Ask, what: str, kill: Kill) -> None:
    token = desk.token()
    first, second = ask(desk, token, text="masts"), ask(desk, token, text="sails")
    approve(desk, first.approval)
    digest = digest_of(desk, second.approval, token)
    workflow = str(of(desk, first.approval)[0].leaf["workflow"])
    kill("fiona", what, {"user": "user:dev/paul", "workflow": workflow}[what])
    assert ask(desk, token, text="masts").word == "revoked"
    over = approve(desk, second.approval, digest=digest)
    assert (over.status_code, over.json()["title"], arrived(peers)) == (409, "approval-over", [])


def test_no_agent_approves_whatever_policy_grants_it(desk: Gateway, peers: Peers, ask: Ask) -> None:
    token = desk.token()
    first = ask(desk, token, text="bins")
    digest = digest_of(desk, first.approval, token)
    answers = []

    def clerk(authorization: str) -> str:  # acts for fiona, who may
        more = {"Bailiwick-Delegation": authorization.removeprefix("Bearer ")}
        answers.append(api(desk, "POST", f"/{first.approval}/approve", desk.agent_secrets["clerk"], {"digest": digest}, **more))
        return "done"

    peers.agents["clerk"] = lambda heard: clerk(heard.headers["authorization"])
    desk.send("clerk", desk.token("fiona"))
    answers.append(api(desk, "POST", f"/{first.approval}/approve", desk.agent_secrets["courier"], {"digest": digest}))
    assert [(each.status_code, each.json()["title"]) for each in answers] == [(403, "agent-lacks-right")] * 2
    assert ask(desk, token, text="bins").word == "approval-required"


@pytest.mark.parametrize("name", ["x", "../kills", "019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b", "0" * 400, "%00", "a'--"])
def test_an_id_that_somebody_made_up_is_unknown(desk: Gateway, name: str) -> None:
    answer = api(desk, "POST", f"/{quote(name, safe='')}/approve", desk.token("fiona"), {"digest": "sha256:" + "0" * 64})
    assert answer.status_code == 404


def test_a_yes_to_another_digest_than_the_calls_is_none(desk: Gateway, ask: Ask) -> None:
    token = desk.token()
    first, other = ask(desk, token, text="pots"), ask(desk, token, text="pans")
    answer = approve(desk, first.approval, digest=digest_of(desk, other.approval, token))
    assert (answer.status_code, ask(desk, token, text="pots").word) == (409, "approval-required")


def test_a_no_stands_until_the_time_is_over(desk: Gateway, peers: Peers, ask: Ask) -> None:
    token = desk.token()
    first = ask(desk, token, text="yachts")
    denied = api(desk, "POST", f"/{first.approval}/deny", desk.token("fiona"), {"reason": "no yachts"})
    assert denied.json()["state"] == "denied"
    said = ask(desk, token, text="yachts")
    assert (said.word, said.approval, arrived(peers)) == ("approval-denied", first.approval, [])
    assert approve(desk, first.approval).status_code == 409
    assert kinds(desk, first.approval) == ["approval.ask", "approval.deny"]
    assert desk.opened(of(desk, first.approval)[1], "reason") == b"no yachts"


def test_duties_add_up_so_that_each_needs_somebody_of_its_own(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    first = by_mcp(desk, token, "both")
    half = approve(desk, first.approval, "fiona").json()
    assert (half["state"], half["missing"]) == ("open", ["by-audit"])
    assert by_mcp(desk, token, "both").word == "approval-required"
    whole = approve(desk, first.approval, "mia").json()
    assert (whole["state"], whole["approved_by"]) == ("granted", ["user:dev/fiona", "user:dev/mia"])
    assert (by_mcp(desk, token, "both").word, len(arrived(peers))) == ("done", 1)


def test_a_call_is_held_open_for_as_long_as_its_duty_says_and_goes_on_when_it_is_approved(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(by_mcp, desk, token, "hold")
        waiting: list[str] = []
        eventually(lambda: bool(waiting.extend(_open(desk, "desk.hold")) or waiting))
        assert not held.done()
        approve(desk, waiting[0])
        assert held.result().word == "done"
    assert len(arrived(peers)) == 1
    assert kinds(desk, waiting[0]) == ["approval.ask", "approval.grant", "approval.use"]


def test_a_call_that_is_held_open_goes_nowhere_once_it_is_killed(desk: Gateway, peers: Peers, kill: Kill) -> None:
    token = desk.token()
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(by_mcp, desk, token, "hold")
        waiting: list[str] = []
        eventually(lambda: bool(waiting.extend(_open(desk, "desk.hold")) or waiting))
        kill("fiona", "workflow", str(of(desk, waiting[0])[0].leaf["workflow"]))
        assert held.result().word == "revoked"
    assert arrived(peers) == []


def test_the_record_of_the_call_says_who_approved_it_and_the_sealed_call_is_what_they_saw(desk: Gateway, ask: Ask) -> None:
    token = desk.token()
    first = ask(desk, token, text="crates")
    approve(desk, first.approval)
    ask(desk, token, text="crates")
    asked, granted, used = of(desk, first.approval)
    start = next(record for record in desk.records(approval=first.approval) if record.kind == "call.start")
    assert start.leaf["approved_by"] == used.leaf["approved_by"] == granted.leaf["subject"]
    assert start.leaf["decision"]["fulfilled"] == ["by-error" if ask is by_a2a else "by-finance"]
    assert start.leaf["id"] == used.leaf["call"]
    seen = api(desk, "GET", f"/{first.approval}", desk.token("fiona")).json()["call"]
    assert json.loads(desk.opened(asked, "parked")) == seen
    assert "crates" in json.dumps(seen)
    assert "fiona" not in json.dumps([asked.leaf, granted.leaf, used.leaf, start.leaf])
    assert {record.kind for record in (asked, granted, used)} <= KINDS
    assert desk.audit("verify").returncode == 0


def test_the_command_line_lists_shows_approves_and_denies(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    first, second = by_mcp(desk, token, text="vases"), by_mcp(desk, token, text="urns")
    listed = verb(desk, "fiona", "list", "--json")
    assert {first.approval, second.approval} <= {each["id"] for each in json.loads(listed.stdout)["approvals"]}
    shown = verb(desk, "fiona", "show", first.approval)
    assert (shown.returncode, '"text": "vases"' in shown.stdout) == (0, True)
    digest = digest_of(desk, first.approval, token)
    assert verb(desk, "mia", "approve", first.approval, "--digest", digest).returncode == 1
    assert verb(desk, "paul", "approve", first.approval, "--digest", digest).returncode == 1
    assert verb(desk, "fiona", "approve", first.approval).returncode == 1  # nobody is there to be asked
    done = verb(desk, "fiona", "approve", first.approval, "--digest", digest)
    assert (done.returncode, "granted" in done.stdout) == (0, True)
    assert verb(desk, "fiona", "deny", second.approval, "--reason", "no urns").returncode == 0
    assert verb(desk, "", "list").returncode == 2
    assert by_mcp(desk, token, text="vases").word == "done"
    assert by_mcp(desk, token, text="urns").word == "approval-denied"


def _open(gateway: Gateway, resource: str) -> list[str]:
    found = api(gateway, "GET", "", gateway.token("fiona")).json()["approvals"]
    return [each["id"] for each in found if each["resource"] == resource and each["state"] == "open"]


def _kill(gateway: Gateway, by: str, kind: str, target: str) -> str:
    body = {"kind": kind, "target": target, "reason": "a test"}
    headers = {"Authorization": f"Bearer {gateway.token(by)}"}
    return str(gateway.http.post("/api/kills", json=body, headers=headers).raise_for_status().json()["id"])


def _reload(gateway: Gateway, **files: str) -> None:
    with_policy(gateway, **files)
    headers = {"Authorization": f"Bearer {gateway.token('fiona')}"}
    looked = gateway.http.post("/api/policy/reload", headers=headers).raise_for_status().json()
    assert looked["active"]["result"] in {"activated", "unchanged"}, looked
