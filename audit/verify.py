#!/usr/bin/env python3
"""Verify a Bailiwick ledger.  One file, standard library only (Python 3.9 or newer): read it, then run it.

    python verify.py ledger.db --key 'example.org/log+1a2b3c4d+AT…'     the key as its operator published it, not as the file says
    python verify.py ledger.db --key-file key.txt --checkpoint kept.txt --json
    python verify.py export-folder-or.zip --key … --checkpoint kept.txt
    python verify.py ledger.db --key … --witness 'witness.example/w1+5e6f7a8b+BA…' --quorum 1

What is shown when it finds nothing: every record's bytes are those that were hashed; the hashes are the tree (RFC 9162) whose
root the checkpoints sign; no index is missing; each writer's own chain of records is unbroken; every sealed value that stands
beside a record is the one that the record names; every call has one start and at most one end; no key was destroyed without its
record.

What it cannot show: a call that was never offered to the gateway, and a log that its own operator rewrote and signed again; nor,
without the operator's key, that the newest records were taken away together with their checkpoints, or written anew within the
minute after the newest checkpoint left.  Against these, keep checkpoints where nobody else can reach them (--checkpoint: a file,
or a folder of them), or pin witnesses (--witness): what they cosigned nobody can rewrite, not even the operator.  And what a
caller was told stands in the log, or is missed there (--receipts).

Exit code: 0 nothing found, 1 findings, 2 misuse.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import hashlib
import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote

MAX_FINDINGS = 1000
MAX_LEAF = 16384
SILENCE = 1.5  # times what a writer promised between two heartbeats: with one left out, it is twice that
UNSIGNED_SECONDS = 60  # a writer signs within about a second: more than this without a checkpoint means that one was taken away
COSIGNATURES = 100  # of each witness, the newest; each is checked against the tree that the records make up
SIGNATURES = 1000  # pure Python takes milliseconds for each: of more checkpoints, the newest are checked, the roots of all
KINDS = frozenset(
    {
        *("decision.evaluate", "question.ask", "authorisation.ask"),
        *("call.start", "call.end", "call.orphaned", "decision.deny", "auth.refused", "policy.activate", "policy.reject"),
        *("policy.reload", "definition.seen", "definition.changed", "definition.quarantined", "definition.refused"),
        *("definition.approved", "card.seen", "card.changed", "card.refused"),
        *("identity.delegate", "identity.kill", "identity.lift", "identity.event", "grant.set", "grant.revoke"),
        *("approval.ask", "approval.grant", "approval.deny", "approval.use", "approval.expire", "approval.withdraw"),
        *("key.activate", "vault.consent", "vault.forget"),
        *("sandbox.probe", "sandbox.start", "sandbox.end", "egress.start", "egress.end"),
        *(
            "writer.start",
            "writer.heartbeat",
            "writer.stop",
            "clock.step",
            "spool.replayed",
            "key.create",
            "key.shred",
            "erasure.ask",
        ),
        *("erasure.store", "erasure.approve", "hold.set", "hold.clear", "segment.seal", "segment.retire"),
        *("audit.read", "audit.verify", "audit.export", "audit.review", "log.checkpoint", "forward.gap"),
        *("exemption.set", "anchor.timestamp"),
    }
)
TABLES = {  # columns and order in which rows are read
    "ledger_log": (("id", "origin", "vkey"), "id"),
    "ledger_head": (("id", "size", "frontier", "erasures"), "id"),
    "ledger_leaves": (("idx", "id", "hash", "data"), "idx"),
    "ledger_openings": (("idx", "name", "sealed"), "idx, name"),
    "ledger_nodes": (("level", "idx", "hash"), "level, idx"),
    "ledger_checkpoints": (("size", "note"), "size"),
    "ledger_subjects": (("pseudonym", "lookup", "dek", "name"), "pseudonym"),
    "ledger_open_calls": (("id", "idx", "writer", "boot"), "id"),
    "ledger_cosignatures": (("size", "witness", "line"), "size, witness"),
    "ledger_timestamps": (("size", "authority", "token"), "size, authority"),
    "ledger_anchors": (("name", "size", "at"), "name"),
    "ledger_holds": (("id", "pseudonym"), "id"),
    "ledger_sweeps": (("pseudonym", "idx"), "pseudonym"),
    "ledger_segments": (("stop", "start", "sealed", "retired", "carry"), "stop"),
    "ledger_version": (("version_num",), "version_num"),
}
LEVELS = ("semantic", "full", "quick")
REVISION = "l0005"
# Everything that the schema of this revision consists of, each with the beginning of SHA-256 of its SQL.
SCHEMA: dict[str, str] = {
    "index sqlite_autoindex_ledger_leaves_1": "3698f1a2af456620",
    "index sqlite_autoindex_ledger_subjects_1": "f7febc636bdee5f1",
    "index sqlite_autoindex_ledger_subjects_2": "f7febc636bdee5f1",
    "index sqlite_autoindex_ledger_version_1": "9bcb37e623b3d199",
    "table ledger_anchors": "fc936d1c56cd15ba",
    "table ledger_checkpoints": "b33242628a912d38",
    "table ledger_cosignatures": "33e96e06782139a2",
    "table ledger_holds": "3b84f5602be6ae40",
    "table ledger_sweeps": "5c03f4fab6a49c18",
    "table ledger_head": "2abdb120bc8d6dc7",
    "table ledger_leaves": "65ad84f2f586b918",
    "table ledger_log": "32ed1333051aad11",
    "table ledger_nodes": "ba54b8852c52f92b",
    "table ledger_open_calls": "96869dd24871877b",
    "table ledger_openings": "45950929920e36bf",
    "table ledger_segments": "3e77261593a055dd",
    "table ledger_subjects": "b0e341786330b877",
    "table ledger_timestamps": "8688dd08fc085f4c",
    "table ledger_version": "63a2b3db2caebd3d",
    "trigger ledger_checkpoints_no_delete": "82e5b34084292d64",
    "trigger ledger_checkpoints_no_update": "9a45175697ccc709",
    "trigger ledger_cosignatures_no_delete": "81998f21c8af5db3",
    "trigger ledger_cosignatures_no_update": "c87156dfac89976b",
    "trigger ledger_leaves_next": "91395d6e938bc38a",
    "trigger ledger_leaves_no_delete": "f06f07e06b065ba7",
    "trigger ledger_leaves_no_update": "c86890934652d95e",
    "trigger ledger_nodes_no_delete": "6abdbbbecb995031",
    "trigger ledger_nodes_no_update": "6dc7a23698b324f1",
    "trigger ledger_openings_no_update": "2809eb2693ec6f96",
    "trigger ledger_segments_next": "10688c973c88875d",
    "trigger ledger_segments_no_delete": "effb4f13fb094fca",
    "trigger ledger_segments_once": "bf53d1a23f1af8ea",
    "trigger ledger_timestamps_no_delete": "0d6e22d42bba163d",
    "trigger ledger_timestamps_no_update": "91ab3593eb0956a9",
}
_NO_SEGMENTS = {name: "" for name in SCHEMA if "_segments" in name} | {"trigger ledger_leaves_no_delete": "93f68613b132ae3d"}
_NO_ERASURE = {name: "" for name in SCHEMA if re.search("_(holds|sweeps)", name)} | _NO_SEGMENTS
_NOT_YET = {name: "" for name in SCHEMA if re.search("_(cosignatures|timestamps|anchors)", name)} | _NO_ERASURE
EARLIER = {  # what other revisions have instead: a ledger that nobody opened since the update is verified as it stands
    "l0001": {
        "index sqlite_autoindex_ledger_open_calls_1": "7b95b92bfc31cb46",
        "table ledger_open_calls": "992fd9d71e5a0d0b",
        **_NOT_YET,
    },
    "l0002": _NOT_YET,
    "l0003": _NO_ERASURE,
    "l0004": _NO_SEGMENTS,
}


# ---------------------------------------------------------------------------------------------------- what is reported


@dataclass
class Finding:
    """Something that must not be.  index, id and kind name the record, where it is about one."""

    message: str
    index: int | None = None
    id: str = ""
    kind: str = ""

    def __str__(self) -> str:
        if self.index is None:
            return self.message
        name = " ".join(filter(None, (self.kind, self.id)))
        return f"record {self.index} ({name}): {self.message}" if name else f"record {self.index}: {self.message}"


@dataclass
class Report:
    """What the verification came to.  notes are no findings, but whoever relies on the log should read them."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    origin: str = ""
    size: int = 0
    root: str = ""
    level: str = "semantic"
    first: int = 0  # records before this one were retired
    signed: int = 0
    checkpoints: int = 0
    open_calls: int = 0
    key_given: bool = False
    witnesses: dict[str, dict[str, int]] = field(default_factory=dict)  # pinned ones: what each cosigned last, and when
    witnessed: int = 0  # as many of them as were wanted cosigned a log of so many records
    quorum: int = 0
    export: dict[str, Any] = field(default_factory=dict)  # of an export: what it holds, by its manifest
    receipts: int = 0  # of callers, that were held against the log
    left: bytes | None = None  # what a later `quick` verification goes on from, where nothing was found

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """As --json prints it."""
        findings = [{"message": f.message, "index": f.index, "id": f.id, "kind": f.kind} for f in self.findings]
        rest = {k: v for k, v in self.__dict__.items() if k not in ("findings", "left")}
        return {"ok": self.ok, "findings": findings, **rest}


# ------------------------------------------------------------------------------------------------- RFC 9162: the tree


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


class Tree:
    """Appends leaf hashes; knows the root of what it has, and the complete subtrees whose height is a multiple of eight."""

    def __init__(self) -> None:
        self.size = 0
        self.stack: list[bytes] = []
        self.nodes: dict[tuple[int, int], bytes] = {}

    def append(self, current: bytes) -> None:
        height = 0
        while self.size >> height & 1:
            current = hashlib.sha256(b"\x01" + self.stack.pop() + current).digest()
            height += 1
            if height % 8 == 0:
                self.nodes[height // 8, self.size >> height] = current
        self.stack.append(current)
        self.size += 1

    def resume(self, size: int, stack: list[bytes]) -> None:
        """Go on where another tree was; `ValueError` where a tree of that size has another number of complete subtrees."""
        ones = bin(size).count("1") if type(size) is int and size >= 0 else -1  # noqa: FURB161  Python 3.9 has no bit_count
        if len(stack) != ones or any(len(each) != 32 for each in stack):
            raise ValueError("not the complete subtrees of so many records")
        self.size, self.stack = size, stack

    def root(self) -> bytes:
        if not self.stack:
            return hashlib.sha256(b"").digest()
        current = self.stack[-1]
        for left in reversed(self.stack[:-1]):
            current = hashlib.sha256(b"\x01" + left + current).digest()
        return current


# ------------------------------------------------------------------------------------------ RFC 8032: Ed25519, verify

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]  # extended coordinates


def _add(a: Point, b: Point) -> Point:
    m, n = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    t, z = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = n - m, z - t, z + t, n + m
    return e * f % P, g * h % P, f * g % P, e * h % P


def _sum_of_multiples(a: int, p: Point, b: int, q: Point) -> Point:
    """a·p + b·q, doubling once for both (Straus)."""
    both, result = _add(p, q), (0, 1, 1, 0)
    for bit in range(max(a.bit_length(), b.bit_length()) - 1, -1, -1):
        result = _add(result, result)
        choice = (a >> bit & 1) | (b >> bit & 1) << 1
        if choice:
            result = _add(result, (p, q, both)[choice - 1])
    return result


def _decode(data: bytes) -> Point | None:
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    if y >= P:
        return None  # one spelling for each point
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if (x * x - x2) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


BASE_Y = 4 * pow(5, P - 2, P) % P


def ed25519_verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """RFC 8032 §5.1.7: [S]B = R + [k]A."""
    a, r, base = _decode(public), _decode(signature[:32]), _decode(BASE_Y.to_bytes(32, "little"))
    s = int.from_bytes(signature[32:], "little")
    if len(public) != 32 or len(signature) != 64 or a is None or r is None or base is None or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    x, y, z, _ = _sum_of_multiples(s, base, k, (P - a[0], a[1], 1, P - a[3]))
    return (x - r[0] * z) % P == 0 and (y - r[1] * z) % P == 0


