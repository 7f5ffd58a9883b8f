"""Follows the key ring: another key signs when its time has come, and none counts beyond its own.  What changes is on record.

A ring that cannot be read leaves the last one that could be; its times go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import orjson

from audit.model import Entry, LedgerUnavailableError, Receipt
from gateway.identity.keyfiles import delegation_key, former_key, write_over
from gateway.identity.keyring import FOLDER, KeyFolder, ring_of, signers_of, signing
from gateway.identity.keys import es256_jwk
from gateway.identity.signing import KeyRing, LocalSigner
from gateway.model import Clock, new_id
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.identity.keyring import Index
    from gateway.settings import Settings

log = logging.getLogger("gateway.keys")

Append = Callable[[Entry], Awaitable[Receipt]]
LOOK_SECONDS = 1.0
AGAIN_SECONDS = 5.0
MEMORY = "recorded.json"
_MEMORY_BYTES = 16 * 1024


class Memory:
    """What the ledger was last told of the ring, so that what changed while nobody ran is told too."""

    def __init__(self, data: Path) -> None:
        self._path = data / FOLDER / MEMORY

    def read(self) -> tuple[str, frozenset[str]]:
        """The key that signed, and those that counted; nothing where nothing is remembered that can be read."""
        try:
            with self._path.open("rb") as file:
                said = orjson.loads(file.read(_MEMORY_BYTES))
            return str(said["signs"]), frozenset(map(str, said["counts"]))
        except (OSError, ValueError, LookupError, TypeError):
            return "", frozenset()

    def write(self, signs: str, counts: frozenset[str]) -> None:
        """Remember.  OSError where that cannot be: it is told once more then."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_over(self._path, orjson.dumps({"signs": signs, "counts": sorted(counts)}))


class KeyWatch:
    """The one task that changes a ring.  Without a folder (the keys are configured) it only records."""

    def __init__(
        self,
        ring: KeyRing,
        data: Path,
        append: Append,
        clock: Clock,
        *,
        folder: KeyFolder | None = None,
        index: Index = (),
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self._ring = ring
        self._folder = folder
        self._index = index
        self._signers: Mapping[str, LocalSigner] = {}
        self._mark: tuple[int, int, int] | None = None
        self._memory = Memory(data)
        self._told: tuple[str, frozenset[str]] | None = None
        self._append = append
        self._clock = clock
        self._seconds = seconds
        self._complaints: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin; on a running event loop."""
        self._task = asyncio.create_task(self._run(), name="keys")
        self._task.add_done_callback(self._ended)

    async def aclose(self) -> None:
        """End it."""
        if self._again is not None:
            self._again.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> None:
        """Whatever is due now: the ring swapped whole, the change recorded, private keys that sign no more removed."""
        now = self._clock() // 1_000_000
        if self._folder is not None:
            signer, others = await asyncio.to_thread(self._due, self._folder, now)
            kid = "" if signer is None else signer.jwk["kid"]
            if kid != self._ring.kid or {jwk["kid"] for jwk in others} != self._ring.kids:
                self._ring.swap(signer, others)
                log.info("the gateway signs with the key %s; %d keys count", kid or "(none)", len(others))
            due = signing(self._index, now)
            if due is not None and due.kid == kid and not self._complaints.get("read"):
                await asyncio.to_thread(self._sweep, self._folder, now)
        await self._tell()

    def _due(self, folder: KeyFolder, now: int) -> tuple[LocalSigner | None, list[Mapping[str, str]]]:
        try:
            mark = folder.mark()
            if mark != self._mark or not self._index:
                index = folder.read()
                self._signers = signers_of(folder, index, self._signers)
                self._index, self._mark = index, mark
            self._complain("read", "")
        except ProblemError as error:
            self._complain("read", str(error))
        signer, others = ring_of(self._index, self._signers, now)
        self._complain("sign", "no key of the ring can sign: bailiwick keys rotate --now makes one" if signer is None else "")
        return signer, others

    def _sweep(self, folder: KeyFolder, now: int) -> None:
        try:
            gone = folder.sweep(self._index, now)
            self._signers = {kid: signer for kid, signer in self._signers.items() if kid not in gone}
            self._complain("sweep", "")
        except ProblemError as error:
            self._complain("sweep", str(error))

    async def _tell(self) -> None:
        """Record what is not on record yet; the ledger may be away, then it is told later."""
        signs, counts = self._ring.kid, self._ring.kids
        if self._told is None:
            self._told = await asyncio.to_thread(self._memory.read)
        before, counted = self._told
        if (before, counted) == (signs, counts):
            return
        try:
            if signs != before:
                await self._append(self._entry(signs, "sign", before))
            for kid in sorted(counted - counts):
                await self._append(self._entry(kid, "none", signs))
            self._told = signs, counts
            await asyncio.to_thread(self._memory.write, signs, counts)
        except LedgerUnavailableError as error:
            self._complain("tell", f"a change of the keys is not on record yet: {error.detail}")
        except OSError as error:
            self._complain("tell", f"what is on record of the keys cannot be remembered: {error.strerror}")

    def _entry(self, kid: str, use: str, before: str) -> Entry:
        at = self._clock()
        fields: dict[str, object] = {"kid": kid, "use": use, "before": before}
        return Entry("key.activate", new_id(at), at, None, fields)

    def _complain(self, about: str, text: str) -> None:
        """Once, until something else is wrong there; "" where all is well again."""
        if text and text != self._complaints.get(about):
            log.error("keys: %s", text)
        self._complaints[about] = text

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A defect of ours must not mean that a key is never retired."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the watch of the keys failed, and begins again", exc_info=error)
            self._again = asyncio.get_running_loop().call_later(AGAIN_SECONDS, self.start)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            await self.look()


async def opened_keys(settings: Settings, environ: Mapping[str, str], append: Append, clock: Clock) -> tuple[KeyRing, KeyWatch]:
    """The ring, on record, and who follows it (not started yet).  ProblemError where no key can sign or one may not be used."""
    configured = settings.delegation
    if configured.key is not None:
        key = await asyncio.to_thread(delegation_key, settings.data, configured.key, environ)
        former = [es256_jwk(former_key(secret, environ)) for secret in configured.former_keys]
        ring = KeyRing(LocalSigner(key), former)
        watch = KeyWatch(ring, settings.data, append, clock)
    else:
        folder = KeyFolder(settings.data)
        now = clock() // 1_000_000
        index = await asyncio.to_thread(folder.opened, now)
        signer, others = ring_of(index, await asyncio.to_thread(signers_of, folder, index, {}), now)
        if signer is None:
            help_ = "bailiwick keys rotate --now makes one"
            raise ProblemError(Problem("no-key", "no private key of the ring is there", str(folder.path), help_))
        ring = KeyRing(signer, others)
        watch = KeyWatch(ring, settings.data, append, clock, folder=folder, index=index)
    await watch.look()
    return ring, watch
