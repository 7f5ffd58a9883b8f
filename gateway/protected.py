"""The gateway as a protected resource (RFC 9728, RFC 6750): its name, who issues tokens for it, and how it asks for one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from gateway.identity.dpop import ALGORITHMS

METADATA: Final = "/.well-known/oauth-protected-resource"
PROBED: Final = "/.well-known/"
"""Under any path: where clients look for what is not here, and are to hear so at once, before anybody asks them who they are."""
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 §3.3


def scopes_of(required: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """What a client should ask its issuer for: every scope that some issuer's tokens must have, once, sorted."""
    return tuple(sorted({scope for one in required for scope in one if _SCOPE.fullmatch(scope)}))


def metadata(public_url: str, path: str, issuers: Iterable[str], scopes: tuple[str, ...]) -> dict[str, object]:
    """RFC 9728's document of one address: `path` is "" for the gateway as a whole, `/mcp`, `/mcp/<server>` or `/a2a/<agent>`."""
    said: dict[str, object] = {
        "resource": f"{public_url}{path}",
        "authorization_servers": list(issuers),
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": list(ALGORITHMS),
        "resource_name": "Bailiwick",
    }
    return said | ({"scopes_supported": list(scopes)} if scopes else {})


def challenge(public_url: str, path: str, scopes: tuple[str, ...] = ()) -> str:
    """The value of WWW-Authenticate for who has no valid token: where the metadata is, and which scopes to ask for."""
    scope = f', scope="{" ".join(scopes)}"' if scopes else ""
    return f'Bearer resource_metadata="{public_url.rstrip("/")}{METADATA}{path}"{scope}'


def step_up(public_url: str, path: str, scope: str) -> str:
    """The value of WWW-Authenticate for whose token is good and lacks a scope; `scope` is all that is needed."""
    where = f'resource_metadata="{public_url.rstrip("/")}{METADATA}{path}"'
    return f'Bearer error="insufficient_scope", scope="{scope}", {where}, error_description="the token lacks a scope"'
