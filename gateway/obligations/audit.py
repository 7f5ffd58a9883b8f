"""`audit`: whether the ledger keeps what was asked for in full, or a commitment to it alone."""

from __future__ import annotations

from typing import Final

from gateway.model import Permit
from gateway.obligations.duty import Params, WrongParameterError, fulfilled, only, terms
from policies.model import Obligation

TYPE: Final = "audit"


def read(params: Params) -> str:
    """`full` or `hash`."""
    depth = only(params, "arguments").get("arguments", "hash")
    if not isinstance(depth, str) or depth not in {"full", "hash"}:
        raise WrongParameterError("arguments", "arguments must be full or hash")
    return depth


def fulfil(permit: Permit, obligation: Obligation) -> Permit:
    """`{type: audit, arguments: full | hash}`: of several the digest is stricter, as what is kept cannot be taken back."""
    return fulfilled(permit, obligation, by_digest=permit.by_digest or terms(permit, obligation, read) == "hash")


def of_arguments(obligation: Obligation) -> bool:
    """Whether what was asked for must not be kept; so, too, where its parameters cannot be read."""
    if obligation.type != TYPE:
        return False
    try:
        return read(obligation.params) == "hash"
    except WrongParameterError:
        return True
