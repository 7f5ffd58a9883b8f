"""The ledger as it is served: for whom policy grants it, as c2sp.org/tlog-tiles has it, checked by code not written here."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit.checkpoint import parse as parse_note
from tests.go_program import built
from tests.interaction.world import Gateway, Peers

AUDITORS = """\
# p, who,           tenant, tool,         action, effect, when, must, id
p,   role:buyer,    acme,   audit:ledger, verify, allow,  -,    -,    AUD-1
p,   role:buyer,    acme,   audit:ledger, read,   allow,  -,    -,    AUD-2
p,   role:marketer, acme,   audit:ledger, verify, allow,  -,    -,    AUD-3
"""


@pytest.fixture(scope="module")
def audited(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose policy names auditors: buyers may read and verify, marketers verify."""
    running = Gateway(tmp_path_factory.mktemp("audited"), upstreams)
    (running.folder / "policies/grants/auditors.csv").write_text(AUDITORS)
    try:
        yield running.start()
    finally:
        running.stop()


def get(gateway: Gateway, path: str, person: str | None = "paul") -> tuple[int, bytes, dict[str, str]]:
    headers = {} if person is None else {"Authorization": f"Bearer {gateway.token(person)}"}
    answer = gateway.http.get(f"/ledger/{path}", headers=headers)
    return answer.status_code, answer.content, dict(answer.headers)


def signed_size(gateway: Gateway, at_least: int) -> int:
    """The size of the served checkpoint once it covers so many records: the gateway signs about once a second."""
    while True:
        note = gateway.http.get("/ledger/ledger/checkpoint").raise_for_status().text
        if (size := parse_note(note)[0].size) >= at_least:
            return size


def vkey(gateway: Gateway) -> str:
    found = re.search(r"key (test\.invalid/acme\+\S+)", gateway.log.read_text())
    assert found is not None
    return found[1]


