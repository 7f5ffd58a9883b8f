"""An export is checked by one file with nothing but Python; what is changed in it anywhere is found."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import csv
import hashlib
import io
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import verify
from audit.export.checking import check
from audit.export.collecting import TooManyError
from audit.export.finishing import Means
from audit.export.making import OtherWishError, begun, make, planned, resumed
from audit.export.plan import Plan, Progress
from audit.export.query import Query
from audit.journal import Journal
from audit.leaf import Kind
from audit.model import Entry, Value
from audit.reader import Ledger
from audit.tlog_proof import TlogProof
from audit.verify import MANIFEST, ROWS, Row, verify_export
from policies.bundle import digest_of

from . import ocsf
from .conftest import NOON, ORIGIN, SEAL_KEY, SIGNING_KEY, VKEY, end, start

EVERYTHING = Query()
POLICY = {"roles.csv": "g, a, b\n", "tests/t.yaml": "[]\n"}
ALL = ("jsonl", "csv", "ocsf", "cef", "otlp", "parquet")
HOSTILE = "=cmd|' /C calc'!A0,\"x\"\r\n|\\ =\u202e\uff1d\U0001fae8"  # the last is of Unicode 15: older Pythons do not know it


class World:
    """A ledger with a record of every kind, and what is exported of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'ledger.db'}"
        self.records: list[str] = []
        self.count = itertools.count()

    async def fill(self) -> None:
        clock = itertools.count(NOON)
        journal = await Journal.open(
            url=self.url, origin=ORIGIN, signing_key=SIGNING_KEY, seal_key=SEAL_KEY, writer="gw", clock=lambda: next(clock),
            checkpoint_seconds=3600.0,
        )  # fmt: skip
        judged = {"effect": "deny", "reason": "user-lacks-right", "policy": digest_of(POLICY)}
        for n in range(3):
            whose = {"workflow": f"wf-{n % 2}", "resource": HOSTILE, "action": "call", "trace": "0" * 31 + "1", "span": "1" * 16}
            whose |= {"session": f"session-{n % 2}", "auth": {"method": "dpop", "instance": f"instance-{n}"}}
            await journal.append(start(f"c{n}", f"user:corp/p{n}", Value("request", b"ask %d" % n), **whose))
            await journal.append(end(f"e{n}", f"c{n}", Value("response", b"told %d" % n)))
        await journal.append(Entry("decision.deny", "d1", NOON + 7, "user:corp/p0", {"decision": judged, "agent": HOSTILE}))
        await journal.append(Entry("auth.refused", "a1", NOON + 8, None, {"refused": {"code": "no-credential", "detail": ""}}))
        done = {
            "call.start",
            "call.end",
            "call.orphaned",
            "decision.deny",
            "auth.refused",
            "writer.start",
            "writer.stop",
            "key.create",
        }
        for kind in sorted(
            {kind.value for kind in Kind} - done - {"key.shred", "hold.set", "hold.clear", "segment.seal", "segment.retire"}
        ):
            await journal.append(Entry(kind, f"k-{kind}", NOON + 9, "user:corp/p1", {"wanted": kind, "action": "read"}))
        await journal.close()

    def make(self, query: Query = EVERYTHING, *, name: str = "", **wish: Any) -> Path:
        out = self.folder / (name or f"out-{next(self.count)}")
        with Ledger.open(self.url, SEAL_KEY) as log:
            plan = self.plan(log, query, **wish)
            make(log, resumed(out, plan) or planned(log, plan), out, self.means(), self.record)
        return out

    def plan(self, log: Ledger, query: Query, **wish: Any) -> Plan:
        note = str(log.checkpoint())
        made = Plan(query, ALL, note, int(note.split("\n")[1]), 0, 0, "os:auditor", "SOC 2, Q1", NOON, ())
        return replace(made, **wish)

    def means(self, key: Ed25519PrivateKey = SIGNING_KEY) -> Means:
        files = {name: text.encode() for name, text in POLICY.items()}
        return Means(key, ORIGIN, lambda digest: files if digest == digest_of(POLICY) else None, (), "bailiwick test")

    def record(self, digest: str, _plan: Plan, _progress: Progress) -> None:
        self.records.append(digest)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("export"))
    asyncio.run(made.fill())
    return made


