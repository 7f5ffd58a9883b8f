"""Whose task, whose context: an id is worth nothing without the person it belongs to.

Ids at one agent are known to the gateway or they do not exist; a task is written down before anybody hears its id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, Protocol

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

    async def asked(self, agent: str, task_id: str, tenant: str, subject: str) -> Owner | None:
        """The same; finding out takes as long for what is somebody else's as for what never was."""

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

    async def meant(self, agent: str, said: str, tenant: str, subject: str) -> Owner | None:
        """The context that this person means, by a word of their own or by its id; None for what is not theirs."""

    async def name(  # noqa: PLR0917  a row's columns, in their order
        self, agent: str, said: str, subject: str, tenant: str, workflow: str, at: int
    ) -> Owner:
        """The same, durable on return; a new context, whose id nobody can guess, where it meant none."""

    async def words(self, agent: str, ids: Iterable[str], tenant: str, subject: str) -> Mapping[str, str]:
        """What this person calls those of the contexts that they call otherwise, by id."""


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
            owner = await self._tasks.asked(permit.call.target, task, principal.tenant, principal.subject)
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

    async def meant(self, permit: Permit, said: str) -> str:
        """The id of the caller's own context that is meant; "" where none is.  Asking claims nothing."""
        principal = permit.principal
        owner = await self._contexts.meant(permit.call.target, said, principal.tenant, principal.subject)
        return "" if owner is None else owner.context_id

    async def enter(self, permit: Permit, said: str, new: Literal["own", "claim", "refuse"]) -> str:
        """The id under which the context that is meant goes on to the agent; it is the caller's, durable on return.

        new  what comes of one that is none of the caller's: `own`, it is the caller's word for a new one from now on; `claim`, it
             is the caller's if nobody's else; else `Refused(NOT_OWNER)`, answered as invalid params.
        """
        if new == "own":
            return (await self._contexts.name(permit.call.target, said, *_whose(permit))).context_id
        context = await self.meant(permit, said)
        if context:
            return context
        try:
            if new == "refuse":
                raise Refused(Code.NOT_OWNER)
            await self._contexts.claim(permit.call.target, said, *_whose(permit))
        except Refused as refusal:
            if refusal.code is not Code.NOT_OWNER:
                raise
            raise RpcRefused(Code.NOT_OWNER, "a context of somebody else", rpc_code=INVALID_PARAMS) from None
        return said

    async def contexts_of(self, permit: Permit, tasks: Iterable[str]) -> frozenset[str]:
        """The contexts of tasks that are the caller's own."""
        principal = permit.principal
        whose = principal.tenant, principal.subject
        owners = [await self._tasks.asked(permit.call.target, task, *whose) for task in tasks]
        return frozenset(owner.context_id for owner in owners if owner is not None and owner.is_for(*whose)) - {""}

    async def words(self, permit: Permit, contexts: Iterable[str]) -> Mapping[str, str]:
        """What the caller calls contexts, by their ids at the agent; nothing of one that has the same name for both."""
        principal = permit.principal
        return await self._contexts.words(permit.call.target, contexts, principal.tenant, principal.subject)

    async def learn(self, permit: Permit, named: Named) -> None:
        """Write down what an answer names, before it is released; `UpstreamError("protocol")` for what is somebody else's."""
        call, whose = permit.call, _whose(permit)
        context = named.context
        try:
            for task in named.tasks:
                owner = await self._tasks.claim(call.target, task, named.context, *whose)
                if owner.context_id == named.context:
                    context = ""  # claimed together with its task
            if context:
                await self._contexts.claim(call.target, context, *whose)
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


def _whose(permit: Permit) -> tuple[str, str, str, int]:
    principal = permit.principal
    return principal.subject, principal.tenant, principal.workflow, permit.call.arrival.at
