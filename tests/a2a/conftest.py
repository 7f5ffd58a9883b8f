"""One reference agent for the whole folder, and a fresh gateway for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.a2a.world import World, gateway, reference_agent


@pytest.fixture(scope="session")
def agent_url() -> Iterator[str]:
    with reference_agent() as url:
        yield url


@pytest.fixture
async def world(tmp_path: Path, agent_url: str) -> AsyncIterator[World]:
    async with gateway(tmp_path, {"ref": agent_url, "other": agent_url}) as running:
        yield running
