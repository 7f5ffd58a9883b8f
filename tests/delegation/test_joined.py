"""Attacks on chains that are joined by a trace: a trace is no proof, and what it joins is marked so wherever it is seen."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.delegation.world import UNCHANGED, UNUSED, Chained, who
from tests.interaction.world import MODERN, new_trace

CALLS = ("SendMessage", "tools/call")
READ, PROVEN = {"tool": "desk.read", "args": {"text": "r"}}, {"tool": "desk.proven", "args": {"text": "p"}}
HEARD = {"heard": True}
pytestmark = pytest.mark.timeout(300)


def read(gateway: Chained, secret: str | None, traceparent: str = "", **more: str) -> httpx.Response:
    """Somebody calls `desk.read`, by hand."""
    headers = {"traceparent": traceparent} | more if traceparent else more
    return gateway.call("desk.read", secret, version=MODERN, **headers)


def subject(gateway: Chained, answer: httpx.Response) -> str:
    """For whom the ledger says that a call was made."""
    with gateway.ledger() as log:
        record = log.get(answer.headers["bailiwick-decision"])
        assert record is not None
        return str(log.subject_name(record.subject)) if record.subject else ""


def is_nobody(gateway: Chained, answer: httpx.Response, agent: str) -> bool:
    """The agent was only itself, with no right at all."""
    return "Unknown" in answer.text and subject(gateway, answer) == f"svc:{agent}"


def test_a_hop_whose_token_is_dropped_is_joined_by_its_trace_and_marked_as_not_proven(gateway: Chained) -> None:
    onward = {"agent": "checker", "plan": {"do": [READ]}}
    workflow, answer = gateway.told("paul", UNCHANGED, {"shows": "trace", "do": [READ, onward]})
    assert answer["outcomes"] == ["read r", {"by": "checker", "outcomes": ["read r"]}]
    first, own, sent, last = gateway.hops(workflow, *CALLS)
    assert (first.who, first.method, first.assurance) == (who("paul"), "bearer", "bearer")
    assert (own.who, own.method, own.assurance) == (who("paul", UNCHANGED), "trace+secret", "correlated")
    assert (sent.who, sent.method, sent.assurance) == (who("paul", UNCHANGED), "trace+secret", "correlated")
    assert (last.who, last.method, last.assurance) == (who("paul", UNCHANGED, "checker"), "delegation+secret", "correlated")
    assert (own.caused_by, sent.caused_by, last.caused_by) == (first.id, first.id, sent.id)


def test_the_decision_knows_that_a_chain_is_joined_and_a_condition_can_refuse_it(gateway: Chained) -> None:
    workflow, answer = gateway.told("paul", UNCHANGED, {"shows": "trace", "do": [READ, PROVEN]})
    assert answer["outcomes"][0] == "read r"
    assert "Unknown tool" in answer["outcomes"][1]["refused"]  # no arguments could help, so it is not even listed
    *_, refused = gateway.hops(workflow, *CALLS)
    assert (refused.what, refused.reason, refused.assurance) == ("desk.proven", "guardrail", "correlated")
    with gateway.ledger() as log:
        record = log.get(refused.id)
        assert record is not None
        facts = json.loads(log.open_value(record, "facts") or b"")
        explanation = log.open_value(record, "explanation")
    assert isinstance(explanation, bytes)
    assert b"correlated, not proven: a trace alone says for whom an agent goes on" in explanation
    assert facts["context"]["agent"]["assurance"] == "correlated"
    assert "the chain is correlated, not proven" in gateway.audit("show", refused.id).stdout
    assert gateway.audit("trace", workflow).stdout.count("the chain is correlated, not proven") >= 2
    _, answer = gateway.told("paul", UNCHANGED, {"do": [PROVEN]})  # the same agent, had it handed on its token
    assert answer["outcomes"] == ["proven p"]


def test_the_mark_goes_with_the_chain_through_agents_that_prove_themselves(gateway: Chained) -> None:
    onward = {"agent": "checker", "plan": {"do": [PROVEN]}}
    _, answer = gateway.told("paul", UNCHANGED, {"shows": "trace", "do": [onward]})
    assert "Unknown tool" in answer["outcomes"][0]["outcomes"][0]["refused"]


def test_a_trace_without_the_agents_own_proof_is_refused(gateway: Chained) -> None:
    _, answer = gateway.told("paul", UNCHANGED, {"shows": "stranger", "do": [HEARD, READ]})
    trace, refused = answer["outcomes"]
    assert "no-credential" in refused["refused"]
    for secret in (None, f"bws_{UNCHANGED}_" + "A" * 43):
        assert read(gateway, secret, trace).status_code == 401


@pytest.mark.parametrize("agent", ["planner", UNCHANGED])
def test_an_agent_that_shows_neither_token_nor_trace_is_nobody_but_itself(gateway: Chained, agent: str) -> None:
    _, answer = gateway.told("paul", agent, {"shows": "nothing", "do": [READ]})
    assert "Unknown" in answer["outcomes"][0]["refused"]
    assert is_nobody(gateway, read(gateway, gateway.agent_secrets[agent]), agent)


def test_an_agent_whose_settings_do_not_let_a_trace_stand_for_its_token_gains_nothing_by_one(gateway: Chained) -> None:
    _, answer = gateway.told("paul", "planner", {"shows": "trace", "do": [HEARD, READ]})
    trace, refused = answer["outcomes"]
    assert "Unknown" in refused["refused"]
    assert is_nobody(gateway, read(gateway, gateway.agent_secrets["planner"], trace), "planner")


def test_a_forged_trace_joins_nothing(gateway: Chained) -> None:
    _, answer = gateway.told("paul", UNCHANGED, {"do": [HEARD]})
    (trace,) = answer["outcomes"]
    version, identity, span, flags = trace.split("-")
    other = f"{int(identity[-1], 16) ^ 1:x}"
    forged = [
        f"00-{new_trace()}-{span}-01",
        f"{version}-{identity[:-1]}{other}-{span}-{flags}",
        f"{version}-{identity.upper()}-{span}-{flags}",
        f"ff-{identity}-{span}-{flags}",
        f"{version}-{identity}-{'0' * 16}-{flags}",
        f"{version}-{identity}",
        identity,
    ]
    for each in forged:
        if each != trace:
            assert is_nobody(gateway, read(gateway, gateway.agent_secrets[UNCHANGED], each), UNCHANGED), each
    twice = [("Traceparent", trace), ("traceparent", forged[0])]
    headers: Any = [("authorization", f"Bearer {gateway.agent_secrets[UNCHANGED]}"), *twice]
    whoami = gateway.http.get("/api/whoami", headers=headers)
    assert whoami.status_code >= 400 or whoami.json()["subject"] == f"svc:{UNCHANGED}"


def test_the_trace_of_another_agents_hop_joins_nothing(gateway: Chained) -> None:
    _, answer = gateway.told("paul", UNCHANGED, {"do": [HEARD]})
    (trace,) = answer["outcomes"]
    assert subject(gateway, read(gateway, gateway.agent_secrets[UNCHANGED], trace)) == "user:dev/paul"
    for other in (UNUSED, "planner"):  # one that traces may speak for, too; and one that not
        assert is_nobody(gateway, read(gateway, gateway.agent_secrets[other], trace), other)
    mias = gateway.call("desk.read", gateway.token("mia"), version=MODERN, traceparent=trace)
    assert subject(gateway, mias) == "user:dev/mia"


def test_a_trace_that_is_replayed_when_its_workflow_was_ended_is_refused(gateway: Chained) -> None:
    workflow, answer = gateway.told("paul", UNCHANGED, {"do": [HEARD]})
    (trace,) = answer["outcomes"]
    assert subject(gateway, read(gateway, gateway.agent_secrets[UNCHANGED], trace)) == "user:dev/paul"
    killed = gateway.http.post(
        "/api/kills",
        json={"kind": "workflow", "target": workflow, "reason": "enough"},
        headers={"authorization": f"Bearer {gateway.token('fiona')}"},
    )
    assert killed.status_code == 201, killed.text
    replayed = read(gateway, gateway.agent_secrets[UNCHANGED], trace)
    assert replayed.status_code == 401


def test_a_delegation_whose_time_is_over_is_refused_and_no_trace_and_no_right_of_the_agents_own_takes_its_place(
    gateway: Chained,
) -> None:
    _, answer = gateway.told("paul", UNCHANGED, {"do": [HEARD]})
    (trace,) = answer["outcomes"]
    secret = gateway.agent_secrets[UNCHANGED]
    fresh = read(gateway, secret, **{"bailiwick-delegation": gateway.delegation(UNCHANGED, age=290)})
    assert subject(gateway, fresh) == "user:dev/paul"
    over = {"bailiwick-delegation": gateway.delegation(UNCHANGED, age=310)}
    for traceparent in ("", trace):
        refused = read(gateway, secret, traceparent, **over)
        assert refused.status_code == 401
        (record,) = gateway.records(id=refused.headers["bailiwick-decision"])
        assert record.leaf["refused"] == {"code": "invalid-credential", "detail": "token has ended"}
