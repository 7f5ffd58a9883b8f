"""What servers say of themselves, held against what was approved or seen first; whatever differs is let through nowhere.

The newest word of a server counts at once, from whichever list it came; a word that is too old is asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from audit.model import Entry, LedgerUnavailableError
from gateway.mcp import pin_records as records
from gateway.mcp.alike import Names
from gateway.mcp.definitions import MOST_OF_A_LIST, TOO_LARGE, Told
from gateway.mcp.poison import Sign, Subject, gravest, scan
from gateway.model import Clock, Refused
from gateway.reasons import Code
from gateway.state.definitions import Definitions, First, Seen
from policies.lock import NOTHING_LOCKED, Key, Lock, shown_definition
from policies.pinning import Grade, Pinning

NEW: Final = "new"
CHANGED: Final = "changed"
LOOK_ALIKE: Final = "look-alike"
SUSPICIOUS: Final = "suspicious"
SUPERSEDED: Final = "superseded"
"""The server has said something else since: it does not pass, and is not told."""
MOST_A_MINUTE: Final = 200
"""Records about one server's definitions; beyond them it is still held back, and counted in the next record."""

Append = Callable[[Entry], Awaitable[object]]


@dataclass(slots=True)
class Live:
    """The newest word of a server about one thing.

    at    when it was heard, in seconds of the monotonic clock.
    turn  how many times servers had said that something changed when it was asked for.
    """

    digest: str
    at: float
    turn: int
    odd: str = ""
    alike: str = ""
    signs: tuple[Sign, ...] = ()
    grade: Grade | None = None


