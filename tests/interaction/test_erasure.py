"""One person asks, another agrees, and a person is gone from every store; who reads what is sealed is on record first."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from audit.agreement import Agreement, signed_by
from audit.checkpoint import Vkey
from audit.reader import Ledger, Shredded
from gateway.cli import main
from gateway.configuration import load as load_settings
from gateway.model import Principal, wall_clock
from gateway.parts import derived
from gateway.sandbox.folders import SESSIONS, Folders
from gateway.sandbox.opening import folders_of
from tests.interaction.world import Gateway, Peers

KEEPERS = """\
p, role:keeper,  acme, admin:erasure, change,  allow, -, -, ERA-1
p, role:keeper,  acme, admin:erasure, approve, allow, -, -, ERA-2
p, role:keeper,  acme, admin:holds,   *,       allow, -, -, ERA-3
p, role:second,  acme, admin:erasure, approve, allow, -, -, ERA-4
p, role:keeper,  acme, audit:ledger,  open,    allow, -, -, ERA-5
"""
SECRET = "paul's kestrel order 4711-0815"
ERASE = ("erase", "dev/paul")
SAID = ("--offline", "--unproven", "--approver", "the other one")


@pytest.fixture(scope="module")
def gateway(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("erasure")
    copy = {"file": str(folder / "records.jsonl"), "begin": "first", "seconds": 0.05}
    running = Gateway(folder, upstreams, more={"ledger": {"origin": "test.invalid/acme", "forwarders": {"copy": copy}}})
    policies = running.folder / "policies"
    (policies / "grants" / "keepers.csv").write_text(KEEPERS)
    roles = "g, idp:finance-controllers, role:keeper, acme\ng, idp:marketing-managers, role:second, acme\n"
    (policies / "roles.csv").write_text((policies / "roles.csv").read_text() + roles)
    try:
        yield running.start()
    finally:
        running.stop()


@dataclass
class Ran:
    """How a verb ended, in this process: another costs seconds."""

    returncode: int
    stdout: str
    stderr: str


def audit(gateway: Gateway, *words: str, token: str = "") -> Ran:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in {"NO_COLOR": "1", "COLUMNS": "240", "BAILIWICK_TOKEN": token}.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main(["audit", *words, *(() if words[0] == "agree" else ("--config", str(gateway.config)))])
    return Ran(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def ask(
    gateway: Gateway, method: str, path: str, who: str, body: dict[str, object] | None = None
) -> tuple[int, dict[str, object]]:
    headers = {"Authorization": f"Bearer {gateway.token(who)}"}
    answer = gateway.http.request(method, path, json=body, headers=headers)
    return answer.status_code, answer.json()


def kinds(gateway: Gateway) -> list[str]:
    with Ledger.open(f"sqlite:///{gateway.ledger_file}") as log:
        return [record.kind for record in log.records()]


def test_nothing_sealed_is_shown_before_who_reads_it_and_why_is_on_record(gateway: Gateway) -> None:
    decision = gateway.call("desk.read", gateway.token("paul"), arguments={"text": "seen by nobody"}).headers[
        "bailiwick-decision"
    ]
    before = kinds(gateway).count("audit.read")
    closed = audit(gateway, "show", decision)
    assert closed.returncode == 0
    assert ("seen by nobody" in closed.stdout, "dev/paul" in closed.stdout) == (False, False)
    assert "[sealed: --reason opens it" in closed.stdout
    assert kinds(gateway).count("audit.read") == before
    opened = audit(gateway, "show", decision, "--reason", "ticket 812")
    assert ("seen by nobody" in opened.stdout, "user:dev/paul" in opened.stdout) == (True, True)
    seal = (gateway.folder / "data" / "seal-key").read_bytes()
    with Ledger.open(f"sqlite:///{gateway.ledger_file}", seal_of(seal)) as log:
        (read,) = [record for record in log.records() if record.kind == "audit.read"][before:]
        assert (read.leaf["wanted"], str(read.leaf["by"])[:3]) == (f"record {decision}", "os:")
        assert log.open_value(read, "reason") == b"ticket 812"
        found = log.get(decision)
        assert found is not None
        assert found.index < read.index


def test_over_the_api_too_what_a_record_carried_is_opened_for_a_reason_by_whom_policy_lets(gateway: Gateway) -> None:
    decision = gateway.call("desk.read", gateway.token("mia"), arguments={"text": "told to none"}).headers["bailiwick-decision"]
    path = f"/api/audit/records/{decision}/values"
    assert ask(gateway, "POST", path, "paul", {"reason": "curious"})[0] == 403
    assert ask(gateway, "POST", path, "fiona", {})[0] == 422
    before = kinds(gateway).count("audit.read")
    status, opened = ask(gateway, "POST", path, "fiona", {"reason": "ticket 9"})
    assert (status, opened["subject"]) == (200, "user:dev/mia")
    assert "told to none" in str(opened["values"])
    with gateway.ledger() as log:
        wish, read = [record for record in log.records() if record.kind == "audit.read"][before:]
        assert (read.leaf["request"], log.open_value(read, "reason")) == (wish.id, b"ticket 9")
        assert log.subject_name(str(read.subject)) == "user:dev/fiona"
    assert ask(gateway, "POST", "/api/audit/records/nothing/values", "fiona", {"reason": "x"})[0] == 404


def test_values_stay_closed_where_reading_them_cannot_be_recorded(gateway: Gateway) -> None:
    decision = gateway.call("desk.read", gateway.token("paul"), arguments={"text": "seen by nobody"}).headers[
        "bailiwick-decision"
    ]
    key = gateway.folder / "data" / "ledger-key.pem"
    away = key.rename(key.with_suffix(".away"))
    try:
        refused = audit(gateway, "show", decision, "--reason", "ticket 812")
    finally:
        away.rename(key)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "reading it cannot be recorded" in refused.stderr


def seal_of(text: bytes) -> bytes:
    return base64.b64decode(text)


def test_a_person_is_erased_when_somebody_else_agrees_and_a_hold_does_not_stand_against_it(gateway: Gateway) -> None:
    data = gateway.folder / "data"
    decision = gateway.call("desk.read", gateway.token("paul"), arguments={"text": SECRET}).headers["bailiwick-decision"]
    with closing(sqlite3.connect(data / "state.db")) as state:
        state.execute("INSERT INTO task_owners VALUES ('clerk', 't1', 'c1', 'acme', 'user:dev/paul', 'wf-1', 0)")
        state.commit()
    assert any(b"user:dev/paul" in file.read_bytes() for file in data.glob("state.db*"))  # the search finds what is there
    assert audit(gateway, "search", "subject:user:dev/paul").returncode == 0  # which makes an index
    assert (data / "ledger-index.db").exists()
    fiona, mia = gateway.token("fiona"), gateway.token("mia")
    asked = audit(gateway, "erase", "dev/paul", "--reason", "asked to", "--json", token=fiona)
    assert asked.returncode == 0, asked.stderr
    wish = json.loads(asked.stdout)["id"]
    held = audit(gateway, "hold", "set", "dev/paul", "--reason", "case 12/34", "--json", token=fiona)
    hold = json.loads(held.stdout)["id"]
    listed = audit(gateway, "hold", "list", token=fiona)
    assert f"{hold}  " in listed.stdout
    assert "user:dev/paul" in listed.stdout
    assert audit(gateway, "hold", "list", token=mia).returncode == 1
    alone = audit(gateway, "erase", "dev/paul", "--approve", wish, token=fiona)
    assert (alone.returncode, "same-person" in alone.stderr, "policy grants it" in alone.stderr) == (1, True, False)
    refused = audit(gateway, "erase", "dev/paul", "--approve", wish, token=mia)
    assert (refused.returncode, "held" in refused.stderr, "audit hold list" in refused.stderr) == (1, True, True)
    assert audit(gateway, "hold", "clear", hold, "--reason", "closed", token=fiona).returncode == 0
    assert audit(gateway, "erase", "dev/fiona", "--approve", wish, token=mia).returncode == 1  # it is about somebody else
    done = audit(gateway, "erase", "dev/paul", "--approve", wish, "--json", token=mia)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["state"], said["stores"]) == (
        "erased",
        dict.fromkeys(("approvals", "folders", "grants", "kills", "notices", "sandbox", "vault", "workflows"), 0) | {"tasks": 1},
    )
    assert said["values"] > 0
    for file in data.rglob("*"):
        if file.is_file():
            found = [text for text in (b"kestrel", b"dev/paul") if text in file.read_bytes()]
            assert found == [], file
    with Ledger.open(f"sqlite:///{gateway.ledger_file}", seal_of((data / "seal-key").read_bytes())) as log:
        record = log.get(decision)
        assert record is not None
        assert isinstance(log.open_value(record, "request"), Shredded)
        about = [
            each for each in log.records() if each.leaf.get("target") == said["pseudonym"] or each.subject == said["pseudonym"]
        ]
        assert [each.kind for each in about][-11:] == ["hold.set", *["erasure.store"] * 9, "key.shred"]
        stores = {"approvals", "folders", "grants", "kills", "notices", "sandbox", "tasks", "vault", "workflows"}
        assert {str(each.leaf["store"]) for each in about[-10:-1]} == stores
        shred = about[-1]
        assert (shred.leaf["request"], log.subject_name(str(shred.leaf["approver"]))) == (wish, "user:dev/mia")
    verified = audit(gateway, "verify")
    assert verified.returncode == 0, verified.stdout
    again = audit(gateway, "erase", "dev/paul", "--approve", wish, token=mia)
    assert (again.returncode, "unknown-person" in again.stderr) == (1, True)
    assert (
        gateway.call("desk.read", gateway.token("paul"), arguments={"text": "back"}).status_code == 200
    )  # under a new pseudonym


def test_every_record_is_in_the_forwarders_file_and_no_name_is(gateway: Gateway) -> None:
    decision = gateway.call("desk.read", gateway.token("mia"), arguments={"text": "forwarded"}).headers["bailiwick-decision"]
    copy = gateway.folder / "records.jsonl"
    deadline = time.monotonic() + 30
    while decision not in copy.read_text() and time.monotonic() < deadline:
        gateway.http.get("/healthz")
    rows = [json.loads(line) for line in copy.read_text().splitlines()]
    assert [row["seq"] for row in rows] == list(range(len(rows)))
    with gateway.ledger() as log:
        assert [row["leaf"] for row in rows] == [record.hash.hex() for record in log.records(0, len(rows))]
    assert not any(name in copy.read_text() for name in ("dev/mia", "forwarded", "kestrel"))
    assert "forwarders" not in gateway.http.get("/readyz").json().get("degraded", {})
    assert 'bailiwick_ledger_forward_failing{forwarder="copy"} 0' in gateway.http.get("/metrics").text


def test_an_erasure_needs_a_right_and_every_denial_is_on_record(gateway: Gateway) -> None:
    wanted: dict[str, object] = {"subject": "user:dev/mia", "reason": "x"}
    gateway.call("desk.read", gateway.token("mia"), arguments={"text": "x"})
    before = kinds(gateway).count("decision.deny")
    for who, path, body in (
        ("paul", "/api/erasures", wanted),
        ("mia", "/api/erasures", wanted),  # who may agree may not ask
        ("paul", "/api/erasures/x/approval", {"subject": "user:dev/mia"}),
        ("mia", "/api/holds", wanted),
        ("paul", "/api/holds/x/clearing", {"reason": "x"}),
    ):
        status, answer = ask(gateway, "POST", path, who, body)
        assert (status, answer["title"]) == (403, "user-lacks-right"), path
    assert ask(gateway, "GET", "/api/holds", "mia")[0] == 403
    assert kinds(gateway).count("decision.deny") == before + 6


def test_what_nobody_knows_of_is_neither_erased_nor_held(gateway: Gateway) -> None:
    nobody = {"subject": "user:dev/nobody", "reason": "x"}
    for path in ("/api/erasures", "/api/holds"):
        assert ask(gateway, "POST", path, "fiona", nobody)[1]["title"] == "unknown-person"
    assert ask(gateway, "POST", "/api/holds", "fiona", {"reason": "x"})[0] == 422
    assert ask(gateway, "POST", "/api/holds/no/clearing", "fiona", {"reason": "x"})[1]["title"] == "unknown-hold"
    status, answer = ask(gateway, "POST", "/api/erasures/no/approval", "mia", {"subject": "user:dev/fiona"})
    assert (status, answer["title"]) == (404, "unknown-request")


async def _leave(folders: Folders, subject: str) -> None:
    """A run of somebody's, which left a file for the next."""
    principal = Principal(subject, (), "acme", "wf-1", ends=2**40, method="bearer", credential="x")
    async with folders.held(principal, "p") as session:
        session.leave({"notes": b"kestrel"})


