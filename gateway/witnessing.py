"""Asks witnesses to cosign checkpoints (c2sp.org/tlog-witness), beside the calls: nothing that is governed ever waits for one.

What a witness says counts where its pinned key verifies it.  That it knows another log than ours is an alarm; before the gateway
starts it is a refusal, because a log that was set back must not be signed again.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from audit import checkpoint as notes
from audit import cosignature
from audit.checkpoint import Checkpoint, CheckpointError, Vkey
from audit.cosignature import Cosignature, Witnessed, WitnessKey
from audit.model import LedgerUnavailableError, TamperedError
from audit.store import StoreError
from audit.store_proofs import ProofStore
from audit.witness import AddCheckpoint
from gateway.model import Clock, UpstreamError
from gateway.upstream.client import HttpRequest, HttpResponse, Url

log = logging.getLogger("gateway.ledger")

Send = Callable[[HttpRequest], Awaitable[HttpResponse]]

LEASE: Final = "witnesses"
_SECONDS: Final = 10.0
_START_SECONDS: Final = 3.0
_LONGEST_PAUSE: Final = 300.0
_LARGEST: Final = 16 * 1024
_LOOKED_AT: Final = 100
_EARLY: Final = 300
"""Seconds that a witness's clock may be before ours."""
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,15})\n")


@dataclass(frozen=True, slots=True)
class Place:
    """A witness: where it is asked, and the key that it must answer with."""

    url: Url
    key: WitnessKey


@dataclass(slots=True)
class Standing:
    """How it stands with one witness.

    size      of the largest checkpoint that it is thought to know.
    fault     why it did not cosign the last time; "" where it did.
    conflict  why its log cannot be ours; "" where it can.
    """

    size: int = 0
    failures: int = 0
    due: float = 0.0
    fault: str = ""
    conflict: str = ""


class ConflictError(Exception):
    """The witness remembers a log that ours does not continue."""


class AheadError(Exception):
    """The witness knows a newer checkpoint of ours than the one that it was shown: another replica was there first."""


class NoWitnessError(Exception):
    """The witness did not cosign: it cannot be reached, does not want to, or says what is no cosignature."""


