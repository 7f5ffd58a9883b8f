"""A gateway with anchors: checkpoints arrive elsewhere, a failing place is named and holds up nobody, a backup is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.checkpoint import Vkey, verify
from gateway.identity.keyfiles import ledger_key
from tests.interaction.world import ROOT, Gateway, Peers

pytestmark = pytest.mark.timeout(400)  # several processes start and end in each
ORIGIN = "test.invalid/acme"
_beat = threading.Event()


def anchored(gateway: Gateway, told: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What `/readyz` says once it says that."""
    while not told(ready := gateway.http.get("/readyz").json()):
        _beat.wait(0.05)
    return dict(ready)


def newest(folder: Path, vkey: Vkey) -> int:
    return max((verify(file.read_text(), vkey).size for file in folder.glob("*.checkpoint")), default=0)


@pytest.fixture
def gateway(upstreams: Peers, tmp_path: Path) -> Iterator[Gateway]:
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "remote.git")], check=True)
    anchors = {
        "mailbox": {"folder": "mailbox", "seconds": 0.2},
        "repo": {"git": {"remote": str(tmp_path / "remote.git")}, "seconds": 0.2},
        "away": {"git": {"remote": str(tmp_path / "nowhere.git")}, "seconds": 0.2},
    }
    running = Gateway(tmp_path, upstreams, more={"ledger": {"origin": ORIGIN, "anchors": anchors}})
    assert running.attempt() is None
    yield running
    running.kill()


def test_checkpoints_arrive_and_a_place_that_fails_is_named_and_holds_up_nobody(gateway: Gateway) -> None:
    vkey = Vkey.of(ORIGIN, ledger_key(gateway.folder / "data"))
    assert "result" in gateway.call("desk.read", gateway.token()).json()
    mailbox = gateway.folder / "mailbox"
    size = max(record.index for record in gateway.records()) + 1
    ready = anchored(gateway, lambda ready: newest(mailbox, vkey) >= size and "anchors" in ready.get("degraded", {}))
    assert ready["ready"] is True
    assert ready["degraded"]["anchors"].startswith("away git ls-remote: ")
    assert "unwitnessed" in ready["ledger"]
    ready = anchored(gateway, lambda ready: "mailbox has" in ready["ledger"] and "repo has" in ready["ledger"])
    metrics = gateway.http.get("/metrics").text
    assert 'bailiwick_ledger_anchor_failing{anchor="away"} 1' in metrics
    assert 'bailiwick_ledger_anchor_failing{anchor="mailbox"} 0' in metrics
    command = ["git", "show", "checkpoints:checkpoint"]
    pushed = subprocess.run(command, cwd=gateway.folder / "remote.git", capture_output=True, text=True, check=True).stdout
    assert verify(pushed, vkey).origin == ORIGIN
    gateway.stop()
    assert "an anchor does not take checkpoints: away" in gateway.log.read_text()
    script = [sys.executable, str(ROOT / "audit/verify.py"), str(gateway.ledger_file), "--checkpoint", str(mailbox)]
    run = subprocess.run([*script, "--key", str(vkey)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_a_gateway_whose_data_was_set_back_behind_its_mailbox_does_not_start(gateway: Gateway) -> None:
    vkey = Vkey.of(ORIGIN, ledger_key(gateway.folder / "data"))
    gateway.stop()
    shutil.copytree(gateway.folder / "data", gateway.folder / "backup")
    assert gateway.attempt() is None
    gateway.call("desk.read", gateway.token())
    anchored(gateway, lambda _: newest(gateway.folder / "mailbox", vkey) >= len(gateway.records()))
    gateway.stop()
    shutil.rmtree(gateway.folder / "data")
    (gateway.folder / "backup").rename(gateway.folder / "data")
    assert gateway.attempt() not in (0, None)
    assert "the anchor mailbox holds a checkpoint of" in gateway.log.read_text()
