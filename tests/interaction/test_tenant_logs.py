"""A log for each tenant, at a running gateway: whose records are where, who reads them, and the root log over them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.checkpoint import verify
from tests.interaction.tenants_world import ACME, GLOBEX, HOUSE, Tenants
from tests.interaction.world import ROOT, Heard, Peers

TOP = "root"
LOGS = ("ledger", ACME, GLOBEX, HOUSE)
_beat = threading.Event()


@pytest.fixture(scope="module")
def tenants(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    running = Tenants(tmp_path_factory.mktemp("tenant-logs"), upstreams)
    try:
        running.start()
        for person in ("paul", "mia", "fiona"):
            assert running.call("desk.read", running.token(person)).status_code == 200
        running.call("desk.read", None)
        yield running
    finally:
        running.stop()


def test_each_record_stands_in_the_log_of_its_tenant_alone(tenants: Tenants) -> None:
    said = {person: tenants.call("desk.read", tenants.token(person)) for person in ("paul", "mia", "fiona")}
    for person, tenant in (("paul", ACME), ("mia", GLOBEX), ("fiona", HOUSE)):
        records = tenants.log_of(tenant)
        assert {"call.start", "call.end"} <= {record.kind for record in records}
        assert {record.leaf["tenant"] for record in records if "tenant" in record.leaf} == {tenant}
        assert said[person].headers["bailiwick-decision"] in {record.id for record in records}
    own = tenants.log_of("ledger")
    assert {record.leaf.get("tenant") for record in own} == {None}
    assert {"writer.start", "policy.activate", "auth.refused"} <= {record.kind for record in own}


def test_what_an_agent_does_for_a_person_stands_in_the_persons_log(tenants: Tenants, upstreams: Peers) -> None:
    calls: list[int] = []

    def work(heard: Heard) -> str:
        handed = heard.headers["authorization"].removeprefix("Bearer ")
        answer = tenants.call("desk.read", tenants.agent_secrets["clerk"], **{"Bailiwick-Delegation": handed})
        calls.append(answer.status_code)
        return "done"

    before = {name: len(tenants.log_of(name)) for name in LOGS}
    upstreams.agents["clerk"] = work
    workflow = tenants.send("clerk", tenants.token("mia")).headers["bailiwick-workflow"]
    assert calls == [200]
    new = tenants.log_of(GLOBEX)[before.pop(GLOBEX) :]
    assert [each.kind for each in new if each.leaf.get("workflow") == workflow] == ["call.start", "call.start"] + ["call.end"] * 2
    assert not {each.id for name, size in before.items() for each in tenants.log_of(name)[size:] if each.kind.startswith("call")}


@pytest.mark.parametrize("log", [GLOBEX, "ledger", "root", "../ledger"])
def test_attack_a_tenants_compliance_officer_asks_for_another_log(tenants: Tenants, log: str) -> None:
    for path in ("search", "records/x", "workflows/x", "report?since=0&until=1"):
        asked = f"/api/audit/{path}{'&' if '?' in path else '?'}log="
        status, body = tenants.get(asked + log, "paul")
        assert status == 403
        assert body == tenants.get(asked + "nobody", "paul")[1], "no other answer than for a log that there is not"


@pytest.mark.parametrize("person", ["paul", "mia"])
def test_attack_a_record_of_another_tenant_is_asked_for_by_its_id(tenants: Tenants, person: str) -> None:
    other = "mia" if person == "paul" else "paul"
    call = tenants.call("desk.read", tenants.token(other)).headers["bailiwick-decision"]
    unknown = tenants.get("/api/audit/records/019a7f3c-0000-7000-8000-000000000000", person)
    assert tenants.get(f"/api/audit/records/{call}", person) == unknown
    assert unknown[0] == 404
    reading = f"/api/audit/records/{call}/values"
    opened = tenants.http.post(reading, json={"reason": "curious"}, headers=tenants.hands(person))
    assert opened.status_code == 404
    assert tenants.get(f"/api/audit/records/{call}", other)[0] == 200
    found = tenants.get("/api/audit/search", person, count=1000)[1]["records"]
    assert {each["record"].get("tenant") for each in found} <= {None, ACME if person == "paul" else GLOBEX}


def test_a_tenants_auditor_reads_and_opens_the_tenants_own_log_on_record_there(tenants: Tenants) -> None:
    call = tenants.call("desk.read", tenants.token("paul")).headers["bailiwick-decision"]
    status, found = tenants.get("/api/audit/search", "paul", q=f"call:{call} kind:call.*")
    assert (status, [each["record"]["kind"] for each in found["records"]]) == (200, ["call.end", "call.start"])
    reading = f"/api/audit/records/{call}/values"
    opened = tenants.http.post(reading, json={"reason": "ticket"}, headers=tenants.hands("paul")).json()
    assert opened["subject"] == "user:dev/paul"
    assert tenants.log_of(ACME)[-1].kind == "audit.read"
    assert "audit.read" not in tenants.kinds("ledger")
    assert tenants.get("/api/audit/search", "fiona", log="ledger")[0] == 200


@pytest.mark.parametrize("path", ["checkpoint", "tile/0/000.p/1", "tile/entries/000.p/1"])
def test_attack_tiles_and_heads_of_another_tenants_log_are_refused_as_those_of_none(tenants: Tenants, path: str) -> None:
    for log in (GLOBEX, HOUSE, "nobody"):
        assert tenants.get(f"/ledger/{log}/{path}", "paul")[0] == 403
        assert tenants.http.get(f"/ledger/{log}/{path}").status_code == 401
    assert tenants.http.get(f"/ledger/{ACME}/{path}").status_code == 401
    assert tenants.get(f"/ledger/{ACME}/checkpoint", "paul")[0] == 200


def test_what_anybody_may_see_names_no_tenant(tenants: Tenants) -> None:
    for path in ("/readyz", "/api/checkpoint", "/ledger/ledger/checkpoint", f"/ledger/{TOP}/checkpoint"):
        answer = tenants.http.get(path)
        assert answer.status_code == 200, path
        assert not {name for name in (ACME, GLOBEX) if name in answer.text}, path
    for person in ("paul", "mia"):
        assert tenants.get(f"/ledger/{TOP}/tile/entries/000.p/1", person)[0] == 403


def test_the_root_log_holds_the_heads_of_all_and_all_of_it_verifies(tenants: Tenants) -> None:
    def heads() -> dict[str, int]:
        if not tenants.file_of("root").exists():
            return {}
        return {record.leaf["of"]: record.leaf["size"] for record in tenants.log_of("root") if record.kind == "log.checkpoint"}

    sizes = {name: len(tenants.log_of(name)) for name in LOGS}
    origins = {name: tenants.vkey_of(name).name for name in LOGS}
    while any(heads().get(origins[name], 0) < sizes[name] for name in LOGS):
        _beat.wait(0.1)
    for record in tenants.log_of("root"):
        if record.kind == "log.checkpoint":
            name = next(name for name, origin in origins.items() if origin == record.leaf["of"])
            assert verify(record.leaf["note"], tenants.vkey_of(name)).size == record.leaf["size"]
    reports = said(tenants, "verify")["logs"]
    assert set(reports) == {*LOGS, "root"}
    assert len({report["root"] for report in reports.values()}) == 5


def said(tenants: Tenants, *words: str) -> Any:
    code, out, err = tenants.verb(*words, "--json")
    assert code == 0, out + err
    return json.loads(out)


def test_the_command_line_finds_the_log_of_what_it_is_asked_for_and_else_asks_which(tenants: Tenants, tmp_path: Path) -> None:
    call = tenants.call("desk.read", tenants.token("mia"))
    decision, workflow = call.headers["bailiwick-decision"], call.headers["bailiwick-workflow"]
    assert said(tenants, "show", decision)["record"]["tenant"] == GLOBEX
    assert said(tenants, "trace", workflow)["allowed"] >= 1
    (tmp_path / "receipt").write_text(call.text)
    while (proof := tenants.verb("prove", str(tmp_path / "receipt")))[0]:
        assert "under no checkpoint yet" in proof[2]
    (tmp_path / "proof").write_text(proof[1])
    checked = {
        name: tenants.verb("prove", str(tmp_path / "proof"), "--check", "--key", str(tenants.vkey_of(name))) for name in LOGS
    }
    assert {name: code for name, (code, _, _) in checked.items()} == dict.fromkeys(LOGS, 1) | {GLOBEX: 0}
    for verb in ("tail", "report"):
        code, _, err = tenants.verb(verb)
        assert (code, f"{ACME}, {GLOBEX}, {HOUSE}" in err) == (2, True)
    assert tenants.verb("tail", "--log", "nobody")[0] == 2
    tail = said(tenants, "tail", "--log", GLOBEX, "-n", "1000")["records"]
    assert decision in {each["id"] for each in tail}
    assert decision not in {each["id"] for each in said(tenants, "tail", "--log", ACME, "-n", "1000")["records"]}
    assert said(tenants, "search", "kind:call.start", "--log", GLOBEX)["records"]
    code, out, _ = tenants.verb("verify", "--log", GLOBEX)
    assert (code, out.splitlines()[0].startswith(f"test.invalid/ledger/t/{GLOBEX}:")) == (0, True)


def test_one_tenants_export_verifies_alone_and_holds_no_word_of_another(tenants: Tenants, tmp_path: Path) -> None:
    out = tmp_path / "acme"
    said(tenants, "export", "--log", ACME, "--out", str(out), "--reason", "yearly", "--disclose", "all")
    script = [sys.executable, str(out / "verify.py"), str(out), "--key", str(tenants.vkey_of(ACME))]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    named = " ".join(str(record.leaf.get("wanted")) for record in tenants.log_of(ACME))  # what its own people asked for
    others = {record.id for name in (GLOBEX, HOUSE, "ledger") for record in tenants.log_of(name) if record.id not in named}
    held = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    data = b"".join(data for path, data in held.items() if path.parts[0] in {"data", "openings", "checkpoint", "tile"})
    assert data
    assert b"user:dev/mia" not in data
    assert not [path for path in held if path.parts[0] == "policy"], "rules of every tenant"
    assert not [path for path, said in held.items() if path.name != "verify.py" and GLOBEX.encode() in said]
    assert not {each for each in others if each.encode() in data}
    assert "audit.export" in tenants.kinds(ACME)


def test_erasing_is_the_gateways_peoples_and_reaches_every_log_that_knows_the_person(tenants: Tenants) -> None:
    wanted = {"subject": "user:dev/mia", "reason": "asked to"}
    assert tenants.http.post("/api/erasures", json=wanted, headers=tenants.hands("paul")).status_code == 403
    asked = tenants.http.post("/api/erasures", json=wanted, headers=tenants.hands("fiona"))
    assert asked.status_code == 201, asked.text
    name = asked.json()["id"]
    assert [record.kind for record in tenants.log_of(GLOBEX) if record.id == name] == ["erasure.ask"]
    assert not [record for log in (ACME, "ledger") for record in tenants.log_of(log) if record.id == name]
    agreed = tenants.http.post(f"/api/erasures/{name}/approval", json=wanted | {}, headers=tenants.hands("fiona"))
    assert agreed.status_code in {403, 422}
    held = tenants.http.post("/api/holds", json={"everybody": True, "reason": "case 1"}, headers=tenants.hands("fiona")).json()
    for log in LOGS:
        assert [record.kind for record in tenants.log_of(log) if record.id == held["id"]] == ["hold.set"]
    assert [hold["id"] for hold in tenants.get("/api/holds", "fiona")[1]["holds"]] == [held["id"]]
    cleared = tenants.http.post(f"/api/holds/{held['id']}/clearing", json={"reason": "closed"}, headers=tenants.hands("fiona"))
    assert cleared.status_code == 200
    for log in LOGS:
        assert [record.kind for record in tenants.log_of(log) if record.leaf.get("hold") == held["id"]] == ["hold.clear"]
    assert (
        tenants.http.post("/api/holds", json={"everybody": True, "reason": "x"}, headers=tenants.hands("mia")).status_code == 403
    )


def test_attack_legal_holds_are_shown_to_nobody_of_another_tenant(tenants: Tenants) -> None:
    assert tenants.call("desk.read", tenants.token("paul")).status_code == 200
    wanted = {"subject": "user:dev/paul", "reason": "case 2"}
    held = tenants.http.post("/api/holds", json=wanted, headers=tenants.hands("fiona"))
    assert held.status_code == 201, held.text
    assert tenants.get("/api/holds", "mia")[0] == 403
    assert "dev/paul" in str(tenants.get("/api/holds", "fiona")[1])
