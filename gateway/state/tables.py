"""The tables of the state store.  What whoever may write to one could do, the module that reads it says, and SECURITY.md."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, LargeBinary, String, Text, text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

ID_CHARS = 512
SUBJECT_CHARS = 400


class Table(SQLModel, registry=registry()):
    """Base of the tables here: a registry, and so metadata, of their own."""


class TaskOwner(Table, table=True):
    """For whom an agent's task was begun.  Written once, never changed."""

    __tablename__ = "task_owners"

    agent: str = Field(primary_key=True, sa_type=String(63))
    task_id: str = Field(primary_key=True, sa_type=String(ID_CHARS))
    context_id: str = Field(sa_type=String(ID_CHARS))
    tenant: str = Field(sa_type=String(63))
    subject: str = Field(sa_type=String(SUBJECT_CHARS))
    workflow: str = Field(sa_type=String(64))
    created_at: int = Field(sa_type=BigInteger)
    """UTC microseconds."""


class ContextOwner(Table, table=True):
    """For whom a conversation with an agent was begun.  Written once, never changed."""

    __tablename__ = "context_owners"

    agent: str = Field(primary_key=True, sa_type=String(63))
    context_id: str = Field(primary_key=True, sa_type=String(ID_CHARS))
    """As the agent knows it."""
    tenant: str = Field(sa_type=String(63))
    subject: str = Field(sa_type=String(SUBJECT_CHARS))
    workflow: str = Field(sa_type=String(64))
    created_at: int = Field(sa_type=BigInteger)
    """UTC microseconds."""
    word: str | None = Field(default=None, sa_type=String(ID_CHARS))
    """What its owner calls it, where that is another word."""
    word_key: str | None = Field(default=None, sa_type=String(64))
    """SHA-256 (hex) of agent, owner and word: a word of one person at one agent means one context."""

    __table_args__ = (Index("ix_context_owners_word_key", "word_key", unique=True),)


class Kill(Table, table=True):
    """What may act no more: a person, an agent, a workflow, a branch of one, a token.  Lifted rows stay, as history."""

    __tablename__ = "kills"

    id: str = Field(primary_key=True, sa_type=String(40))
    kind: str = Field(sa_type=String(16))
    target: str = Field(index=True, sa_type=String(SUBJECT_CHARS))
    before: int | None = Field(default=None, sa_type=BigInteger)
    """Epoch seconds: only authority that was given until then is dead; None: all, until it is lifted."""
    reason: str = Field(sa_type=String(256))
    source: str = Field(sa_type=String(16))
    by: str = Field(sa_type=String(SUBJECT_CHARS))
    created_at: int = Field(sa_type=BigInteger)
    lifted_at: int | None = Field(default=None, sa_type=BigInteger)


class Used(Table, table=True):
    """What is good once and was used: by whose scope, and the SHA-256 (hex) of its `jti`; never a token's text."""

    __tablename__ = "used_once"

    scope: str = Field(primary_key=True, sa_type=String(128))
    digest: str = Field(primary_key=True, sa_type=String(64))
    until: int = Field(index=True, sa_type=BigInteger)
    """Epoch seconds after which nothing could use it again anyway."""


class HandedHop(Table, table=True):
    """Which calls were handed to an agent, by trace, so that it can go on without showing a token; sealed."""

    __tablename__ = "handed_hops"

    agent: str = Field(primary_key=True, sa_type=String(63))
    trace: str = Field(primary_key=True, sa_type=String(32))
    call: str = Field(primary_key=True, sa_type=String(40))
    sealed: bytes
    until: int = Field(index=True, sa_type=BigInteger)


class PushConfig(Table, table=True):
    """Where a client wants news of a task, by the SHA-256 (hex) of the callback that its agent was given; sealed."""

    __tablename__ = "push_configs"

    callback: str = Field(primary_key=True, sa_type=String(64))
    agent: str = Field(sa_type=String(63))
    task_id: str = Field(sa_type=String(ID_CHARS))
    config_id: str = Field(sa_type=String(ID_CHARS))
    tenant: str = Field(sa_type=String(63))
    subject: str = Field(index=True, sa_type=String(SUBJECT_CHARS))
    sealed: bytes
    until: int = Field(index=True, sa_type=BigInteger)


class LimitRate(Table, table=True):
    """When the next call of something that is limited is due, by a keyed digest of it; of what has slots, a row to lock."""

    __tablename__ = "limit_rates"

    key: str = Field(primary_key=True, sa_type=String(64))
    due: int = Field(index=True, sa_type=BigInteger)
    """UTC microseconds."""


class LimitSlot(Table, table=True):
    """A call that is under way, of those of which only so many may be at once."""

    __tablename__ = "limit_slots"

    key: str = Field(primary_key=True, sa_type=String(64))
    holder: str = Field(primary_key=True, index=True, sa_type=String(40))
    until: int = Field(index=True, sa_type=BigInteger)
    """UTC microseconds: the end of the lease."""