@pytest.fixture(scope="module")
def whole(world: World) -> Path:
    return world.make(disclose=("all",))


def rebuilt(source: Path, target: Path, change: Callable[[dict[str, bytes]], None], key: Ed25519PrivateKey = SIGNING_KEY) -> Path:
    """What an insider with the log's key can do: change files, and sign a manifest that fits them."""
    files = {each.relative_to(source).as_posix(): each.read_bytes() for each in source.rglob("*") if each.is_file()}
    envelope = json.loads(files.pop(MANIFEST))
    statement = json.loads(base64.b64decode(envelope["payload"]))
    files["@predicate"] = json.dumps(statement["predicate"]).encode()
    change(files)
    statement["predicate"] = json.loads(files.pop("@predicate"))
    statement["subject"] = [
        {"name": name, "digest": {"sha256": hashlib.sha256(data).hexdigest()}} for name, data in sorted(files.items())
    ]
    payload = verify.compact(statement).encode()
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(key.sign(verify.pae(verify.PAYLOAD_TYPE, payload))).decode()
    for name, data in {**files, MANIFEST: verify.compact(envelope).encode() + b"\n"}.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
    return target


def messages(path: Path, **trust: Any) -> str:
    return "\n".join(map(str, verify_export(path, VKEY, **trust).findings))


# --- what is exported can be checked, by a stranger, with one file


