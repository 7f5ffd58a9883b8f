"""The spool, when its own disk fails and when something waits that may not stand in it; and what becomes of its records later."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from audit.archive import FolderArchive
from audit.export.query import Query
from audit.flush import Flush
from audit.journal import Journal
from audit.model import Entry, LedgerUnavailableError, Receipt, Value
from audit.privacy import SealKey
from audit.retention import Retention, Rule
from audit.signer import Signer
from audit.spool import Spool, SpoolLimits
from audit.spooling import Spooling
from audit.verify import verify_export, verify_sqlite
from audit.writer import Writer

from .conftest import NOON, ORIGIN, SEAL_KEY, SIGNING_KEY, VKEY, Open, denial, start
from .test_export import World
from .test_journal_store_failures import Failing
from .test_spool import ANN, Away, away, call, files, folder, left_behind, may, opened, ours, over, records, whole
from .test_verify_page import page

__all__ = ["away", "folder", "opened"]  # fixtures
DAY = 24 * 3600 * 1_000_000


# --- its own disk fails


class BadDisk:
    """The system's calls, of which one fails as a disk does that cannot be written; `half` of what it was given is there then."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str) -> None:
        self.fails = False
        real = getattr(os, name)

        def failing(descriptor: int, *data: Any) -> Any:
            if self.fails and Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".spool":
                if data:
                    real(descriptor, bytes(data[0])[: len(data[0]) // 2])
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(descriptor, *data)

        patch.setattr(f"audit.spool.os.{name}", failing)


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("what", ["write", "fsync"])
async def test_what_the_disk_did_not_take_is_refused_and_what_it_took_before_is_in_the_log(
    opened: Any, away: Away, path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, what: str, begun: bool, dies: bool
) -> None:
    disk, journal = BadDisk(monkeypatch, what), await opened()
    await journal.append(start("before", ANN, Value("request", b"x")))
    away.go()
    told = [await journal.append(call("c1")), await journal.append(over("c1"))] if begun else []
    disk.fails = True
    with pytest.raises(LedgerUnavailableError):
        await journal.append(call("c2"))
    assert "it cannot be written, [Errno 5] Input/output error" in journal.healthy.reason
    disk.fails = False
    if begun:  # it holds what it took, and nobody knows what else: nothing more is put there
        with pytest.raises(LedgerUnavailableError):
            await journal.append(call("c3"))
        assert "takes no more after a failure of its disk" in journal.healthy.reason
    else:
        assert files(folder) == []
        told = [await journal.append(call("c3"))]
    if dies:
        await journal.close()
        away.back()
        journal = await opened()
    else:
        away.back()
        await whole(journal)
    await journal.append(denial("d1"))
    await journal.close()
    found = {record.id: record for record in records(f"sqlite:///{path}")}
    assert [found[each.id].hash for each in told] == [each.leaf_hash for each in told]
    refused = {each for each in found if each in {"c2", "c3"} and each not in {one.id for one in told}}
    assert not refused or (dies and what == "fsync"), refused  # whole in the file, and acknowledged to nobody
    closed = {record.leaf["call"] for record in found.values() if record.kind == "call.orphaned"}
    assert refused <= closed
    assert files(folder) == []
    assert [str(each) for each in verify_sqlite(path, VKEY).findings] == []


# --- something waits that may not stand there

EVE = "user:corp/eve"
WAITS = {
    "a legal hold": Entry("hold.set", "hold", 6, None, {}, people={"target": ANN}),
    "somebody new": start("of-eve", EVE, Value("request", b"hers")),
}


@pytest.mark.parametrize("where", ["after the commit", "before the commit"])
@pytest.mark.parametrize("what", WAITS)
def test_while_nobody_knows_what_became_of_a_hold_or_a_new_person_nothing_is_spooled(
    path: Path, folder: Path, what: str, where: str
) -> None:
    store = Failing(f"sqlite:///{path}")
    store.claim(ORIGIN, VKEY)
    seal = SealKey(ORIGIN, SEAL_KEY)
    writer = Writer(store, ORIGIN, seal, "gw-1", lambda: 5)
    into = Spooling(Flush(writer, None), writer, Spool(SpoolLimits(folder), ORIGIN, "gw-1", seal.spool_key))
    into.write([Entry("writer.start", "boot", 5), start("before", ANN, Value("request", b"x"))])
    for entries, faults in (
        ([WAITS[what], call("c1")], {where: 1, "before the lock": 1}),
        ([call("c2")], {"before the lock": 2}),
    ):
        store.faults |= faults
        results, why = into.write(entries)
        assert why
        assert all(isinstance(each, LedgerUnavailableError) for each in results)
        assert files(folder) == []
    store.faults.clear()
    again = into.write([WAITS[what], call("c3")])  # exactly once, whether the store had it or not
    assert again[1] == ""
    assert all(isinstance(each, Receipt) for each in again[0])
    into.close()
    Signer(store, ORIGIN, SIGNING_KEY).sign()
    store.close()
    ids = [name for name, _ in ours(f"sqlite:///{path}")]
    assert ids.count(WAITS[what].id) == 1
    assert "c2" not in ids
    assert [str(each) for each in verify_sqlite(path, VKEY).findings] == []


async def test_an_erasure_that_is_asked_for_while_the_store_is_away_is_refused_and_done_afterwards(
    opened: Any, away: Away, path: Path, folder: Path
) -> None:
    journal = await opened()
    await journal.append(start("before", ANN, Value("request", b"x")))
    away.go()
    told = await journal.append(call("c1"))
    with pytest.raises(LedgerUnavailableError):
        await journal.shred(ANN, request="r", approver="user:corp/dpo")
    assert (await journal.append(over("c1"))).index == -1  # calls go on
    away.back()
    await whole(journal)
    await journal.shred(ANN, request="r", approver="user:corp/dpo")
    await journal.close()
    found = [record.id for record in records(f"sqlite:///{path}") if record.id == told.id or record.kind == "key.shred"]
    assert len(found) == 2
    assert found[0] == "c1"
    assert [str(each) for each in verify_sqlite(path, VKEY).findings] == []


# --- what becomes of its records later


async def test_records_out_of_a_spool_are_exported_and_the_verifier_and_its_page_find_them_in_order(
    opened: Any, away: Away, path: Path, tmp_path: Path
) -> None:
    told = await left_behind(opened, away, call("c1"), over("c1"), call("c2"))
    await (await opened()).close()
    (tmp_path / "world").mkdir()
    world = World(tmp_path / "world")
    world.url = f"sqlite:///{path}"
    out = await asyncio.to_thread(world.make, disclose=("all",))
    some = await asyncio.to_thread(world.make, Query(kinds=("call.start", "call.end")))
    rows = [json.loads(line) for line in (out / "data/records.jsonl").read_text().splitlines()]
    assert [row["record"]["id"] for row in rows if row["record"].get("spooled") and row["record"]["kind"] != "writer.stop"] == [
        each.id for each in told
    ]
    for place in (out, some):
        assert [str(each) for each in verify_export(place, VKEY).findings] == []
    if shutil.which("node") is not None:
        asked = ({"place": str(place), "key": VKEY} for place in (out, some))
        assert [said["findings"] for said in await asyncio.to_thread(page, *asked)] == [[], []]


async def test_records_out_of_a_spool_are_archived_and_retired_and_the_rest_verifies(
    opened: Any, open_journal: Open, away: Away, path: Path, tmp_path: Path
) -> None:
    """The segment ends within a spool's records: what a replay after it excuses is carried over the cut."""
    url, clock = f"sqlite:///{path}", iter(range(NOON, 2**53))
    more: dict[str, Any] = {"clock": lambda: next(clock)}
    journal: Journal = await opened(**more)
    await asyncio.gather(*(journal.append(denial(f"d{n}")) for n in range(249)))
    await journal.append(start("before", ANN, Value("request", b"x")))
    away.go()
    for name in ("c1", "c2", "c3", "c4"):
        await journal.append(call(name))
        await journal.append(over(name))
    other_end = may(Entry("call.end", "before-end", NOON, None, {"call": "before"}))
    await journal.append(other_end)
    await journal.close()
    away.back()
    journal = await opened(**more)
    for n in range(40):
        await journal.append(denial(f"more{n}"))
    spooled = [record.index for record in records(url) if record.leaf.get("spooled")]
    assert min(spooled) < 256 < max(spooled)
    loop = asyncio.get_running_loop()

    def append(entry: Entry) -> Receipt:
        return asyncio.run_coroutine_threadsafe(journal.append(entry), loop).result()

    later = NOON + 8 * 365 * DAY
    retention = Retention(url, FolderArchive(tmp_path / "archive"), Rule(), append, lambda: later)
    manifest = await asyncio.to_thread(retention.seal, NOON + DAY)
    assert (manifest.start, manifest.stop) == (0, 256)
    gone, _ = await asyncio.to_thread(retention.retire, "user:corp/eve", "their time has come")
    assert len(gone) == 1
    await journal.close()
    report = verify_sqlite(path, VKEY)
    assert (report.first, [str(each) for each in report.findings]) == (256, [])
