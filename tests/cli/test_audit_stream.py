"""`bailiwick audit stream`: an event stream or lines, by the id of the call or of its end; and what nobody can say any more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from audit.journal import Journal
from audit.model import Entry
from audit.streamed import STREAM, Chunks
from gateway.configuration import load
from gateway.identity.keyfiles import ledger_key, seal_key
from gateway.model import wall_clock
from gateway.stores import ledger_url_of

from .conftest import Run

ANN = "user:corp/ann"
SENT = (b'{"n":1}', b'{"n":2}')


def written(config: Path, *, shred: bool) -> None:
    settings = load(config, {})
    settings.data.mkdir(exist_ok=True)

    async def write() -> None:
        journal = await Journal.open(
            url=ledger_url_of(settings), origin=settings.ledger.origin, signing_key=ledger_key(settings.data, None, {}),
            seal_key=seal_key(settings.data, None, {}), writer="gw-1", clock=wall_clock,
        )  # fmt: skip
        if shred:
            await journal.shred(ANN, request="r-1", approver="somebody")
        else:
            chunks = Chunks()
            for message in SENT:
                chunks.add(message)
            salt, said = chunks.said()
            await journal.append(Entry("call.start", "c1", wall_clock(), ANN, {"workflow": "wf-1"}))
            fields = {"call": "c1", "workflow": "wf-1", STREAM: said}
            await journal.append(Entry("call.end", "e1", wall_clock(), ANN, fields, (salt,)))
        await journal.close()

    asyncio.run(write())


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    place = tmp_path / "bailiwick.yaml"
    place.write_text("tenant: acme\npolicies: policies\n")
    written(place, shred=False)
    (tmp_path / "kept.sse").write_bytes(b"".join(b": hello\n\nevent: message\ndata: %s\n\n" % each for each in SENT))
    (tmp_path / "kept.jsonl").write_bytes(b"\r\n".join(SENT))
    return place


def test_a_kept_stream_is_held_against_the_record_until_its_person_is_erased(run: Run, config: Path) -> None:
    for record in ("c1", "e1"):
        for kept in ("kept.sse", "kept.jsonl"):
            ran = run("audit", "stream", record, kept, "--reason", "a dispute", "--config", config)
            assert (ran.code, "these 2 messages are those that were released" in ran.out) == (0, True), ran.err
    written(config, shred=True)
    ran = run("audit", "stream", "c1", "kept.sse", "--reason", "a dispute", "--config", config, "--json")
    assert (ran.code, ran.json["ok"], "its person was erased" in ran.json["why"]) == (1, False, True)


def test_what_cannot_be_asked_is_told_apart_from_what_is_not_so(run: Run, config: Path) -> None:
    for words, code, said in (
        (("nobody", "kept.sse"), 1, "no stream is on record for nobody"),
        (("c1", "not-there"), 2, "cannot be read"),
        (("c1", "bailiwick.yaml"), 1, "are not the 2 messages"),
    ):
        ran = run("audit", "stream", *words, "--reason", "a dispute", "--config", config)
        assert (ran.code, said in ran.err) == (code, True), ran.err
