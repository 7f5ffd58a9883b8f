"""What servers say of themselves, held against what was approved or seen first; whatever differs is let through nowhere.

The newest word of a server counts at once, from whichever list it came; a word that is too old is asked for again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Final, cast

import orjson

from audit.model import Entry, LedgerUnavailableError
from gateway import signals
from gateway.mcp import pin_records as records
from gateway.mcp.alike import Names
from gateway.mcp.definitions import MOST_OF_A_LIST, TOO_LARGE, Live, Place, Told, akin
from gateway.model import Clock, Refused
from gateway.poison import Sign, Subject, gravest, scan
from gateway.prometheus import Family, Sample
from gateway.reasons import Code
from gateway.state.definitions import Definitions, First, Seen
from gateway.state.definitions import Key as Row
from policies.lock import NOTHING_LOCKED, Key, Lock, What, shown_definition
from policies.pinning import Pinning

NEW: Final = "new"
CHANGED: Final = "changed"
LOOK_ALIKE: Final = "look-alike"
SUSPICIOUS: Final = "suspicious"
UNREAD: Final = "unread"
"""The server changes more than is looked through in a minute."""
SUPERSEDED: Final = "superseded"
"""The server has said something else since: it does not pass, and is not told."""
READ_A_MINUTE: Final = 8_000_000
"""Bytes of one server's definitions that are looked through for signs; what is beyond them waits for the next minute."""
MOST_A_MINUTE: Final = 200
"""Records about one server's definitions; beyond them it is still held back, and counted in the next record."""

Append = Callable[[Entry], Awaitable[object]]


def _nobody() -> None:
    pass  # there is no other replica that could be told


def _nobody_here(_server: str, _kinds: Iterable[str]) -> None:
    pass  # nobody listens