@pytest.mark.parametrize("form", ["folder", "out.zip"])
def test_a_whole_log_is_exported_and_a_stranger_checks_it_with_one_file(world: World, tmp_path: Path, form: str) -> None:
    out = world.make(name=f"stranger-{form}")
    alone = tmp_path / "verify.py"
    shutil.copy(verify.__file__, alone)
    told = subprocess.run(
        [sys.executable, "-I", str(alone), str(out), "--key", VKEY, "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    report = json.loads(told.stdout)
    assert (told.returncode, report["findings"]) == (0, [])
    with Ledger.open(world.url) as log:
        assert report["export"]["records"] == report["size"] == log.size == report["signed"]
        kinds = {record.kind for record in log.records()}
    assert set(report["export"]["kinds"]) == kinds
    assert any("parquet" in note for note in report["notes"])
    assert check(out, VKEY).findings == []
    assert not any("parquet" in note for note in check(out, VKEY).notes)


def test_every_python_that_the_verifier_promises_comes_to_the_same_rows(whole: Path) -> None:
    places = {path.parent.parent.name: path for path in Path.home().glob(".pyenv/versions/3.*/bin/python3")}
    pythons = [path for version, path in places.items() if int(version.split(".")[1]) >= 9]
    if not pythons:
        pytest.skip("there is no other Python on this machine")
    for python in pythons:
        command = [str(python), "-I", str(whole / "verify.py"), str(whole), "--key", VKEY]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (told.returncode, told.stderr) == (0, ""), (python, told.stdout)


def test_the_verifier_in_an_export_is_the_released_one_to_the_byte(whole: Path) -> None:
    assert (whole / "verify.py").read_bytes() == Path(verify.__file__).read_bytes()


def test_the_manifest_is_on_record_before_the_export_has_its_name(world: World) -> None:
    out = world.folder / "unrecorded"

    def refuse(*_: object) -> None:
        raise OSError("the ledger is gone")

    with Ledger.open(world.url, SEAL_KEY) as log, pytest.raises(OSError, match="is gone"):
        make(log, planned(log, world.plan(log, Query())), out, world.means(), refuse)
    assert not out.exists()
    made = world.make(name="unrecorded")  # and it is ended afterwards
    assert world.records[-1] == hashlib.sha256((made / MANIFEST).read_bytes()).hexdigest()


def test_the_manifest_is_verified_by_code_that_is_not_ours(whole: Path) -> None:
    envelope = json.loads((whole / MANIFEST).read_bytes())
    payload = base64.b64decode(envelope["payload"], validate=True)
    signed = b" ".join((b"DSSEv1", b"28", b"application/vnd.in-toto+json", str(len(payload)).encode(), payload))
    public = base64.b64decode(VKEY.split("+", 2)[2])[1:]
    Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)
    statement = json.loads(payload)
    for each in statement["subject"]:
        assert hashlib.sha256((whole / each["name"]).read_bytes()).hexdigest() == each["digest"]["sha256"]


def test_openssl_verifies_the_manifest_and_its_files(whole: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    envelope = json.loads((whole / MANIFEST).read_bytes())
    payload = base64.b64decode(envelope["payload"])
    (tmp_path / "signed").write_bytes(verify.pae(verify.PAYLOAD_TYPE, payload))
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    public = bytes.fromhex("302a300506032b6570032100") + base64.b64decode(VKEY.split("+", 2)[2])[1:]  # RFC 8410
    (tmp_path / "key.der").write_bytes(public)
    command = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-keyform",
        "DER",
        "-inkey",
        "key.der",
        "-rawin",
        "-in",
        "signed",
        "-sigfile",
        "sig",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Verified Successfully" in done.stdout, done.stderr


@pytest.mark.parametrize(("since", "until"), [(NOON + 7, NOON + 8), (0, NOON + 6), (NOON + 8, 2**52), (NOON + 10**9, 2**52)])
def test_a_part_of_the_time_is_a_complete_range_under_the_same_checkpoint(world: World, since: int, until: int) -> None:
    out = world.make(Query(since=since, until=until))
    report = check(out, VKEY)
    assert report.findings == []
    with Ledger.open(world.url) as log:
        inside = [record.index for record in log.records() if since <= record.at < until]
        assert report.root == base64.b64encode(log.root_at(log.size)).decode()
    expected = inside[-1] + 1 - inside[0] if inside else 0
    assert report.export["records"] == expected
    assert report.export["scope"] == "complete"


def test_every_cut_of_the_log_is_a_range_that_verifies_and_no_other(world: World, tmp_path: Path) -> None:
    with Ledger.open(world.url, SEAL_KEY) as log:
        cuts = [(0, 1), (1, 2), (3, 7), (4, 8), (7, log.size), (5, 5), (log.size - 1, log.size)]
        for first, stop in cuts:
            plan = replace(world.plan(log, Query(since=1), formats=("jsonl",)), first=first, stop=stop)
            out = tmp_path / f"{first}-{stop}"
            make(log, plan, out, world.means(), world.record)
            assert messages(out) == "", (first, stop)

            def shorten(files: dict[str, bytes], first: int = first) -> None:
                about = json.loads(files["@predicate"])
                about["range"]["first"] = first + 1
                files["@predicate"] = json.dumps(about).encode()

            assert messages(rebuilt(out, tmp_path / f"{first}-{stop}-short", shorten)) != ""


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        (Query(workflows=("wf-1",)), {"c1", "e0", "e1", "e2"}),
        (Query(agents=("planner",)), {"c0", "c1", "c2", "e0", "e1", "e2"}),
        (Query(agents=("agent:planner",), kinds=("call.start",)), {"c0", "c1", "c2"}),
        (Query(kinds=("decision.deny", "auth.refused")), {"d1", "a1"}),
        (Query(servers=("erp",)), {"c0", "c1", "c2", "e0", "e1", "e2"}),
        (Query(kinds=("audit.review",)), {"k-audit.review"}),
        (Query(workflows=("nothing",)), set()),
    ],
    ids=["a workflow", "an agent", "an agent's calls", "refusals", "a server", "reviews", "nothing"],
)
def test_a_selection_has_what_fits_each_with_a_proof_of_its_own(world: World, query: Query, kept: set[str]) -> None:
    out = world.make(query)
    report = check(out, VKEY)
    assert report.findings == []
    rows = [json.loads(line) for line in (out / "data/records.jsonl").read_text().splitlines()]
    assert {row["record"]["id"] for row in rows} == kept
    proofs = [TlogProof.parse(file.read_text()) for file in sorted(out.glob("proofs/*/*"))]
    from audit.checkpoint import Vkey

    assert all(proof.verify(Vkey.parse(VKEY)) for proof in proofs)
    assert [proof.index for proof in proofs] == [row["seq"] for row in rows]
    assert any("a selection" in note for note in report.notes)


def test_a_selection_that_is_too_large_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.export.collecting.MOST_PROOFS", 2)
    with pytest.raises(TooManyError):
        world.make(Query(workflows=("wf-1",)), name="too-many")


# --- formats


