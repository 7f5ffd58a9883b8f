"""Callers' receipts on the wire: with every answer to whom the gateway knows, signed, and good for a proof that stands alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from audit.checkpoint import Vkey
from audit.receipt import verify
from tests.interaction.world import Gateway, Peers, done


def vkey(gateway: Gateway) -> Vkey:
    return Vkey.parse(str(gateway.records()[0].leaf["vkey"]))


def recorded(gateway: Gateway, said: Any, decision: str) -> str:
    """The kind of the record that a receipt is about, which is the call's own."""
    record, index, digest = verify(said, vkey(gateway))
    [found] = [each for each in gateway.records() if each.id == record]
    assert (record, found.index, found.hash) == (decision, index, digest)
    return found.kind


def test_an_allowed_call_and_a_denied_one_come_with_a_receipt_for_their_record(gateway: Gateway, peers: Peers) -> None:
    answer = gateway.call("desk.read", gateway.token())
    said = answer.json()["result"]["_meta"]["bailiwick/receipt"]
    assert recorded(gateway, said, answer.headers["bailiwick-decision"]) == "call.start"
    for tool in ("desk.seal", "desk.never"):  # one that may not be called, and one that is not there
        denied = gateway.call(tool, gateway.token())
        body = denied.json()
        said = (body.get("result", {}).get("_meta") or body.get("error", {}).get("data"))["bailiwick/receipt"]
        assert recorded(gateway, said, denied.headers["bailiwick-decision"]) == "decision.deny"


def test_at_the_url_of_all_servers_a_refused_name_comes_with_a_receipt_wherever_it_leads(gateway: Gateway, peers: Peers) -> None:
    headers = {"Authorization": f"Bearer {gateway.token()}"}
    asked = [
        ("tools/call", {"name": name})
        for name in ("desk__seal", "desk__never", "shut__read", "none__read", "read", "none__x_01234567")
    ]
    asked += [("prompts/get", {"name": "none__greet"}), ("resources/read", {"uri": "file:///nowhere"})]
    for method, params in asked:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = gateway.http.post("/mcp", json=message, headers=headers)
        body = answer.json()
        said = (body.get("result", {}).get("_meta") or body.get("error", {}).get("data"))["bailiwick/receipt"]
        assert recorded(gateway, said, answer.headers["bailiwick-decision"]) == "decision.deny", params


def test_what_an_upstream_writes_there_is_not_passed_on(gateway: Gateway, peers: Peers) -> None:
    peers.tools["desk.read"] = lambda _: done("done") | {"_meta": {"bailiwick/receipt": "forged", "own": 1}}
    answer = gateway.call("desk.read", gateway.token())
    meta = answer.json()["result"]["_meta"]
    assert meta["own"] == 1
    assert recorded(gateway, meta["bailiwick/receipt"], answer.headers["bailiwick-decision"]) == "call.start"


def test_an_answer_that_is_empty_by_its_definition_stays_so(gateway: Gateway) -> None:
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    answer = gateway.http.post("/mcp/desk", json=ping, headers={"Authorization": f"Bearer {gateway.token()}"})
    assert answer.json() == {"jsonrpc": "2.0", "id": 1, "result": {}}


def test_a_stranger_gets_none(gateway: Gateway) -> None:
    answer = gateway.call("desk.read", "nonsense")
    assert answer.status_code == 401
    assert "receipt" not in answer.text


def test_an_agents_answer_brings_one_in_its_metadata_and_a_refusal_in_its_details(gateway: Gateway, peers: Peers) -> None:
    answer = gateway.send("clerk", gateway.token())
    said = answer.json()["result"]["task"]["metadata"]["bailiwick/receipt"]
    assert recorded(gateway, said, answer.headers["bailiwick-decision"]) == "call.start"
    refused = gateway.send("hermit", gateway.token())
    [info] = refused.json()["error"]["data"]
    said = json.loads(info["metadata"]["receipt"])
    assert recorded(gateway, said, refused.headers["bailiwick-decision"]) == "decision.deny"


def test_a_receipt_is_exchanged_for_a_proof_that_stands_alone(gateway: Gateway, peers: Peers, tmp_path: Path) -> None:
    answer = gateway.call("desk.read", gateway.token())
    kept = tmp_path / "answer.json"
    kept.write_text(answer.text)
    made = gateway.audit("prove", str(kept))
    while "no checkpoint yet" in made.stderr:
        made = gateway.audit("prove", str(kept))
    assert made.returncode == 0, made.stderr
    proof = tmp_path / "call.tlog-proof"
    proof.write_text(made.stdout)
    checked = gateway.audit("prove", "--check", str(proof), "--key", str(vkey(gateway)))
    assert checked.returncode == 0, checked.stderr
    assert answer.headers["bailiwick-decision"] in checked.stdout
    said = answer.json()["result"]["_meta"]["bailiwick/receipt"]
    kept.write_text(json.dumps(said | {"index": said["index"] + 1}))
    wrong = gateway.audit("prove", str(kept))
    assert wrong.returncode == 2
    assert "no receipt of this log" in wrong.stderr
