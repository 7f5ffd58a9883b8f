"""`python -m bench.flips`: single-bit flips over an export, each verified; none may go unnoticed.  Prints one table, writes JSON.

    python -m bench.flips --count 1000000 --processes 2

The export is a small one with every format, disclosed values, a policy bundle and a checkpoint; the bits are drawn file by file,
so that a short file is looked at as often as a long one.  Verification is `audit/verify.py`'s own, over files in memory; a
signature whose key, text and bytes are those of another flip is not computed twice.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import verify
from audit.checkpoint import Vkey
from audit.export.finishing import Means
from audit.export.making import make, planned
from audit.export.plan import Plan
from audit.export.query import Query
from audit.journal import Journal
from audit.model import Entry, Value
from audit.reader import Ledger
from policies.bundle import digest_of

OUT: Final = Path(__file__).parent / "out"
ORIGIN: Final = "bench.invalid/flips"
KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
VKEY: Final = str(Vkey.of(ORIGIN, KEY))
AT: Final = 1_788_955_200_000_000
POLICY: Final = {"roles.csv": "g, a, b\n"}
_BLOCK: Final = 500


class Held(verify.Bundle):
    """An export in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def names(self) -> list[str]:
        return sorted(self.files)

    def open(self, name: str) -> IO[bytes]:
        return io.BytesIO(self.files[name])


async def fill(url: str) -> None:
    """A few calls with their ends, a denial, two people."""
    clock = itertools.count(AT)
    journal = await Journal.open(
        url=url,
        origin=ORIGIN,
        signing_key=KEY,
        seal_key=bytes(32),
        writer="gw",
        clock=lambda: next(clock),
        checkpoint_seconds=3600,
    )
    for n in range(3):
        said = {"workflow": "wf-1", "chain": [["user", "@subject"], ["agent", "agent:a"]], "target": "erp", "action": "call"}
        await journal.append(Entry("call.start", f"c{n}", AT, f"user:corp/p{n % 2}", said, (Value("request", b"ask %d" % n),)))
        ended = {"call": f"c{n}", "outcome": {"status": "ok", "latency_us": 9}}
        await journal.append(Entry("call.end", f"e{n}", AT, f"user:corp/p{n % 2}", ended))
    judged = {"effect": "deny", "reason": "user-lacks-right", "policy": digest_of(POLICY)}
    await journal.append(Entry("decision.deny", "d1", AT, "user:corp/p0", {"decision": judged}))
    await journal.close()


def exported(selection: bool) -> dict[str, bytes]:
    """The files of a whole log's export, or of a selection's."""
    with tempfile.TemporaryDirectory() as scratch:
        url, out = f"sqlite:///{scratch}/ledger.db", Path(scratch) / "out"
        asyncio.run(fill(url))
        query = Query(kinds=("call.start", "call.end")) if selection else Query()
        with Ledger.open(url, bytes(32)) as log:
            note = str(log.checkpoint())
            size = int(note.split("\n")[1])
            wish = Plan(query, tuple(verify.ROWS), note, size, 0, 0, "os:bench", "flips", AT, ("all",))
            means = Means(KEY, ORIGIN, lambda _: {"roles.csv": POLICY["roles.csv"].encode()}, (), "bench")
            make(log, planned(log, wish), out, means, lambda *_: None)
        return {each.relative_to(out).as_posix(): each.read_bytes() for each in out.rglob("*") if each.is_file()}


_files: list[dict[str, bytes]] = []


def _begin(files: list[dict[str, bytes]]) -> None:
    _files.extend(files)
    setattr(verify, "ed25519_verify", lru_cache(4096)(verify.ed25519_verify))  # noqa: B010  the same answers
    for each in _files:
        assert verify.Export(Held(each), verify.Trust(VKEY)).run().findings == []


def flips(seed: int) -> tuple[Counter[str], list[tuple[str, int]]]:
    """A block of flips: how many in which file, and those that nothing was found of."""
    chance, counted, missed = random.Random(seed), Counter[str](), []
    for _ in range(_BLOCK):
        files = chance.choice(_files)
        name = chance.choice(sorted(files))
        bit = chance.randrange(len(files[name]) * 8)
        flipped = bytearray(files[name])
        flipped[bit // 8] ^= 1 << bit % 8
        counted[name] += 1
        if not verify.Export(Held({**files, name: bytes(flipped)}), verify.Trust(VKEY)).run().findings:
            missed.append((name, bit))
    return counted, missed


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.flips")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    files, began = [exported(False), exported(True)], time.monotonic()
    counted, missed = Counter[str](), list[tuple[str, int]]()
    blocks = range(options.seed * 10**9, options.seed * 10**9 + -(-options.count // _BLOCK))
    with ProcessPoolExecutor(options.processes, get_context("spawn"), _begin, (files,)) as pool:
        for done, (names, found) in enumerate(pool.map(flips, blocks), 1):
            counted.update(names)
            missed += found
            if done % 100 == 0:
                print(f"{done * _BLOCK} flips, {len(missed)} unnoticed", file=sys.stderr, flush=True)
    result: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version(), "seed": options.seed,
        "flips": sum(counted.values()), "unnoticed": missed, "files": dict(counted),
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    OUT.mkdir(exist_ok=True)
    (OUT / "flips.json").write_text(json.dumps(result, indent=2) + "\n")
    for name, count in sorted(counted.items()):
        print(f"{count:>9}  {name}")
    print(f"{result['flips']:>9}  flips in {result['seconds']} s; unnoticed: {len(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
