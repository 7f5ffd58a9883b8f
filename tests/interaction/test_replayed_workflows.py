"""What workflows said of real traffic comes out the same again, and what other rules of workflows would have said shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.audit_reproduce import judge
from gateway.cli.audit_views import existing_seal_key
from gateway.cli.policy.replay import Replayed, compare
from gateway.configuration import load as settings_of
from gateway.parts import derived
from gateway.reproduce import Kept, Past
from gateway.workflows.again import Retelling
from gateway.workflows.opening import MARKS
from policies.bundle import Bundle, load, load_texts
from policies.engine import Engine
from policies.replay import Direction
from tests.interaction.workflow_world import FILES as BUNDLE
from tests.interaction.workflow_world import DataPeers, Play, code_of, workflow_gateway
from tests.interaction.world import ROOT, Gateway, done
from tests.interaction.world import peers as scripted

ORDERS = """\
workflow: orders
before: [{tool: desk.order, needs: desk.find, same: supplier, result: {field: risk, max: 60}}]
budget:
  - {tool: desk.order, count: 4, sum: amount, max: 100, per: [workflow]}
  - {tool: desk.order, count: 9, per: [subject, day]}
distinct: [{steps: [desk.order, desk.mail], of: person, same: supplier}]
"""
NAMED = 'workflow: named\nbinds: []\nbefore: [{tool: "a2a:clerk", needs: "a2a:courier", same: supplier}]\n'
LABELS = "workflow: labels\nmode: shadow\ntaint: [{after: source:untrusted, deny: sink:external}]\n"
DUTY = {
    "obligations.yaml": BUNDLE["obligations.yaml"] + "few: {type: budget, count: 1, per: [subject, day]}\n",
    "grants/budgets.csv": "p, *, acme, desk.score, call, require, -, few, FEW-1\n",
}
BY_THE_DUTY = 1
"""Calls that it refuses: the second score of the day for one person."""
FILES = {"orders": ORDERS, "named": NAMED, "labels": LABELS}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, list[str]]]:
    """A gateway that has heard mixed traffic, and what it said to each call."""
    folder = tmp_path_factory.mktemp("replayed")
    with scripted(DataPeers()) as peers:
        assert isinstance(peers, DataPeers)
        gateway = workflow_gateway(folder, peers, FILES)
        for name, text in DUTY.items():
            (folder / "policies" / name).write_text(text)
        try:
            codes = play(gateway.start(), peers)
        finally:
            gateway.stop()
        yield gateway, codes


def play(gateway: Gateway, peers: DataPeers) -> list[str]:
    answers = iter([{"content": [], "structuredContent": {"risk": 12.5}}, done("no") | {"isError": True}] * 50)
    peers.tools["desk.find"] = lambda _: next(answers)
    peers.says = {"a2a:courier": {"said": "yes"}}
    first, second, named = Play(gateway, peers, "orders"), Play(gateway, peers, ""), Play(gateway, peers, "named")
    codes = []
    for story, who in ((first, "paul:lead"), (second, "paul:lead"), (first, "fiona:lead")):
        for tool, supplier, amount in [
            *(("desk.order", "S-1", 10), ("desk.find", "S-1", 0), ("desk.order", "S-2", 10), ("desk.order", "S-1", 60)),
            *(("desk.order", "S-1", 60), ("desk.order", "S-1", 40), ("desk.order", "S-1", 0), ("desk.order", "S-1", 0)),
            *(("desk.order", "S-1", 0), ("desk.score", "S-1", 0), ("desk.mail", "S-3", 0), ("desk.find", "S-2", 0)),
        ]:
            codes.append(code_of(story.call(who, tool, {"supplier": supplier, "amount": amount})))
    codes.append(code_of(first.call("fiona:lead", "desk.mail", {"supplier": "S-1"})))
    for agent, supplier in (("clerk", "S-1"), ("courier", "S-1"), ("clerk", "S-2"), ("clerk", "S-1")):
        codes.append(code_of(named.send("mia:lead", f"a2a:{agent}", {"supplier": supplier})))
    again = Play(gateway, peers, "orders")
    again.begun("mia")
    codes.append(code_of(again.call("mia:lead", "desk.find", {"supplier": "S-9"})))
    with ThreadPoolExecutor(4) as pool:  # at the same moment, in no order that anybody could tell
        asked = [pool.submit(again.call, "mia:lead", "desk.order", {"supplier": "S-9", "amount": 40}) for _ in range(5)]
        return codes + [code_of(each.result()) for each in asked]


def retold(gateway: Gateway, candidate: Bundle) -> Replayed:
    """What a candidate would have said."""
    with gateway.ledger() as log:
        history = retelling(gateway)
        return compare(history.decisions(log), Engine(candidate), 0, history)


def retelling(gateway: Gateway) -> Retelling:
    key = existing_seal_key(settings_of(gateway.config, {}))
    assert key is not None
    return Retelling(derived(key, MARKS))


def with_workflows(gateway: Gateway, **files: str | None) -> Bundle:
    """Its bundle with other workflows; None takes one away."""
    texts = dict(load(gateway.folder / "policies").texts)
    for name, text in files.items():
        texts.pop(f"workflows/{name}.yaml", None)
        texts |= {f"workflows/{name}.yaml": text} if text is not None else {}
    return load_texts(texts)


def watching(gateway: Gateway) -> Bundle:
    """Its bundle, whose workflows refuse nothing any more."""
    return with_workflows(gateway, **{name: f"{text}mode: shadow\n" for name, text in FILES.items() if name != "labels"})


def verb(gateway: Gateway, *words: str) -> tuple[int, Any]:
    command = [sys.executable, "-m", "gateway.cli", *words, "--config", str(gateway.config), "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ), cwd=ROOT)
    assert ran.stdout, ran.stderr
    return ran.returncode, json.loads(ran.stdout)


def test_the_traffic_was_refused_for_every_reason_that_the_rules_have(played: tuple[Gateway, list[str]]) -> None:
    counts = Counter(played[1])
    assert counts.keys() == {"", "step-missing", "budget-spent", "same-hands"}


def test_every_decision_of_workflows_comes_out_identical_again(played: tuple[Gateway, list[str]]) -> None:
    gateway, codes = played
    status, found = verb(gateway, "audit", "reproduce")
    assert (status, found["differing"], found["undecidable"]) == (0, 0, {}), found
    assert found["identical"] >= len(codes)


def test_a_decision_that_its_history_does_not_bear_out_is_a_finding(played: tuple[Gateway, list[str]]) -> None:
    gateway, _ = played
    with gateway.ledger() as log:
        history = retelling(gateway)
        found = list(history.decisions(log))
        kept = Kept([])
        kept.add(gateway.folder / "policies")
        spent = next(each for each in found if isinstance(each, Past) and each.verdict.reason == "budget-spent")
        forged = replace(spent, verdict=replace(spent.verdict, effect="allow", reason="allowed"))
        result = judge([forged if each is spent else each for each in found], kept, history)
    assert result.differing == 1
    assert {name for finding in result.findings for name in finding.differs} == {"effect", "reason"}


def test_a_replay_under_the_same_workflows_changes_nothing(played: tuple[Gateway, list[str]]) -> None:
    found = retold(played[0], with_workflows(played[0]))
    assert (set(found.tally.changed.values()), found.undecidable) == ({0}, {})


def test_a_replay_under_workflows_that_only_watch_shows_what_they_refused(played: tuple[Gateway, list[str]]) -> None:
    gateway, codes = played
    found = retold(gateway, watching(gateway))
    refused = sum(code != "" for code in codes) - BY_THE_DUTY
    assert found.tally.changed[Direction.GRANTED] == refused
    rules = {text.split()[0] for text, _ in found.tally.top(Direction.GRANTED, "rule")}
    assert rules == {"orders/before-1", "orders/budget-1", "orders/distinct-1", "named/before-1"}


def test_a_replay_with_other_bounds_shows_what_they_would_refuse_and_let_through(played: tuple[Gateway, list[str]]) -> None:
    gateway, _ = played
    tighter = retold(gateway, with_workflows(gateway, orders=ORDERS.replace("max: 100", "max: 50")))
    assert tighter.tally.changed[Direction.TAKEN] > 0
    assert [text.split()[0] for text, _ in tighter.tally.top(Direction.TAKEN, "rule")] == ["orders/budget-1"]
    wider = retold(
        gateway, with_workflows(gateway, orders=ORDERS.replace("max: 60", "max: 600").replace(", same: supplier, res", ", res"))
    )
    assert wider.tally.changed[Direction.GRANTED] > 0
    assert wider.tally.changed[Direction.TAKEN] == 0


def test_what_was_begun_under_a_definition_that_is_gone_would_be_refused(played: tuple[Gateway, list[str]]) -> None:
    found = retold(played[0], with_workflows(played[0], orders=None, named=None))
    assert found.tally.changed[Direction.TAKEN] > 0
    assert [text for text, _ in found.tally.top(Direction.TAKEN, "rule")] == ["(workflow-unknown)"]


def test_a_new_workflow_is_asked_of_calls_that_no_rule_held_then(played: tuple[Gateway, list[str]]) -> None:
    gateway, _ = played
    mail = "workflow: mail\nbefore: [{tool: desk.mail, needs: desk.score, same: supplier}]\n"
    found = retold(gateway, with_workflows(gateway, mail=mail))
    assert found.tally.changed[Direction.TAKEN] == 3
    assert [text.split()[0] for text, _ in found.tally.top(Direction.TAKEN, "rule")] == ["mail/before-1"]


def test_what_no_record_tells_is_counted_and_not_guessed(played: tuple[Gateway, list[str]]) -> None:
    gateway, _ = played
    unread = "workflow: mail\nbefore: [{tool: desk.mail, needs: desk.score, result: {field: grade, max: 3}}]\n"
    found = retold(gateway, with_workflows(gateway, mail=unread))
    assert found.undecidable["history"] > 0
    assert found.tally.changed[Direction.TAKEN] == 0


def test_the_command_replays_workflows_too(played: tuple[Gateway, list[str]], tmp_path: Path) -> None:
    gateway, codes = played
    for name, text in watching(gateway).texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    status, found = verb(gateway, "policy", "replay", str(tmp_path), "--since", "")
    assert (status, found["changed"]["deny->allow"]["count"]) == (1, sum(code != "" for code in codes) - BY_THE_DUTY)
