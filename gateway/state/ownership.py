"""Whose task, whose conversation: the first claim is durable and stands for ever; every other person's claim is refused.

A person's own word for a conversation means that person's alone: whoever else says it says a word of their own.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state.tables import ID_CHARS, ContextOwner, TaskOwner
from gateway.state.worker import Worker

MAX_REMEMBERED = 16_384

_TASKS: Table = TaskOwner.__table__  # type: ignore[attr-defined]  # set by SQLModel at class creation
_CONTEXTS: Table = ContextOwner.__table__  # type: ignore[attr-defined]  # as above


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose it is.  created_at in UTC microseconds; for a context, context_id is its own id.

    word  of a context: what its owner calls it, "" where that is its id.
    """

    tenant: str
    subject: str
    context_id: str
    workflow: str
    created_at: int
    word: str = ""

    def is_for(self, tenant: str, subject: str) -> bool:
        """Whether this person of this tenant owns it."""
        return self.tenant == tenant and self.subject == subject


class _Owners:
    """Owners read or written lately: facts that never change, so remembering them is safe on every replica."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._known: OrderedDict[tuple[str, ...], Owner] = OrderedDict()

    def remember(self, owner: Owner, agent: str, *name: str) -> None:
        """Keep an owner that is durable."""
        self._known[agent, *name] = owner
        self._known.move_to_end((agent, *name))
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)

    def recall(self, agent: str, *name: str) -> Owner | None:
        """The owner, where it is remembered."""
        owner = self._known.get((agent, *name))
        if owner is not None:
            self._known.move_to_end((agent, *name))
        return owner


class Contexts(_Owners):
    """Conversations (A2A `contextId`) by agent."""

    async def claim(  # noqa: PLR0917  a row's columns, in their order
        self, agent: str, context_id: str, subject: str, tenant: str, workflow: str, at: int
    ) -> Owner:
        """The owner, durable on return: this person, if nobody was before.  Refused(NOT_OWNER) if somebody else was."""
        _check(context_id)
        known = self.recall(agent, context_id)
        if known is None:
            owner = Owner(tenant, subject, context_id, workflow, at)
            known = await self._worker.run(lambda connection: _claim_context(connection, agent, owner))
            self.remember(known, agent, context_id)
        return _mine(known, tenant, subject)

    async def owner(self, agent: str, context_id: str) -> Owner | None:
        """The owner; None where nobody has claimed it."""
        if not _is_id(context_id):
            return None
        known = self.recall(agent, context_id)
        if known is None:
            known = await self._worker.run(lambda connection: _context(connection, agent, context_id))
            if known is not None:
                self.remember(known, agent, context_id)
        return known

    async def meant(self, agent: str, said: str, tenant: str, subject: str) -> Owner | None:
        """The context that this person means: by a word of their own, or by its id.  None for anything else, also for another's.

        What is another's is looked for as what never was, and costs as much.
        """
        known = self.recall(agent, tenant, subject, said)
        if known is None and _is_id(said):
            known = await self._worker.run(lambda connection: _meant(connection, agent, said, tenant, subject))
            if known is not None:
                self._learnt(known, agent, said)
        return known

    async def name(  # noqa: PLR0917  a row's columns, in their order
        self, agent: str, said: str, subject: str, tenant: str, workflow: str, at: int
    ) -> Owner:
        """What this person means, durable on return: a new context, whose id nobody can guess, where the word meant none."""
        _check(said)
        known = self.recall(agent, tenant, subject, said)
        if known is None:
            new = Owner(tenant, subject, str(uuid.uuid4()), workflow, at, said)
            known = await self._worker.run(lambda connection: _name(connection, agent, new))
            self._learnt(known, agent, said)
        return known

    async def words(self, agent: str, ids: Iterable[str], tenant: str, subject: str) -> Mapping[str, str]:
        """What this person calls those of the contexts that are theirs and that they call otherwise, by id."""
        owners = {each: self.recall(agent, each) for each in ids}
        missing = [each for each, owner in owners.items() if owner is None and _is_id(each)]
        if missing:
            found = await self._worker.run(lambda connection: _contexts(connection, agent, missing))
            for owner in found:
                self.remember(owner, agent, owner.context_id)
                owners[owner.context_id] = owner
        return {each: owner.word for each, owner in owners.items() if owner and owner.word and owner.is_for(tenant, subject)}

    def _learnt(self, owner: Owner, agent: str, said: str) -> None:
        self.remember(owner, agent, owner.tenant, owner.subject, said)
        self.remember(owner, agent, owner.context_id)


class Tasks(_Owners):
    """Tasks (A2A `taskId`) by agent."""

    def __init__(self, worker: Worker, contexts: Contexts) -> None:
        super().__init__(worker)
        self._contexts = contexts

    async def claim(  # noqa: PLR0917  a row's columns, in their order
        self, agent: str, task_id: str, context_id: str, subject: str, tenant: str, workflow: str, at: int
    ) -> Owner:
        """The owner, durable on return: this person, if nobody was before.

        The context, where there is one, is claimed in the same transaction: both or neither.  Refused(NOT_OWNER) when task or
        context is somebody else's.
        """
        _check(task_id)
        if context_id:
            _check(context_id)
        known = self.recall(agent, task_id)
        if known is None:
            owner = Owner(tenant, subject, context_id, workflow, at)
            task, context = await self._worker.run(lambda connection: _claim_task(connection, agent, task_id, owner))
            if context is not None:
                self._contexts.remember(context, agent, context_id)
            self.remember(task, agent, task_id)
            return task
        return _mine(known, tenant, subject)

    async def mine(self, agent: str, ids: Sequence[str], tenant: str, subject: str) -> frozenset[str]:
        """Those of the tasks that are this person's."""
        if not ids:
            return frozenset()
        return await self._worker.run(lambda connection: _mine_of(connection, agent, ids, tenant, subject))

    async def count(self, agent: str, tenant: str, subject: str, context_id: str = "") -> int:
        """How many tasks at the agent this person has, in one context where one is named."""
        return await self._worker.run(lambda connection: _count(connection, agent, tenant, subject, context_id))

    async def owner(self, agent: str, task_id: str) -> Owner | None:
        """The owner; None where nobody has claimed it."""
        return self.recall(agent, task_id) or await self._read(agent, task_id)

    async def asked(self, agent: str, task_id: str, tenant: str, subject: str) -> Owner | None:
        """The owner, asked for by somebody: finding out takes as long for what is another's as for what never was."""
        known = self.recall(agent, task_id)
        return known if known is not None and known.is_for(tenant, subject) else await self._read(agent, task_id)

    async def _read(self, agent: str, task_id: str) -> Owner | None:
        if not _is_id(task_id):
            return None
        known = await self._worker.run(lambda connection: _task(connection, agent, task_id))
        if known is not None:
            self.remember(known, agent, task_id)
        return known


