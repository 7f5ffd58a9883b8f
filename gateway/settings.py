"""What `bailiwick.yaml` may say: frozen groups, unknown keys refused.  Each part of the gateway gets only its own group.

Secrets never stand in the file: they are references to an environment variable or to a file.  `gateway/configuration.py` reads
the file and turns every mistake into a `Problem` with file, line and column.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, HttpUrl, model_validator

from gateway.settings_a2a import A2a, Grpc, GrpcAgent
from gateway.settings_approvals import Approvals, ApprovalWebhook
from gateway.settings_base import Client, Group, HeaderName, Keys, Secret, Slug
from gateway.settings_egress import Egress, Exemption, Runner, RunnerTls
from gateway.settings_identity import (
    Agent,
    AgentAuth,
    AgentCard,
    Delegation,
    Directory,
    Events,
    Introspection,
    Issuer,
    Revocation,
    Terminator,
    TrustDomain,
)
from gateway.settings_inspect import Inspect
from gateway.settings_ledger import (
    Anchor,
    Bucket,
    Endpoint,
    Forwarder,
    Git,
    Ledger,
    Retention,
    Root,
    Spool,
    Syslog,
    Timestamp,
    Witness,
)
from gateway.settings_outbound import Browser, Credentials, Mcp, TokenEndpoint
from gateway.settings_streams import Notify, Push, Questions

__all__ = [
    "A2a", "Agent", "AgentAuth", "AgentCard", "Anchor", "ApprovalWebhook", "Approvals", "Browser", "Bucket", "Canary",
    "Client", "Credentials", "Delegation", "Directory", "Egress", "Endpoint", "Events", "Exemption", "Forwarder", "Git",
    "Grpc", "GrpcAgent", "HeaderName", "Introspection", "Issuer", "Keys", "Ledger", "Limits", "Mcp", "Notify", "Policy",
    "Push", "Questions", "Retention", "Revocation", "Root", "Runner", "RunnerTls", "Sandbox", "Secret", "Server",
    "Settings", "Slug", "Spool", "State", "Syslog", "Terminator", "Timestamp", "TokenEndpoint", "TrustDomain", "Witness",
]  # fmt: skip


class Server(Group):
    """Where the gateway listens, and under which name the world reaches it."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    public_url: HttpUrl | None = None
    """Base of every URL that the gateway publishes; defaults to http://host:port.  Never taken from a request."""
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    """Host header values accepted beside those of public_url and the loopback names."""
    http: Literal["lean", "uvicorn"] = "lean"
    """Who speaks HTTP: the gateway's own listener, or uvicorn."""


