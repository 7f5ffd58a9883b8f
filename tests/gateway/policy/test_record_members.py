"""What a record of a call says: every member that an auditor is promised, as a running gateway writes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from audit.reader import Record
from policies.bundle import load_texts
from tests.gateway.policy.live import ASKED_ONLY, Live, live, texts, write
from tests.interaction.world import MODERN, Peers, new_trace

FIRST = texts()
SECOND = texts(more="p, role:buyer, acme, desk.seal, call, allow, -, -, BUY-9\n")
EXEMPT = {"sandbox": {"enabled": False, "egress": {"destinations": {"db.example:5432": {"tls": False}}}}}

_PREFIX = "io.modelcontextprotocol/"
META = {f"{_PREFIX}protocolVersion": MODERN, f"{_PREFIX}clientCapabilities": {}}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
HEADERS = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}


@pytest.fixture(scope="module")
def running(policy_upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("members"), policy_upstreams, FIRST, **ASKED_ONLY, more=EXEMPT) as made:
        yield made


def whole(pattern: str) -> Callable[[Any], bool]:
    return lambda said: isinstance(said, str) and re.fullmatch(pattern, said) is not None


ID = whole("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
HASH, PSEUDONYM = whole("[0-9a-f]{64}"), whole("s_[0-9a-f]{32}")


def number(said: Any) -> bool:
    return type(said) is int and said >= 0


def committed(said: Any) -> bool:
    return said.keys() == {"c", "n", "op"} and HASH(said["c"]) and number(said["n"]) and whole("o_[0-9a-f]{32}")(said["op"])


OF_EVERY = {
    "v": lambda said: said == 1, "id": ID, "log": lambda said: said == "test.invalid/acme", "ts": number,
    "writer.id": whole(r"\S+:\d+"), "writer.boot": whole("[0-9a-f]{32}"),
    "writer.wseq": number, "writer.wprev": HASH, "writer.mono": number,
    "subject": PSEUDONYM, "workflow": whole(".+"), "trace": whole("[0-9a-f]{32}"),
}  # fmt: skip
OF_A_CALL = OF_EVERY | {
    "tenant": lambda said: said == "acme", "chain": lambda said: said[0][0] == "user" and PSEUDONYM(said[0][1]),
    "auth.method": whole(".+"), "auth.jti": whole(".+"), "auth.assurance": whole(".+"),
    "span": whole("[0-9a-f]{16}"), "parent": whole("[0-9a-f]{16}"),
    "proto": lambda said: said == "mcp", "proto_ver": lambda said: said == MODERN, "method": lambda said: said == "tools/call",
    "target": lambda said: said == "desk", "action": lambda said: said == "call",
    "decision.effect": whole("allow|deny"), "decision.reason": whole("[a-z-]+"), "decision.policy": whole("sha256:[0-9a-f]{64}"),
    "decision.policy_seq": number, "decision.obligations": lambda said: isinstance(said, list),
    "decision.asked": lambda said: {"who", "role", "action", "allow", "rules", "duties", "near"} == said[0].keys(),
}  # fmt: skip
PROMISED: dict[str, dict[str, Callable[[Any], bool]]] = {
    "call.start": OF_A_CALL | {
        "tool": lambda said: said == "read", "resource": lambda said: said == "desk.read", "request": committed,
        "facts": committed, "decision.fulfilled": lambda said: isinstance(said, list),
        "tool_def": whole("sha256:[0-9a-f]{64}|[0-9a-f]{64}"),
        "decision.asked": lambda said: any("BUY" in rule for each in said for rule in each["rules"]),
    },
    "call.end": OF_EVERY | {
        "call": ID, "start_index": number, "outcome.status": lambda said: said == "ok", "outcome.latency_us": number,
        "outcome.events": number, "outcome.bytes": number, "outcome.detail": lambda said: said == "", "response": committed,
    },
    "decision.deny": OF_A_CALL | {
        "refused.code": whole("[a-z-]+"), "request": committed, "facts": committed, "explanation": committed,
    },
}  # fmt: skip


def member(leaf: Any, path: str) -> Any:
    for name in path.split("."):
        leaf = leaf[name]
    return leaf


def records_of(running: Live, tool: str) -> dict[str, Record]:
    trace = new_trace()
    running.gateway.call(f"desk.{tool}", running.admin, trace=trace, version=MODERN)
    return {record.kind: record for record in running.gateway.records(trace=trace)}


@pytest.mark.parametrize("kind", PROMISED)
def test_each_member_that_is_promised_stands_in_the_record_of_a_call(running: Live, peers: Peers, kind: str) -> None:
    listed = running.gateway.post("/mcp/desk", LIST, HEADERS | running.frame)  # from here on the tool's definition is known
    assert "result" in listed.json()
    found = records_of(running, "seal" if kind == "decision.deny" else "read")
    leaf = found[kind].leaf
    for path, right in PROMISED[kind].items():
        assert right(member(leaf, path)), (path, leaf)


def test_a_decision_names_the_record_since_which_its_bundle_is_in_force(running: Live, peers: Peers) -> None:
    """Also after a change and after a way back: the newest time that the bundle came into force, and always an earlier record."""
    first, second = load_texts(FIRST).digest, load_texts(SECOND).digest

    def decided() -> dict[str, Any]:
        start = records_of(running, "read")["call.start"]
        assert start.leaf["decision"]["policy_seq"] < start.index
        return dict(start.leaf["decision"])

    def activated(digest: str) -> int:
        return [r.index for r in running.gateway.records(kind="policy.activate") if r.leaf["policy"] == digest][-1]

    before = decided()
    assert (before["policy"], before["policy_seq"]) == (first, activated(first))
    write(running.folder, SECOND)
    assert running.reload().json()["active"]["result"] == "activated"
    now = decided()
    assert (now["policy"], now["policy_seq"]) == (second, activated(second))
    assert running.roll_back(first).json()["active"]["result"] == "activated"
    again = decided()
    assert (again["policy"], again["policy_seq"]) == (first, activated(first))
    assert again["policy_seq"] > now["policy_seq"] > before["policy_seq"]
    verdict = running.gateway.audit("verify")
    assert verdict.returncode == 0, verdict.stdout


def test_what_settings_exempt_is_on_record_before_the_first_call(running: Live) -> None:
    (said,) = running.gateway.records(kind="exemption.set")
    assert said.leaf["exemptions"] == [
        {"from": "egress", "target": "db.example:5432", "instead": "no-tls"},
        {"from": "issuer", "target": f"{running.gateway.url}/dev", "instead": "development"},
    ]
    calls = [record.index for record in running.gateway.records(kind="call.start")]
    assert all(said.index < index for index in calls)