# --------------------------------------------------------------------- c2sp.org/signed-note and tlog-checkpoint, strict


def unbase64(text: str) -> bytes:
    """The bytes; `ValueError` unless the text is their only spelling (padding bits included)."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        data = b""
    if not data or base64.b64encode(data).decode() != text:
        raise ValueError("not canonical base64")
    return data


@dataclass
class Key:
    """A verifier key, `name+id+base64`."""

    name: str
    id: bytes
    public: bytes

    @classmethod
    def parse(cls, text: str, kind: int = 1) -> Key:
        """kind  1 for a log's key, 4 for a witness's (tlog-cosignature)."""
        parts = text.split("+", 2)
        if len(parts) != 3:
            raise ValueError("a verifier key is name+id+base64")
        data = unbase64(parts[2])
        key_id = hashlib.sha256(parts[0].encode() + b"\n" + data).digest()[:4]
        if len(data) != 33 or data[0] != kind or key_id.hex() != parts[1]:
            raise ValueError("not an Ed25519 verifier key of this kind, or its id belongs to another")
        return cls(parts[0], key_id, data[1:])


def signature_line(line: str) -> tuple[str, bytes]:
    """Who signed, and key id and signature."""
    match = re.fullmatch("\u2014 ([!-*,-~]{1,200}) ([A-Za-z0-9+/]+={0,2})", line)
    if match is None:
        raise ValueError("a signature line is not in canonical form")
    return match[1], unbase64(match[2])


def cosigned_at(witness: Key, text: bytes, data: bytes) -> int | None:
    """c2sp.org/tlog-cosignature: when the witness said that it saw this checkpoint (POSIX seconds); None where it did not."""
    at = int.from_bytes(data[4:12], "big")
    message = b"cosignature/v1\ntime %d\n" % at + text
    fits = len(data) == 76 and data[:4] == witness.id and at < 1 << 63
    return at if fits and ed25519_verify(witness.public, message, data[12:]) else None


@dataclass
class Checkpoint:
    """A parsed note; nothing of it is checked against a key yet."""

    origin: str
    size: int
    root: bytes
    text: bytes
    signatures: list[tuple[str, bytes]]

    @classmethod
    def parse(cls, note: str) -> Checkpoint:
        text, blank, signed = note.partition("\n\n")
        lines, signatures = text.split("\n"), signed.split("\n")
        if not blank or len(lines) != 3 or len(note) > 16384 or signatures.pop() != "" or not 1 <= len(signatures) <= 16:
            raise ValueError("not three lines, an empty line and signature lines")
        if not re.fullmatch(r"[!-*,-~]{1,200}", lines[0]) or not re.fullmatch(r"0|[1-9][0-9]{0,15}", lines[1]):
            raise ValueError("origin or size is not in canonical form")
        root = unbase64(lines[2])
        if len(root) != 32:
            raise ValueError("the root is not a SHA-256")
        return cls(lines[0], int(lines[1]), root, (text + "\n").encode(), [signature_line(line) for line in signatures])

    def signed_by(self, key: Key) -> bool:
        ours = [data[4:] for name, data in self.signatures if name == key.name and data[:4] == key.id]
        return self.origin == key.name and len(ours) == 1 and ed25519_verify(key.public, self.text, ours[0])


# ------------------------------------------------------------------------------------------------ receipts of callers


def read_receipt(said: Any, key: Key | None) -> tuple[str, int, bytes]:
    """Record, index and leaf hash; `ValueError` unless the log's key signed it (`bailiwick/receipt` in an answer).

    The index is -1 where the record was in a gateway's spool when its caller was told: then nobody knew its place.
    """
    if key is not None and isinstance(said, dict) and said.keys() == {"log", "record", "leaf", "spooled", "signature"}:
        leaf, signature = unbase64(said["leaf"]), unbase64(said["signature"])
        told = f"bailiwick spooled receipt v1\n{key.name}\n{said['record']}\n{base64.b64encode(leaf).decode()}\n".encode()
        if said["log"] != key.name or said["spooled"] is not True or len(leaf) != 32 or "\n" in str(said["record"]):
            raise ValueError("not a receipt of this log")
        if signature[:4] != key.id or not ed25519_verify(key.public, told, signature[4:]):
            raise ValueError("the signature does not fit")
        return str(said["record"]), -1, leaf
    members = {"log", "record", "index", "leaf", "at", "of", "path", "signature"}
    if key is None or not isinstance(said, dict) or said.keys() != members or said["log"] != key.name:
        raise ValueError("not a receipt of this log")
    index, at, size, path = said["index"], said["at"], said["of"], said["path"]
    if any(type(each) is not int for each in (index, at, size)) or not 0 <= at < size <= 4096 or at > index:
        raise ValueError("not the numbers of a receipt")
    leaf, signature = unbase64(said["leaf"]), unbase64(said["signature"])
    last, current, place = size - 1, leaf, at
    for step in path:
        if last == 0:
            raise ValueError("its path is too long")
        if place & 1 or place == last:
            current = hashlib.sha256(b"\x01" + unbase64(step) + current).digest()
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            current = hashlib.sha256(b"\x01" + current + unbase64(step)).digest()
        place, last = place >> 1, last >> 1
    text = f"bailiwick receipt v1\n{key.name}\n{index - at} {size}\n{base64.b64encode(current).decode()}\n"
    if last or signature[:4] != key.id or not ed25519_verify(key.public, text.encode(), signature[4:]):
        raise ValueError("the signature does not fit")
    return str(said["record"]), index, leaf


def receipts_in(text: str) -> list[Any]:
    """From a file: one receipt, a list of them, or one a line; also whole answers that hold one."""
    try:
        try:
            found = json.loads(text)
            found = found if isinstance(found, list) else [found]
        except ValueError:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        return [within(each) for each in found]
    except RecursionError:
        raise ValueError("receipts are not nested so deeply") from None


def within(answer: Any) -> Any:
    """The receipt in an answer (MCP's `_meta`, A2A's `metadata`); what is none is returned as it is."""
    if isinstance(answer, dict):
        if "bailiwick/receipt" in answer:
            return answer["bailiwick/receipt"]
        for value in answer.values():
            inner = within(value) if isinstance(value, (dict, list)) else value
            if inner is not value:
                return inner
    return answer


# -------------------------------------------------------------------- RFC 8785 in the profile of records: canonical JSON


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs) or not all(key.isascii() for key in found):
        raise ValueError("a key twice, or a key that is not ASCII")
    return found


def _integer(text: str) -> int:
    number = int(text) if len(text) <= 17 else 2**53
    if abs(number) >= 2**53:
        raise ValueError("an integer beyond 2^53")
    return number


def _no_float(text: str) -> None:
    raise ValueError(f"a number that is no integer: {text[:40]}")


def parse_record(data: bytes) -> dict[str, Any]:
    """The record in a leaf's bytes; `ValueError` unless they are its only spelling."""
    try:
        found = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_int=_integer, parse_float=_no_float, parse_constant=_no_float
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    again = json.dumps(found, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    if not isinstance(found, dict) or again.encode("utf-8") != data:  # a lone surrogate is a UnicodeEncodeError: a ValueError
        raise ValueError("not the canonical spelling of a record")
    return found


# ------------------------------------------------------------------------------------------------------- where rows are


class Rows:
    """A ledger's tables.  `rows` yields a table's rows in the columns and order of `TABLES`.

    partial  sealed values may be absent: an archive does not know what was erased after it was made.
    """

    partial = False

    def rows(self, table: str) -> Iterator[tuple[Any, ...]]:
        raise NotImplementedError

    def schema(self, level: str) -> list[str]:  # noqa: ARG002  for those that are stored otherwise there is nothing to look at
        """What is wrong with the schema itself, and with how the tables that this level reads are stored."""
        return []


class SqliteRows(Rows):
    """A SQLite file, which is not written to, nor is anything made beside it."""

    def __init__(self, path: Path) -> None:
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        log, index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
        flags = "mode=ro"
        if not index.exists():
            if log.exists() and log.stat().st_size:  # left by a crash: SQLite would have to write before it can read
                self._scratch = tempfile.TemporaryDirectory()
                for file in (path, log):
                    shutil.copy(file, self._scratch.name)
                path, flags = Path(self._scratch.name) / path.name, "mode=rw"
            else:
                flags = "mode=ro&immutable=1"  # nobody has it open
        self._connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?{flags}", uri=True, isolation_level=None)
        self._connection.text_factory = lambda data: data.decode("utf-8")
        self._connection.execute("PRAGMA trusted_schema=OFF")
        self._connection.execute("BEGIN")  # one state of the log, whatever is appended meanwhile

    def rows(self, table: str) -> Iterator[tuple[Any, ...]]:
        columns, order = TABLES[table]
        yield from self._connection.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {order}")  # noqa: S608  constants

    def schema(self, level: str) -> list[str]:
        check = "PRAGMA integrity_check"
        looks = [check]
        if level == "full":  # the sealed values, by far the most of a log, are not looked at
            tables = {row[0] for row in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            looks = [f"{check}('{table}')" for table in TABLES if table in tables and table != "ledger_openings"]
        found = [f"SQLite: {row[0]}" for look in looks for row in self._connection.execute(look) if row[0] != "ok"]
        there = {
            f"{kind} {name}": hashlib.sha256(repr((table, sql)).encode()).hexdigest()[:16]
            for kind, name, table, sql in self._connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
        }
        wanted = SCHEMA | EARLIER.get(next(self.rows("ledger_version"), (REVISION,))[0], {})
        wanted = {name: digest for name, digest in wanted.items() if digest}
        found += [f"the schema has an unexpected {name}" for name in sorted(there.keys() - wanted.keys())]
        found += [f"the schema lacks the {name}" for name in sorted(wanted.keys() - there.keys())]
        return found + [f"the {n} is not as it was made" for n in sorted(there.keys() & wanted.keys()) if there[n] != wanted[n]]

    def close(self) -> None:
        self._connection.close()
        if self._scratch is not None:
            self._scratch.cleanup()


# ------------------------------------------------------------------------------------------------------------ the checks


class Trust:
    """What the verifier was given from elsewhere: the log's key, kept checkpoints, witnesses' keys, how many of them it wants."""

    def __init__(  # noqa: PLR0917  all that a verification may be given
        self,
        key: str | None = None,
        kept: str | Sequence[str] | None = None,
        witnesses: Sequence[str] = (),
        quorum: int | None = None,
        receipts: Sequence[Any] = (),
        level: str = "semantic",
        state: bytes | None = None,
    ) -> None:
        """`ValueError` where one of them is none.

        receipts  as callers were given them.
        level     `semantic`: all checks; `full`: bytes, tree and signatures of all records, and not what they mean; `quick`: all
                  checks of what came after `state`, which an earlier verification left.
        """
        if level not in LEVELS or (level == "quick") != (state is not None):
            raise ValueError("a level is one of semantic, full and quick, and quick goes on from a state that was kept")
        self.level, self.state = level, state
        self.receipts = receipts
        self.key = Key.parse(key) if key is not None else None
        self.kept = [Checkpoint.parse(note) for note in ([kept] if isinstance(kept, str) else kept or ())]
        self.witnesses = [Key.parse(witness, 4) for witness in witnesses]
        self.quorum = min(1, len(self.witnesses)) if quorum is None else quorum
        if not 0 <= self.quorum <= len(self.witnesses) or len({w.name for w in self.witnesses}) != len(self.witnesses):
            raise ValueError("witnesses have distinct names, and are as many as are wanted")


@dataclass
class Boot:
    """How far the chain of one run of a writer has come."""

    writer: str
    wseq: int = -1
    last: str = ""
    mono: int = 0
    unsigned_since: int | None = None  # its clock at its first record that no checkpoint covers
    stopped: bool = False
    promised: int = 0  # microseconds between two heartbeats; 0: none
    beat: int = 0  # its clock at its last one
    overdue: int | None = None  # the record at which one was missing


class Check:
    """All checks, in one pass over the records."""

    def __init__(self, source: Rows, trust: Trust) -> None:
        self.source = source
        self.report = Report(key_given=trust.key is not None, quorum=trust.quorum)
        self.key = trust.key
        self.kept: dict[int, list[Checkpoint]] = {}
        for each in trust.kept:
            self.kept.setdefault(each.size, []).append(each)
        self.witnesses = {witness.name: witness for witness in trust.witnesses}
        self.receipts: dict[int, list[tuple[str, str]]] = {}  # index → id and leaf hash that a caller was told
        self.told = trust.receipts
        self.cosignatures = Ahead(iter(()))
        self.said: dict[str, deque[tuple[int, bytes, bytes]]] = {}  # by witness: size, text of our tree, signature
        self.tree = Tree()
        self.boots: dict[str, Boot] = {}
        self.open: dict[str, tuple[int, str, str]] = {}
        self.beside: dict[str, tuple[int, str, str]] = {}  # runs of code and their connections, likewise
        self.newest: dict[str, str] = {}  # each writer's newest run
        self.orphans: dict[str, tuple[str, str]] = {}  # calls that another closed → writer and run that may close them late
        self.late: dict[tuple[str, int], tuple[int, str]] = {}  # what only a replay excuses: run and place → record, what it is
        self.spool_receipts: dict[str, list[str]] = {}  # record → leaf hashes that callers were told before it had a place
        self.keys: dict[str, str] = {}  # pseudonym → digest of its row
        self.shredded: set[str] = set()
        self.holds: dict[str, str] = {}  # record → pseudonym
        self.shredded_at_all: set[str] | None = None
        self.checkpoints: dict[int, Checkpoint] = {}
        self.where: tuple[int | None, str, str] = (None, "", "")
        self.activated: dict[int, object] = {}  # record by which a bundle of policy came into force → its digest
        self.promised: dict[str, object] = {}  # what the record says that retired the oldest records
        self.retired_root = b""
        self.level, self.since = trust.level, trust.state
        self.seen: set[Any] = set()  # sizes that a witness cosigned
        self.left: bytes | None = None  # what a later quick verification goes on from
        self.unsealed = 0  # values that are not beside their record, where that is nothing wrong

    def found(self, message: str) -> None:
        """A finding about the record at hand, or about the log."""
        if len(self.report.findings) < MAX_FINDINGS:
            self.report.findings.append(Finding(message, *self.where))
        elif len(self.report.findings) == MAX_FINDINGS:
            self.report.findings.append(Finding("there is more; only the beginning is listed"))

    def run(self) -> Report:
        for message in self.source.schema(self.level):
            self.found(message)
        revision = [row[0] for row in self.source.rows("ledger_version")]
        if revision not in ([each] for each in (REVISION, *EARLIER)):
            self.found("the schema is of another revision than this verifier")
        if revision not in (["l0001"], ["l0002"]):
            self.cosignatures = Ahead(self.source.rows("ledger_cosignatures"))
            self.seen = {row[0] for row in self.source.rows("ledger_cosignatures")} if self.level == "full" else set()
        self.log()
        self.report.level = self.level
        if revision == [REVISION]:
            self.retired()
        if self.since is not None:
            self.go_on(self.since)
        first = self.report.first
        if first:
            self.cosignatures = Ahead(row for row in self.source.rows("ledger_cosignatures") if not below(row[0], first))
        self.read_checkpoints()
        self.read_receipts()
        if self.level == "full":
            self.bytes_alone(first)
        else:
            self.records(first)
        self.where = (None, "", "")
        if self.promised:
            self.found(f"the first {first} records are gone, and no record says that they were retired")
        self.head()
        self.nodes()
        if self.level == "full":
            self.report.notes.append("what the records mean was not looked at: that is the level `semantic`")
            self.unmet()
            self.signatures()
            self.cosigned()
            return self.report
        self.subjects()
        if revision not in (["l0001"], ["l0002"], ["l0003"]):
            self.erasures()
        self.calls()
        self.spools()
        self.silences()
        self.unmet()
        self.signatures()
        self.cosigned()
        return self.report

    def records(self, first: int) -> None:
        """Every record, in what it says too."""
        openings = Ahead(row for row in self.source.rows("ledger_openings") if not below(row[0], first))
        sizes = [row[1] for row in self.source.rows("ledger_head") if type(row[1]) is int]
        whole = sizes[0] - sizes[0] % 256 if len(sizes) == 1 else 0
        self.left = self.carry() if self.tree.size == whole else None
        for row in self.source.rows("ledger_leaves"):
            if not below(row[0], first):
                self.leaf(row, openings)
                if self.tree.size == whole:
                    self.left = self.carry()
        self.where = (None, "", "")
        for index, name, _ in openings.rest():
            self.found(f"there is an opening {name!r} of record {index}, which does not exist")

    def bytes_alone(self, first: int) -> None:
        """Every record's bytes, and the tree that they make."""
        looked, tree, sha256 = self.seen | self.checkpoints.keys() | self.kept.keys(), self.tree, hashlib.sha256
        for index, record, stored, data in self.source.rows("ledger_leaves"):
            if first and below(index, first):
                continue
            if index != tree.size or type(data) is not bytes or sha256(b"\x00" + data).digest() != stored:
                self.where = (index, str(record)[:128], "")
                self.found("the bytes are not those that were hashed, or records before this one are missing")
            tree.append(stored if type(stored) is bytes else b"")
            for told, leaf_told in self.receipts.pop(index, ()) if self.receipts else ():
                if (told, leaf_told) != (record, tree_hex(stored)):
                    self.where = (index, str(record)[:128], "")
                    self.found(f"a receipt was given for {told[:128]} as this record, and it is another one")
            for leaf_told in self.spool_receipts.pop(str(record), ()) if self.spool_receipts else ():
                if leaf_told != tree_hex(stored):
                    self.where = (index, str(record)[:128], "")
                    self.found("a receipt was given for this record, and it says something else")
            if self.promised and isinstance(data, bytes) and b'"kind":"segment.retire"' in data:
                with contextlib.suppress(ValueError):
                    said = parse_record(data)
                    if said.get("kind") == "segment.retire" and all(said.get(k) == v for k, v in self.promised.items()):
                        self.promised = {}
            if tree.size in looked:
                self.where = (index, str(record)[:128], "")
                self.at_size()

    # -- what was verified before: only what came since is looked at

    def go_on(self, state: bytes) -> None:
        """Begin where an earlier verification ended, unless more than that was retired since."""
        first = self.report.first
        try:
            size = parse_record(state)["size"]
            if type(size) is not int or size < 0 or size % 256:
                raise ValueError("it is of a size at which nothing can begin")
            if size <= first:
                return
            self.boots, self.open, self.beside, self.tree = {}, {}, {}, Tree()
            self.resume(state)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self.found(f"the state that was kept cannot be gone on from: {error}")
            return
        self.retired_root, self.report.first, self.promised = self.tree.root(), size, {}
        self.report.notes.append(f"the first {size} records were verified before; only what came since was looked at")

    # -- records that were retired: the rest is checked from what was true when they ended

    def retired(self) -> None:
        """Begin after the newest segment that is marked as retired; that it was, a record among the rest must say."""
        gone = [row for row in self.source.rows("ledger_segments") if row[3]]
        if not gone:
            return
        stop, _, _, _, carry = gone[-1]
        try:
            if not isinstance(carry, bytes) or type(stop) is not int or stop <= 0 or stop % 256:
                raise ValueError("its row has values of other types than were stored")
            self.resume(carry)
            if self.tree.size != stop:
                raise ValueError("it is of another size")
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self.found(f"what was true after the {stop} retired records cannot be read: {error}")
            return
        self.retired_root = self.tree.root()
        root = base64.b64encode(self.retired_root).decode()
        self.promised = {"to": stop, "root": root, "carry": "sha256:" + hashlib.sha256(carry).hexdigest()}
        self.report.first = stop
        self.report.notes.append(
            f"the first {stop} records were retired: their number and root are proven here, their contents by their archive"
        )
        for size in sorted(size for size in self.kept if size < stop):
            self.report.notes.append(f"the checkpoint that you kept of {size} records is older: hold it against the archive")

    def carry(self) -> bytes:
        """What the checks know after the records so far, in its one spelling: enough to go on without them."""
        state = {
            "v": 1,
            "log": self.report.origin,
            "size": self.tree.size,
            "tree": [digest.hex() for digest in self.tree.stack],
            "boots": {
                name: [b.writer, b.wseq, b.last, b.mono, b.stopped, b.promised, b.beat, b.overdue]
                for name, b in self.boots.items()
            },
            "open": {call: list(where) for call, where in self.open.items()},
            "beside": {call: list(where) for call, where in self.beside.items()},
            "keys": self.keys,
            "shredded": sorted(self.shredded),
            "holds": self.holds,
        }
        if self.orphans:
            state["orphans"] = {call: list(whose) for call, whose in self.orphans.items()}
        if self.late:
            state["late"] = [[boot, wseq, index, what] for (boot, wseq), (index, what) in self.late.items()]
        return json.dumps(state, sort_keys=True, separators=(",", ":")).encode("ascii")

    def resume(self, carry: bytes) -> None:
        """Go on from what `carry` said; `ValueError` (or what a wrong shape raises) for anything else."""
        state = parse_record(carry)
        if state["v"] != 1 or state["log"] != self.report.origin:
            raise ValueError("it is of another log")
        self.tree.resume(state["size"], [bytes.fromhex(digest) for digest in state["tree"]])
        for name, (writer, wseq, last, mono, *since) in state["boots"].items():
            self.boots[name] = Boot(writer, wseq, last, mono, None, *since)
        self.open, self.beside = (
            {call: (where[0], where[1], where[2]) for call, where in state[name].items()} for name in ("open", "beside")
        )
        self.keys, self.shredded, self.holds = state["keys"], set(state["shredded"]), state["holds"]
        self.orphans = {call: (whose[0], whose[1]) for call, whose in state.get("orphans", {}).items()}
        self.late = {(boot, wseq): (index, what) for boot, wseq, index, what in state.get("late", [])}

    # -- the log's own rows

    def log(self) -> None:
        rows = list(self.source.rows("ledger_log"))
        if len(rows) != 1 or rows[0][0] != 1 or not all(isinstance(value, str) for value in rows[0][1:]):
            self.found("the log does not name itself once")
            return
        _, self.report.origin, vkey = rows[0]
        try:
            own = Key.parse(vkey)
        except ValueError as error:
            self.found(f"the key that the log names is none: {error}")
            return
        if own.name != self.report.origin or (self.key is not None and own != self.key):
            self.found(f"the log names another key than the one it is verified with: {vkey}")
        if self.key is None:
            self.key = own
            self.report.notes.append(
                "NO KEY WAS GIVEN: the signatures were checked against the key in the database itself, which proves nothing "
                "about whoever can write there.  Get the key from the operator by another way and give it with --key."
            )

    def read_checkpoints(self) -> None:
        for size, note in self.source.rows("ledger_checkpoints"):
            try:
                parsed = Checkpoint.parse(note if isinstance(note, str) else "")
                if parsed.size != size or parsed.origin != self.report.origin:
                    raise ValueError(f"it is of {parsed.origin} at {parsed.size}")
                self.checkpoints[size] = parsed
            except ValueError as error:
                self.found(f"the checkpoint of {size} leaves: {error}")
        self.report.checkpoints = len(self.checkpoints)
        self.at_size()

    def at_size(self) -> None:
        """The tree has reached a size: does it have the root that was signed for it?"""
        size = self.tree.size
        signed = [(self.checkpoints[size], "the checkpoint")] if size in self.checkpoints else []
        for checkpoint, what in (*signed, *((each, "the checkpoint that you kept") for each in self.kept.get(size, ()))):
            if checkpoint.root != self.tree.root():
                self.found(f"the first {size} records are not those that {what} of that size signs")
        for _, witness, line in self.cosignatures.of(size):
            self.cosignature(size, witness, line)

    def cosignature(self, size: int, witness: object, line: object) -> None:
        """A witness's line about so many records; whether it is about these records, its signature says at the end."""
        try:
            name, data = signature_line(line if isinstance(line, str) else "")
            if name != witness:
                raise ValueError(f"it is of {name}")
        except ValueError as error:
            self.found(f"the cosignature of {str(witness)[:200]} on {size} records: {error}")
            return
        text = f"{self.report.origin}\n{size}\n{base64.b64encode(self.tree.root()).decode()}\n"
        self.said.setdefault(name, deque(maxlen=COSIGNATURES)).append((size, text.encode(), data))

    # -- what callers were told

    def read_receipts(self) -> None:
        """Each is signed by the log's key, or it is no receipt; where it says that a record stands, one must."""
        for number, said in enumerate(self.told, 1):
            try:
                record, index, leaf = read_receipt(said, self.key)
            except (ValueError, KeyError, TypeError) as error:
                self.found(f"receipt {number} was not given by this log: {error}")
                continue
            if index == -1:
                self.spool_receipts.setdefault(record, []).append(leaf.hex())
            elif index < self.report.first:
                self.report.notes.append(f"the receipt of {record[:128]} is of a retired record: hold it against the archive")
            else:
                self.receipts.setdefault(index, []).append((record, leaf.hex()))
        self.report.receipts = len(self.told)

    def unmet(self) -> None:
        """Receipts of records that are not there at all."""
        for index, said in sorted(self.receipts.items()):
            self.found(f"a receipt was given for {said[0][0][:128]} as record {index}, and there are {self.tree.size}")
        for record in self.spool_receipts:
            if self.report.first:
                self.report.notes.append(
                    f"the receipt of {record[:128]} names no place: if its record is not here, look in the archive"
                )
            else:
                self.found(f"a receipt was given for {record[:128]}, which a gateway kept in its spool then, and it is not here")

    # -- each record

    def leaf(self, row: tuple[Any, ...], openings: Ahead) -> None:
        index, record, stored, data = row
        self.where = (index, str(record)[:128], "")
        if index != self.tree.size:
            self.found(f"{index - self.tree.size} records before this one are missing")
        if not (isinstance(record, str) and isinstance(stored, bytes) and isinstance(data, bytes)):
            self.found("the row has values of other types than were stored")
            data = data if isinstance(data, bytes) else b""
        if len(data) > MAX_LEAF:
            self.found("the record is longer than records are")
        digest = leaf_hash(data)
        if digest != stored:
            self.found("the bytes are not those that were hashed")
        self.tree.append(digest)
        for told, leaf_told in self.receipts.pop(index, ()):
            if (told, leaf_told) != (record, digest.hex()):
                self.found(f"a receipt was given for {told[:128]} as this record, and it is another one")
        for leaf_told in self.spool_receipts.pop(str(record), ()):
            if leaf_told != digest.hex():
                self.found("a receipt was given for this record, and it says something else")
        sealed = {name: value for _, name, value in openings.of(index)}
        try:
            leaf = parse_record(data)
            self.record(leaf, record, digest, sealed)
        except ValueError as error:
            self.found(f"the bytes are no record: {error}")
        self.at_size()

    def record(self, leaf: dict[str, Any], record: object, digest: bytes, sealed: dict[object, object]) -> None:
        kind, writer = leaf.get("kind"), leaf.get("writer")
        index = self.where[0] or 0
        self.where = (index, self.where[1], str(kind)[:32])
        if leaf.get("v") != 1 or leaf.get("id") != record or leaf.get("log") != self.report.origin:
            self.found("the record is of another version, id or log than its row")
        if not isinstance(kind, str) or kind not in KINDS or not isinstance(leaf.get("ts"), int):
            self.found("the record is of no known kind, or has no time")
        self.openings(leaf, sealed)
        self.subject(leaf)
        if not isinstance(writer, dict) or writer.keys() != {"id", "boot", "wseq", "wprev", "mono"}:
            self.found("the record does not say who wrote it")
            return
        if kind == "segment.retire" and self.promised and all(leaf.get(k) == v for k, v in self.promised.items()):
            self.promised = {}
        self.chain(leaf, writer, digest)
        self.in_force(leaf, index)
        if "spooled" in leaf:
            self.comes_late(leaf, "it stood in a spool")
        if kind == "spool.replayed":
            self.replayed(leaf)
        self.pairing(leaf, index, writer)

    def openings(self, leaf: dict[str, Any], sealed: dict[object, object]) -> None:
        """What stands sealed beside the record is what the record names; only a destroyed key excuses that it is gone."""
        owner = leaf.get("subject", "log")
        for name, value in leaf.items():
            if isinstance(value, dict) and {"c", "n", "op"} <= value.keys() <= {"c", "n", "op", "of"} and type(value["n"]) is int:
                there = sealed.pop(name, None)
                if there is None and self.source.partial:
                    self.unsealed += 1
                elif there is None:
                    if value.get("of", owner) not in self.shredded_ever():
                        self.found(f"the sealed value of {name!r} is missing")
                elif not isinstance(there, bytes) or value["op"] != "o_" + hashlib.sha256(there).hexdigest()[:32]:
                    self.found(f"the sealed value of {name!r} is not the one that the record names")
                elif len(there) != 12 + 16 + 16 + value["n"]:  # nonce, salt, tag
                    self.found(f"the sealed value of {name!r} has another length than the record says")
        for left in sealed:
            self.found(f"there is a sealed value {left!r} that the record does not name")

    def shredded_ever(self) -> set[str]:
        """Pseudonyms whose key is destroyed by any record, also a later one; read ahead once it matters."""
        if self.shredded_at_all is None:
            self.shredded_at_all = set(self.shredded)
            for row in self.source.rows("ledger_leaves"):
                if isinstance(row[3], bytes) and b'"kind":"key.shred"' in row[3]:
                    with contextlib.suppress(ValueError):
                        self.shredded_at_all.add(str(parse_record(row[3]).get("subject")))
        return self.shredded_at_all

    def subject(self, leaf: dict[str, Any]) -> None:
        """Every pseudonym has been given out by a record, and is not used after its end."""
        if leaf.get("kind") == "key.create":
            if leaf.get("of") in self.keys:
                self.found("the pseudonym was given out already")
            self.keys[str(leaf.get("of"))] = str(leaf.get("key"))
        subject = leaf.get("subject")
        if subject is not None:
            if subject not in self.keys:
                self.found("the pseudonym of the subject was never given out")
            if subject in self.shredded:
                self.comes_late(leaf, "the key of the subject had been destroyed before")
            if leaf.get("kind") == "key.shred":
                self.shredded.add(str(subject))
                if any(whose in (subject, "log") for whose in self.holds.values()):
                    self.found("the key of the subject was destroyed under a legal hold")
        if leaf.get("kind") == "hold.set" and leaf.get("target"):  # without one it is the wish alone
            self.holds[str(leaf.get("id"))] = str(leaf.get("target"))
        elif leaf.get("kind") == "hold.clear" and "hold" in leaf and self.holds.pop(str(leaf.get("hold")), None) is None:
            self.found("it clears a legal hold that is not in force")

    def chain(self, leaf: dict[str, Any], writer: dict[str, Any], digest: bytes) -> None:
        """Each run of a writer counts its records and names the one before: an order that the log's order must keep."""
        boot = self.boots.setdefault(str(writer["boot"]), Boot(str(writer["id"])))
        if writer["wseq"] != boot.wseq + 1 or writer["wprev"] != boot.last or writer["id"] != boot.writer:
            if writer["wseq"] != boot.wseq + 1:
                why = f"{boot.wseq + 1} was to follow, {str(writer['wseq'])[:20]} is here"
            else:
                why = "it does not name the record that is before it"
            self.found(f"the chain of its writer is broken: {why}")
        if boot.wseq == -1 and leaf.get("kind") != "writer.start":
            self.found("its writer did not start")
        if boot.stopped:
            self.found("its writer had stopped")
        if not isinstance(writer["mono"], int) or writer["mono"] < boot.mono:
            self.found("its writer's clock was set back")
        boot.wseq = writer["wseq"] if isinstance(writer["wseq"], int) else boot.wseq + 1
        away = "spooled" in leaf or leaf.get("kind") == "spool.replayed"
        if boot.unsigned_since is not None and away and isinstance(writer["mono"], int):
            boot.unsigned_since += writer["mono"] - boot.mono  # nobody could sign while it was not in the log
        boot.mono = writer["mono"] if isinstance(writer["mono"], int) else boot.mono
        if boot.unsigned_since is None and self.tree.size > max(self.checkpoints, default=0):
            boot.unsigned_since = boot.mono
        boot.last = digest.hex()
        boot.stopped = leaf.get("kind") == "writer.stop"
        self.silence(leaf, boot)
        if leaf.get("kind") == "writer.start":
            self.newest[boot.writer] = str(writer["boot"])
            for call in [call for call, whose in self.orphans.items() if whose[0] == boot.writer]:
                del self.orphans[call]  # what its earlier runs left in a spool is in the log by now

    def silence(self, leaf: dict[str, Any], boot: Boot) -> None:
        """A writer that promised heartbeats gives them; one that could not write says so in the first after that."""
        promised, failed = leaf.get("heartbeat_us"), leaf.get("failed_us")
        if leaf.get("kind") == "writer.start" and type(promised) is int and promised > 0:
            boot.promised, boot.beat = promised, boot.mono
        late = boot.mono - boot.beat
        if leaf.get("kind") == "writer.heartbeat":
            if boot.promised and late - (failed if type(failed) is int else 0) > SILENCE * boot.promised:
                self.found(f"its writer said nothing for {late // 10**6} seconds, and had promised a heartbeat: one is missing")
            boot.beat, boot.overdue = boot.mono, None
        elif boot.promised and boot.overdue is None and late > SILENCE * boot.promised:
            boot.overdue = self.where[0]

    def silences(self) -> None:
        """Writers that went on without their heartbeats to the very end."""
        for boot in self.boots.values():
            if boot.overdue is not None:
                self.found(
                    f"from record {boot.overdue} on the writer {boot.writer[:64]} gave none of the heartbeats it had promised"
                )

    def pairing(self, leaf: dict[str, Any], index: int, writer: dict[str, Any]) -> None:
        kind, call = leaf.get("kind"), str(leaf.get("call"))
        if kind in ("call.start", "egress.start", "sandbox.start"):
            opened = self.open if kind == "call.start" else self.beside
            opened[str(leaf.get("id"))] = (index, str(writer["id"]), str(writer["boot"]))
        elif kind in ("egress.end", "sandbox.end"):  # one may have been closed for its writer before
            self.beside.pop(call if kind == "egress.end" else str(leaf.get("start")), None)
        elif kind in ("call.end", "call.orphaned"):
            opened = self.beside if call in self.beside and kind == "call.orphaned" else self.open
            whose = opened.pop(call, None)
            if whose is not None:
                if kind == "call.orphaned" and opened is self.open and whose[2] != writer["boot"]:
                    self.orphans[call] = whose[1], whose[2]
            elif self.orphans.get(call, ("", ""))[1] == writer["boot"]:
                del self.orphans[call]
                self.comes_late(leaf, f"it ends the call {call[:128]}, which another had closed")
            else:
                self.found(f"it ends the call {call[:128]}, which is not open")

    def in_force(self, leaf: dict[str, Any], index: int) -> None:
        """A decision names the record since which its bundle is in force; those that were not looked at are taken for right."""
        if leaf.get("kind") == "policy.activate":
            self.activated[index] = leaf.get("policy")
        decision = leaf.get("decision")
        if not isinstance(decision, dict) or "policy_seq" not in decision or not self.activated:
            return  # where no policy is on record, it is in another log
        since = decision["policy_seq"]
        known = type(since) is int and (since < self.report.first or self.activated.get(since) == decision.get("policy"))
        if not known or since >= index:
            self.found("its decision names a record by which its bundle did not come into force")

    # -- records that stood in a spool while their store was away, and came into the log later

    def comes_late(self, leaf: dict[str, Any], what: str) -> None:
        """The record is as it should be only if it comes out of a spool: a `spool.replayed` after it must say so."""
        writer = leaf.get("writer")
        if isinstance(writer, dict) and type(writer.get("wseq")) is int:
            self.late[str(writer.get("boot")), writer["wseq"]] = self.where[0] or 0, what
        else:
            self.found(what)

    def replayed(self, leaf: dict[str, Any]) -> None:
        """A spool is whole: the records of one run, without a gap, all of them here."""
        of, first, last = leaf.get("of"), leaf.get("first"), leaf.get("last")
        run = str(of.get("boot")) if isinstance(of, dict) else ""
        boot = self.boots.get(run)
        if type(first) is not int or type(last) is not int or boot is None or of != {"writer": boot.writer, "boot": run}:
            self.found("it does not say whose records came out of a spool")
            return
        # Of its own run it is the next itself, and it has been counted.
        end = boot.wseq - (1 if run == said(leaf, "writer", "boot") else 0)
        if leaf.get("count") != last - first + 1 or not 0 < first <= last <= end:
            self.found(f"it says that records {first} to {last} of a run came out of a spool, and they are not all here")
        for place in [place for place in self.late if place[0] == run and first <= place[1] <= last]:
            del self.late[place]

    def spools(self) -> None:
        """Nothing stands where only a replay excuses it, and no replay says so."""
        for index, what in self.late.values():
            self.where = (index, "", "")
            self.found(f"{what}, and no record says that it came out of a spool")
        self.where = (None, "", "")

    # -- what stands beside the records

    def head(self) -> None:
        report, tree = self.report, self.tree
        report.size, report.root = tree.size, base64.b64encode(tree.root()).decode()
        there = list(self.source.rows("ledger_head"))
        erased = len(self.shredded) if self.level != "full" or len(there) != 1 else there[0][3]
        expected = [(1, tree.size, b"".join(tree.stack), erased)]
        if repr(there) != repr(expected):  # 1 and 1.0 are equal, and not the same
            self.found("the head is not that of the records: its size, its tree or its count of destroyed keys")
        for checkpoint in (*self.checkpoints.values(), *(each for some in self.kept.values() for each in some)):
            if checkpoint.size > tree.size:
                self.found(f"a checkpoint signs {checkpoint.size} records, and there are {tree.size}: the end of the log is gone")
        for size, witness, _ in self.cosignatures.rest():
            self.found(
                f"{str(witness)[:200]} cosigned {str(size)[:20]} records, and there are {tree.size}: the end of the log is gone"
            )

    def nodes(self) -> None:
        nodes = dict(self.tree.nodes)
        if self.report.first:
            self.nodes_of_the_retired(nodes)
        for level, index, digest in self.source.rows("ledger_nodes"):
            if nodes.pop((level, index), None) != digest:
                self.found(f"the stored hash of subtree {index} at level {level} is not that of its records")
        for level, index in nodes:
            self.found(f"the stored hash of subtree {index} at level {level} is missing")

    def nodes_of_the_retired(self, nodes: dict[tuple[int, int], bytes]) -> None:
        """The hashes that are kept of 256 retired records each make up their tree; with those above them they are expected."""
        low, first = Tree(), self.report.first
        for level, index, digest in self.source.rows("ledger_nodes"):
            if level == 1 and below(index, first >> 8) and isinstance(digest, bytes):
                nodes[1, index] = digest
                low.append(digest)
        nodes.update({(level + 1, index): digest for (level, index), digest in low.nodes.items()})
        if low.size != first >> 8 or low.root() != self.retired_root:
            self.found("the hashes that are kept of the retired records are not those of their tree")

    def subjects(self) -> None:
        """A subject's row is the one that was recorded; it is gone exactly when its key was destroyed."""
        expected = {pseudonym: digest for pseudonym, digest in self.keys.items() if pseudonym not in self.shredded}
        for row in self.source.rows("ledger_subjects"):
            digest = ""
            if isinstance(row[0], str) and all(isinstance(part, bytes) for part in row[1:]):
                framed = b"".join(len(part).to_bytes(4, "big") + part for part in (row[0].encode(), *row[1:]))
                digest = "sha256:" + hashlib.sha256(b"bailiwick/subject/v1\x00" + framed).hexdigest()
            if expected.pop(row[0], None) != digest:
                self.found(f"the stored key of {row[0]} is not the one that was recorded, or should be destroyed")
        for pseudonym in expected:
            self.found(f"the key of {pseudonym} is gone without a record that destroys it")

    def erasures(self) -> None:
        """The legal holds are those that records set and did not clear; what is still to be deleted is of erased people."""
        if dict(self.source.rows("ledger_holds")) != self.holds:
            self.found("the list of legal holds and the records differ")
        for pseudonym, index in self.source.rows("ledger_sweeps"):
            if pseudonym not in self.shredded or not isinstance(index, int):
                self.found(f"the sealed values of {str(pseudonym)[:200]} are marked to be deleted, and no record says so")

    def calls(self) -> None:
        stored = {row[0]: tuple(row[1:]) for row in self.source.rows("ledger_open_calls")}
        for name in [name for name in stored if name not in self.open and stored[name] == self.beside.get(str(name))]:
            del stored[name]
        for call in sorted(stored.keys() ^ self.open.keys(), key=str):
            self.found(f"the list of open calls and the records differ about {str(call)[:128]}")
        for call in sorted(stored.keys() & self.open.keys()):
            if stored[call] != self.open[call]:
                self.found(f"the list of open calls says something else about {call} than its record")
        self.report.open_calls = len(self.open)
        if self.open:
            self.report.notes.append(f"{len(self.open)} calls have no end yet: they are under way, or their gateway died")
        if self.beside:
            self.report.notes.append(f"{len(self.beside)} runs of code, or connections of such, have no end yet")
        for call, (index, writer, boot) in (*self.open.items(), *self.beside.items()):
            if boot in self.boots and self.boots[boot].promised and self.newest.get(writer, boot) != boot:
                self.where = (index, call[:128], "")
                self.found("it is open, although its writer has begun anew since and closes what it left")
        self.where = (None, "", "")

    def signatures(self) -> None:
        if self.key is None:
            return
        newest = sorted(self.checkpoints)[-SIGNATURES:]
        for size in newest:
            if self.checkpoints[size].signed_by(self.key):
                self.report.signed = size
            else:
                self.found(f"the checkpoint of {size} records is not signed by {self.key.name}")
        if len(newest) < len(self.checkpoints):
            older = len(self.checkpoints) - len(newest)
            self.report.notes.append(f"of {older} older checkpoints the roots were compared and the signatures were not checked")
        for each in (each for some in self.kept.values() for each in some):
            if not each.signed_by(self.key):
                self.found("the checkpoint that you kept is not signed by this key")
        unsigned = self.report.size - self.report.signed
        if self.report.size and not self.report.signed:
            self.found("no checkpoint signs any of the records: whoever can write to the database could have made them")
        seconds = (
            max((b.mono - b.unsigned_since for b in self.boots.values() if b.unsigned_since is not None), default=0) // 10**6
        )
        if self.report.signed and seconds > UNSIGNED_SECONDS:
            self.found(f"the newest {unsigned} records, of {seconds} seconds, are under no checkpoint: one is missing")
        if unsigned > 0:
            self.report.notes.append(f"the newest {unsigned} records are not under a signed checkpoint yet")

    def cosigned(self) -> None:
        """What the pinned witnesses say of these very records; without any, that nobody outside was asked."""
        report = self.report
        for each in (each for some in self.kept.values() for each in some if each.size <= self.tree.size):
            for name, data in each.signatures:
                if name != each.origin:
                    self.said.setdefault(name, deque()).append((each.size, each.text, data))
        for name, witness in self.witnesses.items():
            report.witnesses[name] = {"size": 0, "at": 0}
            for size, text, data in self.said.get(name, ()):
                at = cosigned_at(witness, text, data)
                if at is None:
                    self.found(
                        f"the cosignature of {name} on {size} records does not fit them: it saw another log, or it is forged"
                    )
                elif size >= report.witnesses[name]["size"]:
                    report.witnesses[name] = {"size": size, "at": max(at, report.witnesses[name]["at"])}
        sizes = sorted((said["size"] for said in report.witnesses.values()), reverse=True)
        report.witnessed = sizes[report.quorum - 1] if report.quorum else 0
        if not self.witnesses:
            others = f" (there are cosignatures by {', '.join(sorted(self.said))[:500]})" if self.said else ""
            report.notes.append(
                "UNWITNESSED: no witness's key was given" + others + ".  Whoever holds the database and the signing key can have "
                "rewritten everything after the newest checkpoint that somebody else kept."
            )
        elif report.quorum and not report.witnessed:
            self.found(f"not {report.quorum} of the {len(self.witnesses)} witnesses cosigned this log")
        if report.witnessed and report.witnessed < report.size:
            report.notes.append(f"the newest {report.size - report.witnessed} records are not witnessed yet")


def tree_hex(digest: object) -> str:
    """A stored hash in hex; "" for what is none."""
    return digest.hex() if isinstance(digest, bytes) else ""


def below(index: object, first: int) -> bool:
    """Whether a row is of a retired record."""
    return type(index) is int and 0 <= index < first


class Ahead:
    """Rows in order of their index, taken record by record."""

    def __init__(self, rows: Iterator[tuple[Any, ...]]) -> None:
        self._rows = rows
        self._next = next(rows, None)
        self._stray: list[tuple[Any, ...]] = []

    def of(self, index: int) -> Iterator[tuple[Any, ...]]:
        """The rows of a record; what belongs to none is kept for `rest`."""
        while self._next is not None and not (isinstance(self._next[0], int) and self._next[0] > index):
            row, self._next = self._next, next(self._rows, None)
            if row[0] == index:
                yield row
            else:
                self._stray.append(row)

    def rest(self) -> Iterator[tuple[Any, ...]]:
        """What belongs to no record."""
        yield from self._stray
        while self._next is not None:
            row, self._next = self._next, next(self._rows, None)
            yield row


def verify_rows(source: Rows, trust: Trust) -> Report:
    """Check a ledger's rows."""
    check = Check(source, trust)
    try:
        report = check.run()
        report.left = check.left if report.ok else None
        return report
    except (sqlite3.Error, UnicodeDecodeError) as error:
        check.where = (None, "", "")
        check.found(f"the database cannot be read: {error}")
        return check.report


def verify_sqlite(  # noqa: PLR0917  what else it is to be held against
    path: Path,
    key: str | None = None,
    kept: str | Sequence[str] | None = None,
    witnesses: Sequence[str] = (),
    quorum: int | None = None,
    receipts: Sequence[Any] = (),
    level: str = "semantic",
    state: bytes | None = None,
) -> Report:
    """Check the ledger in a SQLite file.  `ValueError` where a key or a kept checkpoint is none, `OSError` without a file."""
    trust = Trust(key, kept, witnesses, quorum, receipts, level, state)
    path.stat()
    try:
        source = SqliteRows(path)
    except sqlite3.Error as error:
        return Report(findings=[Finding(f"the database cannot be read: {error}")], key_given=key is not None)
    try:
        report = verify_rows(source, trust)
    finally:
        source.close()
    ahead = size_ahead(path) - report.size
    if ahead > 0:
        report.notes.append(
            f"{ahead} records were acknowledged and stand in {path.name}-ahead, not in the database: the next start of a gateway "
            "puts them there, and none of them was looked at"
        )
    return report


def size_ahead(path: Path) -> int:
    """How many records the log has with those in the file ahead of its database, as that file says; 0 where there is none."""
    try:
        with path.with_name(path.name + "-ahead").open("rb") as file:
            page = file.read(40)
    except OSError:
        return 0
    return int.from_bytes(page[32:], "little") if page.startswith(b"bailiwick ahead 1\n") and len(page) == 40 else 0


# ------------------------------------------------------- an export: each format's row, made from a record and its place alone


def said(record: Any, *path: str) -> str:
    """A text or number somewhere in a record; "" where there is none."""
    for name in path:
        record = record.get(name) if isinstance(record, dict) else None
    return record if isinstance(record, str) else str(record) if type(record) is int else ""


def agents_of(record: dict[str, Any]) -> list[str]:
    """The agents of its chain, origin first."""
    chain = record.get("chain")
    links = [link for link in chain if isinstance(link, list) and len(link) == 2] if isinstance(chain, list) else []
    return [str(name) for kind, name in links if kind == "agent"]


def utc(record: dict[str, Any]) -> str:
    """Its time in ISO 8601, to the microsecond."""
    ts = record.get("ts")
    ts = ts if isinstance(ts, int) and 0 <= ts < 253402300800 * 10**6 else 0
    whole = datetime.fromtimestamp(ts // 10**6, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")  # noqa: UP017
    return f"{whole}.{ts % 10**6:06d}Z"


def outcome_of(record: dict[str, Any]) -> tuple[str, str]:
    """Whether it was allowed or denied, and why not; both may be ""."""
    effect, reason = said(record, "decision", "effect"), said(record, "decision", "reason")
    if isinstance(record.get("refused"), dict):
        effect, reason = "deny", said(record, "refused", "code")
    return effect, reason


CSV_COLUMNS = (
    *("seq", "time", "kind", "id", "subject", "agents", "tenant", "action", "resource", "target", "tool", "effect", "reason"),
    *("outcome", "latency_us", "workflow", "trace", "policy", "log", "leaf"),
)


class Row(NamedTuple):
    """What a row is made of: the log, the place in it, the leaf hash (hex), the bytes that were hashed, what they say."""

    log: str
    seq: int
    leaf: str
    data: bytes
    record: dict[str, Any]


def csv_cells(row: Row) -> list[str]:
    """What the columns hold (of Parquet too)."""
    log, seq, leaf, _, record = row
    plain = (said(record, name) for name in ("tenant", "action", "resource", "target", "tool"))
    start = [str(seq), utc(record), *(said(record, name) for name in ("kind", "id", "subject")), " > ".join(agents_of(record))]
    end = [said(record, "outcome", "status"), said(record, "outcome", "latency_us"), said(record, "workflow")]
    policy = said(record, "decision", "policy") or said(record, "policy")
    return [*start, *plain, *outcome_of(record), *end, said(record, "trace"), policy, log, leaf]


# What breaks a line, is not seen, or turns the text around.  Named one by one: which characters Python calls printable depends on
# its version, and a row must come out the same everywhere.
UNSEEN = re.compile("[\x00-\x1f\x7f-\xa0\xad\u061c\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff9-\ufffb]")


def csv_cell(text: str) -> str:
    """One cell on one line.  What a spreadsheet would take for a formula begins with an apostrophe."""
    text = UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    if text[:1] in ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "'"):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"'


def row_jsonl(row: Row) -> str:
    """The record as it was hashed, in its place."""
    return f'{{"leaf":"{row.leaf}","log":{json.dumps(row.log)},"record":{row.data.decode()},"seq":{row.seq}}}'


def row_csv(row: Row) -> str:
    return ",".join(map(csv_cell, csv_cells(row))) + "\r"


def row_cef(row: Row) -> str:
    """ArcSight CEF:0; the header escapes `|` and `\\`, the extension `=` and `\\`, and nothing breaks a line."""
    record = row.record
    effect, reason = outcome_of(record)
    cells = dict(zip(CSV_COLUMNS, csv_cells(row)))  # noqa: B905  Python 3.9
    ts = record.get("ts")
    found = {
        "rt": str(ts // 1000) if isinstance(ts, int) else "",
        "externalId": cells["id"],
        "suser": cells["subject"],
        "sproc": cells["agents"],
        "dhost": cells["target"],
        "request": cells["resource"],
        "act": effect,
        "reason": reason,
        "outcome": cells["outcome"],
        **{f"cs{n}Label": name for n, name in enumerate(("log", "leaf", "workflow", "policy"), 1)},
        **{f"cs{n}": cells[name] for n, name in enumerate(("log", "leaf", "workflow", "policy"), 1)},
        "cn1Label": "seq",
        "cn1": str(row.seq),
    }

    def plain(text: str) -> str:
        return UNSEEN.sub(" ", text).replace("\\", "\\\\")

    extension = " ".join(f"{key}=" + plain(value).replace("=", "\\=") for key, value in found.items() if value)
    kind = plain(cells["kind"]).replace("|", "\\|")
    severity = 6 if effect == "deny" else 3
    return f"CEF:0|Bailiwick|Bailiwick|{said(record, 'v')}|{kind}|{kind}|{severity}|{extension}"


def row_otlp(row: Row) -> str:
    """One ExportLogsServiceRequest a line, as OTLP's file exporter writes them; its body is the record as it was hashed."""
    log, seq, leaf, data, record = row
    effect, reason = outcome_of(record)
    attributes: list[dict[str, Any]] = [{"key": "bailiwick.seq", "value": {"intValue": str(seq)}}]
    names = {
        "bailiwick.log": log,
        "bailiwick.leaf": leaf,
        "bailiwick.kind": said(record, "kind"),
        "user.hash": said(record, "subject"),
    }
    names |= {"gen_ai.agent.id": " > ".join(agents_of(record)), "gen_ai.tool.name": said(record, "tool")}
    names |= {"mcp.session.id": said(record, "session"), "bailiwick.actor.instance": said(record, "auth", "instance")}
    names |= {"bailiwick.workflow": said(record, "workflow"), "bailiwick.effect": effect, "bailiwick.reason": reason}
    attributes += [{"key": key, "value": {"stringValue": value}} for key, value in sorted(names.items()) if value]
    ts, denied = record.get("ts"), effect == "deny"
    entry: dict[str, Any] = {
        "timeUnixNano": str(ts * 1000 if isinstance(ts, int) else 0),
        "severityNumber": 13 if denied else 9,
        "severityText": "WARN" if denied else "INFO",
        "eventName": said(record, "kind"),
        "body": {"stringValue": data.decode()},
        "attributes": attributes,
    }
    if re.fullmatch("[0-9a-f]{32}", said(record, "trace")) and re.fullmatch("[0-9a-f]{16}", said(record, "span")):
        entry |= {"traceId": record["trace"], "spanId": record["span"]}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "bailiwick"}}]}
    scope = {"scope": {"name": "bailiwick.ledger", "version": "1"}, "logRecords": [entry]}
    return compact({"resourceLogs": [{"resource": resource, "scopeLogs": [scope]}]})


def compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


OCSF_READS = frozenset({"read", "get", "list", "verify", "export", "review", "ask", "audit.read", "audit.verify", "audit.export"})
OCSF_ENTITIES = {  # kind → activity of Entity Management
    **dict.fromkeys(("key.create", "grant.set", "vault.consent", "hold.set", "segment.seal", "approval.ask"), 1),
    **dict.fromkeys(("key.activate", "policy.activate"), 10),
    **dict.fromkeys(("grant.revoke", "vault.forget", "hold.clear", "key.shred", "erasure.store", "segment.retire"), 4),
    **dict.fromkeys(("identity.kill",), 12),
    **dict.fromkeys(("identity.lift",), 13),
}
OCSF_OTHER_ENTITIES = (
    "policy.",
    "identity.",
    "grant.",
    "approval.",
    "key.",
    "vault.",
    "hold.",
    "erasure.",
    "segment.",
    "log.",
    "exemption.",
    "anchor.",
)


def row_ocsf(row: Row) -> str:
    """OCSF 1.8.0: API Activity (6003), Entity Management (3004), Authentication (3002) or Application Lifecycle (6002)."""
    log, seq, leaf, _, record = row
    kind, agents, (effect, reason) = said(record, "kind"), agents_of(record), outcome_of(record)
    ts, denied = record.get("ts"), effect == "deny"
    event: dict[str, Any] = {
        "time": ts // 1000 if isinstance(ts, int) else 0,
        "severity_id": 3 if denied else 1,
        "metadata": {
            "version": "1.8.0",
            "product": {"name": "Bailiwick", "vendor_name": "Bailiwick"},
            "log_name": log,
            "sequence": seq,
            "uid": said(record, "id") or leaf,
            "event_code": kind,
        },
        "raw_data_hash": {"algorithm": "SHA-256", "algorithm_id": 3, "value": leaf},
        "unmapped": {"leaf": leaf, "log": log, "seq": seq, "kind": kind, "workflow": said(record, "workflow")},
    }
    user = {"uid": said(record, "subject") or "unknown"}
    if kind in ("writer.start", "writer.stop", "sandbox.probe"):
        app = {"name": "Bailiwick", "vendor_name": "Bailiwick", "uid": said(record, "writer", "id") or "unknown"}
        activity = {"writer.start": 3, "writer.stop": 4}.get(kind, 99)
        event |= {"category_uid": 6, "class_uid": 6002, "activity_id": activity, "app": app}
    elif kind == "auth.refused":
        service = {"name": said(record, "target") or "bailiwick"}
        event |= {"category_uid": 3, "class_uid": 3002, "activity_id": 1, "user": user, "service": service, "status_id": 2}
    elif kind in OCSF_ENTITIES or kind.startswith(OCSF_OTHER_ENTITIES):
        named = (said(record, name) for name in ("target", "of", "approval", "policy", "kid", "agent", "hold", "wanted", "id"))
        entity = {"name": next(filter(None, named), "unknown"), "type": kind.partition(".")[0]}
        event |= {"category_uid": 3, "class_uid": 3004, "activity_id": OCSF_ENTITIES.get(kind, 99), "entity": entity}
        event["actor"] = {"user": user}
    else:
        operation = said(record, "action") or said(record, "method") or kind
        activity = 2 if operation in OCSF_READS or kind in OCSF_READS else 99
        api = {
            "operation": operation,
            "service": {"name": said(record, "target") or "bailiwick"},
            "request": {"uid": said(record, "id")},
        }
        actor: dict[str, Any] = {"user": user, **({"app_name": agents[-1]} if agents else {})}
        if said(record, "session"):
            actor["session"] = {"uid": record["session"]}
        if said(record, "auth", "instance"):
            event["unmapped"]["instance"] = said(record, "auth", "instance")
        source = {"name": agents[-1] if agents else said(record, "peer") or "unknown"}
        event |= {
            "category_uid": 6,
            "class_uid": 6003,
            "activity_id": activity,
            "actor": actor,
            "api": api,
            "src_endpoint": source,
        }
        if said(record, "resource"):
            event["resources"] = [{"name": said(record, "resource")}]
    if event["activity_id"] == 99:
        event["activity_name"] = kind
    event["type_uid"] = event["class_uid"] * 100 + event["activity_id"]
    profiles = []
    if effect:
        policy = said(record, "decision", "policy")
        judged = {"decision": effect, **({"policy": {"uid": policy}} if policy else {})}
        event |= {"action_id": 2 if denied else 1, "disposition_id": 2 if denied else 1, "authorizations": [judged]}
        event |= {"status_id": 2 if denied else 1, **({"status_detail": reason} if denied and reason else {})}
        profiles.append("security_control")
    status = said(record, "outcome", "status")
    if status:
        event |= {"status_id": 1 if status == "ok" else 2, "status_code": status}
    if said(record, "trace") and event["class_uid"] == 6003:
        event["trace"] = {"uid": record["trace"]}
        profiles.append("trace")
    if profiles:
        event["metadata"]["profiles"] = profiles
    return compact(event)


