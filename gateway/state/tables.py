"""The tables of the state store.  Whoever may write to them could hand one person's task to another; nobody else can."""

from __future__ import annotations

from sqlalchemy import BigInteger, String
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
    tenant: str = Field(sa_type=String(63))
    subject: str = Field(sa_type=String(SUBJECT_CHARS))
    workflow: str = Field(sa_type=String(64))
    created_at: int = Field(sa_type=BigInteger)
    """UTC microseconds."""
