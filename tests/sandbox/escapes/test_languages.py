"""The attempts from a shell, which may use the system's programs, and those that node's own library makes."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tests.sandbox.escapes import kit
from tests.sandbox.escapes.suite import Suite, attempts, breaches, broken, environments

PAIRS = [
    pytest.param(environment, backend, id=f"{backend} by {environment}")
    for environment, backend in ((kit.USER, "landlock"), (kit.ROOT, "bwrap"), (kit.USER_IN_CONTAINER, "landlock"))
    if environment in environments()
]
A_SHELLS_OWN = {"run_su_at_all", "run_a_program_by_descriptor"}
"""A shell may execute the system's programs; that su gains nothing by it is what `run_a_privileged_program` tries."""


@pytest.mark.parametrize(("environment", "backend"), PAIRS)
def test_no_attempt_succeeds_from_a_shell(suite: Suite, environment: str, backend: str) -> None:
    found = suite.campaign(environment, backend, attempts=False, language="shell")
    assert set(found["caged"]) == {one.name for one in attempts()}, found["run"]
    assert broken(found) == {}
    assert set(breaches(found)) <= A_SHELLS_OWN


@pytest.mark.skipif(shutil.which("node", path="/usr/bin") is None, reason="needs node")
@pytest.mark.parametrize(("environment", "backend"), PAIRS)
def test_no_attempt_succeeds_in_javascript_and_all_do_without_a_cage(suite: Suite, environment: str, backend: str) -> None:
    found: dict[str, Any] = suite.campaign(environment, backend, attempts=False, language="javascript")
    assert len(found["caged"]) >= 30, found["run"]
    assert breaches(found) == []
    closed = {name for name, outcome in found["control"].items() if outcome != kit.OPEN}
    assert closed == (set() if environment == kit.ROOT else {"become_root"})


CAGES = [
    pytest.param(environment, backend, cage, id=f"{cage}, {backend} by {environment}")
    for environment, backend, cage in (
        (kit.USER, "bwrap", "network"), (kit.USER, "landlock", "way back"), (kit.ROOT, "bwrap", "way back"),
        (kit.USER, "landlock", "served"), (kit.ROOT, "bwrap", "served"),
    )
    if environment in environments()
]  # fmt: skip


@pytest.mark.parametrize(("environment", "backend", "cage"), CAGES)
def test_no_attempt_succeeds_in_a_cage_that_has_more(suite: Suite, environment: str, backend: str, cage: str) -> None:
    """A way back on descriptor 3, a network of its own with a proxy in it, or streams both ways and the system's tools."""
    found = suite.campaign(environment, backend, control=False, cage=cage)
    assert set(found["caged"]) == {one.name for one in attempts()}, found["run"]
    assert broken(found) == {}
    assert set(breaches(found)) <= (A_SHELLS_OWN if cage == "served" else set())
