"""What the story's policy holds over several calls and people: each refusal and its cure, with the example's servers and agents.

Over MCP the agents' calls are made here, with their secrets and the delegations that the gateway gave them; over A2A the agents
are asked by messages, and make the calls themselves.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.identity.devissuer import PEOPLE, DevIssuer
from tests.interaction.world import MODERN, Gateway, Peers

from .conftest import PROCUREMENT, StandIn

PROTOCOLS = ["mcp", "a2a"]
STEPS = {
    "read": ("contract-review", "review", "contracts.search", {"query": ""}),
    "scan": ("contract-review", "scan", "contracts.scan", {}),
    "score": ("supplier-risk", "assess", "risk.score", {}),
    "order": ("erp-integration", "order", "erp.write_po", {"cost_center": "CC-100"}),
    "pay": ("erp-integration", "pay", "erp.pay_invoice", {}),
    "mail": ("procurement-analyst", "mail", "mail.send", {}),
}
"""By step: the agent, the intent of a message to it, the tool that it then calls, and what it adds to the arguments."""
Move = tuple[str, str, dict[str, Any]]
"""Whose workflow (`paul`, or `paul#2` for another one of his), which step, with which arguments."""
GROUPS = {"fiona": PEOPLE["fiona"], "petra": PEOPLE["fiona"] + PEOPLE["paul"]}  # all others are procurement managers
GREETING = "Thank you, the paper has come."


def paul(step: str, workflow: str = "paul", **arguments: Any) -> Move:
    return workflow, step, arguments


READ, SCORE = paul("read", supplier="S-77"), paul("score", supplier="S-77")
READ_OTHER, SCORE_OTHER = paul("read", supplier="S-42"), paul("score", supplier="S-42")


def order(amount: float, workflow: str = "paul", supplier: str = "S-77") -> Move:
    return workflow, "order", {"supplier": supplier, "amount": amount, "currency": "EUR"}


def pay(workflow: str, supplier: str = "S-77") -> Move:
    return workflow, "pay", {"supplier": supplier, "invoice": "R-1", "amount": 500, "currency": "EUR"}


def mail(to: str, body: str = "Nothing of note.", workflow: str = "paul") -> Move:
    return workflow, "mail", {"to": to, "body": body}


@dataclass(frozen=True)
class History:
    """The last move of `bad` is refused, with this code and these words; after `good` it is cured."""

    bad: list[Move]
    code: str
    says: str
    good: list[Move]


OUTSIDE = "sales@supplier.example"
REVIEWED = [READ, SCORE]
CASES = {
    "an order without its steps": History([order(500)], "step-missing", "first call contracts.search", [*REVIEWED, order(500)]),
    "an order without the score": History([READ, order(500)], "step-missing", "first call risk.score", [SCORE, order(500)]),
    "the steps for another supplier": History(
        [READ_OTHER, SCORE_OTHER, order(500)], "step-missing", "with the same supplier", [*REVIEWED, order(500)]
    ),
    "a score that is too high": History(
        [READ_OTHER, SCORE_OTHER, order(500, supplier="S-42")], "step-missing", "'score' is at most 60", [*REVIEWED, order(500)]
    ),
    "the steps of another workflow": History(
        [*REVIEWED, order(500, "paul#2")], "step-missing", "first call contracts.search", [order(500)]
    ),
    "a fourth order": History(
        [*REVIEWED, order(1), order(2), order(3), order(4)],
        "budget-spent", "may be called 3 times",
        [paul("read", "paul#2", supplier="S-77"), paul("score", "paul#2", supplier="S-77"), order(4, "paul#2")],
    ),
    "paying where one ordered": History(
        [*REVIEWED, order(500), pay("paul#2")], "same-hands", "another person than the one who did erp.write_po", [pay("fiona")]
    ),
    "ordering where one paid": History(
        [pay("paul#2"), *REVIEWED, order(500)],
        "same-hands", "another person than the one who did erp.pay_invoice",
        [("pia", "read", READ[2]), ("pia", "score", SCORE[2]), order(500, "pia")],
    ),
    "mail to outside after confidential reading": History(
        [READ, mail(OUTSIDE)], "dataflow", "send what 'inside-the-company' allows", [mail("fiona@acme.example")]
    ),
    "mail to outside and inside at once": History(
        [READ, mail(f"{OUTSIDE},fiona@acme.example")],
        "dataflow", "'source:confidential' came in", [mail(OUTSIDE, workflow="paul#2")],
    ),
    "mail to outside that was not scanned": History(
        [READ, mail(OUTSIDE, GREETING)], "dataflow", "first call contracts.scan, by agent:contract-review, with the same body",
        [paul("scan", text=GREETING), mail(OUTSIDE, GREETING)],
    ),
    "mail to outside that was found unclean": History(
        [READ, paul("scan", text="up to 250,000"), mail(OUTSIDE, "up to 250,000")], "dataflow", "'clean' is true",
        [paul("scan", text=GREETING), mail(OUTSIDE, GREETING)],
    ),
    "another text than the one that was scanned": History(
        [READ, paul("scan", text=GREETING), mail(OUTSIDE, f"{GREETING} The ceiling is 250,000.")],
        "dataflow", "with the same body", [mail(OUTSIDE, GREETING)],
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Did:
    """How a step ended: "" or the code of its refusal, and what was said."""

    code: str
    said: str


@dataclass
class Play:
    """One history, in which nobody has a past: its people are there for it alone."""

    gateway: Gateway
    stand_in: StandIn
    protocol: str
    mine: str = field(default_factory=lambda: uuid.uuid4().hex)
    tokens: dict[str, str] = field(default_factory=dict)
    delegations: dict[tuple[str, str], str] = field(default_factory=dict)

    def token(self, workflow: str) -> str:
        """The access token that this workflow began with."""
        if workflow not in self.tokens:
            name, url = workflow.partition("#")[0], self.gateway.public_url
            issuer = DevIssuer(self.gateway.folder / "data", f"{url}/dev", url)
            self.tokens[workflow] = issuer.issue(f"{name}-{self.mine}", GROUPS.get(name, PEOPLE["paul"]))
        return self.tokens[workflow]

    def does(self, workflow: str, step: str, arguments: dict[str, Any]) -> Did:
        """One step, over this history's protocol."""
        agent, intent, tool, more = STEPS[step]
        if self.protocol == "a2a":
            answer = self.asked(workflow, agent, {"intent": intent, **arguments})
            return Did("" if answer["status"] == "ok" else answer["code"], answer.get("message", ""))
        delegation = self.delegation(workflow, agent)
        secret = self.stand_in.world.agent_secrets[agent]
        more = {"arguments": arguments | more, "Bailiwick-Delegation": delegation}
        result = self.gateway.call(tool, secret, version=MODERN, **more).json()["result"]
        code = result.get("_meta", {}).get("bailiwick/code", "")
        assert bool(code) == bool(result.get("isError")), result
        return Did(code, result["content"][0]["text"])

    def asked(self, workflow: str, agent: str, data: dict[str, Any]) -> dict[str, Any]:
        """The answer of an agent to a message."""
        message = {"messageId": str(uuid.uuid4()), "role": "ROLE_USER", "parts": [{"data": data}]}
        body = self.gateway.ask(agent, "SendMessage", {"message": message}, self.token(workflow)).json()
        answer: dict[str, Any] = body["result"]["task"]["artifacts"][0]["parts"][0]["data"]
        return answer

    def delegation(self, workflow: str, agent: str) -> str:
        """What the gateway gives the agent to act with: seen on the way of a message that asks for nothing."""
        if (workflow, agent) not in self.delegations:
            assert self.asked(workflow, agent, {"intent": "be quiet"})["status"] == "failed"
            self.delegations[workflow, agent] = self.stand_in.shown[agent]
        return self.delegations[workflow, agent]

    def approvals(self, person: str, path: str = "", body: dict[str, Any] | None = None) -> httpx.Response:
        """`/api/approvals`, asked with a person's own token."""
        headers = {"Authorization": f"Bearer {self.token(person)}"}
        return self.gateway.http.request("GET" if body is None else "POST", f"/api/approvals{path}", json=body, headers=headers)

    def written(self, step: str = "order") -> int:
        """How many orders there are, or payments, asked past the gateway; 0 where the step writes neither."""
        entity = {"order": "orders", "pay": "payments"}.get(step)
        return len(asyncio.run(self.stand_in.world.erp_orders(entity))) if entity else 0


