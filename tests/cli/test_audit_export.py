"""`bailiwick audit export` at the command line: what it makes, what it records, what it refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from audit.model import Entry, Value
from audit.reader import Ledger

from .conftest import Run
from .test_audit_search import SETTINGS, record

AT = 1_763_800_000_000_000


def call(name: str, person: str, kind: str = "decision.deny") -> Entry:
    fields = {"workflow": f"wf-{person}", "chain": [["user", "@subject"], ["agent", "agent:a"]], "target": "erp"}
    return Entry(kind, name, AT, f"user:corp/{person}", fields, (Value("request", b"kestrel of %b" % person.encode()),))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    (folder / "policies").mkdir()
    place = folder / "bailiwick.yaml"
    place.write_text(SETTINGS.replace("policies: policies", f"policies: {folder}/policies\ndata: {folder}/data"))
    record(place, call("d1", "ann"), call("d2", "bob"))
    return place


def newest(config: Path, kind: str) -> dict[str, object]:
    with Ledger.open(f"sqlite:///{config.parent}/data/ledger.db") as log:
        return [each.leaf for each in log.records() if each.kind == kind][-1]


def test_an_export_is_made_recorded_and_checked(run: Run, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.zip"
    made = run(
        "audit", "export", "--out", out, "--reason", "SOC 2", "--format", "jsonl,csv,ocsf", "--json", "--config", config
    ).json
    assert (made["scope"], made["disclosed"], made["first"]) == ("complete", {}, 0)
    kept = newest(config, "audit.export")
    assert (kept["manifest"], kept["records"], kept["scope"]) == (made["manifest"], made["records"], "complete")
    assert str(kept["by"]).startswith("os:")
    checked = run("audit", "verify", "--ledger", out, "--json", "--config", config)
    assert (checked.code, checked.json["export"]["records"]) == (0, made["records"])
    assert out.stat().st_mode & 0o077 == 0
    assert not list(tmp_path.glob("*.partial"))


def test_values_are_disclosed_for_a_reason_that_is_on_record_first(run: Run, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "ann"
    words = ("--subject", "corp/ann", "--disclose", "request", "--reason", "case 7", "--out", out, "--config", config)
    made = run("audit", "export", *words, "--json").json
    assert (made["scope"], sum(made["disclosed"].values())) == ("selection", 1)
    ((pseudonym, count),) = made["disclosed"].items()
    assert newest(config, "audit.export")["disclosed"] == [[pseudonym, count]]
    read, exported = newest(config, "audit.read"), newest(config, "audit.export")
    assert str(read["wanted"]).startswith("values request of records")
    assert int(str(read["ts"])) <= int(str(exported["ts"]))
    opened = (out / "openings" / f"{pseudonym}.jsonl").read_text()
    assert json.loads(opened)["name"] == "request"
    assert not any(b"kestrel of bob" in file.read_bytes() for file in out.rglob("*") if file.is_file())
    manifest = hashlib.sha256((out / "manifest.dsse.json").read_bytes()).hexdigest()
    assert made["manifest"] == f"sha256:{manifest}"
    (out / "data" / "records.csv").write_text("x")
    assert run("audit", "verify", "--ledger", out, "--config", config).code == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--reason", "x", "--format", "pdf"), "there is no format 'pdf'"),
        (("--reason", "x", "--format", ""), "there is no format"),
        (("--reason", "x", "--format", "parquet"), "parquet goes with jsonl"),
        (("--reason", ""), "--reason is 1 to"),
        (("--reason", "x", "--kind", "call.stop"), "no kind of record called call.stop"),
        (("--reason", "x", "--subject", "corp/nobody"), "nobody of that name"),
        (("--reason", "x", "--from", "yesterday"), "is no time"),
        (("--reason", "x", "--from", "2026-01-02", "--to", "2026-01-01"), "ends before it begins"),
        ((), "--reason"),
    ],
)
def test_what_cannot_be_exported_is_misuse(run: Run, config: Path, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    ran = run("audit", "export", "--out", tmp_path / "out", "--config", config, *words)
    assert ran.code == 2
    assert told in ran.err
    assert not (tmp_path / "out").exists()


def test_an_export_that_no_record_matched_says_so(run: Run, config: Path, tmp_path: Path) -> None:
    words = ("--kind", "identity.kill", "--reason", "case 8", "--out", tmp_path / "none", "--config", config)
    ran = run("audit", "export", *words)
    assert (ran.code, "no record matched" in ran.out) == (0, True)


def test_nothing_is_written_over(run: Run, config: Path, tmp_path: Path) -> None:
    ran = run("audit", "export", "--out", tmp_path, "--reason", "x", "--config", config)
    assert (ran.code, "is there already" in ran.err) == (2, True)