class Pins:
    """What is known in this process, whatever policy is in force; belongs to the event loop.

    rows     what was seen first, on every replica.
    seconds  how long a server's word counts without being heard again.
    now      a monotonic clock.
    """

    def __init__(self, rows: Definitions, append: Append, clock: Clock, *, seconds: float, now: Callable[[], float]) -> None:
        self._rows = rows
        self._append = append
        self._clock = clock
        self._seconds = seconds
        self.now = now
        self._live: dict[Place, dict[Key, Live]] = {}
        self._first: dict[Place, dict[Key, Seen]] = {}
        self._looked: dict[tuple[Place, Key], float] = {}
        self._turns: dict[Place, asyncio.Lock] = {}
        self._since: dict[str, int] = {}
        self.turn = 0
        self.announce: Callable[[], None] = _nobody
        """Tells other replicas that something changed."""
        self.tell: Callable[[str, Iterable[str]], None] = _nobody_here
        """Tells whoever listens to a server that its lists (`tools`, `prompts`, `resources`) hold something else now."""
        self._names = Names()
        self._locked = NOTHING_LOCKED, Names()
        self._read: dict[str, tuple[int, int]] = {}  # minute, bytes of definitions that were looked through in it
        self._spent: dict[str, tuple[int, int, int]] = {}  # minute, records in it, what was not recorded since

    async def open(self, servers: Iterable[str]) -> None:
        """Read what was seen of these servers before."""
        for row, seen in (await self._rows.of(servers)).items():
            self._remember(*of_row(row), seen)

    def stale(self, server: str) -> None:
        """The server says that something changed: its word is asked for again before anything is let through."""
        self.turn += 1
        self._since[server] = self.turn

    def forget(self) -> None:
        """Something changed on another replica: every server's word is asked for again."""
        self._looked.clear()
        for server in {place.server for place in self._live}:
            self.stale(server)
            self.tell(server, _LISTED.values())

    def families(self) -> Iterator[Family]:
        """How much of each server is held back.  Servers and kinds are closed lists; no server can make a label."""
        things = {(place.server, *key) for place, keys in self._first.items() for key, seen in keys.items() if seen.held}
        held = Counter((server, what) for server, what, _ in things)
        samples = [Sample({"server": server, "what": what}, count) for (server, what), count in sorted(held.items())]
        yield Family(
            signals.DEFINITIONS_HELD, "gauge", "Definitions of servers that nobody has approved, and nobody sees.", samples
        )

    # --- what may pass

    def passes(self, pinning: Pinning, place: Place, key: Key) -> bool:
        """Whether it was found to pass, and the word by which it was is new enough: what nearly every call asks, and no more."""
        live = self._live.get(place, {}).get(key)
        return live is not None and live.passes is pinning and self._is_new(place, live)

    def digest(self, place: Place, key: Key) -> str:
        """Of the server's newest word about something; "" where nobody has heard it."""
        return live.digest if (live := self._live.get(place, {}).get(key)) is not None else ""

    def verdict(self, pinning: Pinning, place: Place, key: Key) -> str:
        """Why a server's thing may not pass; "" where it may, or where nothing of it is known."""
        live = self._live.get(place, {}).get(key)
        if live is None:
            return ""
        why = self._judged(pinning, place, key, live.digest, live)
        live.passes = None if why else pinning
        return why

    def _is_new(self, place: Place, live: Live) -> bool:
        return live.at > self.now() - self._seconds and live.turn >= self._since.get(place.server, 0)

    def known(self, pinning: Pinning, place: Place, key: Key) -> bool:
        """Whether the server's word about it is new enough to be judged by; where first use is trusted, also one that nobody has
        heard: nothing has been pinned that it could differ from."""
        live = self._live.get(place, {}).get(key)
        if live is not None:
            return self._is_new(place, live) and (not self._is_under_way(place) or self._pinned(pinning, place, key))
        return (
            not self._pinned(pinning, place, key) and self._looked.get((place, key), -self._seconds) > self.now() - self._seconds
        )

    def _is_under_way(self, place: Place) -> bool:
        return (turn := self._turns.get(place)) is not None and turn.locked()

    async def heard_out(self, place: Place) -> None:
        """Wait until what the server says at this moment is pinned: before that, what was seen first looks like what is new."""
        if (turn := self._turns.get(place)) is not None and turn.locked():
            async with turn:
                pass

    def waits(self, pinning: Pinning, place: Place, key: Key) -> bool:
        """Whether only a person's approval lets this pass: its server need not even be asked."""
        return pinning.mode(place.server) == "quarantine" and pinning.lock.approved(place.server, *key) is None

    def _pinned(self, pinning: Pinning, place: Place, key: Key) -> bool:
        return pinning.lock.approved(place.server, *key) is not None or key in self._first.get(place, {})

    async def look_up(self, pinning: Pinning, place: Place, key: Key) -> bool:
        """Whether it was pinned or held back before, on whichever replica."""
        if not self._pinned(pinning, place, key):
            if (seen := await self._rows.get(_row(place, key))) is not None:
                self._remember(place, key, seen)
            elif len(self._looked) < MOST_OF_A_LIST:
                self._looked[place, key] = self.now()
            else:
                self._looked = {(place, key): self.now()}
        return self._pinned(pinning, place, key)

    def _judged(self, pinning: Pinning, place: Place, key: Key, digest: str, live: Live) -> str:
        if live.odd:
            return live.odd
        if (approved := pinning.lock.approved(place.server, *key)) is not None:
            return "" if digest in approved.digests else CHANGED
        if pinning.mode(place.server) == "quarantine":
            return NEW
        first = self._first.get(place, {}).get(key)
        if first is not None and first.digest:
            return "" if first.digest == digest else CHANGED
        if live.strange:
            return CHANGED
        return LOOK_ALIKE if live.alike else SUSPICIOUS if pinning.waits(place.server, live.grade) else NEW

    # --- what is heard

    async def learn(self, pinning: Pinning, place: Place, heard: list[Told], call: str, turn: int) -> list[Any]:
        """Take in a server's answer, asked for at this turn; the entries of it that may pass.  Durable and on record on return.

        `Refused` where that cannot be: then nothing passes.
        """
        if all(self._same(pinning, place, told) for told in heard):
            for told in heard:
                self._again(self._live[place][told.key], turn)
            return [told.entry for told in heard]
        await self._take_in(pinning, place, heard, turn)
        async with self._turns.setdefault(place, asyncio.Lock()):  # of lists that come at once, one is told of
            await self._hold_against_other_era(pinning, place, heard)
            first = [t for t in heard if not t.odd and self._trusts(pinning, place, t)]
            if first:
                await self._pin(place, first, call)
            reasons = [(told, self._reason(pinning, place, told)) for told in heard]
            await self._settle(pinning, place, reasons, call)
        return [told.entry for told, why in reasons if not why]

    def _again(self, live: Live, turn: int) -> None:
        live.at, live.turn = self.now(), max(live.turn, turn)

    def _same(self, pinning: Pinning, place: Place, told: Told) -> bool:
        live = self._live.get(place, {}).get(told.key)
        held = self._first.get(place, {}).get(told.key, _UNSEEN).held
        return (
            live is not None
            and live.digest == told.digest
            and not held
            and not self._judged(pinning, place, told.key, told.digest, live)
        )

    def _reason(self, pinning: Pinning, place: Place, told: Told) -> str:
        live = self._live.get(place, {}).get(told.key)
        if told.odd or live is None:
            return told.odd or TOO_LARGE
        return self._judged(pinning, place, told.key, told.digest, live) or (SUPERSEDED if told.digest != live.digest else "")

    async def _take_in(self, pinning: Pinning, place: Place, heard: list[Told], turn: int) -> None:
        """What every entry is now, what it looks like, and what is suspicious of it; texts are read in a thread."""
        live = self._live.setdefault(place, {})
        fresh = self._readable(
            place.server, [t for t in heard if t.digest and (t.key not in live or live[t.key].digest != t.digest)]
        )
        keys, names = {told.key for told in fresh}, self._of(pinning.lock)
        elsewhere = self._names.elsewhere(place.server) | names.elsewhere(place.server)
        signs = await asyncio.to_thread(_scanned, place.server, fresh, elsewhere) if fresh else {}
        beside = Names((place.server, t.key[1]) for t in fresh if t.key[0] == "tool" and not self._pinned(pinning, place, t.key))
        for told in heard:
            if told.key not in live and len(live) >= MOST_OF_A_LIST:
                continue  # and what is not known does not pass
            if told.key not in keys and not told.odd:
                if told.key in live and live[told.key].digest == told.digest:
                    self._again(live[told.key], turn)
                else:
                    live[told.key] = Live("", self.now(), turn, UNREAD)
                continue
            found = signs.get(told.digest, ())
            alike = ""
            if told.key[0] == "tool" and not told.odd:
                alike = next(filter(None, (each.like(place.server, told.key[1]) for each in (self._names, names, beside))), "")
            live[told.key] = Live(told.digest, self.now(), turn, told.odd, alike, found, gravest(found))

    async def _hold_against_other_era(self, pinning: Pinning, place: Place, heard: list[Told]) -> None:
        """What was pinned in one era is not seen first in the other: there it may only lack, or have, what one of them knows."""
        other = place._replace(legacy=not place.legacy)
        pinned = self._first.get(other, {})
        for told in heard:
            if told.odd or not self._trusts(pinning, place, told):
                continue
            if told.key not in pinned and (seen := await self._rows.get(_row(other, told.key))) is not None:
                self._remember(other, told.key, seen)
                pinned = self._first[other]
            if pinned.get(told.key, _UNSEEN).digest in {"", told.digest}:
                continue
            first = await self._rows.first(_row(other, told.key))
            if first is not None and not akin(orjson.loads(first.definition), told.entry):
                self._live[place][told.key].strange = True

    def _readable(self, server: str, fresh: list[Told]) -> list[Told]:
        """Of these, as many as a minute's room goes: a server must not keep the gateway reading."""
        minute = self._clock() // 60_000_000
        then, spent = self._read.get(server, (minute, 0))
        spent = spent if then == minute else 0
        found = []
        for told in fresh:
            if spent + told.size > READ_A_MINUTE:
                break
            spent += told.size
            found.append(told)
        self._read[server] = minute, spent
        return found

    def _of(self, lock: Lock) -> Names:
        """Names of the tools that a lock approves; worked out once a lock."""
        if self._locked[0] is not lock:
            self._locked = lock, Names((server, name) for server, what, name, _ in lock.every() if what == "tool")
        return self._locked[1]

    def _trusts(self, pinning: Pinning, place: Place, told: Told) -> bool:
        """Whether first use pins it now."""
        live = self._live[place].get(told.key)
        if live is None or live.alike or live.strange or pinning.mode(place.server) != "trust-on-first-use":
            return False
        known = self._first.get(place, {})
        if told.key not in known and len(known) >= MOST_OF_A_LIST:
            return False
        return (
            not known.get(told.key, _UNSEEN).digest
            and pinning.lock.approved(place.server, *told.key) is None
            and not pinning.waits(place.server, live.grade)
        )

    async def _pin(self, place: Place, first: list[Told], call: str) -> None:
        """Recorded, then durable; whatever another replica wrote before stands."""
        at = self._clock()
        for entry in records.seen(place, first, self._live[place], call, at):
            await self._write(entry)
        rows = {_row(place, t.key): First(t.digest, shown_definition(t.entry), at) for t in first}
        for row, seen in (await self._rows.pin(rows)).items():
            self._remember(*of_row(row), seen)

    async def _settle(self, pinning: Pinning, place: Place, reasons: list[tuple[Told, str]], call: str) -> None:
        """Note what is held back and what is not any more; what nobody had noted is recorded, as far as a minute's room goes."""
        known = self._first.get(place, {})
        held = {told.key: (told, why) for told, why in reasons}
        changed = {
            _row(place, key): mark
            for key, (told, why) in held.items()
            if (key[1] or key[0] == "instructions") and why != SUPERSEDED and (key in known or len(known) < MOST_OF_A_LIST)
            if known.get(key, _UNSEEN).held != (mark := (told.digest or why) if why else "")
        }
        room = self._room(place.server, len(changed))
        changed = dict(list(changed.items())[:room])
        if not changed:
            return
        at, left = self._clock(), self._spent[place.server][2]
        for row in await self._rows.unnoted(changed):
            told, why = held[(key := of_row(row)[1])]
            if why:  # recorded, then noted: what could not be recorded is tried again
                before = self._before(pinning, place, key)
                await self._write(records.held(place, told, why, before, self._live[place].get(key), call, at, left))
                left = 0
        await self._rows.hold(changed, at)
        self.announce()
        if kinds := {_LISTED[key[0]] for _, key in map(of_row, changed) if key[0] in _LISTED}:
            self.tell(place.server, kinds)
        for row, mark in changed.items():
            _, key = of_row(row)
            self._remember(place, key, Seen(known.get(key, _UNSEEN).digest, mark))
        minute, spent, _ = self._spent[place.server]
        self._spent[place.server] = minute, spent, left

    def _room(self, server: str, wanted: int) -> int:
        minute = self._clock() // 60_000_000
        then, spent, left = self._spent.get(server, (minute, 0, 0))
        if then != minute:
            then, spent = minute, 0
        room = min(wanted, MOST_A_MINUTE - spent)
        self._spent[server] = then, spent + room, left + wanted - room
        return room

    def _before(self, pinning: Pinning, place: Place, key: Key) -> str:
        approved = pinning.lock.approved(place.server, *key)
        return approved.digest if approved is not None else self._first.get(place, {}).get(key, _UNSEEN).digest

    def _remember(self, place: Place, key: Key, seen: Seen) -> None:
        self._first.setdefault(place, {})[key] = seen
        if seen.digest and key[0] == "tool":
            self._names.add(place.server, key[1])

    async def _write(self, entry: Entry) -> None:
        try:
            await self._append(entry)
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error


_UNSEEN: Final = Seen("", "")
_LISTED: Final[Mapping[What, str]] = {"tool": "tools", "prompt": "prompts", "template": "resources"}
"""In which list a thing stands."""
_OLD: Final = "@old"
"""Ends the kind of what was seen in the era of handshakes, in the table of what was seen."""


def _row(place: Place, key: Key) -> Row:
    return place.server, key[0] + (_OLD if place.legacy else ""), key[1]


def of_row(row: Row) -> tuple[Place, Key]:
    """What a row of the table is about."""
    server, what, name = row
    return Place(server, what.endswith(_OLD)), (cast("What", what.removesuffix(_OLD)), name)


def _scanned(server: str, fresh: list[Told], elsewhere: Mapping[str, str]) -> dict[str, tuple[Sign, ...]]:
    return {told.digest: scan(Subject(server, told.key[0], told.key[1], told.entry, elsewhere)) for told in fresh}
