"""Every duty that a gateway fulfils, with what some of them need beside the call."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import MappingProxyType
from typing import NamedTuple

from gateway.model import Clock
from gateway.obligations import DUTIES
from gateway.obligations.duty import Duty
from gateway.obligations.limit import TYPE as LIMIT
from gateway.obligations.limit import Limits
from gateway.state.store import State


class Opened(NamedTuple):
    """by_type: every duty.  limits: what calls take of what is limited, and give back."""

    by_type: Mapping[str, Duty]
    limits: Limits


def opened(state: State, seal: bytes, clock: Clock, stack: AsyncExitStack) -> Opened:
    """`seal`: of which the key is made for the digests by which it is counted.  `stack` gives back what is held."""
    limits = Limits(state.limits, hmac.digest(seal, b"bailiwick limits", "sha256"), clock)
    stack.push_async_callback(limits.aclose)
    return Opened(MappingProxyType({**DUTIES, LIMIT: limits.fulfil}), limits)
