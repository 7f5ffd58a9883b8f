"""Requests of the era of handshakes that are under way here: a client cancels by a notice, and only what is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.mcp.aggregate.caller import Caller, Leg
from gateway.model import Call


class Cancelled(Exception):  # noqa: N818  what befell the request, not a fault
    """The client has cancelled the request that is being served."""


class Request:
    """One that is under way; `leg` says at which server."""

    __slots__ = ("_task", "cancelled", "leg")

    def __init__(self, leg: Leg, task: asyncio.Task[object] | None) -> None:
        self.leg = leg
        self.cancelled = False
        self._task = task

    def cancel(self) -> None:
        """End it, once."""
        if not self.cancelled and self._task is not None:
            self.cancelled = True
            self._task.cancel()


class Running:
    """Those of this process.  A request is known by its principal, its session and its id, which is `1` or `"1"`.

    A client without a session has nothing to tell its requests from another client's of the same principal: it cancels none.
    """

    def __init__(self) -> None:
        self._requests: dict[tuple[object, ...], Request] = {}

    @contextmanager
    def entered(self, caller: Caller, leg: Leg) -> Iterator[None]:
        """While it is served; raises `Cancelled` where it ends because the client has said so."""
        key = _key(caller, caller.call.rpc_id)
        if key is None or key in self._requests:
            yield
            return
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        request = self._requests[key] = Request(leg, task)
        try:
            yield
        except asyncio.CancelledError:
            if not request.cancelled or task is None or task.uncancel() > before:
                raise
            raise Cancelled from None
        finally:
            del self._requests[key]

    def of(self, caller: Caller, notice: Call) -> Request | None:
        """The request that a client's notice of cancellation is about."""
        wanted = notice.message["params"].get("requestId")
        key = _key(caller, wanted) if isinstance(wanted, str | int) and not isinstance(wanted, bool) else None
        return None if key is None else self._requests.get(key)


def _key(caller: Caller, rpc_id: str | int | None) -> tuple[object, ...] | None:
    return None if caller.session is None or rpc_id is None else (*caller.session, rpc_id.__class__, rpc_id)
