"""Kills at rest: durable, heard by every replica, never deleted, bounded; the same on both databases."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect, text

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state import database
from gateway.state.database import open_engine
from gateway.state.kills import CHANNEL, GRANT_SECONDS, MOST_OF_ONE_PERSON, Kill, KillRows, Lift
from gateway.state.notices import Notices
from gateway.state.used import key_of
from gateway.state.worker import Worker

NOW = 1_800_000_000
KILL = Kill("k-1", "user", "user:idp/paul", None, "left", "api", "user:idp/fiona", NOW * 1_000_000)


def kill(n: int | str, **changes: object) -> Kill:
    return replace(KILL, id=f"k-{n}", **changes)


async def test_a_kill_is_there_after_a_restart_and_on_every_replica(open_state) -> None:
    one, other = await open_state(), await open_state()
    assert await one.kills.add(KILL) == KILL
    await one.close()
    for state in (other, await open_state()):
        mark, found = await state.kills.read(None)
        assert found == [KILL]
        assert await state.kills.read(mark) == (mark, None)  # nothing new: nothing is read


async def test_whatever_changes_is_seen_by_who_looks_again(open_state) -> None:
    one, other = (await open_state()).kills, (await open_state()).kills
    mark, found = await other.read(None)
    assert found == []
    for change in (one.add(kill(1)), one.add(kill(2, target="user:idp/mia")), one.lift("k-1", 5), one.lift("k-2", 6)):
        await change
        seen, found = await other.read(mark)
        assert seen != mark
        assert found is not None
        mark = seen
    assert found == []


async def test_a_lifted_kill_stays_as_history_and_keeps_when_it_was_lifted(open_state) -> None:
    kills = (await open_state()).kills
    await kills.add(KILL)
    lifted = await kills.lift("k-1", 77)
    assert lifted == replace(KILL, lifted_at=77)
    assert await kills.lift("k-1", 99) == lifted
    assert await kills.lift("k-none", 1) is None
    assert await kills.one("k-1") == lifted
    assert await kills.listed(10) == []
    assert await kills.listed(10, lifted=True) == [lifted]


async def test_lists_are_the_newest_first_and_of_one_person_where_asked(open_state) -> None:
    kills = (await open_state()).kills
    for n in range(5):
        await kills.add(kill(n, target=f"user:idp/{n}", created_at=n, by=f"user:idp/{n % 2}"))
    assert [each.id for each in await kills.listed(3)] == ["k-4", "k-3", "k-2"]
    assert [each.id for each in await kills.listed(9, by="user:idp/1")] == ["k-3", "k-1"]


async def test_what_is_covered_already_makes_no_second_row(open_state) -> None:
    kills = (await open_state()).kills
    first = await kills.add(kill(1, before=NOW))
    assert await kills.add(kill(2, before=NOW - 5)) == first
    assert (await kills.add(kill(3, before=NOW + 5))).id == "k-3"  # reaches further
    assert (await kills.add(kill(4))).id == "k-4"
    assert (await kills.add(kill(5, before=NOW))).id != "k-5"
    assert (await kills.add(kill(6, before=NOW, by="user:idp/other"))).id == "k-6"  # lifted on its own


async def test_what_people_make_for_themselves_is_bounded_and_nobody_else_is_kept_from_killing(open_state) -> None:
    kills = (await open_state()).kills
    for n in range(MOST_OF_ONE_PERSON):
        await kills.add(kill(n, kind="workflow", target=f"wf-{n}", source="self", by="user:idp/paul"))
    with pytest.raises(Refused) as caught:
        await kills.add(kill("more", kind="workflow", target="wf-more", source="self", by="user:idp/paul"))
    assert caught.value.code is Code.OVERLOADED
    assert (await kills.add(kill("other", source="self", by="user:idp/mia"))).id == "k-other"
    assert (await kills.add(kill("warden", target="user:idp/paul"))).id == "k-warden"
    await kills.lift("k-0", 1)
    assert (await kills.add(kill("again", kind="workflow", target="wf-more", source="self", by="user:idp/paul"))).id == "k-again"


async def test_taking_grants_back_never_uses_up_what_people_may_kill_of_their_own(open_state) -> None:
    kills = (await open_state()).kills
    mine = {"source": "self", "by": "user:idp/paul"}
    for n in range(MOST_OF_ONE_PERSON):
        await kills.add(kill(n, kind="grant", target=f"g-{n}", **mine))
    soon = (NOW + GRANT_SECONDS) * 1_000_000
    with pytest.raises(Refused):
        await kills.add(kill("soon", kind="grant", target="g-soon", created_at=soon, **mine))
    made = await kills.add(kill("later", kind="grant", target="g-later", created_at=soon + 1, **mine))
    assert made.id == "k-later"
    assert [each.id for each in await kills.listed(1000)] == ["k-later"]
    assert (await kills.add(kill("token", kind="token", target="j", created_at=soon + 1, **mine))).id == "k-token"


async def test_all_that_are_in_force_are_bounded(url: str) -> None:
    engine, threads = await asyncio.to_thread(open_engine, url)
    worker = Worker(engine, threads)
    kills = KillRows(worker, most=3)
    for n in range(3):
        await kills.add(kill(n, target=f"user:idp/{n}"))
    with pytest.raises(Refused, match="lift those"):
        await kills.add(kill(3, target="user:idp/3"))
    assert len((await kills.read(None))[1] or []) == 3
    await worker.close()


@pytest.mark.parametrize("source", ["event", "self"])
async def test_however_many_people_and_issuers_make_there_is_room_for_those_with_the_right(url: str, source: str) -> None:
    engine, threads = await asyncio.to_thread(open_engine, url)
    worker = Worker(engine, threads)
    kills = KillRows(worker, most=20)
    for n in range(18):
        await kills.add(kill(n, target=f"user:idp/{n}", source=source, by=f"user:idp/{n}"))
    with pytest.raises(Refused) as caught:
        await kills.add(kill(18, target="user:idp/18", source=source, by="user:idp/18"))
    assert caught.value.code is Code.OVERLOADED
    for n, right in enumerate(("api", "offline")):
        assert (await kills.add(kill(f"right-{n}", target=f"user:idp/{n}", source=right))).id == f"k-right-{n}"
    await worker.close()


BY_EVENT = {"source": "event", "by": "issuer:idp"}


async def test_an_event_changes_everything_or_nothing_and_once(open_state) -> None:
    one, other = (await open_state()).kills, (await open_state()).kills
    key = key_of("event:idp", "jti")
    made = [kill(1, **BY_EVENT), kill(2, target="user:idp/mia", **BY_EVENT)]
    done = await one.apply(key, NOW + 60, made, [], NOW * 1_000_000)
    assert done == (made, [])
    assert await other.apply(key, NOW + 60, [kill(3, target="user:idp/x", **BY_EVENT)], [], NOW * 1_000_000) is None
    assert {each.id for each in (await other.read(None))[1] or []} == {"k-1", "k-2"}


async def test_of_two_replicas_that_take_one_event_at_once_one_does(open_state) -> None:
    replicas = [(await open_state()).kills for _ in range(2)]
    key = key_of("event:idp", "jti")
    done = await asyncio.gather(
        *(replica.apply(key, NOW + 60, [kill(n, **BY_EVENT)], [], NOW * 1_000_000) for n, replica in enumerate(replicas * 3))
    )
    assert sum(each is not None for each in done) == 1


async def test_an_event_whose_kill_cannot_be_kept_is_not_used_up(url: str) -> None:
    engine, threads = await asyncio.to_thread(open_engine, url)
    worker = Worker(engine, threads)
    full, roomy = KillRows(worker, most=1), KillRows(worker)
    await full.add(kill(1))
    key = key_of("event:idp", "jti")
    wanted = [kill(2, target="user:idp/mia", **BY_EVENT)]
    with pytest.raises(Refused):
        await full.apply(key, NOW + 60, wanted, [], NOW * 1_000_000)
    assert await roomy.apply(key, NOW + 60, wanted, [], NOW * 1_000_000) == (wanted, [])
    await worker.close()


async def test_a_lift_by_event_takes_back_what_it_names_and_nothing_else(open_state) -> None:
    kills = (await open_state()).kills
    at = NOW * 1_000_000
    await kills.add(kill("api"))
    for n, changes in enumerate(({}, {"by": "issuer:other"}, {"reason": "account-purged"}, {"target": "user:idp/mia"})):
        await kills.add(kill(n, **({"reason": "account-disabled"} | BY_EVENT | changes)))
    await kills.add(
        kill("later", **({"reason": "account-disabled"} | BY_EVENT | {"target": "user:idp/eve", "created_at": at + 1}))
    )
    lifts = [Lift("user", f"user:idp/{who}", "issuer:idp", "account-disabled", at) for who in ("paul", "eve")]
    _, lifted = await kills.apply(key_of("event:idp", "jti"), NOW + 60, [], lifts, at + 9) or ([], [])
    assert [each.id for each in lifted] == ["k-0"]
    assert {each.id for each in (await kills.read(None))[1] or []} == {"k-api", "k-1", "k-2", "k-3", "k-later"}


async def test_an_issuer_that_repeats_itself_leaves_one_row_in_force(open_state) -> None:
    kills = (await open_state()).kills
    for n in range(5):
        made = kill(n, before=NOW + n, reason="session-revoked", created_at=n, **BY_EVENT)
        await kills.apply(key_of("event:idp", str(n)), NOW + 60, [made], [], n)
    assert [each.before for each in (await kills.read(None))[1] or []] == [NOW + 4]


async def test_a_database_that_fails_kills_nobody_and_shows_no_row(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    engine, threads = open_engine(f"sqlite:///{path}")
    worker = Worker(engine, threads)
    kills = KillRows(worker)
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE kills")
    other.close()
    for work in (kills.add(KILL), kills.read(None), kills.lift("k-1", 1), kills.listed(1)):
        with pytest.raises(Refused) as caught:
            await work
        assert caught.value.code is Code.INTERNAL_ERROR
        assert "paul" not in str(caught.value)
    await worker.close()


@pytest.mark.postgres
async def test_every_change_is_told_to_the_others_when_it_is_committed_and_not_before(postgres_url: str) -> None:
    engine, threads = await asyncio.to_thread(open_engine, postgres_url)
    worker = Worker(engine, threads)
    kills, heard = KillRows(worker, "me"), asyncio.Queue()  # type: ignore[var-annotated]
    ears = Notices(postgres_url, CHANNEL, "another", lambda: heard.put_nowait(None))
    own = Notices(postgres_url, CHANNEL, "me", lambda: None)
    ears.start()
    own.start()
    await heard.get()  # it listens
    for change in (kills.add(kill(1)), kills.lift("k-1", 5), kills.apply(key_of("s", "j"), NOW, [kill(2)], [], NOW)):
        await change
        await heard.get()
    with pytest.raises(Refused):  # rolled back: nothing is told
        await KillRows(worker, "me", most=0).add(kill(3, target="user:idp/x"))
    await kills.add(kill(4, target="user:idp/y"))
    await heard.get()
    assert heard.empty()
    for each in (ears, own):
        await each.aclose()
    await worker.close()


def migrated(url: str, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    engine = create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if revision == "0001" and _has_kills(url) else command.upgrade)(config, revision)
    engine.dispose()


def _has_kills(url: str) -> bool:
    engine = create_engine(url)
    try:
        return inspect(engine).has_table("kills")
    finally:
        engine.dispose()


def test_a_store_of_0001_keeps_its_owners_through_0002_and_back(url: str) -> None:
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True)
    migrated(url, "0001")
    assert not _has_kills(url)
    row = "INSERT INTO task_owners VALUES ('erp', 't-1', 'c-1', 'acme', 'user:idp/paul', 'wf-1', 7)"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(row))
    upgraded, threads = open_engine(url)  # as a gateway of today opens it
    assert threads >= 1
    with upgraded.begin() as connection:
        assert connection.execute(text("SELECT subject FROM task_owners")).scalar_one() == "user:idp/paul"
        assert connection.execute(text("SELECT count(*) FROM kills")).scalar_one() == 0
        connection.execute(text("INSERT INTO used_once VALUES ('s', 'd', 1)"))
    upgraded.dispose()
    migrated(url, "0001")
    tables = set(inspect(engine).get_table_names())
    assert {"kills", "used_once", "handed_hops", "vault_tokens", "standing_grants"}.isdisjoint(tables)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT subject FROM task_owners")).scalar_one() == "user:idp/paul"
    engine.dispose()
    again, _ = open_engine(url)
    again.dispose()
    assert _has_kills(url)
