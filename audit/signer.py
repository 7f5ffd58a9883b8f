"""Signs checkpoints, off the request path: reads the stored bytes again, hashes them again, and only then signs.

One bit that flips between hashing and storing made whole public logs unverifiable (CT's Yeti 2022); a log that was set back or
rewritten must not be signed as if nothing had happened.  What was signed last is kept apart from the leaves.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import checkpoint
from audit.checkpoint import Checkpoint, CheckpointError, Vkey
from audit.model import TamperedError
from audit.store import Head, Signed, Signing, Store
from audit.tree import Frontier


class Signer:
    """Signs for one log."""

    def __init__(self, store: Store, origin: str, key: Ed25519PrivateKey, kept: Signing | None = None) -> None:
        """kept  a second keeper of the last signed head, where the store's own would be restored together with the leaves."""
        self._store = store
        self._kept = kept
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
            kept = self._kept.last if self._kept is not None else None
            published = self._store.checkpoint()
            head = self._store.head()
            frontier = self._reread(head, [each for each in (last, kept) if each is not None], published)
            if head.size == 0:
                return
            if last is None or last.size < head.size:
                note = checkpoint.sign(Checkpoint(self._vkey.name, head.size, frontier.root()), self._key)
            else:
                note = last.note
            signed = Signed(head.size, frontier.encode(), note)
            if self._kept is not None and (kept is None or kept.size < head.size):
                self._kept.save(signed)  # first: the store's keeper lets go of the lock when it saves
            if last is None or last.size < head.size:
                signing.save(signed)
            if published is None or published[0] < head.size:
                self._store.add_checkpoint(head.size, note)
            self.newest = note

    def _reread(self, head: Head, signed: Sequence[Signed], published: tuple[int, str] | None) -> Frontier:
        """The frontier over the stored bytes, from the smallest head that was signed last to the present one."""
        frontiers = [self._start(each) for each in signed]
        frontier = min(frontiers, key=lambda each: each.size).copy() if frontiers else Frontier()
        roots = [(each.size, each.root()) for each in frontiers]
        found = self._published(published)
        if found is not None:
            roots.append((found.size, found.root))
        largest = max((size for size, _ in roots), default=0)
        if head.size < largest:
            msg = f"the log has {head.size} leaves, but {largest} were signed: it was set back"
            raise TamperedError(msg)
        _compare(frontier, roots)
        index = frontier.size
        for leaf in self._store.leaves(index, head.size):
            if leaf.index != index or not leaf.intact:
                msg = f"leaf {index} is not what was stored there"
                raise TamperedError(msg)
            frontier.append(leaf.hash)
            index += 1
            _compare(frontier, roots)
        if frontier.size != head.size or frontier.encode() != head.frontier:
            msg = f"the stored leaves do not make up the tree of {head.size} leaves"
            raise TamperedError(msg)
        return frontier

    def _start(self, last: Signed) -> Frontier:
        """The frontier of what was signed last.  (Where its keepers lost it, the whole log is read again.)"""
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


def _compare(frontier: Frontier, roots: Sequence[tuple[int, bytes]]) -> None:
    for size, root in roots:
        if frontier.size == size and frontier.root() != root:
            msg = f"the first {size} leaves are not those that were signed"
            raise TamperedError(msg)
