"""What servers say, held against what was approved: what differs, what waits, one digest over all of it (values in, values out).

Whoever approves names a digest, and what is approved is what has that digest: a definition that changed after it was looked at
has another one.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from gateway.mcp.alike import Names
from gateway.mcp.definitions import LISTS, Told, told
from gateway.mcp.methods import DISCOVER
from gateway.mcp.poison import Sign, Subject, gravest, scan
from policies.canonical import digest_of
from policies.lock import Approved, Key, Lock, shown_definition

if TYPE_CHECKING:
    from gateway.cli.live_tools import Word
    from policies.pinning import Pinning

NEW, CHANGED, GONE, ODD = "new", "changed", "gone", "odd"
_ALIKE: Final = 0.75
"""Two definitions are taken for one that was renamed from here on."""
_MOST_COMPARED: Final = 400


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a server says otherwise than it was approved, or does not say any more.

    state   `new`, `changed`, `gone`, or `odd`: no definition, and `waits` says why.
    waits   why it is held back now; "" where it passes, as it was seen first, or nothing is compared.
    before  what counts now, None where nothing does; after: what the server says, None where it is gone.
    like    which other tool its name could be mistaken for; renamed: what it was called before, where it was.
    """

    server: str
    key: Key
    state: str
    waits: str
    digest: str
    before: Any = None
    after: Any = None
    signs: tuple[Sign, ...] = ()
    like: str = ""
    renamed: str = ""

    @property
    def approvable(self) -> bool:
        """Whether a person can approve it."""
        return self.state in (NEW, CHANGED)


@dataclass(frozen=True, slots=True)
class Review:
    """What is to be looked at of one server.

    same   how many definitions are as they were approved.
    heard  all that the server has.
    """

    server: str
    mode: str
    items: tuple[Item, ...] = ()
    same: int = 0
    heard: frozenset[Key] = frozenset()

    @property
    def digest(self) -> str:
        """Of all that can be approved, together; "" where nothing can."""
        pending = sorted([*item.key, item.digest] for item in self.items if item.approvable)
        return digest_of([self.server, pending]) if pending else ""

    @property
    def waiting(self) -> int:
        """How many are held back."""
        return sum(1 for item in self.items if item.waits)

    def meant(self, digests: list[str]) -> tuple[list[Item], list[str]]:
        """The items that these digests name, all of them or one by one; and digests that name nothing here."""
        named = {item.digest: item for item in self.items if item.approvable}
        if self.digest in digests and self.digest:
            return list(named.values()), [each for each in digests if each != self.digest and each not in named]
        return [named[each] for each in digests if each in named], [each for each in digests if each not in named]


def review(
    server: str, word: Word, pinning: Pinning, firsts: Mapping[Key, tuple[str, str]], elsewhere: Mapping[str, list[str]]
) -> Review:
    """Hold a server's word against the lock, and, where first use is trusted, against what was seen first.

    firsts     digest and text (JSON) by kind and name.
    elsewhere  names of the tools of other servers.
    """
    heard = [*told(DISCOVER, {"instructions": word.instructions})]
    for method, entries in word.lists.items():
        heard += told(method, _answer(method, entries))
    names = Names((other, name) for other, tools in elsewhere.items() if other != server for name in tools)
    for where, what, name, _ in pinning.lock.every():
        if what == "tool":
            names.add(where, name)
    for what, name in firsts:
        if what == "tool":
            names.add(server, name)
    reader = _Reader(server, pinning, firsts, names)
    found = [item for one in heard if (item := reader.item(one)) is not None]
    live = {one.key for one in heard}
    gone = [
        Item(server, key, GONE, "", approved.digest, approved.definition)
        for key, approved in sorted(pinning.lock.servers.get(server, {}).items())
        if key not in live
    ]
    items = tuple(sorted(_renamed(found, gone), key=lambda item: (item.key, item.digest)))
    return Review(server, pinning.mode(server), items, len(heard) - len(found), frozenset(live))