ROWS = {  # by format: the file, and what makes a row of it
    "jsonl": ("data/records.jsonl", row_jsonl),
    "csv": ("data/records.csv", row_csv),
    "ocsf": ("data/ocsf.jsonl", row_ocsf),
    "cef": ("data/records.cef", row_cef),
    "otlp": ("data/otlp.jsonl", row_otlp),
}
PARQUET = "data/records.parquet"
HEADERS = {"csv": ",".join(map(csv_cell, CSV_COLUMNS)) + "\r"}


# ------------------------------------------------------------------------------------------------- an export: its checks

MANIFEST = "manifest.dsse.json"
PLAIN_FILES = ("README.md", "checkpoint", "verify.html", "verify.py")
PAYLOAD_TYPE = "application/vnd.in-toto+json"
PREDICATE_TYPE = "urn:bailiwick:ledger-export:1"


def pae(kind: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    return b"DSSEv1 %d %b %d %b" % (len(kind.encode()), kind.encode(), len(payload), payload)


def spans(start: int, stop: int) -> list[tuple[int, int]]:
    """The whole subtrees (height, index) that make up the leaves [start, stop), in order."""
    found = []
    while start < stop:
        height = (start & -start).bit_length() - 1 if start else stop.bit_length() - 1
        while start + (1 << height) > stop:
            height -= 1
        found.append((height, start >> height))
        start += 1 << height
    return found


def append_subtree(tree: Tree, current: bytes, height: int) -> None:
    """A whole subtree at the end of a tree whose size it fits."""
    size = 1 << height
    while tree.size >> height & 1:
        current = hashlib.sha256(b"\x01" + tree.stack.pop() + current).digest()
        height += 1
    tree.stack.append(current)
    tree.size += size


def root_by_proof(index: int, size: int, current: bytes, hashes: Sequence[bytes]) -> bytes | None:
    """RFC 9162 §2.1.3.2: the root that an inclusion proof leads to; None where it is none."""
    node, last = index, size - 1
    for each in hashes:
        if last == 0:
            return None
        if node & 1 or node == last:
            current = hashlib.sha256(b"\x01" + each + current).digest()
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            current = hashlib.sha256(b"\x01" + current + each).digest()
        node, last = node >> 1, last >> 1
    return current if last == 0 and index < size else None


class Bundle:
    """The files of an export: a folder, or a zip file that nothing is unpacked of."""

    def __init__(self, path: Path) -> None:
        self.folder = path
        self.zip = None if path.is_dir() else zipfile.ZipFile(path)

    def names(self) -> list[str]:
        if self.zip is not None:
            return [info.filename for info in self.zip.infolist() if not info.is_dir()]
        return sorted(each.relative_to(self.folder).as_posix() for each in self.folder.rglob("*") if not each.is_dir())

    def open(self, name: str) -> IO[bytes]:
        if self.zip is not None:
            return self.zip.open(name)
        return (self.folder / name).open("rb")

    def read(self, name: str, most: int = 64 * 2**20) -> bytes:
        with self.open(name) as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise ValueError(f"{name} is too long")
        return data


def entries(bundle: Bundle, names: Sequence[str]) -> Iterator[bytes]:
    """Records one after the other, as c2sp.org/tlog-tiles has them: two bytes of length before each."""
    for name in names:
        with bundle.open(name) as file:
            while True:
                head = file.read(2)
                if not head:
                    break
                data = file.read(int.from_bytes(head, "big"))
                if len(head) != 2 or len(data) != int.from_bytes(head, "big"):
                    raise ValueError(f"{name} ends in the middle of a record")
                yield data


UNREADABLE = (  # whatever somebody may have put there
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, EOFError),
    *(zipfile.BadZipFile, zlib.error),
)


