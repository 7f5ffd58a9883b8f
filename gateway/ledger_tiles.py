"""`/ledger/{log}/…`: the log as c2sp.org/tlog-tiles has it, read-only, for whom policy grants it.

The checkpoint is public, as a rewritten log is found by whoever kept one.  Hash tiles want `verify` on `audit:ledger`; records'
bytes want `read`, and each reading is recorded before it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import Response

from audit import checkpoint as notes
from audit.leaf import Kind
from audit.model import TamperedError
from audit.store import StoreError
from audit.store_read import SqlReader
from audit.tiles import ENTRIES, Tile, bundle, hash_tile, parse
from gateway.api import problem
from gateway.problem import Problem
from gateway.stores import LOG, ROOT

if TYPE_CHECKING:
    from gateway.administration import Administration
    from gateway.whose_log import Whose

log = logging.getLogger("gateway.ledger")

P = ParamSpec("P")
T = TypeVar("T")

MAX_READERS: Final = 32
"""Tiles that are made or waited for at once; one more is told to come again."""

_PUBLIC: Final = frozenset({LOG, ROOT})
_NOTE: Final = {"Cache-Control": "no-cache"}
_TILE: Final = {"Cache-Control": "private, max-age=31536000, immutable"}


class TileSource:
    """One log's tiles, from its store.  For any thread; one reads at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._rows: SqlReader | None = None

    def read(self, tile: Tile) -> bytes | None:
        """The tile; None where the newest checkpoint does not cover it.

        `TamperedError` where what is stored is not what was hashed, `StoreError` where the store does not answer.
        """
        with self._lock, self._reading() as rows:
            note = rows.checkpoint()
            if note is None or not tile.is_in(notes.parse(note)[0].size):
                return None
            return bundle(rows.leaves(*tile.span), tile) if tile.level == ENTRIES else hash_tile(rows.hashes, tile)

    def checkpoint(self) -> str | None:
        """The newest stored checkpoint; `StoreError`."""
        with self._lock, self._reading() as rows:
            return rows.checkpoint()

    def close(self) -> None:
        """Let the store go."""
        with self._lock:
            self._drop()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[SqlReader]:
        if self._rows is None:
            self._rows = SqlReader(self._url)
        try:
            yield self._rows
        except StoreError:  # the next reading connects anew
            self._drop()
            raise

    def _drop(self) -> None:
        if self._rows is not None:
            self._rows.close()
            self._rows = None


@dataclass(frozen=True, slots=True)
class Served:
    """A log that is served.

    checkpoint  the note to serve, from memory; where there is none, the newest that is stored.
    """

    source: TileSource
    checkpoint: Callable[[], str | None] = lambda: None


@dataclass(frozen=True, slots=True)
class TileDoor:
    """What the routes need.  logs: by their names; policy has `audit:root` for the root log, `audit:ledger` for every other."""

    logs: Mapping[str, Served]
    administration: Administration
    whose: Whose


def register(api: FastAPI, door: TileDoor) -> None:
    """Add the routes."""
    readers = 0

    async def read(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Response:
        """What a store has, read beside the loop; or the answer where it cannot be had."""
        nonlocal readers
        if readers >= MAX_READERS:
            return problem(503, Problem("overloaded", "too many tiles are asked for at once"))
        readers += 1
        try:
            return await asyncio.to_thread(work, *args, **kwargs)
        except (StoreError, TamperedError) as error:
            log.error("a tile of the ledger cannot be served: %s", error)
            return problem(503, Problem("ledger-unavailable", "the ledger cannot be read"))
        finally:
            readers -= 1

    @api.get("/ledger/{name}/checkpoint", tags=["ledger"])
    async def checkpoint(request: Request, name: str) -> Response:
        """The signed head of the log (C2SP tlog-checkpoint): for everybody; of a tenant's own log for who may verify that."""
        if door.whose.several and name not in _PUBLIC:
            principal = await door.administration.whoami(request)
            await door.whose.of(request, principal, name)
            await door.administration.permit_on(request, "verify", f"audit:{LOG}", None, "checkpoint", principal)
        served = door.logs.get(name)
        found = None if served is None else served.checkpoint() or await read(served.source.checkpoint)
        if found is None:
            return problem(404, Problem("no-checkpoint", "there is no such log, or nothing has been recorded yet"))
        return found if isinstance(found, Response) else Response(found, media_type="text/plain; charset=utf-8", headers=_NOTE)

    @api.get("/ledger/{name}/{path:path}", tags=["ledger"])
    async def tile(request: Request, name: str, path: str) -> Response:
        """A tile or a bundle of entries (C2SP tlog-tiles) that the newest checkpoint covers."""
        wanted, served = parse(path), door.logs.get(name)
        reads = wanted is not None and wanted.level == ENTRIES
        action, kind = ("read", Kind.AUDIT_READ) if reads else ("verify", None)
        principal = await door.administration.whoami(request)
        if door.whose.several:
            await door.whose.of(request, principal, name, root=True)
        about = f"audit:{ROOT if name == ROOT and served is not None else LOG}"
        await door.administration.permit_on(request, action, about, kind if served is not None else None, path, principal)
        if served is None or wanted is None:
            return _none()
        found = await read(served.source.read, wanted)
        if isinstance(found, bytes):
            return Response(found, media_type="application/octet-stream", headers=_TILE)
        return _none() if found is None else found


def _none() -> Response:
    answer = problem(404, Problem("not-found", "there is no such tile under the newest checkpoint"))
    answer.headers["Cache-Control"] = "no-store"
    return answer
