"""What agents say of themselves is on record when it is first heard and whenever it changes: once, also across restarts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit.leaf import KINDS
from audit.model import Entry, LedgerUnavailableError
from gateway.a2a.cards import Cards, Terms, by_http
from gateway.a2a.drift import Drifts
from gateway.identity.signing import KeyRing
from gateway.model import Refused, UpstreamError
from gateway.prometheus import render
from gateway.state.store import State
from tests.a2a.carded import PLAIN, Owner

BASE = "https://gate.example"


class Watched:
    """One replica: cards with a state store of its own to reopen; `entries` is the ledger."""

    def __init__(self, folder: Path, entries: list[Entry], **terms: Any) -> None:
        self.state = State.open(f"sqlite:///{folder / 'state.db'}")
        self.entries = entries
        self.down = False
        self.seconds = 1_000
        self.drifts = Drifts(self.state.cards, self._append, self._clock)
        self.cards = Cards(
            BASE, self._clock, lambda agent: by_http(BASE, agent), ring=KeyRing.of(Owner().key),
            terms={"ref": Terms(**terms)}, drift=self.drifts,
        )  # fmt: skip

    async def _append(self, entry: Entry) -> None:
        if self.down:
            raise LedgerUnavailableError("down")
        assert entry.kind in KINDS
        self.entries.append(entry)

    def _clock(self) -> int:
        return self.seconds * 1_000_000

    async def hear(self, said: Any) -> None:
        """A minute later the agent says this of itself."""
        self.seconds += 61

        async def fetch() -> bytes:
            return said if isinstance(said, bytes) else json.dumps(said).encode()

        await self.cards.get("ref", fetch, (), "call-1")

    def metrics(self) -> str:
        return render(self.drifts.families()).decode()


async def test_a_card_is_recorded_when_first_seen_and_once_for_each_change(tmp_path: Path) -> None:
    watched = Watched(tmp_path, [])
    for said in (PLAIN, PLAIN, PLAIN | {"version": "4"}, PLAIN | {"version": "4"}, PLAIN):
        await watched.hear(said)
    assert [entry.kind for entry in watched.entries] == ["card.seen", "card.changed", "card.changed"]
    seen, changed, back = (entry.fields for entry in watched.entries)
    assert (seen["target"], seen["call"], seen["before"], seen["signature"]) == ("ref", "call-1", "", "unsigned")
    assert (changed["before"], back["before"], back["digest"]) == (seen["digest"], changed["digest"], seen["digest"])
    assert seen["published"] != changed["published"]
    assert json.loads(watched.entries[1].values[0].data)["version"] == "4"
    assert 'bailiwick_agent_card_changes_total{agent="ref"} 2' in watched.metrics()
    await watched.state.close()


async def test_a_restart_neither_records_the_same_card_again_nor_misses_a_change_while_nobody_ran(tmp_path: Path) -> None:
    entries: list[Entry] = []
    for said in (PLAIN, PLAIN, PLAIN | {"version": "4"}):
        watched = Watched(tmp_path, entries)
        await watched.hear(said)
        await watched.state.close()
    assert [entry.kind for entry in entries] == ["card.seen", "card.changed"]


async def test_a_card_that_is_only_signed_anew_has_not_changed_and_one_that_lost_its_signature_has(tmp_path: Path) -> None:
    owner = Owner()
    watched = Watched(tmp_path, [], keys=owner.pinned(tmp_path)["ref"].keys)
    for said in (owner.signed(PLAIN), owner.signed(PLAIN), PLAIN):
        await watched.hear(said)
    assert [(e.kind, e.fields["signature"]) for e in watched.entries] == [("card.seen", "verified"), ("card.changed", "unsigned")]
    assert watched.entries[0].fields["digest"] == watched.entries[1].fields["digest"]
    await watched.state.close()


async def test_a_card_that_must_not_be_shown_is_recorded_once_with_the_reason_and_alarmed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    demanding = PLAIN | {"capabilities": {"extensions": [{"uri": "urn:example:pay", "required": True}]}}
    watched = Watched(tmp_path, [])
    await watched.hear(PLAIN)
    for _ in range(2):
        with pytest.raises(UpstreamError, match="urn:example:pay"):
            await watched.hear(demanding)
    seen, refused = watched.entries
    assert (refused.kind, refused.fields["before"]) == ("card.refused", seen.fields["digest"])
    assert "urn:example:pay" in refused.fields["why"]
    assert "urn:example:pay" in caplog.text
    assert 'bailiwick_agent_card_refused{agent="ref"} 1' in watched.metrics()
    await watched.hear(PLAIN)
    assert watched.entries[-1].kind == "card.changed"
    assert 'bailiwick_agent_card_refused{agent="ref"} 0' in watched.metrics()
    await watched.state.close()


async def test_an_extension_that_settings_let_through_is_published_and_no_other_one(tmp_path: Path) -> None:
    offered = [
        {"uri": "urn:example:pay", "required": True, "params": {"at": "http://buyer.internal:9/x", "n": 3}},
        {"uri": "urn:x"},
    ]
    watched = Watched(tmp_path, [], extensions=frozenset({"urn:example:pay"}))

    async def fetch() -> bytes:
        return json.dumps(PLAIN | {"capabilities": {"extensions": offered}}).encode()

    known = await watched.cards.get("ref", fetch)
    card = await watched.cards.shown("ref", known, lambda _: True, extended=False)
    (shown,) = json.loads(card.body)["capabilities"]["extensions"]
    assert shown == {"uri": "urn:example:pay", "required": True, "params": {"at": f"{BASE}/a2a/ref/", "n": 3}}
    await watched.state.close()


async def test_news_that_cannot_be_recorded_are_told_to_nobody(tmp_path: Path) -> None:
    watched = Watched(tmp_path, [])
    watched.down = True
    with pytest.raises(Refused, match="ledger-unavailable"):
        await watched.hear(PLAIN)
    watched.down = False
    await watched.hear(PLAIN)
    assert [entry.kind for entry in watched.entries] == ["card.seen"]
    await watched.state.close()


async def test_two_replicas_record_a_change_once(tmp_path: Path) -> None:
    entries: list[Entry] = []
    one, other = Watched(tmp_path, entries), Watched(tmp_path, entries)
    for said in (PLAIN, PLAIN | {"version": "4"}):
        await one.hear(said)
        await other.hear(said)
    assert [entry.kind for entry in entries] == ["card.seen", "card.changed"]
    await one.state.close()
    await other.state.close()
