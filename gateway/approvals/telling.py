"""What whoever approves is told of a call that waits: that it does, and where to look at it; never what the call says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from gateway.state.approvals import Parked


def notice(row: Parked, public_url: str) -> bytes:
    """The body of the notice."""
    said = {
        "id": row.id,
        "tenant": row.tenant,
        "resource": row.resource,
        "digest": row.digest,
        "expires": _time(row.expires_at),
        "url": f"{public_url}/api/approvals/{row.id}",
        "page": f"{public_url}/approvals/{row.id}",
    }
    return orjson.dumps({"type": "approval.ask", "timestamp": _time(row.created_at), "data": said})


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).isoformat(timespec="seconds")
