"""Signs checkpoints, off the request path: reads the stored bytes again, hashes them again, and only then signs.

One bit that flips between hashing and storing made whole public logs unverifiable (CT's Yeti 2022); a log that was set back or
rewritten must not be signed as if nothing had happened.  What was signed last is kept apart from the leaves.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import checkpoint
from audit.checkpoint import Checkpoint, CheckpointError, Vkey
from audit.model import TamperedError
from audit.store import Head, Signed, Store
from audit.tree import Frontier


class Signer:
    """Signs for one log."""

    def __init__(self, store: Store, origin: str, key: Ed25519PrivateKey) -> None:
        self._store = store
        self._key = key
        self._vkey = Vkey.of(origin, key)
        self.newest: str | None = None
        """The newest published note that we have seen."""

    def sign(self) -> None:
        """Sign the log as it stands, if it has grown, and publish the checkpoint.

        `TamperedError` where the log is not the one that was signed; `StoreError` where the store does not answer: try again.
        Crash story: saved as signed, then published.  A crash between the two leaves a signed head that the next run publishes.
        """
        with self._store.signing() as signing:
            last = signing.last
            published = self._store.checkpoint()
            head = self._store.head()
            frontier = self._reread(head, last, published)
            if head.size == 0:
                return
            if last is None or last.size < head.size:
                note = checkpoint.sign(Checkpoint(self._vkey.name, head.size, frontier.root()), self._key)
                signing.save(Signed(head.size, frontier.encode(), note))
            else:
                note = last.note
            if published is None or published[0] < head.size:
                self._store.add_checkpoint(head.size, note)
            self.newest = note

    def _reread(self, head: Head, last: Signed | None, published: tuple[int, str] | None) -> Frontier:
        """The frontier over the stored bytes, from what was signed last to the head."""
        frontier = self._start(last)
        expected = self._published(published)
        if head.size < frontier.size or (expected is not None and head.size < expected.size):
            signed = max(frontier.size, expected.size if expected else 0)
            msg = f"the log has {head.size} leaves, but {signed} were signed: it was set back"
            raise TamperedError(msg)
        _compare(frontier, expected)
        index = frontier.size
        for leaf in self._store.leaves(index, head.size):
            if leaf.index != index or not leaf.intact:
                msg = f"leaf {index} is not what was stored there"
                raise TamperedError(msg)
            frontier.append(leaf.hash)
            index += 1
            if expected is not None and index == expected.size:
                _compare(frontier, expected)
        if frontier.size != head.size or frontier.encode() != head.frontier:
            msg = f"the stored leaves do not make up the tree of {head.size} leaves"
            raise TamperedError(msg)
        return frontier

    def _start(self, last: Signed | None) -> Frontier:
        """The frontier of what was signed last; where its keeper lost it, the whole log is read again."""
        if last is None:
            return Frontier()
        signed = self._verified(last.note, "the last signed head")
        try:
            frontier = Frontier.decode(last.size, last.frontier)
        except ValueError as error:
            msg = f"the last signed head: {error}"
            raise TamperedError(msg) from error
        if signed.size != frontier.size or signed.root != frontier.root():
            msg = "the last signed head is not the one that its note signs"
            raise TamperedError(msg)
        return frontier

    def _published(self, published: tuple[int, str] | None) -> Checkpoint | None:
        if published is None:
            return None
        found = self._verified(published[1], "the newest checkpoint")
        if found.size != published[0]:
            msg = f"the checkpoint stored for {published[0]} leaves is of {found.size}"
            raise TamperedError(msg)
        return found

    def _verified(self, note: str, what: str) -> Checkpoint:
        try:
            return checkpoint.verify(note, self._vkey)
        except CheckpointError as error:
            msg = f"{what}: {error}"
            raise TamperedError(msg) from error


def _compare(frontier: Frontier, expected: Checkpoint | None) -> None:
    if expected is not None and frontier.size == expected.size and frontier.root() != expected.root:
        msg = f"the first {frontier.size} leaves are not those that were signed"
        raise TamperedError(msg)
