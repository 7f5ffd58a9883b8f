"""What a person says to a call that waits: yes to its digest, or no.  The rules are the same whichever way they say it.

A person in their own hands alone says anything here: an agent is refused, whoever it acts for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.approvals import records
from gateway.model import Principal, Refused
from gateway.reasons import Code
from gateway.state.approvals import State

if TYPE_CHECKING:
    from gateway.approvals.approvals import Approvals, Standing
    from gateway.state.approvals import Parked
    from policies.model import Decision


class Over(Exception):  # noqa: N818  an answer, not a defect
    """Nothing can be said to it any more; why, in words."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def is_person(principal: Principal) -> bool:
    """Whether somebody is there in their own hands: no agent between, and no agent in its own name."""
    return not principal.actors and principal.subject.startswith("user:")


def is_own(principal: Principal, row: Parked) -> bool:
    """Whether the call is made on this person's behalf, who is there in their own hands."""
    return principal.subject == row.subject and not principal.actors


def may(approvals: Approvals, principal: Principal, standing: Standing) -> tuple[Decision, frozenset[str]]:
    """Policy's answer, and which of its duties they may approve: by the bundle that parked it, while that decides."""
    pair = approvals.pair(standing.row)
    if pair is None:  # who looks at what is void is judged by what counts now
        pair = approvals.pair_now(standing.row)
    return approvals.duties_of(standing.kept, pair, principal, standing.row)


async def said(  # noqa: PLR0917  who says what to which, and how they were asked
    approvals: Approvals, row: Parked, principal: Principal, digest: str | None, reason: str = "", proto: str = "http"
) -> Parked | None:
    """A yes to the call with this digest, or a no (None); on record before it counts.  How it stands then.

    `Refused`: AGENT_LACKS_RIGHT, SAME_HANDS, or USER_LACKS_RIGHT with policy's decision, none of it on record yet.  `Over` where
    nothing can be said to it any more, or where the digest is another call's.
    """
    if not is_person(principal):
        raise Refused(Code.AGENT_LACKS_RIGHT, "approvals are for people's own hands", principal=principal)
    standing = await approvals.standing(row)
    if standing.kept.not_same_user and principal.subject == row.subject:
        raise Refused(Code.SAME_HANDS, f"{row.id}: the call is made on behalf of the same person", principal=principal)
    decision, duties = may(approvals, principal, standing)
    if not duties:
        raise Refused(Code.USER_LACKS_RIGHT, row.id, decision=decision, principal=principal)
    now = approvals.clock()
    if why := _over(standing, now):
        raise Over(why)
    if digest is not None and digest != row.digest:
        raise Over("this is not the call that you looked at: its digest is another")
    if digest is not None:
        await approvals.record(records.said("approval.grant", row, principal, decision, now, proto=proto))
        kept = await approvals.keep(row, principal, now)
    else:
        await approvals.record(records.said("approval.deny", row, principal, decision, now, reason, proto=proto))
        kept = await approvals.rows.end(row.id, State.DENIED, now)
        await approvals.rows.noted(row.id, State.DENIED)
        await approvals.no_more(row.id)
    if not kept:
        raise Over("somebody was quicker: nothing can be said to it any more")
    approvals.changed()
    return await approvals.rows.get(row.id)


async def withdrawn(approvals: Approvals, row: Parked, principal: Principal, call: str) -> bool:
    """Whether it waits no more because whoever asked took it back, by that call: on record before it counts."""
    now = approvals.clock()
    if row.state != State.OPEN or row.expires_at <= now:
        return False
    await approvals.record(records.withdraw(row, principal, call, now))
    if not await approvals.rows.end(row.id, State.WITHDRAWN, now):
        return False
    await approvals.rows.noted(row.id, State.WITHDRAWN)
    await approvals.no_more(row.id)
    approvals.changed()
    return True


def _over(standing: Standing, now: int) -> str:
    """Why nothing can be said to it any more; "" where something can."""
    row = standing.row
    if row.state != State.OPEN or row.expires_at <= now:
        state = row.state if row.state != State.OPEN else State.EXPIRED.value
        return f"it is {state}"
    if standing.void == "policy":
        return "the policy has changed: the call is decided, and asked about, anew"
    return "for whom the call is made was revoked" if standing.void else ""
