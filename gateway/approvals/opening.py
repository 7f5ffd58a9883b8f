"""Approvals, opened and closed as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.a2a.wire import params_of
from gateway.approvals.approvals import Approvals
from gateway.approvals.exact import a2a_params, mcp_params
from gateway.approvals.page import PATH as PAGE
from gateway.approvals.telling import notice
from gateway.model import random16
from gateway.parts import derived
from gateway.state.notices import Notices
from gateway.state.sealing import Sealer
from gateway.stores import state_url_of

if TYPE_CHECKING:
    from gateway.identity.opening import Identity, Means
    from gateway.obligations.notify import Notifier
    from gateway.policy.opening import Opened
    from gateway.state.approvals import Parked


def opened(means: Means, policy: Opened, identity: Identity, notifier: Notifier) -> Approvals:
    """Ready for calls.  Replicas that share PostgreSQL tell each other of changes."""
    sent = {"mcp": mcp_params, "a2a": a2a_params(params_of)}
    sealer = Sealer(derived(means.seal, b"approvals"), "approvals")
    approvals = Approvals(means.state.approvals, sealer, means.append, policy.in_force, identity.kills, sent, means.clock)
    approvals.page = f"{means.settings.public_url}{PAGE}"
    url = state_url_of(means.settings)
    if Notices.possible(url):
        notices = Notices(url, "bailiwick_approvals", random16().hex(), approvals.wake)
        means.stack.push_async_callback(notices.aclose)
        approvals.tell = notices.say
        notices.start()
    if notifier.of_approvals:

        async def asked(row: Parked) -> None:
            await notifier.asks(row.id, row.subject, notice(row, means.settings.public_url), row.expires_at)

        approvals.asked, approvals.over = asked, notifier.over
    means.stack.push_async_callback(approvals.close)
    approvals.start()
    return approvals
