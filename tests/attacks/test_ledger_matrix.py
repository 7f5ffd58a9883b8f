"""Who notices what: each attack on a ledger, at each level of defence by itself; the table in the documentation is this one.

The log is a real one of two writers.  An attack changes its file as its attacker can: with the database, with the signing key
too, or with everything that the operator has.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import checkpoint as notes
from audit import cosignature
from audit.checkpoint import Checkpoint, CheckpointError, Vkey
from audit.cosignature import WitnessKey, attach, cosign
from audit.journal import Journal
from audit.model import Entry, Receipt, Value
from audit.privacy import SealKey
from audit.pulse import Pulse
from audit.receipt import Voucher
from audit.signer import Signer
from audit.store_sql import SqlStore
from audit.tree import Frontier, leaf_hash, root_of
from audit.verify import verify_sqlite
from audit.writer import Writer

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = "example.org/ledger"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEY = Vkey.of(ORIGIN, KEY)
WITNESS_KEY = Ed25519PrivateKey.from_private_bytes(bytes([9] * 32))
WITNESS = WitnessKey.of("w.example/1", WITNESS_KEY)
NOON = 1_763_800_000_000_000


class Leaf(NamedTuple):
    """A record as it stands in the file."""

    id: str
    data: bytes


@dataclass(frozen=True)
class Outside:
    """What others remember of the honest log."""

    kept: str  # an auditor's checkpoint, of some time ago
    witness: str  # the newest that the witness cosigned
    receipts: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Scene:
    """The file that is attacked, an older copy of it, and what others remember."""

    path: Path
    backup: Path
    outside: Outside

    @property
    def unkept(self) -> Mapping[str, Any]:
        """A receipt, signed by the log's key, for a record at the place of the newest, and of another content."""
        index = len(leaves_of(self.path)) - 1
        return Voucher(ORIGIN, KEY).vouch(Receipt(ORIGIN, "never-stored", index, leaf_hash(b"never stored")))


# ------------------------------------------------------------------------------------------------------- the honest log
async def opened(path: Path, writer: str, at: int) -> Journal:
    clock = iter(range(at, 2**53))
    return await Journal.open(
        url=f"sqlite:///{path}", origin=ORIGIN, signing_key=KEY, seal_key=bytes(32), writer=writer, clock=lambda: next(clock),
        checkpoint_seconds=3600,
    )  # fmt: skip


async def filled(journal: Journal, start: int, stop: int) -> list[Receipt]:
    receipts = []
    for number in range(start, stop):
        value = Value("request", b"what was asked %d" % number)
        fields = {"workflow": "wf-1", "chain": [["user", "@subject"]], "tool": f"tool-{number}"}
        entry = Entry("decision.deny", f"d-{number:03d}", NOON + number, "user:corp/ann", fields, (value,))
        receipts.append(await journal.append(entry))
    return receipts


async def honest_log(folder: Path) -> Outside:
    """`ledger.db` and, of some time before, `backup.db`."""
    path, backup = folder / "ledger.db", folder / "backup.db"
    receipts: list[Receipt] = []
    journal = await opened(path, "gw-1", NOON)
    receipts += await filled(journal, 0, 20)
    await journal.close()
    kept = journal.checkpoint()
    journal = await opened(path, "gw-2", NOON + 10_000)
    receipts += await filled(journal, 20, 40)
    await journal.close()
    backup.write_bytes(path.read_bytes())
    journal = await opened(path, "gw-2", NOON + 20_000)
    receipts += await filled(journal, 40, 50)
    await journal.close()
    note = idle_writer(path, receipts)
    assert kept is not None
    said = cosign(notes.parse(note)[0], WITNESS.name, WITNESS_KEY, NOON // 1_000_000)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO ledger_cosignatures VALUES (?, ?, ?)", (notes.parse(note)[0].size, WITNESS.name, said.line)
        )
    voucher = Voucher(ORIGIN, KEY)
    return Outside(kept, attach(note, [said]), tuple(map(voucher.vouch, receipts)))


def idle_writer(path: Path, receipts: list[Receipt]) -> str:
    """A writer that has little to do and gives its heartbeats, by a clock of ours; the newest checkpoint."""
    now = itertools.count(0, 30_000_000)
    at = [next(now)]
    store = SqlStore(f"sqlite:///{path}")
    pulse = Pulse(lambda: NOON + at[0], lambda: at[0], 60)
    writer = Writer(store, ORIGIN, SealKey(ORIGIN, bytes(32)), "gw-3", lambda: at[0])
    signer = Signer(store, ORIGIN, KEY)
    signer.sign()
    writer.write([Entry("writer.start", "gw-3-start", NOON, None, pulse.promise)])
    for number in range(3):
        at[0] = next(now)
        [told] = writer.write([Entry("decision.deny", f"d-{50 + number:03d}", NOON, None, {"workflow": "wf-1"})])
        assert isinstance(told, Receipt)
        receipts.append(told)
        at[0] = next(now)
        writer.write([msgspec.structs.replace(beat, id=f"beat-{number}") for beat in pulse.beat()])
    writer.write([Entry("writer.stop", "gw-3-stop", NOON)])
    signer.sign()
    store.close()
    assert signer.newest is not None
    return signer.newest


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outside]:
    """The honest log, written once."""
    folder = tmp_path_factory.mktemp("honest")
    return folder, asyncio.run(honest_log(folder))


