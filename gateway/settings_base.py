"""What every group of settings is made of: frozen, unknown keys refused, secrets by reference alone."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, StringConstraints, model_validator

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""Ids of servers, agents, issuers and tenants: `[a-z0-9-]`, no dots, at most 63 characters."""
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")]
Argument = Annotated[str, StringConstraints(pattern=r"^[^\x00]{1,4096}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Group(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Secret(Group):
    """A reference to a secret: an environment variable, a file, or a command that prints it (a trailing newline is dropped)."""

    env: str | None = None
    file: Path | None = None
    command: tuple[Argument, ...] | None = Field(None, min_length=1, max_length=64)
    """Argument list, run without a shell: ten seconds, 64 KiB of output, no environment but PATH, HOME and LANG."""
    prefix: str = ""
    """Stands before the secret, as `Bearer `."""

    @model_validator(mode="after")
    def _one(self) -> Secret:
        if sum(each is not None for each in (self.env, self.file, self.command)) != 1:
            msg = "give exactly one of env, file and command"
            raise ValueError(msg)
        return self


class Client(Group):
    """The gateway as an OAuth client of somebody else: its id there, and a secret or a private key (PEM) to prove it."""

    id: str
    secret: Secret | None = None
    """Sent as `client_secret_basic` (RFC 6749 §2.3.1)."""
    key: Secret | None = None
    """Signs `private_key_jwt` (RFC 7523 §2.2): an EC P-256 or RSA key, PKCS#8 PEM."""

    @model_validator(mode="after")
    def _one(self) -> Client:
        if self.secret is not None and self.key is not None:
            msg = "give at most one of secret and key"
            raise ValueError(msg)
        return self


class Keys(Group):
    """A JWKS: by URL or by file."""

    url: HttpUrl | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def _one(self) -> Keys:
        if (self.url is None) == (self.file is None):
            msg = "give exactly one of url and file"
            raise ValueError(msg)
        return self


def is_loopback(host: str) -> bool:
    """Whether a host of a setting means this machine."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
