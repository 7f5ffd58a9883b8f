"""`sandbox`: the code of this call runs under the named profile, or not at all."""

from __future__ import annotations

from gateway.model import Permit
from gateway.obligations.duty import fulfilled, impossible, only
from policies.model import Obligation

SERVER = "sandbox"
"""Id of the built-in server that runs code."""


def fulfil(permit: Permit, obligation: Obligation) -> Permit:
    """`{type: sandbox, profile: NAME}`.  Two duties that name different profiles contradict each other: refused, never merged."""
    profile = only(permit, obligation, "profile").get("profile")
    if not isinstance(profile, str) or not profile:
        raise impossible(permit, obligation, "no profile is named")
    if permit.call.arrival.protocol != "mcp" or permit.call.target != SERVER:
        raise impossible(permit, obligation, "the tool does not run in the gateway's sandbox")
    if permit.sandbox not in {None, profile}:
        raise impossible(permit, obligation, f"profiles {permit.sandbox} and {profile} contradict each other")
    return fulfilled(permit, obligation, sandbox=profile)