def test_without_a_gateway_an_operator_erases_and_the_record_says_so(upstreams: Peers, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, upstreams)
    gateway.start()
    gateway.call("desk.read", gateway.token("paul"), arguments={"text": SECRET})
    busy = audit(gateway, "erase", "dev/paul", "--reason", "x", *SAID)
    assert (busy.returncode, "a gateway answers" in busy.stderr) == (2, True)
    gateway.stop()
    seal = seal_of((tmp_path / "data" / "seal-key").read_bytes())
    left = folders_of(load_settings(gateway.config, {}), derived(seal, SESSIONS), wall_clock)
    asyncio.run(_leave(left, "user:dev/paul"))
    asyncio.run(_leave(left, "user:dev/mia"))
    done = audit(gateway, "erase", "dev/paul", "--reason", "x", *SAID, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["state"], said["stores"]["sandbox"]) == ("erased", 1)
    assert len(list((tmp_path / "data" / "sandbox-sessions").iterdir())) == 1  # hers
    with Ledger.open(f"sqlite:///{gateway.ledger_file}") as log:
        shred = next(record for record in log.records() if record.kind == "key.shred")
        asked = next(record for record in log.records() if record.kind == "erasure.ask")
        assert (shred.leaf["approver"], asked.leaf["source"], str(asked.leaf["by"])[:3]) == (
            "said:the other one",
            "offline",
            "os:",
        )
    assert not any(b"kestrel" in file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file())
    assert audit(gateway, "verify").returncode == 0


