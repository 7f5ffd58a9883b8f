"""`sandbox`: the code of this call runs under the named profile, or not at all."""

from __future__ import annotations

from gateway.model import Permit
from gateway.obligations.duty import Params, WrongParameterError, fulfilled, impossible, only, terms
from policies.model import Obligation

SERVER = "sandbox"
"""Id of the built-in server that runs code."""


def read(params: Params) -> str:
    """The profile."""
    profile = only(params, "profile").get("profile")
    if not isinstance(profile, str) or not profile:
        raise WrongParameterError("profile" if "profile" in params else "", "no profile is named")
    return profile


def fulfil(permit: Permit, obligation: Obligation) -> Permit:
    """`{type: sandbox, profile: NAME}`.  Two duties that name different profiles contradict each other: refused, never merged."""
    profile = terms(permit, obligation, read)
    if permit.call.arrival.protocol != "mcp" or permit.call.target != SERVER:
        raise impossible(permit, obligation, "the tool does not run in the gateway's sandbox")
    if permit.sandbox not in {None, profile}:
        raise impossible(permit, obligation, f"profiles {permit.sandbox} and {profile} contradict each other")
    return fulfilled(permit, obligation, sandbox=profile)
