"""Each backend as whoever runs the tests, once for all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.bwrap import BwrapRunner
from sandbox.engine import CagedRunner
from sandbox.landlock import LandlockRunner
from tests.sandbox.conftest import NOBODY, needs_namespaces
from tests.stdio.world import open_folder


@pytest.fixture(scope="session", params=["landlock", "bwrap"])
def runner(request: pytest.FixtureRequest) -> Iterator[CagedRunner]:
    if request.param == "bwrap":
        needs_namespaces(NOBODY if os.geteuid() == 0 else None)
    made = BwrapRunner() if request.param == "bwrap" else LandlockRunner()
    yield made
    asyncio.run(made.aclose())


@pytest.fixture
def reachable() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder
