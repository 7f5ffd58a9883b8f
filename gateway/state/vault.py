"""Credentials that people let the gateway keep, and consents they were asked for: sealed before they come here.

A thief of these rows learns who uses which upstream, and how long what they consented to is; nothing opens without the gateway's
own key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Connection, Table, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.state.tables import VaultTicket, VaultToken
from gateway.state.worker import Worker

SWEPT_AT_ONCE = 500
MOST_OF_A_PERSON = 256

_TOKENS: Table = VaultToken.__table__  # type: ignore[attr-defined]  # set by SQLModel at class creation
_TICKETS: Table = VaultTicket.__table__  # type: ignore[attr-defined]  # as above
_C = _TOKENS.c
_COLUMNS = _C.tenant, _C.subject, _C.upstream, _C.version, _C.created_at, _C.updated_at, _C.sealed


@dataclass(frozen=True, slots=True)
class Key:
    """Whose credential, for which upstream."""

    tenant: str
    subject: str
    upstream: str

    @property
    def binding(self) -> str:
        """What it is sealed to; no part of it may hold a line break."""
        return f"{self.tenant}\n{self.subject}\n{self.upstream}"


@dataclass(frozen=True, slots=True)
class Kept:
    """A row.  `version` never comes back, not even after the row was removed and made anew; times in UTC microseconds."""

    key: Key
    version: int
    created_at: int
    updated_at: int
    sealed: bytes = field(repr=False)


class Vaulted:
    """One row a person and upstream.  Of two replicas that change one at once, one sees that it lost."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def get(self, key: Key) -> Kept | None:
        """The row; None where there is none."""
        return await self._worker.run(lambda connection: _get(connection, key))

    async def of(self, tenant: str, subject: str) -> list[Kept]:
        """Every row of a person, by upstream; at most 256."""

        def work(connection: Connection) -> list[Kept]:
            rows = select(*_COLUMNS).where(_C.tenant == tenant, _C.subject == subject)
            found = connection.execute(rows.order_by(_C.upstream).limit(MOST_OF_A_PERSON))
            return [Kept(Key(*row[:3]), *row[3:]) for row in found]

        return await self._worker.run(work)

    async def put(self, key: Key, sealed: bytes, at: int) -> None:
        """Keep it, in the place of whatever was kept before."""
        row = {"sealed": sealed, "version": at, "created_at": at, "updated_at": at}

        def work(connection: Connection) -> None:
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            statement = dialect.insert(_TOKENS).values(_named(key) | row)
            later = {**row, "version": _later(connection, at)}
            connection.execute(statement.on_conflict_do_update(index_elements=list(_named(key)), set_=later))

        await self._worker.run(work)

    async def swap(self, kept: Kept, sealed: bytes, at: int) -> Kept | None:
        """The row as it is afterwards; None where somebody changed or removed it since `kept` was read."""
        version = max(at, kept.version + 1)

        def work(connection: Connection) -> bool:
            row = update(_TOKENS).where(*_is(kept.key), _C.version == kept.version)
            return connection.execute(row.values(sealed=sealed, version=version, updated_at=at)).rowcount == 1

        won = await self._worker.run(work)
        return Kept(kept.key, version, kept.created_at, at, sealed) if won else None

    async def remove(self, key: Key, version: int | None = None) -> bool:
        """Whether a row was there, and (where a version is given) was still that one; it is gone on return."""

        def work(connection: Connection) -> bool:
            where = _is(key) if version is None else (*_is(key), _C.version == version)
            return connection.execute(delete(_TOKENS).where(*where)).rowcount == 1

        return await self._worker.run(work)


