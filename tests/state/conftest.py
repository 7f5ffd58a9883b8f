"""The same promises on both databases: a fresh SQLite file, and a fresh database of a real PostgreSQL server."""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from gateway.state import State

SERVER = Path(__file__).resolve().parents[1] / "postgres_server.py"


@pytest.fixture(scope="session")
def postgres_base() -> Iterator[str]:
    """URL of a running server's maintenance database."""
    spec = importlib.util.spec_from_file_location("postgres_server", SERVER)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield from module.start()


@pytest.fixture
def postgres_url(postgres_base: str) -> str:
    """A fresh database of the server."""
    name = f"state_{secrets.token_hex(6)}"
    engine = create_engine(postgres_base, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine.dispose()
    return engine.url.set(database=name).render_as_string(hide_password=False)


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