@pytest.fixture
def scene(honest: tuple[Path, Outside], tmp_path: Path) -> Scene:
    for name in ("ledger.db", "backup.db"):
        shutil.copy(honest[0] / name, tmp_path)
    return Scene(tmp_path / "ledger.db", tmp_path / "backup.db", honest[1])


# ----------------------------------------------------------------------------------------------- what an attacker can do
def leaves_of(path: Path) -> list[Leaf]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [Leaf(*row) for row in connection.execute("SELECT id, data FROM ledger_leaves ORDER BY idx")]


def write_leaves(connection: sqlite3.Connection, leaves: Sequence[Leaf]) -> None:
    """Put these records in the place of those that are there, sealed values with them."""
    sealed = connection.execute(
        "SELECT l.id, o.name, o.sealed FROM ledger_openings o JOIN ledger_leaves l USING (idx)"
    ).fetchall()
    connection.execute("DELETE FROM ledger_leaves")
    connection.execute("DELETE FROM ledger_openings")
    taken: set[str] = set()
    for index, leaf in enumerate(leaves):
        row_id = leaf.id if leaf.id not in taken else f"{leaf.id}~"
        taken.add(row_id)
        connection.execute("INSERT INTO ledger_leaves VALUES (?, ?, ?, ?)", (index, row_id, leaf_hash(leaf.data), leaf.data))
        for _, name, value in [row for row in sealed if row[0] == leaf.id]:
            connection.execute("INSERT INTO ledger_openings VALUES (?, ?, ?)", (index, name, value))


def write_tree(connection: sqlite3.Connection, leaves: Sequence[Leaf], key: Ed25519PrivateKey) -> None:
    """Make everything that follows from the records anew, and sign it."""
    frontier, nodes, sizes = Frontier(), [], {row[0] for row in connection.execute("SELECT size FROM ledger_checkpoints")}
    sizes = {size for size in sizes if size < len(leaves)} | {len(leaves)}
    connection.execute("DELETE FROM ledger_checkpoints")
    for leaf in leaves:
        nodes += frontier.append(leaf_hash(leaf.data))
        if frontier.size in sizes:
            note = notes.sign(Checkpoint(ORIGIN, frontier.size, frontier.root()), key)
            connection.execute("INSERT INTO ledger_checkpoints VALUES (?, ?)", (frontier.size, note))
    connection.execute("DELETE FROM ledger_nodes")
    connection.executemany("INSERT INTO ledger_nodes VALUES (?, ?, ?)", nodes)
    connection.execute("UPDATE ledger_head SET size = ?, frontier = ?", (frontier.size, frontier.encode()))


@contextlib.contextmanager
def unguarded(path: Path):  # type: ignore[no-untyped-def]
    """The database with its guards off, and on again afterwards."""
    connection = sqlite3.connect(path, isolation_level=None)
    guards = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in guards:
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("BEGIN")
    yield connection
    connection.execute("COMMIT")
    for _, sql in guards:
        connection.execute(sql)
    connection.close()


def rechained(leaves: Sequence[Leaf]) -> list[Leaf]:
    """The records with every writer's chain made to fit again: what only whoever writes the ledger would think of."""
    last: dict[str, tuple[int, str]] = {}
    made = []
    for leaf in leaves:
        record = orjson.loads(leaf.data)
        wseq, wprev = last.get(record["writer"]["boot"], (-1, ""))
        record["writer"] |= {"wseq": wseq + 1, "wprev": wprev}
        data = orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
        last[record["writer"]["boot"]] = (wseq + 1, leaf_hash(data).hex())
        made.append(Leaf(record["id"], data))
    return made


def changed(leaf: Leaf, **fields: object) -> Leaf:
    """The record with other contents, canonical as ever."""
    record = orjson.loads(leaf.data) | fields
    return Leaf(str(record["id"]), orjson.dumps(record, option=orjson.OPT_SORT_KEYS))


Change = Callable[[list[Leaf]], list[Leaf]]
EARLY, LATE = "d-005", "d-035"  # before and after the auditor's checkpoint


