"""The methods that are served, a row each; what has no row is unknown here.  Revisions of the protocol stand beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MODERN: Final = ("2026-07-28",)
LEGACY: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
ASSUMED: Final = "2025-03-26"
"""What a request without a version header speaks."""

VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"

INITIALIZE: Final = "initialize"
INITIALIZED: Final = "notifications/initialized"
CANCELLED: Final = "notifications/cancelled"
DISCOVER: Final = "server/discover"
PING: Final = "ping"
LIST_TOOLS: Final = "tools/list"
CALL_TOOL: Final = "tools/call"
LIST_RESOURCES: Final = "resources/list"
LIST_TEMPLATES: Final = "resources/templates/list"
READ_RESOURCE: Final = "resources/read"
RESOURCES: Final = frozenset({LIST_RESOURCES, LIST_TEMPLATES, READ_RESOURCE})
"""Served for what the gateway itself keeps; to a server behind it they are not passed on."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row.

    members  of `params` that are read and sent on beside `_meta`; every other one stays behind.
    named    the member that the `Mcp-Name` header repeats, "" where none does.
    """

    name: str
    modern: bool
    legacy: bool
    members: tuple[str, ...] = ()
    named: str = ""
    notification: bool = False

    @property
    def known(self) -> frozenset[str]:
        """Every member of `params` that has a meaning here."""
        return _KNOWN[self.name]


METHODS: Final = {
    row.name: row
    for row in (
        Method(INITIALIZE, modern=False, legacy=True, members=("protocolVersion", "capabilities", "clientInfo")),
        Method(INITIALIZED, modern=False, legacy=True, notification=True),
        Method(CANCELLED, modern=True, legacy=True, members=("requestId", "reason"), notification=True),
        Method(DISCOVER, modern=True, legacy=False),
        Method(PING, modern=False, legacy=True),
        Method(LIST_TOOLS, modern=True, legacy=True, members=("cursor",)),
        Method(CALL_TOOL, modern=True, legacy=True, members=("name", "arguments"), named="name"),
        Method(LIST_RESOURCES, modern=True, legacy=True, members=("cursor",)),
        Method(LIST_TEMPLATES, modern=True, legacy=True, members=("cursor",)),
        Method(READ_RESOURCE, modern=True, legacy=True, members=("uri",), named="uri"),
    )
}
_KNOWN: Final = {row.name: frozenset((*row.members, "_meta")) for row in METHODS.values()}
