"""Settings of the way out for sandboxed code."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from pydantic import AfterValidator, Field

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
