"""Bombs, floods, daemons and lies, each in a run of its own: bounded, ended for the right reason, and nothing of them left."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from tests.sandbox.escapes import kit
from tests.sandbox.escapes.solos import ESCAPED, SOLOS
from tests.sandbox.escapes.suite import Suite, environments, lost

WHOLE = ((kit.USER, "landlock"), (kit.ROOT, "bwrap"))
SAMPLED = ((kit.ROOT, "landlock"), (kit.USER, "bwrap"), (kit.ROOT_IN_CONTAINER, "landlock"), (kit.USER_IN_CONTAINER, "landlock"))
SEED, SAMPLE = 5, 8


def here(pairs: tuple[tuple[str, str], ...]) -> list[Any]:
    return [pytest.param(*pair, id=" by ".join(reversed(pair))) for pair in pairs if pair[0] in environments()]


def nothing_is_lost(found: dict[str, Any]) -> None:
    assert found["probe"]["problem"] == ""
    assert lost(found) == {}
    assert found["left"] == []


def test_each_says_what_it_tries() -> None:
    assert len(SOLOS) >= 40
    assert all(solo.sentence.endswith(".") for solo in SOLOS.values())


@pytest.mark.parametrize(("environment", "backend"), here(WHOLE))
def test_no_bomb_flood_daemon_or_lie_gets_what_it_wants(suite: Suite, environment: str, backend: str) -> None:
    nothing_is_lost(suite.campaign(environment, backend, attempts=False, solos=list(SOLOS), control=False))


@pytest.mark.parametrize(("environment", "backend"), here(SAMPLED))
def test_nor_elsewhere_by_a_sample(suite: Suite, environment: str, backend: str) -> None:
    names = random.Random(f"{SEED} {environment} {backend}").sample(list(SOLOS), SAMPLE)
    nothing_is_lost(suite.campaign(environment, backend, attempts=False, solos=names, control=False))


def test_without_a_cage_they_get_it(suite: Suite) -> None:
    environment = kit.USER if os.geteuid() == 0 else environments()[0]
    found = suite.campaign(
        environment, "landlock", attempts=False, solos=[name for name in SOLOS if SOLOS[name].control], caged=False
    )
    assert {name: said for name, said in found["solo control"].items() if ESCAPED not in said} == {}
