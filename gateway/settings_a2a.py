"""Settings of A2A's own listeners."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, HttpUrl, model_validator

from gateway.settings_base import Group, Slug, is_loopback


class GrpcAgent(Group):
    """Where one agent is served over gRPC."""

    port: int = Field(ge=1, le=65535)
    """Agents that share a port are told apart by the authority of their `public_url`."""
    public_url: HttpUrl | None = None
    """Under which the world reaches it, without a path; defaults to the listener's own address.  Never taken from a request."""

    @model_validator(mode="after")
    def _plain(self) -> GrpcAgent:
        url = self.public_url
        if url is not None and (url.path not in {None, "", "/"} or url.query or url.fragment or url.username or url.password):
            msg = "gRPC has no place for a path: https://host or https://host:port"
            raise ValueError(msg)
        return self


class Grpc(Group):
    """A2A over gRPC (the extra `grpc`): an address of its own, and the agents that are served there."""

    host: str = "127.0.0.1"
    certificate: Path | None = None
    """PEM, with its chain; read again when the file changes."""
    key: Path | None = None
    clients: Path | None = None
    """PEM of authorities: whoever connects has to show a certificate that one of them signed (mutual TLS)."""
    plain: bool = False
    """Whether to listen without TLS on an address that is not loopback: somebody in front of it ends TLS."""
    agents: dict[Slug, GrpcAgent] = Field(min_length=1)

    @model_validator(mode="after")
    def _safe(self) -> Grpc:
        if (self.certificate is None) != (self.key is None):
            msg = "certificate and key go together"
            raise ValueError(msg)
        if self.clients is not None and self.certificate is None:
            msg = "clients are known by their certificates where the gateway ends TLS: certificate and key are missing"
            raise ValueError(msg)
        if self.certificate is not None and self.plain:
            msg = "plain and a certificate contradict each other"
            raise ValueError(msg)
        if self.certificate is None and not self.plain and not is_loopback(self.host):
            msg = "without a certificate gRPC is served on loopback alone; `plain: true` where a proxy in front of it ends TLS"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _told_apart(self) -> Grpc:
        seen: dict[tuple[int, str], str] = {}
        for name, agent in self.agents.items():
            alone = sum(other.port == agent.port for other in self.agents.values()) == 1
            if not alone and agent.public_url is None:
                msg = f"agents.{name}: it shares its port, so it needs a public_url to be told apart by"
                raise ValueError(msg)
            other = seen.setdefault((agent.port, self.authority(name)), name)
            if other != name:
                msg = f"agents {other} and {name} have the same address"
                raise ValueError(msg)
        return self

    def url(self, agent: str) -> str:
        """Origin under which an agent is reached, as `https://host:port`."""
        served = self.agents[agent]
        if served.public_url is None:
            host = f"[{self.host}]" if ":" in self.host else self.host
            return f"{'https' if self.certificate is not None else 'http'}://{host}:{served.port}"
        return f"{served.public_url.scheme}://{self.authority(agent)}"

    def authority(self, agent: str) -> str:
        """`host:port` of that, always with the port: as a gRPC client is told where to connect."""
        served = self.agents[agent]
        if served.public_url is None:
            host = f"[{self.host}]" if ":" in self.host else self.host
            return f"{host}:{served.port}"
        return f"{served.public_url.host}:{served.public_url.port}".lower()


class A2a(Group):
    """What is served of A2A beside JSON-RPC and HTTP+JSON at `/a2a/`."""

    grpc: Grpc | None = None

    @property
    def knows_certificates(self) -> bool:
        """Whether a listener here verifies its clients' certificates."""
        return self.grpc is not None and self.grpc.clients is not None
