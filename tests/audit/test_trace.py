"""The story of a workflow: who called whom, on whose behalf, why it was allowed or refused, and how it ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from audit.model import Entry, Value
from audit.reader import Ledger, Record
from audit.trace import Node, Story, build

from .conftest import NOON, SEAL_KEY, Open, tamper

ANN, SUBJECT = "user:corp/ann", "@subject"


def decision(*rights: tuple[str, bool], reason: str = "allowed") -> dict[str, Any]:
    asked = [
        {
            "who": who,
            "role": "subject" if who == SUBJECT else "actor",
            "action": "call",
            "allow": allow,
            "rules": ["PRO-2 people.csv:14"] if allow else [],
            "near": [] if allow else ["PRO-3 people.csv:15"],
        }
        for who, allow in rights
    ]
    effect = "allow" if all(allow for _, allow in rights) else "deny"
    return {"effect": effect, "reason": reason, "policy": "sha256:ab", "asked": asked, "obligations": ["full-audit"]}


def call(record: str, actors: tuple[str, ...], target: str, tool: str = "", caused_by: str = "", **more: Any) -> Entry:
    kind = more.pop("kind", "call.start")
    fields = {
        "workflow": "wf",
        "chain": [["user", SUBJECT], *(["agent", actor] for actor in actors)],
        "caused_by": caused_by,
        "proto": "mcp" if tool else "a2a",
        "method": "tools/call" if tool else "SendMessage",
        "target": target,
        "tool": tool,
        "action": "call" if tool else "send",
        "resource": f"{target}.{tool}" if tool else f"a2a:{target}",
        "trace": "1" * 32,
        "span": "2" * 16,
        "decision": more.pop("decision", decision((SUBJECT, True), *((actor, True) for actor in actors))),
    }
    return Entry(kind, record, NOON, ANN, fields | more, (Value("request", f"request of {record}".encode()),))


def ended(call_id: str, status: str = "ok", **more: Any) -> Entry:
    outcome = {"status": status, "detail": "", "latency_us": 1500, "events": 1, "bytes": 9} | more
    values = (Value("response", f"response of {call_id}".encode()),)
    return Entry("call.end", f"{call_id}-end", NOON + 9, ANN, {"call": call_id, "workflow": "wf", "outcome": outcome}, values)


async def story(open_journal: Open, path: Path, *entries: Entry, key: bytes | None = SEAL_KEY, script: str = "") -> Story:
    journal = await open_journal()
    for entry in entries:
        await journal.append(entry)
    await journal.close()
    if script:
        tamper(path, script)
    with Ledger.open(f"sqlite:///{path}", key) as ledger:
        found = build("wf", ledger.workflow("wf"), ledger.open_value, ledger.subject_name)
    assert found is not None
    return found


def no_value(record: Record, name: str) -> None:
    """A reader without the seal key."""


def no_name(pseudonym: str) -> None:
    """The same."""


def shape(node: Node) -> Any:
    return {node.name: [shape(child) for child in node.children]} if node.children else node.name


NESTED = (
    call("c1", (), "planner"),
    call("c2", ("agent:planner",), "sql", caused_by="c1"),
    call("c3", ("agent:planner", "agent:sql"), "erp", "read", caused_by="c2"),
    ended("c3"),
    call("c4", ("agent:planner", "agent:sql"), "erp", "list", caused_by="c2"),
    ended("c4"),
    ended("c2"),
    call("c5", ("agent:planner",), "mail", "send", caused_by="c1"),
    ended("c5", "tool-error", detail="mailbox full"),
    ended("c1"),
)


async def test_calls_stand_below_the_call_that_caused_them(path: Path, open_journal: Open) -> None:
    found = await story(open_journal, path, *NESTED)
    assert shape(found.root) == {ANN: [{"a2a:planner": [{"a2a:sql": ["erp.read", "erp.list"]}, "mail.send"]}]}
    assert (found.allowed, found.denied, found.open) == (5, 0, 0)


async def test_without_causes_the_chain_and_the_order_say_the_same(path: Path, open_journal: Open) -> None:
    without = [
        Entry(each.kind, each.id, each.at, each.subject, {**each.fields, "caused_by": ""}, each.values)
        if "caused_by" in each.fields
        else each
        for each in NESTED
    ]
    found = await story(open_journal, path, *without)
    assert shape(found.root) == {ANN: [{"a2a:planner": [{"a2a:sql": ["erp.read", "erp.list"]}, "mail.send"]}]}


async def test_an_agent_that_holds_the_persons_token_stands_between_them_and_its_calls(path: Path, open_journal: Open) -> None:
    found = await story(
        open_journal, path, call("c1", ("agent:desk",), "erp", "read"), call("c2", ("agent:desk",), "erp", "list")
    )
    assert shape(found.root) == {ANN: [{"agent:desk": ["erp.read", "erp.list"]}]}
    assert [node.kind for node in found.root.walk()] == ["user", "agent", "call", "call"]


async def test_a_cause_that_comes_later_or_is_unknown_does_not_bend_the_tree(path: Path, open_journal: Open) -> None:
    found = await story(
        open_journal, path, call("c1", (), "erp", "read", caused_by="c2"), call("c2", (), "erp", "b", caused_by="c2")
    )
    assert shape(found.root) == {ANN: ["erp.read", "erp.b"]}


async def test_each_call_says_who_what_why_and_how_it_ended(path: Path, open_journal: Open) -> None:
    found = await story(open_journal, path, *NESTED)
    facts = {each.id: each for each in found.calls}
    read = facts["c3"]
    assert (read.who, read.by) == ((ANN, "agent:planner", "agent:sql"), "agent:sql")
    assert (read.effect, read.reason, read.policy, read.outcome, read.latency_us) == ("allow", "allowed", "sha256:ab", "ok", 1500)
    assert [(rule.rule, rule.source) for rule in read.asked[0].rules] == [("PRO-2", "people.csv:14")]
    assert read.asked[0].who == ANN
    assert read.request is not None
    assert read.response is not None
    assert (read.request.state, read.request.text) == ("shown", "request of c3")
    assert (read.response.state, read.response.text) == ("shown", "response of c3")
    assert (facts["c5"].outcome, facts["c5"].detail) == ("tool-error", "mailbox full")
    assert read.obligations == ("full-audit",)


async def test_a_refusal_says_whose_right_is_missing_and_which_rules_were_near(path: Path, open_journal: Open) -> None:
    refused = call(
        "c1",
        ("agent:desk",),
        "erp",
        "pay",
        kind="decision.deny",
        decision=decision((SUBJECT, False), ("agent:desk", True), reason="user-lacks-right"),
        refused={"code": "user-lacks-right", "detail": "nothing grants it"},
    )
    found = await story(open_journal, path, refused)
    [facts] = found.calls
    assert (facts.effect, facts.outcome, facts.reason, facts.detail) == (
        "deny",
        "refused",
        "user-lacks-right",
        "nothing grants it",
    )
    assert facts.missing == (ANN,)
    assert [str(rule.source) for rule in facts.asked[0].near] == ["people.csv:15"]
    assert (found.allowed, found.denied) == (0, 1)


async def test_a_call_without_an_end_is_open_and_one_whose_writer_died_is_orphaned(path: Path, open_journal: Open) -> None:
    journal = await open_journal()
    await journal.append(call("c1", (), "erp", "read"))
    await journal.close()
    found = await story(open_journal, path, call("c2", (), "erp", "list"))
    assert [(facts.id, facts.outcome) for facts in found.calls] == [("c1", "orphaned"), ("c2", "open")]
    assert found.open == 1


async def test_without_the_key_the_story_has_pseudonyms_and_sizes(path: Path, open_journal: Open) -> None:
    found = await story(open_journal, path, *NESTED, key=None)
    assert found.root.name.startswith("s_")
    request = found.calls[0].request
    assert request is not None
    assert (request.state, request.size, request.text) == ("sealed", len(b"request of c1"), "")


async def test_an_erased_person_and_a_damaged_value_are_named_as_such(path: Path, open_journal: Open) -> None:
    damaged = await story(open_journal, path, *NESTED[:1], script="UPDATE ledger_openings SET sealed = randomblob(60)")
    assert damaged.calls[0].request is not None
    assert damaged.calls[0].request.state == "damaged"


async def test_an_erased_persons_story_keeps_its_shape(path: Path, open_journal: Open) -> None:
    journal = await open_journal()
    await journal.append(call("c1", (), "erp", "read"))
    await journal.append(ended("c1"))
    await journal.shred(ANN, request="r", approver="a")
    await journal.close()
    with Ledger.open(f"sqlite:///{path}", SEAL_KEY) as ledger:
        found = build("wf", ledger.workflow("wf"), ledger.open_value, ledger.subject_name)
    assert found is not None
    assert shape(found.root) == {"[erased]": ["erp.read"]}
    assert found.calls[0].request is not None
    assert found.calls[0].request.state == "erased"


async def test_long_values_are_cut_for_display(path: Path, open_journal: Open) -> None:
    entry = call("c1", (), "erp", "read")
    long = Entry(entry.kind, entry.id, entry.at, entry.subject, entry.fields, (Value("request", "ä".encode() * 10_000),))
    found = await story(open_journal, path, long)
    request = found.calls[0].request
    assert request is not None
    assert (request.cut, request.size, len(request.text)) == (True, 20_000, 4000)


async def test_a_story_is_json_and_ten_thousand_calls_are_no_trouble(path: Path, open_journal: Open) -> None:
    found = await story(open_journal, path, *NESTED)
    assert json.loads(json.dumps(found.to_dict()))["root"]["children"][0]["call"]["id"] == "c1"
    leaf = {"kind": "call.start", "ts": 1, "subject": "s_1", "chain": [["user", "s_1"], ["agent", "agent:a"]], "target": "x"}
    records = [Record(n, b"", {**leaf, "id": f"c{n}"}, b"") for n in range(10_000)]
    large = build("wf", records, no_value, no_name)
    assert large is not None
    assert len(large.calls) == 10_000


def test_a_workflow_without_records_has_no_story() -> None:
    assert build("wf", [], no_value, no_name) is None


def test_records_with_members_of_the_wrong_shape_still_make_a_story() -> None:
    odd = {"kind": "call.start", "ts": 1, "id": "c", "chain": [1, ["user"], "x"], "decision": [], "outcome": 5, "target": 7}
    end = {"kind": "call.end", "ts": 2, "id": "e", "call": "c", "outcome": "fine"}
    found = build("wf", [Record(0, b"", odd, b""), Record(1, b"", end, b"")], no_value, no_name)
    assert found is not None
    assert found.calls[0].target == "7"


def ran(call_id: str, **more: Any) -> tuple[Entry, Entry]:
    """The records of code that a call ran."""
    of = {"call": call_id, "workflow": "wf", "language": "python", "profile": "strict", "backend": "bwrap", "code_sha256": "ab"}
    end = {"reason": "ok", "exit_code": 0, "usage": {"wall_ms": 7}, "guarantees": {"net_none": "hard"}, "outputs_digest": "cd"}
    beside = {"calls": {"made": 2, "refused": 1}, "files": {"count": 3}, "connections": 0}
    return (
        Entry("sandbox.start", f"{call_id}-run", NOON + 1, ANN, of),
        Entry("sandbox.end", f"{call_id}-ran", NOON + 2, ANN, of | end | beside | more),
    )


async def test_code_that_a_call_ran_stands_with_the_call_and_what_it_called_below(open_journal: Open, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    start, end = ran("a")
    inner = call("b", ("agent:clerk", "agent:sandbox"), "erp", "read", caused_by="a")
    told = await story(
        open_journal, path, call("a", ("agent:clerk",), "sandbox", "run_python"), start, inner, ended("b"), end, ended("a")
    )
    outer, below = told.calls
    assert outer.outcome == "ok"
    assert outer.run is not None
    assert (outer.run.language, outer.run.profile, outer.run.backend, outer.run.reason) == ("python", "strict", "bwrap", "ok")
    assert (outer.run.wall_ms, outer.run.calls, outer.run.refused, outer.run.files) == (7, 2, 1, 3)
    assert dict(outer.run.guarantees) == {"net_none": "hard"}
    assert below.run is None
    (node,) = [node for node in told.root.walk() if node.call is outer]
    assert [child.call for child in node.children] == [below]


async def test_code_that_did_not_run_says_what_was_missing(open_journal: Open, tmp_path: Path) -> None:
    _, end = ran("a", reason="refused", missing={"own_kernel": "wanted hard, got absent"})
    begun = call("a", (), "sandbox", "run_python")
    told = await story(open_journal, tmp_path / "ledger.db", begun, end, ended("a", "internal-error"))
    (facts,) = told.calls
    assert facts.run is not None
    assert dict(facts.run.missing) == {"own_kernel": "wanted hard, got absent"}


async def test_a_profile_that_was_asked_about_stands_among_the_questions(open_journal: Open, tmp_path: Path) -> None:
    further = [{"action": "use", "resource": "profile:wide", "decision": decision((SUBJECT, True))}]
    begun = call("a", (), "sandbox", "run_python", further=further)
    told = await story(open_journal, tmp_path / "ledger.db", begun)
    assert [(each.who, each.resource) for each in told.calls[0].asked] == [(ANN, ""), (ANN, "profile:wide")]


async def test_a_connection_that_code_made_stands_below_the_call_that_ran_it(open_journal: Open, tmp_path: Path) -> None:
    asked = {"egress": {"run": "a"}, "action": "connect", "resource": "net:example.com:443"}
    out = call("c", ("agent:clerk",), "sandbox", "", kind="egress.start", **asked)
    closed = Entry(
        "egress.end", "c-end", NOON + 3, ANN, {"call": "c", "workflow": "wf", "egress": {"end": "closed", "latency_us": 9}}
    )
    begun = call("a", ("agent:clerk",), "sandbox", "run_python")
    told = await story(open_journal, tmp_path / "ledger.db", begun, out, closed, ended("a"))
    (node,) = [node for node in told.root.walk() if node.call is not None and node.call.id == "a"]
    (child,) = node.children
    assert child.call is not None
    assert (child.name, child.call.outcome, child.call.latency_us) == ("net:example.com:443", "closed", 9)
