"""What a leaf of the log is: RFC 8785 (JCS) bytes of one record, made once, stored and hashed as they are.

The profile keeps JSON to what every encoder writes alike: ASCII keys, integers below 2^53, no floats, no lone surrogates.
Whatever a caller put into a record, there is a leaf for it: recording must not become a way to stop the gateway.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import msgspec
import orjson

from audit.model import Entry

VERSION: Final = 1
MAX_LEAF: Final = 16_384
MAX_VALUES: Final = 16
MAX_FIELDS: Final = 64
SUBJECT: Final = "@subject"
"""A string value of exactly this text is replaced by the pseudonym of the entry's subject."""

_MAX_INT: Final = 2**53
_MAX_DEPTH: Final = 64
_MAX_ITEMS: Final = 256
_MAX_NODES: Final = 4096
_MAX_KEY: Final = 64
_TEXT_LIMITS: Final = (2048, 512, 128)

_ID = re.compile(r"[!#-\[\]-~]{1,128}")  # printable ASCII without space, quote and backslash
_VALUE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_MEANT: Final = b'"@subject"'
# A whole value, never part of a text (where a quote is escaped) and never a key.  It begins with its literal: searching is quick.
_SUBJECT_VALUE = re.compile(rb'"@subject"(?<=[\[,:]"@subject")(?=[,\]}])')
_ORJSON: Final = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
# A float begins with digits after one of [ , : and goes on with a dot or an exponent: with the digits left out that is ",.".  So
# is little else, and one look at the bytes spares a walk through the record.
_FLOATS: Final = bytes.maketrans(b"[:eE", b",,..")
_DIGITS: Final = b"0123456789-"


class Kind(StrEnum):
    """The closed list of what is recorded.  Adding one is a reviewed act."""

    CALL_START = "call.start"
    CALL_END = "call.end"
    CALL_ORPHANED = "call.orphaned"
    QUESTION_ASK = "question.ask"
    AUTHORISATION_ASK = "authorisation.ask"
    DECISION_DENY = "decision.deny"
    DECISION_EVALUATE = "decision.evaluate"
    AUTH_REFUSED = "auth.refused"
    POLICY_ACTIVATE = "policy.activate"
    POLICY_REJECT = "policy.reject"
    POLICY_RELOAD = "policy.reload"
    IDENTITY_DELEGATE = "identity.delegate"
    IDENTITY_KILL = "identity.kill"
    IDENTITY_LIFT = "identity.lift"
    IDENTITY_EVENT = "identity.event"
    DEFINITION_SEEN = "definition.seen"
    DEFINITION_CHANGED = "definition.changed"
    DEFINITION_QUARANTINED = "definition.quarantined"
    DEFINITION_REFUSED = "definition.refused"
    DEFINITION_APPROVED = "definition.approved"
    CARD_SEEN = "card.seen"
    CARD_CHANGED = "card.changed"
    CARD_REFUSED = "card.refused"
    APPROVAL_ASK = "approval.ask"
    APPROVAL_GRANT = "approval.grant"
    APPROVAL_DENY = "approval.deny"
    APPROVAL_USE = "approval.use"
    APPROVAL_EXPIRE = "approval.expire"
    APPROVAL_WITHDRAW = "approval.withdraw"
    GRANT_SET = "grant.set"
    GRANT_REVOKE = "grant.revoke"
    KEY_ACTIVATE = "key.activate"
    VAULT_CONSENT = "vault.consent"
    VAULT_FORGET = "vault.forget"
    SANDBOX_PROBE = "sandbox.probe"
    SANDBOX_START = "sandbox.start"
    SANDBOX_END = "sandbox.end"
    EGRESS_START = "egress.start"
    EGRESS_END = "egress.end"
    WRITER_START = "writer.start"
    WRITER_HEARTBEAT = "writer.heartbeat"
    WRITER_STOP = "writer.stop"
    CLOCK_STEP = "clock.step"
    SPOOL_REPLAYED = "spool.replayed"
    KEY_CREATE = "key.create"
    KEY_SHRED = "key.shred"
    ERASURE_ASK = "erasure.ask"
    ERASURE_APPROVE = "erasure.approve"
    ERASURE_STORE = "erasure.store"
    SEGMENT_SEAL = "segment.seal"
    SEGMENT_RETIRE = "segment.retire"
    HOLD_SET = "hold.set"
    HOLD_CLEAR = "hold.clear"
    AUDIT_READ = "audit.read"
    AUDIT_VERIFY = "audit.verify"
    AUDIT_EXPORT = "audit.export"
    AUDIT_REVIEW = "audit.review"
    EXEMPTION_SET = "exemption.set"
    ANCHOR_TIMESTAMP = "anchor.timestamp"
    FORWARD_GAP = "forward.gap"
    LOG_CHECKPOINT = "log.checkpoint"


