"""What an anchor is: a place elsewhere that takes checkpoints and keeps them.  One that holds more than the log is an alarm."""

from __future__ import annotations

from typing import Protocol

from audit import checkpoint as notes
from audit.checkpoint import Checkpoint, CheckpointError, Vkey


class AnchorConflictError(Exception):
    """The anchor holds a checkpoint, signed by our own key, which the log does not continue; or something else in its place."""


class AnchorFailedError(Exception):
    """The anchor did not take the checkpoint: it cannot be reached, or says no."""


class Anchor(Protocol):
    """Takes checkpoints; each anchor has its own pace."""

    async def put(self, head: Checkpoint, note: str) -> None:
        """Kept elsewhere on return.  `AnchorConflictError`, `AnchorFailedError`; one that is there already is no failure."""


def name_of(size: int) -> str:
    """The name under which a checkpoint is kept: in order, and one for each size."""
    return f"{size:016d}.checkpoint"


def compare(found: str, own: Vkey, head: Checkpoint) -> Checkpoint:
    """What an anchor holds, if our log of now can be what it is the beginning of; else `AnchorConflictError`.

    It is signed by our own key, so a larger one, or another of the same size, is a proof and no claim.
    """
    try:
        held = notes.verify(found, own)
    except CheckpointError as error:
        raise AnchorConflictError(f"holds what is no checkpoint of this log: {error}") from None
    if held.size > head.size:
        raise AnchorConflictError(f"holds a checkpoint of {held.size} records, and there are {head.size}: the log was set back")
    if held.size == head.size and held.root != head.root:
        raise AnchorConflictError(f"holds another checkpoint of {held.size} records: the log was rewritten")
    return held
