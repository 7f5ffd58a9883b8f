"""`bailiwick kill`: what an operator types when somebody has to stop, with a gateway and without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli import main
from tests.interaction.world import ROOT, Gateway, Peers, free_port

WARDEN = """\
p, role:warden, acme, admin:kills, read,   allow, -, -, WAR-1
p, role:warden, acme, admin:kills, change, allow, -, -, WAR-2
"""


@pytest.fixture(scope="module")
def gateway(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("verb"), upstreams, more={"revocation": {"poll_seconds": 0.05}})
    policies = running.folder / "policies"
    (policies / "grants" / "wardens.csv").write_text(WARDEN)
    (policies / "roles.csv").write_text((policies / "roles.csv").read_text() + "g, idp:finance-controllers, role:warden, acme\n")
    try:
        yield running.start()
    finally:
        running.stop()


def kill(gateway: Gateway, *words: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BAILIWICK_")}
    environment |= {"NO_COLOR": "1", "COLUMNS": "200"} | ({"BAILIWICK_TOKEN": token} if token is not None else {})
    command = [sys.executable, "-m", "gateway.cli", "kill", *words, "--config", str(gateway.config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=ROOT)


def test_the_way_of_a_kill_as_its_operator_sees_it(gateway: Gateway) -> None:
    warden, paul = gateway.token("fiona"), gateway.token("paul")
    done = kill(gateway, "user", "dev/paul", "--reason", "left", token=warden)
    assert (done.returncode, done.stderr) == (0, "")
    said, how = done.stdout.splitlines()
    assert said == "killed: user user:dev/paul"
    assert gateway.call("desk.read", paul).status_code == 401
    listed = kill(gateway, "list", token=warden)
    assert listed.returncode == 0
    assert "user user:dev/paul" in listed.stdout
    assert ": left" in listed.stdout
    lifted = kill(gateway, "lift", how.rsplit(" ", 1)[1], "--json", token=warden)
    assert (lifted.returncode, json.loads(lifted.stdout)["target"]) == (0, "user:dev/paul")
    assert gateway.call("desk.read", paul).status_code == 200
    assert kill(gateway, "list", token=warden).stdout == ""
    assert json.loads(kill(gateway, "list", "--lifted", "--json", token=warden).stdout)["kills"][0]["lifted"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/kills", '{"kind": "token", "target": "mine", "reason": "x", "kind": "tenant", "target": "acme"}'),
        ("/api/kills", '{"kind": "tenant", "target": "acme", "reason": "x", "\\u006bind": "token"}'),
        ("/api/grants", '{"agent": "clerk", "scope": "desk.read", "ends": 1, "scope": "*"}'),
        ("/api/policy/rollback", '{"bundle": "00000000", "bundle": "11111111"}'),
    ],
)
def test_a_wish_that_two_readers_could_read_in_two_ways_is_none(gateway: Gateway, path: str, body: str) -> None:
    shown = {"Authorization": f"Bearer {gateway.token('fiona')}", "Content-Type": "application/json"}
    answer = gateway.http.post(path, content=body, headers=shown)
    assert (answer.status_code, answer.json()["title"]) == (422, "invalid-request")
    assert "not JSON that is read here" in answer.json()["detail"]
    for kind in ("text/plain", "application/x-www-form-urlencoded"):  # what a page can send without asking first
        answer = gateway.http.post(path, content=body.partition(", ")[0] + "}", headers=shown | {"Content-Type": kind})
        assert (answer.status_code, "application/json" in answer.json()["detail"]) == (422, True)
    assert gateway.http.get("/api/kills", headers=shown).json() == {"kills": []}


def audit(gateway: Gateway, *words: str) -> str:
    command = [sys.executable, "-m", "gateway.cli", "audit", *words, "--config", str(gateway.config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT).stdout


def test_an_auditor_reads_by_name_who_killed_whom(gateway: Gateway) -> None:
    made = json.loads(kill(gateway, "user", "dev/paul", "--reason", "left", "--json", token=gateway.token("fiona")).stdout)
    assert kill(gateway, "lift", made["id"], token=gateway.token("fiona")).returncode == 0
    told = audit(gateway, "show", made["id"], "--reason", "a test")
    assert "who     user:dev/fiona" in told
    lines = [
        line for line in audit(gateway, "tail", "--reason", "a test").splitlines() if f"identity.kill     {made['id']}  " in line
    ]
    assert [line.rpartition(f"{made['id']}  ")[2] for line in lines] == ["user user:dev/paul  user:dev/fiona"]


def test_people_kill_their_own_without_a_right_and_nobody_elses(gateway: Gateway) -> None:
    mia = gateway.token("mia")
    assert kill(gateway, "agent", "clerk", "--reason", "no", token=mia).returncode == 1
    no = kill(gateway, "list", "--json", token=mia)
    (problem,) = json.loads(no.stdout)["problems"]
    assert (no.returncode, no.stderr, problem["code"]) == (1, "", "user-lacks-right")
    mine = kill(gateway, "user", "dev/mia", "--reason", "my laptop is gone", "--before", "now", "--json", token=mia)
    assert (mine.returncode, json.loads(mine.stdout)["source"]) == (0, "self")
    refused = kill(gateway, "list", "--mine", token=mia)
    assert refused.returncode == 2
    assert "help: BAILIWICK_TOKEN holds a token that is not (or no longer) good here" in refused.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("user", "dve/paul", "--reason", "x"), "no issuer dve"),
        (("user", "dev/paul"), "--reason"),
        (("workflow", "wf-1", "--reason", "x"), "26 hex"),
        (("user", "dev/paul", "--reason", "x", "--before", "yesterday"), "is no time"),
        (("user", "dev/paul", "--reason", "x", "--before", "2026-01-01T00:00:00"), "no time zone"),
        (("user", "dev/paul", "--reason", "x", "--offline"), "a gateway answers"),
        (("user", "dev/paul", "--reason", "x", "--offline", "--mine"), "goes with neither"),
        (("planet", "earth"), "No such command"),
    ],
)
def test_misuse_is_told_and_ends_with_2(
    gateway: Gateway, words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: what is said before anybody is asked needs no other."""
    monkeypatch.setenv("BAILIWICK_TOKEN", gateway.token("fiona"))
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main(["kill", *words, "--config", str(gateway.config)])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert told in printed.err


