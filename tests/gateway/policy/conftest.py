"""Upstreams for the gateways of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interaction.world import Peers
from tests.interaction.world import peers as scripted


@pytest.fixture(scope="session")
def policy_upstreams() -> Iterator[Peers]:
    with scripted() as world:
        yield world


@pytest.fixture
def peers(policy_upstreams: Peers) -> Iterator[Peers]:
    """The upstreams, their scripts forgotten afterwards."""
    yield policy_upstreams
    policy_upstreams.tools.clear()
    policy_upstreams.agents.clear()
    policy_upstreams.heard.clear()
    policy_upstreams.__dict__.pop("answer", None)