def at(leaves: Sequence[Leaf], record: str) -> int:
    return next(index for index, leaf in enumerate(leaves) if leaf.id == record)


def edit(record: str) -> Change:
    return lambda leaves: [changed(leaf, tool="innocent") if leaf.id == record else leaf for leaf in leaves]


def drop(record: str) -> Change:
    return lambda leaves: [leaf for leaf in leaves if leaf.id != record]


def swap(leaves: list[Leaf]) -> list[Leaf]:
    index = at(leaves, EARLY)
    return [*leaves[:index], leaves[index + 1], leaves[index], *leaves[index + 2 :]]


def double(leaves: list[Leaf]) -> list[Leaf]:
    index = at(leaves, EARLY)
    return [*leaves[: index + 1], leaves[index], *leaves[index + 1 :]]


def invent(leaves: list[Leaf]) -> list[Leaf]:
    """A record that never was takes the place of a writer's last word, which nobody has a receipt for."""
    index = max(index for index, leaf in enumerate(leaves) if b'"kind":"writer.stop"' in leaf.data)
    made = changed(leaves[index], kind="policy.reload", wanted="rollback", id="r-1")
    return [*leaves[:index], made]


def clock_back(leaves: list[Leaf]) -> list[Leaf]:
    """The newest record claims an earlier moment of its writer's own clock."""
    last = orjson.loads(leaves[-1].data)
    return [*leaves[:-1], changed(leaves[-1], writer=last["writer"] | {"mono": 0})]


def unkept(leaves: list[Leaf]) -> list[Leaf]:
    """A record that its caller was told of is never stored: another stands where it was to."""
    return leaves


class Attack(NamedTuple):
    """What is changed, with which keys, and (from A to E) where it is noticed.

    by  `thief` has the database; `key` the signing key as well; `insider` also knows how writers chain their records.
    """

    name: str
    by: str
    change: Change | None
    noticed: str


ATTACKS = (
    Attack("a record is changed", "thief", edit(EARLY), "ABCDE"),
    Attack("two records change places", "thief", swap, "ABCDE"),
    Attack("a record is removed", "thief", drop(EARLY), "ABCDE"),
    Attack("a record is doubled", "thief", double, "ABCDE"),
    Attack("the newest records are cut off with their checkpoints", "thief", None, "DE"),
    Attack("a record is changed, and the heads signed anew", "key", edit(EARLY), "BCDE"),
    Attack("a record is removed, and the heads signed anew", "key", drop(EARLY), "BCDE"),
    Attack("a record is changed, and everything made to fit", "insider", edit(EARLY), "CDE"),
    Attack("a record is removed, and everything made to fit", "insider", drop(EARLY), "CDE"),
    Attack("the same after the auditor's checkpoint: changed", "insider", edit(LATE), "DE"),
    Attack("the same after the auditor's checkpoint: removed", "insider", drop(LATE), "DE"),
    Attack("a record is made up where nobody has a receipt", "insider", invent, "D"),
    Attack("a heartbeat is left out, and everything made to fit", "insider", drop("beat-1"), "BDE"),
    Attack("an older backup is put in place", "insider", None, "DE"),
    Attack("a call is left out that its caller has a receipt for", "new", unkept, "E"),
    Attack("the clock is turned back in a new record", "new", clock_back, "B"),
)


def strike(scene: Scene, attack: Attack) -> None:
    """Do it to the file."""
    path = scene.path
    if attack.change is None and attack.by == "insider":
        path.write_bytes(scene.backup.read_bytes())
        return
    with unguarded(path) as connection:
        leaves = [Leaf(*row) for row in connection.execute("SELECT id, data FROM ledger_leaves ORDER BY idx")]
        if attack.change is None:  # back to the checkpoint before the last, and no checkpoint says that there was more
            sizes = [row[0] for row in connection.execute("SELECT size FROM ledger_checkpoints ORDER BY size")]
            size = max(each for each in sizes[:-1] if b'"kind":"writer.start"' in leaves[each].data)  # an earlier run ended there
            frontier = Frontier()
            for leaf in leaves[:size]:
                frontier.append(leaf_hash(leaf.data))
            connection.execute("DELETE FROM ledger_checkpoints WHERE size > ?", (size,))
            connection.execute("DELETE FROM ledger_cosignatures")
            write_leaves(connection, leaves[:size])
            connection.execute("UPDATE ledger_head SET size = ?, frontier = ?", (size, frontier.encode()))
            return
        made = attack.change(leaves)
        if attack.by in {"insider", "new"}:
            made = rechained(made)
            connection.execute("DELETE FROM ledger_cosignatures")  # they would not fit
        write_leaves(connection, made)
        if attack.by != "thief":
            write_tree(connection, made, KEY)


