"""A gateway and its witnesses as processes: how it stands is said everywhere, and a log that was set back is not gone on with."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from audit import verify
from audit.checkpoint import Vkey, parse
from audit.reader import Ledger
from gateway.identity.keyfiles import ledger_key
from tests.interaction.world import ROOT, Gateway, Peers, free_port

pytestmark = pytest.mark.timeout(400)  # several processes start and end in each
ORIGIN = "test.invalid/acme"


class Witness:
    """`bailiwick audit witness` as a process."""

    def __init__(self, folder: Path, name: str, log: str, origin: str = ORIGIN) -> None:
        self.folder, self.name, self.log, self.origin = folder, name, log, origin
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = ""
        self._process: subprocess.Popen[str] | None = None

    def start(self, *, new: bool = False) -> Witness:
        command = [
            sys.executable,
            "-m",
            "gateway.cli",
            "audit",
            "witness",
            "--listen",
            f"127.0.0.1:{self.port}",
            "--name",
            self.name,
        ]
        command += ["--data", str(self.folder), "--log", f"{self.origin}={self.log}", *(["--new"] if new else [])]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        return self

    def wait(self) -> Witness:
        """Until it listens."""
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        assert line.startswith("witness "), self._process.stderr.read()
        self.key = line.split()[1]
        while " running on http" not in self._process.stderr.readline():
            assert self._process.poll() is None
        return self

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def newest(self) -> str | None:
        """What it shows auditors."""
        answer = httpx.get(f"{self.url}/{hashlib.sha256(self.origin.encode()).hexdigest()}/checkpoint", trust_env=False)
        return answer.text if answer.status_code == 200 else None


class Town:
    """A gateway with two witnesses."""

    def __init__(self, folder: Path, peers: Peers, **ledger: Any) -> None:
        (folder / "data").mkdir(mode=0o700)
        self.vkey = str(Vkey.of(ORIGIN, ledger_key(folder / "data")))
        self.witnesses = [Witness(folder / f"w{number}", f"w.invalid/{number}", self.vkey) for number in (1, 2)]
        for witness in self.witnesses:
            witness.start(new=True)
        for witness in self.witnesses:
            witness.wait()
        places = [{"url": witness.url, "key": witness.key} for witness in self.witnesses]
        settings = {"origin": ORIGIN, "witnesses": places, "quorum": 2, "witness_seconds": 0.2} | ledger
        self.gateway = Gateway(folder, peers, more={"ledger": settings})
        self._beat = threading.Event()

    def close(self) -> None:
        self.gateway.kill()
        for witness in self.witnesses:
            witness.kill()

    def ready(self) -> dict[str, Any]:
        return dict(self.gateway.http.get("/readyz").json())

    def until(self, told: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """What `/readyz` says once it says that."""
        while not told(ready := self.ready()):
            self._beat.wait(0.05)  # the machine has other work; nothing depends on how long
        return ready

    def witnessed(self, at_least: int) -> int:
        """Up to which record it says that it is witnessed, once that is so many."""
        ready = self.until(lambda ready: size_in(ready["ledger"]) >= at_least)
        return size_in(ready["ledger"])

    def size(self) -> int:
        with self.gateway.ledger() as log:
            return log.size


def size_in(said: str) -> int:
    found = re.search(r"^witnessed by 2 of 2 up to record (\d+), last at 2", said)
    return int(found[1]) if found else 0


@pytest.fixture(scope="module")
def calm(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A town that nobody breaks."""
    made = Town(tmp_path_factory.mktemp("town"), upstreams)
    try:
        made.gateway.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def town(upstreams: Peers, tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path, upstreams)
    try:
        made.gateway.start()
        yield made
    finally:
        made.close()


def test_who_outside_remembers_the_log_is_said_everywhere(calm: Town) -> None:
    town, gateway = calm, calm.gateway
    for _ in range(3):
        gateway.call("desk.read", gateway.token())
    size = town.witnessed(6)
    assert "degraded" not in town.ready()
    metrics = gateway.http.get("/metrics").text
    assert 'bailiwick_ledger_witnesses{what="cosigned"} 2' in metrics
    assert 'bailiwick_ledger_witnesses{what="disagree"} 0' in metrics
    served = gateway.http.get("/ledger/ledger/checkpoint").text
    head, signatures = parse(served)
    assert [name for name, _ in signatures] == [ORIGIN, "w.invalid/1", "w.invalid/2"]
    assert head.size >= size
    assert re.search(r"witnessed by 2 of 2 up to record \d+", gateway.audit("tail").stdout)
    run = gateway.audit("verify")
    assert run.returncode == 0, run.stdout
    assert re.search(r"witnessed by 2 of 2 up to record \d+\n +w\.invalid/1: \d+ records, at 20", run.stdout)
    assert "UNWITNESSED" not in run.stdout
    for witness in town.witnesses:
        shown = parse(witness.newest() or "")[0]
        assert shown.origin == ORIGIN
        assert shown.size >= size


