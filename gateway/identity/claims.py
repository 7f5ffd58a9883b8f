"""What a verified token says, claim by claim: read strictly, from values alone.  Nothing here asks anybody."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.identity.token import is_text, refuse, text, texts

MAX_GROUPS = 500
MAX_SCOPES = 256
THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 §3.3
MISSING = object()
_CLIENT = ("client_id", "azp", "appid", "cid")  # RFC 9068; OpenID Connect; Entra's tokens of version 1; Okta

_OTHER_KINDS = frozenset({"id", "refresh", "offline", "logout"})  # what Keycloak says in the claim `typ`

Claims = Mapping[str, object]


def find(claims: Claims, name: str) -> object:
    """The claim of exactly that name; else what a path with dots leads to, through objects; `MISSING` where nothing is there."""
    if name in claims:
        return claims[name]
    here: object = claims
    for step in name.split("."):
        if not isinstance(here, Mapping) or step not in here:
            return MISSING
        here = here[step]
    return here


def groups(claims: Claims, name: str) -> frozenset[str] | None:
    """The person's groups; None where they have more than the token holds, so that nobody knows which."""
    elsewhere = claims.get("_claim_names", {})
    if not isinstance(elsewhere, Mapping) or "hasgroups" in claims:
        return None
    if {name, name.partition(".")[0], "groups"} & elsewhere.keys():
        return None
    found = find(claims, name)
    return frozenset(texts({name: found}, name, MAX_GROUPS)) if found is not MISSING else frozenset()


def scopes(claims: Claims) -> tuple[str, ...]:
    """OAuth scopes, sorted: `scope` (RFC 9068 §2.2.3), or the `scp` of providers that say it so, a text or a list."""
    value = claims.get("scope", claims.get("scp", ""))
    items = value.split(" ") if isinstance(value, str) else value
    if not isinstance(items, list) or len(items) > MAX_SCOPES:
        refuse("scope is not a short list of scopes")
    found = [item for item in items if item != ""]
    if not all(isinstance(item, str) and _SCOPE.fullmatch(item) for item in found):
        refuse("scope is not a short list of scopes")
    return tuple(sorted(set(found)))


def bound_to(claims: Claims) -> str:
    """The thumbprint of the key that the token is bound to (RFC 9449 §6.1), "" where it is bound to none.

    Any other confirmation (RFC 7800) is a limit that is not checked here, so it is refused.
    """
    if "cnf" not in claims:
        return ""
    cnf = claims["cnf"]
    thumbprint = cnf.get("jkt") if isinstance(cnf, Mapping) and len(cnf) == 1 else None
    if not isinstance(thumbprint, str) or THUMBPRINT.fullmatch(thumbprint) is None:
        refuse("token is bound in a way that is not known here")
    return thumbprint


def authenticated_at(claims: Claims) -> int:
    """`auth_time`; what is no sane time says nothing, so that no policy that demands a fresh one is met by it."""
    value = claims.get("auth_time")
    return value if type(value) is int and 0 < value < 1 << 40 else 0


def authentication_context(claims: Claims) -> str:
    """`acr`; what is no text says nothing, so that no policy that demands one is met by it."""
    value = claims.get("acr")
    return str(value) if is_text(value) else ""


def tenant(claims: Claims, name: str, tenants: Mapping[str, str]) -> str:
    """The tenant that a claim's value is mapped to; without one there is no person of ours."""
    value = find(claims, name)
    mapped = tenants.get(value) if isinstance(value, str) else None
    if mapped is None:
        refuse("the person belongs to no tenant of this gateway")
    return mapped


def client(claims: Claims, *, strict: bool) -> str:
    """RFC 9068 §2.2 demands `client_id` (strict); other providers say `azp`, `appid` or `cid`, but never two different things."""
    if strict:
        return text(claims, "client_id")
    found = {text(claims, name) for name in _CLIENT if name in claims}
    if len(found) > 1:
        refuse("the token names two different clients")
    return found.pop() if found else text(claims, "client_id")


def is_of_another_kind(claims: Claims) -> bool:
    """Whether a claim says that it is no access token: `typ` of Keycloak's, whose header is the same for all; `token_use`."""
    kind, use = claims.get("typ", "Bearer"), claims.get("token_use", "access")
    return not isinstance(kind, str) or kind.lower() in _OTHER_KINDS or use not in ("access", "access_token")


def is_of_a_client(claims: Claims, name: str) -> bool:
    """Whether the client fetched it for itself: by `sub` (RFC 9068 §5), or as Auth0, Entra and Keycloak say it."""
    account = claims.get("preferred_username")
    return (
        claims.get("sub") in (name, f"{name}@clients")  # a tuple: nothing of it need be hashable
        or claims.get("gty") == "client-credentials"
        or claims.get("idtyp") == "app"
        or (isinstance(account, str) and account.lower() == f"service-account-{name}".lower())
    )
