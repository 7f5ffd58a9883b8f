"""The stage on the road: a call that people must approve is parked, and goes on once, for whom and for what they approved.

Everything is asked again when it goes on: who approved, whether they still may, by which policy, and for whom the call is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec
import orjson

from audit.model import LedgerUnavailableError
from gateway.approvals import records
from gateway.approvals.exact import Sent, exact
from gateway.approved import Approval, waits
from gateway.model import Clock, Permit, Principal, Refused, new_id
from gateway.reasons import Code
from gateway.scope import within
from gateway.state.approvals import Parked, State, Yes
from gateway.state.sealing import UnsealableError
from policies.approvers import ACTION, object_of
from policies.canonical import named
from policies.model import AccessRequest, Decision

if TYPE_CHECKING:
    from audit.model import Entry, Receipt
    from gateway.identity.revocation import Kills
    from gateway.policy.in_force import InForce, Pair
    from gateway.state.approvals import ApprovalRows
    from gateway.state.sealing import Sealer

log = logging.getLogger("gateway.approvals")

MOST_HELD: Final = 256
"""Calls of one process that are held open at a time; the next ones are told to come again."""
LOOK_SECONDS: Final = 1.0
SWEEP_SECONDS: Final = 10.0


class Kept(msgspec.Struct, frozen=True):
    """What is sealed of a parked call.

    about     the canonical bytes that its digest is of.
    duties    names of the duties, and whether each says by whom.
    because   the lines that demand it, each with its condition in words.
    """

    about: bytes
    principal: Principal
    duties: tuple[tuple[str, bool], ...]
    not_same_user: bool
    because: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a parked call stands now: who approved and still may, which of its duties nobody has covered, and why it is void."""

    row: Parked
    kept: Kept
    by: tuple[str, ...]
    missing: tuple[str, ...]
    void: str

    @property
    def granted(self) -> bool:
        """Whether the call may go on by it."""
        return self.row.state == State.OPEN and not self.missing and not self.void


