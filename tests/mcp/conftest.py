"""One reference server for the whole folder, and a fresh gateway for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.mcp.world import World, gateway, reference_server


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    with reference_server() as url:
        yield url


@pytest.fixture
async def world(tmp_path: Path, server_url: str) -> AsyncIterator[World]:
    async with gateway(tmp_path, {"ref": server_url, "other": server_url}) as running:
        yield running
