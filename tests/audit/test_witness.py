"""A witness goes forward or says no: every answer of c2sp.org/tlog-witness, and a memory that no crash or fork bends."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import checkpoint as notes
from audit import cosignature
from audit.checkpoint import Checkpoint, Vkey
from audit.cosignature import WitnessKey
from audit.proof import consistency, verify_consistency
from audit.tree import leaf_hash, root_of
from audit.witness import MAX_REQUEST, AddCheckpoint, Answer, Witness
from audit.witness_file import WitnessFile

LOG_KEY, KEY = (Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in (1, 2))
LOG = Vkey.of("example.org/log", LOG_KEY)
W = WitnessKey.of("w.example/1", KEY)
NOW = 1_800_000_000


class Log:
    """A log of so many leaves; `of` makes its history one of several."""

    def __init__(self, of: str = "true", common: int = 0) -> None:
        self.leaves = [leaf_hash(f"{'true' if at < common else of} {at}".encode()) for at in range(40)]

    def head(self, size: int) -> Checkpoint:
        return Checkpoint(LOG.name, size, root_of(self.leaves[:size]))

    def node(self, height: int, index: int) -> bytes:
        return root_of(self.leaves[index << height : index + 1 << height])

    def request(self, old: int, size: int, key: Ed25519PrivateKey = LOG_KEY) -> bytes:
        proof = tuple(consistency(old, size, self.node)) if old <= size else ()
        return AddCheckpoint(old, proof, notes.sign(self.head(size), key)).encode()


TRUE = Log()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[WitnessFile]:
    opened = WitnessFile.open(tmp_path / "seen.json", new=True)
    yield opened
    opened.close()


@pytest.fixture
def witness(memory: WitnessFile) -> Witness:
    return Witness(W.name, KEY, {LOG.name: LOG}, memory, lambda: NOW)


def said(answer: Answer, head: Checkpoint) -> int:
    """When the witness cosigned exactly this head."""
    lines = [notes.signature_line(line) for line in answer.body.rstrip("\n").split("\n")]
    return cosignature.verify(head, lines, W).at


def test_what_continues_is_cosigned_and_shown_to_auditors(witness: Witness) -> None:
    for old, size in ((0, 3), (3, 4), (4, 4), (4, 37), (37, 40)):
        answer = witness.add_checkpoint(TRUE.request(old, size))
        assert (answer.status, said(answer, TRUE.head(size))) == (200, NOW)
    note = witness.newest(LOG.name)
    assert note is not None
    assert notes.verify(note, LOG) == TRUE.head(40)
    assert cosignature.verify(TRUE.head(40), notes.parse(note)[1], W).at == NOW


def test_a_client_that_does_not_know_is_told_the_size(witness: Witness) -> None:
    witness.add_checkpoint(TRUE.request(0, 7))
    for old in (0, 3, 8):
        answer = witness.add_checkpoint(TRUE.request(old, 9))
        assert answer == Answer(409, "7\n", "text/x.tlog.size")


def test_a_log_that_was_set_back_is_not_cosigned(witness: Witness) -> None:
    witness.add_checkpoint(TRUE.request(0, 20))
    for old, size in ((0, 12), (12, 12), (12, 15)):
        assert witness.add_checkpoint(TRUE.request(old, size)) == Answer(409, "20\n", "text/x.tlog.size")


def test_a_fork_is_not_cosigned_at_the_same_size_nor_at_a_larger_one(witness: Witness) -> None:
    """Two views, both signed by the log's key: the one that came first stays, whatever proof comes with the other."""
    fork = Log("other", common=10)
    witness.add_checkpoint(TRUE.request(0, 20))
    assert witness.add_checkpoint(fork.request(20, 20)).status == 409
    assert witness.add_checkpoint(fork.request(20, 30)).status == 422
    assert witness.add_checkpoint(TRUE.request(20, 30)).status == 200


def test_a_proof_that_is_cut_padded_or_of_another_size_is_not_enough(witness: Witness) -> None:
    witness.add_checkpoint(TRUE.request(0, 5))
    good = AddCheckpoint.parse(TRUE.request(5, 21))
    for proof in ((), good.proof[1:], good.proof[:-1], (*good.proof, bytes(32)), good.proof[::-1]):
        assert witness.add_checkpoint(AddCheckpoint(5, proof, good.note).encode()).status == 422
    assert witness.add_checkpoint(AddCheckpoint(5, good.proof, good.note).encode()).status == 200
    again = AddCheckpoint(21, (bytes(32),), good.note)
    assert witness.add_checkpoint(again.encode()).status == 422  # the same size has no proof


def test_a_first_checkpoint_has_no_proof(witness: Witness) -> None:
    note = notes.sign(TRUE.head(9), LOG_KEY)
    assert witness.add_checkpoint(AddCheckpoint(0, (bytes(32),), note).encode()).status == 422
    assert witness.newest(LOG.name) is None


def test_only_known_logs_and_their_own_key_count(witness: Witness) -> None:
    stranger = Ed25519PrivateKey.generate()
    assert witness.add_checkpoint(TRUE.request(0, 3, stranger)).status == 403
    other = AddCheckpoint(0, (), notes.sign(Checkpoint("example.org/other", 3, bytes(32)), LOG_KEY))
    assert witness.add_checkpoint(other.encode()).status == 404
    # a second signature, by somebody else, changes nothing and is not kept
    doubled = AddCheckpoint.parse(TRUE.request(0, 3))
    extra = notes.sign(Checkpoint(LOG.name, 3, bytes(32)), stranger).partition("\n\n")[2]
    assert witness.add_checkpoint(AddCheckpoint(0, (), doubled.note + extra).encode()).status == 200
    assert [name for name, _ in notes.parse(witness.newest(LOG.name) or "")[1]] == [LOG.name, W.name]


