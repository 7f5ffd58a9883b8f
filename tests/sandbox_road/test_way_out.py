"""Code under a profile with destinations, from the client's call to the proxy and back: each connection decided and on record."""

from __future__ import annotations

import json
import os

import pytest

from tests.interaction.world import Gateway
from tests.sandbox_road.world import ran

ASKS = """
import json, socket
said = {}
for target in ("listed.invalid:443", "denied.invalid:443", "a.beneath.invalid:443", "unlisted.invalid:443", "listed.invalid:80"):
    with socket.create_connection(("127.0.0.1", 3128), 10) as proxy:
        proxy.sendall(f"CONNECT {target} HTTP/1.1\\r\\n\\r\\n".encode())
        said[target] = proxy.makefile().read().split("bailiwick: ")[1].split(":")[0]
print(json.dumps(said))
"""
EXPECTED = {
    "listed.invalid:443": "destination-refused",  # it resolves nowhere
    "denied.invalid:443": "guardrail",
    "a.beneath.invalid:443": "destination-refused",
    "unlisted.invalid:443": "destination-refused",
    "listed.invalid:80": "destination-refused",
}


async def test_each_connection_that_code_asks_for_is_decided_for_its_caller_and_on_record(box: Gateway) -> None:
    result = await ran(box, box.token("paul"), ASKS, profile="hosts", network=True)
    run = result.structured_content
    if result.is_error and os.geteuid() != 0:
        pytest.skip("no cage with a network of its own here")
    assert run["reason"] == "ok", run
    assert run["guarantees"]["net_allowlist"] == "hard"
    assert json.loads(run["stdout"]) == EXPECTED
    refused = [
        record.leaf for record in box.records(kind="decision.deny") if record.leaf.get("egress", {}).get("run") == run["id"]
    ]
    assert {each["resource"].removeprefix("host:"): each["refused"]["code"] for each in refused} == EXPECTED
    details = {each["resource"]: each["refused"]["detail"] for each in refused}
    assert "resolve" in details["host:listed.invalid:443"]
    assert details["host:unlisted.invalid:443"] == "the profile does not list it"
    (started,) = box.records(kind="sandbox.start", call=run["id"])
    told = box.audit("trace", started.leaf["workflow"]).stdout
    assert "host:denied.invalid:443" in told
    assert box.audit("verify").returncode == 0
    metrics = box.http.get("/metrics").text
    assert 'bailiwick_sandbox_connections_total{end="denied",code="guardrail"}' in metrics


async def test_code_that_does_not_ask_for_the_network_of_its_profile_has_none(box: Gateway) -> None:
    code = "import socket\ntry:\n    socket.socket()\nexcept OSError as error:\n    print(error.errno)"
    run = (await ran(box, box.token("paul"), code, profile="hosts")).structured_content
    assert run["stdout"].strip() == "1", run
    assert run["guarantees"]["net_none"] == "hard"
