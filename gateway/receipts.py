"""Where a caller's receipt stands in an answer: beside the answer, in the member that both protocols leave to others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson
from msgspec.structs import replace

from gateway.model import Intent, Refused, Reply

RECEIPT: Final = "bailiwick/receipt"
"""In MCP's `_meta` and in A2A's `metadata`; what an upstream says under that name is never passed on."""

FLAGS: Final = "bailiwick/flags"
"""There, too: what detectors and guards found in the call or its answer, and let pass."""

APPROVAL: Final = "bailiwick/approval"
"""Where the gateway says by which page a call is approved: of an upstream's results it never comes."""

_LOOKED_AT: Final = frozenset({RECEIPT, APPROVAL})
_OURS: Final = _LOOKED_AT | {FLAGS}
"""What only the gateway says in a result's `_meta`; where it has looked at the result itself, the flags are its own."""

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
    ours = _LOOKED_AT if reply.looked is not None else _OURS
    if receipt is None and ours.isdisjoint(meta):
        return reply
    kept = {name: value for name, value in meta.items() if name not in ours} if meta else {}
    if receipt is not None:
        kept[RECEIPT] = receipt
    return replace(reply, payload={**reply.payload, "result": {**result, "_meta": kept}})


def with_metadata(result: Any, receipt: Mapping[str, object] | None, *, whole: bool, looked: bool = False) -> None:
    """The same in A2A: into the task, message or event in the result; `whole`: it is the result.  Others have no place for it.

    looked  whether the flags that stand there are the gateway's.
    """
    holder = result if whole else next((result[name] for name in _HOLDERS if isinstance(result.get(name), dict)), None)
    if holder is None:
        return
    metadata, ours = holder.get("metadata") or {}, {RECEIPT} if looked else {RECEIPT, FLAGS}
    if receipt is not None or not ours.isdisjoint(metadata):
        kept = {name: value for name, value in metadata.items() if name not in ours}
        holder["metadata"] = kept | ({RECEIPT: receipt} if receipt is not None else {})


def with_flags(result: Any, flags: Sequence[str], *, whole: bool | None = None) -> Any:
    """An answer's JSON with its flags: in MCP's `_meta`, or (`whole` is said) in A2A's metadata, as above."""
    name = "_meta" if whole is None else "metadata"
    place = None if whole is None or whole else next((each for each in _HOLDERS if isinstance(result.get(each), dict)), None)
    holder = result if place is None else result[place]
    if (whole is False and place is None) or not isinstance(holder, dict) or not holder:
        return result
    meta = holder.get(name)
    kept = {key: value for key, value in meta.items() if key != FLAGS} if isinstance(meta, dict) else {}
    holder = {**holder, name: kept | ({FLAGS: list(flags)} if flags else {})}
    return holder if place is None else {**result, place: holder}


def of_refusal(refusal: Refused | None) -> dict[str, object]:
    """What stands in MCP's answer to a refused call."""
    return {RECEIPT: refusal.receipt} if refusal is not None and refusal.receipt is not None else {}


def text_of(refusal: Refused) -> dict[str, str]:
    """The same where members are texts (A2A's ErrorInfo)."""
    return {"receipt": orjson.dumps(refusal.receipt).decode()} if refusal.receipt is not None else {}
