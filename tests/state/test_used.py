"""What is good once is good once: on every replica, after every restart, however many try at the same time."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state.database import open_engine
from gateway.state.used import GRACE_SECONDS, Once
from gateway.state.worker import Worker

NOW = 1_800_000_000


@pytest.fixture
async def open_once(url: str):
    """A store of small scopes, again and again, as replicas do."""
    workers: list[Worker] = []

    async def open_one(most: int = 65_536) -> Once:
        engine, threads = await asyncio.to_thread(open_engine, url)
        workers.append(Worker(engine, threads))
        return Once(workers[-1], most)

    yield open_one
    for worker in workers:
        await worker.close()


def rows(url: str) -> list[tuple[str, str, int]]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text("SELECT scope, digest, until FROM used_once"))]
    engine.dispose()
    return found


async def test_the_first_use_is_the_only_one(open_state) -> None:
    once = (await open_state()).once
    assert await once.use("dpop", "a", NOW + 60, NOW)
    assert not await once.use("dpop", "a", NOW + 60, NOW)
    assert await once.use("dpop", "b", NOW + 60, NOW)
    assert await once.use("event:idp", "a", NOW + 60, NOW)  # another scope knows nothing of it


async def test_a_use_on_one_replica_is_known_to_the_other_and_after_a_restart(open_state) -> None:
    one, other = await open_state(), await open_state()
    assert await one.once.use("dpop", "a", NOW + 60, NOW)
    assert not await other.once.use("dpop", "a", NOW + 60, NOW)
    await one.close()
    assert not await (await open_state()).once.use("dpop", "a", NOW + 60, NOW)


async def test_of_many_at_once_on_two_replicas_exactly_one_is_the_first(open_state) -> None:
    replicas = [(await open_state()).once, (await open_state()).once]
    for jti in ("a", "b", "c"):
        used = await asyncio.gather(*(replicas[n % 2].use("dpop", jti, NOW + 60, NOW) for n in range(24)))
        assert sum(used) == 1


async def test_what_has_ended_is_not_used_at_all(open_state, url: str) -> None:
    once = (await open_state()).once
    assert not await once.use("dpop", "a", NOW, NOW)
    assert rows(url) == []


async def test_the_table_holds_a_digest_and_never_the_text(open_state, url: str) -> None:
    once = (await open_state()).once
    assert await once.use("dpop", "a secret word \ud800", NOW + 60, NOW)
    digest = hashlib.sha256("a secret word \ud800".encode("utf-8", "backslashreplace")).hexdigest()
    assert rows(url) == [("dpop", digest, NOW + 60)]


async def test_a_full_scope_refuses_rather_than_forgets_and_others_go_on(open_once) -> None:
    once = await open_once(5)
    for n in range(5):
        assert await once.use("dpop", str(n), NOW + 60, NOW)
    with pytest.raises(Refused) as caught:
        await once.use("dpop", "one more", NOW + 60, NOW)
    assert caught.value.code is Code.OVERLOADED
    assert not await once.use("dpop", "0", NOW + 60, NOW)
    assert await once.use("other", "0", NOW + 60, NOW)
    later = NOW + 61  # what ended leaves room, swept or not
    assert await once.use("dpop", "one more", later + 60, later)


async def test_a_scope_that_another_replica_filled_is_full_here_too(open_once) -> None:
    one, other = await open_once(5), await open_once(5)
    for n in range(5):
        assert await one.use("dpop", str(n), NOW + 60, NOW)
    with pytest.raises(Refused):
        await other.use("dpop", "one more", NOW + 60, NOW)


async def test_rows_that_ended_are_swept_in_batches_and_live_ones_stay(open_state, url: str) -> None:
    once = (await open_state()).once
    engine = create_engine(url)
    with engine.begin() as connection:
        old = [{"digest": f"{n:064x}", "until": NOW} for n in range(1200)]
        connection.execute(text("INSERT INTO used_once (scope, digest, until) VALUES ('old', :digest, :until)"), old)
    engine.dispose()
    assert await once.use("dpop", "graced", NOW + GRACE_SECONDS + 1, NOW + 1)
    assert len(rows(url)) == 1201  # another replica's clock may be behind: they are too young to go
    later = NOW + 2 * GRACE_SECONDS
    for n, left in ((1, 702), (2, 203), (3, 4)):
        assert await once.use("dpop", f"live {n}", later + 60, later)
        assert len(rows(url)) == left
    assert not await once.use("dpop", "live 1", later + 60, later)


async def test_two_replicas_that_sweep_at_once_do_not_fail(open_state, url: str) -> None:
    replicas = [(await open_state()).once for _ in range(3)]
    engine = create_engine(url)
    with engine.begin() as connection:
        old = [{"digest": f"{n:064x}", "until": NOW} for n in range(1000)]
        connection.execute(text("INSERT INTO used_once (scope, digest, until) VALUES ('old', :digest, :until)"), old)
    engine.dispose()
    later = NOW + 2 * GRACE_SECONDS
    used = await asyncio.gather(*(replicas[n % 3].use("dpop", str(n), later + 60, later) for n in range(12)))
    assert all(used)


async def test_without_the_database_nothing_counts_as_first(open_state) -> None:
    state = await open_state()
    await state.close()
    with pytest.raises(Refused) as caught:
        await state.once.use("dpop", "a", NOW + 60, NOW)
    assert caught.value.code is Code.INTERNAL_ERROR


@pytest.mark.parametrize("scope", ["", "x" * 129, "a\nb"])
async def test_a_scope_that_is_none_is_a_defect_of_ours(open_state, scope: str) -> None:
    with pytest.raises(ValueError, match="scope"):
        await (await open_state()).once.use(scope, "a", NOW + 60, NOW)


USES = st.lists(st.tuples(st.sampled_from(["dpop", "event:idp"]), st.sampled_from("abcd")), min_size=1, max_size=30)


@given(uses=USES)
def test_any_order_of_uses_over_two_replicas_counts_each_once(uses: list[tuple[str, str]]) -> None:
    async def play() -> None:
        engine, threads = open_engine("sqlite://")
        worker = Worker(engine, threads)
        replicas = Once(worker), Once(worker)
        seen: set[tuple[str, str]] = set()
        for n, (scope, jti) in enumerate(uses):
            assert await replicas[n % 2].use(scope, jti, NOW + 60, NOW) is ((scope, jti) not in seen)
            seen.add((scope, jti))
        await worker.close()

    asyncio.run(play())