class Outgoing(Table, table=True):
    """What is still to be told to a receiver; sealed."""

    __tablename__ = "outbox"

    id: str = Field(primary_key=True, sa_type=String(128))
    receiver: str = Field(index=True, sa_type=String(63))
    sealed: bytes
    attempts: int = Field(sa_type=BigInteger)
    made: int = Field(sa_type=BigInteger)
    """UTC microseconds, as `due`: when it is tried next, or its claim ends."""
    due: int = Field(index=True, sa_type=BigInteger)
    subject: str = Field(default="", index=True, sa_type=String(SUBJECT_CHARS))
    """Whom it is about; "" for nobody, or of a notice from before this was kept."""
    until: int = Field(default=0, sa_type=BigInteger)
    """UTC microseconds at which it is given up."""


class SubjectToken(Table, table=True):
    """A person's access token, kept sealed while their workflow may need it for an exchange at their IdP."""

    __tablename__ = "subject_tokens"

    workflow: str = Field(primary_key=True, sa_type=String(64))
    sealed: bytes
    until: int = Field(index=True, sa_type=BigInteger)


class VaultToken(Table, table=True):
    """A credential that a person let the gateway keep for one upstream, sealed."""

    __tablename__ = "vault_tokens"

    tenant: str = Field(primary_key=True, sa_type=String(63))
    subject: str = Field(primary_key=True, sa_type=String(SUBJECT_CHARS))
    upstream: str = Field(primary_key=True, sa_type=String(80))
    sealed: bytes
    version: int = Field(sa_type=BigInteger)
    """Grows with each refresh: of two replicas that refresh at once, one sees that it lost."""
    created_at: int = Field(sa_type=BigInteger)
    updated_at: int = Field(sa_type=BigInteger)


class VaultTicket(Table, table=True):
    """What somebody was asked for, a consent or a server's question; by the SHA-256 (hex) of its random id, sealed, good once."""

    __tablename__ = "vault_tickets"

    digest: str = Field(primary_key=True, sa_type=String(64))
    sealed: bytes
    until: int = Field(index=True, sa_type=BigInteger)


class StandingGrant(Table, table=True):
    """What a person lets an agent do in their name while they are away."""

    __tablename__ = "standing_grants"

    id: str = Field(primary_key=True, sa_type=String(40))
    tenant: str = Field(sa_type=String(63))
    subject: str = Field(index=True, sa_type=String(SUBJECT_CHARS))
    agent: str = Field(sa_type=String(63))
    scope: str = Field(sa_type=Text)
    definition: str = Field(sa_type=String(128))
    """Digest of the workflow's definition that it is for; "" for any."""
    ends: int = Field(sa_type=BigInteger)
    created_at: int = Field(sa_type=BigInteger)
    revoked_at: int | None = Field(default=None, sa_type=BigInteger)


class SeenDefinition(Table, table=True):
    """What a server said of a tool, prompt, template or of itself when it was first seen, and what of it is held back since."""

    __tablename__ = "seen_definitions"

    server: str = Field(primary_key=True, sa_type=String(63))
    what: str = Field(primary_key=True, sa_type=String(16))
    name: str = Field(primary_key=True, sa_type=String(256))
    digest: str = Field(sa_type=String(80))
    """Of what counts because it was seen first; "" where nothing does."""
    definition: str = Field(sa_type=Text)
    """The same in full, as JSON."""
    seen_at: int = Field(sa_type=BigInteger)
    held: str = Field(sa_type=String(80))
    """Digest of what was last seen in its place and is not let through; "" where nothing is."""
    held_at: int = Field(sa_type=BigInteger)


class WorkflowHistory(Table, table=True):
    """A workflow that rules hold calls to.  Its row is the lock under which they are decided one after the other."""

    __tablename__ = "workflow_histories"

    tenant: str = Field(primary_key=True, sa_type=String(63))
    workflow: str = Field(primary_key=True, sa_type=String(64))
    epoch: str = Field(sa_type=String(32))
    """Drawn when the row is made: a history that was made anew is told from the one before."""
    version: int = Field(sa_type=BigInteger)
    """Grows with every change of a step; a step holds the one of its last change."""
    size: int = Field(sa_type=BigInteger)
    subject: str = Field(index=True, sa_type=String(SUBJECT_CHARS))
    until: int = Field(index=True, sa_type=BigInteger)
    """Epoch seconds after which it is forgotten."""


class WorkflowStep(Table, table=True):
    """One call of a workflow: reserved before it is sent, settled by its recorded outcome."""

    __tablename__ = "workflow_steps"
    __table_args__ = (
        Index("ix_workflow_steps_version", "tenant", "workflow", "version"),
        Index("ix_workflow_steps_subject", "subject", "at"),
        Index("ix_workflow_steps_actor", "actor", "at"),
        Index("ix_workflow_steps_at", "at"),
        Index("ix_workflow_steps_state", "state", "at"),
        Index("ix_workflow_steps_task", "task", sqlite_where=text("task <> ''"), postgresql_where=text("task <> ''")),
    )

    call: str = Field(primary_key=True, sa_type=String(40))
    tenant: str = Field(sa_type=String(63))
    workflow: str = Field(sa_type=String(64))
    version: int = Field(sa_type=BigInteger)
    kind: str = Field(sa_type=String(16))
    """`call`; what else may satisfy a rule has a word of its own."""
    resource: str = Field(sa_type=String(1000))
    actor: str = Field(sa_type=String(SUBJECT_CHARS))
    subject: str = Field(sa_type=String(SUBJECT_CHARS))
    at: int = Field(sa_type=BigInteger)
    state: str = Field(sa_type=String(16))
    begun: str = Field(sa_type=Text)
    """JSON of `policies.workflows.kept`: workflows that hold it, marks and sums of its arguments, labels that it brought."""
    results: str = Field(sa_type=Text)
    """JSON of the same: fields of its result."""
    purses: str = Field(sa_type=Text)
    """JSON: the purses that it draws on, and how much."""
    task: str = Field(default="", sa_type=String(64))
    """Digest of the task that its call became; "" for none."""
    settler: str = Field(default="", sa_type=String(40))
    """Id of the record, written or about to be, that settles it by what became of its task; "" where there is none."""


class WorkflowPurse(Table, table=True):
    """What of one budget is used; a sum of steps that is kept, and made anew of them where it is missing."""

    __tablename__ = "workflow_purses"

    key: str = Field(primary_key=True, sa_type=String(64))
    subject: str = Field(index=True, sa_type=String(SUBJECT_CHARS))
    """Whose it is, where it is one person's; "" otherwise."""
    drawn: int | None = Field(default=None, sa_type=BigInteger)
    """How many steps; None until they are counted."""
    total: str = Field(sa_type=Text)
    until: int = Field(index=True, sa_type=BigInteger)


class WorkflowMark(Table, table=True):
    """Steps of all workflows that are about the same thing, by a digest that says nothing of it."""

    __tablename__ = "workflow_marks"
    __table_args__ = (Index("ix_workflow_marks_call", "call"),)

    mark: str = Field(primary_key=True, sa_type=String(64))
    call: str = Field(primary_key=True, sa_type=String(40))


class AgentCard(Table, table=True):
    """What an agent was last heard to say of itself."""

    __tablename__ = "agent_cards"

    agent: str = Field(primary_key=True, sa_type=String(63))
    digest: str = Field(sa_type=String(80))
    """Of its own card, without signatures."""
    verdict: str = Field(sa_type=String(200))
    """What its signatures came to, or why it is not shown."""
    heard_at: int = Field(sa_type=BigInteger)


class ParkedCall(Table, table=True):
    """A call that waits, or waited, for people to approve it.  What it says is sealed."""

    __tablename__ = "approvals"
    __table_args__ = (
        Index(
            "ux_approvals_open",
            "digest",
            unique=True,
            sqlite_where=text("state = 'open'"),
            postgresql_where=text("state = 'open'"),
        ),
    )

    id: str = Field(primary_key=True, sa_type=String(40))
    tenant: str = Field(sa_type=String(63))
    subject: str = Field(index=True, sa_type=String(SUBJECT_CHARS))
    workflow: str = Field(sa_type=String(64))
    digest: str = Field(index=True, sa_type=String(80))
    """Of the exact call, its chain, its workflow and the bundle."""
    bundle: str = Field(sa_type=String(80))
    resource: str = Field(sa_type=String(1000))
    state: str = Field(sa_type=String(16))
    noted: bool
    """Whether the ledger has this state."""
    created_at: int = Field(sa_type=BigInteger)
    expires_at: int = Field(index=True, sa_type=BigInteger)
    ended_at: int | None = Field(default=None, sa_type=BigInteger)
    used_by: str = Field(default="", sa_type=String(40))
    """Id of the call that used it."""
    sealed: bytes = Field(sa_type=LargeBinary)


class ApprovalGrant(Table, table=True):
    """That a person approved one.  Written once; what it counts for is asked again when the call is released."""

    __tablename__ = "approval_grants"

    approval: str = Field(primary_key=True, sa_type=String(40))
    subject: str = Field(primary_key=True, sa_type=String(SUBJECT_CHARS))
    at: int = Field(sa_type=BigInteger)
    sealed: bytes = Field(sa_type=LargeBinary)