def test_every_row_of_every_format_says_log_place_and_leaf(world: World, whole: Path) -> None:
    import pyarrow.parquet as pq

    with Ledger.open(world.url) as log:
        expected = [(ORIGIN, record.index, record.hash.hex()) for record in log.records()]
    lines = {name: (whole / file).read_text().splitlines() for name, (file, _) in ROWS.items()}
    table = list(csv.DictReader(io.StringIO((whole / "data/records.csv").read_bytes().decode(), newline="")))
    events = [json.loads(line) for line in lines["ocsf"]]
    logs = [json.loads(line)["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0] for line in lines["otlp"]]
    said = [{each["key"]: next(iter(each["value"].values())) for each in entry["attributes"]} for entry in logs]
    found = {
        "jsonl": [(row["log"], row["seq"], row["leaf"]) for row in map(json.loads, lines["jsonl"])],
        "csv": [(row["log"], int(row["seq"]), row["leaf"]) for row in table],
        "ocsf": [(row["unmapped"]["log"], row["unmapped"]["seq"], row["unmapped"]["leaf"]) for row in events],
        "otlp": [(row["bailiwick.log"], int(row["bailiwick.seq"]), row["bailiwick.leaf"]) for row in said],
        "cef": [
            (m[1], int(m[3]), m[2]) for m in (re.search(r" cs1=(\S+) cs2=(\S+).* cn1=(\d+)$", line) for line in lines["cef"]) if m
        ],
        "parquet": [(row["log"], row["seq"], row["leaf"]) for row in pq.read_table(whole / "data/records.parquet").to_pylist()],
    }
    assert {name: rows == expected for name, rows in found.items()} == dict.fromkeys(ALL, True)
    for line, (_, _, leaf) in zip(lines["jsonl"], expected, strict=True):  # the bytes that were hashed stand in the row
        record = line.split('"record":', 1)[1].rpartition(',"seq":')[0]
        assert hashlib.sha256(b"\0" + record.encode()).hexdigest() == leaf


def test_a_spreadsheet_takes_no_cell_for_a_formula(whole: Path) -> None:
    rows = list(csv.reader(io.StringIO((whole / "data/records.csv").read_bytes().decode(), newline="")))
    assert any("cmd|" in cell for row in rows for cell in row)
    assert not any(cell[:1] in {"=", "+", "-", "@", "\t", "\r", "\uff1d"} for row in rows for cell in row)
    assert all("\n" not in cell and "\u202e" not in cell for row in rows for cell in row)


def test_a_line_of_cef_has_its_seven_bars_and_no_value_ends_another(whole: Path) -> None:
    for line in (whole / "data/records.cef").read_text().splitlines():
        parts = re.split(r"(?<!\\)(?:\\\\)*\|", line)
        assert len(parts) >= 8
        head, extension = parts[:7], line.split("|", 7)[7]
        assert head[0] == "CEF:0"
        keys = re.findall(r"(?:^| )([A-Za-z0-9]+)(?<!\\)=", extension)
        assert len(set(keys)) == len(keys)
        assert set(keys) <= {
            *("rt", "externalId", "suser", "sproc", "dhost", "request", "act", "reason", "outcome", "cn1Label", "cn1"),
            *(f"cs{n}{label}" for n in range(1, 5) for label in ("", "Label")),
        }


SCHEMA = json.loads(ocsf.SCHEMA.read_text())


def test_every_event_keeps_to_the_published_ocsf_schema(whole: Path) -> None:
    events = [json.loads(line) for line in (whole / "data/ocsf.jsonl").read_text().splitlines()]
    assert {event["class_uid"] for event in events} == {6003, 6002, 3002, 3004}
    assert {event["metadata"]["event_code"]: ocsf.wrong(event, SCHEMA) for event in events if ocsf.wrong(event, SCHEMA)} == {}


def test_rows_say_by_their_digests_in_which_session_and_by_which_instance_a_call_was_made(whole: Path) -> None:
    rows = {
        name: [json.loads(line) for line in (whole / f"data/{name}.jsonl").read_text().splitlines()] for name in ("ocsf", "otlp")
    }
    told = [
        (row["actor"]["session"]["uid"], row["unmapped"]["instance"]) for row in rows["ocsf"] if "session" in row.get("actor", {})
    ]
    assert told == [("session-0", "instance-0"), ("session-1", "instance-1"), ("session-0", "instance-2")]
    logged = [row["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["attributes"] for row in rows["otlp"]]
    found = [{each["key"]: each["value"].get("stringValue") for each in attributes} for attributes in logged]
    said = [(each["mcp.session.id"], each["bailiwick.actor.instance"]) for each in found if "mcp.session.id" in each]
    assert said == told


def test_the_schema_check_bites(whole: Path) -> None:
    event = next(e for e in map(json.loads, (whole / "data/ocsf.jsonl").read_text().splitlines()) if e["class_uid"] == 6003)
    for change in (
        {"severity_id": 7}, {"api": {}}, {"actor": {}}, {"time": "now"}, {"colour": 1}, {"activity_id": 12}, {"resources": {}},
        {"metadata": {**event["metadata"], "version": "1.7.0"}}, {"raw_data_hash": {"value": "x"}}, {"disposition_id": 1000},
    ):  # fmt: skip
        assert ocsf.wrong(event | change, SCHEMA) != [], change


Json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**52), 2**52) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["effect", "code", "status", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
MEMBERS = (
    "chain",
    "decision",
    "refused",
    "outcome",
    "action",
    "resource",
    "target",
    "trace",
    "span",
    "subject",
    "peer",
    "policy",
    "writer",
)


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(kind.value for kind in Kind)), st.dictionaries(st.sampled_from(MEMBERS), Json))
def test_whatever_a_record_says_there_is_one_line_for_it_in_every_format(kind: str, members: dict[str, Any]) -> None:
    record = {"v": 1, "id": "r1", "log": ORIGIN, "ts": NOON, **members, "kind": kind}
    data = verify.compact(record).encode()
    row = Row(ORIGIN, 7, "ab" * 32, data, record)
    for _, make_row in ROWS.values():
        line = make_row(row)
        assert "\n" not in line
        assert line.encode()
        assert line == make_row(row)
    assert ocsf.wrong(json.loads(verify.row_ocsf(row)), SCHEMA) == []


# --- what is disclosed


def test_disclosed_values_are_those_that_were_committed_to_and_may_be_taken_away(
    world: World, whole: Path, tmp_path: Path
) -> None:
    opened = [json.loads(line) for file in (whole / "openings").iterdir() for line in file.read_text().splitlines()]
    assert {base64.b64decode(each["value"]) for each in opened} >= {b"ask 0", b"told 2"}
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    gone = next(iter((copy / "openings").iterdir()))
    gone.unlink()
    report = verify_export(copy, VKEY)
    assert report.findings == []
    assert any(gone.name in note and "taken away" in note for note in report.notes)
    closed = world.make()
    assert not (closed / "openings").exists()
    assert not any(b"ask 0" in file.read_bytes() for file in closed.rglob("*") if file.is_file())


def test_a_value_that_is_disclosed_falsely_is_found_even_with_the_logs_key(whole: Path, tmp_path: Path) -> None:
    def lie(files: dict[str, bytes]) -> None:
        name = next(name for name in files if name.startswith("openings/"))
        first, rest = files[name].split(b"\n", 1)
        opened = json.loads(first)
        opened["value"] = base64.b64encode(b"another").decode()
        files[name] = verify.compact(opened).encode() + b"\n" + rest

    assert "is not the one that it commits to" in messages(rebuilt(whole, tmp_path, lie))


# --- what an insider changes


def swap(name: str, old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        assert old in files[name], name
        files[name] = files[name].replace(old, new, 1)

    return change


def drop_last_line(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files[name] = b"\n".join(files[name].split(b"\n")[:-2]) + b"\n"

    return change


def change_tile(files: dict[str, bytes]) -> None:
    name = next(name for name in files if name.startswith("tile/0/"))
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])


def drop_record(files: dict[str, bytes]) -> None:
    """One record is taken out of the bytes that were hashed."""
    name = next(name for name in files if name.startswith("tile/entries/"))
    data, records = files[name], []
    while data:
        length = 2 + int.from_bytes(data[:2], "big")
        records.append(data[:length])
        data = data[length:]
    files[name] = b"".join(records[:6] + records[7:])


def respell_salt(files: dict[str, bytes]) -> None:
    """The same salt in another spelling: the bits of base64 that a lenient reader drops."""
    name = next(name for name in files if name.startswith("openings/"))
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    files[name] = re.sub(
        rb'(?<="salt":".{21})(.)==', lambda found: last[last.index(found[1].decode()) + 1].encode() + b"==", files[name], count=1
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (respell_salt, "cannot be read: ValueError: not canonical base64"),
        (swap("data/records.csv", b'"d1"', b'"d2"'), r"record \d+ \(decision.deny d1\): its row in data/records.csv"),
        (swap("data/records.jsonl", b'"effect":"deny"', b'"effect":"allow"'), r"its row in data/records.jsonl"),
        (swap("data/ocsf.jsonl", b'"disposition_id":2', b'"disposition_id":1'), r"its row in data/ocsf.jsonl"),
        (swap("data/records.cef", b"act=deny", b"act=allow"), r"its row in data/records.cef"),
        (swap("data/otlp.jsonl", b'"severityNumber":13', b'"severityNumber":9'), r"its row in data/otlp.jsonl"),
        *((drop_last_line(ROWS[name][0]), r"its row in " + ROWS[name][0]) for name in ROWS),
        (lambda files: files.__setitem__("data/records.csv", files["data/records.csv"] + b"x\n"), "has more rows"),
        (lambda files: files.__setitem__("proofs/x", b"x"), "where none is looked for"),
        (lambda files: files.__setitem__("data/summary.csv", b"x"), "other formats"),
        (change_tile, "the tile tile/0/000.p/.* is not of the records' tree"),
        (swap("@predicate", b'"policies": {"sha256:', b'"policies": {"sha256:0'), "other bundles of policy|none is looked for"),
        (swap("@predicate", b'"csv", ', b""), "other formats"),
        (swap(f"policy/{digest_of(POLICY)[7:]}/roles.csv", b"g, a, b", b"g, a, c"), "are not the bundle sha256"),
        (drop_record, "its row in|cannot be read|are not those"),
        (swap("checkpoint", b"\n", b"x\n"), "cannot be read|not signed"),
        (swap("@predicate", b'"scope": "complete"', b'"scope": "selection"'), "counts other records"),
        (swap("@predicate", b'"auth.refused": 1', b'"auth.refused": 2'), "counts other records"),
    ],
)
def test_who_changes_an_export_and_signs_it_anew_is_found(
    whole: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], told: str
) -> None:
    assert re.search(told, messages(rebuilt(whole, tmp_path, change)))


