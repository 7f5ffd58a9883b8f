"""`audit`: what is received and returned is kept in full, whatever the ledger's settings say."""

from __future__ import annotations

from gateway.model import Permit
from gateway.obligations.duty import Params, WrongParameterError, fulfilled, only, terms
from policies.model import Obligation


def read(params: Params) -> str:
    """`full` or `hash`."""
    depth = only(params, "arguments").get("arguments", "hash")
    if not isinstance(depth, str) or depth not in {"full", "hash"}:
        raise WrongParameterError("arguments", "arguments must be full or hash")
    return depth


def fulfil(permit: Permit, obligation: Obligation) -> Permit:
    """`{type: audit, arguments: full | hash}`: `full` keeps the openings, `hash` asks for no more than commitments."""
    depth = terms(permit, obligation, read)
    return fulfilled(permit, obligation, full_audit=permit.full_audit or depth == "full")
