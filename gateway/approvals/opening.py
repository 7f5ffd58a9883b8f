"""Approvals, opened and closed as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.a2a.wire import params_of
from gateway.approvals.approvals import Approvals
from gateway.approvals.exact import a2a_params, mcp_params
from gateway.approvals.page import PATH as PAGE
from gateway.approvals.telling import Telling
from gateway.identity.keyfiles import resolve
from gateway.model import random16
from gateway.parts import derived
from gateway.problem import Problem, ProblemError
from gateway.state.notices import Notices
from gateway.state.sealing import Sealer
from gateway.stores import state_url_of
from gateway.upstream.client import Url

if TYPE_CHECKING:
    from gateway.identity.opening import Identity, Means
    from gateway.policy.opening import Opened
    from gateway.settings_approvals import ApprovalWebhook


def _telling(means: Means, webhook: ApprovalWebhook) -> Telling:
    place = "approvals.webhook"
    try:
        url = Url.parse(str(webhook.url), allow_private=webhook.private)
        secret = resolve(webhook.secret, means.environ).encode()
        return Telling(
            means.state.approvals, means.upstreams, url, secret, means.settings.public_url, means.clock, webhook.seconds
        )
    except ValueError as error:
        raise ProblemError(Problem("approvals", str(error), place)) from None


def opened(means: Means, policy: Opened, identity: Identity) -> Approvals:
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
    webhook = means.settings.approvals.webhook
    if webhook is not None:
        telling = _telling(means, webhook)
        means.stack.push_async_callback(telling.close)
        approvals.asked = telling.wake
        telling.start()
    means.stack.push_async_callback(approvals.close)
    approvals.start()
    return approvals