STATED = {"operator", "reason", "at", "software", "query", "disclosed", "version"}  # the word of whoever made it, signed


@pytest.mark.parametrize("wrong", [None, "x", 2**70, {"first": {}}], ids=repr)
def test_a_manifest_that_says_nonsense_is_found_and_never_a_crash(whole: Path, tmp_path: Path, wrong: object) -> None:
    names = json.loads(base64.b64decode(json.loads((whole / MANIFEST).read_bytes())["payload"]))["predicate"].keys()
    for name in names:

        def confuse(files: dict[str, bytes], name: str = name) -> None:
            about = json.loads(files["@predicate"])
            about[name] = wrong
            files["@predicate"] = json.dumps(about).encode()

        assert messages(rebuilt(whole, tmp_path / name, confuse)) != "" or name in STATED or not wrong, name
    for part in ("first", "stop", "size", "left", "right"):

        def shift(files: dict[str, bytes], part: str = part) -> None:
            about = json.loads(files["@predicate"])
            about["range"][part] = wrong
            files["@predicate"] = json.dumps(about).encode()

        assert messages(rebuilt(whole, tmp_path / part, shift)) != "" or (part in {"left", "right"} and not wrong), part


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"[" * 100_000, b'{"payload": 1}', b"\xff" * 99])
def test_what_is_no_export_is_said_to_be_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / MANIFEST).write_bytes(data)
    assert "cannot be read" in messages(tmp_path / "folder")
    (tmp_path / "x.zip").write_bytes(data)
    assert "cannot be read" in messages(tmp_path / "x.zip")


