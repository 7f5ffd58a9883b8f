"""One gateway with real cages for the whole folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interaction.world import Gateway, Peers
from tests.interaction.world import peers as scripted
from tests.sandbox_road.world import sandboxed


@pytest.fixture(scope="session")
def upstreams() -> Iterator[Peers]:
    with scripted() as world:
        yield world


@pytest.fixture
def peers(upstreams: Peers) -> Iterator[Peers]:
    """The upstreams, their scripts forgotten afterwards."""
    yield upstreams
    upstreams.tools.clear()
    upstreams.agents.clear()


@pytest.fixture(scope="session")
def box(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway."""
    running = sandboxed(tmp_path_factory.mktemp("sandboxed"), upstreams)
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
def box_with_wish(upstreams: Peers, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway whose default profile asks for what no machine of these tests proves: a kernel of its own."""
    running = sandboxed(tmp_path, upstreams, default_profile="own-kernel")
    try:
        yield running.start()
    finally:
        running.stop()
