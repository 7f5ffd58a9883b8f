"""`python -m bench.ledger`: what a record costs, beside what the same disk costs without a ledger.

One append ÷ a raw fdatasync of 400 bytes, at one caller and at 64 (and, beside it, of as many bytes as a record and its values);
group commit ÷ what an application without a ledger does, a commit of plain rows for each call by SQLModel (and, beside it, ÷ a
commit of our own for each record); an empty log beside a large one; processor time of the write path and of the verifier.
Prints the bars, writes JSON, and ends with 1 where one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import secrets
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import checkpoint as notes
from audit.archive import FolderArchive
from audit.checkpoint import Checkpoint, Vkey
from audit.journal import Journal
from audit.model import Entry, Receipt, Value
from audit.privacy import SealKey
from audit.retention import Retention, Rule
from audit.store import Batch, Signed
from audit.store_sql import SqlStore
from audit.tree import leaf_hash
from audit.verify import leaf_hash as plain_leaf_hash
from audit.verify import verify_sqlite
from audit.writer import Writer, record_id
from bench import plain_rows
from bench.targets import fdatasync_p50

OUT: Final = Path(__file__).parent / "out"
ORIGIN: Final = "bench.invalid/ledger"
KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SEAL: Final = bytes(range(32, 64))
BODY: Final = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"text":"' + b"x" * 1900 + b'"}}'
ROUNDS: Final = 3
MOST_A_SECOND: Final = 40_000  # records that are made beforehand; who runs out of them stops


@dataclass(frozen=True)
class Bar:
    """One promise: what was measured, and the most (or least) that it may be."""

    name: str
    value: float
    wanted: float
    least: bool = False

    @property
    def met(self) -> bool:
        """Whether it holds."""
        return self.value >= self.wanted if self.least else self.value <= self.wanted

    def __str__(self) -> str:
        sign = "≥" if self.least else "≤"
        return f"{self.name:<58} {self.value:>9.2f}   {sign} {self.wanted:g}   {'met' if self.met else 'MISSED'}"


def entries(count: int) -> Iterator[Entry]:
    """Calls and their ends in turn, as the gateway records them, each with 2 KiB that it carried."""
    at = time.time_ns() // 1000
    for number in range(count):
        call, ended = record_id(at + 1000 * number), record_id(at + 1000 * number + 500)
        whose: dict[str, object] = {
            "workflow": "wf",
            "trace": secrets.token_hex(16),
            "chain": [["user", "@subject"], ["agent", "agent:a"]],
        }
        decided = {"effect": "allow", "reason": "allowed", "policy": "sha256:" + "0" * 64, "asked": [], "obligations": []}
        said = whose | {"proto": "mcp", "method": "tools/call", "target": "erp", "tool": "read", "decision": decided}
        yield Entry("call.start", call, 5, "user:bench/ann", said, (Value("request", BODY),))
        outcome = {"status": "ok", "detail": "", "latency_us": 900, "events": 1, "bytes": 190}
        yield Entry(
            "call.end",
            ended,
            6,
            "user:bench/ann",
            {"call": call, **whose, "outcome": outcome},
            (Value("response", BODY),),
        )


@dataclass(frozen=True)
class Appended:
    """Median microseconds of one append, records a second, and the whole process's time for each (to make the entry is in it)."""

    p50: float
    rate: float
    cpu: float


async def appends(url: str, callers: int, seconds: float) -> Appended:
    """Append with so many callers at once."""
    journal = await Journal.open(
        url=url, origin=ORIGIN, signing_key=KEY, seal_key=SEAL, writer="bench", clock=lambda: time.time_ns() // 1000
    )
    took: list[float] = []
    made = [list(entries(int(seconds * MOST_A_SECOND / callers / 2) + 20)) for _ in range(callers)]  # not what is measured
    until = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        for entry in made[number]:
            began = time.perf_counter()
            if began > until:
                return
            await journal.append(entry)
            took.append((time.perf_counter() - began) * 1e6)

    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(caller, range(callers)))
    rate = len(took) / (time.perf_counter() - began)
    cpu = (time.process_time() - used) * 1e6 / len(took)
    await journal.close()
    return Appended(statistics.median(took), rate, cpu)