class Export:
    """All checks of an export, in one pass over its records."""

    def __init__(self, bundle: Bundle, trust: Trust) -> None:
        self.bundle = bundle
        self.trust = trust
        self.report = Report(key_given=trust.key is not None, quorum=trust.quorum)
        self.where: tuple[int | None, str, str] = (None, "", "")
        self.about: dict[str, Any] = {}
        self.files: dict[str, str] = {}
        self.kinds: dict[str, int] = {}
        self.rows: dict[str, Iterator[bytes]] = {}
        self.boots: dict[str, tuple[int, str]] = {}
        self.open: set[str] = set()
        self.committed: dict[tuple[int, str], tuple[str, str]] = {}  # of openings that are disclosed: whose, what
        self.disclosed: set[int] = set()
        self.present: set[str] = set()
        self.judged: set[str] = set()  # digests of the bundles that decided
        self.key = trust.key or Key("", b"", b"")  # until the manifest names one

    def found(self, message: str) -> None:
        if len(self.report.findings) < MAX_FINDINGS:
            self.report.findings.append(Finding(message, *self.where))

    def run(self) -> Report:
        try:
            self.manifest()
            if self.about:
                self.hashes()
                self.check()
        except UNREADABLE as error:
            self.found(f"the export cannot be read: {type(error).__name__}: {str(error)[:300]}")
        return self.report

    def manifest(self) -> None:
        """Signed by the log's key, in the one spelling that it has."""
        raw = self.bundle.read(MANIFEST, 2**30)
        envelope = json.loads(raw)
        payload, (signature,) = unbase64(envelope["payload"]), envelope["signatures"]
        statement = json.loads(payload)
        about = statement["predicate"]
        files = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
        if compact(envelope).encode() + b"\n" != raw or compact(statement).encode() != payload:
            self.found("the manifest is not in its one spelling")
        types = (envelope["payloadType"], statement["_type"], statement["predicateType"])
        if types != (PAYLOAD_TYPE, "https://in-toto.io/Statement/v1", PREDICATE_TYPE) or len(files) != len(statement["subject"]):
            self.found("the manifest is of another kind, or names a file twice")
        key = self.trust.key or Key.parse(about["vkey"])
        if self.trust.key is None:
            self.report.notes.append(
                "NO KEY WAS GIVEN: the signatures were checked against the key in the export itself, which proves nothing about "
                "whoever made it.  Get the key from the operator by another way and give it with --key."
            )
        self.key, self.report.origin = key, about["log"]
        if (
            about["vkey"] != f"{key.name}+{key.id.hex()}+{base64.b64encode(bytes([1]) + key.public).decode()}"
            or key.name != about["log"]
        ):
            self.found("the export is of another log, or names another key than the one it is verified with")
        signed = ed25519_verify(key.public, pae(PAYLOAD_TYPE, payload), unbase64(signature["sig"]))
        if (
            not signed
            or signature != {"keyid": about["vkey"], "sig": signature["sig"]}
            or envelope.keys() != {"payload", "payloadType", "signatures"}
        ):
            self.found("the manifest is not signed by this key")
        self.about, self.files = about, files

    def hashes(self) -> None:
        """Every file is the one that the manifest names; there is no other.  Openings may have been taken away since."""
        names = self.bundle.names()
        if len(set(names)) != len(names):
            self.found("there is a file twice")
        for name in sorted(set(names) - self.files.keys() - {MANIFEST}):
            self.found(f"there is a file that the manifest does not name: {name[:200]}")
        for name, wanted in sorted(self.files.items()):
            if name not in names:
                if name.startswith("openings/"):
                    self.report.notes.append(f"{name} was taken away since: what it disclosed is a commitment again")
                else:
                    self.found(f"the file {name[:200]} is missing")
                continue
            digest = hashlib.sha256()
            with self.bundle.open(name) as file:
                for block in iter(lambda: file.read(2**20), b""):
                    digest.update(block)
            if digest.hexdigest() != wanted:
                self.found(f"the file {name[:200]} is not the one that the manifest names")
        self.present = set(names)

    def check(self) -> None:
        about, span = self.about, self.about["range"]
        note = self.bundle.read("checkpoint").decode()
        checkpoint = Checkpoint.parse(note)
        if not checkpoint.signed_by(self.key) or checkpoint.size != span["size"]:
            self.found("the checkpoint is not signed by this key, or not of the size that the manifest says")
        else:
            self.report.signed, self.report.checkpoints = checkpoint.size, 1
        self.places(about)
        self.cosigned(checkpoint)
        self.policies()
        self.openings()
        for name in about["formats"]:
            if name in ROWS:
                self.rows[name] = self.lines(ROWS[name][0])
                if name in HEADERS and next(self.rows[name], b"") != HEADERS[name].encode():
                    self.found(f"{ROWS[name][0]} does not begin with its columns")
        if "parquet" in about["formats"]:
            self.report.notes.append(
                f"the rows of {PARQUET} were not compared, as this needs pyarrow: `bailiwick audit verify` does, where that is"
            )
        if about["scope"] == "complete":
            self.complete(span, checkpoint)
        else:
            self.selection(checkpoint, note)
        self.where = (None, "", "")
        for name, lines in self.rows.items():
            if next(lines, None) is not None:
                self.found(f"{ROWS[name][0]} has more rows than there are records")
        self.counted(about)
        self.report.export = {
            name: about[name] for name in ("scope", "query", "records", "kinds", "formats", "operator", "reason", "at")
        }
        self.report.export["first"], self.report.export["stop"] = span["first"], span["stop"]

    def lines(self, name: str) -> Iterator[bytes]:
        if name not in self.present:
            return
        with self.bundle.open(name) as file:
            for line in iter(lambda: file.readline(2**20), b""):
                yield line[:-1] if line.endswith(b"\n") else line + b" (no end of line)"

    def complete(self, span: dict[str, Any], checkpoint: Checkpoint) -> None:
        """Every record of a range, with the subtrees before and after it: together the tree whose root was signed."""
        first, stop, size = span["first"], span["stop"], span["size"]
        left, right = [unbase64(each) for each in span["left"]], [unbase64(each) for each in span["right"]]
        before, after = spans(0, first), spans(stop, size)
        if not 0 <= first <= stop <= size or (len(left), len(right)) != (len(before), len(after)):
            self.found("the range is none, or the subtrees beside it are not as many as they must be")
            return
        tree = Tree()
        for digest, (height, _) in zip(left, before):  # noqa: B905  Python 3.9
            append_subtree(tree, digest, height)
        kept = [each for each in self.trust.kept if first <= each.size <= stop]
        last: list[bytes] = []
        for data in entries(self.bundle, sorted(name for name in self.files if name.startswith(("tile/entries/", "range/")))):
            self.same_root(tree, kept)
            index, digest = tree.size, leaf_hash(data)
            tree.append(digest)
            last.append(digest)
            if tree.size % 256 == 0:
                last.clear()
            self.record(index, digest, data, chained=True)
        self.same_root(tree, kept)
        self.where = (None, "", "")
        if tree.size != stop:
            self.found(f"the range ends at {stop}, and the records at {tree.size}")
            return
        self.tiles(tree, last)
        for digest, (height, _) in zip(right, after):  # noqa: B905  Python 3.9
            append_subtree(tree, digest, height)
        self.same_root(tree, [each for each in self.trust.kept if each.size == size and each not in kept])
        self.report.size, self.report.root = tree.size, base64.b64encode(tree.root()).decode()
        if tree.root() != checkpoint.root:
            self.found(f"the records are not those that the checkpoint of {size} signs: one was changed, removed or added")
        for each in self.trust.kept:
            if not (first <= each.size <= stop or each.size == size):
                self.report.notes.append(f"the checkpoint of {each.size} that you kept lies outside of the range: not compared")
        self.report.open_calls = len(self.open)
        if self.open:
            self.report.notes.append(f"{len(self.open)} calls that began in the range have no end in it")

    def same_root(self, tree: Tree, kept: Sequence[Checkpoint]) -> None:
        for each in kept:
            if each.size == tree.size and (each.root != tree.root() or not each.signed_by(self.key)):
                self.found(f"the first {each.size} records are not those that the checkpoint that you kept signs")

    def selection(self, checkpoint: Checkpoint, note: str) -> None:
        """Some records, each with its own proof (c2sp.org/tlog-proof) under the checkpoint; nothing shows that these are all."""
        self.report.size, self.report.root = checkpoint.size, base64.b64encode(checkpoint.root).decode()
        self.report.notes.append(
            "a selection: each record is proven, and nothing shows that there is no other that fits the query"
        )
        last = -1
        for name in sorted(name for name in self.files if name.startswith("proofs/")):
            head, _, signed = self.bundle.read(name).decode().partition("\n\n")
            lines = head.split("\n")
            index = int(lines[2][6:]) if re.fullmatch("index (0|[1-9][0-9]{0,15})", lines[2]) else -1
            data, hashes = unbase64(lines[1][6:]), [unbase64(line) for line in lines[3:]]
            self.where = (index, "", "")
            if signed != note or lines[0] != "c2sp.org/tlog-proof@v1" or lines[1][:6] != "extra " or index <= last:
                self.found("its proof is not in its one form, or under another checkpoint")
            if name != proof_name(index) or root_by_proof(index, checkpoint.size, leaf_hash(data), hashes) != checkpoint.root:
                self.found("its proof does not lead to the checkpoint")
            last = index
            self.record(index, leaf_hash(data), data, chained=False)
        for each in self.trust.kept:
            same = each.size != checkpoint.size or each.root == checkpoint.root
            if not same:
                self.found(f"the checkpoint of {each.size} records that you kept is another")
            elif each.size != checkpoint.size:
                self.report.notes.append(f"the checkpoint of {each.size} that you kept cannot be compared with a selection")

    def record(self, index: int, digest: bytes, data: bytes, *, chained: bool) -> None:
        """One record: its form, its row in every format, its disclosed values, its place among its writer's."""
        leaf = parse_record(data)
        kind, writer = str(leaf.get("kind")), leaf.get("writer")
        self.where = (index, str(leaf.get("id"))[:128], kind[:32])
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if (
            leaf.get("v") != 1
            or leaf.get("log") != self.report.origin
            or kind not in KINDS
            or not isinstance(leaf.get("ts"), int)
        ):
            self.found("the record is of another version or log, of no known kind, or has no time")
        policy = said(leaf, "decision", "policy") or said(leaf, "policy")
        self.judged |= {policy} if policy.startswith("sha256:") else set()
        for name, lines in self.rows.items():
            file, make = ROWS[name]
            if next(lines, None) != make(Row(self.report.origin, index, digest.hex(), data, leaf)).encode():
                self.found(f"its row in {file} is not what its record says")
        for name, value in leaf.items() if index in self.disclosed else ():
            if isinstance(value, dict) and {"c", "n", "op"} <= value.keys():
                opened = self.committed.pop((index, name), None)
                owner = value.get("of", leaf.get("subject", "log"))
                if opened is not None and opened != (owner, value["c"]):
                    self.found(f"the disclosed value {name!r} is not the one that it commits to")
        if not chained or not isinstance(writer, dict):
            return
        boot, sequence = str(writer["boot"]), int(writer["wseq"])
        if boot in self.boots and self.boots[boot] != (sequence - 1, writer["wprev"]):
            self.found("the chain of its writer is broken")
        self.boots[boot] = (sequence, digest.hex())
        self.open |= {str(leaf.get("id"))} if kind == "call.start" else set()
        self.open -= {str(leaf.get("call"))} if kind in ("call.end", "call.orphaned") else set()

    def openings(self) -> None:
        """What was disclosed, hashed to what it should be committed as."""
        for file in sorted(name for name in self.files if name.startswith("openings/") and name in self.present):
            for line in self.lines(file):
                opened = json.loads(line)
                salt, name = unbase64(opened["salt"]), opened["name"]
                value = unbase64(opened["value"]) if opened["value"] else b""
                framed = b"bailiwick/commitment/v1\x00" + salt + bytes([len(name)]) + name.encode() + value
                if compact(opened).encode() != line or len(salt) != 16 or file != f"openings/{opened['of']}.jsonl":
                    self.found(f"{file} has a line that is not in its one spelling")
                self.committed[opened["seq"], name] = (opened["of"], hashlib.sha256(framed).hexdigest())
                self.disclosed.add(opened["seq"])

    def counted(self, about: dict[str, Any]) -> None:
        """What the manifest says of all records together."""
        if self.kinds != about["kinds"] or sum(self.kinds.values()) != about["records"]:
            self.found("the manifest counts other records than there are")
        if self.judged != set(about["policies"]):
            self.found("the manifest names other bundles of policy than the records")
        for index, name in self.committed:
            self.found(f"a value {name!r} of record {index} is disclosed, which the export does not have")

    def places(self, about: dict[str, Any]) -> None:
        """Nothing lies where nobody would look: the data is that of the formats, and every other file has its place."""
        formats = about["formats"]
        wanted = {ROWS[name][0] if name in ROWS else PARQUET for name in formats if name in ROWS or name == "parquet"}
        known = isinstance(formats, list) and len(wanted) == len(formats)
        if not known or wanted != {name for name in self.files if name.startswith("data/")}:
            self.found("the data is of other formats than the manifest says")
        proofs = ("tile/", "range/") if about["scope"] == "complete" else ("proofs/",)
        bundles = tuple(f"policy/{digest[7:]}/" for digest, how in about["policies"].items() if how == "included")
        for name in self.files:
            if not name.startswith(("data/", "keys/", *bundles, "anchors/", "openings/", *proofs)) and name not in PLAIN_FILES:
                self.found(f"there is a file where none is looked for: {name[:200]}")

    def tiles(self, tree: Tree, last: Sequence[bytes]) -> None:
        """Hash tiles are those of the records' tree; `last` are the hashes of the records that fill no tile."""
        for name in sorted(name for name in self.files if name.startswith("tile/") and not name.startswith("tile/entries/")):
            match = re.fullmatch(r"tile/(\d{1,2})/((?:x\d{3}/){0,5}\d{3})(\.p/\d{1,3})?", name)
            level, number = (int(match[1]), int(match[2].replace("x", "").replace("/", ""))) if match else (-1, 0)
            data = self.bundle.read(name)
            hashes = [data[at : at + 32] for at in range(0, len(data), 32)]
            if level > 0:
                wanted = [tree.nodes.get((level, number * 256 + at)) for at in range(len(hashes))]
                right = hashes == wanted and len(data) % 32 == 0
            elif len(hashes) == 256:
                whole = Tree()
                for digest in hashes:
                    whole.append(digest)
                right = level == 0 and whole.root() == tree.nodes.get((1, number))
            else:
                right = level == 0 and hashes == list(last) and number == tree.size // 256
            if not right:
                self.found(f"the tile {name[:100]} is not of the records' tree")

    def policies(self) -> None:
        """A bundle of policy that is included hashes to the digest that decisions name."""
        for digest, how in self.about["policies"].items():
            folder = f"policy/{digest[7:]}/"
            state = hashlib.sha256(b"bailiwick-bundle-v1\n")
            for name in sorted(name for name in self.files if how == "included" and name.startswith(folder)):
                if not name[len(folder) :].startswith("tests/") and name[len(folder) :] not in ("manifest.json", "manifest.jws"):
                    data = self.bundle.read(name)
                    state.update(f"{name[len(folder) :]}\n{len(data)}\n".encode() + data)
            if how == "included" and digest != f"sha256:{state.hexdigest()}":
                self.found(f"the files in {folder[:90]} are not the bundle {digest[:80]}")
            elif how != "included":
                self.report.notes.append(
                    f"the policy bundle {digest[:80]} was not at hand: what it says must come from elsewhere"
                )

    def cosigned(self, checkpoint: Checkpoint) -> None:
        for witness in self.trust.witnesses:
            at = next(
                filter(None, (cosigned_at(witness, checkpoint.text, d) for n, d in checkpoint.signatures if n == witness.name)), 0
            )
            self.report.witnesses[witness.name] = {"size": checkpoint.size if at else 0, "at": at}
        agreed = sum(1 for each in self.report.witnesses.values() if each["at"])
        if not self.trust.witnesses:
            self.report.notes.append(
                "UNWITNESSED: no witness's key was given; whoever holds the signing key can have made all of this."
            )
        elif agreed < self.trust.quorum:
            self.found(f"{agreed} of the witnesses cosigned the checkpoint, {self.trust.quorum} are wanted")
        else:
            self.report.witnessed = checkpoint.size