def test_a_stranger_with_the_witnesses_keys_alone_verifies_what_they_saw(calm: Town) -> None:
    town, gateway = calm, calm.gateway
    gateway.call("desk.read", gateway.token())
    size = town.witnessed(3)
    keys = [witness.key for witness in town.witnesses]
    report = verify.verify_sqlite(gateway.ledger_file, town.vkey, town.witnesses[0].newest(), keys, 2)
    assert report.findings == []
    assert report.witnessed >= size
    script = [
        sys.executable,
        str(ROOT / "audit/verify.py"),
        str(gateway.ledger_file),
        "--key",
        town.vkey,
        "--quorum",
        "2",
        "--json",
    ]
    run = subprocess.run([*script, "--witness", keys[0], "--witness", keys[1]], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout)["witnessed"] >= report.witnessed


def test_a_log_whose_operator_rewrote_it_and_signed_it_again_is_found_by_the_witnesses_keys(town: Town, tmp_path: Path) -> None:
    """The full insider: database, signing key, seal key, everything.  He signs another history."""
    gateway = town.gateway
    gateway.call("desk.read", gateway.token())
    town.witnessed(3)
    gateway.stop()
    keys = [witness.key for witness in town.witnesses]
    honest = gateway.ledger_file.read_bytes()
    with Ledger.open(f"sqlite:///{gateway.ledger_file}") as log:
        size = log.size
    for file in gateway.folder.glob("data/ledger.db*"):
        file.unlink()
    for witness in town.witnesses:  # the insider has the network, too: nobody contradicts him
        witness.kill()
    gateway.start()
    while town.size() < size:
        gateway.call("desk.read", gateway.token())
    gateway.stop()
    assert verify.verify_sqlite(gateway.ledger_file, town.vkey).ok  # without anybody outside it passes
    found = verify.verify_sqlite(gateway.ledger_file, town.vkey, None, keys, 2).findings
    assert [str(each) for each in found] == ["not 2 of the 2 witnesses cosigned this log"]
    # and with the true cosignatures copied over from the honest log
    (tmp_path / "honest.db").write_bytes(honest)
    with sqlite3.connect(gateway.ledger_file) as forged:
        forged.execute("ATTACH ? AS honest", (str(tmp_path / "honest.db"),))
        forged.execute("INSERT INTO ledger_cosignatures SELECT * FROM honest.ledger_cosignatures")
    forged.close()
    found = verify.verify_sqlite(gateway.ledger_file, town.vkey, None, keys, 2).findings
    assert any("it saw another log, or it is forged" in str(each) for each in found)


def test_a_gateway_whose_whole_data_folder_was_set_back_does_not_start(town: Town) -> None:
    """Everything that the machine itself remembers goes back with the backup: only outside is it known that there was more."""
    gateway = town.gateway
    gateway.call("desk.read", gateway.token())
    town.witnessed(3)
    gateway.stop()
    backup = gateway.folder / "backup"
    shutil.copytree(gateway.folder / "data", backup)
    gateway.start()
    gateway.call("desk.read", gateway.token())
    town.witnessed(town.size())
    gateway.stop()
    shutil.rmtree(gateway.folder / "data")
    shutil.copytree(backup, gateway.folder / "data")
    before = gateway.ledger_file.read_bytes()
    assert gateway.attempt() not in (0, None)
    said = gateway.log.read_text()
    assert re.search(
        r"witnesses remember another log: w\.invalid/1 knows \d+ records of this log, and there are \d+: it was set back", said
    )
    assert gateway.ledger_file.read_bytes() == before  # nothing was signed, nothing recorded


def test_one_witness_that_disagrees_is_an_alarm_and_keeps_nobody_from_working(town: Town) -> None:
    """Its memory is of another log with the same name and key: it is loudly wrong, and cannot stop the gateway by it."""
    gateway = town.gateway
    town.witnessed(1)
    one = town.witnesses[0]
    one.kill()
    memory = one.folder / "seen.json"
    seen = json.loads(memory.read_text())
    seen[ORIGIN]["size"] = 100_000
    memory.write_text(json.dumps(seen))
    one.start().wait()
    gateway.call("desk.read", gateway.token())
    told = "w.invalid/1 knows 100000 records of this log"
    assert town.until(lambda ready: told in ready.get("degraded", {}).get("witnesses", ""))["ready"] is True
    assert 'bailiwick_ledger_witnesses{what="disagree"} 1' in gateway.http.get("/metrics").text
    assert "result" in gateway.call("desk.read", gateway.token()).json()
    gateway.stop()
    assert "THE LEDGER AND A WITNESS DISAGREE" in gateway.log.read_text()
    assert gateway.attempt() is None  # of two that are wanted, one disagrees


def test_a_witness_that_is_away_is_said_and_catches_up_when_it_is_back(town: Town) -> None:
    gateway = town.gateway
    town.witnessed(1)
    one = town.witnesses[0]
    one.kill()
    gateway.call("desk.read", gateway.token())
    ready = town.until(lambda ready: "degraded" in ready)
    assert ready["ready"] is True
    assert ready["degraded"]["witnesses"].startswith("w.invalid/1: ")
    one.start().wait()
    assert town.witnessed(town.size()) >= 3
    town.until(lambda ready: "degraded" not in ready)
