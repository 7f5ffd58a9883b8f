"""What people must approve of a call, on its way to whoever approves it."""

from __future__ import annotations

import msgspec


class Approval(msgspec.Struct, frozen=True, gc=False):
    """That people must approve a call first, as its duties demand; with who did, once they have.

    duties         names of the duties, and whether each says by whom.
    within, wait   seconds that an approval may take at all, and for which the call is held open.
    asks           whether it is asked for as the protocol has it, where that can be.
    id             of the approval; "" before it was looked for.
    ready          the people who gave it, before this call has used it up.
    by             the same from then on.
    """

    duties: tuple[tuple[str, bool], ...]
    not_same_user: bool
    within: int
    wait: int
    asks: bool = True
    id: str = ""
    ready: tuple[str, ...] = ()
    by: tuple[str, ...] = ()


def waits(approval: Approval | None) -> bool:
    """Whether somebody must still approve it: such a call is never recorded as begun, and so never sent."""
    return approval is not None and not approval.by
