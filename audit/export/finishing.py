"""The end of an export: what proves the data, what explains it, and the signed manifest of all of it.

The manifest's hash is recorded (`audit.export`) before the export gets its name: whoever holds one can show that it is the one.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import verify
from audit.checkpoint import Vkey
from audit.export.plan import PLAN, PROGRESS, Plan, Progress
from audit.export.readme import readme
from audit.store_read import SqlReader
from audit.tiles import ENTRIES, hash_tile, node_of, tiles_of
from audit.verify import MANIFEST, PAYLOAD_TYPE, PREDICATE_TYPE, compact, pae, spans

_TYPE: Final = "https://in-toto.io/Statement/v1"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_TOKENS: Final = 1000

Bundles = Callable[[str], Mapping[str, bytes] | None]
"""The files of a policy bundle by its digest; None where it is not at hand."""


@dataclass(frozen=True, slots=True)
class Means:
    """What proves and explains an export, beside the log.

    witnesses  verifier keys that the operator pins; the auditor gets them from elsewhere too.
    """

    key: Ed25519PrivateKey
    origin: str
    bundles: Bundles
    witnesses: Sequence[str]
    software: str


def finish(rows: SqlReader, plan: Plan, progress: Progress, folder: Path, means: Means) -> bytes:
    """Write what is not data, and the manifest; the manifest's bytes.  `TamperedError` where the log's hashes do not fit."""
    span = _proofs(rows, plan, folder)
    policies = _policies(progress, folder, means.bundles)
    _tokens(rows, plan, folder)
    vkey = str(Vkey.of(means.origin, means.key))
    _put(folder / "checkpoint", plan.note.encode())
    _put(folder / "keys" / "log.txt", f"{vkey}\n".encode())
    if means.witnesses:
        _put(folder / "keys" / "witnesses.txt", "".join(f"{each}\n" for each in means.witnesses).encode())
    _put(folder / "verify.py", Path(verify.__file__).read_bytes())
    _put(folder / "verify.html", Path(verify.__file__).with_name("verify.html").read_bytes())
    about: dict[str, Any] = {
        "version": 1,
        "log": means.origin,
        "vkey": vkey,
        "scope": "complete" if plan.complete else "selection",
        "query": {name: list(each) if isinstance(each, tuple) else each for name, each in _asked(plan).items()},
        "range": span,
        "records": progress.records,
        "kinds": progress.kinds,
        "formats": list(plan.formats),
        "disclosed": progress.disclosed,
        "policies": policies,
        "operator": plan.operator,
        "reason": plan.reason,
        "at": plan.at,
        "software": means.software,
    }
    _put(folder / "README.md", readme(about).encode())
    subject = [{"name": name, "digest": {"sha256": _sha256(folder / name)}} for name in names_in(folder)]
    statement = {"_type": _TYPE, "subject": subject, "predicateType": PREDICATE_TYPE, "predicate": about}
    payload = compact(statement).encode()
    signature = {"keyid": vkey, "sig": _text(means.key.sign(pae(PAYLOAD_TYPE, payload)))}
    envelope = {"payload": _text(payload), "payloadType": PAYLOAD_TYPE, "signatures": [signature]}
    manifest = compact(envelope).encode() + b"\n"
    _put(folder / MANIFEST, manifest)
    return manifest


def names_in(folder: Path) -> list[str]:
    """The files of an export, without what was only needed to make it."""
    found = (each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
    return sorted(name for name in found if name not in {PLAN, PROGRESS, MANIFEST} and not name.endswith(".new"))


def publish(folder: Path, out: Path) -> None:
    """Give the finished export its name: a folder, or a zip file where the name ends so."""
    for name in (PLAN, PROGRESS):
        (folder / name).unlink(missing_ok=True)
    if out.suffix != ".zip":
        folder.rename(out)
        return
    fresh = out.with_name(out.name + ".new")
    with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as made:
        for name in [MANIFEST, *names_in(folder)]:
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o600 << 16
            with (folder / name).open("rb") as source, made.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
    fresh.chmod(0o600)
    fresh.replace(out)
    shutil.rmtree(folder)


def _proofs(rows: SqlReader, plan: Plan, folder: Path) -> dict[str, Any]:
    """The subtrees beside a range, and hash tiles of a whole log; where it is in the log."""

    def nodes(start: int, stop: int) -> list[str]:
        return [_text(node_of(rows.hashes, height, index)) for height, index in spans(start, stop)]

    span: dict[str, Any] = {"first": plan.first, "stop": plan.stop, "size": plan.size, "left": [], "right": []}
    if plan.complete:
        span["left"], span["right"] = nodes(0, plan.first), nodes(plan.stop, plan.size)
    if plan.complete and (plan.first, plan.stop) == (0, plan.size):
        for tile in tiles_of(plan.size):
            if tile.level != ENTRIES:
                _put(folder / tile.path, hash_tile(rows.hashes, tile))
    return span


def _policies(progress: Progress, folder: Path, bundles: Bundles) -> dict[str, str]:
    """Every bundle that decided about one of the records, as far as it is at hand."""
    found = {}
    for digest in sorted(progress.policies):
        files = bundles(digest)
        found[digest] = "included" if files is not None else "not at hand"
        for name, data in (files or {}).items():
            _put(folder / "policy" / digest.removeprefix("sha256:") / name, data)
    return found


def _tokens(rows: SqlReader, plan: Plan, folder: Path) -> None:
    """Time-stamping authorities' tokens on checkpoints from the range on, each beside what it is about."""
    for count, (size, authority, token, note) in enumerate(each for each in rows.timestamps() if each[0] > plan.first):
        if count >= _TOKENS:
            return
        _put(folder / "anchors" / f"{size:016d}.{authority}.tsr", token)
        _put(folder / "anchors" / f"{size:016d}.checkpoint", note.encode())


def _asked(plan: Plan) -> dict[str, Any]:
    query = plan.query
    return {
        "from": query.since,
        "to": query.until,
        "subject": query.subjects,
        "workflow": query.workflows,
        "agent": query.agents,
        "server": query.servers,
        "kind": query.kinds,
    }


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