KINDS: Final = frozenset(kind.value for kind in Kind)
RESERVED: Final = frozenset({"v", "kind", "id", "log", "ts", "writer", "subject", "cut", "spooled"})


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """Which writer wrote this leaf, and after which of its own: a chain that survives every reordering.

    id    of the writer, as its settings name it.
    boot  random, of this run of the writer.
    wseq  0 for the first leaf of a boot.
    wprev leaf hash (hex) of the boot's previous leaf, "" for the first.
    mono  microseconds of a clock that is never set back, comparable within a boot.
    """

    id: str
    boot: str
    wseq: int
    wprev: str
    mono: int


class Commitment(msgspec.Struct, frozen=True, gc=False):
    """What the leaf holds instead of a value: `c` its salted commitment (hex), `n` its length, `op` the id of its opening.

    of  pseudonym of the person for whom it is sealed, where that is not the record's subject.
    """

    c: str
    n: int
    op: str
    of: str = ""

    @classmethod
    def read(cls, member: object) -> Commitment | None:
        """From a leaf's member; None where that is something else."""
        if isinstance(member, dict) and (member.keys() == {"c", "n", "op"} or member.keys() == {"c", "n", "op", "of"}):
            return cls(member["c"], member["n"], member["op"], member.get("of", ""))
        return None


def check(entry: Entry) -> None:
    """Raise `ValueError` where an entry is not one: unknown kind, unusable id, reserved names.  Contents are never a reason."""
    if entry.kind not in KINDS:
        msg = f"not a kind of record: {entry.kind!r}"
        raise ValueError(msg)
    if not _ID.fullmatch(entry.id):
        msg = f"not the id of a record: {entry.id!r}"
        raise ValueError(msg)
    if not 0 <= entry.at < _MAX_INT:
        msg = f"not a time in microseconds: {entry.at!r}"
        raise ValueError(msg)
    fields, values = entry.fields, entry.values
    if not RESERVED.isdisjoint(fields):
        msg = f"reserved names among the fields: {', '.join(sorted(RESERVED & fields.keys()))}"
        raise ValueError(msg)
    for value in values:
        if value.name in fields or not _names_a_value(value.name):
            msg = f"not the name of a value: {value.name!r}"
            raise ValueError(msg)
    for name in entry.people:
        if name in fields or not _names_a_value(name) or any(value.name == name for value in values):
            msg = f"not a member that names a person: {name!r}"
            raise ValueError(msg)
    if len(values) > 1 and (len({value.name for value in values}) != len(values) or len(values) > MAX_VALUES):
        msg = "the values of a record have distinct names, and are few"
        raise ValueError(msg)


@lru_cache(maxsize=64)  # few are ever used
def _names_a_value(name: str) -> bool:
    return _VALUE_NAME.fullmatch(name) is not None and name not in RESERVED


def compose(  # noqa: PLR0917  the parts of one leaf
    entry: Entry,
    log: str,
    stamp: Stamp,
    pseudonym: str | None,
    commitments: Mapping[str, Commitment] | None = None,
    people: Mapping[str, str] | None = None,
    *,
    spooled: bool = False,
) -> bytes:
    """The leaf of an entry that passed `check`: canonical bytes, at most `MAX_LEAF`.

    Texts that do not fit are cut and end in a digest of the whole; the member `cut` then counts the cuts.  Lone surrogates are
    escaped, numbers outside the profile become texts.  `people` are the pseudonyms of those whom the entry names; `spooled`
    marks a leaf that stands in the spool first.
    """
    leaf: dict[str, object] = {
        "v": VERSION,
        "kind": str(entry.kind),
        "id": entry.id,
        "log": log,
        "ts": entry.at,
        "writer": {"id": stamp.id, "boot": stamp.boot, "wseq": stamp.wseq, "wprev": stamp.wprev, "mono": stamp.mono},
    }
    if pseudonym is not None:
        leaf["subject"] = pseudonym
    if commitments:
        for name, made in commitments.items():
            leaf[name] = member = {"c": made.c, "n": made.n, "op": made.op}
            if made.of:
                member["of"] = made.of
    if people:
        leaf |= people
    if spooled:
        leaf["spooled"] = True
    leaf |= entry.fields
    return _quick(leaf, pseudonym) or _careful(leaf, leaf.keys() - entry.fields.keys(), pseudonym)


def parse(data: bytes) -> dict[str, object]:
    """The record in a leaf's bytes.  `ValueError` where they are not exactly what `compose` would have written."""
    leaf = orjson.loads(data)
    try:
        canonical = _encode(leaf)
    except TypeError:  # an integer beyond the profile
        canonical = None
    if not isinstance(leaf, dict) or canonical != data:
        msg = "the bytes are not a canonical record"
        raise ValueError(msg)
    return leaf


def _quick(leaf: dict[str, object], pseudonym: str | None) -> bytes | None:
    """The bytes, where a few cheap looks prove that they are in the profile; else None."""
    try:
        data = _encode(leaf)
    except TypeError:
        return None
    if data is None:
        return None
    data = _name(data, pseudonym)
    return data if len(data) <= MAX_LEAF else None


