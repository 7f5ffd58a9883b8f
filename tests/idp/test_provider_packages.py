"""The test provider's packages: pinned to the last bit, from whatever mirror there is."""

from __future__ import annotations

import json

from tests.idp.provider import FOLDER


def test_the_lock_of_the_test_provider_names_no_registry_and_pins_every_package() -> None:
    lock = json.loads((FOLDER / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert len(packages) > 20
    assert [name for name, entry in packages.items() if "resolved" in entry or "integrity" not in entry] == []


def test_the_test_provider_is_asked_for_by_exact_versions() -> None:
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    assert [version for version in wanted.values() if not version.replace(".", "").isdigit()] == []