def _answer(method: str, entries: list[Any]) -> dict[str, Any]:
    return {LISTS[method][1]: entries}


class _Reader:
    """One server's definitions, one after the other."""

    def __init__(self, server: str, pinning: Pinning, firsts: Mapping[Key, tuple[str, str]], names: Names) -> None:
        self._server = server
        self._pinning = pinning
        self._firsts = firsts
        self._names = names
        self._elsewhere = names.elsewhere(server)

    def item(self, one: Told) -> Item | None:
        """What there is to see of it; None where it is as it was approved."""
        if one.odd:
            return Item(self._server, one.key, ODD, one.odd, "", after=one.entry)
        approved = self._pinning.lock.approved(self._server, *one.key)
        if approved is not None and approved.digest == one.digest:
            return None
        signs = scan(Subject(self._server, *one.key, one.entry, self._elsewhere))
        like = self._names.like(self._server, one.key[1]) if one.key[0] == "tool" else ""
        first = self._firsts.get(one.key)
        before = approved.definition if approved is not None else json.loads(first[1]) if first is not None else None
        same = approved is None and first is not None and first[0] == one.digest
        state = NEW if before is None or same else CHANGED
        waits = self._waits(one, approved, first, like, signs)
        return Item(self._server, one.key, state, waits, one.digest, None if same else before, one.entry, signs, like)

    def _waits(
        self, one: Told, approved: Approved | None, first: tuple[str, str] | None, like: str, signs: tuple[Sign, ...]
    ) -> str:
        mode = self._pinning.mode(self._server)
        if mode == "off":
            return ""
        if approved is not None:
            return CHANGED
        if mode == "quarantine":
            return NEW
        if first is not None:
            return "" if first[0] == one.digest else CHANGED
        return "look-alike" if like else "suspicious" if self._pinning.waits(self._server, gravest(signs)) else ""


def _renamed(found: list[Item], gone: list[Item]) -> Iterator[Item]:
    """All of it; what is new and very much like something that is gone is told as renamed, and compared with that."""
    left = list(gone)
    for item in found:
        nearest = None
        if item.state == NEW and left and len(found) * len(left) <= _MOST_COMPARED:
            nearest = max(left, key=lambda other: _likeness(item, other))
        if nearest is not None and _likeness(item, nearest) >= _ALIKE:
            left.remove(nearest)
            yield replace(item, before=nearest.before, renamed=nearest.key[1])
        else:
            yield item
    yield from left


def _likeness(item: Item, other: Item) -> float:
    """How alike two definitions are, but for their names."""
    if item.key[0] != other.key[0] or not isinstance(item.after, dict):
        return 0
    one, two = (
        shown_definition({key: value for key, value in each.items() if key not in {"name", "title"}}).split("\n")
        for each in (item.after, other.before)
    )
    return difflib.SequenceMatcher(None, one, two, autojunk=False).ratio()


def difference(item: Item) -> list[str]:
    """The lines that came and went, in one order of members, with what is not seen written by its number."""
    before, after = ([] if each is None else shown_definition(each).splitlines() for each in (item.before, item.after))
    lines = list(difflib.unified_diff(before, after, lineterm="", n=2))[2:]
    return [line for line in lines if not line.startswith("@@")] if not (before and after) else lines


def approving(lock: Lock, items: list[Item], *, by: str, at: str, note: str, pruned: list[tuple[str, Key]]) -> Lock:
    """The lock with these approved, and without what is pruned."""
    servers = {server: dict(keys) for server, keys in lock.servers.items()}
    for item in items:
        servers.setdefault(item.server, {})[item.key] = Approved(item.after, item.digest, by, at, note)
    for server, key in pruned:
        servers.get(server, {}).pop(key, None)
    return Lock({server: keys for server, keys in servers.items() if keys})
