"""Real traffic through a real gateway: every decision of it comes out the same again, and a change of one rule shows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interaction.world import BUNDLE, LEGACY, MODERN, ROOT, Gateway, Peers, write_bundle

ORDERS = """\
# p, who,            tenant, tool,       action, effect, when,    must, id
p,   role:buyer,     acme,   desk.order, call,   allow,  small,   -,    ORD-1
p,   agent:clerk,    acme,   desk.order, call,   allow,  -,       -,    ORD-2
p,   role:marketer,  acme,   desk.read,  call,   allow,  strong,  -,    ORD-3
p,   *,              acme,   desk.order, call,   deny,   blocked, -,    ORD-4
p,   agent:clerk,    acme,   desk.slow,  relay,  allow,  -,       -,    ORD-5
p,   role:marketer,  acme,   desk.slow,  call,   deny,   early,   -,    ORD-6
p,   agent:clerk,    acme,   a2a:clerk,  send,   allow,  -,       -,    ORD-7
"""
CONDITIONS = """\
small: {if: args.amount <= 100.10, say: small orders}
blocked: {if: 'args.supplier in ["S-13"]', say: the blocked supplier}
strong: {if: 'agent.method == "delegation+secret"', say: agents with a secret of their own}
early: {if: 'time.now < date("2020-01-01T00:00:00+00:00")', say: the old days}
"""
TOOL = "  desk.order: {args: {amount: number, supplier: string}, risk: high}\n"
AMOUNTS = (100, 100.1, 100.10000000000001, 1e2, 101, "100", None, True, [100], -0.0, 2**53 + 1)


def prepared(folder: Path) -> None:
    """The bundle of the other tests, with conditions on numbers, texts, time and assurance."""
    write_bundle(folder)
    (folder / "grants" / "orders.csv").write_text(ORDERS)
    (folder / "conditions.yaml").write_text(CONDITIONS)
    (folder / "tools.yaml").write_text(BUNDLE["tools.yaml"].replace("sets:", TOOL + "sets:"))


def play(gateway: Gateway, peers: Peers) -> None:
    """Calls of every kind: allowed and denied for each reason, malformed, lists, both eras, agents, duties, strangers."""
    people = {name: gateway.token(name) for name in ("paul", "mia", "fiona")}
    for version in (LEGACY, MODERN):
        for token in people.values():
            for tool in ("desk.read", "desk.account", "desk.sign", "desk.seal", "desk.none", "vault.open", "shut.read", "none.x"):
                gateway.call(tool, token, version=version)
        for amount in AMOUNTS:
            for supplier in ("S-1", "S-13", 7):
                gateway.call("desk.order", people["paul"], version=version, arguments={"amount": amount, "supplier": supplier})
    frame = {"Accept": "application/json, text/event-stream", "Authorization": f"Bearer {people['paul']}"}
    for method in ("tools/list", "ping", "initialize", "resources/list", "no/such"):
        for server in ("desk", "shut", "none"):
            message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}
            gateway.post(f"/mcp/{server}", message, frame)
    for body in (b"{", b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":1}}', b"[]"):
        gateway.http.post("/mcp/desk", content=body, headers=frame | {"Content-Type": "application/json"})
    gateway.call("desk.read", None)
    gateway.call("desk.read", "stranger")
    agents(gateway, peers, people)
    evaluations(gateway, people["paul"])
    answer = gateway.http.post("/api/policy/reload", headers={"Authorization": f"Bearer {people['paul']}"})
    assert answer.status_code == 403, answer.text  # a decision about the gateway itself


def evaluations(gateway: Gateway, token: str) -> None:
    """Questions that are only asked, about oneself and (refused) about others; numbers that only just are other ones."""
    for who in ("dev/paul", "dev/mia"):
        for amount in ("100", "100.10", "100.1000000000000000000001", '"100.10"', "12345678901234567890", "1E+2", "null"):
            body = (
                f'{{"subject": {{"type": "user", "id": "{who}"}}, "resource": {{"type": "tool", "id": "desk.order"}}, '
                f'"action": {{"name": "call", "properties": {{"arguments": {{"amount": {amount}, "supplier": "S-1"}}}}}}}}'
            )
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            answer = gateway.http.post("/access/v1/evaluation", content=body, headers=headers)
            assert answer.status_code == (200 if who == "dev/paul" else 403), answer.text


def agents(gateway: Gateway, peers: Peers, people: dict[str, str]) -> None:
    """People ask agents; an agent works for each of them, within its rights and beyond; tasks of others, cards."""

    def work(heard: Any) -> str:
        token = heard.headers["authorization"].removeprefix("Bearer ")
        for tool in ("desk.read", "desk.order", "desk.slow", "desk.seal"):
            gateway.call(tool, gateway.agent_secrets["clerk"], **{"Bailiwick-Delegation": token}, arguments={"amount": 1.5})
        gateway.send("clerk", gateway.agent_secrets["clerk"], **{"Bailiwick-Delegation": token})  # itself: a loop
        return "done"

    peers.agents["clerk"] = work
    for token in people.values():
        answer = gateway.send("clerk", token)
        gateway.send("hermit", token)
        gateway.send("nobody", token)
        for agent in ("clerk", "hermit", "nobody"):
            gateway.http.get(f"/a2a/{agent}/.well-known/agent-card.json", headers={"Authorization": f"Bearer {token}"})
        if "result" in answer.json():
            task = answer.json()["result"]["task"]["id"]
            for other in people.values():
                gateway.ask("clerk", "GetTask", {"id": task}, other)
    gateway.ask("clerk", "SendMessage", {"message": {}}, people["paul"])
    gateway.ask("clerk", "NoSuch", {}, people["paul"])


@pytest.fixture(scope="module")
def played(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("reproduced")
    prepared(folder / "policies")
    gateway = Gateway(folder, upstreams)
    try:
        gateway.start()
        play(gateway, upstreams)
        yield gateway
    finally:
        upstreams.agents.clear()
        gateway.stop()


def command(gateway: Gateway, *words: object) -> tuple[int, dict[str, Any]]:
    """`bailiwick WORDS --json`: how it ended, and what it said."""
    line = [sys.executable, "-m", "gateway.cli", *map(str, words), "--config", str(gateway.config), "--json"]
    environment = os.environ | {"NO_COLOR": "1"}
    ran = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False, env=environment, cwd=ROOT)
    assert ran.stdout, ran.stderr
    found = json.loads(ran.stdout)
    assert isinstance(found, dict)
    return ran.returncode, found


def decided(gateway: Gateway) -> list[dict[str, Any]]:
    """The leaves that hold a decision, read without the code under test."""
    return [record.leaf for record in gateway.records() if "decision" in record.leaf]


def changed(gateway: Gateway, folder: Path, file: str, old: str, new: str) -> Path:
    """A copy of the bundle with one text exchanged."""
    copy = folder / "candidate"
    shutil.copytree(gateway.folder / "policies", copy)
    text = (copy / file).read_text()
    assert text.count(old) == 1
    (copy / file).write_text(text.replace(old, new))
    return copy


def test_every_decision_of_real_traffic_is_made_again_and_comes_out_identical(played: Gateway) -> None:
    leaves = decided(played)
    code, found = command(played, "audit", "reproduce")
    assert (code, found["differing"], found["undecidable"], found["missing"]) == (0, 0, {}, {}), found
    assert found["identical"] == found["decisions"] == len(leaves)


def test_the_traffic_was_of_every_kind(played: Gateway) -> None:
    leaves = decided(played)
    reasons = Counter(leaf["decision"]["reason"] for leaf in leaves)
    assert reasons.keys() >= {"allowed", "unknown-resource", "user-lacks-right", "agent-lacks-right", "guardrail"}
    assert {leaf["action"] for leaf in leaves} == {"call", "send", "list", "ask", "change"}
    spoken = {(leaf["proto"], leaf.get("proto_ver")) for leaf in leaves}
    assert spoken >= {("mcp", LEGACY), ("mcp", MODERN), ("a2a", "1.0"), ("authzen", None)}
    assert {len(leaf["chain"]) for leaf in leaves} >= {1, 2}
    assert {leaf.get("method") for leaf in leaves} >= {
        "tools/call",
        "tools/list",
        "ping",
        "SendMessage",
        "GetTask",
        "GetAgentCard",
    }
    refused = Counter(leaf["refused"]["code"] for leaf in leaves if "refused" in leaf)
    assert refused.keys() >= {"unknown-duty", "not-owner", "delegation-loop"}  # allowed by policy, and refused all the same
    undecided = {r.leaf["refused"]["code"] for r in played.records() if "refused" in r.leaf and "decision" not in r.leaf}
    assert undecided >= {"malformed", "unknown-method", "invalid-params", "invalid-credential", "no-credential", "unknown-target"}


def test_what_is_kept_in_the_archive_is_enough(played: Gateway, tmp_path: Path) -> None:
    """The folder of policy may have been edited since: decisions are made again under the bundle that made them."""
    archive = played.folder / "data" / "bundles"
    moved = tmp_path / "bundles"
    shutil.copytree(archive, moved)
    away = tmp_path / "policies"
    (played.folder / "policies").rename(away)
    try:
        code, found = command(played, "audit", "reproduce", "--bundles", moved)
        assert (code, found["identical"]) == (0, len(decided(played)))
        nothing, lost = command(played, "audit", "reproduce", "--bundles", tmp_path / "none")
        assert lost["undecidable"] == {"no-bundle": len(decided(played))}
        assert nothing == 1  # nothing could be held against the record
        given, same = command(played, "audit", "reproduce", "--bundles", tmp_path / "none", "--bundle", away)
        assert (given, same["identical"]) == (0, len(decided(played)))
    finally:
        away.rename(played.folder / "policies")


def test_an_archive_in_which_one_rule_was_changed_is_not_believed(played: Gateway, tmp_path: Path) -> None:
    copy = changed(played, tmp_path, "conditions.yaml", "args.amount <= 100.10", "args.amount <= 100.11")
    digest = decided(played)[0]["decision"]["policy"].removeprefix("sha256:")
    (tmp_path / "bundles").mkdir()
    copy.rename(tmp_path / "bundles" / digest)
    code, found = command(
        played, "audit", "reproduce", "--bundles", tmp_path / "bundles", "--bundle", tmp_path / "bundles" / digest
    )
    assert code == 1
    assert found["identical"] == 0
    assert "holds another bundle" in found["missing"][f"sha256:{digest}"]


def test_a_replay_of_the_same_bundle_changes_nothing(played: Gateway) -> None:
    code, found = command(played, "policy", "replay", played.folder / "policies")
    assert code == 0
    assert found["same"] == found["replayed"] == found["decisions"] == len(decided(played))
    assert [change["count"] for change in found["changed"].values()] == [0, 0, 0]


def test_a_looser_condition_shows_what_it_would_have_let_through(played: Gateway, tmp_path: Path) -> None:
    candidate = changed(played, tmp_path, "conditions.yaml", "args.amount <= 100.10", "args.amount <= 100.2")
    code, found = command(played, "policy", "replay", candidate)
    assert code == 1
    granted = found["changed"]["deny->allow"]
    assert next(iter(found["changed"])) == "deny->allow"
    assert granted["count"] == 3  # 100.10000000000001 of S-1, once in each era; 100.1000000000000000000001 was only asked about
    assert [row["rule"] for row in granted["rules"]] == ["ORD-1 grants/orders.csv:2"]
    assert [row["tool"] for row in granted["tools"]] == ["desk.order"]
    (subject,) = granted["subjects"]
    assert subject["subject"].startswith("s_")
    for record in subject["decisions"]:
        (leaf,) = [leaf for leaf in decided(played) if leaf["id"] == record]
        assert leaf["decision"]["effect"] == "deny"
    named, by_name = command(played, "policy", "replay", candidate, "--names")
    assert named == 1
    assert by_name["changed"]["deny->allow"]["subjects"][0]["subject"] == "user:dev/paul"


def test_a_stricter_rule_shows_what_it_would_have_stopped_and_is_no_finding(played: Gateway, tmp_path: Path) -> None:
    candidate = changed(played, tmp_path, "grants/people.csv", "BUY-2", "BUY-2\np, *, acme, vault.*, call, deny, -, -, BUY-9")
    code, found = command(played, "policy", "replay", candidate)
    assert code == 0
    taken = found["changed"]["allow->deny"]
    allowed = [leaf for leaf in decided(played) if leaf["resource"] == "vault.open" and leaf["decision"]["effect"] == "allow"]
    assert taken["count"] == len(allowed) > 0
    assert [row["rule"].split()[0] for row in taken["rules"]] == ["BUY-9"]


def test_an_agents_new_right_is_found_in_its_delegated_calls(played: Gateway, tmp_path: Path) -> None:
    candidate = changed(
        played, tmp_path, "grants/agents.csv", "AGT-1", "AGT-1\np, agent:clerk, acme, desk.slow, call, allow, -, -, AGT-9"
    )
    code, found = command(played, "policy", "replay", candidate)
    assert code == 1
    assert [row["rule"].split()[0] for row in found["changed"]["deny->allow"]["rules"]] == ["AGT-9"]
    assert found["changed"]["deny->allow"]["tools"] == [
        {"tool": "desk.slow", "count": 1, "decisions": found["changed"]["deny->allow"]["rules"][0]["decisions"]}
    ]


def test_since_and_limit_narrow_what_is_asked_again(played: Gateway) -> None:
    _, none = command(played, "policy", "replay", played.folder / "policies", "--since", "2999-01-01")
    assert none["decisions"] == 0
    _, few = command(played, "policy", "replay", played.folder / "policies", "--limit", 7)
    assert few["decisions"] == 7


def test_decisions_of_several_bundles_are_each_made_again_by_their_own(
    own_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = own_gateway()
    token = gateway.token()
    gateway.call("desk.read", token)
    people = gateway.folder / "policies" / "grants" / "people.csv"
    people.write_text(people.read_text() + "p, role:buyer, acme, desk.seal, call, allow, -, -, BUY-9\n")
    os.kill(gateway.pid, signal.SIGHUP)
    for _ in range(2000):
        if not gateway.call("desk.seal", token).json().get("error"):
            break
    else:
        pytest.fail("the changed bundle never came into force")
    (gateway.folder / "policies").rename(tmp_path / "gone")
    code, found = command(gateway, "audit", "reproduce")
    assert code == 0, found
    assert found["identical"] == found["decisions"] == len(decided(gateway))
    assert len(found["bundles"]) == 2
    replayed, changes = command(gateway, "policy", "replay", tmp_path / "gone")
    assert replayed == 1  # under the second bundle, what the first one denied would be allowed
    assert [row["rule"].split()[0] for row in changes["changed"]["deny->allow"]["rules"]] == ["BUY-9"]