# -------------------------------------------------------------------------------------------------------- the levels
def root_at(leaves: Sequence[Leaf], size: int) -> bytes | None:
    """The root of the first records; None where there are not so many."""
    return root_of(leaf_hash(leaf.data) for leaf in leaves[:size]) if size <= len(leaves) else None


def tree_and_signature(scene: Scene) -> bool:
    """A: the newest stored checkpoint is signed, and signs exactly these records."""
    with contextlib.closing(sqlite3.connect(scene.path)) as connection:
        note = connection.execute("SELECT note FROM ledger_checkpoints ORDER BY size DESC").fetchone()[0]
    leaves = leaves_of(scene.path)
    try:
        head = notes.verify(note, VKEY)
    except CheckpointError:
        return True
    return head.size != len(leaves) or head.root != root_at(leaves, head.size)


def semantic_rules(scene: Scene) -> bool:
    """B: what the records themselves must satisfy, whatever is signed: judged over the same records, all signed anew."""
    judged = scene.path.with_name("judged.db")
    judged.write_bytes(scene.path.read_bytes())
    with unguarded(judged) as connection:
        leaves = [Leaf(*row) for row in connection.execute("SELECT id, data FROM ledger_leaves ORDER BY idx")]
        write_tree(connection, leaves, KEY)
        connection.execute("DELETE FROM ledger_cosignatures")
    return not verify_sqlite(judged, str(VKEY)).ok


def remembered(scene: Scene, note: str) -> bool:
    head = notes.verify(note, VKEY)
    return root_at(leaves_of(scene.path), head.size) != head.root


def earlier_checkpoint(scene: Scene) -> bool:
    """C: what an auditor (or an anchor) kept some time ago."""
    return remembered(scene, scene.outside.kept)


def witnesses(scene: Scene) -> bool:
    """D: what a witness cosigned last."""
    note = scene.outside.witness
    cosignature.verify(notes.parse(note)[0], notes.parse(note)[1], WITNESS)
    return remembered(scene, note)


def receipts(scene: Scene) -> bool:
    """E: what callers were told when their records were durable, held against the log by its verifier."""
    report = verify_sqlite(scene.path, str(VKEY), receipts=scene.outside.receipts)
    return any("a receipt was given" in str(finding) for finding in report.findings)


LEVELS: dict[str, Callable[[Scene], bool]] = {
    "A": tree_and_signature,
    "B": semantic_rules,
    "C": earlier_checkpoint,
    "D": witnesses,
    "E": receipts,
}


# -------------------------------------------------------------------------------------------------------- the table
def as_new(scene: Scene, attack: Attack) -> Scene:
    """A record that is new: nobody outside has seen it yet, and its caller was told of it as it is."""
    if attack.by != "new":
        return scene
    leaves = leaves_of(scene.path)
    head = Checkpoint(ORIGIN, len(leaves) - 1, root_at(leaves, len(leaves) - 1) or b"")
    said = cosign(head, WITNESS.name, WITNESS_KEY, NOON // 1_000_000)
    told = scene.outside.receipts
    if attack.change is unkept:
        told = (*told, scene.unkept)
    return replace(scene, outside=replace(scene.outside, witness=attach(notes.sign(head, KEY), [said]), receipts=told))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.by}: {attack.name}")
def test_an_attack_is_noticed_at_exactly_these_levels(scene: Scene, attack: Attack, level: str) -> None:
    assert not LEVELS[level](scene)  # the honest log is found fault with by nobody
    strike(scene, attack)
    assert LEVELS[level](as_new(scene, attack)) == (level in attack.noticed)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.by}: {attack.name}")
def test_the_verifier_itself_notices_with_the_key_what_a_and_b_do_and_with_a_witness_everything(
    scene: Scene, attack: Attack
) -> None:
    assert verify_sqlite(scene.path, str(VKEY), [scene.outside.kept, scene.outside.witness], [str(WITNESS)], 1).ok
    strike(scene, attack)
    alone = verify_sqlite(scene.path, str(VKEY))
    assert alone.ok == (not {"A", "B"} & set(attack.noticed)), [str(each) for each in alone.findings]
    outside = as_new(scene, attack).outside
    kept = [outside.kept, outside.witness]
    assert not verify_sqlite(scene.path, str(VKEY), kept, [str(WITNESS)], 1, outside.receipts).ok


def test_the_documentation_shows_this_table() -> None:
    page = (ROOT / "docs/explanation/ledger.md").read_text()
    rows = re.findall(
        r"^\| (thief|key|insider|new) \| (.+?) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", page, re.MULTILINE
    )
    shown = {
        (by, name): "".join(level for level, cell in zip("ABCDE", cells, strict=True) if cell.strip())
        for by, name, *cells in rows
    }
    assert shown == {(attack.by, attack.name): attack.noticed for attack in ATTACKS}