def _encode(value: object) -> bytes | None:
    """JCS bytes, or None where orjson might write something else than RFC 8785 asks for.  `TypeError` for what is not JSON."""
    data = orjson.dumps(value, option=_ORJSON)
    if b",." in data.translate(_FLOATS, _DIGITS) and any(isinstance(item, float) for item in _walk(value)):
        return None
    # Only in output that is not ASCII can be a key that is not: orjson sorts keys by code point, RFC 8785 by UTF-16 unit.
    return (
        data if data.isascii() or all(key.isascii() for item in _walk(value) if isinstance(item, dict) for key in item) else None
    )


def _walk(value: object) -> Iterator[object]:
    """The value and everything in it."""
    yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _walk(item)


def _careful(leaf: dict[str, object], own: Set[str], pseudonym: str | None) -> bytes:
    """The bytes of a record that needs cleaning or cutting: ever shorter texts, then whole fields by their digest."""
    for limit in _TEXT_LIMITS:
        cleaner = _Cleaner(limit)
        cleaned = cleaner.mapping(leaf, 0)
        data = _finish(cleaned, cleaner.cuts, pseudonym)
        if len(data) <= MAX_LEAF:
            return data
    # The largest fields go first; what is not a field (ids, writer, commitments) always fits.
    sizes = sorted(((len(orjson.dumps(value)), name) for name, value in cleaned.items() if name not in own), reverse=True)
    for dropped, (size, name) in enumerate(sizes, 1):
        if len(sizes) - dropped >= MAX_FIELDS:
            del cleaned[name]
        else:
            cleaned[name] = _mark(orjson.dumps(cleaned[name], option=orjson.OPT_SORT_KEYS), size)
        data = _finish(cleaned, cleaner.cuts + dropped, pseudonym)
        if len(data) <= MAX_LEAF:
            break
    return data


def _finish(leaf: dict[str, object], cuts: int, pseudonym: str | None) -> bytes:
    if cuts:
        leaf["cut"] = cuts
    return _name(orjson.dumps(leaf, option=_ORJSON), pseudonym)


def _name(data: bytes, pseudonym: str | None) -> bytes:
    """Put the pseudonym where the subject is meant.  To replace plainly is exact unless a text or a key ends in those bytes."""
    if pseudonym is None:
        return data
    parts = data.split(_MEANT)
    if len(parts) == 1:
        return data
    name = b'"%b"' % pseudonym.encode()
    if b":" in [part[:1] for part in parts] or (b"\\" in data and b"\\" in [part[-1:] for part in parts]):
        return _SUBJECT_VALUE.sub(name, data)
    return name.join(parts)


def _mark(whole: bytes, size: int) -> str:
    return f"[cut: {size} bytes, sha256:{hashlib.sha256(whole).hexdigest()}]"


class _Cleaner:
    """Brings any value into the profile; counts what it had to leave out.  Bounded in depth, width and total work."""

    __slots__ = ("cuts", "limit", "nodes")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nodes = 0
        self.cuts = 0

    def clean(self, value: object, depth: int) -> object:
        self.nodes += 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value) if -_MAX_INT < value < _MAX_INT else self._text(_digits(value))
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, float | Decimal):
            return self._text(str(value))
        if depth >= _MAX_DEPTH or self.nodes > _MAX_NODES:
            self.cuts += 1
            return "[cut: too deep or too large]"
        if isinstance(value, Mapping):
            return self.mapping(value, depth)
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
            kept = [self.clean(item, depth + 1) for item in value[:_MAX_ITEMS]]
            return kept + self._rest(len(value))
        self.cuts += 1
        return f"[cut: {type(value).__name__} cannot be recorded]"

    def mapping(self, value: Mapping[Any, object], depth: int) -> dict[str, object]:
        out: dict[str, object] = {}
        for count, (key, item) in enumerate(value.items()):
            if count >= _MAX_ITEMS:
                out["cut"] = self._rest(len(value))[0]
                break
            name = str(key).encode("ascii", "backslashreplace").decode()
            if len(name) > _MAX_KEY:
                self.cuts += 1
                name = f"{name[:32]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
            while name in out:
                name += "~"
            out[name] = self.clean(item, depth + 1)
        return out

    def _rest(self, length: int) -> list[str]:
        if length <= _MAX_ITEMS:
            return []
        self.cuts += 1
        return [f"[cut: {length - _MAX_ITEMS} more]"]

    def _text(self, text: str) -> str:
        raw = text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes the text \udXXX
        if len(raw) <= self.limit:
            return raw.decode()
        self.cuts += 1
        return raw[: self.limit].decode("utf-8", "ignore") + _mark(raw, len(raw))


def _digits(value: int) -> str:
    """Decimal while that is cheap: turning a huge integer into decimal digits takes quadratic time."""
    return str(value) if value.bit_length() <= 1024 else hex(value)
