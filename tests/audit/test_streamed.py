"""A stream is committed to as it goes by: its messages, their order and their number, and nothing without the salt."""

from __future__ import annotations

import pytest

from audit.streamed import Chunks, agreeing

SENT = [b"one", b"two", b"three"]
SALT = bytes(range(16))


def said(*messages: bytes, salt: bytes = SALT) -> dict[str, object]:
    chunks = Chunks(salt)
    for message in messages:
        chunks.add(message)
    return dict(chunks.said()[1])


def test_what_was_sent_agrees_with_the_record_and_what_came_after_is_told_apart() -> None:
    assert agreeing(SENT, SALT, said(*SENT)) == 3
    assert agreeing([*SENT, b"four"], SALT, said(*SENT)) == 3
    assert agreeing([], SALT, said()) == 0


@pytest.mark.parametrize(
    "kept",
    [
        [],
        [b"one", b"two"],
        [b"two", b"one", b"three"],
        [b"one", b"twO", b"three"],
        [b"onetwo", b"three"],
        [b"one", b"", b"two", b"three"],
        [bytes.fromhex(str(said(b"one")["c"])) + b"two", b"three", b""],
    ],
)
def test_nothing_else_does(kept: list[bytes]) -> None:
    assert agreeing(kept, SALT, said(*SENT)) is None


def test_two_streams_of_the_same_messages_say_nothing_of_one_another() -> None:
    one, other = Chunks(), Chunks()
    one.add(b"yes")
    other.add(b"yes")
    assert one.said()[1] != other.said()[1]
    assert agreeing([b"yes"], other.salt, one.said()[1]) is None
