"""Who notices what outside the database: exports, an archive, a spool.  The second table in the documentation is this one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import verify
from audit.archive import FolderArchive
from audit.export.finishing import Means
from audit.export.making import make, planned
from audit.export.plan import Plan
from audit.export.query import Query
from audit.journal import Journal
from audit.model import Entry, LedgerUnavailableError, Receipt, TamperedError, Value
from audit.privacy import SealKey
from audit.reader import Ledger, Shredded
from audit.retention import Retention, Rule, verify_segment
from audit.spool import Spool, SpoolLimits, read
from audit.verify import MANIFEST, verify_export, verify_sqlite
from tests.attacks.test_ledger_matrix import (
    EARLY,
    KEY,
    LATE,
    NOON,
    ORIGIN,
    ROOT,
    VKEY,
    WITNESS,
    Attack,
    Outside,
    Scene,
    drop,
    edit,
    filled,
    honest_log,
    strike,
    unguarded,
)
from tests.held_ledger import kept_from_writing

SEAL = bytes(32)
DAY = 24 * 3600 * 1_000_000


# ------------------------------------------------------------------------------------------------------------- exports
def export(path: Path, out: Path, note: str) -> Path:
    """A whole log, as its operator gives it away."""
    with Ledger.open(f"sqlite:///{path}", SEAL) as log:
        wish = Plan(Query(), ("jsonl", "csv"), note, int(note.split("\n")[1]), 0, 0, "os:auditor", "review", NOON, ())
        make(log, planned(log, wish), out, Means(KEY, ORIGIN, lambda _: None, (), "test"), lambda *_: None)
    return out


def signed_anew(place: Path, key: Ed25519PrivateKey) -> None:
    """The manifest, of the files as they are now."""
    envelope = json.loads((place / MANIFEST).read_bytes())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    files = {each.relative_to(place).as_posix(): each.read_bytes() for each in place.rglob("*") if each.is_file()}
    del files[MANIFEST]
    statement["subject"] = [
        {"name": name, "digest": {"sha256": hashlib.sha256(data).hexdigest()}} for name, data in sorted(files.items())
    ]
    payload = verify.compact(statement).encode()
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(key.sign(verify.pae(verify.PAYLOAD_TYPE, payload))).decode()
    (place / MANIFEST).write_bytes(verify.compact(envelope).encode() + b"\n")


Change = Callable[[Path], None]


def rows(change: Callable[[list[bytes]], list[bytes]]) -> Change:
    def done(place: Path) -> None:
        file = place / "data" / "records.csv"
        file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))

    return done


def other_row(lines: list[bytes]) -> list[bytes]:
    return [line.replace(EARLY.encode(), b"d-999") for line in lines]


def fewer_rows(lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if EARLY.encode() not in line]


def fewer_records(place: Path) -> None:
    """One record is taken out of the bytes that were hashed, and out of every row and count."""
    (file,) = (each for each in (place / "tile" / "entries").rglob("*") if each.is_file())
    data, kept = file.read_bytes(), b""
    while data:
        length = 2 + int.from_bytes(data[:2], "big")
        kept, data = kept + (b"" if f'"id":"{EARLY}"'.encode() in data[:length] else data[:length]), data[length:]
    file.write_bytes(kept)
    rows(fewer_rows)(place)


class Exported(NamedTuple):
    """What is done to an export, with which keys, and where it is noticed: by the verifier (V), C and D as in the first table.

    log  instead of the export, the log it is made of is changed and made to fit.
    """

    name: str
    by: str
    noticed: str
    change: Change | None = None
    log: Attack | None = None


EXPORTS = (
    Exported("a row of an export is changed", "thief", "V", rows(other_row)),
    Exported("a row is left out of an export", "thief", "V", rows(fewer_rows)),
    Exported("the manifest of an export is signed by another", "thief", "V", lambda place: signed_anew(place, OTHER)),
    Exported("a row of an export is changed, and its manifest signed anew", "key", "V", rows(other_row)),
    Exported("a row is left out of an export, and its manifest signed anew", "key", "V", rows(fewer_rows)),
    Exported("a record is left out of an export, and its manifest signed anew", "key", "VC", fewer_records),
    Exported("an export is made of a log in which a record was changed, and everything made to fit", "insider", "CD",
             log=Attack("", "insider", edit(EARLY), "")),
    Exported("an export is made of a log from which a record was removed, and everything made to fit", "insider", "CD",
             log=Attack("", "insider", drop(EARLY), "")),
    Exported("the same after the auditor's checkpoint", "insider", "D", log=Attack("", "insider", edit(LATE), "")),
)  # fmt: skip
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([7] * 32))


def noticed_of(place: Path, outside: Outside) -> str:
    """V, C and D, each by itself: what the earlier checkpoint, or the witness, adds to what the verifier finds anyway."""
    alone = {str(each) for each in verify_export(place, str(VKEY)).findings}
    kept = {str(each) for each in verify_export(place, str(VKEY), [outside.kept]).findings} - alone
    witnessed = verify_export(place, str(VKEY), None, [str(WITNESS)], 1)
    return "V" * bool(alone) + "C" * bool(kept) + "D" * bool({str(each) for each in witnessed.findings} - alone)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outside]:
    folder = tmp_path_factory.mktemp("outside")
    outside = asyncio.run(honest_log(folder))
    export(folder / "ledger.db", folder / "out", outside.witness)
    return folder, outside


@pytest.mark.parametrize("attack", EXPORTS, ids=lambda attack: f"{attack.by}: {attack.name}")
def test_what_is_done_to_an_export_is_noticed_at_exactly_these_levels(
    honest: tuple[Path, Outside], tmp_path: Path, attack: Exported
) -> None:
    folder, outside = honest
    assert noticed_of(folder / "out", outside) == ""
    place = tmp_path / "out"
    if attack.log is None:
        shutil.copytree(folder / "out", place)
        assert attack.change is not None
        attack.change(place)
        if attack.by == "key":
            signed_anew(place, KEY)
    else:
        for name in ("ledger.db", "backup.db"):
            shutil.copy(folder / name, tmp_path)
        strike(Scene(tmp_path / "ledger.db", tmp_path / "backup.db", outside), attack.log)
        with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
            (note,) = connection.execute("SELECT note FROM ledger_checkpoints ORDER BY size DESC").fetchone()
        export(tmp_path / "ledger.db", place, note)
    assert noticed_of(place, outside) == attack.noticed


# ------------------------------------------------------------------------------------------------- an archive, a spool
async def opened(folder: Path, **more: Any) -> Journal:
    clock = iter(range(NOON, 2**53))
    return await Journal.open(
        url=f"sqlite:///{folder / 'ledger.db'}", origin=ORIGIN, signing_key=KEY, seal_key=SEAL, writer="gw-1",
        clock=lambda: next(clock), checkpoint_seconds=0.01, **more,
    )  # fmt: skip


async def sealed(folder: Path) -> tuple[FolderArchive, str]:
    """A log whose first 256 records are in an archive as well."""
    journal = await opened(folder)
    await filled(journal, 0, 300)
    await journal.close()  # which signs the end
    journal = await opened(folder)
    loop = asyncio.get_running_loop()

    def append(entry: Entry) -> Receipt:
        return asyncio.run_coroutine_threadsafe(journal.append(entry), loop).result()

    archive = FolderArchive(folder / "archive")
    manifest = await asyncio.to_thread(
        Retention(f"sqlite:///{folder / 'ledger.db'}", archive, Rule(), append, lambda: NOON).seal, NOON + DAY
    )
    assert manifest is not None
    await journal.close()
    return archive, manifest.name


SEGMENTS = {
    "a segment is removed without a record of its retirement": "UPDATE ledger_segments SET retired = 'r'; "
    "DELETE FROM ledger_leaves WHERE idx < 256; DELETE FROM ledger_openings WHERE idx < 256",
    "records that are in the archive are removed here": "DELETE FROM ledger_leaves WHERE idx < 256",
}
ARCHIVE = "a file of the archive is changed"
SPOOL = "a spooled record is changed before it is replayed"
SPOOL_KEY = "a spooled record is changed before it is replayed, and its tags made anew"
SPOOL_LAST = "the same of the last one, which no other names"


@pytest.mark.parametrize("name", SEGMENTS)
async def test_a_segment_that_is_removed_without_its_record_is_noticed_by_the_verifier(tmp_path: Path, name: str) -> None:
    await sealed(tmp_path)
    assert verify_sqlite(tmp_path / "ledger.db", str(VKEY)).ok
    with unguarded(tmp_path / "ledger.db") as connection:
        for statement in SEGMENTS[name].split("; "):
            connection.execute(statement)
    assert not verify_sqlite(tmp_path / "ledger.db", str(VKEY)).ok


async def test_a_file_of_the_archive_that_is_changed_is_noticed_and_what_was_erased_opens_from_it_for_nobody(
    tmp_path: Path,
) -> None:
    archive, name = await sealed(tmp_path)
    assert verify_segment(archive, name, str(VKEY))[0] == []
    journal = await opened(tmp_path)
    (tmp_path / "stolen").mkdir()
    shutil.copy(tmp_path / "ledger.db", tmp_path / "stolen")  # with the key still in it: erasure does not reach a copy
    await journal.shred("user:corp/ann", request="r", approver="user:corp/dpo")
    await journal.close()
    for file in (tmp_path / "archive").rglob("openings-*"):
        assert b"what was asked" not in file.read_bytes()
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}", SEAL) as log:
        record = log.get("d-005")
        assert record is not None
        assert isinstance(log.open_value(record, "request"), Shredded)
    for file in (tmp_path / "archive" / name).iterdir():
        data = file.read_bytes()
        file.chmod(0o600)
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if data else b"x")
        try:
            wrong = bool(verify_segment(archive, name, str(VKEY))[0])
        except (TamperedError, ValueError, KeyError):
            wrong = True
        assert wrong or file.name == "manifest.json", file.name  # whose digest is in the log
        file.write_bytes(data)


@dataclass
class Left:
    """A gateway that ended while its store was away: what its callers were told, and the spool."""

    told: list[Receipt]
    file: Path


async def left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Left:
    monkeypatch.setattr("audit.store_connect._BUSY_SECONDS", 0.02)
    journal = await opened(folder, spool=SpoolLimits(folder / "spools"))
    await filled(journal, 0, 1)
    monkeypatch.setattr("audit.ahead._LOCK_SECONDS", 0.02)
    told = []
    with kept_from_writing(folder / "ledger.db"):
        for number in range(3):
            fields = {"workflow": "wf-1", "tool": "tool-x"}
            entry = Entry("decision.deny", f"s-{number}", NOON, "user:corp/ann", fields, (Value("request", b"x"),), spool=True)
            told.append(await journal.append(entry))
        await journal.close()
    (file,) = (folder / "spools").glob("*.spool")
    return Left(told, file)


def rewritten(there: Left, number: int) -> None:
    """The same spool with one record changed, under the right tags: what a thief of the seal key can make."""
    key = SealKey(ORIGIN, SEAL).spool_key
    held = read(there.file.read_bytes(), key, "x")
    assert held is not None
    frames = [
        msgspec.structs.replace(frame, leaves=[(name, change(name, data, number)) for name, data in frame.leaves])
        for frame in held.frames
    ]
    last = [name for frame in held.frames for name, _ in frame.leaves].index(f"s-{number}")
    if number == 2:  # and nothing after it
        frames = frames[: last + 1]
    there.file.unlink()
    spool = Spool(SpoolLimits(there.file.parent), ORIGIN, "gw-1", key)
    spool.begin(held.head, frames)
    spool.close()


def change(name: str, data: bytes, number: int) -> bytes:
    return data.replace(b"tool-x", b"tool-y") if name == f"s-{number}" else data


async def test_a_spooled_record_that_is_changed_is_an_alarm_and_with_the_key_its_receipt_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, noticed in ((None, "V"), (0, "VE"), (2, "E")):
        folder = tmp_path / str(number)
        folder.mkdir()
        there = await left(folder, monkeypatch)
        whole = there.file.read_bytes()
        if number is None:
            there.file.write_bytes(whole.replace(b"tool-x", b"tool-y"))
            assert there.file.read_bytes() != whole
            with pytest.raises(LedgerUnavailableError, match="damaged"):
                await opened(folder, spool=SpoolLimits(folder / "spools"))
            assert noticed == OUTSIDE[SPOOL][1]
            continue
        rewritten(there, number)
        journal = await opened(folder, spool=SpoolLimits(folder / "spools"))
        vouched = [json.loads(json.dumps(journal.vouch(each))) for each in there.told]
        await journal.close()
        alone = {str(each) for each in verify_sqlite(folder / "ledger.db", str(VKEY)).findings}
        told = {str(each) for each in verify_sqlite(folder / "ledger.db", str(VKEY), receipts=vouched).findings} - alone
        assert "V" * bool(alone) + "E" * bool(told) == noticed
        assert noticed == OUTSIDE[SPOOL_KEY if number == 0 else SPOOL_LAST][1]


# ----------------------------------------------------------------------------------------------------------- the table
OUTSIDE: dict[str, tuple[str, str]] = {
    **{attack.name: (attack.by, attack.noticed) for attack in EXPORTS},
    **dict.fromkeys(SEGMENTS, ("thief", "V")),
    ARCHIVE: ("thief", "V"),
    SPOOL: ("thief", "V"),
    SPOOL_KEY: ("key", "VE"),
    SPOOL_LAST: ("key", "E"),
}


def test_the_documentation_shows_this_table() -> None:
    page = (ROOT / "docs/explanation/ledger.md").read_text().split("## Outside the database\n")[1].split("\n## ")[0]
    found: Sequence[tuple[str, ...]] = re.findall(
        r"^\| (thief|key|insider) \| (.+?) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", page, re.MULTILINE
    )
    shown = {
        name: (by, "".join(level for level, cell in zip("VCDE", cells, strict=True) if cell.strip()))
        for by, name, *cells in found
        if "|" not in name
    }
    assert shown == OUTSIDE
