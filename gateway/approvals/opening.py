"""Approvals, opened and closed as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.a2a.wire import params_of
from gateway.approvals.approvals import Approvals
from gateway.approvals.exact import a2a_params, mcp_params
from gateway.model import random16
from gateway.state.notices import Notices
from gateway.state.sealing import Sealer
from gateway.stores import state_url_of

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from audit.journal import Journal
    from gateway.identity.opening import Identity
    from gateway.model import Clock
    from gateway.policy.in_force import InForce
    from gateway.settings import Settings
    from gateway.state.store import State


def opened(  # noqa: PLR0917  what it is made of
    settings: Settings,
    state: State,
    key: bytes,
    journal: Journal,
    in_force: InForce,
    identity: Identity,
    clock: Clock,
    stack: AsyncExitStack,
) -> Approvals:
    """Ready for calls; `key` is its own, of 32 bytes.  Replicas that share PostgreSQL tell each other of changes."""
    sent = {"mcp": mcp_params, "a2a": a2a_params(params_of)}
    approvals = Approvals(state.approvals, Sealer(key, "approvals"), journal.append, in_force, identity.kills, sent, clock)
    url = state_url_of(settings)
    if Notices.possible(url):
        notices = Notices(url, "bailiwick_approvals", random16().hex(), approvals.wake)
        stack.push_async_callback(notices.aclose)
        approvals.tell = notices.say
        notices.start()
    stack.push_async_callback(approvals.close)
    approvals.start()
    return approvals
