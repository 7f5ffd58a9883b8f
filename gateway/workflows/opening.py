"""Workflows, opened by the composition root: what reserves and settles, and what settles from the ledger what was left."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.model import Clock
from gateway.policy.opening import Opened
from gateway.state.store import State
from gateway.stores import urls_of
from gateway.workflows.reconciling import Reconciling
from gateway.workflows.steps import InForceNow, Steps

if TYPE_CHECKING:
    from gateway.settings import Settings

MARKS: Final = b"workflow marks"
"""What the key for digests of arguments is made for."""


def opened(  # noqa: PLR0917  what it is made of
    settings: Settings, state: State, policy: Opened, keys: tuple[bytes, bytes], clock: Clock, stack: AsyncExitStack
) -> InForceNow:
    """`keys` are the ledger's seal key, and one of its own for digests of arguments."""
    seal, marks = keys
    steps = Steps(state.histories, marks, policy.shadowing.note, clock)
    stack.push_async_callback(steps.close)
    longest = int(settings.limits.call_seconds)
    reconciling = Reconciling(state.histories, partial(urls_of, settings), seal, clock, longest)
    stack.push_async_callback(reconciling.aclose)
    reconciling.start()
    return InForceNow(steps, policy.in_force)
