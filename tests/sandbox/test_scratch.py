"""Folders of runs: claimed by one, removed whatever is in them, and never left to a dead gateway."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.scratch import UIDS, Folder, Scratch, ScratchError, processes_of, remove


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bailiwick-scratch-", dir="/tmp") as folder:
        yield Path(folder) / "base"


def test_a_claim_is_one_owners_and_empty(base: Path) -> None:
    scratch = Scratch(base, own_uids=False)
    first, second = scratch.claim(), scratch.claim()
    assert first.path != second.path
    assert list(first.path.iterdir()) == []
    assert first.path.stat().st_mode & 0o777 == 0o700
    assert scratch.release(first)
    assert scratch.release(second)
    assert not first.path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="uids are root's to give")
def test_every_claim_of_root_has_a_uid_that_nobody_else_has(base: Path) -> None:
    scratch = Scratch(base, own_uids=True)
    claims = [scratch.claim() for _ in range(8)]
    assert len({claim.uid for claim in claims}) == 8
    for claim in claims:
        assert claim.uid in UIDS
        assert claim.path.stat().st_uid == claim.uid
        assert processes_of(claim.uid or 0) == []
        assert scratch.release(claim)


def test_a_folder_in_use_is_not_swept_and_a_dead_gateways_is(base: Path) -> None:
    scratch = Scratch(base, own_uids=False)
    living, dead = scratch.claim(), scratch.claim()
    (dead.path / "left").write_text("x", encoding="ascii")
    os.close(dead.lock)  # as the kernel does for a process that ends
    assert scratch.sweep() == 1
    assert living.path.exists()
    assert not dead.path.exists()
    assert scratch.release(living)


def test_a_base_that_is_a_link_or_open_to_others_is_refused(base: Path, tmp_path: Path) -> None:
    base.symlink_to(tmp_path)
    with pytest.raises(ScratchError):
        Scratch(base, own_uids=False).claim()
    base.unlink()
    base.mkdir()
    base.chmod(0o777)
    with pytest.raises(ScratchError):
        Scratch(base, own_uids=False).claim()


def test_removal_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x", encoding="ascii")
    doomed = tmp_path / "doomed"
    (doomed / "inner").mkdir(parents=True)
    (doomed / "link").symlink_to(outside)
    (doomed / "inner" / "link").symlink_to(outside)
    remove(doomed)
    assert not doomed.exists()
    assert (outside / "kept").exists()
    (tmp_path / "top").symlink_to(outside)
    with pytest.raises(OSError, match="top"):
        remove(tmp_path / "top")
    assert (outside / "kept").exists()


def test_removal_is_not_stopped_by_depth_or_closed_folders(tmp_path: Path) -> None:
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    (doomed / "closed").mkdir(mode=0)
    fd = os.open(doomed, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d" * 50, dir_fd=fd)
        inner = os.open("d" * 50, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    remove(doomed)
    assert not doomed.exists()


def test_removing_what_is_gone_is_no_error(tmp_path: Path) -> None:
    remove(tmp_path / "nothing")


def test_a_claim_names_its_folder(base: Path) -> None:
    scratch = Scratch(base, own_uids=False)
    claim = scratch.claim()
    assert claim == Folder(claim.path, claim.lock, None)
    assert claim.path.parent == base
    assert scratch.sentinel.parent == base
    scratch.release(claim)
