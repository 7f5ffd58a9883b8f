"""One set of upstreams and one gateway for the whole folder; a test that breaks its gateway makes one of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interaction.world import Gateway, Peers
from tests.interaction.world import peers as scripted


@pytest.fixture(scope="session")
def upstreams() -> Iterator[Peers]:
    with scripted() as world:
        yield world


@pytest.fixture
def peers(upstreams: Peers) -> Iterator[Peers]:
    """The upstreams: what reached them before is forgotten, and their scripts afterwards."""
    upstreams.heard.clear()
    yield upstreams
    upstreams.tools.clear()
    upstreams.agents.clear()


@pytest.fixture(scope="session")
def gateway(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that nobody breaks."""
    running = Gateway(tmp_path_factory.mktemp("gateway"), upstreams)
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
def own_gateway(upstreams: Peers, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Makes gateways for one test, which may break them."""
    made: list[Gateway] = []

    def make(**settings: Any) -> Gateway:
        made.append(Gateway(tmp_path, upstreams, more=settings))
        return made[-1].start()

    yield make
    for gateway in made:
        gateway.kill()
