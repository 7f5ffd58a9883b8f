"""What the ledger says of policy: what came into force and what was refused, by whose wish, and which rules agreed to that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from audit.model import Entry, Receipt, Value
from gateway.model import new_id
from policies.approvals import newly
from policies.lock import NOTHING_LOCKED

if TYPE_CHECKING:
    from gateway.policy.activation import Rejected
    from gateway.policy.in_force import Pair
    from policies.bundle import Bundle

Append = Callable[[Entry], Awaitable[Receipt]]
SHOWN: Final = 10
"""Findings whose code and place stand in the leaf; their words, which may name people, stand beside it."""
_WORDS: Final = 200
_AT_ONCE: Final = 64
"""Approved definitions of one record."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Why a folder is looked at, and who wanted it, where somebody did.

    cause    `start`, `watch`, `signal`, `request`, `rollback` or `replica`.
    request  id of the record of the wish.
    """

    cause: str
    subject: str | None = None
    actors: tuple[str, ...] = ()
    request: str = ""

    @property
    def explicit(self) -> bool:
        """Whether somebody waits for an answer: then what was refused is tried again."""
        return self.cause in {"signal", "request", "rollback"}


def activated(pair: Pair, role: str, asked: Asked, before: str, at: int) -> Entry:
    """A bundle comes into force."""
    fields: dict[str, object] = {"policy": pair.digest, "role": role, **_why(asked)}
    if before:
        fields["before"] = before
    if pair.serial is not None:
        fields["serial"] = pair.serial
    return Entry("policy.activate", new_id(at), at, asked.subject, fields)


def approved(pair: Pair, before: Bundle | None, at: int) -> Iterator[Entry]:
    """Definitions of servers that a bundle approves and the one before it did not."""
    rest = newly(before.pinning.lock if before is not None else NOTHING_LOCKED, pair.bundle.pinning.lock)
    while some := list(islice(rest, _AT_ONCE)):
        fields: dict[str, object] = {
            "policy": pair.digest,
            "definitions": [
                {"target": server, "what": what, "name": name, "digests": list(one.digests), "by": one.by, "at": one.at}
                for server, what, name, one in some
            ],
        }
        yield Entry("definition.approved", new_id(at), at, None, fields)


def refused(rejected: Rejected, role: str, asked: Asked, stays: str, at: int) -> Entry:
    """A bundle was refused, and another stays in force."""
    found = rejected.findings
    fields: dict[str, object] = {
        "policy": rejected.digest,
        "tree": rejected.mark,
        "role": role,
        "stays": stays,
        "count": len(found),
        "findings": [{"code": each.code, "at": each.location[:256]} for each in found[:SHOWN]],
        **_why(asked),
    }
    words = "\n".join(str(each)[:_WORDS] for each in found[:SHOWN])
    return Entry("policy.reject", new_id(at), at, asked.subject, fields, (Value("words", words.encode("utf-8", "replace")),))


def _why(asked: Asked) -> dict[str, object]:
    fields: dict[str, object] = {"cause": asked.cause}
    if asked.subject is not None:
        fields["by"] = [["user", "@subject"], *(["agent", actor] for actor in asked.actors)]
        fields["request"] = asked.request
    return fields
