"""Four agents in a chain and one beside it, each a process on the official SDK: the ledger has the exact chain at each hop."""

from __future__ import annotations

from typing import Any

import pytest

from tests.delegation.world import AGENTS, BESIDE, CHAIN, UNCHANGED, UNUSED, Chained, who

BINDINGS = ("JSONRPC", "HTTP+JSON", "GRPC")
CALLS = ("SendMessage", "SendStreamingMessage", "tools/call")
pytestmark = pytest.mark.timeout(300)
READ, SEAL = {"tool": "desk.read", "args": {"text": "r"}}, {"tool": "desk.seal", "args": {"text": "s"}}


def plan(binding: str, *, streams: bool = False) -> dict[str, Any]:
    """What `intake` is told: list, read, ask planner; who asks checker and buyer at once; and buyer asks booker, who seals."""
    by = {"binding": binding, "streams": streams}
    booker = {"agent": "booker", **by, "plan": {"do": [{"list": "desk"}, SEAL]}}
    buyer = {"agent": "buyer", **by, "plan": {"do": [READ, booker]}}
    checker = {"agent": BESIDE, **by, "plan": {"do": [READ]}}
    planner = {"agent": "planner", **by, "plan": {"do": [{"together": [checker, buyer]}]}}
    return {"do": [{"list": "desk"}, {"directory": True}, {"card": "booker"}, READ, planner]}


@pytest.mark.parametrize("streams", [False, True], ids=["messages", "streams"])
@pytest.mark.parametrize("binding", BINDINGS)
def test_the_ledger_has_the_exact_chain_at_each_hop(gateway: Chained, binding: str, streams: bool) -> None:
    before = gateway.sealed()
    workflow, answer = gateway.told("paul", "intake", plan(binding, streams=streams), binding)
    listed, agents, card, read, asked = answer["outcomes"]
    assert agents == sorted((*AGENTS, UNUSED))
    assert (listed, card, read, asked["by"]) == (["note", "proven", "read", "seal"], "booker", "read r", "planner")
    assert gateway.sealed() == [*before, "s"]

    hops = {(hop.who, hop.what): hop for hop in gateway.hops(workflow, *CALLS)}
    full = {
        (who("paul"), "a2a:intake"): None,
        (who("paul", "intake"), "desk.read"): (who("paul"), "a2a:intake"),
        (who("paul", "intake"), "a2a:planner"): (who("paul"), "a2a:intake"),
        (who("paul", "intake", "planner"), "a2a:checker"): (who("paul", "intake"), "a2a:planner"),
        (who("paul", "intake", "planner"), "a2a:buyer"): (who("paul", "intake"), "a2a:planner"),
        (who("paul", "intake", "planner", BESIDE), "desk.read"): (who("paul", "intake", "planner"), "a2a:checker"),
        (who("paul", *CHAIN[:3]), "desk.read"): (who("paul", "intake", "planner"), "a2a:buyer"),
        (who("paul", *CHAIN[:3]), "a2a:booker"): (who("paul", "intake", "planner"), "a2a:buyer"),
        (who("paul", *CHAIN), "desk.seal"): (who("paul", *CHAIN[:3]), "a2a:booker"),
    }
    assert hops.keys() == full.keys()
    assert len(gateway.hops(workflow, *CALLS)) == len(full)
    for at, cause in full.items():
        hop = hops[at]
        assert (hop.kind, hop.reason) == ("call.start", "allowed")
        assert hop.caused_by == (hops[cause].id if cause else "")
        if hop.what.startswith("a2a:"):
            (record,) = gateway.records(id=hop.id)
            assert (b'"jsonrpc"' in gateway.opened(record, "request")) == (binding == "JSONRPC")
            assert record.leaf["method"] == ("SendStreamingMessage" if streams and cause else "SendMessage")
        assert (hop.method, hop.assurance) == ("bearer" if cause is None else "delegation+secret", "bearer")
    lists = {who("paul", "intake"), who("paul", *CHAIN[:3]), who("paul", *CHAIN), who("paul", "intake", "planner", BESIDE)}
    assert {hop.who for hop in gateway.hops(workflow, "tools/list")} == lists  # the SDK's client lists before it calls


