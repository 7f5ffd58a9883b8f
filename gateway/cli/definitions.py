"""What servers say, held against what was approved: what differs, what waits, one digest over all of it (values in, values out).

Whoever approves names a digest, and what is approved is what has that digest: a definition that changed after it was looked at
has another one.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from gateway.mcp.alike import Names
from gateway.mcp.definitions import LISTS, Told, told
from gateway.mcp.methods import DISCOVER
from gateway.poison import Sign, Subject, gravest, scan
from policies.canonical import digest_of
from policies.lock import Approved, Key, Lock, shown_definition

if TYPE_CHECKING:
    from gateway.cli.live_tools import Word
    from policies.pinning import Pinning

NEW, CHANGED, GONE, ODD = "new", "changed", "gone", "odd"
_ALIKE: Final = 0.75
"""Two definitions are taken for one that was renamed from here on."""
_MOST_COMPARED: Final = 400
_MOST_LINES: Final = 3000
"""Definitions of more lines are not compared line by line: no server keeps a person waiting."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a server says otherwise than it was approved, or does not say any more.

    state   `new`, `changed`, `gone`, or `odd`: no definition, and `waits` says why.
    waits   why it is held back now; "" where it passes, as it was seen first, or nothing is compared.
    before  what counts now, None where nothing does; after: what the server says, None where it is gone.
    eras    of the protocol in which it says so, of a server that speaks both: `legacy`, `modern`.
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
    eras: tuple[str, ...] = ()

    @property
    def approvable(self) -> bool:
        """Whether a person can approve it."""
        return self.state in (NEW, CHANGED)


@dataclass(frozen=True, slots=True)
class Review:
    """What is to be looked at of one server.

    same   how many definitions are as they were approved.
    heard  all that the server has, with the digests of what it says of it.
    """

    server: str
    mode: str
    items: tuple[Item, ...] = ()
    same: int = 0
    heard: Mapping[Key, frozenset[str]] = field(default_factory=dict)

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
    server: str,
    words: tuple[Word, ...],
    pinning: Pinning,
    firsts: Mapping[tuple[bool, Key], tuple[str, str]],
    elsewhere: Mapping[str, list[str]],
) -> Review:
    """Hold a server's word against the lock, and, where first use is trusted, against what was seen first.

    firsts     digest and text (JSON), by whether it was in the era of handshakes, kind and name.
    elsewhere  names of the tools of other servers.
    """
    names = Names((other, name) for other, tools in elsewhere.items() if other != server for name in tools)
    for where, what, name, _ in pinning.lock.every():
        if what == "tool":
            names.add(where, name)
    for _, (what, name) in firsts:
        if what == "tool":
            names.add(server, name)
    reader = _Reader(server, pinning, firsts, names)
    found: dict[tuple[Key, str, int], Item] = {}
    heard: dict[Key, set[str]] = {}
    same: set[Key] = set()
    for word in words:
        for number, one in enumerate(_all_of(word)):
            heard.setdefault(one.key, set()).add(one.digest)
            item = reader.item(one, legacy=word.legacy)
            if item is None:
                same.add(one.key)
                continue
            place = one.key, one.digest, number if one.odd else 0
            before = found.setdefault(place, item)
            if before is not item:  # the same in both eras; what waits in one of them waits
                told_more = item if before.before is None else before
                found[place] = replace(told_more, eras=(*before.eras, *item.eras), waits=before.waits or item.waits)
    gone = [
        Item(server, key, GONE, "", approved.digest, approved.definition)
        for key, approved in sorted(pinning.lock.servers.get(server, {}).items())
        if key not in heard
    ]
    items = tuple(sorted(_renamed(list(found.values()), gone), key=lambda item: (item.key, item.digest)))
    live = {key: frozenset(digests) for key, digests in heard.items()}
    if len(words) == 1:
        items = tuple(replace(item, eras=()) for item in items)
    return Review(server, pinning.mode(server), items, len(same - {item.key for item in items}), live)


def _all_of(word: Word) -> list[Told]:
    heard = [*told(DISCOVER, {"instructions": word.instructions})]
    for method, entries in word.lists.items():
        heard += told(method, {LISTS[method][1]: entries})
    return heard


class _Reader:
    """One server's definitions, one after the other."""

    def __init__(self, server: str, pinning: Pinning, firsts: Mapping[tuple[bool, Key], tuple[str, str]], names: Names) -> None:
        self._server = server
        self._pinning = pinning
        self._firsts = firsts
        self._names = names
        self._elsewhere = names.elsewhere(server)

    def item(self, one: Told, *, legacy: bool) -> Item | None:
        """What there is to see of it; None where it is as it was approved."""
        eras = ("legacy" if legacy else "modern",)
        if one.odd:
            return Item(self._server, one.key, ODD, one.odd, "", after=one.entry, eras=eras)
        approved = self._pinning.lock.approved(self._server, *one.key)
        if approved is not None and one.digest in approved.digests:
            return None
        signs = scan(Subject(self._server, *one.key, one.entry, self._elsewhere))
        like = self._names.like(self._server, one.key[1]) if one.key[0] == "tool" else ""
        first = self._firsts.get((legacy, one.key))
        before = approved.definition if approved is not None else json.loads(first[1]) if first is not None else None
        same = approved is None and first is not None and first[0] == one.digest
        state = NEW if before is None or same else CHANGED
        waits = self._waits(one, approved, first, like, signs)
        return Item(self._server, one.key, state, waits, one.digest, None if same else before, one.entry, signs, like, "", eras)

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
    if len(one) + len(two) > _MOST_LINES:
        return 0
    return difflib.SequenceMatcher(None, one, two, autojunk=False).ratio()


def difference(item: Item) -> list[str]:
    """The lines that came and went, in one order of members, with what is not seen written by its number."""
    before, after = ([] if each is None else shown_definition(each).splitlines() for each in (item.before, item.after))
    if len(before) + len(after) > 2 * _MOST_LINES:
        return [*(f"-{line}" for line in before), *(f"+{line}" for line in after)]
    lines = list(difflib.unified_diff(before, after, lineterm="", n=2))[2:]
    return [line for line in lines if not line.startswith("@@")] if not (before and after) else lines


def approving(lock: Lock, found: Review, items: list[Item], said: Approval, pruned: list[Key]) -> Lock:
    """The lock with these approved, and without what is pruned.

    What was approved of the same thing goes, unless the server says it still, in the other era, or it is to be kept beside.
    """
    keys = dict(lock.servers.get(found.server, {}))
    for key in dict.fromkeys(item.key for item in items):
        new = [Approved(i.after, i.digest, said.by, said.at, said.note) for i in sorted(items, key=_modern_first) if i.key == key]
        old = keys.get(key)
        kept = [] if old is None else [replace(old, also=()), *old.also]
        kept = [one for one in kept if said.beside or one.digest in found.heard.get(key, ())]
        first, *rest = new
        keys[key] = replace(first, also=tuple(one for one in (*rest, *kept) if one.digest != first.digest))
    servers = {**lock.servers, found.server: {key: one for key, one in keys.items() if key not in pruned}}
    return Lock({server: each for server, each in servers.items() if each})


def _modern_first(item: Item) -> bool:
    return "modern" not in item.eras


@dataclass(frozen=True, slots=True)
class Approval:
    """Who approves, when and why; `beside`: what was approved before still counts."""

    by: str
    at: str
    note: str = ""
    beside: bool = False
