"""Every attempt of every family: none succeeds in a cage, and without one they do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.escapes import kit
from tests.sandbox.escapes.backends import BACKENDS
from tests.sandbox.escapes.solos import SOLOS
from tests.sandbox.escapes.suite import Suite, attempts, breaches, broken, environments, unreal
from tests.sandbox.escapes.weaknesses import WEAKNESSES

Campaign = Callable[[str, str], dict[str, Any]]
everywhere = pytest.mark.parametrize("environment", environments())
on_every_backend = pytest.mark.parametrize("backend", BACKENDS)


def test_there_are_attempts_enough_and_each_says_what_it_tries() -> None:
    names = [one.name for one in attempts()]
    assert len(names) >= 130
    assert len(set(names)) == len(names)
    for one in attempts():
        assert one.sentence.endswith("."), one.name
        assert one.control <= kit.ALWAYS, one.name


@on_every_backend
@everywhere
def test_no_attempt_succeeds_in_a_cage_and_without_one_nothing_runs(campaign: Campaign, environment: str, backend: str) -> None:
    found = campaign(environment, backend)
    if found["probe"]["problem"]:
        assert "caged" not in found
        assert found["refused"]["help"]
        return
    assert set(found["caged"]) == {one.name for one in attempts()}, found["run"]
    assert found["run"]["reason"] == "ok", found["run"]
    assert broken(found) == {}
    assert breaches(found) == []


@everywhere
def test_landlock_is_ready_everywhere_and_bwrap_where_there_are_namespaces(campaign: Campaign, environment: str) -> None:
    assert campaign(environment, "landlock")["probe"]["problem"] == ""
    assert (campaign(environment, "bwrap")["probe"]["problem"] == "") == (environment in kit.BARE)


@everywhere
def test_the_same_attempts_succeed_without_a_cage(campaign: Campaign, environment: str) -> None:
    found = campaign(environment, "landlock")
    assert unreal(found, environment) == {}
    seen = " ".join(line.partition(":")[0] for line in found["control witness"])
    assert seen == "files bystander contacts", "the witness sees what happens outside"


@pytest.mark.parametrize("name", WEAKNESSES)
def test_the_suite_reports_the_breaches_of_a_cage_with_one_layer_less(suite: Suite, name: str) -> None:
    found = suite.campaign(kit.USER, "landlock", weakness=name, control=False)
    assert WEAKNESSES[name].breaches - set(breaches(found)) == set(), found["run"]


def test_the_page_that_lists_the_families_counts_them_right() -> None:
    page = (Path(__file__).parents[3] / "docs/explanation/escapes.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.MULTILINE))
    assert {name: int(count) for name, count in told.items()} == Counter(one.family for one in attempts())
    assert f"| runs of their own | {len(SOLOS)} |" in page
    assert f"of {len(attempts())} attempts, open without a cage" in page
