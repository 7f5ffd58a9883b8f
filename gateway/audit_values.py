"""`/api/audit/records/{id}/values`: what a record carried, in clear, for whom policy grants `open` on `audit:ledger`.

That they read it, and why, is durable before anything is opened.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, StringConstraints

from audit.leaf import Kind
from audit.model import Entry, LedgerUnavailableError, TamperedError, Value
from audit.reader import Ledger, Shredded
from audit.store import StoreError
from gateway.api import problem
from gateway.asked import asked
from gateway.model import Clock, Refused, new_id
from gateway.problem import Problem
from gateway.reasons import Code
from gateway.stores import ledger_url_of
from gateway.whose_log import LogName

if TYPE_CHECKING:
    from gateway.administration import Administration
    from gateway.policy.records import Append
    from gateway.whose_log import Whose

ABOUT: Final = "audit:ledger"
_MOST_BYTES: Final = 4096

Reason = Annotated[str, StringConstraints(min_length=1, max_length=400, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Reading(BaseModel):
    """Why somebody reads it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Reason


def register(  # noqa: PLR0917  what the route needs
    api: FastAPI, whose: Whose, seal_key: bytes, office: Administration, append: Append, clock: Clock
) -> None:
    """Add the route."""

    @api.post("/api/audit/records/{name}/values", tags=["audit"])
    async def values(request: Request, name: str, log: LogName = "") -> Response:
        """Open what one record carried: texts as they are, else base64; `erased` where the person's key was destroyed."""
        principal = await office.whoami(request)
        wanted = await asked(request, Reading, _MOST_BYTES)
        found_in = await whose.of(request, principal, log)
        record = name if len(name) <= 128 and name.isascii() and name.isprintable() else "an id that is none"
        wish = await office.permit_on(request, "open", ABOUT, Kind.AUDIT_READ, f"values of {record}", principal)
        at = clock()
        said: dict[str, object] = {"wanted": f"values of {record}", "request": wish.id, "proto": "http"}
        why = (Value("reason", wanted.reason.encode()),)
        try:
            tenant = found_in.ledger.name
            await append(Entry(Kind.AUDIT_READ, new_id(at), at, principal.subject, said, why, tenant=tenant))
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error
        try:
            found = await asyncio.to_thread(_opened, ledger_url_of(found_in), seal_key, record)
        except (StoreError, TamperedError):
            return problem(503, Problem("ledger-unavailable", "the record cannot be read; the log of the gateway says why"))
        if found is None:
            return problem(404, Problem("unknown-record", "there is no record of that id"))
        return JSONResponse(found, headers={"Cache-Control": "no-store"})


def _opened(url: str, seal_key: bytes, name: str) -> dict[str, Any] | None:
    with Ledger.open(url, seal_key) as ledger:
        record = ledger.get(name)
        if record is None:
            return None
        values = {each: _shown(ledger.open_value(record, each)) for each in record.values}
        subject = ledger.subject_name(record.subject) if record.subject is not None else None
        return {
            "record": record.id,
            "index": record.index,
            "subject": None if subject is None else str(subject),
            "values": values,
        }


def _shown(value: bytes | Shredded | None) -> dict[str, str | bool]:
    if not isinstance(value, bytes):
        return {"erased": True}
    try:
        return {"text": value.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
