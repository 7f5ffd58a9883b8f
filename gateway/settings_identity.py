"""Settings of identity: issuers, agents, and what the gateway issues itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AnyUrl, Field, HttpUrl, StringConstraints, UrlConstraints, model_validator

from gateway.settings_base import Client, Group, HeaderName, Keys, Secret, Sha256, Slug
from gateway.settings_outbound import Credentials

Algorithm = Literal["ES256", "ES384", "EdDSA", "RS256", "PS256"]


HostPattern = Annotated[str, StringConstraints(pattern=r"^(\*\.)?[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
ExtensionUri = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x2b\x2d-\x7e]{1,500}$")]


class Introspection(Group):
    """Opaque access tokens, asked about at the issuer (RFC 7662)."""

    url: HttpUrl | None = None
    """Defaults to the endpoint that the issuer's metadata names."""
    client: Client
    cache_seconds: int = Field(30, ge=0, le=60)
    """For how long an answer counts: a revoked token may live on so long."""


class Directory(Group):
    """Where people's present groups, and whether their account still stands, are looked up: SCIM 2.0 (RFC 7644), or a file."""

    url: HttpUrl | None = None
    """Base URL of the SCIM service; users are found by `externalId` or `id`."""
    token: Secret | None = None
    """Bearer token for it."""
    file: Path | None = None
    """YAML: `<sub>: {groups: [...], active: true}`; re-read when it changes."""
    group_names: Literal["display", "value"] = "display"
    """Which member of a SCIM group is the group's name in tokens and policies: what it is shown as, or its id."""
    cache_seconds: int = Field(60, ge=0, le=300)
    """For how long an answer of the SCIM service counts; a file is looked at once a second."""


class Events(Group):
    """Security events that this issuer pushes (RFC 8935): CAEP 1.0 and RISC."""

    issuer: str | None = None
    """`iss` of its events; defaults to the issuer's own."""
    audience: str
    jwks: Keys | None = None
    """Defaults to the issuer's own keys."""
    token: Secret
    """What the transmitter must show as a bearer token."""


class Issuer(Group):
    """An identity provider whose access tokens are accepted."""

    alias: Slug
    issuer: str
    audience: str
    jwks: Keys | None = None
    """Its keys; without it, the `jwks_uri` of its metadata (OpenID Connect Discovery 1.0, RFC 8414)."""
    algorithms: tuple[Algorithm, ...] = ("ES256", "RS256")
    groups_claim: str = "groups"
    """The claim that lists groups; a path with dots leads into objects, as `realm_access.roles`."""
    direct_clients: tuple[str, ...] = ()
    """OAuth client ids that are the person's own hands (a CLI, a browser app), not an agent."""
    token_types: tuple[str, ...] = ("at+jwt",)
    required_scope: tuple[str, ...] = ()
    """OAuth scopes that a token must have, all of them."""
    tenant: Slug | None = None
    """Of this issuer's people; defaults to the gateway's `tenant`."""
    tenant_claim: str | None = None
    """Instead: the verified claim whose value `tenants` maps to a tenant; a person without a mapped value is refused."""
    tenants: dict[str, Slug] = Field(default_factory=dict)
    introspection: Introspection | None = None
    directory: Directory | None = None
    dpop: Literal["accept", "require"] = "accept"
    """Whether a token that is not bound to a key (RFC 9449) is accepted."""
    events: Events | None = None
    development: bool = False
    """The built-in development issuer: only on a loopback address."""


class Delegation(Group):
    """The tokens by which an agent shows for whom, and through whom, it acts."""

    key: Secret | None = None
    """ES256 signing key (PKCS#8 PEM); defaults to a key made in the data folder on first start."""
    former_keys: tuple[Secret, ...] = ()
    """Keys that sign nothing any more and still verify; with `key` alone, as the data folder knows them otherwise."""
    lifetime_seconds: int = Field(300, ge=10, le=300)
    max_depth: int = Field(5, ge=1, le=16)
    bearer_lifetime_seconds: int = Field(60, ge=10, le=300)
    """Of tokens for agents that show them alone (`bearer_ok`)."""

    @model_validator(mode="after")
    def _one_ring(self) -> Delegation:
        if self.former_keys and self.key is None:
            msg = "former_keys stand beside key alone: the data folder knows its own (bailiwick keys list)"
            raise ValueError(msg)
        return self


class AgentAuth(Group):
    """How an agent proves itself on its own calls: its key, its certificate, its SVID, or a secret of 256 random bits."""

    jwks: Keys | None = None
    secret_sha256: tuple[Sha256, ...] = ()
    """SHA-256 (hex) of each secret that is valid now; several while one is being changed."""
    certificates: tuple[str, ...] = ()
    """Client certificates as the trusted terminator hands them on: `sha256:<hex>`, or a SAN, as `spiffe://…` or `dns:name`."""
    spiffe_id: str | None = None
    """`sub` of its JWT-SVID, in one of the `trust_domains`."""
    bearer_ok: bool = False
    """Whether the delegation token alone is enough (for agents that cannot send a credential of their own)."""
    trace_ok: bool = False
    """Whether, without a delegation token, the trace of a call that was handed to it says for whom the agent goes on."""


