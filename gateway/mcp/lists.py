"""What of an upstream's answer a caller sees: lists by the judge that decides calls, capabilities by what is served here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.mcp.methods import LEGACY, MODERN
from gateway.model import Clock, Principal, UpstreamError
from gateway.scope import within
from policies.model import NOTHING, AccessRequest, Decision

Could = Callable[[Principal, str], bool]
"""Whether this principal could call `<server>.<tool>` under some arguments, may read `res:<server>/<uri>`, or, asked without a
dot, may know of `<server>`."""

TTL_CAP_MS = 30_000
_RESOURCE = "res:"


def asking(decide: Callable[[AccessRequest], Decision], clock: Clock) -> Could:
    """`Could` by the very function that decides calls, asked without arguments."""

    def could(principal: Principal, resource: str) -> bool:
        tool = "." in resource and not resource.startswith(_RESOURCE)
        request = AccessRequest(
            subject=principal.subject,
            actors=principal.actors,
            tenant=principal.tenant,
            action="call" if tool else "read" if resource.startswith(_RESOURCE) else "list",
            resource=resource,
            at=clock(),
            groups=principal.groups,
            arguments=None if tool else NOTHING,
            context=principal.facts("mcp"),
        )
        return decide(request).allowed and within(principal.scope, resource)

    return could


def visible_tools(result: Any, *, server: str, principal: Principal, could: Could, modern: bool) -> dict[str, Any]:
    """A `tools/list` result with the tools that the caller could call, in the upstream's order, every definition untouched."""
    if not isinstance(result, dict) or not isinstance(result.get("tools"), list):
        raise UpstreamError("protocol", "not a list of tools")
    tools = [tool for tool in result["tools"] if _name(tool) and could(principal, f"{server}.{tool['name']}")]
    return cached({**result, "tools": tools}, modern=modern)


def visible_resources(result: Any, *, server: str, principal: Principal, could: Could, modern: bool) -> dict[str, Any]:
    """A `resources/list` result with the resources that the caller may read."""
    if not isinstance(result, dict) or not isinstance(result.get("resources"), list):
        raise UpstreamError("protocol", "not a list of resources")
    found = [one for one in result["resources"] if could(principal, f"{_RESOURCE}{server}/{one['uri']}")]
    return cached({**result, "resources": found}, modern=modern)


def _name(tool: Any) -> bool:
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
        raise UpstreamError("protocol", "not a tool")
    return bool(tool["name"])


def cached(result: dict[str, Any], *, modern: bool) -> dict[str, Any]:
    """The result with cache fields that hold for this caller alone; an older revision has none."""
    if not modern:
        return {key: value for key, value in result.items() if key not in {"ttlMs", "cacheScope"}}
    ttl = result.get("ttlMs")
    if not isinstance(ttl, int) or isinstance(ttl, bool):
        ttl = 0
    return {**result, "ttlMs": min(max(ttl, 0), TTL_CAP_MS), "cacheScope": "private"}


def _capabilities(offered: Any, *, ours: bool) -> dict[str, Any]:
    """Tools, of a server of the gateway's own also resources, and nothing that is not served: no prompts, completions, logging,
    tasks or extensions."""
    if not isinstance(offered, dict):
        return {}
    return {name: {} for name in ("tools", "resources") if name in offered and (ours or name == "tools")}


def initialized(result: Any, *, ours: bool = False) -> dict[str, Any]:
    """An `initialize` result that offers what is served here; `ours` is a server that the gateway itself is."""
    if not isinstance(result, dict) or result.get("protocolVersion") not in LEGACY:
        raise UpstreamError("protocol", "not an initialize result")
    return {**result, "capabilities": _capabilities(result.get("capabilities"), ours=ours)}


def discovered(result: Any, *, ours: bool = False) -> dict[str, Any]:
    """A `server/discover` result that offers what is served here, to this caller alone."""
    if not isinstance(result, dict) or not isinstance(result.get("supportedVersions"), list):
        raise UpstreamError("protocol", "not a discover result")
    served = [version for version in result["supportedVersions"] if version in MODERN or version in LEGACY]
    capabilities = _capabilities(result.get("capabilities"), ours=ours)
    return cached({**result, "supportedVersions": served, "capabilities": capabilities}, modern=True)
