"""`human-approval`: a person says yes to this very call first.  What is demanded is put together here; `gateway/approvals` asks.

A permit that still waits for it cannot be recorded, and so not be sent, whichever road it is on.
"""

from __future__ import annotations

from msgspec.structs import replace

from gateway.approved import Approval
from gateway.model import Permit
from gateway.obligations.duty import Params, WrongParameterError, begins, fulfilled, terms
from policies.approvers import Terms, WrongTermsError, terms_of
from policies.model import Obligation


def read(params: Params) -> Terms:
    """Who may approve, for how long, and for how long the call is held open."""
    try:
        return terms_of(params)
    except WrongTermsError as error:
        raise WrongParameterError(error.key, str(error)) from None


def fulfil(permit: Permit, obligation: Obligation) -> Permit:
    """`{type: human-approval, by: role:…, not_same_user: true, within: 4h, wait: 30s, asks: protocol}`.

    Several add up: each needs somebody whom its `by` names, by the shortest of their spans, and nobody for himself where one of
    them says so; one that is asked for by an error has all of them asked for so.
    """
    found = terms(permit, obligation, read)
    if not begins(permit.call):
        return fulfilled(permit, obligation)
    before, mine = permit.approval, (obligation.name, bool(found.by))
    if before is None:
        return replace(permit, approval=Approval((mine,), found.not_same_user, found.within, found.wait, found.asks))
    merged = Approval(
        tuple(dict.fromkeys((*before.duties, mine))),
        before.not_same_user or found.not_same_user,
        min(before.within, found.within),
        min(before.wait, found.wait),
        before.asks and found.asks,
    )
    return replace(permit, approval=merged)
