"""What `bailiwick.yaml` may say: frozen groups, unknown keys refused.  Each part of the gateway gets only its own group.

Secrets never stand in the file: they are references to an environment variable or to a file.  `gateway/configuration.py` reads
the file and turns every mistake into a `Problem` with file, line and column.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, StringConstraints, model_validator

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""Ids of servers, agents, issuers and tenants: `[a-z0-9-]`, no dots, at most 63 characters."""
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Secret(_Group):
    """A reference to a secret: the name of an environment variable, or a file that holds it (a trailing newline is dropped)."""

    env: str | None = None
    file: Path | None = None
    prefix: str = ""
    """Stands before the secret, as `Bearer `."""

    @model_validator(mode="after")
    def _one(self) -> Secret:
        if (self.env is None) == (self.file is None):
            msg = "give exactly one of env and file"
            raise ValueError(msg)
        return self


class Server(_Group):
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


class Limits(_Group):
    """Bounds of everything that a caller controls."""

    body_bytes: int = Field(4 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    json_depth: int = Field(64, ge=8, le=256)
    response_bytes: int = Field(32 * 1024 * 1024, ge=1024)
    concurrent_calls: int = Field(1024, ge=1)
    upstream_connect_seconds: float = Field(5, gt=0)
    upstream_idle_seconds: float = Field(300, gt=0)
    """Longest silence of an upstream before the call fails."""
    call_seconds: float = Field(3600, gt=0)


class State(_Group):
    """What replicas share and a restart keeps."""

    url: str | None = None
    """SQLAlchemy URL; defaults to sqlite in the data folder.  A PostgreSQL URL: postgresql+psycopg://…"""


class Ledger(_Group):
    """The audit log."""

    url: str | None = None
    origin: str = "bailiwick.invalid/ledger"
    """C2SP origin line and key name of the log: a schema-less URL of yours."""
    key: Secret | None = None
    """Ed25519 signing key (PKCS#8 PEM); defaults to a key made in the data folder on first start."""
    seal_key: Secret | None = None
    """32 random bytes, base64, that seal the openings; defaults to a key made in the data folder on first start."""
    queue: int = Field(10_000, ge=1)


class Keys(_Group):
    """A JWKS: by URL or by file."""

    url: HttpUrl | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def _one(self) -> Keys:
        if (self.url is None) == (self.file is None):
            msg = "give exactly one of url and file"
            raise ValueError(msg)
        return self


class Issuer(_Group):
    """An identity provider whose RFC 9068 access tokens are accepted."""

    alias: Slug
    issuer: str
    audience: str
    jwks: Keys
    algorithms: tuple[Literal["ES256", "ES384", "EdDSA", "RS256", "PS256"], ...] = ("ES256", "RS256")
    groups_claim: str = "groups"
    direct_clients: tuple[str, ...] = ()
    """OAuth client ids that are the person's own hands (a CLI, a browser app), not an agent."""
    token_types: tuple[str, ...] = ("at+jwt",)
    development: bool = False
    """The built-in development issuer: only on a loopback address."""


class Delegation(_Group):
    """The tokens by which an agent shows for whom, and through whom, it acts."""

    key: Secret | None = None
    """ES256 signing key (PKCS#8 PEM); defaults to a key made in the data folder on first start."""
    lifetime_seconds: int = Field(300, ge=10, le=300)
    max_depth: int = Field(5, ge=1, le=16)


class AgentAuth(_Group):
    """How an agent proves itself on its own calls: its key, or a secret of at least 256 random bits."""

    jwks: Keys | None = None
    secret_sha256: tuple[Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")], ...] = ()
    """SHA-256 (hex) of each secret that is valid now; several while one is being changed."""
    bearer_ok: bool = False
    """Whether the delegation token alone is enough (for agents that cannot send a credential of their own)."""


class Agent(_Group):
    """An A2A agent behind the gateway, and (with `auth`) a caller of its own."""

    url: HttpUrl | None = None
    """Base URL of its JSON-RPC binding; none for an agent that only calls."""
    auth: AgentAuth = AgentAuth()
    client_ids: tuple[str, ...] = ()
    """OAuth client ids under which this agent holds people's access tokens."""
    headers: dict[HeaderName, Secret] = Field(default_factory=dict)
    """The gateway's own credentials towards the agent."""
    delegation_header: HeaderName = "Authorization"
    """Where the agent receives the delegation token; `Authorization` says `Bearer <token>`, any other header the token alone."""
    max_chain_groups: int = Field(200, ge=0)


class Mcp(_Group):
    """An MCP server behind the gateway: Streamable HTTP (`url`) or a child process (`command`)."""

    url: HttpUrl | None = None
    command: tuple[str, ...] | None = None
    env: dict[str, Secret] = Field(default_factory=dict)
    cwd: Path | None = None
    headers: dict[HeaderName, Secret] = Field(default_factory=dict)
    allow_private: bool = True
    """Whether the address may be loopback or private.  Link-local (cloud metadata) addresses never are."""

    @model_validator(mode="after")
    def _one(self) -> Mcp:
        if (self.url is None) == (self.command is None):
            msg = "give exactly one of url and command"
            raise ValueError(msg)
        return self


class Sandbox(_Group):
    """The built-in `sandbox` MCP server."""

    enabled: bool = False
    default_profile: str = "no-network-512mb"
    profiles: Path | None = None
    """A folder of further profiles; the shipped ones are always there."""


class Canary(_Group):
    """A second bundle, which decides for a part of the workflows."""

    folder: Path
    percent: float = Field(ge=0, le=100)
    """Of all workflows, by a hash of their ids: a workflow never changes sides while this stays."""


class Policy(_Group):
    """How a bundle comes into force while the gateway serves."""

    watch_seconds: float = Field(2, ge=0, le=3600)
    """How often the folder is looked at; 0: only when somebody asks (SIGHUP, the API, another replica)."""
    settle_seconds: float = Field(0.25, ge=0.01, le=60)
    """Two readings that are so far apart must agree before a folder counts as written."""
    require_tests: bool = True
    """Whether a bundle must prove a denial by its own tests before it decides anything."""
    trust: tuple[Path, ...] = ()
    """Public keys (Ed25519, PEM).  Where there are any, only a bundle that one of them signed comes into force."""
    canary: Canary | None = None
    shadow: Path | None = None
    """A bundle that is asked beside and decides nothing."""


class Settings(_Group):
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
    agents: dict[Slug, Agent] = Field(default_factory=dict)
    mcp: dict[Slug, Mcp] = Field(default_factory=dict)
    sandbox: Sandbox = Sandbox()

    @property
    def public_url(self) -> str:
        """Base of published URLs, without a trailing slash."""
        if self.server.public_url is not None:
            return str(self.server.public_url).rstrip("/")
        return f"http://{self.server.host}:{self.server.port}"