def test_an_unknown_kill_ends_with_1_and_no_token_with_2(gateway: Gateway) -> None:
    ended = kill(gateway, "lift", "no-such", token=gateway.token("fiona"))
    assert (ended.returncode, "unknown-kill" in ended.stderr) == (1, True)
    assert kill(gateway, "list").returncode == 2


def test_without_a_gateway_a_kill_waits_in_the_store_and_so_does_the_way_back_where_nobody_is_left_to_lift_it(
    upstreams: Peers, tmp_path: Path
) -> None:
    gateway = Gateway(tmp_path, upstreams)
    try:
        token = gateway.start().token()
        gateway.stop()
        done = kill(gateway, "tenant", "acme", "--reason", "at night", "--offline", "--json")
        assert done.returncode == 0, done.stderr
        made = json.loads(done.stdout)
        assert made["source"] == "offline"
        assert made["by"].startswith("os:")
        listed = json.loads(kill(gateway, "list", "--offline", "--json").stdout)["kills"]
        assert [each["id"] for each in listed] == [made["id"]]
        gateway.start()
        assert gateway.call("desk.read", token).status_code == 401
        assert kill(gateway, "lift", made["id"], token=gateway.token("fiona")).returncode == 2  # she is killed, too
        assert kill(gateway, "lift", made["id"], "--offline").returncode == 2  # a gateway answers
        gateway.stop()
        assert kill(gateway, "lift", "no-such", "--offline").returncode == 1
        lifted = kill(gateway, "lift", made["id"], "--offline")
        assert (lifted.returncode, lifted.stderr) == (0, ""), lifted.stderr
        assert lifted.stdout == "lifted: tenant acme, once a gateway has started and recorded it\n"
        gateway.start()  # started again, the kill is recorded once
        assert gateway.call("desk.read", token).status_code == 200
        gateway.stop()
        killed, back = [record for record in gateway.records() if record.kind in {"identity.kill", "identity.lift"}]
        assert (killed.id, killed.leaf["source"]) == (made["id"], "offline")
        assert gateway.opened(killed, "reason") == b"at night"
        assert (back.kind, back.leaf["kill"], back.leaf["source"]) == ("identity.lift", made["id"], "offline")
        assert back.leaf["by"].startswith("os:")
        assert f"tenant {made['id']}" in audit(gateway, "tail", "--reason", "a test")
    finally:
        gateway.stop()


def test_a_kill_written_beside_a_gateway_that_only_seems_away_is_read_by_it(gateway: Gateway) -> None:
    """By a second process on the same SQLite, which knows nothing of the first."""
    settings = gateway.settings | {"server": {"port": free_port(), "public_url": gateway.public_url}}
    other = gateway.folder / "elsewhere.yaml"
    other.write_text(json.dumps(settings))
    courier = gateway.agent_secrets["courier"]
    assert gateway.http.get("/api/whoami", headers={"Authorization": f"Bearer {courier}"}).status_code == 200
    command = [sys.executable, "-m", "gateway.cli", "kill", "agent", "courier", "--reason", "now", "--offline"]
    done = subprocess.run([*command, "--config", str(other)], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    while gateway.http.get("/api/whoami", headers={"Authorization": f"Bearer {courier}"}).status_code != 401:
        assert gateway.http.get("/healthz").status_code == 200
