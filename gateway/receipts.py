"""Where a caller's receipt stands in an answer: beside the answer, in the member that both protocols leave to others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from msgspec.structs import replace

from gateway.model import Intent, Refused, Reply

RECEIPT: Final = "bailiwick/receipt"
"""In MCP's `_meta` and in A2A's `metadata`; what an upstream says under that name is never passed on."""

Receipts = Callable[[Intent], Mapping[str, object] | None]
_HOLDERS: Final = ("task", "message", "statusUpdate", "artifactUpdate")


def no_receipt(_intent: Intent) -> None:
    """For a road whose callers get none."""


def with_receipt(reply: Reply, receipt: Mapping[str, object] | None) -> Reply:
    """MCP's result with the receipt in its `_meta`; without one, also without what the upstream wrote there.

    A result that is empty stays so: it is defined to be, and clients compare it.
    """
    result = reply.payload.get("result")
    if not isinstance(result, dict) or not result:
        return reply
    meta = result.get("_meta")
    meta = meta if isinstance(meta, dict) else {}
    if receipt is None and RECEIPT not in meta:
        return reply
    kept = {name: value for name, value in meta.items() if name != RECEIPT} | ({RECEIPT: receipt} if receipt is not None else {})
    return replace(reply, payload={**reply.payload, "result": {**result, "_meta": kept}})


def with_metadata(result: Any, receipt: Mapping[str, object] | None, *, whole: bool) -> None:
    """The same in A2A: into the task, message or event in the result; `whole`: it is the result.  Others have no place for it."""
    holder = result if whole else next((result[name] for name in _HOLDERS if isinstance(result.get(name), dict)), None)
    if holder is None:
        return
    metadata = holder.get("metadata") or {}
    if receipt is not None:
        holder["metadata"] = {**metadata, RECEIPT: receipt}
    elif RECEIPT in metadata:
        holder["metadata"] = {name: value for name, value in metadata.items() if name != RECEIPT}


def of_refusal(refusal: Refused | None) -> dict[str, object]:
    """What stands in MCP's answer to a refused call."""
    return {RECEIPT: refusal.receipt} if refusal is not None and refusal.receipt is not None else {}


def text_of(refusal: Refused) -> dict[str, str]:
    """The same where members are texts (A2A's ErrorInfo)."""
    return {"receipt": orjson.dumps(refusal.receipt).decode()} if refusal.receipt is not None else {}
