"""A caller that hangs up in the very turn of the loop in which its record is told durable."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.journal import Journal
from audit.model import Entry
from audit.reader import Ledger
from audit.verify import verify_sqlite


def now() -> int:
    return time.time_ns() // 1000


async def test_a_start_told_to_a_caller_that_was_cancelled_in_the_same_turn_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody will send that call: left open, it would look for good as if something were under way."""
    path = tmp_path / "ledger.db"
    journal = await Journal.open(
        url=f"sqlite:///{path}",
        origin="example.org/log",
        signing_key=Ed25519PrivateKey.generate(),
        seal_key=os.urandom(32),
        writer="one",
        clock=now,
    )
    loop = asyncio.get_running_loop()
    caller = asyncio.create_task(journal.append(Entry("call.start", "c1", now(), "user:corp/ann", {"workflow": "wf-1"})))
    tell = loop.call_soon_threadsafe

    def and_hang_up(callback: Callable[..., object], *arguments: Any, **options: Any) -> asyncio.Handle:
        def both() -> None:
            callback(*arguments)
            caller.cancel()

        return tell(both, **options)

    monkeypatch.setattr(loop, "call_soon_threadsafe", and_hang_up)
    with pytest.raises(asyncio.CancelledError):
        await caller
    monkeypatch.undo()
    await journal.close()
    with Ledger.open(f"sqlite:///{path}") as ledger:
        ends = [record.leaf["call"] for record in ledger.records() if record.kind == "call.orphaned"]
    assert ends == ["c1"]
    assert verify_sqlite(path).open_calls == 0
