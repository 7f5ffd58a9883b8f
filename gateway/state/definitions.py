"""What servers said first, by server, kind and name: written once, so that replicas and restarts hold servers to the same words.

A writer of it can have a changed definition pass where first use is trusted; what tools.lock approves it cannot touch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.state.tables import SeenDefinition

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gateway.state.worker import Worker

MOST_OF_A_SERVER = 10_000
Key = tuple[str, str, str]
"""Server, kind, name."""

_SEEN: Table = SeenDefinition.__table__  # type: ignore[attr-defined]  # set by SQLModel at class creation
_C = _SEEN.c


@dataclass(frozen=True, slots=True)
class Seen:
    """A row.  digest of what counts, "" where nothing does; held: of what is held back in its place, "" where nothing is."""

    digest: str
    held: str


@dataclass(frozen=True, slots=True)
class First:
    """What was seen first, in full."""

    digest: str
    definition: str
    seen_at: int


class Definitions:
    """Rows; a pin that stands is never changed."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def of(self, servers: Iterable[str]) -> dict[Key, Seen]:
        """Every row of these servers, `MOST_OF_A_SERVER` of each at most."""
        wanted = sorted(servers)

        def work(connection: Connection) -> dict[Key, Seen]:
            found: dict[Key, Seen] = {}
            for server in wanted:
                rows = select(_C.server, _C.what, _C.name, _C.digest, _C.held).where(_C.server == server)
                for row in connection.execute(rows.order_by(_C.what, _C.name).limit(MOST_OF_A_SERVER)):
                    found[row.server, row.what, row.name] = Seen(row.digest, row.held)
            return found

        return await self._worker.run(work)

    async def get(self, key: Key) -> Seen | None:
        """One row; None where there is none."""
        row = select(_C.digest, _C.held).where(*_is(key))

        def work(connection: Connection) -> Seen | None:
            found = connection.execute(row).one_or_none()
            return None if found is None else Seen(found.digest, found.held)

        return await self._worker.run(work)

    async def firsts(self, server: str) -> dict[tuple[str, str], First]:
        """What of a server counts because it was seen first, in full, by kind and name."""
        rows = select(_C.what, _C.name, _C.digest, _C.definition, _C.seen_at).where(_C.server == server, _C.digest != "")

        def work(connection: Connection) -> dict[tuple[str, str], First]:
            found = connection.execute(rows.limit(MOST_OF_A_SERVER))
            return {(row.what, row.name): First(row.digest, row.definition, row.seen_at) for row in found}

        return await self._worker.run(work)

    async def first(self, key: Key) -> First | None:
        """What counts because it was seen first, in full; None where nothing does."""
        row = select(_C.digest, _C.definition, _C.seen_at).where(*_is(key), _C.digest != "")

        def work(connection: Connection) -> First | None:
            found = connection.execute(row).one_or_none()
            return None if found is None else First(*found)

        return await self._worker.run(work)

    async def pin(self, firsts: Mapping[Key, First]) -> dict[Key, Seen]:
        """Pin what has no pin yet, durably, all or nothing; the rows that stand then, whoever wrote them."""

        def work(connection: Connection) -> dict[Key, Seen]:
            found: dict[Key, Seen] = {}
            for key, first in firsts.items():
                row = {"digest": first.digest, "definition": first.definition, "seen_at": first.seen_at}
                _insert(connection, key, {**row, "held": "", "held_at": 0})
                connection.execute(update(_SEEN).where(*_is(key), _C.digest == "").values(**row, held="", held_at=0))
                stands = connection.execute(select(_C.digest, _C.held).where(*_is(key))).one()
                found[key] = Seen(stands.digest, stands.held)
            return found

        return await self._worker.run(work)

    async def unnoted(self, held: Mapping[Key, str]) -> frozenset[Key]:
        """Of what is held back now ("": nothing any more) that of which nobody has noted it yet."""

        def work(connection: Connection) -> frozenset[Key]:
            rows = {key: connection.execute(select(_C.held).where(*_is(key))).scalar_one_or_none() for key in held}
            return frozenset(key for key, noted in rows.items() if (noted or "") != held[key])

        return await self._worker.run(work)

    async def hold(self, held: Mapping[Key, str], at: int) -> None:
        """Note it, durably."""

        def work(connection: Connection) -> None:
            for key, digest in held.items():
                _insert(connection, key, {"digest": "", "definition": "", "seen_at": 0, "held": "", "held_at": 0})
                connection.execute(update(_SEEN).where(*_is(key), _C.held != digest).values(held=digest, held_at=at))

        await self._worker.run(work)


def _is(key: Key) -> tuple[Any, ...]:
    return _C.server == key[0], _C.what == key[1], _C.name == key[2]


def _insert(connection: Connection, key: Key, row: Mapping[str, object]) -> None:
    """Insert unless the key is taken; of two at once the database lets one wait and then see the other's row."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    values = {"server": key[0], "what": key[1], "name": key[2], **row}
    connection.execute(dialect.insert(_SEEN).values(values).on_conflict_do_nothing())
