"""`/api/audit`: searching, single records, a workflow's tree, a period's report, and the word of who reviewed it.

For those to whom policy grants it on `audit:ledger`: `read`, recorded with what was asked before it is answered, or `review`.
Nothing sealed is opened here: records hold commitments, and people stand in them by pseudonym.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from audit.index import Index
from audit.leaf import Kind
from audit.model import TamperedError
from audit.query import QueryError, parse
from audit.reader import Ledger, Record
from audit.report import report as made
from audit.store import StoreError
from audit.trace import build
from gateway.api import problem
from gateway.asked import asked as body_of
from gateway.model import Clock
from gateway.problem import Problem
from gateway.stores import index_of, ledger_url_of
from gateway.whose_log import LogName

if TYPE_CHECKING:
    from gateway.administration import Administration
    from gateway.settings import Settings
    from gateway.whose_log import Whose

logger = logging.getLogger("gateway.ledger")

T = TypeVar("T")

ABOUT: Final = "audit:ledger"
_MOST_BYTES: Final = 4096
_WAITING: Final = 16
_LAST: Final = 2**53 - 1


@dataclass(slots=True)
class AuditDoor:
    """What the routes need.  One question is answered at a time, a few wait.

    seal_key  finds the pseudonym of a person who is asked for by name; nothing is opened with it.
    """

    whose: Whose
    seal_key: bytes
    administration: Administration
    clock: Clock
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _waiting: int = 0

    async def permit(self, request: Request, log: str, wanted: str) -> Settings:
        """The log, for who may read it, once what was asked is on record; raises `Refused` for everybody else."""
        principal = await self.administration.whoami(request)
        found = await self.whose.of(request, principal, log)
        await self.administration.permit_on(request, "read", ABOUT, Kind.AUDIT_READ, wanted, principal)
        return found

    async def read(self, log: Settings, work: Callable[[Ledger], T]) -> T | Response:
        """What the log has, read beside the loop; or the answer where it cannot be had."""
        if self._waiting >= _WAITING:
            return problem(503, Problem("overloaded", "too many questions about the ledger are asked at once"))
        self._waiting += 1
        try:
            return await asyncio.to_thread(partial(self._read, ledger_url_of(log), work))
        except (StoreError, TamperedError) as error:
            logger.error("the ledger cannot be read: %s", error)
            return problem(503, Problem("ledger-unavailable", "the ledger cannot be read; the log of the gateway says why"))
        finally:
            self._waiting -= 1

    def _read(self, url: str, work: Callable[[Ledger], T]) -> T:
        with self._lock, Ledger.open(url, self.seal_key) as ledger:
            return work(ledger)


class Reviewed(BaseModel):
    """A period that somebody looked at, in UTC microseconds, and what they say of it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    since: int = Field(alias="from", ge=0, le=_LAST)
    until: int = Field(alias="to", ge=0, le=_LAST)
    note: str = Field(min_length=1, max_length=160)


Count = Annotated[int, Query(ge=1, le=1000)]
Place = Annotated[int | None, Query(ge=0, le=_LAST)]
Id = Annotated[str, Query(max_length=128)]


def register(api: FastAPI, door: AuditDoor) -> None:
    """Add the routes."""
    _records(api, door)
    _periods(api, door)


def _records(api: FastAPI, door: AuditDoor) -> None:
    @api.get("/api/audit/search", tags=["audit"])
    async def search(  # noqa: PLR0917  the parameters of the query
        request: Request,
        q: Annotated[str, Query(max_length=1024)] = "",
        count: Count = 100,
        before: Place = None,
        size: Place = None,
        log: LogName = "",
    ) -> Response:
        """Records by what they say, newest first; `older` is the `before` of the next page, `size` makes it stay the same."""
        found = await door.permit(request, log, f"search {q}")
        try:
            query = parse(q, door.clock())
        except QueryError as error:
            return problem(422, Problem("invalid-query", str(error), "q"))

        def find(ledger: Ledger) -> dict[str, Any]:
            with Index(ledger, index_of(found)) as index:
                hits = index.search(query.known_by(ledger.pseudonym), count=count, before=before, size=size)
            return {"records": [_shown(record) for record in hits.records], "size": hits.size, "older": hits.older}

        return _answer(await door.read(found, find))

    @api.get("/api/audit/records/{name}", tags=["audit"])
    async def record(request: Request, name: Annotated[str, Field(max_length=128)], log: LogName = "") -> Response:
        """One record, as the log has it, with its place and leaf hash."""
        found = await door.permit(request, log, f"record {name}")
        return _answer(await door.read(found, lambda ledger: _one(ledger.get(name))))

    @api.get("/api/audit/workflows/{name}", tags=["audit"])
    async def workflow(request: Request, name: Annotated[str, Field(max_length=128)], log: LogName = "") -> Response:
        """The tree of a workflow: who asked whom for what, and who decided."""
        found = await door.permit(request, log, f"workflow {name}")

        def told(ledger: Ledger) -> dict[str, Any] | None:
            story = build(name, ledger.workflow(name), lambda _record, _name: None, lambda _pseudonym: None)
            return None if story is None else story.to_dict()

        return _answer(await door.read(found, told))


def _periods(api: FastAPI, door: AuditDoor) -> None:
    @api.get("/api/audit/report", tags=["audit"])
    async def report(
        request: Request,
        since: Annotated[int, Query(ge=0, le=_LAST)],
        until: Annotated[int, Query(ge=0, le=_LAST)],
        log: LogName = "",
    ) -> Response:
        """What a period (UTC microseconds) comes to: counts, gaps, calls without an end, changes, who looked."""
        found = await door.permit(request, log, f"report {since} {until}")

        def count(ledger: Ledger) -> dict[str, Any]:
            size = ledger.size
            return made(ledger.origin, ledger.records(0, size), size=size, since=since, until=until).to_dict()

        return _answer(await door.read(found, count))

    @api.post("/api/audit/reviews", tags=["audit"])
    async def review(request: Request, log: LogName = "") -> Response:
        """Put on record that a period was reviewed, by whom, and how long the log was then."""
        principal = await door.administration.whoami(request)
        asked = await body_of(request, Reviewed, _MOST_BYTES)
        if asked.since >= asked.until:
            return problem(422, Problem("invalid-period", "`from` is not before `to`", "from"))
        found = await door.whose.of(request, principal, log)
        size = await door.read(found, lambda ledger: ledger.size)
        if isinstance(size, Response):
            return size
        wanted = f"{_when(asked.since)} to {_when(asked.until)} of {size} records: {asked.note}"
        wish = await door.administration.permit_on(request, "review", ABOUT, Kind.AUDIT_REVIEW, wanted, principal)
        return JSONResponse({"id": wish.id, "wanted": wanted, "size": size}, 201)


def _when(at: int) -> str:
    return datetime.fromtimestamp(at // 1_000_000, UTC).replace(microsecond=at % 1_000_000).isoformat().replace("+00:00", "Z")


def _answer(found: object) -> Response:
    if isinstance(found, Response):
        return found
    if found is None:
        return problem(404, Problem("not-found", "there is no such record"))
    return JSONResponse(found, headers={"Cache-Control": "no-store"})


def _one(record: Record | None) -> dict[str, Any] | None:
    return None if record is None else _shown(record)


def _shown(record: Record) -> dict[str, Any]:
    return {"index": record.index, "leaf_hash": record.hash.hex(), "record": record.leaf}
