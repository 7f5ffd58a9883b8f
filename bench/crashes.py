"""`python -m bench.crashes`: writers killed, and their disk or connection failing, at every commit point, again and again.

Each round forks a process that carries calls down the real road into a real ledger, with one fault at a random point.  Afterwards
the ledger is held against what the upstream executed, what the caller was given and what was acknowledged.  Every few rounds the
offline verifier checks the whole of it.  Planted bugs show that the campaign would notice.  Ends with 1 where anything was amiss.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from audit.ahead_file import START, SUFFIX, frames
from audit.store_connect import parse_url
from audit.verify import verify_sqlite
from audit.verify_url import verify_url
from bench.crash_faults import Fault, draw
from bench.crash_ledger import Ledger, Seen
from bench.crash_round import CLEAN, NOT_OPENED, SPOOL_PLANTS, VKEY, planted, play, prepare

OUT: Final = Path(__file__).parent / "out"
ROUNDS_A_LEDGER: Final = 25
_MEMORY: Final = Path("/dev/shm")  # a process that dies leaves its files as they are, wherever they lie: no disk is waited for
_WRITERS: Final = 4
_MOST: Final = 20  # findings that are kept
_ENOUGH: Final = threading.Event()  # somebody said that it is: what is begun is ended, checked and told


class Sqlite:
    """Ledgers in files, each a copy of an empty one."""

    name: Final = "sqlite"

    def __init__(self, folder: Path) -> None:
        parse_url("sqlite:////x").get_dialect()  # loaded once, not in every child
        self._folder = folder
        self._empty = folder / "empty.db"
        forked(lambda _: prepare(f"sqlite:///{self._empty}"))

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """A fresh one."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder) / "ledger.db"
            shutil.copy(self._empty, path)

            def rows(start: int) -> list[tuple[Any, ...]]:
                wanted = "SELECT idx, id, hash, data FROM ledger_leaves WHERE idx >= ? ORDER BY idx"
                with contextlib.closing(sqlite3.connect(path)) as connection:
                    return connection.execute(wanted, (start,)).fetchall()

            def ahead(start: int) -> list[tuple[str, bytes]]:
                found: list[tuple[str, bytes]] = []
                file = path.with_name(path.name + SUFFIX)
                for first, said in frames(file.read_bytes()[START:]) if file.exists() else ():
                    if first == start + len(found):
                        found += said.leaves
                return found

            yield Ledger(f"sqlite:///{path}", rows, lambda: [str(each) for each in verify_sqlite(path, VKEY).findings], ahead)


