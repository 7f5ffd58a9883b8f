"""Each keyword and shape of workflow files, over sockets: a history that it refuses and one that cures it, in MCP and in A2A."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.interaction.workflow_world import AGENTS, TOOLS, DataPeers, Play, code_of, told, until, workflow_gateway, written
from tests.interaction.world import Gateway
from tests.interaction.world import peers as scripted

ONE = {"supplier": "S-1"}
Move = tuple[str, str, dict[str, Any]]
"""Who (`person:agent`), which step, with which arguments."""


@dataclass(frozen=True)
class History:
    """A case.  The last move of both lists is the same; in `bad` it is refused.

    says   what the upstreams answer, by step.
    cure   words of the refusal that say what to do.
    """

    rules: str
    bad: list[Move]
    reason: str
    good: list[Move]
    cure: str
    says: dict[str, Any] | None = None


def lead(step: str, **arguments: Any) -> Move:
    return "paul:lead", step, ONE | arguments


def aide(step: str, **arguments: Any) -> Move:
    return "paul:aide", step, ONE | arguments


ORDER = lead("order", amount=10)
CASES = {
    "before": History(
        "before: [{tool: <order>, needs: <find>}]", [ORDER], "step-missing", [lead("find"), ORDER], "first {verb} {find}"
    ),
    "before-by": History(
        "before: [{tool: <order>, needs: <find>, by: agent:aide}]",
        [lead("find"), ORDER], "step-missing", [aide("find"), ORDER], "by agent:aide",
    ),
    "before-same": History(
        "before: [{tool: <order>, needs: <find>, same: supplier}]",
        [lead("find", supplier="S-2"), ORDER], "step-missing", [lead("find"), ORDER], "with the same supplier",
    ),
    "before-same-by-another-name": History(
        "before: [{tool: <order>, needs: <find>, same: {supplier: vendor}}]",
        [lead("find", supplier="S-1", vendor="S-2"), ORDER], "step-missing", [lead("find", vendor="S-1"), ORDER], "same supplier",
    ),
    "before-result": History(
        "before: [{tool: <order>, needs: <score>, result: {field: risk, max: 60}}]",
        [lead("find"), ORDER], "step-missing", [lead("score"), ORDER], "'risk' is at most 60", {"score": {"risk": 31.5}},
    ),
    "before-result-beyond": History(
        "before: [{tool: <order>, needs: <score>, result: {field: risk, max: 60}}]",
        [lead("score"), ORDER], "step-missing", [lead("mail"), ORDER], "'risk' is at most 60",
        {"score": {"risk": 60.5}, "mail": None},
    ),
    "once": History(
        "once: [{tool: <order>, same: supplier}]",
        [ORDER, ORDER], "step-repeated", [lead("order", supplier="S-2"), ORDER], "once for the same supplier",
    ),
    "locked": History(
        "locked: [{steps: [<find>, <score>, <order>]}]",
        [lead("find"), lead("mail")], "step-locked", [lead("find"), lead("order"), lead("mail")], "go on with {score} or {order}",
    ),
    "distinct-agents": History(
        "distinct: [{steps: [<find>, <order>], same: supplier}]",
        [lead("find"), ORDER], "same-hands", [aide("find"), ORDER], "another agent than the one who did {find}",
    ),
    "distinct-persons": History(
        "distinct: [{steps: [<find>, <order>], of: person, same: supplier}]",
        [lead("find"), ORDER], "same-hands", [("fiona:lead", "find", ONE), ORDER], "another person",
    ),
    "budget-count": History(
        "budget: [{tool: <order>, count: 2}]",
        [ORDER, ORDER, ORDER], "budget-spent", [ORDER, ORDER], "2 times for each workflow",
    ),
    "budget-sum": History(
        "budget: [{tool: <order>, sum: amount, max: 100.5, by: agent:lead}]",
        [lead("order", amount=90), lead("order", amount=10.6)], "budget-spent",
        [lead("order", amount=90), lead("order", amount=10.5)], "may come to 100.5",
    ),
    "budget-of-no-number": History(
        "budget: [{tool: <order>, sum: amount, max: 100}]",
        [lead("order", amount=-5)], "budget-spent", [ORDER], "say 'amount', as a number from zero",
    ),
    "only": History(
        "only: [<find>, <order>, 'a2a:aide']",
        [lead("mail")], "not-in-workflow", [ORDER], "{find}, {order} or a2a:aide alone",
    ),
    "chain": History(
        "chain: [{steps: [<find>, <score>, <order>], same: supplier}]",
        [lead("find"), ORDER], "step-missing", [lead("find"), lead("score"), ORDER], "first {verb} {score}",
    ),
    "parallel": History(
        "parallel: [{steps: [<find>, <score>], then: <order>}]",
        [lead("score"), ORDER], "step-missing", [lead("score"), lead("find"), ORDER], "first {verb} {find}",
    ),
    "taint": History(
        "taint: [{after: source:confidential, deny: sink:external}]",
        [lead("find"), lead("order"), lead("mail")], "dataflow",
        [lead("order"), lead("score"), lead("mail")], "'source:confidential' came in with {find}",
    ),
    "taint-of-both": History(
        "taint: [{after: [source:confidential, source:untrusted], deny: sink:external}]",
        [lead("score"), lead("find"), lead("mail")], "dataflow", [lead("find"), lead("mail")], "may not leave by sink:external",
    ),
    "taint-by-another": History(
        "taint: [{after: source:confidential, deny: sink:external}]",
        [aide("find"), lead("mail")], "dataflow", [aide("score"), lead("mail")], "came in with another's call (record 0",
    ),
    "taint-unless": History(
        "taint: [{after: source:confidential, deny: sink:external, unless: inside}]",
        [lead("find"), lead("mail", vendor="X-1")], "dataflow",
        [lead("find"), lead("mail", vendor="V-1")], "send what 'inside' allows",
    ),
    "taint-cleared": History(
        "taint: [{after: source:confidential, deny: sink:external, cleared: [{needs: <score>, same: supplier}]}]",
        [lead("find"), lead("score", supplier="S-2"), lead("mail")], "dataflow",
        [lead("find"), lead("score"), lead("mail")], "first {verb} {score} with the same supplier",
    ),
    "taint-cleared-by-a-result": History(
        "taint: [{after: source:confidential, deny: sink:external, "
        "cleared: [{needs: <score>, by: agent:aide, same: supplier, result: {field: clean, equals: true}}]}]",
        [lead("find"), lead("score"), lead("mail")], "dataflow",
        [lead("find"), aide("score"), lead("mail")], "in which 'clean' is true", {"score": {"clean": True}},
    ),
    "taint-of-the-person": History(
        "taint: [{after: source:confidential, deny: sink:external, of: person, within: 1h}]",
        [lead("find"), lead("mail")], "dataflow", [("mia:lead", "mail", ONE)], "source:confidential",
    ),
}  # fmt: skip
COORDINATOR = "coordinator: [{agent: agent:lead, calls: [a2a:aide, a2a:clerk]}]"
WITHIN = "within: [{tool: <order>, after: <find>, time: 2s}]\nbefore: [{tool: <mail>, needs: <find>, within: 2s}]"
SHADOW = "mode: shadow\nbefore: [{tool: <order>, needs: <find>}]"
FREE = "only: [<find>, <order>, 'a2a:aide', <mail>]\nbefore: [{tool: <order>, needs: <find>}]"


def _files() -> dict[str, str]:
    more = {"coordinator": COORDINATOR, "within": WITHIN, "shadow": SHADOW, "failing": CASES["before"].rules, "free": FREE}
    rules = {name: case.rules for name, case in CASES.items()} | more
    return {
        f"{name}-{protocol}": f"workflow: {name}-{protocol}\nbinds: []\n{written(text, protocol)}\n"
        for name, text in rules.items()
        for protocol in ("mcp", "a2a")
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, DataPeers]]:
    with scripted(DataPeers()) as upstreams:
        assert isinstance(upstreams, DataPeers)
        gateway = workflow_gateway(tmp_path_factory.mktemp("workflows"), upstreams, _files())
        try:
            yield gateway.start(), upstreams
        finally:
            gateway.stop()


def play(world: tuple[Gateway, DataPeers], name: str, protocol: str) -> Play:
    gateway, peers = world
    peers.says = {}
    peers.tools.clear()
    return Play(gateway, peers, f"{name}-{protocol}")


def scripts(story: Play, says: dict[str, Any]) -> None:
    """The upstreams answer so from now on."""
    for step, said in says.items():
        if isinstance(said, dict):
            story.peers.tools[TOOLS[step]] = lambda _, said=said: {"content": [], "structuredContent": said}  # type: ignore[misc]
            story.peers.says[AGENTS[step]] = said


def _about(mine: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: f"{value}-{mine}" if isinstance(value, str) else value for name, value in arguments.items()}


def named(protocol: str, step: str) -> str:
    return (TOOLS if protocol == "mcp" else AGENTS)[step]


@pytest.mark.parametrize("protocol", ["mcp", "a2a"])
@pytest.mark.parametrize("name", [name for name in CASES if name != "before-result-beyond"])
def test_a_history_that_breaks_a_rule_is_refused_and_its_cure_is_let_through(
    world: tuple[Gateway, DataPeers], name: str, protocol: str
) -> None:
    case = CASES[name]
    for moves, reason in ((case.bad, case.reason), (case.good, "")):
        story = play(world, name, protocol)
        scripts(story, case.says or {})
        mine = uuid.uuid4().hex  # what one history is about is no other's business
        *before, last = [(who, named(protocol, step), _about(mine, arguments)) for who, step, arguments in moves]
        for move in before:
            assert code_of(story.does(*move)) == "", move
        count = len(story.peers.heard)
        answer = story.does(*last)
        assert code_of(answer) == reason, answer.text
        if reason:
            assert len(story.peers.heard) == count, "a refused call reached the upstream"
            words = {"verb": "call" if protocol == "mcp" else "send to"}
            words |= {step: named(protocol, step) for step in TOOLS}
            assert case.cure.format(**words) in told(answer)


@pytest.mark.parametrize("protocol", ["mcp", "a2a"])
def test_a_result_beyond_its_bound_or_of_another_kind_satisfies_nothing(world: tuple[Gateway, DataPeers], protocol: str) -> None:
    story = play(world, "before-result", protocol)
    for said in ({"risk": 60.5}, {"risk": "31"}, {"risk": True}, {"risk": None}, {"other": 1}, {"risk": [1]}):
        scripts(story, {"score": said})
        assert code_of(story.does("paul:lead", named(protocol, "score"), ONE)) == ""
        assert code_of(story.does("paul:lead", named(protocol, "order"), ONE)) == "step-missing", said
    scripts(story, {"score": {"risk": 60}})
    assert code_of(story.does("paul:lead", named(protocol, "score"), ONE)) == ""
    assert code_of(story.does("paul:lead", named(protocol, "order"), ONE)) == ""


@pytest.mark.parametrize("protocol", ["mcp", "a2a"])
def test_a_time_that_is_over_refuses_and_doing_it_again_cures(world: tuple[Gateway, DataPeers], protocol: str) -> None:
    story = play(world, "within", protocol)
    find, order, mail = (named(protocol, step) for step in ("find", "order", "mail"))
    assert code_of(story.does("paul:lead", order, ONE)) == ""  # it says nothing of what was never begun
    assert code_of(story.does("paul:lead", find, ONE)) == ""
    time.sleep(2.1)  # the rule's own time: it is over then, however slow the machine
    assert code_of(story.does("paul:lead", order, ONE)) == "step-too-late"
    assert code_of(story.does("paul:lead", mail, ONE)) == "step-missing"

    def again() -> bool:
        assert code_of(story.does("paul:lead", find, ONE)) == ""
        return code_of(story.does("paul:lead", order, ONE)) == code_of(story.does("paul:lead", mail, ONE)) == ""

    assert until(again)


def test_who_may_call_whom_is_said_by_the_coordinator(world: tuple[Gateway, DataPeers]) -> None:
    story = play(world, "coordinator", "a2a")
    assert code_of(story.send("paul:lead", "a2a:clerk", ONE)) == ""
    refused = story.send("paul:lead", "a2a:porter", ONE)
    assert code_of(refused) == "not-in-workflow"
    assert "agent:lead sends to a2a:aide or a2a:clerk alone" in told(refused)
    refused = story.send("paul:aide", "a2a:clerk", ONE)
    assert code_of(refused) == "not-in-workflow"
    assert "agent:lead alone sends to agents" in told(refused)
    assert code_of(story.call("paul:aide", "desk.find", ONE)) == ""  # tools are free
    plain = Play(story.gateway, story.peers, "")
    assert code_of(plain.send("paul:aide", "a2a:clerk", ONE)) == ""


@pytest.mark.parametrize("protocol", ["mcp", "a2a"])
def test_a_workflow_that_is_only_watched_refuses_nothing_and_is_on_record(
    world: tuple[Gateway, DataPeers], protocol: str
) -> None:
    story = play(world, "shadow", protocol)
    answer = story.does("paul:lead", named(protocol, "order"), ONE)
    assert code_of(answer) == ""
    (record,) = [r for r in story.gateway.records(kind="call.start") if r.id == answer.headers["bailiwick-decision"]]
    ruling = record.leaf["decision"]["workflow"]
    assert ruling["refused"] == []
    rule = f"shadow-{protocol}/before-1 workflows/shadow-{protocol}.yaml:4"
    assert ruling["watched"] == [{"rule": rule, "reason": "step-missing", "missing": [named(protocol, "find")]}]
    metrics = story.gateway.http.get("/metrics").text
    assert f'shadow-{protocol}/before-1"' in metrics


@pytest.mark.parametrize("protocol", ["mcp", "a2a"])
def test_what_failed_satisfies_nothing_and_what_is_not_finished_neither(world: tuple[Gateway, DataPeers], protocol: str) -> None:
    story = play(world, "failing", protocol)
    find, order = named(protocol, "find"), named(protocol, "order")
    no = {"content": [{"type": "text", "text": "no"}], "isError": True}
    asked = {"resultType": "input_required", "inputRequests": {}, "requestState": "x"}
    mcp = [no, {"resultType": "task", "task": {"taskId": "1", "status": "working"}}, asked]
    a2a = ["TASK_STATE_FAILED", "TASK_STATE_REJECTED", "TASK_STATE_WORKING", "TASK_STATE_INPUT_REQUIRED", "TASK_STATE_CANCELED"]
    for said in mcp[:1] if protocol == "mcp" else a2a:
        story.peers.tools[find] = lambda _, said=said: said  # type: ignore[misc]
        story.peers.says[find] = said
        story.does("paul:lead", find, ONE)
        assert code_of(story.does("paul:lead", order, ONE)) == "step-missing", said
    story.peers.says.clear()
    story.peers.tools.clear()
    assert code_of(story.does("paul:lead", find, ONE)) == ""
    assert code_of(story.does("paul:lead", order, ONE)) == ""


@pytest.mark.parametrize("protocol", ["mcp", "a2a"])
def test_a_step_of_another_workflow_or_another_person_satisfies_nothing(world: tuple[Gateway, DataPeers], protocol: str) -> None:
    first, second = play(world, "before", protocol), play(world, "before", protocol)
    find, order = named(protocol, "find"), named(protocol, "order")
    assert code_of(first.does("paul:lead", find, ONE)) == ""
    assert code_of(second.does("paul:lead", order, ONE)) == "step-missing"
    assert code_of(first.does("fiona:lead", order, ONE)) == "step-missing"
    assert code_of(first.does("paul:lead", order, ONE)) == ""


def test_a_workflow_begun_under_a_name_that_is_not_known_is_refused_at_the_start(world: tuple[Gateway, DataPeers]) -> None:
    gateway, peers = world
    story = Play(gateway, peers, "no-such-workflow")
    with pytest.raises(AssertionError, match="policy knows no such workflow definition"):
        story.begun("paul")


@pytest.mark.parametrize("protocol", ["mcp", "a2a"])
def test_a_call_that_an_exemption_lets_out_says_on_record_which_and_one_that_needs_none_does_not(
    world: tuple[Gateway, DataPeers], protocol: str
) -> None:
    story = play(world, "taint-unless", protocol)
    mail, free = named(protocol, "mail"), ONE | {"vendor": "V-1"}

    def exempt() -> list[dict[str, str]]:
        answer = story.does("paul:lead", mail, free)
        assert code_of(answer) == "", answer.text
        (start,) = [r for r in story.gateway.records(kind="call.start") if r.id == answer.headers["bailiwick-decision"]]
        return list(start.leaf["decision"]["workflow"].get("exempt", []))

    assert exempt() == []  # nothing was read before: no rule would have refused it
    assert code_of(story.does("paul:lead", named(protocol, "find"), ONE)) == ""
    (said,) = exempt()
    assert said["unless"] == "inside"
    assert said["rule"].startswith(f"taint-unless-{protocol}/taint-1 workflows/taint-unless-{protocol}.yaml:")
