"""A gateway whose PostgreSQL is stopped: a server that is set to `spool` is served, another is not, nothing is missing after."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.interaction.world import Gateway, Peers, done, new_trace, plain
from tests.postgres_server import database, server

pytestmark = pytest.mark.postgres


def test_calls_are_answered_while_the_database_is_stopped_and_are_on_record_when_it_is_back(
    upstreams: Peers, peers: Peers, tmp_path: Path
) -> None:
    with server() as running, database(running) as url:
        gateway = Gateway(tmp_path, upstreams, more={"ledger": {"url": url, "origin": "test.invalid/spool"}})
        gateway.settings["mcp"]["desk"]["ledger"] = "spool"
        gateway.config.write_text(json.dumps(gateway.settings))
        gateway.start()
        try:
            token, trace = gateway.token(), new_trace()
            assert plain(gateway.call("desk.read", token).json()["result"]) == done("done")
            running.stop()
            said = gateway.call("desk.read", token, trace=trace).json()
            assert "result" in said, (said, gateway.http.get("/readyz").json())
            answer = said["result"]
            assert plain(answer) == done("done")
            assert answer["_meta"]["bailiwick/receipt"]["spooled"] is True
            assert gateway.call("vault.read", token).status_code == 503
            ready = gateway.http.get("/readyz")
            assert (ready.status_code, list(ready.json()["degraded"])) == (200, ["ledger"])
            assert "bailiwick_ledger_spooled_records 2" in gateway.http.get("/metrics").text
            running.start()
            while "degraded" in gateway.http.get("/readyz").json():
                assert gateway.http.get("/healthz").status_code == 200
            kinds = [each.kind for each in gateway.records() if each.leaf.get("spooled")]
            assert kinds == ["call.start", "call.end"]
            verdict = gateway.audit("verify")
            assert verdict.returncode == 0, verdict.stdout + verdict.stderr
        finally:
            gateway.stop()
