"""`audit` by digest through a whole gateway: the text of what was asked for is nowhere, and its commitment is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from audit.privacy import commitment
from tests.interaction.world import GUARDRAILS, MODERN, ROOT, Gateway, Peers

TEXT = "a-most-private-matter-of-paul"
DUTIES = """
by-digest:  {type: audit, arguments: hash}
in-full:    {type: audit, arguments: full}
by-finance: {type: human-approval, by: role:buyer, within: 1h}
"""
LINES = """\
p,   *,   acme,   desk.*,    call,   require, -,    by-digest,  DIG-1
p,   *,   acme,   desk.*,    call,   require, -,    in-full,    DIG-2
p,   *,   acme,   a2a:clerk, send,   require, -,    by-digest,  DIG-3
p,   *,   acme,   desk.slow, call,   require, -,    by-finance, DIG-4
"""


@pytest.fixture
def digesting(own_gateway: Callable[..., Gateway], peers: Peers, tmp_path: Path) -> Gateway:
    made = Gateway(tmp_path, peers)
    folder = made.folder / "policies"
    (folder / "obligations.yaml").write_text((folder / "obligations.yaml").read_text() + DUTIES)
    (folder / "grants" / "guardrails.csv").write_text(GUARDRAILS + LINES)
    return own_gateway()


def test_what_was_asked_for_is_on_record_as_a_commitment_alone_sent_refused_or_parked(digesting: Gateway) -> None:
    sent: dict[str, bytes] = {}

    def asked(what: str, answer: httpx.Response) -> None:
        sent[what] = answer.request.content

    token = digesting.token()
    for version in ("2025-11-25", MODERN):
        answer = digesting.call("desk.read", token, version=version, arguments={"text": TEXT})
        assert "result" in answer.json(), answer.text
    asked("desk.read", answer)
    asked("a2a:clerk", digesting.send("clerk", token, TEXT))
    parked = digesting.call("desk.slow", token, arguments={"text": TEXT})
    assert parked.json()["result"]["_meta"]["bailiwick/code"] == "approval-required"
    refused = digesting.call("desk.sign", token, arguments={"text": TEXT})
    assert refused.json()["result"]["_meta"]["bailiwick/code"] == "unknown-duty"
    asked("desk.sign", refused)

    kinds = set()
    with digesting.ledger() as log:
        for record in log.records():
            assert TEXT not in json.dumps(record.leaf, default=str)
            for name in ("request", "response", "facts", "explanation", "parked", "step", "original_salt"):
                value = log.open_value(record, name)
                assert value is None or TEXT.encode() not in value, (record.kind, name)
            if record.kind in {"call.start", "decision.deny"}:
                kinds.add(record.kind)
                assert log.open_value(record, "request") is None
                salt = log.open_value(record, "original_salt")
                assert isinstance(salt, bytes)
                body = sent.get(record.leaf["resource"], b"")
                held = record.leaf["originals"]["request"]
                if held["n"] == len(body):  # the other protocol version of the same tool says more around it
                    assert held["c"] == commitment(bytes.fromhex(salt.decode()), "request", body)
    assert kinds == {"call.start", "decision.deny"}
    digesting.stop()
    for file in (digesting.folder / "data").rglob("*"):
        if file.is_file():
            assert TEXT.encode() not in file.read_bytes(), file


def test_a_gateway_that_is_to_look_for_personal_data_without_the_extra_says_what_to_install(peers: Peers, tmp_path: Path) -> None:
    made = Gateway(tmp_path, peers, more={"inspect": {"personal_data": True}})
    program = "import sys; sys.modules['presidio_analyzer'] = None; from gateway.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", "--config", str(made.config)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BAILIWICK_")}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment, cwd=ROOT)
    assert ran.returncode == 1, ran.stderr
    assert "inspect.personal_data: presidio_analyzer is not installed" in ran.stderr
    assert "bailiwick[presidio]" in ran.stderr
