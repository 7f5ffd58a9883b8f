"""From a record back to the question that was decided, exactly as it was asked, and to the answer that was given.

Nothing is guessed: where a value is gone, or a record lacks what the question was made from, the answer is `Undecidable`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import orjson

from audit.reader import Damaged, Ledger, Opened, Record, Shredded
from gateway.a2a.operations import CARD
from gateway.mcp.errors import RpcRefused
from gateway.mcp.methods import CALL_TOOL
from gateway.mcp.wire import peek_tool
from policies import names
from policies.bundle import BundleError, load
from policies.engine import Engine
from policies.model import NOTHING, AccessRequest, Role
from policies.replay import Asked, Ruled, Verdict

EVALUATE: Final = "decision.evaluate"
KINDS: Final = (
    *("call.start", "question.ask", "decision.deny", EVALUATE, "policy.reload", "egress.start"),
    *("identity.delegate", "identity.kill", "identity.lift", "grant.revoke", "vault.forget"),
    *("erasure.ask", "erasure.approve", "hold.set", "hold.clear"),
)
"""Those that may hold a decision; of what people did with their own there was none to make."""
VALUES: Final = ("facts", "request", "question")
DEPTH: Final = 256
"""Nesting that is read back: as much as any setting of the gateway accepts."""
_ENGINES: Final = 4


class Why(StrEnum):
    """Why a recorded decision cannot be made again: a closed list."""

    ERASED = "erased"  # the person's key was destroyed, and with it what was asked
    NOT_KEPT = "not-kept"  # the record has no decision, or lacks a value that the question was made from: an older gateway's
    CUT = "cut"  # the record was too large to be kept whole
    UNKNOWN_FORM = "unknown-form"  # a kind of question that this version does not know
    REDACTED = "redacted"  # a secret among the arguments was never recorded
    DAMAGED = "damaged"  # what is stored is not what was recorded
    HISTORY = "history"  # a rule of a workflow hangs on something that no record tells
    RACED = "raced"  # too many calls of its workflow were under way at the same moment, in no order that is known
    NO_BUNDLE = "no-bundle"  # the bundle that decided is not at hand


@dataclass(frozen=True, slots=True)
class Undecidable:
    """A recorded decision that is counted and not made again."""

    record: Record
    why: Why
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Past:
    """A recorded decision: the question, and the answer that was given.  subject is the person's pseudonym.

    said  what rules of workflows read of the call, where that is known.
    """

    record: Record
    subject: str
    request: AccessRequest
    verdict: Verdict
    said: Mapping[str, object] | None = None


class _LostError(Exception):
    def __init__(self, why: Why, detail: str = "") -> None:
        super().__init__(detail)
        self.why = why
        self.detail = detail


def decisions(log: Ledger, since: int = 0, stop: int | None = None) -> Iterator[Past | Undecidable]:
    """Every recorded decision that is not older than `since`, in the order of the log.  Needs the seal key."""
    for opened in log.opened(KINDS, VALUES, since=since, stop=stop):
        found = rebuild(opened)
        if found is not None:
            yield found


def rebuild(opened: Opened) -> Past | Undecidable | None:
    """The decision that a record holds; None where the call was refused before there was a question."""
    record = opened.record
    leaf = record.leaf
    if "decision" not in leaf and record.commitment("facts") is None:
        return None
    try:
        if "cut" in leaf:
            raise _LostError(Why.CUT)
        if "originals" in leaf or {"request", "question"} & leaf.get("secrets", {}).keys():
            raise _LostError(Why.REDACTED)
        if "decision" not in leaf:
            raise _LostError(Why.NOT_KEPT, "no decision stands in the record")
        request = _evaluated(opened, leaf) if record.kind == EVALUATE else _request(opened, leaf)
        return Past(record, str(record.subject), request, _verdict(leaf["decision"]))
    except _LostError as lost:
        return Undecidable(record, lost.why, lost.detail)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # fields of another shape than this gateway writes
        return Undecidable(record, Why.UNKNOWN_FORM, f"{type(error).__name__} in the record's fields")


def _evaluated(opened: Opened, leaf: Mapping[str, Any]) -> AccessRequest:
    """A question that was only asked: its subject, chain and facts stand in the question itself, as they may be another's."""
    _name(opened)  # the asker's: erased with their key is all that they asked
    facts = _facts(_kept(opened.values["question"], "question"), Decimal)
    said = facts["question"]
    return AccessRequest(
        subject=_text(facts["subject"]),
        actors=tuple(_text(actor) for actor in facts["actors"]),
        tenant=_text(leaf["tenant"]),
        action=_text(leaf["action"]),
        resource=_text(leaf["resource"]),
        at=facts["at"],
        groups=frozenset(facts["groups"]),
        arguments=said.get("action", {}).get("properties", {}).get("arguments", {}),
        context=facts["context"],
    )


def _request(opened: Opened, leaf: Mapping[str, Any]) -> AccessRequest:
    facts = _facts(_kept(opened.values["facts"], "facts"))
    subject = _name(opened)
    (kind, whose), *agents = leaf["chain"]
    if kind != "user" or whose != opened.record.subject or any(each != "agent" for each, _ in agents):
        raise _LostError(Why.UNKNOWN_FORM, "chain")
    return AccessRequest(
        subject=subject,
        actors=tuple(_text(agent) for _, agent in agents),
        tenant=_text(leaf["tenant"]),
        action=_text(leaf["action"]),
        resource=_text(leaf["resource"]),
        at=facts["at"],
        groups=frozenset(facts["groups"]),
        arguments=_arguments(opened, leaf),
        context=facts["context"],
    )


