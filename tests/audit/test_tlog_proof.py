"""One record's proof as a file: it proves that record, in that log, under a checkpoint that was signed, and no other."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import checkpoint as notes
from audit.checkpoint import CheckpointError, Vkey
from audit.cosignature import WitnessKey, attach, cosign
from audit.reader import Ledger
from audit.tlog_proof import TlogProof
from tests.audit.conftest import ORIGIN, SIGNING_KEY, Open, denial

LOG = Vkey.of(ORIGIN, SIGNING_KEY)
WITNESS_KEY = Ed25519PrivateKey.from_private_bytes(bytes([9] * 32))
WITNESS = WitnessKey.of("w.example/1", WITNESS_KEY)

Prove = Callable[[int], TlogProof]


@pytest.fixture
async def prove(path: Path, open_journal: Open) -> Prove:
    """Makes the proof of the record at an index of a log of some thirty."""
    journal = await open_journal()
    for number in range(30):
        await journal.append(denial(f"d-{number}"))
    await journal.close()

    def made(index: int) -> TlogProof:
        with Ledger.open(f"sqlite:///{path}") as log:
            note = log.checkpoint()
            assert note is not None
            head = notes.parse(note)[0]
            cosigned = attach(note, [cosign(head, WITNESS.name, WITNESS_KEY, 1_700_000_000)])
            record = next(log.records(index, index + 1))
            return TlogProof(record.data, index, tuple(log.inclusion(index, head.size)), cosigned)

    return made


async def test_every_record_is_proven_and_the_file_is_read_back_as_it_was_written(prove: Prove) -> None:
    for index in (0, 1, 7, 16, 29, 32):
        proof = prove(index)
        assert TlogProof.parse(str(proof)) == proof
        assert proof.verify(LOG, [WITNESS], 1).origin == ORIGIN


async def test_a_proof_is_of_that_record_at_that_place_and_of_no_other(prove: Prove) -> None:
    one, other = prove(5), prove(6)
    for wrong in (
        replace(one, record=other.record), replace(one, index=6), replace(one, hashes=one.hashes[1:]),
        replace(one, hashes=(*one.hashes, bytes(32))), replace(one, note=other.note.replace(ORIGIN, "example.org/other")),
        replace(one, record=one.record + b" "), replace(one, index=10**6),
    ):  # fmt: skip
        with pytest.raises(CheckpointError):
            wrong.verify(LOG)


async def test_a_quorum_that_is_not_there_and_a_key_of_another_prove_nothing(prove: Prove) -> None:
    proof = prove(5)
    stranger = WitnessKey.of(WITNESS.name, Ed25519PrivateKey.generate())
    for witnesses, quorum in (([], 1), ([stranger], 1), ([WITNESS], 2)):
        with pytest.raises(CheckpointError, match="are wanted"):
            proof.verify(LOG, witnesses, quorum)
    with pytest.raises(CheckpointError):
        proof.verify(Vkey.of(ORIGIN, Ed25519PrivateKey.generate()))


async def test_every_flipped_bit_of_the_file_is_found(prove: Prove) -> None:
    data, chance = str(prove(13)).encode(), random.Random(3)
    for at, bit in chance.sample([(at, bit) for at in range(len(data)) for bit in range(8)], 400):
        flipped = bytearray(data)
        flipped[at] ^= 1 << bit
        with pytest.raises(ValueError, match=r"."):
            TlogProof.parse(flipped.decode("utf-8")).verify(LOG, [WITNESS], 1)


@pytest.mark.parametrize("text", ["", "c2sp.org/tlog-proof@v1\n\n", "c2sp.org/tlog-proof@v1\nextra AA==\nindex 01\n\nx"])
def test_what_is_no_proof_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        TlogProof.parse(text)
