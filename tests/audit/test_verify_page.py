"""The browser page finds in an export what `verify.py` finds: its own script, run by Node."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import verify
from audit.checkpoint import Vkey
from audit.export.query import Query

from .conftest import ORIGIN, VKEY
from .test_export import World, drop_last_line, drop_record, rebuilt, swap

PAGE = Path(verify.__file__).with_name("verify.html")
pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(shutil.which("node") is None, reason="SKIPPED LOUDLY: node is not on this machine: the page did not run"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("page"))
    asyncio.run(made.fill())
    return made


@pytest.fixture(scope="module")
def whole(world: World) -> Path:
    return world.make(disclose=("all",))


def page(*asked: dict[str, Any]) -> list[dict[str, Any]]:
    """What the page says of each."""
    command = ["node", "--no-warnings", str(Path(__file__).with_name("verify_page.mjs")), str(PAGE)]
    ran = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_what_was_not_touched_is_found_in_order_as_folder_zip_and_selection(world: World, whole: Path, tmp_path: Path) -> None:
    zipped = Path(shutil.make_archive(str(tmp_path / "export"), "zip", whole))
    some = world.make(Query(kinds=("call.start",)))
    reports = page(*({"place": str(place), "key": VKEY} for place in (whole, zipped, some)), {"place": str(whole)})
    assert [report["findings"] for report in reports] == [[]] * 4
    assert reports[0]["records"] == reports[1]["records"] > reports[2]["records"] > 0
    assert "a selection" in " ".join(reports[2]["notes"])
    assert "NO KEY" in " ".join(reports[3]["notes"])


def test_a_flipped_bit_in_any_file_is_found(whole: Path, tmp_path: Path) -> None:
    asked = []
    for number, file in enumerate(sorted(each for each in whole.rglob("*") if each.is_file())):
        data = file.read_bytes()
        for at in sorted({0, len(data) // 3, len(data) - 1}):
            copy = tmp_path / f"{number}-{at}"
            shutil.copytree(whole, copy)
            place = copy / file.relative_to(whole)
            place.chmod(0o600)
            place.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            asked.append({"place": str(copy), "key": VKEY})
    found = page(*asked)
    assert [each["place"] for each, report in zip(asked, found, strict=True) if report["ok"]] == []
    assert len(asked) > 10


def test_what_is_changed_and_signed_anew_by_the_logs_key_is_found_by_the_tree(whole: Path, tmp_path: Path) -> None:
    changes = [
        swap("data/records.jsonl", b'"kind":"call.end"', b'"kind":"call.foo"'),
        drop_last_line("data/records.jsonl"),
        drop_record,
    ]
    copies = [rebuilt(whole, tmp_path / str(n), change) for n, change in enumerate(changes)]
    assert all(report["findings"] for report in page(*({"place": str(copy), "key": VKEY} for copy in copies)))


def test_another_key_a_strange_file_and_another_past_are_found(whole: Path, tmp_path: Path) -> None:
    stranger = str(Vkey.of(ORIGIN, Ed25519PrivateKey.generate()))
    more = tmp_path / "more"
    shutil.copytree(whole, more)
    (more / "notes.txt").write_text("hello")
    note = (whole / "checkpoint").read_text()
    lines = note.split("\n")
    lines[2] = "A" * 43 + "="
    other, own, foreign, past = page(
        {"place": str(whole), "key": stranger},
        {"place": str(whole), "key": VKEY, "kept": [note]},
        {"place": str(more), "key": VKEY},
        {"place": str(whole), "key": VKEY, "kept": ["\n".join(lines)]},
    )
    assert any("another key" in each for each in other["findings"])
    assert own["ok"]
    assert foreign["findings"] == ["there is a file that the manifest does not name: notes.txt"]
    assert past["findings"]


def test_the_page_is_one_file_that_loads_nothing_and_is_in_every_export(whole: Path) -> None:
    text = PAGE.read_text()
    assert (whole / "verify.html").read_text() == text
    assert "default-src 'none'" in text
    assert not [word for word in ("http://", "import(", "fetch(", "src=", "XMLHttpRequest", "innerHTML") if word in text]
