"""Settings of the way out: servers, and which credential the gateway shows to whom."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, HttpUrl, StringConstraints, model_validator

from gateway.settings_base import Argument, Client, Group, HeaderName, Secret, Slug, is_loopback
from gateway.settings_streams import Level, Questions

STDIO_PROFILE = "mcp-stdio"
"""The profile of programs for which no other is named."""
UNCAGED = "off"
"""In the place of a profile's name: none, and no cage."""
_OF_PROGRAMS = frozenset(
    {
        "env", "variables", "cwd", "read", "sandbox", "shared", "per_session", "folder", "folder_bytes", "idle_seconds",
        "start_seconds", "children", "children_per_caller",
    }
)  # fmt: skip

Era = Literal["auto", "modern", "legacy"]
Strategy = Literal["txn_token", "token_exchange", "id_jag", "vault_oauth", "client_credentials", "static_secret", "none"]

_ASKED = frozenset({"header", "endpoint", "audience", "resource", "scope"})
_READ: Mapping[str, frozenset[str]] = {
    "txn_token": frozenset({"header", "audience", "lifetime_seconds"}),
    "token_exchange": _ASKED | {"subject_issuer"},
    "id_jag": _ASKED | {"subject_issuer", "redeem"},
    "vault_oauth": _ASKED | {"authorize_url", "issuer"},
    "client_credentials": _ASKED,
    "static_secret": frozenset({"header", "secret"}),
    "none": frozenset(),
}
"""What each strategy reads beside its name: anything else would do nothing, and is refused."""
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "token_exchange": ("endpoint",),
    "id_jag": ("endpoint", "redeem", "audience"),
    "vault_oauth": ("endpoint", "authorize_url"),
    "client_credentials": ("endpoint",),
    "static_secret": ("secret",),
}
_PRINTABLE = r"^[\x21\x23-\x5b\x5d-\x7e]{1,512}$"
ScopeToken = Annotated[str, StringConstraints(pattern=_PRINTABLE)]
"""RFC 6749 §3.3."""
Name = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,512}$")]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]


class TokenEndpoint(Group):
    """An authorization server's token endpoint, and the gateway's client there."""

    url: HttpUrl
    client: Client

    @model_validator(mode="after")
    def _safe(self) -> TokenEndpoint:
        if self.url.scheme != "https" and not is_loopback(self.url.host or ""):
            msg = "a token endpoint is spoken to over https only"
            raise ValueError(msg)
        return self


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
    issuer: Name | None = None
    """`vault_oauth`: what the authorization server's answers must say in `iss` (RFC 9207); without it, none of them is asked."""
    audience: Name | None = None
    """For whom the token shall be: `txn_token`, its `aud` (defaults to the upstream's URL); `id_jag`, the issuer of `redeem`."""
    resource: Name | None = None
    """RFC 8707."""
    scope: tuple[ScopeToken, ...] = Field((), max_length=64)
    subject_issuer: Slug | None = None
    """`token_exchange`, `id_jag`: alias of the issuer whose tokens are exchanged at `endpoint`; said where there are several."""
    lifetime_seconds: int = Field(30, ge=5, le=30)
    """`txn_token`: how long one counts."""

    @property
    def header_name(self) -> str:
        """Where it stands."""
        return self.header or ("Txn-Token" if self.strategy == "txn_token" else "Authorization")

    @model_validator(mode="after")
    def _fits(self) -> Credentials:
        missing = [name for name in _NEEDED.get(self.strategy, ()) if getattr(self, name) is None]
        idle = sorted(self.model_fields_set - _READ[self.strategy] - {"strategy"})
        if missing:
            msg = f"{self.strategy} needs {' and '.join(missing)}"
            raise ValueError(msg)
        if idle:
            msg = f"{self.strategy} does not read {' and '.join(idle)}"
            raise ValueError(msg)
        if self.strategy == "txn_token" and self.header_name.lower() == "authorization":
            msg = "a transaction token never stands in Authorization: it is no access token"
            raise ValueError(msg)
        return self


