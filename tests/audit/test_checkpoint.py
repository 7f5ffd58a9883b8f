"""Checkpoints have one spelling, and only the log's key makes them."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import checkpoint, verify
from audit.checkpoint import Checkpoint, CheckpointError, Vkey

# The example of c2sp.org/signed-note's Go implementation (golang.org/x/mod/sumdb/note).
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n",
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=",
)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
VKEY = Vkey.of("example.org/log", KEY)
NOTE = checkpoint.sign(Checkpoint("example.org/log", 17, bytes(range(32))), KEY)


def test_a_key_and_a_signature_of_the_reference_implementation_are_understood_by_verifier_and_gateway() -> None:
    text, encoded = PETER_NOTE
    signature = base64.b64decode(encoded)
    vkey = Vkey.parse(PETER)
    assert str(vkey) == PETER
    assert signature[:4] == vkey.key_id == verify.Key.parse(PETER).id
    assert verify.ed25519_verify(vkey.public, text.encode(), signature[4:])


def test_what_is_signed_is_verified_by_both() -> None:
    assert checkpoint.verify(NOTE, VKEY) == Checkpoint("example.org/log", 17, bytes(range(32)))
    theirs = verify.Checkpoint.parse(NOTE)
    assert (theirs.origin, theirs.size, theirs.root) == ("example.org/log", 17, bytes(range(32)))
    assert theirs.signed_by(verify.Key.parse(str(VKEY)))


def accepted(note: str) -> bool:
    try:
        return checkpoint.verify(note, VKEY).size >= 0
    except CheckpointError:
        return False


def accepted_by_verifier(note: str) -> bool:
    try:
        return verify.Checkpoint.parse(note).signed_by(verify.Key.parse(str(VKEY)))
    except ValueError:
        return False


def test_no_bit_of_a_note_can_change() -> None:
    data = NOTE.encode()
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            note = changed.decode("latin-1") if at < data.index("\u2014".encode()) else changed.decode("utf-8", "replace")
            assert not accepted(note), (at, bit)
            if bit == 0:  # pure Python takes its time
                assert not accepted_by_verifier(note), (at, bit)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        NOTE + "\n",
        NOTE[:-1],
        "\n" + NOTE,
        NOTE.replace("\n17\n", "\n017\n"),
        NOTE.replace("\n17\n", "\n+17\n"),
        NOTE.replace("\n17\n", "\n17 \n"),
        NOTE.replace("\n17\n", "\n\u0661\u0667\n"),
        NOTE.replace("\n17\n", "\n17\nextension\n"),
        NOTE.replace("\n", "\r\n"),
        NOTE.replace("=\n", "\n"),
        NOTE.replace("\u2014 ", "- "),
        NOTE + NOTE.split("\n\n")[1],
        NOTE.replace("example.org", "example.com"),
        NOTE.split("\n\n")[0] + "\n\n",
    ],
)
def test_another_spelling_is_no_checkpoint(note: str) -> None:
    assert not accepted(note)
    assert not accepted_by_verifier(note)


def test_a_cosignature_of_somebody_else_does_not_disturb() -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
    cosigned = NOTE + checkpoint.sign(Checkpoint("witness.example", 17, bytes(range(32))), other).split("\n\n")[1]
    assert accepted(cosigned)
    assert accepted_by_verifier(cosigned)


def test_another_key_of_the_same_name_did_not_sign() -> None:
    other = Vkey.of("example.org/log", Ed25519PrivateKey.from_private_bytes(b"\x01" * 32))
    with pytest.raises(CheckpointError, match="0 signatures"):
        checkpoint.verify(NOTE, other)
    assert not verify.Checkpoint.parse(NOTE).signed_by(verify.Key.parse(str(other)))


@pytest.mark.parametrize("name", ["", "with space", "plus+plus", "umläut", "x" * 201, "new\nline"])
def test_a_name_that_would_change_a_notes_form_is_no_key_name(name: str) -> None:
    with pytest.raises(ValueError, match="not a key name"):
        Vkey.of(name, KEY)


@pytest.mark.parametrize(
    "text", ["", "a", "a+b+c", str(VKEY)[:-1], str(VKEY) + "A", str(VKEY).replace("+", "+0", 1), PETER.replace("P", "Q")]
)
def test_a_key_has_one_spelling(text: str) -> None:
    for parse in (Vkey.parse, verify.Key.parse):
        with pytest.raises(ValueError, match=r".+"):
            parse(text)


def test_the_verifiers_own_ed25519_agrees_with_the_library() -> None:
    for n in range(6):
        key = Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)
        public, message = key.public_key().public_bytes_raw(), bytes([n]) * n
        signature = key.sign(message)
        assert verify.ed25519_verify(public, message, signature)
        assert not verify.ed25519_verify(public, message + b"x", signature)
        wrong = int.from_bytes(signature[32:], "little") + verify.L
        assert not verify.ed25519_verify(public, message, signature[:32] + wrong.to_bytes(32, "little")), "S is reduced"
        assert not verify.ed25519_verify(public, message, signature[:63])
    assert not verify.ed25519_verify(b"\xff" * 32, b"", bytes(64))
