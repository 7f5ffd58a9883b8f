"""Correlation by trace, for agents that cannot be changed: under which trace a call was handed on says for whom they go on.

A trace id is no secret and no proof: the agent proves itself first, the id only chooses among what was handed to that very agent.
The id is the gateway's own, a fresh one for each call, so that no caller can choose it, nor use another's again.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from gateway.identity.delegation import Delegated, Delegations
from gateway.identity.token import refuse
from gateway.model import Call, Clock, Trace
from gateway.state.sealing import Sealer, UnsealableError

if TYPE_CHECKING:
    from gateway.settings import Agent

MOST_OF_A_TRACE = 16


class Rows(Protocol):
    """Where hops stand, shared by all replicas."""

    async def hand(self, agent: str, trace: str, call: str, sealed: bytes, until: int, now: int) -> None:  # noqa: PLR0917
        """Write one, durable on return."""

    async def handed(self, agent: str, trace: str, now: int) -> tuple[tuple[str, bytes], ...]:
        """Calls and sealed bytes of those that still count, newest last."""


class Hops:
    """What was handed to the agents with `trace_ok`: to each call the token that the agent would show if it could."""

    def __init__(  # noqa: PLR0917  the parts that one correlation needs
        self, rows: Rows, delegations: Delegations, seal: Sealer, key: bytes, agents: Mapping[str, Agent], clock: Clock
    ) -> None:
        """`key` makes the trace ids: 32 bytes, the same on every replica."""
        self._rows = rows
        self._delegations = delegations
        self._seal = seal
        self._key = key
        self._agents = frozenset(name for name, agent in agents.items() if agent.auth.trace_ok)
        self._clock = clock

    def trace(self, call: Call) -> Trace:
        """Under which a call goes on: to an agent of these a trace that begins here and that nobody could choose or foresee."""
        if call.target not in self._agents:
            return call.trace
        fresh = hmac.digest(self._key, call.arrival.id.encode("ascii"), hashlib.sha256)[:16].hex()
        return Trace(fresh, call.trace.span_id, flags=call.trace.flags)

    async def hand(self, call: Call, token: str) -> None:
        """Before the call is sent to its agent: durable on return.  `token` is the agent's delegation."""
        if call.target not in self._agents:
            return
        agent, trace, now = call.target, self.trace(call).trace_id, self._clock() // 1_000_000
        until = self._delegations.verify(token).expires
        sealed = self._seal.seal(_binding(agent, trace, call.arrival.id), token.encode("ascii"))
        await self._rows.hand(agent, trace, call.arrival.id, sealed, until, now)

    async def handed(self, agent: str, trace: str, now: int) -> str | None:
        """The delegation by which this agent, proven to be it, goes on under a trace; None where nothing was handed to it so.

        Refused(INVALID_CREDENTIAL) where it could be one of several persons', workflows' or chains': none is picked.
        """
        rows = await self._rows.handed(agent, trace, now)
        if len(rows) > MOST_OF_A_TRACE:
            refuse("too many calls were handed over under this trace")
        tokens = [self._open(agent, trace, call, sealed) for call, sealed in rows]
        if len({_identity(self._known(token)) for token in tokens}) > 1:
            refuse("calls of different workflows were handed over under this trace")
        return tokens[-1] if tokens else None

    def _open(self, agent: str, trace: str, call: str, sealed: bytes) -> str:
        try:
            return self._seal.open(_binding(agent, trace, call), sealed).decode("ascii")
        except UnsealableError:
            refuse("what was handed over under this trace cannot be opened")

    def _known(self, token: str) -> Delegated:
        digest = hashlib.sha256(token.encode("ascii")).hexdigest()
        return self._delegations.known(digest) or self._delegations.verify(token)


def _binding(agent: str, trace: str, call: str) -> str:
    return f"{agent} {trace} {call}"


def _identity(said: Delegated) -> tuple[object, ...]:
    """What two hops must share to be the same to policy."""
    return said.tenant, said.subject, said.workflow, said.chain, said.scope, said.grant
