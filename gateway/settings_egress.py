"""Settings of what lies between the gateway and its sandbox's code: the way out, and a runner elsewhere."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from gateway.settings_base import Group
from sandbox.names import Destination


def _listed(text: str) -> str:
    return str(Destination.parse(text))  # ValueError for what no profile can list


class Exemption(Group):
    """What the operator says of one destination, beside what profiles list and policy allows."""

    tls: bool = True
    """Whether a connection must begin with TLS to that name; false for what speaks something else, as a database."""
    networks: tuple[IPv4Network | IPv6Network, ...] = Field((), max_length=64)
    """Internal ranges that the name may lead into; without any, addresses of the public Internet alone."""


class Egress(Group):
    """Bounds of one run, and exceptions."""

    connections_at_once: int = Field(32, ge=1, le=1024)
    connections_per_run: int = Field(1024, ge=1, le=65_536)
    bytes_per_run: int = Field(256 * 1024 * 1024, ge=1024)
    """Both ways, of all its connections together."""
    connect_seconds: float = Field(5, gt=0, le=60)
    idle_seconds: float = Field(60, gt=0, le=3600)
    """Longest silence of a connection."""
    destinations: dict[Annotated[str, AfterValidator(_listed)], Exemption] = Field(default_factory=dict)
    """By `host:port`, as profiles write them."""


class RunnerTls(Group):
    """A runner at a port: mutual TLS."""

    host: str
    port: int = Field(ge=1, le=65535)
    name: str
    """What the runner's certificate says."""
    authority: Path
    """Who signed it (PEM), and nobody else is believed."""
    certificate: Path
    """The gateway's own (PEM)."""
    key: Path


class Runner(Group):
    """A runner elsewhere (`bailiwick sandbox runner`).  Where there is one, all code runs there, and none of it here."""

    socket: Path | None = None
    uid: int | None = Field(None, ge=0)
    """Whose process must be behind the socket; the gateway's own user without it."""
    tls: RunnerTls | None = None

    @model_validator(mode="after")
    def _one(self) -> Runner:
        if (self.socket is None) == (self.tls is None):
            msg = "give exactly one of socket and tls"
            raise ValueError(msg)
        if self.tls is not None and self.uid is not None:
            msg = "uid is for a socket"
            raise ValueError(msg)
        return self
