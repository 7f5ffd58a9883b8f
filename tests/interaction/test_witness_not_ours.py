"""Our side of c2sp.org/tlog-witness against the other side as others wrote it: litewitness, and torchwood's verifier, in Go."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from audit.checkpoint import Vkey, parse
from audit.cosignature import WitnessKey
from gateway.identity.keyfiles import ledger_key
from tests.go_program import built
from tests.interaction.test_witnesses import ORIGIN, Town
from tests.interaction.world import Gateway, Peers, free_port

AUDITOR = "p, role:buyer, acme, audit:ledger, *, allow, -, -, AUD-1\n"
pytestmark = pytest.mark.timeout(900)  # Go may have to compile everything first


@pytest.fixture(scope="module")
def verify_in_go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("./verify", tmp_path_factory.mktemp("go"))


def checked(program: Path, gateway: Gateway, vkey: str, *witnesses: str) -> dict[str, Any]:
    environment = os.environ | {"TOKEN": gateway.token(), "WITNESSES": " ".join(witnesses), "NO_PROXY": "127.0.0.1"}
    command = [str(program), f"{gateway.url}/ledger/ledger", vkey, "3"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout))


def test_what_our_witnesses_cosign_is_believed_by_torchwood(upstreams: Peers, tmp_path: Path, verify_in_go: Path) -> None:
    town = Town(tmp_path, upstreams)
    (town.gateway.folder / "policies/grants/auditors.csv").write_text(AUDITOR)
    try:
        town.gateway.start()
        size = town.witnessed(2)
        said = checked(verify_in_go, town.gateway, town.vkey, *(witness.key for witness in town.witnesses))
        assert said["witnesses"] == 2
        assert said["size"] >= size
    finally:
        town.close()


class Litewitness:
    """filippo.io/torchwood/cmd/litewitness, with its key in an ssh-agent as it wants."""

    def __init__(self, folder: Path, programs: Path, vkey: str) -> None:
        self.port = free_port()
        key = Ed25519PrivateKey.generate()
        self.key = str(WitnessKey.of("lite.example/1", key))
        file, socket = folder / "key", folder / "agent"
        file.touch(0o600)
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        self._processes = [subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)]
        while not socket.exists():
            assert self._processes[0].poll() is None
        agent = os.environ | {"SSH_AUTH_SOCK": str(socket)}
        for command in (
            ["ssh-add", "-q", str(file)],
            [str(programs / "witnessctl"), "add-log", "-db", str(folder / "db"), "-origin", ORIGIN],
            [str(programs / "witnessctl"), "add-key", "-db", str(folder / "db"), "-origin", ORIGIN, "-key", vkey],
        ):
            subprocess.run(command, check=True, capture_output=True, env=agent)
        shown = subprocess.run(["ssh-add", "-l"], check=True, capture_output=True, text=True, env=agent).stdout.split()[1]
        command = [str(programs / "litewitness"), "-db", str(folder / "db"), "-key", shown, "-name", "lite.example/1"]
        command += ["-ssh-agent", str(socket), "-listen", f"127.0.0.1:{self.port}"]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def close(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()


@pytest.fixture
def litewitness(tmp_path: Path) -> Iterator[Litewitness]:
    if shutil.which("ssh-agent") is None:
        pytest.skip("SKIPPED LOUDLY: litewitness wants an ssh-agent, and there is none")
    programs = tmp_path / "bin"
    for program in ("litewitness", "witnessctl"):
        built(f"filippo.io/torchwood/cmd/{program}", programs)
    (tmp_path / "data").mkdir(mode=0o700)
    made = Litewitness(tmp_path, programs, str(Vkey.of(ORIGIN, ledger_key(tmp_path / "data"))))
    yield made
    made.close()


def test_litewitness_cosigns_our_log_as_it_grows_and_refuses_one_that_was_set_back(
    upstreams: Peers, tmp_path: Path, litewitness: Litewitness, verify_in_go: Path
) -> None:
    """A first checkpoint, consistency proofs, a restart, and the conflict: with a witness that was not written here."""
    witness = {"url": f"http://127.0.0.1:{litewitness.port}", "key": litewitness.key}
    gateway = Gateway(tmp_path, upstreams, more={"ledger": {"origin": ORIGIN, "witnesses": [witness], "witness_seconds": 0.2}})
    (gateway.folder / "policies/grants/auditors.csv").write_text(AUDITOR)
    vkey = str(Vkey.of(ORIGIN, ledger_key(tmp_path / "data")))

    def witnessed() -> int:
        head, signatures = parse(gateway.http.get("/ledger/ledger/checkpoint").text)
        return head.size if "lite.example/1" in [name for name, _ in signatures] else 0

    try:
        gateway.start()
        sizes = [0]
        for _ in range(4):
            gateway.call("desk.read", gateway.token())
            while (size := witnessed()) <= sizes[-1]:
                pass
            sizes.append(size)
        assert checked(verify_in_go, gateway, vkey, litewitness.key)["size"] >= sizes[-1]
        gateway.stop()
        shutil.copytree(tmp_path / "data", tmp_path / "backup")
        gateway.start()
        gateway.call("desk.read", gateway.token())
        while witnessed() <= sizes[-1]:
            pass
        gateway.stop()
        shutil.rmtree(tmp_path / "data")
        (tmp_path / "backup").rename(tmp_path / "data")
        assert gateway.attempt() not in (0, None)
        assert "lite.example/1 knows" in gateway.log.read_text()
    finally:
        gateway.kill()
