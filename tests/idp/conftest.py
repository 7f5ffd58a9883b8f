"""One identity provider, and one gateway that trusts it, for the whole folder; a test that turns keys or clocks makes its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.idp.provider import Clock, Idp, installed
from tests.idp.trusting import Trusting
from tests.interaction.world import Peers
from tests.interaction.world import peers as scripted

Make = Callable[..., Trusting]


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
def _installed() -> None:
    installed()


@pytest.fixture(scope="session")
def gateway(_installed: None, upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trusting]:
    """A gateway that nobody breaks, and the provider that it trusts."""
    made = Trusting(tmp_path_factory.mktemp("trusting"), upstreams)
    try:
        yield made.begin()
    finally:
        made.end()


@pytest.fixture
def idp(gateway: Trusting) -> Idp:
    """The provider that the shared gateway trusts."""
    return gateway.idp


def _making(upstreams: Peers, folder: Path) -> Iterator[Make]:
    made: list[Trusting] = []

    def make(**issuer: Any) -> Trusting:
        made.append(Trusting(folder, upstreams, clock=Clock(folder / "clock"), **issuer))
        return made[-1].begin()

    yield make
    for gateway in made:
        gateway.end()


@pytest.fixture
def own_gateway(_installed: None, upstreams: Peers, tmp_path: Path) -> Iterator[Make]:
    """Makes a gateway, a provider and a clock for one test, which may turn them."""
    yield from _making(upstreams, tmp_path)


@pytest.fixture(scope="module")
def shared_gateway(_installed: None, upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Makes one for the tests of one file, which leave it as good as they found it."""
    yield from _making(upstreams, tmp_path_factory.mktemp("shared"))
