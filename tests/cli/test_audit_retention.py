"""`bailiwick audit seal`, `segments` and `retire`: what an operator types once a month, with a folder as the archive."""

from __future__ import annotations

from pathlib import Path

import pytest

import gateway.model
from audit.retention import DAY

from .conftest import Run
from .test_audit_search import denial, record

OLD = 300
SETTINGS = "tenant: acme\npolicies: policies\nledger:\n  retention: {folder: archive}\n"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    place = tmp_path / "bailiwick.yaml"
    place.write_text(SETTINGS)
    record(place, *(denial(f"d{n}", "agent:a") for n in range(OLD)))
    return place


def test_a_month_is_sealed_shown_kept_and_retired_in_its_time(run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nothing is in the archive yet" in run("audit", "segments", "--check", "--config", config).out
    sealed = run("audit", "seal", "--until", "0s", "--json", "--config", config)
    assert (sealed.code, sealed.json["sealed"]["from"], sealed.json["sealed"]["to"]) == (0, 0, 256)
    assert "sealed 256 of 256" in sealed.err
    assert "nothing to seal" in run("audit", "seal", "--until", "0s", "--config", config).out
    shown = run("audit", "segments", "--check", "--config", config)
    assert (shown.code, "in the log too" in shown.out, "verified" in shown.out) == (0, True, True)
    early = run("audit", "retire", "--reason", "yearly", "--config", config)
    assert (early.code, "stays: records 0 to 255: it is kept until " in early.out) == (0, True)
    later = gateway.model.wall_clock() + 400 * DAY
    monkeypatch.setattr(gateway.model, "wall_clock", lambda: later)
    done = run("audit", "retire", "--reason", "yearly, agreed", "--json", "--config", config)
    assert (done.code, done.json) == (0, {"retired": [{"from": 0, "to": 256}], "stays": []})
    assert run("audit", "verify", "--config", config).code == 0
    found = run("audit", "search", "kind:segment.*", "--json", "--config", config).json["records"]
    assert [row["kind"] for row in found] == ["segment.retire", "segment.seal"]
    assert run("audit", "search", "--check", "--config", config).code == 0


def test_an_archive_that_lost_something_is_a_finding_and_nothing_goes(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("audit", "seal", "--until", "0s", "--config", config)
    place = next((config.parent / "archive").glob("*/entries-*.zst"))
    place.chmod(0o600)
    place.write_bytes(place.read_bytes()[:-3] + b"abc")
    checked = run("audit", "segments", "--check", "--json", "--config", config)
    assert checked.code in {1, 2}
    later = gateway.model.wall_clock() + 400 * DAY
    monkeypatch.setattr(gateway.model, "wall_clock", lambda: later)
    retired = run("audit", "retire", "--reason", "yearly", "--config", config)
    assert retired.code == 1
    assert "not what was sealed" in retired.err
    assert run("audit", "verify", "--config", config).code == 0


def test_without_an_archive_nothing_goes_anywhere(run: Run, config: Path) -> None:
    config.write_text("tenant: acme\npolicies: policies\n")
    for words in (("seal",), ("segments",), ("retire", "--reason", "x")):
        told = run("audit", *words, "--config", config)
        assert told.code == 2
        assert "ledger.retention" in told.err
