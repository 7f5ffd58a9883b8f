"""Calls that are sent while their record is written: of tools approved as read-only alone, and no answer leaves before it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.journal import Journal
from audit.reader import Ledger
from gateway.model import Arrival, Call, Intent, Permit, Principal, Refused, Reply, Said, Trace
from gateway.overlap import overlapping
from gateway.pipeline import Stages, govern
from gateway.record import Recorder
from gateway.settings import Mcp, Settings
from policies.lock import Approved, Lock
from policies.model import AccessRequest, Decision, Effect, Reason
from tests.held_ledger import kept_from_writing

ARRIVAL = Arrival("c1", "mcp", "erp", (), b"{}", 1_000_000, Trace("0" * 31 + "1", "0" * 15 + "2"))
PRINCIPAL = Principal("user:dev/paul", ("agent:a",), "acme", "wf-1", 10, "bearer", "00")
CALL = Call(ARRIVAL, "tools/call", "erp", {}, ARRIVAL.trace, name="read", arguments={})
REQUEST = AccessRequest("user:dev/paul", ("agent:a",), "acme", "call", "erp.read", 1)
ALLOW = Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0")


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = await Journal.open(
        url=f"sqlite:///{tmp_path / 'ledger.db'}", origin="example.org/log", signing_key=Ed25519PrivateKey.generate(),
        seal_key=bytes(32), writer="gw-1", clock=lambda: 5,
    )  # fmt: skip
    yield opened
    await opened.close()


def kinds(folder: Path) -> list[str]:
    with Ledger.open(f"sqlite:///{folder / 'ledger.db'}") as ledger:
        return [record.kind for record in ledger.records() if record.kind.startswith("call")]


@contextlib.contextmanager
def held(folder: Path) -> Any:
    """Nothing can be committed."""
    with kept_from_writing(folder / "ledger.db") as connection:
        yield connection


@contextlib.contextmanager
def gone(folder: Path) -> Any:
    """The ledger's file is."""
    (folder / "ledger.db").rename(folder / "elsewhere")
    yield
    (folder / "elsewhere").rename(folder / "ledger.db")


def road(journal: Journal, sent: asyncio.Event, *, overlaps: Callable[[Permit], bool]) -> Stages:
    recorder = Recorder(journal.append, journal.submit, lambda: 6, overlaps=overlaps)

    async def messages() -> AsyncGenerator[Reply, None]:
        yield Reply({"progress": 1}, is_final=False)
        yield Reply({"done": 1}, is_final=True)

    async def forward(_intent: Intent) -> Said:
        sent.set()
        return messages()

    async def itself(permit: Permit) -> Permit:
        return permit

    async def paul(_: Arrival) -> Principal:
        return PRINCIPAL

    return Stages(
        authenticate=paul, parse=lambda *_: CALL, normalise=lambda *_: REQUEST, decide=lambda _: ALLOW, fulfil=itself,
        record_intent=recorder.intent, forward=forward, filter=lambda reply, _: msgspec.structs.replace(reply, body=b"x"),
        record_outcome=recorder.outcome, record_refusal=recorder.refusal, observe=lambda *_: None, settled=recorder.settled,
    )  # fmt: skip


async def test_the_call_is_on_its_way_while_its_record_is_written_and_no_word_of_the_answer_is(
    tmp_path: Path, journal: Journal
) -> None:
    sent = asyncio.Event()
    replies = govern(ARRIVAL, road(journal, sent, overlaps=lambda _: True))
    with held(tmp_path):
        first = asyncio.ensure_future(anext(replies))
        await sent.wait()
        assert not first.done()
        assert kinds(tmp_path) == []
    assert (await first).is_final is False
    assert kinds(tmp_path) == ["call.start"]
    assert [reply.is_final async for reply in replies] == [True]
    assert kinds(tmp_path) == ["call.start", "call.end"]


async def test_an_answer_is_withheld_for_good_where_the_record_fails(tmp_path: Path, journal: Journal) -> None:
    sent = asyncio.Event()
    with gone(tmp_path), pytest.raises(Refused, match="ledger-unavailable"):
        [_ async for _ in govern(ARRIVAL, road(journal, sent, overlaps=lambda _: True))]
    assert sent.is_set()


async def test_a_strict_call_is_not_sent_before_its_record(tmp_path: Path, journal: Journal) -> None:
    sent = asyncio.Event()
    stages = replace(road(journal, sent, overlaps=lambda _: False))
    with gone(tmp_path), pytest.raises(Refused, match="ledger-unavailable"):
        [_ async for _ in govern(ARRIVAL, stages)]
    assert not sent.is_set()


def approved(**hints: object) -> Approved:
    return Approved(**{**_BLANK, "definition": {"name": "t", "annotations": hints}})


_BLANK: dict[str, Any] = dict.fromkeys(Approved.__dataclass_fields__, "")


@pytest.mark.parametrize(
    ("server", "tool", "overlaps"),
    [
        ("erp", "read", True),
        ("erp", "write", False),
        ("erp", "both", False),
        ("erp", "unknown", False),
        ("strict", "read", False),
        ("none", "read", False),
    ],
)
def test_only_tools_that_were_approved_as_read_only_on_servers_that_are_set_so(server: str, tool: str, overlaps: bool) -> None:
    tools = {
        ("tool", "read"): approved(readOnlyHint=True),
        ("tool", "write"): approved(readOnlyHint=False),
        ("tool", "both"): approved(readOnlyHint=True, destructiveHint=True),
    }
    lock = Lock({"erp": tools, "strict": tools})
    pair = SimpleNamespace(bundle=SimpleNamespace(pinning=SimpleNamespace(lock=lock)))
    in_force: Any = SimpleNamespace(current=SimpleNamespace(pair_of=lambda _: pair))
    url = "http://127.0.0.1:1/mcp"
    settings = Settings(mcp={"erp": Mcp(url=url, ledger="overlap"), "strict": Mcp(url=url)})
    asked = overlapping(settings, in_force)
    assert asked is not None
    call = msgspec.structs.replace(CALL, target=server, name=tool)
    assert asked(Permit.of(call, PRINCIPAL, REQUEST, ALLOW)) is overlaps
    assert not asked(Permit.of(msgspec.structs.replace(call, method="tools/list"), PRINCIPAL, REQUEST, ALLOW))
    assert overlapping(Settings(mcp={"erp": Mcp(url=url)}), in_force) is None