@pytest.mark.parametrize("binding", BINDINGS)
def test_the_same_chain_of_somebody_without_the_right_is_refused_at_its_last_hop_and_at_its_first_list(
    gateway: Chained, binding: str
) -> None:
    untouched = gateway.sealed()
    workflow, answer = gateway.told("mia", "intake", plan(binding), binding)
    listed, agents, card, read, asked = answer["outcomes"]
    assert (listed, card, read) == (["note", "read"], "booker", "read r")
    assert agents == sorted((*AGENTS, UNUSED))  # mia may ask them all; what she may not is in the list of tools
    ((checked, bought),) = asked["outcomes"]
    assert checked["outcomes"] == ["read r"]
    read, booked = bought["outcomes"]
    listed, last = booked["outcomes"]
    assert (read, listed) == ("read r", ["note", "read"])  # booker may seal and read; mia may not seal
    assert "Unknown tool" in last["refused"]
    assert gateway.sealed() == untouched

    *before, refused = gateway.hops(workflow, *CALLS)
    assert len(before) == 8
    assert {hop.kind for hop in before} == {"call.start"}
    assert (refused.who, refused.what, refused.kind) == (who("mia", *CHAIN), "desk.seal", "decision.deny")
    assert refused.reason == "user-lacks-right"
    assert refused.caused_by == next(hop.id for hop in before if hop.what == "a2a:booker")


@pytest.mark.parametrize("binding", BINDINGS)
def test_an_agent_that_the_person_may_not_ask_is_refused_at_its_hop_and_not_seen_from_the_first(
    gateway: Chained, binding: str
) -> None:
    workflow, answer = gateway.told("fiona", "intake", plan(binding), binding)
    listed, agents, card, _, asked = answer["outcomes"]
    assert listed == ["note", "proven", "read", "seal"]
    assert agents == sorted({*CHAIN, BESIDE} - {"booker"})
    assert "404" in card["refused"]
    ((_, bought),) = asked["outcomes"]
    assert "404" in bought["outcomes"][1]["refused"]  # the client asks for the card first
    assert "desk.seal" not in {hop.what for hop in gateway.hops(workflow, *CALLS)}
    refused = [hop for hop in gateway.hops(workflow, "GetAgentCard") if hop.kind == "decision.deny"]
    assert [(hop.who, hop.what, hop.reason) for hop in refused] == [
        (who("fiona", "intake"), "a2a:booker", "user-lacks-right"),
        (who("fiona", *CHAIN[:3]), "a2a:booker", "user-lacks-right"),
    ]


def nested(*agents: str) -> dict[str, Any]:
    """Each asks the next."""
    return {"do": [{"agent": agents[0], "plan": nested(*agents[1:])}]} if agents else {"do": [READ]}


def innermost(answer: Any) -> Any:
    while "outcomes" in answer:
        answer = answer["outcomes"][0]
    return answer


def test_a_chain_has_as_many_agents_as_the_settings_say_and_no_more(gateway: Chained) -> None:
    agents = [*CHAIN, BESIDE]
    _, answer = gateway.told("paul", agents[0], nested(*agents[1:]))
    assert innermost(answer) == "read r"
    workflow, answer = gateway.told("paul", agents[0], nested(*agents[1:], UNCHANGED))
    assert "Denied by policy" in innermost(answer)["refused"]
    *_, last = gateway.hops(workflow, *CALLS)
    assert (last.who, last.what, last.kind) == (who("paul", *agents), f"a2a:{UNCHANGED}", "decision.deny")
    assert last.reason == "delegation-too-deep"


@pytest.mark.parametrize("back_to", CHAIN[:3])
def test_a_chain_that_comes_back_to_an_agent_of_its_own_is_refused(gateway: Chained, back_to: str) -> None:
    workflow, answer = gateway.told("paul", "intake", nested("planner", "buyer", back_to))
    assert "Denied by policy" in innermost(answer)["refused"]
    *_, last = gateway.hops(workflow, *CALLS)
    assert (last.who, last.what, last.reason) == (who("paul", *CHAIN[:3]), f"a2a:{back_to}", "delegation-loop")