def _nobody() -> None:
    pass  # there is no other replica that could be told


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
        self._live: dict[str, dict[Key, Live]] = {}
        self._first: dict[str, dict[Key, Seen]] = {}
        self._looked: dict[tuple[str, Key], float] = {}
        self._since: dict[str, int] = {}
        self.turn = 0
        self.announce: Callable[[], None] = _nobody
        """Tells other replicas that something changed."""
        self._names = Names()
        self._locked = NOTHING_LOCKED, Names()
        self._spent: dict[str, tuple[int, int, int]] = {}  # minute, records in it, what was not recorded since

    async def open(self, servers: Iterable[str]) -> None:
        """Read what was seen of these servers before."""
        for (server, what, name), seen in (await self._rows.of(servers)).items():
            self._remember(server, (what, name), seen)

    def stale(self, server: str) -> None:
        """The server says that something changed: its word is asked for again before anything is let through."""
        self.turn += 1
        self._since[server] = self.turn

    def forget(self) -> None:
        """Something changed on another replica: every server's word is asked for again."""
        self._looked.clear()
        for server in self._live:
            self.stale(server)

    # --- what may pass

    def verdict(self, pinning: Pinning, server: str, key: Key) -> str:
        """Why a server's thing may not pass; "" where it may, or where nothing of it is known."""
        live = self._live.get(server, {}).get(key)
        return "" if live is None else self._judged(pinning, server, key, live.digest, live)

    def known(self, pinning: Pinning, server: str, key: Key) -> bool:
        """Whether the server's word about it is new enough to be judged by; where first use is trusted, also one that nobody has
        heard: nothing has been pinned that it could differ from."""
        live = self._live.get(server, {}).get(key)
        if live is not None:
            return live.at > self.now() - self._seconds and live.turn >= self._since.get(server, 0)
        return (
            not self._pinned(pinning, server, key)
            and self._looked.get((server, key), -self._seconds) > self.now() - self._seconds
        )

    def waits(self, pinning: Pinning, server: str, key: Key) -> bool:
        """Whether only a person's approval lets this pass: its server need not even be asked."""
        return pinning.mode(server) == "quarantine" and pinning.lock.approved(server, *key) is None

    def _pinned(self, pinning: Pinning, server: str, key: Key) -> bool:
        return pinning.lock.approved(server, *key) is not None or key in self._first.get(server, {})

    async def look_up(self, pinning: Pinning, server: str, key: Key) -> bool:
        """Whether it was pinned or held back before, on whichever replica."""
        if not self._pinned(pinning, server, key):
            if (seen := await self._rows.get((server, *key))) is not None:
                self._remember(server, key, seen)
            elif len(self._looked) < MOST_OF_A_LIST:
                self._looked[server, key] = self.now()
            else:
                self._looked = {(server, key): self.now()}
        return self._pinned(pinning, server, key)

    def _judged(self, pinning: Pinning, server: str, key: Key, digest: str, live: Live) -> str:
        if live.odd:
            return live.odd
        if (approved := pinning.lock.approved(server, *key)) is not None:
            return "" if approved.digest == digest else CHANGED
        if pinning.mode(server) == "quarantine":
            return NEW
        first = self._first.get(server, {}).get(key)
        if first is not None and first.digest:
            return "" if first.digest == digest else CHANGED
        return LOOK_ALIKE if live.alike else SUSPICIOUS if pinning.waits(server, live.grade) else NEW

    # --- what is heard

    async def learn(self, pinning: Pinning, server: str, heard: list[Told], call: str, turn: int) -> list[Any]:
        """Take in a server's answer, asked for at this turn; the entries of it that may pass.  Durable and on record on return.

        `Refused` where that cannot be: then nothing passes.
        """
        if all(self._same(pinning, server, told) for told in heard):
            for told in heard:
                self._again(self._live[server][told.key], turn)
            return [told.entry for told in heard]
        await self._take_in(pinning, server, heard, turn)
        first = [t for t in heard if not t.odd and self._trusts(pinning, server, t)]
        if first:
            await self._pin(server, first, call)
        reasons = [(told, self._reason(pinning, server, told)) for told in heard]
        await self._settle(pinning, server, reasons, call)
        return [told.entry for told, why in reasons if not why]

    def _again(self, live: Live, turn: int) -> None:
        live.at, live.turn = self.now(), max(live.turn, turn)

    def _same(self, pinning: Pinning, server: str, told: Told) -> bool:
        live = self._live.get(server, {}).get(told.key)
        held = self._first.get(server, {}).get(told.key, _UNSEEN).held
        return (
            live is not None
            and live.digest == told.digest
            and not held
            and not self._judged(pinning, server, told.key, told.digest, live)
        )

    def _reason(self, pinning: Pinning, server: str, told: Told) -> str:
        live = self._live.get(server, {}).get(told.key)
        if told.odd or live is None:
            return told.odd or TOO_LARGE
        return self._judged(pinning, server, told.key, told.digest, live) or (SUPERSEDED if told.digest != live.digest else "")

    async def _take_in(self, pinning: Pinning, server: str, heard: list[Told], turn: int) -> None:
        """What every entry is now, what it looks like, and what is suspicious of it; texts are read in a thread."""
        live = self._live.setdefault(server, {})
        fresh = [t for t in heard if t.digest and (t.key not in live or live[t.key].digest != t.digest)]
        keys, names = {told.key for told in fresh}, self._of(pinning.lock)
        elsewhere = self._names.elsewhere(server) | names.elsewhere(server)
        signs = await asyncio.to_thread(_scanned, server, fresh, elsewhere) if fresh else {}
        beside = Names((server, t.key[1]) for t in fresh if t.key[0] == "tool" and not self._pinned(pinning, server, t.key))
        for told in heard:
            if told.key not in live and len(live) >= MOST_OF_A_LIST:
                continue  # and what is not known does not pass
            if told.key not in keys and not told.odd:
                self._again(live[told.key], turn)
                continue
            found = signs.get(told.digest, ())
            alike = ""
            if told.key[0] == "tool" and not told.odd:
                alike = next(filter(None, (each.like(server, told.key[1]) for each in (self._names, names, beside))), "")
            live[told.key] = Live(told.digest, self.now(), turn, told.odd, alike, found, gravest(found))

    def _of(self, lock: Lock) -> Names:
        """Names of the tools that a lock approves; worked out once a lock."""
        if self._locked[0] is not lock:
            self._locked = lock, Names((server, name) for server, what, name, _ in lock.every() if what == "tool")
        return self._locked[1]

    def _trusts(self, pinning: Pinning, server: str, told: Told) -> bool:
        """Whether first use pins it now."""
        live = self._live[server].get(told.key)
        if live is None or live.alike or pinning.mode(server) != "trust-on-first-use":
            return False
        known = self._first.get(server, {})
        if told.key not in known and len(known) >= MOST_OF_A_LIST:
            return False
        return (
            not known.get(told.key, _UNSEEN).digest
            and pinning.lock.approved(server, *told.key) is None
            and not pinning.waits(server, live.grade)
        )

    async def _pin(self, server: str, first: list[Told], call: str) -> None:
        """Recorded, then durable; whatever another replica wrote before stands."""
        at = self._clock()
        for entry in records.seen(server, first, self._live[server], call, at):
            await self._write(entry)
        rows = {(server, *t.key): First(t.digest, shown_definition(t.entry), at) for t in first}
        for (_, what, name), seen in (await self._rows.pin(rows)).items():
            self._remember(server, (what, name), seen)

    async def _settle(self, pinning: Pinning, server: str, reasons: list[tuple[Told, str]], call: str) -> None:
        """Note what is held back and what is not any more; what nobody had noted is recorded, as far as a minute's room goes."""
        known = self._first.get(server, {})
        held = {told.key: (told, why) for told, why in reasons}
        changed = {
            (server, *key): mark
            for key, (told, why) in held.items()
            if (key[1] or key[0] == "instructions") and why != SUPERSEDED and (key in known or len(known) < MOST_OF_A_LIST)
            if known.get(key, _UNSEEN).held != (mark := (told.digest or why) if why else "")
        }
        room = self._room(server, len(changed))
        changed = dict(list(changed.items())[:room])
        if not changed:
            return
        at, left = self._clock(), self._spent[server][2]
        news = await self._rows.hold(changed, at)
        if news:
            self.announce()
        for (_, what, name), mark in changed.items():
            key: Key = (what, name)
            told, why = held[key]
            if why and (server, *key) in news:
                before = self._before(pinning, server, key)
                await self._write(records.held(server, told, why, before, self._live[server].get(key), call, at, left))
                left = 0
            self._remember(server, key, Seen(known.get(key, _UNSEEN).digest, mark))
        minute, spent, _ = self._spent[server]
        self._spent[server] = minute, spent, left

    def _room(self, server: str, wanted: int) -> int:
        minute = self._clock() // 60_000_000
        then, spent, left = self._spent.get(server, (minute, 0, 0))
        if then != minute:
            then, spent = minute, 0
        room = min(wanted, MOST_A_MINUTE - spent)
        self._spent[server] = then, spent + room, left + wanted - room
        return room

    def _before(self, pinning: Pinning, server: str, key: Key) -> str:
        approved = pinning.lock.approved(server, *key)
        return approved.digest if approved is not None else self._first.get(server, {}).get(key, _UNSEEN).digest

    def _remember(self, server: str, key: Key, seen: Seen) -> None:
        self._first.setdefault(server, {})[key] = seen
        if seen.digest and key[0] == "tool":
            self._names.add(server, key[1])

    async def _write(self, entry: Entry) -> None:
        try:
            await self._append(entry)
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error


_UNSEEN: Final = Seen("", "")


def _scanned(server: str, fresh: list[Told], elsewhere: Mapping[str, str]) -> dict[str, tuple[Sign, ...]]:
    return {told.digest: scan(Subject(server, told.key[0], told.key[1], told.entry, elsewhere)) for told in fresh}