def checked_by_go(program: Path, gateway: Gateway, records: int, *old: str) -> subprocess.CompletedProcess[str]:
    command = [str(program), f"{gateway.url}/ledger/ledger", vkey(gateway), str(records), *old]
    environment = os.environ | {"TOKEN": gateway.token(), "NO_PROXY": "127.0.0.1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.fixture(scope="session")
def verify_in_go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The verifier on golang.org/x/mod/sumdb, built; a loud skip without Go."""
    return built("./verify", tmp_path_factory.mktemp("go"))


@pytest.mark.timeout(500)  # Go may have to compile its own library first
def test_gos_own_transparency_log_code_verifies_what_a_running_gateway_serves(
    audited: Gateway, verify_in_go: Path, tmp_path: Path
) -> None:
    for _ in range(3):
        audited.call("desk.read", audited.token())
    kept = tmp_path / "kept.txt"
    kept.write_text(audited.http.get("/ledger/ledger/checkpoint").text)
    old = parse_note(kept.read_text())[0].size
    token = audited.token()
    for _ in range(150):  # two records each: a second tile begins
        audited.call("desk.read", token)
    size = signed_size(audited, old + 300)
    run = checked_by_go(verify_in_go, audited, 20, str(kept))
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert said["size"] >= size > 256
    assert (said["old"], said["records"]) == (old, 20)


def test_gos_code_finds_a_log_that_does_not_continue_the_checkpoint_that_was_kept(
    audited: Gateway, verify_in_go: Path, upstreams: Peers, tmp_path: Path
) -> None:
    """A second gateway with the same signing key and other records: a fork, correctly signed on both sides."""
    fork = Gateway(tmp_path, upstreams)
    (fork.folder / "policies/grants/auditors.csv").write_text(AUDITORS)
    (fork.folder / "data").mkdir(mode=0o700)
    key = fork.folder / "data/ledger-key.pem"
    key.write_bytes((audited.folder / "data/ledger-key.pem").read_bytes())
    key.chmod(0o600)
    kept = tmp_path / "kept.txt"
    try:
        fork.start()
        kept.write_text(fork.http.get("/ledger/ledger/checkpoint").text)
        while signed_size(audited, 1) <= parse_note(kept.read_text())[0].size:
            audited.call("desk.read", audited.token())
    finally:
        fork.kill()
    run = checked_by_go(verify_in_go, audited, 1, str(kept))
    assert run.returncode == 1
    assert "does not continue the checkpoint" in run.stderr


def test_the_checkpoint_is_everybodys_and_is_never_kept_by_a_cache(audited: Gateway) -> None:
    status, body, headers = get(audited, "ledger/checkpoint", None)
    assert (status, headers["content-type"], headers["cache-control"]) == (200, "text/plain; charset=utf-8", "no-cache")
    assert parse_note(body.decode())[0].origin == "test.invalid/acme"


def test_tiles_are_for_whom_policy_lets_verify_and_records_for_whom_it_lets_read(audited: Gateway) -> None:
    """Paul may both, Mia may verify, a stranger nothing; a tile is the client's to keep and no shared cache's."""
    signed_size(audited, 3)
    status, body, headers = get(audited, "ledger/tile/0/000.p/2")
    assert (status, len(body), headers["content-type"]) == (200, 64, "application/octet-stream")
    assert headers["cache-control"] == "private, max-age=31536000, immutable"
    assert get(audited, "ledger/tile/0/000.p/2", "mia")[0] == 200
    assert get(audited, "ledger/tile/entries/000.p/2")[0] == 200
    assert get(audited, "ledger/tile/entries/000.p/2", "mia")[0] == 403
    assert get(audited, "ledger/tile/0/000.p/2", None)[0] == 401


def test_whoever_reads_records_is_on_record_and_so_is_whoever_may_not(audited: Gateway) -> None:
    signed_size(audited, 3)
    before = len(audited.records())
    get(audited, "ledger/tile/entries/000.p/1")
    get(audited, "ledger/tile/0/000.p/1")
    get(audited, "ledger/tile/entries/000.p/1", "mia")
    new = [record for record in audited.records()[before:] if record.kind in {"audit.read", "decision.deny"}]
    assert [(record.kind, record.leaf["wanted"]) for record in new] == [
        ("audit.read", "tile/entries/000.p/1"),
        ("decision.deny", "tile/entries/000.p/1"),
    ]
    assert new[0].leaf["resource"] == "audit:ledger"


def test_a_gateway_whose_policy_names_no_auditor_serves_no_tile(gateway: Gateway) -> None:
    assert get(gateway, "ledger/tile/0/000.p/1")[0] == 403
    assert get(gateway, "ledger/checkpoint", None)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/999",
        "tile/0/000.p/0",
        "tile/7/000",
        "tile/0/0",
        "tile/0/x000/000",
        "tile/entries/999",
        "tile/0/%2e%2e/000",
        "",
        "x",
    ],
)
def test_what_no_checkpoint_covers_is_nowhere(audited: Gateway, path: str) -> None:
    status, body, headers = get(audited, f"ledger/{path}")
    assert (status, headers["cache-control"]) == (404, "no-store")
    assert json.loads(body)["title"] == "not-found"


def test_another_log_is_nowhere(audited: Gateway) -> None:
    assert get(audited, "other/tile/0/000.p/1")[0] == 404
    assert get(audited, "other/checkpoint", None)[0] == 404


def test_the_verb_writes_the_same_tiles_for_a_web_server(audited: Gateway, tmp_path: Path) -> None:
    size = signed_size(audited, 3)
    run = audited.audit("tiles", str(tmp_path / "www"), "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["size"] >= size
    files = [file for file in (tmp_path / "www/tile").rglob("*") if file.is_file()]
    assert files
    for file in files:
        path = file.relative_to(tmp_path / "www").as_posix()
        assert get(audited, f"ledger/{path}")[1] == file.read_bytes(), path


Make = Callable[..., Gateway]


def test_a_record_whose_bytes_were_changed_is_not_served(own_gateway: Make) -> None:
    """The stored bytes are hashed again: what does not fit is withheld and said to the operator, not handed on as if signed."""
    gateway = own_gateway()
    (gateway.folder / "policies/grants/auditors.csv").write_text(AUDITORS)
    gateway.stop()
    gateway.start()
    size = signed_size(gateway, 3)
    with sqlite3.connect(gateway.ledger_file) as thief:
        thief.execute("DROP TRIGGER ledger_leaves_no_update")
        thief.execute("UPDATE ledger_leaves SET data = CAST(data || ' ' AS BLOB) WHERE idx = 1")
    thief.close()
    assert size >= 3
    assert get(gateway, "ledger/tile/entries/000.p/1")[0] == 200
    assert get(gateway, "ledger/tile/entries/000.p/2")[0] == 503
    gateway.stop()
    assert "a tile of the ledger cannot be served" in gateway.log.read_text()
