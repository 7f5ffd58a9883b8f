"""A reference server and a reference agent for the whole folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.a2a.world import reference_agent
from tests.mcp.world import reference_server


@pytest.fixture(scope="session")
def agent_url() -> Iterator[str]:
    with reference_agent() as url:
        yield url


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    with reference_server() as url:
        yield url