class Approvals:
    """Parks, and releases.

    sent  by protocol: what of a call is sent.
    tell  says to other replicas that something changed.
    asked has whoever approves told, durably, that a call waits; `over` that it does no more.  None where nobody is told.
    page  where a person can look at one and say yes or no, before its id.
    """

    def __init__(  # noqa: PLR0917  what it is made of
        self,
        rows: ApprovalRows,
        sealer: Sealer,
        append: Callable[[Entry], Awaitable[Receipt]],
        in_force: InForce,
        kills: Kills,
        sent: Mapping[str, Sent],
        clock: Clock,
    ) -> None:
        self.rows = rows
        self.kills = kills
        self.clock = clock
        self.tell: Callable[[], None] = lambda: None
        self.asked: Callable[[Parked], Awaitable[None]] | None = None
        self.over: Callable[[str], Awaitable[None]] | None = None
        self.page = ""
        self._sealer = sealer
        self._append = append
        self._in_force = in_force
        self._sent = sent
        self._held: set[asyncio.Event] = set()
        self._sweeper: asyncio.Task[None] | None = None

    # on the road

    async def granted(self, permit: Permit) -> Permit:
        """The permit with who approved it, where somebody has; nothing is used up yet.

        `Refused(APPROVAL_REQUIRED)` where nobody has, with the id by which it can be approved; `APPROVAL_DENIED` where they said
        no.
        """
        approval = permit.approval
        if approval is None or not waits(approval):
            return permit
        row = await self._parked(permit, approval)
        standing = await self._release(row, permit)
        if standing is None and approval.wait:
            permit, standing = await self._held_open(row, permit, approval.wait)
        if standing is None:
            raise self._required(row, permit)
        return msgspec.structs.replace(permit, approval=msgspec.structs.replace(approval, id=row.id, ready=standing.by))

    async def used(self, permit: Permit) -> Permit:
        """The permit with its approval used up, durably and on record: of several calls that want it one goes on."""
        approval = permit.approval
        if approval is None or not waits(approval):
            return permit
        now, call = self.clock(), permit.call.arrival
        row = await self.rows.get(approval.id) if approval.ready else None
        if row is None or not await self.rows.end(approval.id, State.USED, now, call.id):
            raise Refused(Code.APPROVAL_REQUIRED, "the approval was used, or its time was over", decision=permit.decision)
        await self.record(records.use(row, call.id, now, approval.ready))
        await self.rows.noted(row.id, State.USED)
        await self.no_more(row.id)
        done = msgspec.structs.replace(approval, by=approval.ready)
        names = tuple(name for name, _ in approval.duties)
        return msgspec.structs.replace(permit, approval=done, fulfilled=(*permit.fulfilled, *names))

    async def _parked(self, permit: Permit, approval: Approval) -> Parked:
        principal, now = permit.principal, self.clock()
        about = exact(permit, self._sent[permit.call.arrival.protocol])
        because = tuple(
            f"{match.text}{f' [{match.condition}]' if match.condition else ''}"
            for match in permit.decision.matched
            if match.effect == "require"
        )
        kept = Kept(about, principal, approval.duties, approval.not_same_user, because)
        name = new_id(now)
        row = await self.rows.park(
            Parked(
                id=name,
                tenant=principal.tenant,
                subject=principal.subject,
                workflow=principal.workflow,
                digest=named(about),
                bundle=permit.decision.bundle,
                resource=permit.request.resource,
                state=State.OPEN.value,
                noted=False,
                created_at=now,
                expires_at=min(now + approval.within * 1_000_000, principal.ends * 1_000_000),
                sealed=self._sealer.seal(name, msgspec.json.encode(kept)),
            )
        )
        if row.state == State.OPEN and not row.noted:
            await self.record(records.ask(row, permit, about))
            if self.asked is not None:
                await self.asked(row)
            await self.rows.noted(row.id, State.OPEN)
            self.changed()
        return row

    async def _release(self, row: Parked, permit: Permit) -> Standing | None:
        if row.state == State.DENIED:
            raise Refused(Code.APPROVAL_DENIED, row.id, decision=permit.decision, data={"approval": row.id})
        standing = await self.standing(row)
        return standing if standing.granted else None

    async def _held_open(self, row: Parked, permit: Permit, seconds: int) -> tuple[Permit, Standing | None]:
        """The call is held until somebody approves, or its time is over; then everything is asked anew."""
        if len(self._held) >= MOST_HELD:
            return permit, None
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        end = loop.time() + seconds
        self._held.add(woken)
        try:
            while (left := end - loop.time()) > 0:
                woken.clear()
                standing = await self._again(row, permit)
                if standing is not None:
                    return self._anew(permit, row), standing
                try:
                    async with asyncio.timeout(min(left, LOOK_SECONDS)):
                        await woken.wait()
                except TimeoutError:
                    pass
        finally:
            self._held.discard(woken)
        return permit, None

    async def _again(self, row: Parked, permit: Permit) -> Standing | None:
        self.kills.alive(permit.principal)
        now = await self.rows.get(row.id)
        return await self._release(now, permit) if now is not None and now.state in (State.OPEN, State.DENIED) else None

    def _anew(self, permit: Permit, row: Parked) -> Permit:
        """The permit, decided by what is in force now; what is decided otherwise, or whose time is over, goes no further."""
        principal, now = permit.principal, self.clock()
        if now >= principal.ends * 1_000_000:
            raise Refused(Code.INVALID_CREDENTIAL, "its time was over before the call was approved")
        pair = self.pair(row)
        if pair is None:
            raise self._required(row, permit)
        decision = pair.engine.decide(msgspec.structs.replace(permit.request, at=now))
        if not decision.allowed:
            raise Refused(Code(decision.reason.value), decision=decision)
        if decision.obligations != permit.decision.obligations:
            raise self._required(row, permit)
        return permit

    def _required(self, row: Parked, permit: Permit) -> Refused:
        data = {"approval": row.id, "expires": iso(row.expires_at), "url": f"{self.page}{row.id}"}
        return Refused(Code.APPROVAL_REQUIRED, row.id, decision=permit.decision, data=data)

    async def no_more(self, name: str) -> None:
        """Nobody is told any more that it waits; where that fails they are told in vain."""
        if self.over is not None:
            with contextlib.suppress(Refused):
                await self.over(name)

    # how one stands

    def pair(self, row: Parked) -> Pair | None:
        """The bundle by which the call was decided, where it is the one that decides for its workflow now."""
        pair = self.pair_now(row)
        return pair if pair.digest == row.bundle else None

    def pair_now(self, row: Parked) -> Pair:
        """The bundle that decides for its workflow now."""
        return self._in_force.current.pair_of(row.workflow)

    def opened(self, row: Parked) -> Kept:
        """What is sealed of it; `Refused(INTERNAL_ERROR)` where the key does not open it."""
        try:
            kept = msgspec.json.decode(self._sealer.open(row.id, row.sealed), type=Kept)
        except (UnsealableError, msgspec.DecodeError):
            raise Refused(Code.INTERNAL_ERROR, "what was parked cannot be opened") from None
        if named(kept.about) != row.digest:
            raise Refused(Code.INTERNAL_ERROR, "what was parked is not what its digest says")
        return kept

    async def standing(self, row: Parked) -> Standing:
        """Who approved it and still may, and what is missing."""
        kept, pair = self.opened(row), self.pair(row)
        void = "policy" if pair is None else "revoked" if self.kills.dead(kept.principal) else ""
        by: dict[str, None] = {}
        missing = dict(kept.duties)
        if pair is not None and not void:
            for yes in await self.rows.grants(row.id):
                for duty in self._covers(row, kept, pair, yes) & missing.keys():
                    del missing[duty]
                    by[yes.subject] = None
        return Standing(row, kept, tuple(by), tuple(missing), void)

    def _covers(self, row: Parked, kept: Kept, pair: Pair, yes: Yes) -> frozenset[str]:
        try:
            approver = msgspec.json.decode(self._sealer.open(f"{row.id}/{yes.subject}", yes.sealed), type=Principal)
        except (UnsealableError, msgspec.DecodeError):
            return frozenset()  # nobody's yes
        if self.kills.dead(approver):
            return frozenset()
        return self.duties_of(kept, pair, approver, row)[1]

    def duties_of(self, kept: Kept, pair: Pair, approver: Principal, row: Parked) -> tuple[Decision, frozenset[str]]:
        """Policy's answer, and which duties of a call this person may approve by it; never an agent, nor anybody through one."""
        question = AccessRequest(
            subject=approver.subject,
            actors=approver.actors,
            tenant=approver.tenant,
            action=ACTION,
            resource=object_of(row.resource),
            at=self.clock(),
            groups=approver.groups,
            context=approver.facts("http"),
        )
        decision = pair.engine.decide(question)
        person = not approver.actors and approver.subject.startswith("user:") and approver.tenant == row.tenant
        itself = kept.not_same_user and approver.subject == row.subject
        if not decision.allowed or decision.obligations or not person or itself or not within(approver.scope, question.resource):
            return decision, frozenset()
        spoke = pair.engine.approves(decision)
        return decision, frozenset(name for name, says_whom in kept.duties if (name if says_whom else "") in spoke)

    async def keep(self, row: Parked, approver: Principal, at: int) -> bool:
        """A yes, durably; whether it came in time."""
        sealed = self._sealer.seal(f"{row.id}/{approver.subject}", msgspec.json.encode(approver))
        return await self.rows.grant(row.id, Yes(approver.subject, at, sealed))

    # beside the road

    async def record(self, entry: Entry) -> None:
        """Durable on return, or `Refused(LEDGER_UNAVAILABLE)`."""
        try:
            await self._append(entry)
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error

    def wake(self) -> None:
        """Something changed: calls that are held open look."""
        for woken in self._held:
            woken.set()

    def changed(self) -> None:
        """The same, and the other replicas are told."""
        self.wake()
        self.tell()

    def start(self) -> None:
        """Begin to look for those whose time is over."""
        self._sweeper = asyncio.create_task(self._sweeping())

    async def close(self) -> None:
        """End that."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)

    async def _sweeping(self) -> None:
        while True:
            try:
                for row in await self.rows.sweep(self.clock()):
                    await self.record(records.expire(row))
                    await self.rows.noted(row.id, State.EXPIRED)
            except Refused as refusal:  # at the next look
                log.warning("approvals whose time is over are not recorded yet: %s", refusal.code.value)
            await asyncio.sleep(SWEEP_SECONDS)


def iso(at: int) -> str:
    """A time in UTC microseconds, for people and programs."""
    return datetime.fromtimestamp(at / 1e6, UTC).isoformat(timespec="seconds")


def about_of(kept: Kept) -> dict[str, object]:
    """What an approver is shown: all that the digest is of."""
    found: dict[str, object] = orjson.loads(kept.about)
    return found