def test_two_processes_do_not_make_one_export(world: World) -> None:
    import fcntl

    with Ledger.open(world.url, SEAL_KEY) as log:
        plan = planned(log, world.plan(log, Query(), formats=("jsonl",)))
        folder = begun(world.folder / "busy")
        folder.mkdir()
        plan.save(folder)
        with Path(folder / "plan.json").open() as _, contextlib.ExitStack() as stack:
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with pytest.raises(OtherWishError, match="just now"):
                make(log, plan, world.folder / "busy", world.means(), world.record)


def test_every_line_of_otlp_is_what_its_own_schema_reads(whole: Path) -> None:
    from google.protobuf import json_format
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    for line in (whole / "data/otlp.jsonl").read_text().splitlines():
        request = json_format.Parse(line, ExportLogsServiceRequest())  # an unknown member would be an error
        assert len(request.resource_logs[0].scope_logs[0].log_records) == 1


def test_an_export_signed_by_another_key_or_of_another_log_is_found(whole: Path, tmp_path: Path) -> None:
    other = Ed25519PrivateKey.generate()
    assert "not signed by this key" in messages(rebuilt(whole, tmp_path / "a", lambda _: None, other))
    assert "another log" in messages(rebuilt(whole, tmp_path / "b", swap("@predicate", ORIGIN.encode(), b"example.org/else")))
    assert any("NO KEY WAS GIVEN" in note for note in verify_export(whole).notes)