def alone(folder: Path, count: int) -> float:
    """Records a second where each has a commit of its own."""
    with closing(SqlStore(f"sqlite:///{folder / 'alone.db'}")) as store:
        writer = _writer(store)
        began = time.perf_counter()
        for entry in entries(count // 2):
            writer.write([entry])
        return count / (time.perf_counter() - began)


def plain(folder: Path, count: int) -> tuple[float, int]:
    """Records a second of the same leaves and sealed values as plain rows, a commit each; and the bytes of one."""
    with closing(SqlStore(f"sqlite:///{folder / 'rows.db'}")) as store:
        _writer(store).write(list(entries(count // 2)))
        sealed: dict[int, list[tuple[str, bytes]]] = {}
        with closing(sqlite3.connect(folder / "rows.db")) as connection:
            for index, name, value in connection.execute("SELECT idx, name, sealed FROM ledger_openings"):
                sealed.setdefault(index, []).append((name, value))
        rows = [(leaf.id, leaf.data, tuple(sealed[leaf.index])) for leaf in store.leaves(0, count) if leaf.index in sealed]
    size = sum(len(data) + sum(len(value) for _, value in values) for _, data, values in rows) // len(rows)
    return plain_rows.rate(folder, rows), size


def cpu_of_a_record(folder: Path, batches: int, size: int = 64) -> float:
    """Microseconds of the writing thread's processor time a record, in batches as of 64 callers, until all are in the tables."""
    with closing(SqlStore(f"sqlite:///{folder / 'cpu.db'}")) as store:
        writer = _writer(store)
        writer.may_wait = True
        taken = 0.0
        for _ in range(batches):
            made = list(entries(size // 2))
            began = time.thread_time()
            writer.write(made)
            if store.due:
                writer.settle()
            taken += time.thread_time() - began
        began = time.thread_time()
        writer.settle()
        return (taken + time.thread_time() - began) * 1e6 / (size * batches)


def _writer(store: SqlStore) -> Writer:
    store.claim(ORIGIN, str(Vkey.of(ORIGIN, KEY)))
    writer = Writer(store, ORIGIN, SealKey(ORIGIN, SEAL), "bench", lambda: time.monotonic_ns() // 1000)
    writer.write([Entry("writer.start", f"start-{time.monotonic_ns()}", 5)])
    return writer


def fill(path: Path, count: int) -> None:
    """A log of so many records, signed, fast: records of one shape, each with an id of its own, straight into the store."""
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.claim(ORIGIN, str(Vkey.of(ORIGIN, KEY)))
        made = 0
        while made < count:
            with store.turn() as turn:
                batch, frontier = Batch(), turn.head.tree()
                for index in range(made, min(made + 8192, count)):
                    data = b'{"id":"filled-%012d","kind":"decision.deny","log":"bench.invalid/ledger","pad":"%s","v":1}' % (
                        index,
                        b"x" * 160,
                    )
                    digest = leaf_hash(data)
                    batch.leaves.append((index, f"filled-{index:012d}", digest, data))
                    batch.nodes += frontier.append(digest)
                turn.write(batch, frontier.size, frontier.encode())
            made = frontier.size
        note = notes.sign(Checkpoint(ORIGIN, made, frontier.root()), KEY)
        with store.signing() as signing:
            signing.save(Signed(made, frontier.encode(), note))
        store.add_checkpoint(made, note)


def verified(path: Path) -> tuple[float, float, float]:
    """Microseconds a record: all that the verifier checks, bytes and tree and signatures, and the hash of each record alone."""
    taken = []
    for level in ("semantic", "full"):
        began = time.process_time()
        report = verify_sqlite(path, str(Vkey.of(ORIGIN, KEY)), level=level)
        taken.append((time.process_time() - began) * 1e6 / report.size)
        if not report.ok:
            sys.exit(f"the log does not verify: {report.findings[0]}")
    with closing(sqlite3.connect(path)) as connection:
        began = time.process_time()
        for (data,) in connection.execute("SELECT data FROM ledger_leaves ORDER BY idx"):
            plain_leaf_hash(data)
        tree = (time.process_time() - began) * 1e6 / report.size
    return taken[0], taken[1], tree


def checked(path: Path) -> float:
    """Microseconds of processor time a record to check the bytes, tree and signatures of all of it."""
    began = time.process_time()
    report = verify_sqlite(path, str(Vkey.of(ORIGIN, KEY)), level="full")
    if not report.ok:
        sys.exit(f"the log does not verify: {report.findings[0]}")
    return (time.process_time() - began) * 1e6 / report.size


def archived(url: str, folder: Path) -> float:
    """Bytes a record in an archive: all but the sealed values, which are as large as what calls carried."""
    count = asyncio.run(_seal(url, folder))
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("openings-"))
    return sum(file.stat().st_size for file in files) / count


async def _seal(url: str, folder: Path) -> int:
    journal = await Journal.open(
        url=url, origin=ORIGIN, signing_key=KEY, seal_key=SEAL, writer="bench", clock=lambda: time.time_ns() // 1000
    )
    loop = asyncio.get_running_loop()

    def append(entry: Entry) -> Receipt:
        return asyncio.run_coroutine_threadsafe(journal.append(entry), loop).result()

    retention = Retention(url, FolderArchive(folder), Rule(), append, lambda: time.time_ns() // 1000)
    manifest = await asyncio.to_thread(retention.seal, time.time_ns() // 1000)
    await journal.close()
    if manifest is None:
        sys.exit("there were not enough records to archive")
    return manifest.stop - manifest.start


def measure(folder: Path, seconds: float, records: int) -> dict[str, Any]:
    """Everything, in interleaved rounds."""
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for number in range(ROUNDS):
        url = f"sqlite:///{folder / f'round-{number}.db'}"
        raw = fdatasync_p50(folder)
        note("fdatasync µs", raw)
        rate, size = plain(folder / f"alone-{number}", 400)
        note("records/s, SQLModel, a commit each", rate)
        note("bytes of a record and its values", size)
        one = fdatasync_p50(folder, size=size)
        note("fdatasync µs, of a whole record", one)
        for callers in (1, 64, 512):
            made = asyncio.run(appends(url, callers, seconds))
            note(f"append µs, {callers}", made.p50)
            note(f"append ÷ fdatasync, {callers}", made.p50 / raw)
            note(f"append ÷ fdatasync of a whole record, {callers}", made.p50 / one)
            note(f"records/s, {callers}", made.rate)
            note(f"records/s ÷ SQLModel, {callers}", made.rate / rate)
            note(f"CPU µs, whole process, {callers}", made.cpu)
        ours = alone(folder / f"alone-{number}", 200)
        note("records/s, our own commit each", ours)
        note("records/s ÷ our own commit each, 512", made.rate / ours)
        note("CPU µs", cpu_of_a_record(folder / f"cpu-{number}", 80))
        semantic, whole, hashed = verified(folder / f"round-{number}.db")
        note("verify µs, semantic", semantic)
        note("verify µs", whole)
        note("read and hash µs", hashed)
        note("archived bytes", archived(url, folder / f"archive-{number}"))
    large = folder / "large.db"
    began = time.perf_counter()
    fill(large, records)
    note("filling s", time.perf_counter() - began)
    for number in range(ROUNDS):
        for name, path in (("empty", folder / f"empty-{number}.db"), ("large", large)):
            note(f"append µs, {name}", asyncio.run(appends(f"sqlite:///{path}", 1, seconds)).p50)
    note("verify µs, large", checked(large))
    return {name: statistics.median(values) for name, values in found.items()} | {"records": records}


def bars(found: dict[str, Any]) -> list[Bar]:
    """What is promised of these figures."""
    return [
        Bar("append ÷ fdatasync, p50, one caller", found["append ÷ fdatasync, 1"], 1.5),
        Bar("append ÷ fdatasync, p50, 64 callers", found["append ÷ fdatasync, 64"], 3.5),
        Bar("group commit ÷ SQLModel, a commit each, records/s", found["records/s ÷ SQLModel, 512"], 50, least=True),
        Bar(f"append with {found['records']:,} records ÷ with none", found["append µs, large"] / found["append µs, empty"], 1.25),
        Bar("processor time of the write path, µs a record", found["CPU µs"], 25),
        Bar("verification at the level full, µs a record", found["verify µs"], 5),
        Bar("archived, bytes a record without what calls carried", found["archived bytes"], 350),
    ]


def main() -> int:
    """Print, write, and say whether all bars are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3, help="of each round of appends")
    parser.add_argument("--records", type=int, default=10_000_000, help="in the large log")
    parser.add_argument("--folder", type=Path, help="on the disk that is meant; it needs about 0.6 KB a record")
    parser.add_argument("--json", type=Path, default=OUT / "ledger.json")
    options = parser.parse_args()
    if options.seconds <= 0 or options.records < 1000:
        parser.error("--seconds is more than 0, --records 1000 or more")
    with tempfile.TemporaryDirectory(prefix="bailiwick-ledger-", dir=options.folder) as folder:
        for number in range(ROUNDS):
            (Path(folder) / f"alone-{number}").mkdir()
            (Path(folder) / f"cpu-{number}").mkdir()
        found = measure(Path(folder), options.seconds, options.records)
    judged = bars(found)
    for name, value in sorted(found.items()):
        print(f"{name:<50} {value:>14,.1f}")
    print(*judged, sep="\n")
    facts: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    facts |= {"found": found, "bars": [{**bar.__dict__, "met": bar.met} for bar in judged]}
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0 if all(bar.met for bar in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
