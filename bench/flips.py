"""`python -m bench.flips`: single-bit flips over an export, each verified; none may go unnoticed.  Prints one table, writes JSON.

    python -m bench.flips                      # every bit of every file, once
    python -m bench.flips --resigned           # the same with the key: the manifest names the flipped file, signed anew
    python -m bench.flips --count 1000000      # drawn file by file: a short file is looked at as often as a long one

The exports are two small ones, of a whole log and of a selection, with every format, disclosed values, a policy bundle and a
checkpoint.  Verification is `audit/verify.py`'s own, over files in memory, from the manifest on: the first finding is the
verdict, and every hundredth flip is verified to the end too, with the same verdict.  A signature whose key, text and bytes are
those of another flip is not computed twice.

With `--resigned` the hashes in the manifest say nothing: what notices is what the records themselves prove.  Files that nothing
is derived from (the verifier and its page, the README, the list of keys, the manifest itself) are left out there.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
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
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache, partial
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
UNDERIVED: Final = {"verify.py", "verify.html", "README.md", "keys/log.txt", verify.MANIFEST}


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


class Noticed(Exception):  # noqa: N818  the good end
    """The first finding."""


class Asked(verify.Export):
    """The verifier, asked for its verdict alone."""

    def found(self, message: str) -> None:
        raise Noticed(message)


def noticed(files: dict[str, bytes], *, whole: bool) -> bool:
    """The verdict over these files; with `whole` that of a run to the end must be the same."""
    try:
        Asked(Held(files), verify.Trust(VKEY)).run()
        said = False
    except Noticed:
        said = True
    if whole and bool(verify.Export(Held(files), verify.Trust(VKEY)).run().findings) != said:
        raise AssertionError("the first finding and the whole run are of two minds")
    return said


def resigned(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    """The export with a manifest that names this file as it is now, signed by the log's key."""
    envelope = json.loads(files[verify.MANIFEST])
    statement = json.loads(base64.b64decode(envelope["payload"]))
    for each in statement["subject"]:
        if each["name"] == name:
            each["digest"]["sha256"] = hashlib.sha256(files[name]).hexdigest()
    payload = verify.compact(statement).encode()
    signature = KEY.sign(verify.pae(verify.PAYLOAD_TYPE, payload))
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    return {**files, verify.MANIFEST: verify.compact(envelope).encode() + b"\n"}


_files: list[dict[str, bytes]] = []


def _begin(files: list[dict[str, bytes]]) -> None:
    _files.extend(files)
    setattr(verify, "ed25519_verify", lru_cache(4096)(verify.ed25519_verify))  # noqa: B010  the same answers
    for each in _files:
        assert verify.Export(Held(each), verify.Trust(VKEY)).run().findings == []
        again = resigned(each, "checkpoint")
        assert again == each


Bit = tuple[int, str, int]  # which export, which file, which bit


def drawn(seed: int, without: Collection[str]) -> list[Bit]:
    """A block of bits, drawn file by file."""
    chance, bits = random.Random(seed), list[Bit]()
    for _ in range(_BLOCK):
        which = chance.randrange(len(_files))
        name = chance.choice(sorted(_files[which].keys() - without))
        bits.append((which, name, chance.randrange(len(_files[which][name]) * 8)))
    return bits


def flips(block: int | tuple[int, str, int, int], again: bool) -> tuple[Counter[str], list[Bit]]:
    """A block of flips, drawn or all from one bit to another: how many in which file, and those that nothing was found of."""
    if isinstance(block, int):
        bits = drawn(block, UNDERIVED if again else ())
    else:
        bits = [(*block[:2], bit) for bit in range(*block[2:])]
    counted, missed = Counter[str](), list[Bit]()
    for number, (which, name, bit) in enumerate(bits):
        flipped = bytearray(_files[which][name])
        flipped[bit // 8] ^= 1 << bit % 8
        files = {**_files[which], name: bytes(flipped)}
        counted[name] += 1
        if not noticed(resigned(files, name) if again else files, whole=number % 100 == 0):
            missed.append((which, name, bit))
    return counted, missed


def every(files: list[dict[str, bytes]], again: bool) -> list[tuple[int, str, int, int]]:
    """Blocks that are together every bit of every file, the short files first."""
    return [
        (which, name, start, min(start + _BLOCK, size * 8))
        for size, which, name in sorted(
            (len(data), which, name) for which, held in enumerate(files) for name, data in held.items()
        )
        if not again or name not in UNDERIVED
        for start in range(0, size * 8, _BLOCK)
    ]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.flips")
    parser.add_argument("--count", type=int, help="so many, drawn; otherwise every bit")
    parser.add_argument("--resigned", action="store_true", help="whoever flips has the key, and signs the manifest anew")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    files, began = [exported(False), exported(True)], time.monotonic()
    counted, missed = Counter[str](), list[Bit]()
    blocks: Sequence[int | tuple[int, str, int, int]] = every(files, options.resigned)
    if options.count is not None:
        blocks = range(options.seed * 10**9, options.seed * 10**9 + -(-options.count // _BLOCK))
    with ProcessPoolExecutor(options.processes, get_context("spawn"), _begin, (files,)) as pool:
        for done, (names, found) in enumerate(pool.map(partial(flips, again=options.resigned), blocks), 1):
            counted.update(names)
            missed += found
            if done % 100 == 0:
                print(f"{counted.total()} flips, {len(missed)} unnoticed", file=sys.stderr, flush=True)
    result: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version(), "seed": options.seed,
        "drawn": options.count is not None, "resigned": options.resigned,
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
