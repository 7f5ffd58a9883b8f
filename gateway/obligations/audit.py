"""`audit`: what is received and returned is kept in full, whatever the ledger's settings say."""

from __future__ import annotations

from gateway.model import Permit
from gateway.obligations.duty import fulfilled, impossible, only
from policies.model import Obligation


def fulfil(permit: Permit, obligation: Obligation) -> Permit:
    """`{type: audit, arguments: full | hash}`: `full` keeps the openings, `hash` asks for no more than commitments."""
    depth = only(permit, obligation, "arguments").get("arguments", "hash")
    if depth not in {"full", "hash"}:
        raise impossible(permit, obligation, "arguments must be full or hash")
    return fulfilled(permit, obligation, full_audit=permit.full_audit or depth == "full")