class Mcp(Group):
    """An MCP server behind the gateway: Streamable HTTP (`url`) or a program that it starts in a cage (`command`)."""

    url: HttpUrl | None = None
    command: tuple[Argument, ...] | None = Field(None, min_length=1, max_length=256)
    env: dict[str, Secret] = Field(default_factory=dict)
    variables: dict[VariableName, Argument] = Field(default_factory=dict)
    """Further variables of its environment, which are no secrets; `{folder}` in one is the program's folder."""
    cwd: Path | None = None
    """Where the program begins; it may read what is there."""
    read: tuple[Path, ...] = Field((), max_length=256)
    """Files and folders that the program may read beside itself."""
    sandbox: Slug = STDIO_PROFILE
    """The profile under which the program runs; `off`: with all that the gateway itself may do."""
    shared: bool | None = None
    """Whether all callers of a tenant share a process.  Without it they do in the stateless era, where there is no network."""
    per_session: bool = False
    """Whether each session (of the era of handshakes) has a process of its own, also of the same caller."""
    folder: Literal["per-user"] | None = None
    """`per-user`: each person has a process and a folder of their own, which lasts."""
    folder_bytes: int = Field(64 * 1024 * 1024, ge=65_536, le=64 << 30)
    """Most that such a folder may hold."""
    idle_seconds: float = Field(600.0, gt=0, le=86_400)
    """How long a process that nobody uses is kept."""
    start_seconds: float = Field(30.0, gt=0, le=600)
    """How long one may take to give its first answer."""
    children: int = Field(64, ge=1, le=1024)
    """Processes at once, and of one caller (a person and the chain of agents)."""
    children_per_caller: int = Field(8, ge=1, le=1024)
    headers: dict[HeaderName, Secret] = Field(default_factory=dict)
    credentials: Credentials | None = None
    ledger: Literal["strict", "overlap", "spool"] = "strict"
    """`overlap`: calls of tools that were approved as read-only are sent while their record is written; answers wait for it.
    `spool`: while the ledger's store is away, calls go on, and their records are kept on this machine's disk."""
    era: Era = "auto"
    """How `/mcp` speaks to it: statelessly (`modern`, 2026-07-28), in sessions (`legacy`), or as it turns out to understand."""
    allow_private: bool = True
    """Whether the address may be loopback or private.  Link-local (cloud metadata) addresses never are."""
    questions: Questions = Questions()
    """What it may ask clients, where policy grants that it may ask."""
    log_level: Level = "debug"
    """The least of its log messages that is passed on to clients."""

    @model_validator(mode="after")
    def _one(self) -> Mcp:
        if (self.url is None) == (self.command is None):
            msg = "give exactly one of url and command"
            raise ValueError(msg)
        idle = self.model_fields_set & _OF_PROGRAMS
        if self.url is not None and idle:
            msg = f"of a server with a url nothing is started: {' and '.join(sorted(idle))} would do nothing"
            raise ValueError(msg)
        twice = sorted(self.env.keys() & self.variables.keys())
        if twice:
            msg = f"env and variables both say {', '.join(twice)}"
            raise ValueError(msg)
        if any(path == Path("/") for path in (self.cwd, *self.read)):
            msg = "a program is not given all of the machine to read: name what it needs"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _one_sharing(self) -> Mcp:
        if self.folder is not None and (self.shared is not None or self.per_session or self.sandbox == UNCAGED):
            msg = "a folder per user goes with a process per user, in a cage: not with shared, per_session or sandbox: off"
            raise ValueError(msg)
        if self.shared and self.per_session:
            msg = "shared and per_session contradict each other"
            raise ValueError(msg)
        if self.folder is None and "folder_bytes" in self.model_fields_set:
            msg = "folder_bytes does nothing without folder: per-user"
            raise ValueError(msg)
        return self


class Browser(Group):
    """How a person proves in a browser who they are, before they consent to anything: a client of one of the issuers."""

    issuer: Slug
    client: Client