def test_the_auditors_earlier_checkpoint_is_held_against_the_records(world: World, whole: Path, tmp_path: Path) -> None:
    from audit.checkpoint import Checkpoint, sign

    with Ledger.open(world.url) as log:
        notes = {size: sign(Checkpoint(ORIGIN, size, log.root_at(size)), SIGNING_KEY) for size in (5, log.size)}
        forked = sign(Checkpoint(ORIGIN, 5, bytes(32)), SIGNING_KEY)
    assert messages(whole, kept=list(notes.values())) == ""
    assert "that you kept" in messages(whole, kept=forked)


def test_the_page_of_an_export_of_everything_says_so(whole: Path) -> None:
    assert "| query | everything |" in (whole / "README.md").read_text()


def test_a_file_more_or_less_is_found(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    (copy / "data" / "notes.txt").write_text("x")
    assert "does not name" in messages(copy)
    (copy / "data" / "notes.txt").unlink()
    for name in ("README.md", "data/records.csv", "policy"):
        place = copy / name
        moved = place.rename(tmp_path / "moved")
        assert "is missing" in messages(copy)
        moved.rename(place)
    assert messages(copy) == ""


def test_no_flipped_bit_of_a_folder_goes_unnoticed(world: World, tmp_path: Path) -> None:
    out = Path(
        shutil.copytree(world.make(Query(kinds=("decision.deny",)), disclose=("all",), formats=("jsonl", "csv")), tmp_path / "x")
    )
    assert messages(out) == ""
    chance = random.Random(20261201)
    files = [file for file in out.rglob("*") if file.is_file()]
    for file in files:
        data = file.read_bytes()
        places = chance.sample(range(len(data) * 8), min(len(data) * 8, 120 if file.name == MANIFEST else 12))
        for bit in places:
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            file.write_bytes(flipped)
            assert verify_export(out, VKEY).findings != [], (file.name, bit)
        file.write_bytes(data)


def test_a_flipped_bit_of_a_zip_is_found_or_changes_nothing_that_is_read(world: World, tmp_path: Path) -> None:
    out = world.make(Query(kinds=("decision.deny",)), name="flips.zip", formats=("jsonl",))
    data = out.read_bytes()
    with zipfile.ZipFile(out) as made:
        held = {name: made.read(name) for name in made.namelist()}
    chance, copy, neutral = random.Random(7), tmp_path / "copy.zip", 0
    for bit in chance.sample(range(len(data) * 8), 150):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(flipped)
        if verify_export(copy, VKEY).ok:
            with zipfile.ZipFile(copy) as made:
                assert {name: made.read(name) for name in made.namelist()} == held, bit
            neutral += 1
    assert neutral < 150


# --- what is cut off


@pytest.mark.parametrize("query", [Query(), Query(workflows=("wf-0", "wf-1"))], ids=["complete", "selection"])
def test_an_export_that_is_cut_off_anywhere_is_gone_on_with_to_the_same_bytes(
    world: World, monkeypatch: pytest.MonkeyPatch, query: Query
) -> None:
    import audit.export.collecting as collecting

    monkeypatch.setattr(collecting, "CHUNK", 256)
    reference = world.make(query, disclose=("request",), formats=("jsonl", "csv", "otlp"))

    def held(folder: Path) -> dict[str, bytes]:
        return {each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()}

    monkeypatch.setattr(collecting, "CHUNK", 4)
    for cut in range(1, 7):
        name = f"cut-{cut}-{query.whole}"
        real, calls = collecting.Files.mark, itertools.count(1)

        def mark(self: Any, cut: int = cut, real: Any = real, calls: Any = calls) -> None:
            if next(calls) == cut:
                raise KeyboardInterrupt  # as a kill: what was written since the last mark is there, and not marked
            real(self)

        with monkeypatch.context() as patch:
            patch.setattr(collecting.Files, "mark", mark)
            with pytest.raises(KeyboardInterrupt):
                world.make(query, name=name, disclose=("request",), formats=("jsonl", "csv", "otlp"))
        assert begun(world.folder / name).exists()
        out = world.make(query, name=name, disclose=("request",), formats=("jsonl", "csv", "otlp"))
        mine, theirs = held(out), held(reference)
        assert {n for n in mine if mine[n] != theirs.get(n)} == set()
        assert mine.keys() == theirs.keys()
        assert messages(out) == ""


KILLED = """
import sys
from pathlib import Path
import audit.export.collecting as collecting
from audit.export.making import make, planned
from tests.audit.test_export import World
from audit.export.query import Query
from audit.reader import Ledger
collecting.CHUNK = 4
real = collecting.Files.mark
def mark(self):
    real(self)
    print("marked", flush=True)
    sys.stdin.readline()
collecting.Files.mark = mark
world = World(Path(sys.argv[1]))
world.make(Query(), name="killed", formats=("jsonl", "csv"))
"""


def test_an_export_whose_process_is_killed_is_ended_by_the_next(world: World, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", KILLED, str(world.folder)]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        for _ in range(3):
            assert child.stdout.readline() == "marked\n"
            child.stdin.write("go on\n")
            child.stdin.flush()
        child.kill()
    assert Progress.load(begun(world.folder / "killed"), 0).next >= 12
    out = world.make(name="killed", formats=("jsonl", "csv"))
    assert messages(out) == ""
    assert (out / "data/records.csv").read_bytes() == (world.make(formats=("jsonl", "csv")) / "data/records.csv").read_bytes()


@pytest.mark.postgres
async def test_a_log_in_postgresql_is_exported_the_same(postgres_url: str, tmp_path: Path) -> None:
    made = World(tmp_path)
    made.url = postgres_url
    await made.fill()
    for query in (Query(), Query(workflows=("wf-1",)), Query(since=NOON + 7, until=NOON + 9)):
        out = made.make(query, formats=("jsonl", "csv"))
        assert messages(out) == ""


def test_what_was_begun_is_ended_as_it_was_wished(world: World) -> None:
    with Ledger.open(world.url, SEAL_KEY) as log:
        plan = planned(log, world.plan(log, Query()))
        folder = begun(world.folder / "other")
        folder.mkdir()
        plan.save(folder)
        assert resumed(world.folder / "other", plan) == plan
        with pytest.raises(OtherWishError):
            resumed(world.folder / "other", replace(plan, formats=("csv",)))


def test_a_record_that_was_changed_is_not_exported(world: World, tmp_path: Path) -> None:
    from audit.model import TamperedError

    from .conftest import tamper

    (tmp_path / "ledger.db").write_bytes((world.folder / "ledger.db").read_bytes())
    tamper(tmp_path / "ledger.db", "UPDATE ledger_leaves SET data = CAST(replace(data, 'erp', 'crm') AS BLOB) WHERE id = 'c1'")
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as log, pytest.raises(TamperedError):
        make(log, planned(log, world.plan(log, Query())), tmp_path / "out", world.means(), world.record)
    assert not (tmp_path / "out").exists()


def test_in_memory_stands_a_chunk_however_long_the_log(tmp_path: Path) -> None:
    program = Path(__file__).with_name("export_memory.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "x"), "12000", "8000"], capture_output=True, text=True, check=True
    )
    grown, records = map(int, done.stdout.split())
    assert records > 90_000  # kilobytes
    assert grown < 75_000, grown