def _mine_of(connection: Connection, agent: str, ids: Sequence[str], tenant: str, subject: str) -> frozenset[str]:
    table = _TASKS
    where = table.c.agent == agent, table.c.task_id.in_(ids), table.c.tenant == tenant, table.c.subject == subject
    return frozenset(row[0] for row in connection.execute(select(table.c.task_id).where(*where)))


def _count(connection: Connection, agent: str, tenant: str, subject: str, context_id: str) -> int:
    table = _TASKS
    where = [table.c.agent == agent, table.c.tenant == tenant, table.c.subject == subject]
    if context_id:
        where.append(table.c.context_id == context_id)
    return int(connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one())


def _mine(owner: Owner, tenant: str, subject: str) -> Owner:
    if not owner.is_for(tenant, subject):
        raise Refused(Code.NOT_OWNER, "claimed by somebody else before")
    return owner


def _is_id(name: str) -> bool:
    return 1 <= len(name) <= ID_CHARS and "\0" not in name and name.isprintable()


def _check(name: str) -> None:
    if not _is_id(name):
        raise Refused(Code.INVALID_PARAMS, f"an id is 1 to {ID_CHARS} printable characters")


def _claim_task(connection: Connection, agent: str, task_id: str, owner: Owner) -> tuple[Owner, Owner | None]:
    """The owner of the task, and of its context, where it has one."""
    context = None
    if owner.context_id:
        context = _mine(_claim_context(connection, agent, owner), owner.tenant, owner.subject)
    _insert(connection, _TASKS, agent=agent, task_id=task_id, **_columns(owner))
    stands = _task(connection, agent, task_id)
    if stands is None:
        raise Refused(Code.INTERNAL_ERROR, "the state store lost a claim")
    return _mine(stands, owner.tenant, owner.subject), context  # raised in the transaction: the context's claim goes with it


