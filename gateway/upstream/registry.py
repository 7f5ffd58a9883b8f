"""Settings to frozen targets: what can be worked out at start is worked out here, nothing of it at a call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway.settings import Settings
from gateway.settings_outbound import STDIO_PROFILE, Era, Mcp
from gateway.upstream.credentials import Resolve, block, environment, resolved
from gateway.upstream.message import NO_HEADERS, HeaderBlock, Url

_GRPC = re.compile(r"^grpc(?=s?:)")
_MCP_FIXED = ((b"content-type", b"application/json"), (b"accept", b"application/json, text/event-stream"))


@dataclass(frozen=True, slots=True)
class Keeping:
    """How the processes of a `stdio` server are kept, by settings of these names; `own_bytes` of each person's folder, or 0."""

    shared: bool | None = None
    per_session: bool = False
    own_bytes: int = 0
    idle_seconds: float = 600.0
    start_seconds: float = 30.0
    children: int = 64
    children_per_caller: int = 8


@dataclass(frozen=True, slots=True)
class McpTarget:
    """An MCP server behind the gateway.

    kind     `http` (url, static), `stdio` (command, environment, folder, read, sandbox, keeping) or `builtin`.
    folder   where the program begins; read: what it may read beside itself; sandbox: its profile's name, or `off`.
    era      of the protocol's revisions, where it is known beforehand: `modern` is stateless, `legacy` has handshakes.
    static   header lines of every request, credentials among them: never shown.
    """

    id: str
    kind: Literal["http", "stdio", "builtin"]
    url: Url | None = None
    static: HeaderBlock = field(default=NO_HEADERS, repr=False)
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    folder: Path | None = None
    read: tuple[Path, ...] = ()
    sandbox: str = STDIO_PROFILE
    era: Era = "auto"
    keeping: Keeping = Keeping()


@dataclass(frozen=True, slots=True)
class AgentTarget:
    """An A2A agent behind the gateway; `headers` are the gateway's own credentials towards it: never shown.

    versions      of the protocol in which it is served, and asked.
    extensions    of the protocol that are let through, by URI.
    contexts      what comes of one that a client made up: it means one of that person's own, it is claimed, or refused.
    baggage       members of a caller's that go on to it.
    sends_to      hosts to which it may send a person who has to authorise something; None: any.
    binding       of the protocol that it speaks; `grpc`: `url` is http for gRPC without TLS, https with it.
    card          where its card is, where that does not follow from `url`.
    """

    id: str
    url: Url
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    delegation_header: bytes
    max_groups: int
    versions: tuple[str, ...] = ("1.0",)
    extensions: frozenset[str] = frozenset()
    sends_to: frozenset[str] | None = None
    baggage: frozenset[str] = frozenset()
    contexts: Literal["own", "claim", "refuse"] = "own"
    binding: Literal["jsonrpc", "rest", "grpc"] = "jsonrpc"
    card: Url | None = None


def mcp_targets(settings: Settings, resolve: Resolve) -> dict[str, McpTarget]:
    """Every configured MCP server, and the built-in `sandbox` where it is enabled; ValueError where one cannot be used."""
    targets: dict[str, McpTarget] = {}
    for name, server in settings.mcp.items():
        if server.url is not None:
            url = Url.parse(str(server.url), allow_private=server.allow_private)
            static = block(resolved(server.headers, resolve), _MCP_FIXED)
            targets[name] = McpTarget(name, "http", url=url, static=static, era=server.era)
        else:
            variables = {**server.variables, **environment(server.env, resolve)}
            targets[name] = McpTarget(
                name, "stdio", command=server.command or (), environment=variables, folder=server.cwd, read=server.read,
                sandbox=server.sandbox, era=server.era, keeping=_keeping(server),
            )  # fmt: skip
    if settings.sandbox.enabled:
        if "sandbox" in targets:
            raise ValueError("mcp.sandbox: the name belongs to the built-in server, which is enabled")
        targets["sandbox"] = McpTarget("sandbox", "builtin")
    return targets


def _keeping(server: Mcp) -> Keeping:
    return Keeping(
        server.shared, server.per_session, server.folder_bytes if server.folder else 0, server.idle_seconds,
        server.start_seconds, server.children, server.children_per_caller,
    )  # fmt: skip


def agent_targets(settings: Settings, resolve: Resolve) -> dict[str, AgentTarget]:
    """Every agent that can be called; one without a URL only calls."""
    return {
        name: AgentTarget(
            id=name,
            url=Url.parse(_GRPC.sub("http", str(agent.url)), allow_private=True),
            headers=resolved(agent.headers, resolve),
            delegation_header=agent.delegation_header.lower().encode("ascii"),
            max_groups=agent.max_chain_groups,
            versions=tuple(sorted(agent.versions, reverse=True)),
            extensions=agent.extensions,
            sends_to=agent.authorize_hosts,
            baggage=agent.baggage,
            contexts=agent.contexts,
            binding="grpc" if agent.speaks_grpc else agent.binding,
            card=Url.parse(str(agent.card_url), allow_private=True) if agent.card_url is not None else None,
        )
        for name, agent in settings.agents.items()
        if agent.url is not None
    }