class Limits(Group):
    """Bounds of everything that a caller controls."""

    body_bytes: int = Field(4 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    json_depth: int = Field(64, ge=8, le=256)
    response_bytes: int = Field(32 * 1024 * 1024, ge=1024)
    concurrent_calls: int = Field(1024, ge=1)
    upstream_connect_seconds: float = Field(5, gt=0)
    upstream_idle_seconds: float = Field(300, gt=0)
    """Longest silence of an upstream before the call fails."""
    call_seconds: float = Field(3600, gt=0)
    concurrent_streams: int = Field(1024, ge=1)
    """Streams that stand open for notices, beside the calls."""
    stream_seconds: float = Field(12 * 3600, gt=0)
    """How long one stands at most, and an agent's (A2A) stream of events."""


class State(Group):
    """What replicas share and a restart keeps."""

    url: str | None = None
    """SQLAlchemy URL; defaults to sqlite in the data folder.  A PostgreSQL URL: postgresql+psycopg://…"""
    seal_keys: tuple[Secret, ...] = Field((), max_length=8)
    """32 bytes in base64 each: seal what travels with clients instead of being kept.  The first seals, all of them open."""


class Workflows(Group):
    """What is remembered of workflows."""

    keep_days: int = Field(30, ge=1, le=3660)
    """How long the history of a workflow is kept after its end: as long as rules look back over workflows, at least."""


class Sandbox(Group):
    """The built-in `sandbox` MCP server."""

    enabled: bool = False
    default_profile: str = "no-network-512mb"
    profiles: Path | None = None
    """A folder of further profiles; the shipped ones are always there."""
    backend: str | None = None
    """The only backend that may run code; without it, the first whose proven guarantees cover the profile."""
    agent: Slug = "sandbox"
    """As which agent code in the sandbox calls tools; it stands in the chain, and policy grants it what it may."""
    concurrency: int = Field(4, ge=1, le=64)
    """Runs at once."""
    packages: Path | None = None
    """Where sets of packages were built; without it, `packages` in the data folder."""
    warm: int = Field(2, ge=0, le=16)
    """Cages that wait for the next run of what ran last: it starts sooner, and each of them holds some memory."""
    queue: int = Field(64, ge=0, le=4096)
    """Runs that may wait; people take turns."""
    queue_per_person: int = Field(16, ge=0, le=4096)
    calls_per_run: int = Field(100, ge=1, le=10_000)
    calls_at_once: int = Field(4, ge=1, le=64)
    """Calls of one run that are under way at once."""
    files_seconds: int = Field(900, ge=1, le=86_400)
    """How long files that a run left can be read."""
    files_bytes: int = Field(256 * 1024 * 1024, ge=1024)
    files_bytes_per_caller: int = Field(16 * 1024 * 1024, ge=1024)
    sessions: int = Field(256, ge=1, le=65_536)
    """Scratch folders that are kept for workflows, and of one person."""
    sessions_per_person: int = Field(8, ge=1, le=1024)
    folders: Path | None = None
    """Where people's folders (`mcp.*.folder`) are; without it, `folders` in the data folder, for a root a folder beside it."""
    runner: Runner | None = None
    """A runner elsewhere, which runs all code; without it, the backends of this machine do."""
    egress: Egress = Egress()
    """The way out for code under a profile that lists destinations."""


class Canary(Group):
    """A second bundle, which decides for a part of the workflows."""

    folder: Path
    percent: float = Field(ge=0, le=100)
    """Of all workflows, by a hash of their ids: a workflow never changes sides while this stays."""


class Policy(Group):
    """How a bundle comes into force while the gateway serves."""

    watch_seconds: float = Field(2, ge=0, le=3600)
    """How often the folder is looked at; 0: only when somebody asks (SIGHUP, the API, another replica)."""
    settle_seconds: float = Field(0.25, ge=0.01, le=60)
    """Two readings that are so far apart must agree before a folder counts as written."""
    require_tests: bool = True
    """Whether a bundle must prove a denial by its own tests before it decides anything."""
    trust: tuple[Path, ...] = ()
    """Public keys (Ed25519, PEM).  Where there are any, only a bundle that one of them signed comes into force."""
    definitions_seconds: float = Field(60, ge=1, le=86_400)
    """How long a server's definitions count without being heard again: then they are asked for before the next call."""
    canary: Canary | None = None
    shadow: Path | None = None
    """A bundle that is asked beside and decides nothing."""


class Settings(Group):
    """All of `bailiwick.yaml`.  Relative paths are relative to the file."""

    tenant: Slug = "default"
    data: Path = Path("data")
    policies: Path = Path("policies")
    policy: Policy = Policy()
    server: Server = Server()
    limits: Limits = Limits()
    state: State = State()
    ledger: Ledger = Ledger()
    issuers: tuple[Issuer, ...] = ()
    delegation: Delegation = Delegation()
    terminator: Terminator | None = None
    trust_domains: tuple[TrustDomain, ...] = ()
    revocation: Revocation = Revocation()
    browser: Browser | None = None
    agents: dict[Slug, Agent] = Field(default_factory=dict)
    mcp: dict[Slug, Mcp] = Field(default_factory=dict)
    sandbox: Sandbox = Sandbox()
    workflows: Workflows = Workflows()
    approvals: Approvals = Approvals()
    push: Push = Push()
    notify: dict[Slug, Notify] = Field(default_factory=dict)
    inspect: Inspect = Inspect()
    a2a: A2a = A2a()

    @property
    def every_tenant(self) -> frozenset[str]:
        """Every tenant that these settings name: nobody is of another one."""
        found = {self.tenant, *(issuer.tenant for issuer in self.issuers if issuer.tenant)}
        found |= {tenant for issuer in self.issuers for tenant in issuer.tenants.values()}
        return frozenset(found | {agent.tenant for agent in self.agents.values() if agent.tenant})

    @model_validator(mode="after")
    def _logs_have_names(self) -> Settings:
        taken = self.every_tenant & {"ledger", "root"}
        if self.ledger.logs == "tenant" and taken:
            msg = f"ledger.logs: a tenant cannot be called '{min(taken)}', as the gateway's own log or the root log is"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _sandbox_is_an_agent(self) -> Settings:
        """Code that calls tools is one more agent of the chain, and nobody else may be that agent."""
        if self.sandbox.enabled:
            own = self.agents.setdefault(self.sandbox.agent, Agent())
            if own.url is not None or own.auth != AgentAuth() or own.client_ids:
                msg = f"agents.{self.sandbox.agent}: it is the gateway's own sandbox, and has no address and no credential"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _served_agents_are_there(self) -> Settings:
        for name in self.a2a.grpc.agents if self.a2a.grpc is not None else ():
            if name not in self.agents or self.agents[name].url is None:
                msg = f"a2a.grpc.agents.{name}: there is no such agent with a url"
                raise ValueError(msg)
        return self

    @property
    def public_url(self) -> str:
        """Base of published URLs, without a trailing slash."""
        if self.server.public_url is not None:
            return str(self.server.public_url).rstrip("/")
        return f"http://{self.server.host}:{self.server.port}"
