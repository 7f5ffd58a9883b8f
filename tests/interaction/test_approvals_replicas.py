"""Approvals with two gateways that share PostgreSQL: parked at one, approved at the other, used once, whoever is asked."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.interaction.approvals_world import WAYS, Ask, api, approve, arrived, by_mcp, digest_of, eventually, kinds, with_policy
from tests.interaction.world import Gateway, Peers
from tests.postgres_server import database, server

pytestmark = pytest.mark.postgres


@dataclass(frozen=True)
class Replicas:
    """Two processes of one installation."""

    one: Gateway
    two: Gateway


@pytest.fixture(scope="module")
def replicas(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with server() as running, database(running) as url:
        stores = {"state": {"url": url}, "ledger": {"url": url, "origin": "test.invalid/acme"}}
        one = with_policy(Gateway(tmp_path_factory.mktemp("replicas"), upstreams, more=stores))
        two = one.twin("twin")
        try:
            one.start()
            two.start()
            yield Replicas(one, two)
        finally:
            one.stop()
            two.stop()


@pytest.fixture(params=["mcp", "mcp-url", "a2a", "a2a-task"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return WAYS[request.param]


def test_what_is_parked_at_one_is_approved_at_the_other_and_used_once_at_either(
    replicas: Replicas, peers: Peers, ask: Ask
) -> None:
    one, two = replicas.one, replicas.two
    token = one.token()
    first = ask(one, token)
    assert ask(two, token).approval == first.approval
    assert approve(two, first.approval).json()["state"] == "granted"
    assert [ask(one, token).word, ask(two, token).word] == ["done", "approval-required"]
    assert len(arrived(peers)) == 1
    assert kinds(one, first.approval) == ["approval.ask", "approval.grant", "approval.use"]


def test_of_many_equal_calls_at_both_one_uses_the_approval(replicas: Replicas, peers: Peers, ask: Ask) -> None:
    token = replicas.one.token()
    both = [replicas.one, replicas.two] * 6
    with ThreadPoolExecutor(12) as pool:
        waiting = {said.approval for said in pool.map(lambda gateway: ask(gateway, token, text="desks"), both)}
        assert len(waiting) == 1
        approve(replicas.two, next(iter(waiting)))
        words = [said.word for said in pool.map(lambda gateway: ask(gateway, token, text="desks"), both)]
    assert sorted(words) == ["approval-required"] * 11 + ["done"]
    assert len(arrived(peers)) == 1
    assert kinds(replicas.one, waiting.pop()) == ["approval.ask", "approval.grant", "approval.use"]


def test_a_yes_and_a_no_at_once_end_as_one_of_them(replicas: Replicas, peers: Peers) -> None:
    one, two = replicas.one, replicas.two
    for number in range(4):
        token, text = one.token(), f"cases {number}"
        first = by_mcp(one, token, "swap", text)
        digest = digest_of(one, first.approval, token)
        with ThreadPoolExecutor(2) as pool:
            yes = pool.submit(approve, one, first.approval, "fiona", digest)
            no = pool.submit(api, two, "POST", f"/{first.approval}/deny", two.token("mia"), {"reason": ""})
            answers = yes.result().status_code, no.result().status_code
        assert answers in {(200, 200), (409, 200)}  # a no after a yes counts, as nothing was sent yet
        assert {by_mcp(one, token, "swap", text).word, by_mcp(two, token, "swap", text).word} == {"approval-denied"}
    assert arrived(peers) == []


def test_a_call_that_is_held_open_at_one_goes_on_when_it_is_approved_at_the_other(replicas: Replicas, peers: Peers) -> None:
    one, two = replicas.one, replicas.two
    token = one.token()
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(by_mcp, one, token, "hold")
        waiting: list[str] = []

        def parked() -> bool:
            found = api(two, "GET", "", two.token("fiona")).json()["approvals"]
            waiting.extend(each["id"] for each in found if each["resource"] == "desk.hold" and each["state"] == "open")
            return bool(waiting)

        eventually(parked)
        approve(two, waiting[0])
        assert held.result().word == "done"
    assert len(arrived(peers)) == 1
