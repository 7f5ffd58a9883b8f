"""Opening a log to write: first it is checked against what was signed last, then what dead writers left open is closed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import detectors
from audit.checkpoint import Vkey
from audit.flush import Flush
from audit.leaf import Kind
from audit.model import Entry, LedgerUnavailableError, TamperedError
from audit.privacy import SealBrokenError, SealKey
from audit.signer import Signer
from audit.spool import Spool, SpoolLimits
from audit.spooling import Spooling, replayed
from audit.store import OpenCall, Store, StoreError
from audit.store_files import SignedFile
from audit.store_sql import SqlStore
from audit.writer import Writer, orphaned, record_id


class Begun(NamedTuple):
    """What writes a log that is open: the store, the writer, who signs, and a batch's way in."""

    store: Store
    writer: Writer
    signer: Signer
    into: Spooling

    def close(self) -> None:
        """Let the store and the spool go."""
        self.store.close()
        self.into.close()


def begin(  # noqa: PLR0917  what `Journal.open` was given
    url: str,
    vkey: Vkey,
    key: Ed25519PrivateKey,
    make_writer: Callable[[Store], Writer],
    clock: Callable[[], int],
    kept: Path | None,
    promise: Mapping[str, object],
    limits: SpoolLimits | None,
    seal: SealKey,
) -> Begun:
    """Open the store, check the log against what was signed, and write this boot's first records, after what spools hold."""
    store: Store | None = None
    spool: Spool | None = None
    try:
        store = SqlStore(url)
        writer = make_writer(store)
        claimed = store.claim(vkey.name, str(vkey))
        if claimed != (vkey.name, str(vkey)):
            raise LedgerUnavailableError(f"this is the log of {claimed[0]} with the key {claimed[1]}")
        if not store.lease(writer.id):
            raise LedgerUnavailableError(f"another process writes as {writer.id}")
        signer = Signer(store, vkey.name, key, SignedFile(kept) if kept is not None else None)
        signer.sign()
        at = clock()
        guards = store.guards()
        if guards.wrong:
            raise LedgerUnavailableError(
                f"the database lacks what keeps records from being changed: {', '.join(guards.wrong[:8])}"
            )
        said = {"vkey": str(vkey), "detectors": detectors.LIST, "guards": "removable" if guards.removable else "kept", **promise}
        start = Entry(Kind.WRITER_START, record_id(at), at, None, said)
        spool = Spool(limits, vkey.name, writer.id, seal.spool_key) if limits is not None else None
        left = spool.left() if spool is not None else []
        spooled = [replayed(each) for each in left]
        writer.write([start, *(record for record, _ in spooled)], spooled)
        if spool is not None:
            for each in left:
                spool.remove(each)
        if orphans := left_open(store, writer, at):
            writer.write(orphans)
        signer.sign()  # no log without a checkpoint, however short its life
    except BaseException as error:
        if store is not None:
            store.close()
        if spool is not None:
            spool.close()
        if isinstance(error, StoreError | TamperedError | SealBrokenError | OSError):
            raise LedgerUnavailableError(str(error)) from error
        raise
    return Begun(store, writer, signer, Spooling(Flush(writer, store.ballast), writer, spool))


def left_open(store: Store, writer: Writer, at: int) -> list[Entry]:
    """Records that close what dead writers left open.  A writer is dead when nobody holds its name.

    Somebody else may close the same: whoever comes second writes nothing.
    """
    dead: dict[str, bool] = {}

    def is_dead(call: OpenCall) -> bool:
        if call.writer == writer.id:  # an earlier boot of ours is over, since we hold the name
            return call.boot != writer.boot
        if call.writer not in dead:
            dead[call.writer] = store.free(call.writer)
        return dead[call.writer]

    found = []
    for call in filter(is_dead, store.open_calls()):
        start = next(iter(store.leaves(call.index, call.index + 1)), None)
        fields = start.record() if start is not None else {}
        found.append(orphaned(call.id, call.index, fields, at, "the writer ended"))
    return found
