"""Routes that are set to `spool`: calls go on while the ledger's store is away, and no other does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.journal import Journal
from audit.reader import Ledger
from audit.spool import SpoolLimits
from audit.verify import verify_sqlite
from gateway.model import Arrival, Call, Intent, Permit, Principal, Refused, Reply, Said, Trace, new_id, wall_clock
from gateway.pipeline import Stages, govern
from gateway.record import Recorder
from gateway.settings import Mcp, Settings
from gateway.settings_identity import Agent
from gateway.spool_routes import limits_of, spooling
from policies.model import AccessRequest, Decision, Effect, Reason
from tests.held_ledger import kept_from_writing

PRINCIPAL = Principal("user:dev/paul", ("agent:a",), "acme", "wf-1", 10, "bearer", "00")
REQUEST = AccessRequest("user:dev/paul", ("agent:a",), "acme", "call", "erp.read", 1)
ALLOW = Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0")
DENY = Decision(Effect.DENY, Reason.USER_LACKS_RIGHT, "sha256:0", missing=("user:dev/paul",))
KEY = Ed25519PrivateKey.generate()


def call_to(target: str, protocol: str = "mcp") -> Call:
    at = wall_clock()
    arrival = Arrival(new_id(at), protocol, target, (), b"{}", at, Trace("0" * 31 + "1", "0" * 15 + "2"))
    return Call(arrival, "tools/call", target, {}, arrival.trace, name="read", arguments={})


@pytest.fixture
async def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Journal]:
    monkeypatch.setattr("audit.store_connect._BUSY_SECONDS", 0.02)
    monkeypatch.setattr("audit.spooling._PAUSE", 0.02)
    monkeypatch.setattr("audit.journal._PROBE_SECONDS", 0.02)
    monkeypatch.setattr("audit.ahead._LOCK_SECONDS", 0.02)
    opened = await Journal.open(
        url=f"sqlite:///{tmp_path / 'ledger.db'}", origin="example.org/log", signing_key=KEY, seal_key=bytes(32),
        writer="gw-1", clock=wall_clock, spool=SpoolLimits(tmp_path / "spool"),
    )  # fmt: skip
    yield opened
    await opened.close()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    with kept_from_writing(folder / "ledger.db"):
        yield


def road(
    journal: Journal, call: Call, sent: list[str], spools: Callable[[Call], bool] | None, decision: Decision = ALLOW
) -> Stages:
    recorder = Recorder(journal.append, journal.submit, wall_clock, spools=spools, vouch=journal.vouch)

    async def forward(intent: Intent) -> Said:
        sent.append(intent.permit.call.arrival.id)
        return Reply({"done": 1}, is_final=True)

    async def itself(permit: Permit) -> Permit:
        return permit

    async def paul(_: Arrival) -> Principal:
        return PRINCIPAL

    return Stages(
        authenticate=paul, parse=lambda *_: call, normalise=lambda *_: REQUEST, decide=lambda _: decision, fulfil=itself,
        record_intent=recorder.intent, forward=forward, filter=lambda reply, _: msgspec.structs.replace(reply, body=b"x"),
        record_outcome=recorder.outcome, record_refusal=recorder.refusal, observe=lambda *_: None, settled=recorder.settled,
    )  # fmt: skip


async def test_a_call_of_such_a_route_is_made_and_answered_while_the_store_is_away_and_another_is_not(
    tmp_path: Path, journal: Journal
) -> None:
    spools = spooling(Settings(mcp={"erp": Mcp(url="http://127.0.0.1:1/mcp", ledger="spool")}))
    first, kept, strict, denied = call_to("erp"), call_to("erp"), call_to("crm"), call_to("erp")
    sent: list[str] = []
    assert [each.is_final async for each in govern(first.arrival, road(journal, first, sent, spools))] == [True]
    with locked(tmp_path):
        assert [each.is_final async for each in govern(kept.arrival, road(journal, kept, sent, spools))] == [True]
        with pytest.raises(Refused, match="ledger-unavailable"):
            [_ async for _ in govern(strict.arrival, road(journal, strict, sent, spools))]
        with pytest.raises(Refused, match="user-lacks-right") as refusal:
            [_ async for _ in govern(denied.arrival, road(journal, denied, sent, spools, DENY))]
        assert refusal.value.receipt is not None
        assert refusal.value.receipt["spooled"] is True
        assert journal.healthy.spooling
        assert journal.spooled == 3
    async with asyncio.timeout(30):
        while not journal.healthy:  # noqa: ASYNC110  another thread does it
            await asyncio.sleep(0.01)
    assert sent == [first.arrival.id, kept.arrival.id]
    await journal.close()
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        spooled = [(each.kind, each.leaf) for each in ledger.records() if each.leaf.get("spooled")]
    assert [kind for kind, _ in spooled] == ["call.start", "call.end", "decision.deny"]
    assert spooled[1][1]["call"] == kept.arrival.id
    assert "start_index" not in spooled[1][1]
    assert [str(each) for each in verify_sqlite(tmp_path / "ledger.db", journal.vkey).findings] == []


def test_only_servers_and_agents_that_are_set_so() -> None:
    url = "http://127.0.0.1:1/mcp"
    settings = Settings(
        mcp={"erp": Mcp(url=url, ledger="spool"), "crm": Mcp(url=url), "web": Mcp(url=url, ledger="overlap")},
        agents={"buyer": Agent(ledger="spool"), "clerk": Agent()},
    )
    spools = spooling(settings)
    assert spools is not None
    asked: list[Any] = [("mcp", name) for name in settings.mcp] + [("a2a", name) for name in settings.agents]
    assert [each for each in [*asked, ("a2a", "erp"), ("mcp", "buyer")] if spools(call_to(each[1], each[0]))] == [
        ("mcp", "erp"), ("a2a", "buyer"),
    ]  # fmt: skip
    assert spooling(Settings(mcp={"crm": Mcp(url=url)})) is None
    assert limits_of(Settings()).folder == Settings().data.resolve() / "spool"