GOOD = TRUE.request(0, 3).decode()


ZERO = "A" * 43 + "=\n"
BAD = {
    "empty": b"",
    "cut": b"old 0\n",
    "not-text": b"\xff",
    "no-checkpoint": b"old 0\n\n",
    "leading-zero": GOOD.replace("old 0", "old 00").encode(),
    "negative": GOOD.replace("old 0", "old -1").encode(),
    "two-spaces": GOOD.replace("old 0", "old  0").encode(),
    "another-word": GOOD.replace("old 0", "new 0").encode(),
    "short-hash": GOOD.replace("old 0\n", "old 0\nAAAA\n").encode(),
    "padding-bits": GOOD.replace("old 0\n", "old 0\n" + "A" * 42 + "B=\n").encode(),
    "no-newline-at-the-end": GOOD[:-1].encode(),
    "sixty-four-hashes": GOOD.replace("old 0\n", "old 0\n" + ZERO * 64).encode(),
    "crlf": GOOD.replace("\n", "\r\n").encode(),
    "larger-than-the-checkpoint": GOOD.replace("old 0", "old 4").encode(),
    "too-long": GOOD.encode() + b"x" * MAX_REQUEST,
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_a_request_in_any_other_spelling_is_a_bad_one(witness: Witness, body: bytes) -> None:
    assert witness.add_checkpoint(body).status == 400
    assert witness.newest(LOG.name) is None


def test_whatever_is_asked_in_whatever_order_all_that_was_cosigned_is_one_log(memory: WitnessFile) -> None:
    """Ten forks and the truth ask at random, with true and false old sizes: what came out never contradicts itself."""
    chance = random.Random(7)
    logs = [TRUE, *(Log(f"fork {number}", common=chance.randrange(30)) for number in range(10))]
    witness = Witness(W.name, KEY, {LOG.name: LOG}, memory, lambda: NOW)
    agreed: list[tuple[int, Log]] = []
    for _ in range(3000):
        log, size = chance.choice(logs), chance.randrange(1, 41)
        old = chance.choice([0, size, agreed[-1][0] if agreed else 0, chance.randrange(size + 1)])
        if old <= size and witness.add_checkpoint(log.request(old, size)).status == 200:
            agreed.append((size, log))
    for (before, one), (after, other) in pairwise(agreed):
        proof = consistency(before, after, other.node)
        assert verify_consistency(before, after, one.head(before).root, other.head(after).root, proof)


# ------------------------------------------------------------------------------------------------------------- the memory
def reopened(path: Path) -> Witness:
    return Witness(W.name, KEY, {LOG.name: LOG}, WitnessFile.open(path), lambda: NOW)


def test_a_witness_that_was_killed_remembers_what_it_cosigned(tmp_path: Path) -> None:
    """A process cosigns and is killed in the act of answering; its successor does not go back."""
    path = tmp_path / "seen.json"
    program = (
        "import os, sys, signal; from pathlib import Path; from tests.audit.test_witness import *\n"
        "memory = WitnessFile.open(Path(sys.argv[1]), new=True)\n"
        "witness = Witness(W.name, KEY, {LOG.name: LOG}, memory, lambda: NOW)\n"
        "answer = witness.add_checkpoint(TRUE.request(0, 20))\n"
        "os.write(1, str(answer.status).encode()); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        cwd=root,
        check=False,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert (run.stdout, run.returncode) == (b"200", -9), run.stderr
    witness = reopened(path)
    assert witness.add_checkpoint(TRUE.request(0, 12)).body == "20\n"
    assert witness.add_checkpoint(Log("other", common=10).request(20, 30)).status == 422


def test_nothing_is_cosigned_that_cannot_be_remembered(witness: Witness, tmp_path: Path) -> None:
    witness.add_checkpoint(TRUE.request(0, 5))
    blocked = tmp_path / "seen.json.new"
    blocked.mkdir()
    with pytest.raises(OSError, match="directory"):
        witness.add_checkpoint(TRUE.request(5, 9))
    blocked.rmdir()
    assert witness.add_checkpoint(TRUE.request(9, 12)).body == "5\n"  # as if it had not been asked
    assert witness.add_checkpoint(TRUE.request(5, 9)).status == 200


def test_a_memory_is_made_once_and_never_by_the_way(tmp_path: Path) -> None:
    path = tmp_path / "seen.json"
    with pytest.raises(FileNotFoundError):
        WitnessFile.open(path)
    WitnessFile.open(path, new=True).close()
    with pytest.raises(FileExistsError):
        WitnessFile.open(path, new=True)


def test_two_witnesses_never_share_a_memory(memory: WitnessFile, tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError):
        WitnessFile.open(tmp_path / "seen.json")


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"example.org/log": 3}', '{"example.org/log": {"size": 3, "root": "AA==", "note": ""}}']
)
def test_a_memory_that_is_damaged_is_not_taken_for_an_empty_one(tmp_path: Path, content: str) -> None:
    path = tmp_path / "seen.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="is damaged"):
        WitnessFile.open(path)
