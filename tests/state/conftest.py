"""The same promises on both databases: a fresh SQLite file, and a fresh database of a real PostgreSQL server."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.state import State

_spec = importlib.util.spec_from_file_location(
    "state_postgres_server", Path(__file__).resolve().parents[1] / "postgres_server.py"
)
assert _spec is not None
assert _spec.loader is not None
postgres_server: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(postgres_server)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A running server of our own."""
    with postgres_server.server() as running:
        yield running


@pytest.fixture
def postgres_url(postgres: Any) -> Iterator[str]:
    """A fresh database of the server."""
    with postgres_server.database(postgres) as database_url:
        yield database_url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/data/state.db"
    server: str = request.getfixturevalue("postgres_url")
    return server


@pytest.fixture
async def open_state(url: str) -> AsyncIterator[Callable[[], Awaitable[State]]]:
    """Opens the store again and again, as replicas and restarts do; closes them all at the end."""
    opened: list[State] = []

    async def open_one() -> State:
        opened.append(await asyncio.to_thread(State.open, url))
        return opened[-1]

    yield open_one
    for state in opened:
        await state.close()
