"""Every duty that a gateway fulfils, with what some of them need beside the call."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from gateway.identity.keyfiles import resolve
from gateway.identity.opening import Means
from gateway.obligations import DUTIES, limit, notify
from gateway.obligations.duty import Duty
from gateway.obligations.limit import Limits
from gateway.obligations.notify import Notifier, Receiver
from gateway.problem import Problem, ProblemError
from gateway.state.sealing import Sealer
from gateway.upstream.client import Url


class Opened(NamedTuple):
    """by_type: every duty.  limits: what calls take of what is limited, and give back."""

    by_type: Mapping[str, Duty]
    limits: Limits


def opened(means: Means) -> Opened:
    """Its stack stops what is told, and gives back what is held.  ProblemError for a receiver that cannot be one."""
    limits = Limits(means.state.limits, _key(means, b"bailiwick limits"), means.clock)
    means.stack.push_async_callback(limits.aclose)
    sealer = Sealer(_key(means, b"bailiwick outbox"), "outbox")
    notifier = Notifier(means.state.outbox, sealer, _receivers(means), means.upstreams.send, means.clock)
    means.stack.push_async_callback(notifier.aclose)
    notifier.start()
    more: dict[str, Duty] = {limit.TYPE: limits.fulfil, notify.TYPE: notifier.fulfil}
    return Opened(MappingProxyType({**DUTIES, **more}), limits)


def _key(means: Means, purpose: bytes) -> bytes:
    return hmac.digest(means.seal, purpose, "sha256")


def _receivers(means: Means) -> dict[str, Receiver]:
    found = {}
    for name, receiver in means.settings.notify.items():
        secret = resolve(receiver.secret, means.environ, f"notify.{name}.secret")
        try:
            url = Url.parse(str(receiver.url), allow_private=receiver.private)
            found[name] = Receiver(url, notify.key_of(secret))
        except ValueError as error:
            raise ProblemError(Problem("bad-receiver", f"notify.{name}: {error}", "")) from None
    return found
