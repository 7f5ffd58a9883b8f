"""Two tenants' ledgers and the root log over them: each checkpoint of theirs is a record of it, and can be proven."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audit.checkpoint import Vkey, verify
from audit.reader import Ledger, Record
from audit.tlog_proof import TlogProof
from gateway.identity.keyfiles import create, generated_ed25519, ledger_key
from gateway.settings import Secret
from tests.go_program import built
from tests.interaction.world import ROOT, Gateway, Peers

pytestmark = pytest.mark.timeout(400)  # several processes start and end in each
LOG = "root"
_beat = threading.Event()


@dataclass
class Houses:
    """Two gateways with a ledger each, and the root log that both write."""

    acme: Gateway
    globex: Gateway
    root: Path
    root_key: Vkey

    def vkey(self, gateway: Gateway) -> Vkey:
        return Vkey.of(gateway.settings["ledger"]["origin"], ledger_key(gateway.folder / "data"))

    def checkpoints(self) -> list[Record]:
        """The root log's records of checkpoints."""
        if not self.root.exists():
            return []
        with Ledger.open(f"sqlite:///{self.root}") as log:
            return [record for record in log.records() if record.kind == "log.checkpoint"]

    def sizes(self, gateway: Gateway) -> list[int]:
        """Of the gateway's ledger, as the root log has them."""
        return [record.leaf["size"] for record in self.checkpoints() if record.leaf["of"] == gateway.settings["ledger"]["origin"]]

    def until(self, told: Callable[[], bool]) -> None:
        while not told():
            _beat.wait(0.05)


@pytest.fixture
def houses(upstreams: Peers, tmp_path: Path) -> Iterator[Houses]:
    create(tmp_path / "root.pem", generated_ed25519())
    root = {
        "url": f"sqlite:///{tmp_path / 'root.db'}",
        "origin": "test.invalid/root",
        "key": {"file": str(tmp_path / "root.pem")},
    }

    def house(name: str) -> Gateway:
        (tmp_path / name).mkdir()
        ledger: dict[str, Any] = {"origin": f"test.invalid/{name}", "anchors": {"root": {"root": root, "seconds": 0.2}}}
        return Gateway(tmp_path / name, upstreams, more={"ledger": ledger})

    key = Vkey.of("test.invalid/root", ledger_key(tmp_path, Secret(file=tmp_path / "root.pem")))
    made = Houses(house("acme"), house("globex"), tmp_path / "root.db", key)
    try:
        made.acme.start()
        made.globex.start()
        yield made
    finally:
        made.acme.kill()
        made.globex.kill()


@pytest.mark.timeout(500)  # Go may have to compile the checker first
def test_every_tenants_checkpoints_are_records_of_the_root_and_proven_by_code_not_written_here(
    houses: Houses, tmp_path: Path
) -> None:
    for gateway in (houses.acme, houses.globex, houses.acme):
        before = len(houses.sizes(gateway))
        gateway.call("desk.read", gateway.token())
        houses.until(lambda gateway=gateway, before=before: len(houses.sizes(gateway)) > before)  # type: ignore[misc]
    assert sorted(houses.sizes(houses.acme)) == houses.sizes(houses.acme)
    for record in houses.checkpoints():
        house = houses.acme if record.leaf["of"].endswith("acme") else houses.globex
        assert verify(record.leaf["note"], houses.vkey(house)).size == record.leaf["size"]
    assert verify(houses.acme.http.get(f"/ledger/{LOG}/checkpoint").text, houses.root_key).size > 0
    said = houses.acme.http.get("/readyz").json()["ledger"]
    assert "root has" in said
    assert "the root log is unwitnessed" in said
    houses.acme.stop()
    houses.globex.stop()
    run = houses.acme.audit("verify", "--ledger", str(houses.root), "--key", str(houses.root_key), "--quorum", "0")
    assert run.returncode == 0, run.stdout
    newest = houses.checkpoints()[-1]
    proof = tmp_path / "newest.tlog-proof"
    proof.write_text(houses.acme.audit("prove", newest.id, "--ledger", str(houses.root)).stdout)
    head = TlogProof.parse(proof.read_text()).verify(houses.root_key)
    assert head.size > newest.index
    run = houses.acme.audit("prove", str(proof), "--check", "--key", str(houses.root_key))
    assert (run.returncode, f"record {newest.index} of {head.size} in test.invalid/root" in run.stdout) == (0, True)
    said = json.loads(houses.acme.audit("prove", newest.id, "--ledger", str(houses.root), "--json").stdout)
    assert (said["index"], TlogProof.parse(said["proof"]).record) == (newest.index, newest.data)
    other = houses.acme.audit("prove", str(proof), "--check", "--key", str(houses.vkey(houses.acme)))
    assert (other.returncode, "nothing is proven" in other.stderr) == (1, True)
    spicy = built("./spicy", tmp_path)
    done = subprocess.run([str(spicy), str(proof), str(houses.root_key)], capture_output=True, check=True)
    assert json.loads(done.stdout)["note"] == newest.leaf["note"]


def standalone(houses: Houses, gateway: Gateway) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(ROOT / "audit/verify.py"), str(gateway.ledger_file), "--key", str(houses.vkey(gateway))]
    root = ["--root", str(houses.root), "--root-key", str(houses.root_key)]
    return subprocess.run([*script, *root], capture_output=True, text=True, check=False)


def test_a_tenants_log_that_was_rewritten_or_set_back_is_found_by_the_root_and_goes_no_further_there(houses: Houses) -> None:
    acme = houses.acme
    acme.call("desk.read", acme.token())
    houses.until(lambda: len(houses.sizes(acme)) > 1)
    acme.stop()
    assert standalone(houses, acme).returncode == 0
    shutil.copytree(acme.folder / "data", acme.folder / "backup")
    acme.start()
    acme.call("desk.read", acme.token())
    size = len(acme.records())
    houses.until(lambda: houses.sizes(acme)[-1] >= size)
    acme.stop()
    largest = houses.sizes(acme)[-1]
    shutil.rmtree(acme.folder / "data")
    (acme.folder / "backup").rename(acme.folder / "data")
    assert "the end of the log is gone" in standalone(houses, acme).stdout
    assert acme.attempt() is None  # nobody outside refuses it; the root does not take it
    houses.until(lambda: "the log was set back" in acme.http.get("/readyz").json().get("degraded", {}).get("anchors", ""))
    while len(acme.records()) < largest + 5:
        acme.call("desk.read", acme.token())
    houses.until(lambda: "does not continue" in acme.http.get("/readyz").json().get("degraded", {}).get("anchors", ""))
    acme.stop()
    assert houses.sizes(acme)[-1] == largest
    run = standalone(houses, acme)
    assert run.returncode == 1
    assert "are not those that the checkpoint that you kept" in run.stdout


def test_a_root_log_that_was_changed_is_found_itself(houses: Houses) -> None:
    houses.until(lambda: bool(houses.sizes(houses.acme)))
    houses.acme.stop()
    houses.globex.stop()
    with sqlite3.connect(houses.root) as thief:
        thief.execute("DROP TRIGGER ledger_leaves_no_update")
        thief.execute("UPDATE ledger_leaves SET data = CAST(replace(data, '\"size\":', '\"sizE\":') AS BLOB)")
    thief.close()
    run = standalone(houses, houses.acme)
    assert run.returncode == 1
    assert "the root log: " in run.stdout