def proof_name(index: int) -> str:
    """Where the proof of a record is: a thousand in a folder, in their order."""
    return f"proofs/{index // 1000:013d}/{index:016d}.tlog-proof"


def verify_export(
    path: Path,
    key: str | None = None,
    kept: str | Sequence[str] | None = None,
    witnesses: Sequence[str] = (),
    quorum: int | None = None,
) -> Report:
    """Check an export, a folder or a zip file.  `ValueError` where a key or a kept checkpoint is none."""
    trust = Trust(key, kept, witnesses, quorum)
    try:
        return Export(Bundle(path), trust).run()
    except UNREADABLE as error:
        return Report(findings=[Finding(f"the export cannot be read: {error}")], key_given=key is not None)


def is_export(path: Path) -> bool:
    """Whether there is an export, and not a database."""
    return path.is_dir() or zipfile.is_zipfile(path)


def describe(report: Report) -> str:
    """The report for people."""
    lines = [f"{report.origin or 'the log'}: {report.size} records, root {report.root or '?'}"]
    lines += [
        f"  signed up to record {report.signed} ({report.checkpoints} checkpoints)" if report.signed else "  nothing is signed"
    ]
    if report.export:
        held = report.export
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(held["kinds"].items()))
        lines.append(
            f"  an export ({held['scope']}, records {held['first']} to {held['stop']}): {held['records']} records: {kinds}"
        )
        lines.append(f"  made by {held['operator']}: {held['reason']}")
    if report.receipts:
        lines.append(f"  held against {report.receipts} receipt{'s' if report.receipts > 1 else ''} of callers")
    if report.witnesses:
        there = sum(said["size"] >= report.witnessed > 0 for said in report.witnesses.values())
        lines.append(f"  witnessed by {there} of {len(report.witnesses)} up to record {report.witnessed}")
    for name, said in report.witnesses.items():
        when = datetime.fromtimestamp(min(said["at"], 2**37), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: UP017
        lines.append(f"    {name}: " + (f"{said['size']} records, at {when} by its clock" if said["size"] else "nothing"))
    lines += [f"  note: {note}" for note in report.notes]
    lines += [f"  FOUND: {finding}" for finding in report.findings]
    lines += ["nothing was found" if report.ok else f"{len(report.findings)} finding{'s' if len(report.findings) > 1 else ''}"]
    return "\n".join(lines)


def kept_in(paths: Sequence[Path]) -> list[str]:
    """The notes in files, and in the `*.checkpoint` files of folders."""
    files = [file for path in paths for file in (sorted(path.rglob("*.checkpoint")) if path.is_dir() else [path])]
    return [file.read_text(encoding="utf-8") for file in files]


def kept_in_root(path: Path, key: str | None, origin: str) -> tuple[list[str], list[Finding]]:
    """A log's checkpoints in a root log, and what is wrong with the root log itself."""
    report = verify_sqlite(path, key)
    notes = []
    source = SqliteRows(path)
    try:
        for _, _, _, data in source.rows("ledger_leaves"):
            if isinstance(data, bytes) and b'"kind":"log.checkpoint"' in data:
                with contextlib.suppress(ValueError):
                    record = parse_record(data)
                    if record.get("kind") == "log.checkpoint" and record.get("of") == origin:
                        notes.append(str(record.get("note")))
    finally:
        source.close()
    return notes, [Finding(f"the root log: {finding}") for finding in report.findings]


def keep_state(report: Report, place: Path | None) -> None:
    """Keep what a later quick verification goes on from; only after one that found nothing."""
    if place is not None and report.ok and report.left is not None:
        fresh = place.with_name(place.name + ".new")
        fresh.write_bytes(report.left)
        fresh.replace(place)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="verify.py", description="Verify a Bailiwick ledger (a SQLite file) or an export of one (a folder or zip)."
    )
    parser.add_argument("ledger", type=Path)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--key", help="verifier key of the log, got from elsewhere than the file")
    group.add_argument("--key-file", type=Path, help="a file that holds it")
    about = "a checkpoint that you kept, or a folder of them: the log must continue it; may be repeated"
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], help=about)
    parser.add_argument(
        "--witness", action="append", default=[], metavar="KEY", help="verifier key of a witness; may be repeated"
    )
    parser.add_argument("--quorum", type=int, help="how many of the witnesses must have cosigned (1)")
    about = "receipts that callers were given (JSON, one or many, or whole answers): each names a record that must be there"
    parser.add_argument("--receipts", type=Path, action="append", default=[], help=about)
    about = "semantic: everything; full: bytes, tree and signatures alone; quick: everything of what came since --state"
    parser.add_argument("--level", choices=LEVELS, default=LEVELS[0], help=about)
    parser.add_argument("--state", type=Path, help="where to keep, after a clean check, what --level quick goes on from")
    parser.add_argument("--root", type=Path, help="a root log: the log must continue each of its checkpoints there; needs --key")
    parser.add_argument("--root-key", help="verifier key of the root log")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args(arguments)
    try:
        key = options.key_file.read_text() if options.key_file else options.key
        key = key.strip() if key else None
        kept = kept_in(options.checkpoint)
        wrong: list[Finding] = []
        if options.root is not None:
            if key is None or options.root_key is None:
                raise ValueError("--root needs --key and --root-key")
            notes, wrong = kept_in_root(options.root, options.root_key, Key.parse(key).name)
            kept += notes
        told = [each for path in options.receipts for each in receipts_in(path.read_text(encoding="utf-8"))]
        if options.receipts and not told:
            raise ValueError("--receipts names no file that holds one")
        if is_export(options.ledger):
            if told:
                raise ValueError("--receipts are held against a ledger, and this is an export")
            report = verify_export(options.ledger, key, kept, options.witness, options.quorum)
        else:
            state = options.state.read_bytes() if options.level == "quick" and options.state is not None else None
            report = verify_sqlite(options.ledger, key, kept, options.witness, options.quorum, told, options.level, state)
            keep_state(report, options.state)
        report.findings += wrong
    except (OSError, ValueError) as error:
        print(f"verify.py: {error}", file=sys.stderr)
        return 2
    try:
        print(json.dumps(report.to_dict()) if options.json else describe(report), flush=True)
    except BrokenPipeError:  # whoever reads closed early (`| head`): the exit code still says what was found
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
