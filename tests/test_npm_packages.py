"""What tests take from npm: pinned to the last bit, from whatever mirror there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import npm

ROOT = Path(__file__).resolve().parent
FOLDERS = sorted(path.parent for path in ROOT.rglob("package-lock.json") if "node_modules" not in path.parts)


def test_the_tests_know_their_folders_of_packages() -> None:
    assert {folder.relative_to(ROOT).as_posix() for folder in FOLDERS} >= {"idp", "conformance"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_lock_of_npm_packages_names_no_registry_and_pins_every_package(folder: Path) -> None:
    assert npm.loosely_pinned(folder) == []
