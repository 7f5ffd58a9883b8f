"""Cosignatures of witnesses: believed for a pinned key alone, in one spelling alone, by both of our implementations alike."""

from __future__ import annotations

import base64
import random
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import checkpoint as notes
from audit import cosignature
from audit import verify as standalone
from audit.checkpoint import Checkpoint, CheckpointError, Vkey
from audit.cosignature import WitnessKey, attach, cosign, witnessed

LOG_KEY, KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in (1, 2, 3))
LOG = Vkey.of("example.org/log", LOG_KEY)
W1, W2 = WitnessKey.of("w.example/1", KEY), WitnessKey.of("w.example/2", OTHER)
HEAD = Checkpoint(LOG.name, 300, bytes(range(32)))
NOTE = notes.sign(HEAD, LOG_KEY)
AT = 1_679_315_147


def cosigned(*words: cosignature.Cosignature) -> list[tuple[str, bytes]]:
    return notes.parse(attach(NOTE, words))[1]


def stands_alone(head: Checkpoint, line: str, key: WitnessKey) -> bool:
    """Whether the standalone verifier, which shares no code, believes the line too."""
    try:
        name, data = standalone.signature_line(line)
    except ValueError:
        return False
    pinned = standalone.Key.parse(str(key), 4)
    return name == pinned.name and standalone.cosigned_at(pinned, head.text().encode(), data) is not None


def test_a_cosignature_says_who_and_when() -> None:
    said = cosign(HEAD, W1.name, KEY, AT)
    assert cosignature.verify(HEAD, cosigned(said), W1) == said
    assert (said.witness, said.at) == ("w.example/1", AT)
    assert stands_alone(HEAD, said.line, W1)
    assert notes.verify(attach(NOTE, [said]), LOG) == HEAD  # the log's own signature is as good as before


def test_a_key_has_one_spelling_and_a_logs_key_is_no_witnesss() -> None:
    assert WitnessKey.parse(str(W1)) == W1
    for text in (str(LOG), str(W1)[:-1], f"{W1}=", str(W1).replace("w.example/1", "w.example/2"), "", "a+b", f" {W1}"):
        with pytest.raises(CheckpointError):
            WitnessKey.parse(text)
        with pytest.raises(ValueError, match=r"."):
            standalone.Key.parse(text, 4)


@pytest.mark.parametrize(
    "head",
    [replace(HEAD, size=301), replace(HEAD, root=bytes(32)), replace(HEAD, origin="example.org/other")],
    ids=["size", "root", "origin"],
)
def test_a_cosignature_of_another_head_is_none_of_this(head: Checkpoint) -> None:
    said = cosign(head, W1.name, KEY, AT)
    with pytest.raises(CheckpointError):
        cosignature.verify(HEAD, cosigned(said), W1)
    assert not stands_alone(HEAD, said.line, W1)


def test_a_stranger_cannot_cosign_under_a_witnesss_name_and_a_logs_signature_is_no_cosignature() -> None:
    forged = cosign(HEAD, W1.name, OTHER, AT)
    with pytest.raises(CheckpointError, match="not exactly one"):
        cosignature.verify(HEAD, cosigned(forged), W1)
    data = W1.key_id + AT.to_bytes(8, "big") + LOG_KEY.sign(HEAD.text().encode())
    own = cosignature.Cosignature(W1.name, AT, f"\u2014 {W1.name} {base64.b64encode(data).decode()}")
    with pytest.raises(CheckpointError, match="does not fit"):
        cosignature.verify(HEAD, cosigned(own), W1)
    assert not stands_alone(HEAD, own.line, W1)


def test_a_witness_that_says_two_things_says_nothing() -> None:
    words = cosign(HEAD, W1.name, KEY, AT), cosign(HEAD, W1.name, KEY, AT + 1)
    with pytest.raises(CheckpointError, match="not exactly one"):
        cosignature.verify(HEAD, cosigned(*words), W1)


def test_every_flipped_bit_of_a_cosignature_is_found_by_both_verifiers() -> None:
    line = cosign(HEAD, W1.name, KEY, AT).line
    data, chance = line.encode(), random.Random(5)
    flips = chance.sample([(at, bit) for at in range(len(data)) for bit in range(8)], 150)
    for at, bit in flips:
        flipped = bytearray(data)
        flipped[at] ^= 1 << bit
        text = flipped.decode("utf-8", "replace")
        try:
            found = cosignature.verify(HEAD, [notes.signature_line(text)], W1)
        except CheckpointError:
            found = None
        assert found is None, (at, bit)
        assert not stands_alone(HEAD, text, W1), (at, bit)


# ------------------------------------------------------------------------------------------------------- what it comes to
def stored(size: int, *words: tuple[WitnessKey, Ed25519PrivateKey, int]) -> tuple[int, str, list[str]]:
    head = replace(HEAD, size=size)
    return size, notes.sign(head, LOG_KEY), [cosign(head, key.name, secret, at).line for key, secret, at in words]


def test_a_log_is_witnessed_as_far_as_enough_witnesses_have_seen() -> None:
    rows = [stored(30, (W1, KEY, AT + 3)), stored(20, (W1, KEY, AT + 2), (W2, OTHER, AT)), stored(10, (W2, OTHER, AT))]
    both, one = witnessed(rows, LOG, [W1, W2], 2), witnessed(rows, LOG, [W1, W2], 1)
    assert (both.size, both.at, one.size, one.at) == (20, AT, 30, AT + 3)
    assert both.last == {"w.example/1": (30, AT + 3), "w.example/2": (20, AT)}
    assert both.note is not None
    head, signatures = notes.parse(both.note)
    assert (head.size, [name for name, _ in signatures]) == (20, [LOG.name, "w.example/1", "w.example/2"])
    assert str(both) == "witnessed by 2 of 2 up to record 20, last at 2023-03-20T12:25:47Z"


def test_what_does_not_verify_is_no_witness() -> None:
    """A thief of the database writes cosignatures of his own making, or moves true ones to other checkpoints."""
    forged = stored(30, (W1, OTHER, AT))
    moved = (40, notes.sign(replace(HEAD, size=40), LOG_KEY), stored(30, (W1, KEY, AT))[2])
    unsigned = (50, notes.sign(replace(HEAD, size=50), OTHER), stored(50, (W1, KEY, AT))[2])
    broken = (60, "no note", ["no line"])
    found = witnessed([broken, unsigned, moved, forged], LOG, [W1, W2], 1)
    assert (found.size, found.last, found.note) == (0, {}, None)
    assert str(found) == "unwitnessed: 0 of 2 witnesses have cosigned, 1 are wanted"
    assert str(witnessed([], LOG, [], 0)) == "unwitnessed: no witness is asked"
