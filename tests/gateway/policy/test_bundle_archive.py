"""The archive: whole or not there, for its owner alone, bounded, and believed only where its files hash to their name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.policy.archive import Archive, ArchiveError
from gateway.policy.memory import NAME, Memory, read_memory, write_memory
from gateway.problem import ProblemError
from policies.bundle import Bundle, load, load_texts
from policies.manifest import sign
from tests.gateway.policy.live import only, texts

GOOD = load_texts(texts())


def numbered(number: int) -> Bundle:
    return load_texts(texts(more=f"# {number}\n"))


def signed(files: dict[str, str], serial: int) -> Bundle:
    key = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    return load_texts(files | sign(files, key, serial=serial, created="2026-11-22T18:00:00Z"))


def test_what_was_put_comes_back_with_every_file_and_as_a_folder_that_loads(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "bundles")
    bundle = signed(texts(), 3)
    archive.put(bundle)
    assert archive.get(bundle.digest).texts == bundle.texts
    assert {"tests/desk.yaml", "manifest.json", "manifest.jws"} <= set(archive.get(bundle.digest).texts)
    folder = tmp_path / "bundles" / bundle.digest.removeprefix("sha256:")
    assert load(folder).digest == bundle.digest


def test_a_bundle_without_any_grant_comes_back(tmp_path: Path) -> None:
    files = {name: text for name, text in only().items() if not name.startswith("grants/")}
    archive = Archive(tmp_path / "bundles")
    archive.put(load_texts(files))
    assert archive.get(load_texts(files).digest).rules == ()


def test_only_its_owner_may_look_into_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        Archive(tmp_path / "bundles").put(GOOD)
        write_memory(tmp_path / "bundles", Memory())
    finally:
        os.umask(old)
    for path in (tmp_path / "bundles", *(tmp_path / "bundles").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_putting_twice_changes_nothing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "bundles")
    archive.put(GOOD)
    archive.put(GOOD)
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == [GOOD.digest.removeprefix("sha256:")]


@pytest.mark.parametrize("name", ["grants/people.csv", "tools.yaml"])
def test_a_changed_file_is_found_when_it_is_read_and_mended_when_it_is_put(tmp_path: Path, name: str) -> None:
    archive = Archive(tmp_path / "bundles")
    archive.put(GOOD)
    path = tmp_path / "bundles" / GOOD.digest.removeprefix("sha256:") / name
    path.write_text(path.read_text() + "# one more\n")
    with pytest.raises(ArchiveError, match="not what it was"):
        archive.get(GOOD.digest)
    archive.put(GOOD)
    assert archive.get(GOOD.digest).texts == GOOD.texts


def test_a_broken_file_is_found_with_its_place(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "bundles")
    archive.put(GOOD)
    (tmp_path / "bundles" / GOOD.digest.removeprefix("sha256:") / "grants/people.csv").write_text("p, who\n")
    with pytest.raises(ArchiveError, match=r"grants/people\.csv:1:1"):
        archive.get(GOOD.digest)


@pytest.mark.parametrize("name", ["../../etc", "sha256:..", "sha256:" + "A" * 64, "", "/etc/passwd", "a" * 63, "." * 64])
def test_no_name_leads_out_of_the_archive(tmp_path: Path, name: str) -> None:
    archive = Archive(tmp_path / "bundles")
    archive.put(GOOD)
    with pytest.raises(ArchiveError):
        archive.get(name)
    with pytest.raises(ArchiveError):
        archive.find(name)


def test_a_digest_its_beginning_and_a_serial_find_the_same_bundle(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "bundles")
    first, second = signed(texts(), 7), signed(texts(more="# 2\n"), 8)
    archive.put(first)
    archive.put(second)
    for wanted in (first.digest, first.digest[7:], first.digest[:19], first.digest[7:15], "7"):
        assert archive.find(wanted) == first.digest
    for nothing in ("9", "deadbeef", first.digest[7:14], "sha256:"):
        with pytest.raises(ArchiveError):
            archive.find(nothing)


def test_a_serial_of_two_bundles_means_neither(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "bundles")
    archive.put(signed(texts(), 7))
    archive.put(signed(texts(more="# 2\n"), 7))
    with pytest.raises(ArchiveError, match="2 kept bundles"):
        archive.find("7")


def test_every_bundle_stays_and_a_large_archive_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = Archive(tmp_path / "bundles", large=3 * sum(map(len, numbered(0).texts.values())))
    for number in range(6):
        archive.put(numbered(number))
        weight = archive.weigh()
        assert ("holds" in caplog.text) == (number > 2)
    assert weight == sum(len(text.encode()) for number in range(6) for text in numbered(number).texts.values())
    assert all(archive.get(numbered(number).digest).texts == numbered(number).texts for number in range(6))


def test_what_a_killed_process_left_is_cleared_away_once_it_is_old(tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    Archive(folder)
    for name, at in ((".new-old", 1000), (".new-young", None)):
        (folder / name).mkdir()
        if at is not None:
            os.utime(folder / name, (at, at))
    Archive(folder)
    assert [path.name for path in folder.iterdir()] == [".new-young"]


def test_memory_comes_back_and_a_damaged_one_is_refused_with_its_place(tmp_path: Path) -> None:
    memory = Memory("sha256:" + "a" * 64, 7, "sha256:" + "b" * 64, "mark")
    assert read_memory(tmp_path) == Memory()
    write_memory(tmp_path, memory)
    assert read_memory(tmp_path) == memory
    for text in ("[" * 4000, "", "{", "[]", '{"serial": "7"}', '{"digest": 1}', '{"other": ""}', '{"serial": true}'):
        (tmp_path / NAME).write_text(text)
        with pytest.raises(ProblemError, match=NAME):
            read_memory(tmp_path)


def test_an_older_serial_is_too_old_and_the_same_bundle_is_not() -> None:
    memory = Memory(serial=7, serial_digest="sha256:a")
    assert memory.least_serial("sha256:a") == 7
    assert memory.least_serial("sha256:b") == 8
