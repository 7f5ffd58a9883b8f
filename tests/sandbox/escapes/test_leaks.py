"""However many runs and however they end, nothing is left; and a gateway that is killed takes everything with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.escapes import kit
from tests.sandbox.escapes.killing import kill_at_a_moment
from tests.sandbox.escapes.suite import Suite, environments

PAIRS = [
    pytest.param(environment, backend, id=f"{backend} by {environment}")
    for environment, backend in ((kit.USER, "landlock"), (kit.ROOT, "landlock"), (kit.USER, "bwrap"), (kit.ROOT, "bwrap"))
    if environment in environments()
]
RUNS, SEED = 20, 11


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bailiwick-killed-", dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder) / "base"


@pytest.mark.parametrize(("environment", "backend"), PAIRS)
def test_many_runs_leave_nothing_behind(suite: Suite, environment: str, backend: str) -> None:
    """A sample; `python -m bench.escapes` makes it a thousand."""
    found = suite.campaign(environment, backend, attempts=False, runs=RUNS, seed=SEED)
    assert found["left"] == []
    assert sum(found["ends"].values()) == RUNS
    assert not [end for end in found["ends"] if "sandbox_error" in end]


@pytest.mark.parametrize("moment", range(2))
@pytest.mark.parametrize(("environment", "backend"), PAIRS)
def test_a_gateway_that_is_killed_leaves_no_process_and_the_next_one_no_folder(
    suite: Suite, base: Path, environment: str, backend: str, moment: int
) -> None:
    assert kill_at_a_moment(suite, base, environment, backend, seed=moment) == []
    assert sorted(path.name for path in base.iterdir()) == ["outside"]


@pytest.mark.parametrize(("environment", "backend"), PAIRS)
def test_a_warden_that_is_killed_leaves_nothing(suite: Suite, environment: str, backend: str) -> None:
    assert suite.campaign(environment, backend, attempts=False, warden=True)["left"] == []


@pytest.mark.parametrize(("environment", "backend"), PAIRS)
def test_a_run_that_is_cancelled_at_any_moment_leaves_nothing(suite: Suite, environment: str, backend: str) -> None:
    assert suite.campaign(environment, backend, attempts=False, cancelled=40)["left"] == []
