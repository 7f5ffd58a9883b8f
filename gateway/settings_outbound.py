"""Settings of the way out: servers, and which credential the gateway shows to whom."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, HttpUrl, model_validator

from gateway.settings_base import Client, Group, HeaderName, Secret, Slug

Strategy = Literal["txn_token", "token_exchange", "id_jag", "vault_oauth", "client_credentials", "static_secret", "none"]


class TokenEndpoint(Group):
    """An authorization server's token endpoint, and the gateway's client there."""

    url: HttpUrl
    client: Client


class Credentials(Group):
    """One strategy for one upstream; never the credential that came in."""

    strategy: Strategy
    header: HeaderName | None = None
    """Where the token stands; defaults to `Txn-Token` for that strategy and to `Authorization` (as `Bearer …`) for others."""
    secret: Secret | None = None
    """`static_secret`: what is sent, with its prefix."""
    endpoint: TokenEndpoint | None = None
    """Where the gateway asks for tokens: the IdP's for `token_exchange` and `id_jag`, the upstream's for the others."""
    redeem: TokenEndpoint | None = None
    """`id_jag`: the upstream's authorization server, which takes the assertion (RFC 7523)."""
    authorize_url: HttpUrl | None = None
    """`vault_oauth`: where a person consents."""
    audience: str | None = None
    resource: str | None = None
    """RFC 8707."""
    scope: tuple[str, ...] = ()
    lifetime_seconds: int = Field(30, ge=5, le=60)
    """`txn_token`: how long one counts."""


class Mcp(Group):
    """An MCP server behind the gateway: Streamable HTTP (`url`) or a child process (`command`)."""

    url: HttpUrl | None = None
    command: tuple[str, ...] | None = None
    env: dict[str, Secret] = Field(default_factory=dict)
    cwd: Path | None = None
    headers: dict[HeaderName, Secret] = Field(default_factory=dict)
    credentials: Credentials | None = None
    allow_private: bool = True
    """Whether the address may be loopback or private.  Link-local (cloud metadata) addresses never are."""

    @model_validator(mode="after")
    def _one(self) -> Mcp:
        if (self.url is None) == (self.command is None):
            msg = "give exactly one of url and command"
            raise ValueError(msg)
        return self


class Browser(Group):
    """How a person proves in a browser who they are, before they consent to anything: a client of one of the issuers."""

    issuer: Slug
    client: Client