class Postgres:
    """Ledgers in databases, each made from an empty one."""

    name: Final = "postgresql"

    def __init__(self, server: Any) -> None:
        parse_url("postgresql+psycopg:///x").get_dialect().import_dbapi()
        self._server = server
        self._made = 0
        with server.connect() as connection:
            connection.execute("CREATE DATABASE empty")
        forked(lambda _: prepare(server.url("empty")))

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """A fresh one."""
        self._made += 1
        name = f"crash_{self._made}"
        with self._server.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE empty")
        url = self._server.url(name)
        reading = self._server.connect(name)  # children inherit it, and never touch it

        def rows(start: int) -> list[tuple[Any, ...]]:
            wanted = "SELECT idx, id, hash, data FROM ledger_leaves WHERE idx >= %s ORDER BY idx"
            return reading.execute(wanted, (start,)).fetchall()

        try:
            yield Ledger(url, rows, lambda: [str(each) for each in verify_url(url, VKEY).findings])
        finally:
            reading.close()
            with self._server.connect() as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def started(work: Callable[[int], object]) -> tuple[int, int]:
    """A process of its own that does it, and may die: its id, and the pipe by which it tells."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.close(reading)
            status = int(work(writing) or 0)
        except BaseException:  # noqa: BLE001  whatever it was, the child ends here and says so
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    return child, reading


def ended(child: int, reading: int) -> tuple[bytes, int]:
    """What a process told until its end, and its status as `os.waitpid` has it."""
    told = b""
    while data := os.read(reading, 65536):
        told += data
    os.close(reading)
    return told, os.waitpid(child, 0)[1]


def forked(work: Callable[[int], object]) -> tuple[bytes, int]:
    """Both."""
    return ended(*started(work))


@dataclass
class Tally:
    """What a campaign came to."""

    store: str
    rounds: int = 0
    verified: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    executed: int = 0
    overlapping: int = 0
    spooled: int = 0
    released: int = 0
    acknowledged: int = 0
    amiss: list[str] = field(default_factory=list)

    def note(self, found: list[str], what: str) -> None:
        """Keep the first few findings."""
        self.amiss += [f"{what}: {each}" for each in found][: max(_MOST - len(self.amiss), 0)]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self.__dict__ | {"ends": dict(self.ends), "faults": dict(self.faults)}


def one_round(ledger: Ledger, number: int, faults: Sequence[Fault | None], tally: Tally, plant: str = "") -> Seen:
    """Play it, with a writer for each fault, all at once, and hold the ledger against what was seen; of the last writer."""
    overlap = number % 5 == 4 and not plant and ledger.spool is None
    going = []
    for place, fault in enumerate(faults):
        writer = f"gw-{place}-{number % _WRITERS}"

        def work(pipe: int, writer: str = writer, fault: Fault | None = fault) -> int:
            return play(ledger.url, writer, fault, pipe, plant, ledger.spool, overlap=overlap)

        going.append(started(work))
    ends = [ended(*each) for each in going]
    whole = Seen()
    for (told, status), fault in zip(ends, faults, strict=True):
        seen = Seen.read(told)
        for name in ("executed", "overlapping", "released", "denied", "acknowledged"):
            getattr(whole, name).extend(getattr(seen, name))
        whole.points = seen.points
        tally.ends[_end(status)] += 1
        tally.faults[fault.name if fault is not None else "none"] += 1
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) not in {CLEAN, NOT_OPENED}:
            tally.note(["the process broke in a way that nobody meant"], f"{tally.store}, round {number}, {fault}")
    tally.rounds += 1
    tally.executed += len(whole.executed)
    tally.overlapping += len(whole.overlapping)
    tally.released += len(whole.released)
    tally.acknowledged += len(whole.acknowledged)
    tally.spooled += sum(index == -1 for index, _, _ in whole.acknowledged)
    tally.note(ledger.amiss(whole), f"{tally.store}, round {number}, {', '.join(map(str, faults))}")
    return whole


def _end(status: int) -> str:
    if os.WIFSIGNALED(status):
        return "killed" if os.WTERMSIG(status) in {signal.SIGKILL, signal.SIGSYS} else f"signal {os.WTERMSIG(status)}"
    return {CLEAN: "went on to its end", NOT_OPENED: "did not open"}.get(os.WEXITSTATUS(status), "broke")


def campaign(
    store: Sqlite | Postgres,
    rounds: int,
    seed: int,
    plant: str = "",
    writers: int = 1,
    *,
    until: bool = False,
    spool: bool = False,
) -> Tally:
    """So many rounds with a fault each; with `until`, no more than it takes to notice something."""
    chance, tally = random.Random(seed), Tally(store.name)
    points = 60
    while tally.rounds < rounds and not (until and tally.amiss) and not _ENOUGH.is_set():
        with store.ledger() as ledger, tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
            ledger.spool = Path(folder) if spool else None
            for number in range(min(ROUNDS_A_LEDGER, rounds - tally.rounds)):
                faults = [
                    draw(chance, store.name, points, spool=spool) if chance.random() < 2 / (writers + 1) else None
                    for _ in range(writers)
                ]
                one_round(ledger, number, faults, tally, plant)
                if until and tally.amiss:
                    return tally
            whole = Tally(store.name)
            for number in range(10 * _WRITERS):  # until nobody who died holds a name any more, and nothing is open
                seen = one_round(ledger, number, [None] * writers, whole, plant)
                if not ledger.open_calls() and seen.points:
                    points = seen.points
                    break
            tally.note(whole.amiss, "the last round")
            tally.note([f"never closed: {call}" for call in ledger.open_calls()], store.name)
            tally.note([f"never replayed: {record}" for record, _ in ledger.spooled()], store.name)
            tally.note(ledger.verify(), f"{store.name}, the verifier")
            tally.verified += 1
    return tally


@contextlib.contextmanager
def stores(wanted: str, folder: Path) -> Iterator[list[Sqlite | Postgres]]:
    """The stores that are asked for, set up."""
    with contextlib.ExitStack() as stack:
        found: list[Sqlite | Postgres] = []
        if wanted != "postgresql":
            found.append(Sqlite(folder))
        if wanted != "sqlite":
            from tests.postgres_server import server  # noqa: PLC0415  it needs pytest, and a server on this machine

            found.append(Postgres(stack.enter_context(server())))
        yield found


def main() -> int:
    """Print, write, and say whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10_000, help="with a fault each, over all stores")
    parser.add_argument("--store", choices=("both", "sqlite", "postgresql"), default="both")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--writers", type=int, default=1, help="at once, in each round")
    parser.add_argument(
        "--spool", action="store_true", help="of routes in the mode `spool`: the store goes away, again and again"
    )
    parser.add_argument("--plants", action="store_true", help="the planted bugs alone: each must be noticed")
    parser.add_argument("--json", type=Path, default=OUT / "crashes.json")
    options = parser.parse_args()
    if options.rounds < 1 or not 1 <= options.writers <= 64:
        parser.error("--rounds is 1 or more, --writers 1 to 64")
    gc.disable()  # and its objects stay the parent's: a child copies less
    gc.freeze()
    began, said = time.monotonic(), []
    signal.signal(signal.SIGTERM, lambda *_: _ENOUGH.set())
    with (
        tempfile.TemporaryDirectory(prefix="bailiwick-crashes-", dir=_MEMORY if _MEMORY.is_dir() else None) as folder,
        stores(options.store, Path(folder)) as chosen,
    ):
        for store in chosen:
            share = -(-options.rounds // len(chosen))
            plants = SPOOL_PLANTS if options.spool else planted(store.name)
            runs = [(plant, True) for plant in plants] if options.plants else [("", False)]
            for plant, until in runs:
                tally = campaign(store, share, options.seed, plant, options.writers, until=until, spool=options.spool)
                said.append(tally.to_dict() | {"plant": plant, "ok": bool(tally.amiss) == until})
                print(line(tally, plant), flush=True)
    facts = {"at": datetime.now(UTC).isoformat(), "kernel": platform.release(), "seed": options.seed, "runs": said}
    facts["seconds"] = round(time.monotonic() - began, 1)
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0 if all(each["ok"] for each in said) else 1


def line(tally: Tally, plant: str) -> str:
    """One campaign for people."""
    if plant:
        noticed = f"noticed in {tally.rounds} rounds" if tally.amiss else "NOT NOTICED"
        return f"{tally.store:<11} planted: {plant}: {noticed}"
    head = f"{tally.store:<11} {tally.rounds} rounds, {tally.ends['killed']} killed, {tally.executed} calls executed, "
    head += f"{tally.released} released, {tally.acknowledged} records acknowledged; {tally.verified} ledgers verified: "
    return head + ("nothing amiss" if not tally.amiss else "AMISS\n  " + "\n  ".join(tally.amiss))


if __name__ == "__main__":
    sys.exit(main())