class Tickets:
    """What is good once until a moment (epoch seconds), by the SHA-256 (hex) of its random id."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def read(self, digest: str, now: int) -> tuple[bytes, int] | None:
        """What is sealed in it and until when it is good, leaving it there; None where there is none, or it has ended."""
        return await self._worker.run(lambda connection: _read(connection, digest, now))

    async def put(self, digest: str, before: bytes | None, sealed: bytes, until: int, now: int) -> bool:
        """Put something in a place; False where it does not hold `before` any more (None: nothing): somebody else was faster."""

        def work(connection: Connection) -> bool:
            _sweep(connection, now)
            return _points(connection, digest, before, sealed, until, now)

        return await self._worker.run(work)

    async def take(self, digest: str, now: int) -> bytes | None:
        """What is sealed in it, for the only one who ever gets it; None for everybody else."""

        def work(connection: Connection) -> bytes | None:
            taken = delete(_TICKETS).where(_TICKETS.c.digest == digest).returning(_TICKETS.c.sealed, _TICKETS.c.until)
            row = connection.execute(taken).one_or_none()
            return None if row is None or row.until <= now else bytes(row.sealed)

        return await self._worker.run(work)

    async def add(self, digest: str, sealed: bytes, until: int) -> None:
        """One more; `digest` is that of a fresh random id."""
        await self._worker.run(
            lambda connection: connection.execute(insert(_TICKETS).values(digest=digest, sealed=sealed, until=until))
        )

    async def leave(self, digest: str, sealed: bytes, until: int, now: int) -> bool:
        """One more; False where there is one of this digest already."""

        def work(connection: Connection) -> bool:
            _sweep(connection, now)
            return _points(connection, digest, None, sealed, until, now)

        return await self._worker.run(work)

    async def take_all(self, digests: Iterable[str], now: int) -> dict[str, bytes]:
        """What is sealed in each of these that is there, for the only one who ever gets it."""
        taken = delete(_TICKETS).where(_TICKETS.c.digest.in_(list(digests))).returning(*_TICKETS.c)

        def work(connection: Connection) -> dict[str, bytes]:
            return {row.digest: bytes(row.sealed) for row in connection.execute(taken) if row.until > now}

        return await self._worker.run(work)

    async def point(  # noqa: PLR0917  two rows, and what the first was
        self, place: str, before: bytes | None, sealed: bytes, ticket: tuple[str, bytes], gone: str, until: int, now: int
    ) -> bool:
        """Put a ticket in the one place of its kind, the one there before (digest `gone`) out of force, both or neither.

        False where `place` does not hold `before` any more: somebody else was faster.
        """

        def work(connection: Connection) -> bool:
            if not _points(connection, place, before, sealed, until, now):
                return False
            connection.execute(delete(_TICKETS).where(_TICKETS.c.digest == gone))
            connection.execute(insert(_TICKETS).values(digest=ticket[0], sealed=ticket[1], until=until))
            _sweep(connection, now)
            return True

        return await self._worker.run(work)


def _points(  # noqa: PLR0917  a row, what it was, and when
    connection: Connection, place: str, before: bytes | None, sealed: bytes, until: int, now: int
) -> bool:
    """Whether the place was ours to fill: of two at once the database lets one wait and then see that it lost."""
    if before is None:
        connection.execute(delete(_TICKETS).where(_TICKETS.c.digest == place, _TICKETS.c.until <= now))
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        row = dialect.insert(_TICKETS).values(digest=place, sealed=sealed, until=until).on_conflict_do_nothing()
        return connection.execute(row.returning(_TICKETS.c.until)).one_or_none() is not None
    changed = update(_TICKETS).where(_TICKETS.c.digest == place, _TICKETS.c.sealed == before)
    return connection.execute(changed.values(sealed=sealed, until=until)).rowcount == 1


def _sweep(connection: Connection, now: int) -> None:
    ended = select(_TICKETS.c.digest).where(_TICKETS.c.until <= now).limit(SWEPT_AT_ONCE)
    if connection.dialect.name == "postgresql":
        ended = ended.with_for_update(skip_locked=True)  # another replica sweeps at the same time
    connection.execute(delete(_TICKETS).where(_TICKETS.c.digest.in_(ended)))


def _read(connection: Connection, digest: str, now: int) -> tuple[bytes, int] | None:
    found = select(_TICKETS.c.sealed, _TICKETS.c.until).where(_TICKETS.c.digest == digest, _TICKETS.c.until > now)
    row = connection.execute(found).one_or_none()
    return None if row is None else (bytes(row.sealed), int(row.until))


def _later(connection: Connection, at: int) -> ColumnElement[int]:
    """A version above every one that this row ever had."""
    greatest = func.greatest if connection.dialect.name == "postgresql" else func.max
    return greatest(_C.version + 1, at)


def _get(connection: Connection, key: Key) -> Kept | None:
    row = connection.execute(select(*_COLUMNS).where(*_is(key))).one_or_none()
    return None if row is None else Kept(Key(*row[:3]), *row[3:])


def _named(key: Key) -> dict[str, str]:
    return {"tenant": key.tenant, "subject": key.subject, "upstream": key.upstream}


def _is(key: Key) -> tuple[ColumnElement[bool], ...]:
    return _C.tenant == key.tenant, _C.subject == key.subject, _C.upstream == key.upstream
