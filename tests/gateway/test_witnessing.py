"""Asking witnesses: what is believed, what is an alarm, and what only looks like one.  The witness is real, the wire is not."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import Checkpoint, Vkey, parse
from audit.cosignature import WitnessKey
from audit.journal import Journal
from audit.model import Entry, LedgerUnavailableError
from audit.store_proofs import ProofStore
from audit.witness import Answer, Witness
from audit.witness_file import WitnessFile
from gateway.anchors.anchoring import Anchoring, Post
from gateway.anchors.folder import FolderAnchor
from gateway.model import UpstreamError
from gateway.upstream.client import HttpRequest, Url
from gateway.witness_door import Rate, WitnessDoor
from gateway.witnessing import Place, Witnessing

KEY, WITNESS_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in (1, 2))
LOG = Vkey.of("example.org/log", KEY)
W = WitnessKey.of("w.example/1", WITNESS_KEY)
NOW = 1_800_000_000


@dataclass
class Response:
    status: int
    body: bytes

    async def read(self, limit: int) -> bytes:
        return self.body

    async def aclose(self) -> None:
        pass


@dataclass
class Scene:
    """A log, a witness, and what happens on the way between them."""

    folder: Path
    witness: Witness
    meanwhile: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    spoil: Callable[[Answer], Answer] = lambda answer: answer
    ids: itertools.count[int] = field(default_factory=itertools.count)
    stores: list[ProofStore] = field(default_factory=list)

    async def send(self, request: HttpRequest) -> Response:
        if self.meanwhile:
            await self.meanwhile.pop()()
        answer = self.spoil(await asyncio.to_thread(self.witness.add_checkpoint, request.body))
        return Response(answer.status, answer.body.encode())

    async def grow(self, records: int = 3) -> None:
        clock = itertools.count(NOW * 1_000_000)
        journal = await Journal.open(
            url=self.url, origin=LOG.name, signing_key=KEY, seal_key=bytes(32), writer="gw", clock=lambda: next(clock),
            checkpoint_seconds=3600,
        )  # fmt: skip
        for _ in range(records):
            await journal.append(Entry("decision.deny", f"d-{next(self.ids)}", NOW))
        await journal.close()

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder / 'ledger.db'}"

    def replica(self) -> Witnessing:
        """Another process that asks for the same log."""
        self.stores.append(ProofStore(self.url))
        place = Place(Url.parse("http://127.0.0.1/add-checkpoint", allow_private=True), W)
        return Witnessing(self.stores[-1], LOG, [place], 1, 10, self.send, lambda: NOW * 1_000_000)  # type: ignore[arg-type]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    memory = WitnessFile.open(tmp_path / "seen.json", new=True)
    made = Scene(tmp_path, Witness(W.name, WITNESS_KEY, {LOG.name: LOG}, memory, lambda: NOW))
    await made.grow()
    yield made
    for store in made.stores:
        store.close()
    memory.close()


async def test_a_round_makes_the_log_witnessed_and_the_next_one_asks_nobody(scene: Scene) -> None:
    asking = scene.replica()
    assert str(asking.witnessed).startswith("unwitnessed")
    await asking.round()
    assert (asking.witnessed.size, asking.faults) == (asking._signed, {})
    scene.meanwhile.append(lambda: pytest.fail("nothing is new, and somebody was asked"))
    await asking.round()


async def test_a_replica_that_starts_while_another_has_more_cosigned_is_not_taken_for_a_backup(scene: Scene) -> None:
    """It read a checkpoint; before its question arrives, the log grew and the other replica had that cosigned."""
    other = scene.replica()
    await other.round()

    async def meanwhile() -> None:
        await scene.grow()
        await other.round()

    starting = scene.replica()
    scene.meanwhile.append(meanwhile)
    await starting.check_before_start()
    assert (starting.faults, starting.conflicts) == ({}, 0)


async def test_a_log_that_was_set_back_is_one_where_nobody_signed_more_meanwhile(scene: Scene) -> None:
    before = (scene.folder / "ledger.db").read_bytes()
    await scene.grow()
    await scene.replica().round()
    scene.stores[-1].close()
    (scene.folder / "ledger.db").write_bytes(before)
    with pytest.raises(
        LedgerUnavailableError, match=r"w\.example/1 knows \d+ records of this log, and there are \d+: it was set back"
    ):
        await scene.replica().check_before_start()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda _: Answer(200, ""), "not exactly one cosignature"),
        (lambda answer: Answer(200, answer.body * 2), "not exactly one cosignature"),
        (lambda answer: Answer(200, answer.body[:-10] + "\n"), "canonical"),
        (lambda _: Answer(200, "x\n" * 50), "not a few signature lines"),
        (lambda _: Answer(409, "many\n"), "a conflict without a size"),
        (lambda _: Answer(409, "1\n"), "changes its mind|another log"),
        (lambda _: Answer(500, ""), "it answers 500"),
        (lambda _: Answer(404, ""), "it answers 404"),
    ],
    ids=["nothing", "twice", "cut", "flood", "no-size", "one-record", "broken", "unknown-log"],
)
async def test_an_answer_that_is_no_cosignature_leaves_the_log_unwitnessed_and_is_said(
    scene: Scene, spoil: Callable[[Answer], Answer], said: str
) -> None:
    scene.spoil = spoil
    asking = scene.replica()
    await asking.round()
    assert asking.witnessed.size == 0
    assert re.search(said, asking.faults[W.name])


async def test_a_witness_whose_clock_is_ahead_is_not_believed(scene: Scene) -> None:
    scene.witness._clock = lambda: NOW + 3600
    asking = scene.replica()
    await asking.round()
    assert "its clock is ahead" in asking.faults[W.name]


async def test_a_witness_that_cannot_be_reached_is_asked_again_later_and_keeps_nobody_from_starting(scene: Scene) -> None:
    async def away() -> None:
        raise UpstreamError("connect", "ConnectionRefusedError")

    asking = scene.replica()
    scene.meanwhile.append(away)
    await asking.check_before_start()
    assert asking.faults[W.name].startswith("w.example/1: connect")
    await asking.round()  # too soon: it is not asked
    assert asking.witnessed.size == 0
    asking._standing[W.name].due = 0
    await asking.round()
    assert (asking.witnessed.size > 0, asking.faults) == (True, {})


async def test_an_anchor_that_another_replica_filled_meanwhile_is_no_conflict(scene: Scene) -> None:
    """Between reading the newest checkpoint and pushing it, the log grew and another replica pushed that."""
    folder = FolderAnchor(scene.folder / "mailbox", LOG)

    class Overtaken(FolderAnchor):
        async def put(self, head: Checkpoint, note: str) -> None:
            if scene.meanwhile:
                await scene.meanwhile.pop()()
            await super().put(head, note)

    store, other = ProofStore(scene.url), ProofStore(scene.url)
    scene.stores += [store, other]

    async def meanwhile() -> None:
        await scene.grow()
        note = other.newest()
        assert note is not None
        await folder.put(parse(note)[0], note)

    scene.meanwhile.append(meanwhile)
    anchoring = Anchoring(store, LOG, {"mailbox": Post(Overtaken(scene.folder / "mailbox", LOG), 60)}, lambda: 1)
    assert await anchoring.once("mailbox")
    assert anchoring.faults == {}


# ------------------------------------------------------------------------------------------------------- the other side
def test_one_address_cannot_use_up_what_all_may_ask() -> None:
    now = [0.0]
    rate = Rate(each=5, all=50, clock=lambda: now[0])
    assert [rate.admits("a") for _ in range(12)].count(True) == 10
    assert rate.admits("b")
    now[0] = 1.0
    assert [rate.admits("a") for _ in range(12)].count(True) == 5


def test_all_addresses_together_are_bounded_and_so_is_what_is_remembered_of_them() -> None:
    rate = Rate(each=5, all=50, clock=lambda: 0.0)
    assert [rate.admits(f"address {number}") for number in range(5000)].count(True) == 100
    assert len(rate._buckets) <= 1025


async def asked(door: WitnessDoor, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [], "client": ("192.0.2.1", 5)}
    await door(scope, receive, send)  # type: ignore[arg-type]
    return int(sent[0]["status"]), bytes(sent[1]["body"])  # type: ignore[call-overload]


async def test_the_door_shows_its_key_and_nothing_that_it_does_not_have(scene: Scene) -> None:
    door = WitnessDoor(scene.witness, [LOG.name], Rate(each=1000, all=1000))
    assert await asked(door, "GET", "/") == (200, f"{W}\n".encode())
    nowhere = (
        ("GET", "/add-checkpoint"),
        ("POST", "/"),
        ("GET", "/seen.json"),
        ("PUT", "/add-checkpoint"),
        ("GET", "/x/checkpoint"),
    )
    for method, path in nowhere:
        assert (await asked(door, method, path))[0] == 404
    assert (await asked(door, "POST", "/add-checkpoint", b"x" * 100_000))[0] == 400
    assert (await asked(door, "POST", "/add-checkpoint", b"old 0\n"))[0] == 400


async def test_the_door_says_when_it_cannot_remember_and_when_it_is_asked_too_much(scene: Scene) -> None:
    door = WitnessDoor(scene.witness, [LOG.name], Rate(each=2, all=1000))
    (scene.folder / "seen.json.new").mkdir()
    asking = scene.replica()
    note = scene.stores[-1].newest()
    assert note is not None
    assert (await asked(door, "POST", "/add-checkpoint", f"old 0\n\n{note}".encode()))[0] == 503
    assert asking.witnessed.size == 0
    assert [(await asked(door, "GET", "/"))[0] for _ in range(4)] == [200, 200, 200, 429]