@contextmanager
def guarded(folder: Path, world: Any, stand_in: StandIn, **changed: tuple[str, str]) -> Iterator[Gateway]:
    """A gateway with the example's bundle before the example's servers and agents; `changed` is put otherwise, by workflow."""
    shutil.copytree(PROCUREMENT / "policies", folder / "policies")
    for name, (old, new) in changed.items():
        file = folder / "policies" / "workflows" / f"{name}.yaml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    if changed:
        shutil.rmtree(folder / "policies" / "tests")  # they speak of the bundle as it is shipped
    gateway = Gateway(folder, Peers())
    if not changed:
        del gateway.settings["policy"]  # it must prove itself
    servers = {}
    for name, url in world.server_urls.items():
        (folder / name).touch(0o600)
        (folder / name).write_text(world.server_secrets[name])
        servers[name] = {"url": url, "headers": {"Authorization": {"file": name, "prefix": "Bearer "}}}
    agents = {
        name: {
            "url": f"{stand_in.url}/tap/{name}/",
            "auth": {"secret_sha256": [hashlib.sha256(world.agent_secrets[name].encode()).hexdigest()]},
        }
        for name in world.agent_urls
    }
    gateway.config.write_text(json.dumps(gateway.settings | {"agents": agents, "mcp": servers}))
    try:
        gateway.start()
        stand_in.gateway = gateway.url
        yield gateway
    finally:
        stand_in.gateway = ""
        gateway.stop()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, world: Any, stand_in: StandIn) -> Iterator[Gateway]:
    with guarded(tmp_path_factory.mktemp("guarded"), world, stand_in) as started:
        yield started


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", CASES)
def test_a_history_is_refused_and_its_cure_goes_through(gateway: Gateway, stand_in: StandIn, name: str, protocol: str) -> None:
    case, play = CASES[name], Play(gateway, stand_in, protocol)
    for move in case.bad[:-1]:
        assert play.does(*move).code == "", move
    before = play.written(case.bad[-1][1])
    refused = play.does(*case.bad[-1])
    assert refused.code == case.code, refused
    assert case.says in refused.said
    assert play.written(case.bad[-1][1]) == before
    for move in case.good:
        assert play.does(*move).code == "", move