def _arguments(opened: Opened, leaf: Mapping[str, Any]) -> Mapping[str, object] | None:
    """As `normalise` of the protocol gave them: a tool call's own, none for everything else, not known for an agent's card."""
    protocol, method, action = leaf["proto"], leaf.get("method", ""), leaf["action"]
    if protocol == "mcp" and method == CALL_TOOL and action == "call":
        if leaf.get("direction") == "resume":
            return None  # what was asked at the call is not said again
        try:
            name, arguments = peek_tool(_kept(opened.values["request"], "request"), DEPTH)
        except RpcRefused as refusal:
            raise _LostError(Why.UNKNOWN_FORM, f"request: {refusal.code.value}") from None
        if leaf["resource"] != f"{leaf['target']}.{name}":
            raise _LostError(Why.DAMAGED, "the record names another tool than its request")
        return arguments
    kind = names.kind_of(leaf["resource"])
    if kind is None or kind.name not in names.WITH_ARGUMENTS:
        return None if protocol == "a2a" and method == CARD else NOTHING
    raise _LostError(Why.UNKNOWN_FORM, f"{str(action)[:32]} by {str(method)[:64]}")


def _name(opened: Opened) -> str:
    subject = opened.subject
    if isinstance(subject, Shredded):
        raise _LostError(Why.ERASED)
    if isinstance(subject, Damaged):
        raise _LostError(Why.DAMAGED, subject.why)
    if subject is None:
        raise _LostError(Why.UNKNOWN_FORM, "nobody's decision")
    return subject


def _kept(value: bytes | Shredded | Damaged | None, name: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, Shredded):
        raise _LostError(Why.ERASED)
    if isinstance(value, Damaged):
        raise _LostError(Why.DAMAGED, f"{name}: {value.why}")
    raise _LostError(Why.NOT_KEPT, f"the record has no {name}")


def _facts(data: bytes, number: Callable[[str], object] = float) -> Mapping[str, Any]:
    facts = orjson.loads(data) if number is float else json.loads(data, parse_float=number)
    texts = facts["groups"]
    if type(facts["at"]) is not int or not isinstance(facts["context"], dict) or any(type(text) is not str for text in texts):
        raise _LostError(Why.UNKNOWN_FORM, "facts")
    return facts  # type: ignore[no-any-return]  # a mapping, or the lines above would have failed


def _verdict(decision: Mapping[str, Any]) -> Verdict:
    return Verdict(
        _text(decision["effect"]),
        _text(decision["reason"]),
        _text(decision["policy"]),
        tuple(
            Asked(
                "" if asked["role"] == Role.SUBJECT.value else _text(asked["who"]),
                asked["role"],
                asked["action"],
                asked["allow"],
                tuple(asked["rules"]),
                tuple(asked["duties"]),
                tuple(asked["near"]),
            )
            for asked in decision["asked"]
        ),
        tuple(decision["obligations"]),
        _ruled(decision["workflow"]) if decision.get("workflow", {}).get("held") else None,
    )


def _ruled(said: Mapping[str, Any]) -> Ruled:
    return Ruled(
        tuple(_text(name) for name, _ in said["held"]),
        tuple(said["rules"]),
        tuple(each["rule"] for each in said["refused"]),
        tuple(each["rule"] for each in said["watched"]),
    )


def _text(value: object) -> str:
    if type(value) is not str:
        raise _LostError(Why.UNKNOWN_FORM, "a text is none")
    return value


class Kept:
    """The bundles at hand, by digest: folders that hold one folder a bundle, named by its hex digest, and single folders.

    What is loaded is what it is called by, or it is not used.  missing: digests that were asked for in vain, and why.
    """

    def __init__(self, archives: Iterable[Path]) -> None:
        self._archives = tuple(archives)
        self._engines: dict[str, Engine] = {}
        self._folders: dict[str, Path] = {}
        self.missing: dict[str, str] = {}

    def add(self, folder: Path) -> None:
        """A single folder more; BundleError for one that is no bundle."""
        self._folders[load(folder).digest] = folder

    def engine(self, digest: str) -> Engine | None:
        """An engine of that bundle; a few are kept, as neighbouring records are mostly one bundle's."""
        engine = self._engines.get(digest)
        if engine is None and digest not in self.missing:
            engine = self._load(digest)
            if engine is None:
                return None
            if len(self._engines) >= _ENGINES:
                del self._engines[next(iter(self._engines))]
            self._engines[digest] = engine
        return engine

    def _load(self, digest: str) -> Engine | None:
        kind, _, name = digest.partition(":")
        if kind != "sha256" or len(name) != 64 or not all(c in "0123456789abcdef" for c in name):
            self.missing[digest] = "it is no bundle's digest"  # and no path is made of it
            return None
        places = [*([self._folders[digest]] if digest in self._folders else ()), *(folder / name for folder in self._archives)]
        why = "it is not in the archive"
        for place in places:
            if not place.is_dir():
                continue
            try:
                bundle = load(place)
            except (BundleError, OSError) as error:
                why = f"{place} cannot be loaded: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
                continue
            if bundle.digest == digest:
                return Engine(bundle)
            why = f"{place} holds another bundle than its name says"
        self.missing[digest] = why
        return None