class Witnessing:
    """The log's witnesses.  `run` asks them; everything else only looks."""

    def __init__(  # noqa: PLR0917  made once
        self, store: ProofStore, own: Vkey, places: Sequence[Place], quorum: int, seconds: float, send: Send, clock: Clock
    ) -> None:
        self._store = store
        self._own = own
        self._places = {place.key.name: place for place in places}
        self._quorum = quorum
        self._seconds = seconds
        self._send = send
        self._clock = clock
        self._standing = {name: Standing() for name in self._places}
        self._signed = 0
        self.witnessed = Witnessed(len(places), quorum)

    @property
    def faults(self) -> Mapping[str, str]:
        """By witness, why it does not cosign, conflicts first; for the operator."""
        found = {name: each.conflict or each.fault for name, each in self._standing.items() if each.conflict or each.fault}
        return dict(sorted(found.items(), key=lambda item: not self._standing[item[0]].conflict))

    @property
    def conflicts(self) -> int:
        """How many witnesses remember another log."""
        return sum(bool(each.conflict) for each in self._standing.values())

    async def check_before_start(self) -> None:
        """`LedgerUnavailableError` where as many witnesses as are wanted remember more than is here, or something else.

        They are shown the newest checkpoint once more.  Nobody outside can keep the gateway from starting by silence.
        """
        if not self._places or not await asyncio.to_thread(self._store.exists):
            return
        note = await asyncio.to_thread(self._store.newest)
        if note is None:
            return
        head = self._head(note)
        for standing in self._standing.values():
            standing.size = head.size
        await self._ask_all(list(self._places.values()), head, note, _START_SECONDS)
        if self._quorum and self.conflicts >= self._quorum:
            raise LedgerUnavailableError(f"witnesses remember another log: {'; '.join(self.faults.values())}")
        await self._look(head)

    async def run(self) -> None:
        """Ask, again and again, until cancelled."""
        while True:
            try:
                await self.round()
            except (StoreError, TamperedError) as error:
                log.error("witnesses cannot be asked: %s", error)
            await asyncio.sleep(self._seconds)

    async def round(self) -> None:
        """Ask every witness that does not know the newest checkpoint yet.  Of replicas only one asks; all of them look."""
        note = await asyncio.to_thread(self._store.newest)
        if note is None:
            return
        head = self._head(note)
        now = asyncio.get_running_loop().time()
        if await asyncio.to_thread(self._store.lease, LEASE):
            due = [
                place
                for name, place in self._places.items()
                if self._standing[name].due <= now and (self._standing[name].size < head.size or self._standing[name].fault)
            ]
            await self._ask_all(due, head, note, _SECONDS)
        await self._look(head)

    async def _ask_all(self, places: Sequence[Place], head: Checkpoint, note: str, seconds: float) -> None:
        for said in await asyncio.gather(*(self._ask(place, head, note, seconds) for place in places)):
            if said is not None:
                await asyncio.to_thread(self._store.add_cosignature, head.size, said.witness, said.line)

    async def _look(self, head: Checkpoint) -> None:
        """What the stored cosignatures come to; those of other replicas count too."""
        stored = await asyncio.to_thread(self._store.cosigned, _LOOKED_AT)
        self.witnessed = cosignature.witnessed(stored, self._own, [place.key for place in self._places.values()], self._quorum)
        self._signed = head.size
        for name, (size, _) in self.witnessed.last.items():
            self._standing[name].size = max(self._standing[name].size, size)

    async def _ask(self, place: Place, head: Checkpoint, note: str, seconds: float) -> Cosignature | None:
        """One witness, with what it says noted; never raises for what it does."""
        standing = self._standing[place.key.name]
        before = standing.conflict or standing.fault
        standing.fault = standing.conflict = ""
        said: Cosignature | None = None
        try:
            async with asyncio.timeout(seconds):
                said = await self._cosigned(place, standing, head, note)
        except AheadError:
            return None
        except ConflictError as error:
            standing.conflict = f"{place.key.name} {error}"
        except TimeoutError:
            standing.fault = f"{place.key.name} did not answer in time"
        except (NoWitnessError, UpstreamError) as error:
            standing.fault = f"{place.key.name}: {error}"
        standing.failures = 0 if said is not None else standing.failures + 1
        pause = min(self._seconds * 2 ** min(standing.failures, 4), _LONGEST_PAUSE) if standing.failures else 0.0
        standing.due = asyncio.get_running_loop().time() + pause
        if standing.conflict and standing.conflict != before:
            log.critical("THE LEDGER AND A WITNESS DISAGREE: %s", standing.conflict)
        elif standing.fault and standing.fault != before:
            log.error("a witness does not cosign: %s", standing.fault)
        return said

    async def _cosigned(self, place: Place, standing: Standing, head: Checkpoint, note: str) -> Cosignature:
        for _ in range(2):  # once more, where it knows another size than we thought
            old = standing.size
            proof = await asyncio.to_thread(self._store.consistency, old, head.size) if 0 < old < head.size else []
            answer = await self._post(place, AddCheckpoint(old, tuple(proof), note).encode())
            if answer[0] == 200:
                said = self._read(place, head, answer[1])
                standing.size = head.size
                return said
            if answer[0] == 422:
                raise ConflictError(
                    f"does not take the log of {head.size} records for one that continues the {old} that it knows"
                )
            if answer[0] != 409:
                raise NoWitnessError(f"it answers {answer[0]}")
            match = _SIZE.fullmatch(answer[1])
            if match is None:
                raise NoWitnessError("it answers a conflict without a size")
            standing.size = int(match[1])
            if standing.size > head.size:
                if await self._signed_since(standing.size):
                    raise AheadError
                known, standing.size = standing.size, 0
                raise ConflictError(f"knows {known} records of this log, and there are {head.size}: it was set back")
            if standing.size == old:
                raise ConflictError(f"knows another log of {old} records")
        raise NoWitnessError("it changes its mind about the size that it knows")

    async def _signed_since(self, size: int) -> bool:
        """Whether the log has meanwhile been signed up to that size: what a witness knows was published before it was shown."""
        note = await asyncio.to_thread(self._store.newest)
        return note is not None and self._head(note).size >= size

    async def _post(self, place: Place, body: bytes) -> tuple[int, bytes]:
        headers = ((b"content-type", b"text/plain; charset=utf-8"),)
        response = await self._send(HttpRequest(place.url, body, headers))
        try:
            return response.status, await response.read(_LARGEST)
        finally:
            await response.aclose()

    def _read(self, place: Place, head: Checkpoint, body: bytes) -> Cosignature:
        try:
            lines = body.decode("utf-8").split("\n")
            if lines.pop() != "" or len(lines) > notes.MAX_SIGNATURES:
                raise CheckpointError("the answer is not a few signature lines")
            said = cosignature.verify(head, [notes.signature_line(line) for line in lines], place.key)
        except ValueError as error:
            raise NoWitnessError(str(error)) from None
        if said.at > self._clock() // 1_000_000 + _EARLY:
            raise NoWitnessError("its clock is ahead of ours: what it says is not believed")
        return said

    def _head(self, note: str) -> Checkpoint:
        """What our own key signed; nothing else is shown to anybody."""
        try:
            return notes.verify(note, self._own)
        except CheckpointError as error:
            raise TamperedError(f"the newest checkpoint: {error}") from None
