"""Replicas that share PostgreSQL: what one puts in force, the others look for at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from gateway.policy.notify import CHANNEL, Notices
from policies.bundle import load_texts
from tests.gateway.policy.live import ASKED_ONLY, Live, live, texts, write
from tests.interaction.world import Peers
from tests.postgres_server import Server, database, server

pytestmark = pytest.mark.postgres
SEAL = "p, role:buyer, acme, desk.seal, call, allow, -, -, BUY-9\n"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def url(postgres: Server) -> Iterator[str]:
    with database(postgres) as made:
        yield made


class Ear:
    """What one replica heard."""

    def __init__(self, url: str, me: str) -> None:
        self.heard: asyncio.Queue[float] = asyncio.Queue()
        self.notices = Notices(url, me, lambda: self.heard.put_nowait(time.perf_counter()))

    async def ready(self) -> None:
        self.notices.start()
        await self.heard.get()  # whoever begins to listen looks once: something may have been said before


async def test_every_other_replica_hears_a_notice_and_the_one_that_spoke_does_not(
    url: str, record_property: pytest.RecordProperty
) -> None:
    ears = [Ear(url, f"replica-{number}") for number in range(3)]
    try:
        for ear in ears:
            await ear.ready()
        delays = []
        for _ in range(20):
            said = time.perf_counter()
            ears[0].notices.say()
            delays += [await ear.heard.get() - said for ear in ears[1:]]
        record_property("median_ms", round(statistics.median(delays) * 1000, 2))
        print(f"median {statistics.median(delays) * 1000:.1f} ms, max {max(delays) * 1000:.1f} ms of {len(delays)}")
        assert ears[0].heard.empty()
    finally:
        for ear in ears:
            await ear.notices.aclose()


async def test_listening_begins_again_after_the_database_cut_it_off_and_looks_for_what_was_missed(
    postgres: Server, url: str
) -> None:
    ear = Ear(url, "a")
    try:
        await ear.ready()
        name = url.partition("@/")[2].partition("?")[0]
        with postgres.connect() as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        await asyncio.wait_for(ear.heard.get(), 60)
        other = Notices(url, "b", lambda: None)
        other.say()
        await asyncio.wait_for(ear.heard.get(), 60)
        await other.aclose()
    finally:
        await ear.notices.aclose()


async def test_a_database_that_is_away_stops_nobody(tmp_path: Path) -> None:
    notices = Notices(f"postgresql+psycopg://bailiwick@/nothing?host={tmp_path}", "a", lambda: None)
    notices.start()
    notices.say()
    await asyncio.sleep(0)
    assert not notices.listening.is_set()
    await notices.aclose()


async def test_a_notice_carries_nothing_that_is_believed(url: str) -> None:
    """Whoever can write to the database can have a folder looked at, and no more."""
    ear = Ear(url, "a")
    try:
        await ear.ready()
        conninfo = "postgresql://" + url.partition("://")[2]
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
            for payload in ("", "sha256:" + "0" * 64, "rollback", "\u2028" * 100):
                await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))
                await asyncio.wait_for(ear.heard.get(), 60)
    finally:
        await ear.notices.aclose()


def test_with_sqlite_nobody_listens() -> None:
    assert not Notices.possible("sqlite:////var/lib/state.db")
    assert Notices.possible("postgresql+psycopg://user@host/db")


def test_what_one_gateway_puts_in_force_or_rolls_back_is_in_force_at_its_replica(tmp_path: Path, peers: Peers, url: str) -> None:
    """Neither watches: only the notice tells the second one."""
    first, second = texts(), texts(more=SEAL)
    stores = {"state": {"url": url}, "ledger": {"url": url, "origin": "test.invalid/acme"}}
    with live(tmp_path, peers, first, more=stores, **ASKED_ONLY) as one:
        twin = one.gateway.twin("twin")
        try:
            two = Live(twin.start())
            write(one.folder, second)
            assert one.reload().json()["active"]["result"] == "activated"
            two.becomes(load_texts(second).digest)
            assert "result" in twin.call("desk.seal", two.admin).json()
            assert one.roll_back(load_texts(first).digest).status_code == 200
            two.becomes(load_texts(first).digest)
            assert "result" not in twin.call("desk.seal", two.admin).json()
        finally:
            twin.kill()