AgentUrl = Annotated[
    AnyUrl, UrlConstraints(max_length=2083, allowed_schemes=["http", "https", "grpc", "grpcs"], host_required=True)
]


class AgentCard(Group):
    """What is demanded of an agent's own card."""

    keys: Keys
    """Keys that may sign it; what the card itself names (`jku`) is never followed."""
    require: bool = True
    """Whether a card that none of them signed is shown to nobody; otherwise it is on record alone."""
    calls: Literal["refuse", "allow"] = "refuse"
    """What becomes of calls to the agent while such a card is missing."""


class Agent(Group):
    """An A2A agent behind the gateway, and (with `auth`) a caller of its own."""

    url: AgentUrl | None = None
    """Base URL of its binding, for gRPC `grpc://host:port` or `grpcs://host:port`; none for an agent that only calls."""
    binding: Literal["jsonrpc", "rest"] = "jsonrpc"
    """What it speaks over HTTP: JSON-RPC, or HTTP+JSON."""
    card_url: HttpUrl | None = None
    """Where the card of an agent is that is reached over gRPC."""
    auth: AgentAuth = AgentAuth()
    tenant: Slug | None = None
    """In which it acts as a service of its own; defaults to the gateway's `tenant`."""
    client_ids: tuple[str, ...] | dict[Slug, tuple[str, ...]] = ()
    """OAuth client ids under which this agent holds people's access tokens; with several issuers, by their alias."""
    scope: tuple[str, ...] = ("*",)
    """The most that a workflow which goes through this agent may touch: objects and patterns as rules write them."""
    headers: dict[HeaderName, Secret] = Field(default_factory=dict)
    """The gateway's own credentials towards the agent."""
    credentials: Credentials | None = None
    delegation_header: HeaderName = "Authorization"
    """Where the agent receives the delegation token; `Authorization` says `Bearer <token>`, any other header the token alone."""
    max_chain_groups: int = Field(200, ge=0)
    versions: frozenset[Literal["1.0", "0.3"]] = Field(frozenset({"1.0"}), min_length=1)
    """Revisions of A2A in which it is served, each as the agent itself speaks it: `0.3` by JSON-RPC alone."""
    card: AgentCard | None = None
    extensions: frozenset[ExtensionUri] = Field(frozenset(), max_length=32)
    """A2A extensions that are let through to it, where its card offers them."""
    contexts: Literal["own", "claim", "refuse"] = "own"
    """What comes of a `contextId` that a client made up: it means a context of that person alone, whoever else may say the same;
    it is that person's from then on, and refused to everybody else; it is refused as one of somebody else."""
    baggage: frozenset[HeaderName] = Field(frozenset(), max_length=64)
    """Members of a caller's `baggage` (W3C) that go on to it; no other does."""
    ledger: Literal["strict", "spool"] = "strict"
    """`spool`: while the ledger's store is away, calls go on, and their records are kept on this machine's disk."""
    authorize_hosts: frozenset[HostPattern] | None = Field(None, max_length=256)
    """Hosts to which it may send a person who has to authorise something: a name, or `*.` and a domain; without it, any."""

    @property
    def speaks_grpc(self) -> bool:
        """Whether it is reached over gRPC."""
        return self.url is not None and self.url.scheme in {"grpc", "grpcs"}

    @model_validator(mode="after")
    def _reached_over_grpc(self) -> Agent:
        if self.versions != {"1.0"} and (self.speaks_grpc or self.binding != "jsonrpc"):
            msg = "0.3 is spoken by JSON-RPC alone"
            raise ValueError(msg)
        if not self.speaks_grpc:
            if self.card_url is not None:
                msg = "card_url is for an agent whose url is gRPC's: another's card is found by its url"
                raise ValueError(msg)
            return self
        if self.url is not None and (self.url.path not in {None, "", "/"} or self.url.query):
            msg = "gRPC has no place for a path: grpcs://host:port"
            raise ValueError(msg)
        if "binding" in self.model_fields_set:
            msg = "binding says what is spoken over HTTP, and the url is gRPC's"
            raise ValueError(msg)
        return self


class Terminator(Group):
    """A proxy that ends mutual TLS and hands the client's certificate on (RFC 9440)."""

    peers: tuple[str, ...]
    """Addresses or networks (`10.0.0.0/8`) from which its header is believed; from any other it is refused."""
    header: HeaderName = "Client-Cert"
    secret: Secret | None = None
    """What it must say in `Bailiwick-Terminator` besides."""


class TrustDomain(Group):
    """A SPIFFE trust domain whose JWT-SVIDs are accepted."""

    name: str
    jwks: Keys


class Revocation(Group):
    """How quickly a kill reaches every replica."""

    poll_seconds: float = Field(5, ge=0.05, le=60)
    """The net below notifications: how often the table is read in any case."""
    stale_seconds: float = Field(60, ge=1, le=3600)
    """After so long without a reading, nothing is decided any more: it could be that somebody was killed."""

    @model_validator(mode="after")
    def _patient(self) -> Revocation:
        if self.stale_seconds < 2 * self.poll_seconds:
            msg = "stale_seconds is at least twice poll_seconds, or one slow reading stops everything"
            raise ValueError(msg)
        return self