def _claim_context(connection: Connection, agent: str, owner: Owner) -> Owner:
    _insert(connection, _CONTEXTS, agent=agent, **_columns(owner))
    stands = _context(connection, agent, owner.context_id)
    if stands is None:
        raise Refused(Code.INTERNAL_ERROR, "the state store lost a claim")
    return stands


def _name(connection: Connection, agent: str, new: Owner) -> Owner:
    stands = _meant(connection, agent, new.word, new.tenant, new.subject)
    if stands is None:
        key = _word_key(agent, new.word, new.tenant, new.subject)
        _insert(connection, _CONTEXTS, agent=agent, word=new.word, word_key=key, **_columns(new))
        stands = _called(connection, key)
    if stands is None:
        raise Refused(Code.INTERNAL_ERROR, "the state store lost a claim")
    return stands


def _word_key(agent: str, word: str, tenant: str, subject: str) -> str:
    return hashlib.sha256(json.dumps(["context", agent, tenant, subject, word], separators=(",", ":")).encode()).hexdigest()


def _columns(owner: Owner) -> dict[str, Any]:
    return {
        "context_id": owner.context_id,
        "tenant": owner.tenant,
        "subject": owner.subject,
        "workflow": owner.workflow,
        "created_at": owner.created_at,
    }


def _insert(connection: Connection, table: Table, **row: object) -> None:
    """Insert unless the key is taken; of two at once the database lets one wait and then see the other's row."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(table).values(row).on_conflict_do_nothing())


def _task(connection: Connection, agent: str, task_id: str) -> Owner | None:
    return _owner(connection, _TASKS, _TASKS.c.agent == agent, _TASKS.c.task_id == task_id)


def _context(connection: Connection, agent: str, context_id: str) -> Owner | None:
    return _owner(connection, _CONTEXTS, _CONTEXTS.c.agent == agent, _CONTEXTS.c.context_id == context_id)


def _contexts(connection: Connection, agent: str, ids: Sequence[str]) -> Sequence[Owner]:
    where = _CONTEXTS.c.agent == agent, _CONTEXTS.c.context_id.in_(ids)
    return [Owner(*row) for row in connection.execute(select(*_shown(_CONTEXTS)).where(*where))]


def _meant(connection: Connection, agent: str, said: str, tenant: str, subject: str) -> Owner | None:
    called = _called(connection, _word_key(agent, said, tenant, subject))
    if called is not None:
        return called
    c = _CONTEXTS.c
    mine = c.tenant == tenant, c.subject == subject
    return _owner(connection, _CONTEXTS, c.agent == agent, c.context_id == said, *mine)


def _called(connection: Connection, key: str) -> Owner | None:
    return _owner(connection, _CONTEXTS, _CONTEXTS.c.word_key == key)


def _owner(connection: Connection, table: Table, *where: Any) -> Owner | None:
    row = connection.execute(select(*_shown(table)).where(*where)).one_or_none()
    return None if row is None else Owner(*row)


def _shown(table: Table) -> Sequence[Any]:
    c = table.c
    columns = c.tenant, c.subject, c.context_id, c.workflow, c.created_at
    return columns if table is not _CONTEXTS else (*columns, func.coalesce(c.word, ""))
