"""A ledger of several logs, opened as the gateway opens it; as a program it makes calls of two tenants until it is killed."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from audit.model import Entry, Value
from gateway.ledger_opening import Ledgers
from gateway.ledger_several import opened
from gateway.settings import Settings
from gateway.upstream.client import Upstreams

SEAL = bytes(range(32, 64))
TENANTS = ("acme", "globex")


def clock() -> int:
    return time.time_ns() // 1000


def settings_of(data: Path, url: str = "", **ledger: Any) -> Settings:
    """A gateway of the tenant `house`, with an issuer of two others."""
    mapped = {tenant: tenant for tenant in TENANTS}
    issuer = {
        "alias": "corp", "issuer": "https://idp.invalid", "audience": "x", "tenant_claim": "org", "tenants": mapped
    }  # fmt: skip
    said = {"origin": "example.org/ledger", "logs": "tenant", **({"url": url} if url else {}), **ledger}
    return Settings.model_validate({"tenant": "house", "data": data, "ledger": said, "issuers": [issuer]})


@asynccontextmanager
async def ledgers(settings: Settings, environ: Mapping[str, str] = os.environ) -> AsyncIterator[Ledgers]:
    """Its logs, open."""
    settings.data.mkdir(exist_ok=True, parents=True, mode=0o700)
    async with AsyncExitStack() as stack:
        upstreams = Upstreams(connect_seconds=5, idle_seconds=5)
        stack.push_async_callback(upstreams.aclose)
        yield await opened(settings, environ, clock, SEAL, stack, upstreams)


def start(call: str, tenant: str, who: str = "ann") -> Entry:
    fields = {"workflow": "wf", "tenant": tenant}
    return Entry("call.start", call, clock(), f"user:corp/{who}", fields, (Value("request", b"x" * 300),), tenant=tenant)


def end(call: str, tenant: str, who: str = "ann") -> Entry:
    return Entry("call.end", call + "-end", clock(), f"user:corp/{who}", {"call": call, "workflow": "wf"}, tenant=tenant)


async def main(data: str, url: str, round_: str) -> None:
    async with ledgers(settings_of(Path(data), url)) as made:

        async def work(worker: int) -> None:
            tenant = TENANTS[worker % 2]
            for n in itertools.count():
                call = f"{round_}-{worker}-{n}"
                for entry in (start(call, tenant, str(worker)), end(call, tenant, str(worker))):
                    receipt = await made.journal.append(entry)
                    os.write(1, f"{tenant} {receipt.index} {receipt.id} {receipt.leaf_hash.hex()}\n".encode())

        await asyncio.gather(*(work(worker) for worker in range(8)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
