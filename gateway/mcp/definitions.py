"""What a server's answer says of itself, taken apart into definitions with their digests (values in, values out).

What has no one reading is no definition: a name that stands twice in one list, a text that has no canonical form, a size that
nobody reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.mcp.methods import DISCOVER, INITIALIZE, LIST_PROMPTS, LIST_TEMPLATES, LIST_TOOLS
from gateway.poison import Sign
from policies.canonical import UncanonicalError, canonical, digest_of, named
from policies.lock import MAX_DEFINITION, MAX_NAME, NAMED_BY, WHOLE, Key, What
from policies.pinning import Grade, Pinning

LISTS: Final[Mapping[str, tuple[What, str]]] = MappingProxyType(
    {LIST_TOOLS: ("tool", "tools"), LIST_PROMPTS: ("prompt", "prompts"), LIST_TEMPLATES: ("template", "resourceTemplates")}
)
"""Methods whose answers list definitions: of what, and under which member."""
INTRODUCTIONS: Final = frozenset({INITIALIZE, DISCOVER})
"""Methods by whose answers a server introduces itself, with its instructions."""
MOST_OF_A_LIST: Final = 5000
_READ_AT_ONCE: Final = 200

TWICE: Final = "twice"
UNREADABLE: Final = "unreadable"
TOO_LARGE: Final = "too-large"


@dataclass(frozen=True, slots=True)
class Told:
    """One entry of an answer.

    entry   as it came.
    digest  of its canonical form, and size of that in bytes; "" where `odd` says why it is no definition.
    """

    key: Key
    entry: Any
    digest: str
    odd: str = ""
    size: int = 0


def is_long(method: str, result: Mapping[str, Any]) -> bool:
    """Whether an answer is so long that reading it would hold up everybody else's calls."""
    entries = result.get(LISTS[method][1]) if method in LISTS else None
    return isinstance(entries, list) and len(entries) > _READ_AT_ONCE


def told(method: str, result: Mapping[str, Any]) -> list[Told]:
    """Every definition of an answer, in its order; of what is no list of them, none."""
    if method in INTRODUCTIONS:
        said = result.get("instructions")
        return [] if said is None else [_told("instructions", WHOLE, said)]
    what, member = LISTS[method]
    entries = result.get(member)
    if not isinstance(entries, list):
        return []
    names = Counter(name for entry in entries if isinstance(name := _name(what, entry), str))
    found = [_told(what, _name(what, entry), entry) for entry in entries[:MOST_OF_A_LIST]]
    return [Told(one.key, one.entry, "", TWICE) if names[one.key[1]] > 1 else one for one in found]


def without(method: str, result: dict[str, Any], kept: list[Any]) -> dict[str, Any]:
    """The answer with these entries only."""
    if method in INTRODUCTIONS:
        return result if kept else {member: value for member, value in result.items() if member != "instructions"}
    member = LISTS[method][1]
    return {**result, member: kept} if isinstance(result.get(member), list) else result


_OF_ONE_ERA: Final = frozenset({"_meta", "annotations", "execution", "icons", "outputSchema", "title"})


def akin(one: Any, other: Any) -> bool:
    """Whether two definitions are the same but for members that one era of the protocol does not know, and one of them lacks."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return digest_of(one) == digest_of(other)
    shared = one.keys() & other.keys()
    return (one.keys() | other.keys()) - shared <= _OF_ONE_ERA and all(digest_of(one[k]) == digest_of(other[k]) for k in shared)


def _name(what: What, entry: Any) -> Any:
    return entry.get(NAMED_BY[what]) if isinstance(entry, dict) else None


def _told(what: What, name: Any, entry: Any) -> Told:
    usable = isinstance(name, str) and len(name) <= MAX_NAME and "\0" not in name and (bool(name) or what == "instructions")
    if not usable or not isinstance(entry, str if what == "instructions" else dict):
        return Told((what, name if usable else ""), entry, "", UNREADABLE)
    try:
        data = canonical(entry)
        if len(data) > MAX_DEFINITION:
            return Told((what, name), entry, "", TOO_LARGE)
        return Told((what, name), entry, named(data), size=len(data))
    except UncanonicalError:
        return Told((what, name), entry, "", UNREADABLE)


@dataclass(slots=True)
class Live:
    """The newest word of a server about one thing.

    at    when it was heard, in seconds of the monotonic clock.
    turn  how many times servers had said that something changed when it was asked for.
    passes   the policy under which it was found to pass; whatever could change that makes a new one of these.
    strange  in the other era it was pinned otherwise, and not only in what one of the eras does not know.
    """

    digest: str
    at: float
    turn: int
    odd: str = ""
    alike: str = ""
    signs: tuple[Sign, ...] = ()
    grade: Grade | None = None
    strange: bool = False
    passes: Pinning | None = None


class Place(NamedTuple):
    """A server in one era of the protocol: what it says in one may lack what only the other knows, and is pinned by itself."""

    server: str
    legacy: bool
