"""Which era a server speaks that is a program: asked of a child in which nobody's call is lost, for the first message chooses it.

Some servers end on a request that they do not know, so a child that did not answer as it should is thrown away.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, Final

from gateway.mcp.child import Child
from gateway.mcp.methods import CAPABILITIES_KEY, DISCOVER, INITIALIZE, LEGACY, MODERN, VERSION_KEY
from gateway.model import UpstreamError

OURS: Final = {"name": "bailiwick", "version": "1"}
"""Who asks, where no client does."""


class OtherEraError(UpstreamError):
    """The server does not answer as one of the stateless era."""

    def __init__(self) -> None:
        super().__init__("protocol", "the server does not answer server/discover")


async def discovered(child: Child, patience: float) -> None:
    """Return where it answers as a server of the stateless era; `OtherEraError` where it does not, in time or at all."""
    meta = {VERSION_KEY: MODERN[0], CAPABILITIES_KEY: {}, "io.modelcontextprotocol/clientInfo": OURS}
    answer = await _answer(child, DISCOVER, {"_meta": meta}, patience)
    versions = answer.get("supportedVersions")
    if not isinstance(versions, list) or not any(version in MODERN for version in versions):
        raise OtherEraError


async def initialized(child: Child, patience: float) -> bool:
    """Whether it answers as a server of the era of handshakes."""
    answer = await _answer(child, INITIALIZE, {"protocolVersion": LEGACY[0], "capabilities": {}, "clientInfo": OURS}, patience)
    return answer.get("protocolVersion") in LEGACY


async def _answer(child: Child, method: str, params: dict[str, Any], patience: float) -> dict[str, Any]:
    """Its result; nothing where it says no, says nothing in time, or ends."""
    message = {"jsonrpc": "2.0", "id": 0, "method": method, "params": params}
    try:
        async with aclosing(child.request(message, patience=patience)) as said:
            async for each in said:
                if "method" not in each:
                    result = each.get("result")
                    return result if isinstance(result, dict) else {}
    except UpstreamError:
        pass
    return {}