def test_without_a_gateway_a_second_person_signs_for_exactly_that_erasure_and_an_auditor_can_check_it(
    upstreams: Peers, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    key, other = tmp_path / "mine" / "dpo.pem", tmp_path / "mine" / "eve.pem"
    gateway = Gateway(tmp_path, upstreams)

    def agree(request: str, of: str, key: Path, name: str = "dpo.example", log: str = "test.invalid/acme") -> dict[str, str]:
        words = ("agree", request, "--of", of, "--log", log, "--name", name, "--key", str(key), "--json")
        done = audit(gateway, *words, *(() if key.exists() else ("--new",)))
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def erase(request: str, note: str) -> Ran:
        (tmp_path / "note").write_text(note)
        return audit(gateway, *ERASE, "--approve", request, "--offline", "--agreement", str(tmp_path / "note"), "--json")

    gateway.start()
    gateway.call("desk.read", gateway.token("paul"), arguments={"text": SECRET})
    gateway.call("desk.read", gateway.token("mia"))
    gateway.stop()
    nobody = audit(gateway, *ERASE, "--reason", "x", "--offline")
    assert (nobody.returncode, "ledger.erasure_keys" in nobody.stderr) == (2, True)
    vkey = agree("0" * 36, "s_" + "0" * 32, key)["vkey"]
    gateway.settings["ledger"]["erasure_keys"] = [vkey]
    gateway.config.write_text(json.dumps(gateway.settings))
    asked = json.loads(audit(gateway, *ERASE, "--reason", "x", "--offline", "--json").stdout)
    theirs = json.loads(audit(gateway, "erase", "dev/mia", "--reason", "x", "--offline", "--json").stdout)
    assert asked["agree"].startswith(f"bailiwick audit agree {asked['id']} --of {asked['pseudonym']} --log test.invalid/acme")
    request, paul = asked["id"], asked["pseudonym"]
    right = agree(request, paul, key)["note"]
    for wrong in (
        agree(request, paul, other, "eve.example")["note"],  # a key that the settings do not name
        agree(request, paul, other)["note"],  # under somebody else's name
        agree(request, theirs["pseudonym"], key)["note"],  # about another person
        agree(theirs["id"], paul, key)["note"],  # for another request
        agree(request, paul, key, log="test.invalid/other")["note"],  # of another log
        right.replace("=\n", "\n"), right + "\n", right[:-1], "", "x" * 5000,
        right.replace(right.split("\n\n")[1], agree(theirs["id"], paul, key)["note"].split("\n\n")[1]),
    ):  # fmt: skip
        refused = erase(request, wrong)
        assert (refused.returncode, "nothing was erased" in refused.stdout) == (2, True), refused.stdout
    with Ledger.open(f"sqlite:///{gateway.ledger_file}") as log:
        assert {record.kind for record in log.records()} & {"erasure.approve", "erasure.store", "key.shred"} == set()
    done = erase(request, right)
    assert (done.returncode, json.loads(done.stdout)["state"]) == (0, "erased"), done.stderr
    with Ledger.open(f"sqlite:///{gateway.ledger_file}") as log:
        kinds = {record.kind: record for record in log.records()}
    approve, shred = kinds["erasure.approve"].leaf, kinds["key.shred"].leaf
    assert (approve["wanted"], approve["by"], shred["approver"], shred["request"]) == (request, *["key:dpo.example"] * 2, request)
    wanted = Agreement("test.invalid/acme", request, paul)
    assert str(signed_by(approve["agreement"], wanted, [Vkey.parse(vkey)])) == vkey  # from the log alone
    assert erase(request, right).returncode == 1  # the second time there is nobody of that name
    assert audit(gateway, "verify").returncode == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--reason", "x", "--offline", "--approver", "bob"), "proves nothing"),
        (("--reason", "x", "--offline", "--unproven"), "proves nothing"),
        (("--approve", "i", "--offline"), "--agreement"),
        (("--reason", "x", "--offline", "--agreement", "f"), "--agreement"),
        (("--approve", "i", "--offline", "--agreement", "f", "--unproven", "--approver", "bob"), "--reason"),
        (("--reason", "x", "--approver", "bob"), "--offline"),
        (("--reason", "x", "--unproven"), "--offline"),
        (("--approve", "i", "--agreement", "f"), "--offline"),
        (("--reason", "x", "--offline", "--url", "http://127.0.0.1:1"), "--url"),
    ],
)
def test_a_second_person_who_is_only_named_takes_a_word_that_says_so(gateway: Gateway, words: tuple[str, ...], told: str) -> None:
    refused = audit(gateway, *ERASE, *words)
    assert (refused.returncode, told in refused.stderr) == (2, True), refused.stderr
