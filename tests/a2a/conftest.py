"""One reference agent for the whole folder, and a fresh gateway for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.a2a.world import World, gateway, reference_agent, reference_agent_at


@pytest.fixture(scope="session")
def agent_url() -> Iterator[str]:
    with reference_agent() as url:
        yield url


@pytest.fixture(scope="session")
def both() -> Iterator[tuple[str, ...]]:
    """The same agent once more: its base URL, and where it serves gRPC."""
    with reference_agent_at("--grpc") as found:
        yield found


@pytest.fixture(params=["jsonrpc", "rest", "grpc"])
def upstream(request: pytest.FixtureRequest, both: tuple[str, ...]) -> str:
    """That agent by each of its bindings, as `gateway` takes it."""
    return {"jsonrpc": both[0], "rest": f"rest+{both[0]}/a2a/rest", "grpc": f"grpc://{both[1]}"}[str(request.param)]


@pytest.fixture
async def world(tmp_path: Path, agent_url: str) -> AsyncIterator[World]:
    async with gateway(tmp_path, {"ref": agent_url, "other": agent_url}) as running:
        yield running
