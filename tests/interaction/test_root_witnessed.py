"""The root log over tenants' logs is witnessed, anchored and forwarded as any log is, and how it stands is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audit.checkpoint import verify
from tests.interaction.tenants_world import ACME, GLOBEX, Tenants
from tests.interaction.test_witnesses import Witness
from tests.interaction.world import ROOT, Peers

pytestmark = pytest.mark.timeout(400)  # processes start and end
TOP, ORIGIN = "root", "test.invalid/ledger/root"
WITNESSED = "the root log is witnessed"
_beat = threading.Event()


@dataclass
class Town:
    """Three tenants, and a witness of their root log alone."""

    gateway: Tenants
    witness: Witness
    box: Path
    lines: Path

    def until(self, told: Callable[[], bool]) -> None:
        while not told():
            _beat.wait(0.05)

    def ready(self) -> Any:
        return self.gateway.http.get("/readyz").json()

    def heads(self) -> int:
        return sum(record.kind == "log.checkpoint" for record in self.gateway.log_of(TOP))


@pytest.fixture
def town(upstreams: Peers, tmp_path: Path) -> Iterator[Town]:
    (tmp_path / "data").mkdir(mode=0o700)
    bare = Tenants(tmp_path, upstreams)  # whose key the witness is told of before there is a log
    witness = Witness(tmp_path / "witness", "w.invalid/1", str(bare.vkey_of(TOP)), ORIGIN)
    witness.start(new=True).wait()
    box, lines = tmp_path / "box", tmp_path / "root.jsonl"
    root = {
        "witnesses": [{"url": witness.url, "key": witness.key}],
        "witness_seconds": 0.2,
        "anchors": {"box": {"folder": str(box), "seconds": 0.2}},
        "forwarders": {"copy": {"file": str(lines), "begin": "first", "seconds": 0.1}},
    }
    box.mkdir()
    gateway = Tenants(tmp_path, upstreams, more={"ledger": {"root": root}})
    try:
        gateway.start()
        yield Town(gateway, witness, box, lines)
    finally:
        gateway.kill()
        witness.kill()


def test_the_root_log_is_remembered_outside_and_whoever_asks_is_told_so(town: Town) -> None:
    gateway = town.gateway
    gateway.call("desk.read", gateway.token("paul"))
    town.until(lambda: WITNESSED in town.ready()["ledger"])
    assert town.ready()["ledger"].startswith("unwitnessed")  # the gateway's own log, of which the witness was not told
    assert "degraded" not in town.ready()
    metrics = gateway.http.get("/metrics").text.splitlines()
    sizes = {
        line.split(" ")[0]: float(line.split(" ")[1]) for line in metrics if line.startswith("bailiwick_ledger_witnessed_rec")
    }
    assert sizes['bailiwick_ledger_witnessed_records{log="root"}'] > 0
    assert sizes[f'bailiwick_ledger_witnessed_records{{log="{ACME}"}}'] == 0
    key = gateway.vkey_of(TOP)
    town.until(lambda: bool(list(town.box.glob("*.checkpoint"))))
    assert all(verify(each.read_text(), key).origin == ORIGIN for each in town.box.glob("*.checkpoint"))
    town.until(lambda: town.lines.exists() and '"kind":"log.checkpoint"' in town.lines.read_text())
    code, status, _ = gateway.verb("logs", "--json")
    said = {each["log"]: each["witnessed"] for each in json.loads(status)["logs"]}
    assert (code, said[TOP].startswith("witnessed by 1 of 1"), said[GLOBEX]) == (0, True, "unwitnessed: no witness is asked")

    gateway.stop()
    assert gateway.verb("verify")[0] == 0  # of the root also that its witness cosigned it
    script = [sys.executable, str(ROOT / "audit/verify.py"), str(gateway.file_of(TOP)), "--key", str(key)]
    run = subprocess.run([*script, "--witness", town.witness.key, "--quorum", "1"], capture_output=True, text=True, check=False)
    assert (run.returncode, "UNWITNESSED" in run.stdout) == (0, False), run.stdout


def test_attack_a_root_log_is_set_back_and_nothing_more_is_written_into_it(town: Town, tmp_path: Path) -> None:
    gateway = town.gateway
    gateway.call("desk.read", gateway.token("paul"))
    town.until(lambda: WITNESSED in town.ready()["ledger"])
    gateway.stop()
    folder = gateway.file_of(TOP).parent
    for file in folder.glob("@root*"):
        shutil.copy(file, tmp_path / file.name)
    gateway.start()
    before = town.witness.newest()
    gateway.call("desk.read", gateway.token("mia"))
    town.until(lambda: town.witness.newest() != before)
    gateway.stop()
    for file in folder.glob("@root*"):
        file.unlink()
    for file in tmp_path.glob("@root*"):  # with the file that remembers what was signed: whoever has the disk has both
        shutil.copy(file, folder / file.name)
    shutil.rmtree(town.box)  # that anchor is out of the way: here the witness alone remembers
    town.box.mkdir()
    heads = town.heads()
    assert gateway.attempt() is None  # it stops nobody
    assert "result" in gateway.call("desk.read", gateway.token("paul")).json()
    town.until(lambda: "witnesses remember another log" in town.ready().get("degraded", {}).get("anchors", ""))
    assert town.heads() == heads
