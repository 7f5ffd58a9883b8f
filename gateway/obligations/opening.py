"""Every duty that a gateway fulfils, with what some of them need beside the call."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from gateway.identity.keyfiles import resolve
from gateway.identity.opening import Means
from gateway.obligations import DUTIES, inspect, limit, notify, personal
from gateway.obligations.duty import Duty
from gateway.obligations.guards import Guard, Guards
from gateway.obligations.inspector import Inspector
from gateway.obligations.limit import Limits
from gateway.obligations.notify import Notifier, Receiver
from gateway.problem import Problem, ProblemError
from gateway.state.sealing import Sealer
from gateway.upstream.client import Url


class Opened(NamedTuple):
    """by_type: every duty.  limits: what calls take of what is limited, and give back.  inspector: what searches answers.

    notifier: what tells.
    """

    by_type: Mapping[str, Duty]
    limits: Limits
    inspector: Inspector
    notifier: Notifier


def opened(means: Means) -> Opened:
    """Its stack stops what is told, and gives back what is held.

    ProblemError for a receiver or a guard that cannot be one, and where what settings switch on is not installed.
    """
    limits = Limits(means.state.limits, _key(means, b"bailiwick limits"), means.clock)
    means.stack.push_async_callback(limits.aclose)
    sealer = Sealer(_key(means, b"bailiwick outbox"), "outbox")
    notifier = Notifier(means.state.outbox, sealer, _receivers(means), means.upstreams.send, means.clock)
    means.stack.push_async_callback(notifier.aclose)
    notifier.start()
    inspector = _inspector(means)
    more: dict[str, Duty] = {limit.TYPE: limits.fulfil, notify.TYPE: notifier.fulfil, inspect.TYPE: inspector.fulfil}
    return Opened(MappingProxyType({**DUTIES, **more}), limits, inspector, notifier)


def _key(means: Means, purpose: bytes) -> bytes:
    return hmac.digest(means.seal, purpose, "sha256")


def _inspector(means: Means) -> Inspector:
    said = means.settings.inspect
    if said.personal_data:
        try:
            personal.load()
        except ImportError as error:
            help_ = f"pip install 'bailiwick[{personal.EXTRA}]', or leave it out of the settings"
            raise ProblemError(
                Problem("missing-extra", f"inspect.personal_data: {error.name} is not installed", "", help_)
            ) from None
    found = {}
    for name, guard in said.guards.items():
        where = f"inspect.guards.{name}"
        token = resolve(guard.token, means.environ, f"{where}.token") if guard.token is not None else ""
        try:
            found[name] = Guard(Url.parse(str(guard.url), allow_private=guard.private), token, guard.seconds)
        except ValueError as error:
            raise ProblemError(Problem("bad-guard", f"{where}: {error}", "")) from None
    inspector = Inspector(Guards(found, means.upstreams.send), workers=said.workers, seconds=said.seconds)
    means.stack.callback(inspector.close)
    return inspector


def _receivers(means: Means) -> dict[str, Receiver]:
    found = {}
    for name, receiver in means.settings.notify.items():
        secret = resolve(receiver.secret, means.environ, f"notify.{name}.secret")
        try:
            url = Url.parse(str(receiver.url), allow_private=receiver.private)
            found[name] = Receiver(url, notify.key_of(secret))
        except ValueError as error:
            raise ProblemError(Problem("bad-receiver", f"notify.{name}: {error}", "")) from None
    webhook = means.settings.approvals.webhook
    if webhook is not None:
        try:
            url = Url.parse(str(webhook.url), allow_private=webhook.private)
            key = notify.key_of(resolve(webhook.secret, means.environ, "approvals.webhook.secret"))
            found[notify.APPROVALS] = Receiver(url, key, webhook.seconds)
        except ValueError as error:
            raise ProblemError(Problem("approvals", str(error), "approvals.webhook")) from None
    return found
