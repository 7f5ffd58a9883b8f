"""A world for one test, and certificates that its clients trust."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.egress.world import World, world
from tests.upstream.certificates import self_signed


@pytest.fixture
async def outside(tmp_path: Path) -> AsyncIterator[World]:
    """Nothing but the cage, the proxy (not started) and the ledger."""
    async with world(tmp_path) as made:
        yield made


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[[str], tuple[ssl.SSLContext, Path]]:
    """For a name: what a server speaks TLS with, and the file that its clients trust."""

    def make(name: str) -> tuple[ssl.SSLContext, Path]:
        folder = tmp_path / name
        folder.mkdir()
        cert, key = self_signed(folder, name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        return context, cert

    return make