def waiting(play: Play, person: str) -> list[dict[str, Any]]:
    """What waits for a person's yes."""
    listed: list[dict[str, Any]] = play.approvals(person).raise_for_status().json()["approvals"]
    return [one for one in listed if one["may_approve"] and play.mine in one["subject"]]


def approve(play: Play, person: str) -> httpx.Response:
    (one,) = waiting(play, person)
    return play.approvals(person, f"/{one['id']}/approve", {"digest": one["digest"]})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_order_above_the_limit_waits_for_a_controller_and_the_same_call_goes_on_once(
    gateway: Gateway, stand_in: StandIn, protocol: str
) -> None:
    play = Play(gateway, stand_in, protocol)
    for move in REVIEWED:
        assert play.does(*move).code == ""
    assert play.does(*order(10000)).code == ""
    before = play.written()
    parked = play.does(*order(12000))
    assert parked.code == "approval-required"
    assert "Ask again with the very same arguments" in parked.said
    (one,) = waiting(play, "fiona")
    his = play.approvals("paul", f"/{one['id']}/approve", {"digest": one["digest"]})
    assert (his.status_code, play.written()) == (403, before)
    assert play.does(*order(12000)).code == "approval-required"
    assert approve(play, "fiona").status_code == 200
    assert play.does(*order(12001)).code == "approval-required", "what was approved is another call"
    assert play.does(*order(12000)).code == ""
    assert play.written() == before + 1
    assert play.does(*order(12000)).code == "approval-required", "an approval is used once"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_controller_who_orders_does_not_approve_it_but_another_does(gateway: Gateway, stand_in: StandIn, protocol: str) -> None:
    play = Play(gateway, stand_in, protocol)
    for step in ("read", "score"):
        assert play.does("petra", step, {"supplier": "S-77"}).code == ""
    assert play.does(*order(12000, "petra")).code == "approval-required"
    (one,) = waiting(play, "fiona")
    assert waiting(play, "petra#2") == []
    hers = play.approvals("petra#2", f"/{one['id']}/approve", {"digest": one["digest"]})
    assert hers.status_code == 403
    assert "same-hands" in hers.text
    assert approve(play, "fiona").status_code == 200
    assert play.does(*order(12000, "petra")).code == ""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_was_approved_counts_for_the_budget_and_what_goes_beyond_is_not_even_asked_for(
    gateway: Gateway, stand_in: StandIn, protocol: str
) -> None:
    play = Play(gateway, stand_in, protocol)
    for move in REVIEWED:
        assert play.does(*move).code == ""
    assert play.does(*order(12000)).code == "approval-required"
    assert approve(play, "fiona").status_code == 200
    assert play.does(*order(12000)).code == ""
    before = play.written()
    refused = play.does(*order(240000))
    assert refused.code == "budget-spent"
    assert "'amount' of erp.write_po may come to 250000" in refused.said
    assert (waiting(play, "fiona"), play.written()) == ([], before)
    assert play.does(*order(8000)).code == ""
    assert play.written() == before + 1


def test_steps_that_are_too_long_ago_count_no_more_and_doing_them_again_cures(
    tmp_path: Path, world: Any, stand_in: StandIn
) -> None:
    behind = stand_in.gateway
    with guarded(tmp_path, world, stand_in, **{"purchase-order": ("within: 2h", "within: 4s")}) as hasty:
        plays = [Play(hasty, stand_in, protocol) for protocol in PROTOCOLS]
        for play in plays:
            for move in REVIEWED:
                assert play.does(*move).code == ""
        time.sleep(4.1)  # the rule's own time: it is over then, however slow the machine
        for play in plays:
            refused = play.does(*order(500))
            assert refused.code == "step-missing"
            assert "first call contracts.search" in refused.said
            assert "first call risk.score" in refused.said
            assert any(cured(play) for _ in range(10)), "doing the steps again cures nothing"
    stand_in.gateway = behind


def cured(play: Play) -> bool:
    """Whether the steps and then the order went through, all within the time."""
    for move in REVIEWED:
        assert play.does(*move).code == ""
    return play.does(*order(500)).code == ""
