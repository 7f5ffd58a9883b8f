"""Whose task, whose context: an id is worth nothing without the person it belongs to.

Ids at one agent are known to the gateway or they do not exist; a task is written down before anybody hears its id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from gateway.a2a.errors import INVALID_PARAMS, RpcRefused
from gateway.a2a.operations import Mentioned, Named
from gateway.model import Permit, Refused, UpstreamError
from gateway.reasons import Code

MOST_MENTIONED: Final = 256
"""Tasks and contexts beside its own that one answer may mention: each is looked up."""


class Owner(Protocol):
    """To whom an id belongs."""

    @property
    def context_id(self) -> str:
        """The context of the task, "" where it has none."""

    @property
    def workflow(self) -> str:
        """In which it was begun."""

    def is_for(self, tenant: str, subject: str) -> bool:
        """Whether this person of this tenant owns it."""


class TaskOwners(Protocol):
    """Tasks by (agent, task id), as `gateway/state` keeps them."""

    async def claim(  # noqa: PLR0917  a row's columns, in their order
        self, agent: str, task_id: str, context_id: str, subject: str, tenant: str, workflow: str, at: int
    ) -> Owner:
        """Durable on return, the first claim stands, the context is claimed with it; `Refused(NOT_OWNER)` if somebody else's."""

    async def owner(self, agent: str, task_id: str) -> Owner | None:
        """Who owns the task, None where nobody is known to."""

    async def mine(self, agent: str, ids: Sequence[str], tenant: str, subject: str) -> frozenset[str]:
        """Those of the tasks that are this person's."""

    async def count(self, agent: str, tenant: str, subject: str, context_id: str = "") -> int:
        """How many tasks at the agent this person has, in one context where one is named."""


class ContextOwners(Protocol):
    """Contexts by (agent, context id), as `gateway/state` keeps them."""

    async def claim(  # noqa: PLR0917  a row's columns, in their order
        self, agent: str, context_id: str, subject: str, tenant: str, workflow: str, at: int
    ) -> Owner:
        """Durable on return, the first claim stands; `Refused(NOT_OWNER)` if it is somebody else's."""

    async def owner(self, agent: str, context_id: str) -> Owner | None:
        """Who owns the context, None where nobody is known to."""


class Ownership:
    """The walls between people who share an agent."""

    __slots__ = ("_contexts", "_tasks")

    def __init__(self, tasks: TaskOwners, contexts: ContextOwners) -> None:
        self._tasks = tasks
        self._contexts = contexts

    async def check(self, permit: Permit, tasks: Iterable[str]) -> None:
        """`Refused(NOT_OWNER)` unless every task is known and the caller's own; asked before anything is sent."""
        principal = permit.principal
        for task in tasks:
            owner = await self._tasks.owner(permit.call.target, task)
            if owner is None:
                raise Refused(Code.NOT_OWNER, "an unknown task")
            if not owner.is_for(principal.tenant, principal.subject):
                raise Refused(Code.NOT_OWNER, "a task of somebody else")

    async def mine(self, permit: Permit, tasks: Sequence[str]) -> frozenset[str]:
        """Those of an agent's tasks that are the caller's own."""
        principal = permit.principal
        return await self._tasks.mine(permit.call.target, tasks, principal.tenant, principal.subject)

    async def count(self, permit: Permit, context: str = "") -> int:
        """How many tasks the caller has at the agent."""
        principal = permit.principal
        return await self._tasks.count(permit.call.target, principal.tenant, principal.subject, context)

    async def known(self, permit: Permit, context: str) -> bool:
        """Whether the context is the caller's own: asking for one claims nothing."""
        owner = await self._contexts.owner(permit.call.target, context)
        return owner is not None and owner.is_for(permit.principal.tenant, permit.principal.subject)

    async def enter(self, permit: Permit, context: str, *, claims: bool = True) -> None:
        """Make an unclaimed context the caller's; `Refused(NOT_OWNER)`, answered as invalid params, for somebody else's.

        claims  whether that may be: otherwise one that nobody is known to own is as somebody else's.
        """
        try:
            if not claims and not await self.known(permit, context):
                raise Refused(Code.NOT_OWNER)
            await self._claim_context(permit, context)
        except Refused as refusal:
            if refusal.code is not Code.NOT_OWNER:
                raise
            raise RpcRefused(Code.NOT_OWNER, "a context of somebody else", rpc_code=INVALID_PARAMS) from None

    async def learn(self, permit: Permit, named: Named) -> None:
        """Write down what an answer names, before it is released; `UpstreamError("protocol")` for what is somebody else's."""
        principal, call = permit.principal, permit.call
        whose = (principal.subject, principal.tenant, principal.workflow, call.arrival.at)
        context = named.context
        try:
            for task in named.tasks:
                owner = await self._tasks.claim(call.target, task, named.context, *whose)
                if owner.context_id == named.context:
                    context = ""  # claimed together with its task
            if context:
                await self._claim_context(permit, context)
        except Refused as refusal:
            if refusal.code is not Code.NOT_OWNER:
                raise
            raise UpstreamError("protocol", "the answer names what belongs to somebody else") from None

    async def unmixed(self, permit: Permit, mentioned: Mentioned) -> None:
        """`UpstreamError("protocol")` where an answer brings along what was said in somebody else's task or context."""
        principal, agent = permit.principal, permit.call.target
        if len(mentioned.tasks) + len(mentioned.contexts) > MOST_MENTIONED:
            raise UpstreamError("protocol", "the answer mentions too much beside its task")
        owners = [await self._tasks.owner(agent, task) for task in mentioned.tasks]
        owners += [await self._contexts.owner(agent, context) for context in mentioned.contexts]
        if not all(owner is None or owner.is_for(principal.tenant, principal.subject) for owner in owners):
            raise UpstreamError("protocol", "the answer mentions what belongs to somebody else")

    async def _claim_context(self, permit: Permit, context: str) -> None:
        principal, call = permit.principal, permit.call
        await self._contexts.claim(call.target, context, principal.subject, principal.tenant, principal.workflow, call.arrival.at)
