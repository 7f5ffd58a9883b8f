"""A writer to be killed: starts and ends calls as fast as it can, and says on its output which records were acknowledged."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.journal import Journal
from audit.model import Entry, Value


async def main(url: str, round_: str) -> None:
    journal = await Journal.open(
        url=url,
        origin="example.org/ledger",
        signing_key=Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
        seal_key=bytes(range(32, 64)),
        writer="gw-1",
        clock=lambda: time.time_ns() // 1000,
        checkpoint_seconds=0.02,
    )

    async def work(worker: int) -> None:
        for n in itertools.count():
            call = f"{round_}-{worker}-{n}"
            for entry in (
                Entry("call.start", call, 5, f"user:corp/{worker}", {"workflow": "wf"}, (Value("request", b"x" * 300),)),
                Entry("call.end", call + "-end", 6, f"user:corp/{worker}", {"call": call, "workflow": "wf"}),
            ):
                receipt = await journal.append(entry)
                os.write(1, f"{receipt.index} {receipt.id} {receipt.leaf_hash.hex()}\n".encode())

    await asyncio.gather(*(work(worker) for worker in range(8)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
