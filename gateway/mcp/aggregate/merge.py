"""What many servers say, as one server says it: lists, capabilities, instructions; bounded, in one order (sans-I/O)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.mcp.aggregate.bridge import SERVER_KEY, complete
from gateway.mcp.aggregate.fan import ITEMS, Gathered, Listed
from gateway.mcp.aggregate.naming import Names
from gateway.mcp.lists import TTL_CAP_MS
from gateway.mcp.methods import TASKS

SERVER_INFO: Final = {"name": "bailiwick", "title": "Bailiwick", "version": "1"}
META_MISSING: Final = "bailiwick/unavailable"
"""Which servers' part is missing, and the code that says why."""
CAPABILITIES: Final = frozenset({"completions", "logging", "prompts", "resources", "tools"})
"""What the aggregate serves, where a server behind it does; of extensions the one for tasks, in the stateless era."""
_CHANGING: Final = frozenset({"prompts", "resources", "tools"})  # by policy, whatever the servers say
CUT: Final = f"more-than-{ITEMS}"
_OF_ONE, _OF_ALL = 2_000, 20_000
"""Characters of instructions."""


def named(gathered: Gathered[Listed], member: str, names: Names) -> dict[str, Any]:
    """A list whose items have names: each under the name that the aggregate gives it, otherwise untouched."""
    items: list[dict[str, Any]] = []
    for server, listed in gathered.found.items():
        own = {item["name"]: item for item in listed.items}
        items += [{**own[name], "name": shown} for shown, name in names.of(server, own).items()]
    return _listing(gathered, member, items)


def plain(gathered: Gathered[Listed], member: str) -> dict[str, Any]:
    """A list whose items keep their own address."""
    return _listing(gathered, member, [item for listed in gathered.found.values() for item in listed.items])


def _listing(gathered: Gathered[Listed], member: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    ttl = 0 if gathered.missing else min((listed.ttl for listed in gathered.found.values()), default=0)
    cut = {server: CUT for server, listed in gathered.found.items() if listed.cut}
    return {member: items, "ttlMs": min(ttl, TTL_CAP_MS)} | said({**gathered.missing, **cut})


def said(missing: Mapping[str, str]) -> dict[str, Any]:
    """What stands in `_meta` beside a merged answer."""
    return {"_meta": {META_MISSING: dict(missing)}} if missing else {}


def offered(gathered: Gathered[Mapping[str, Any]], *, modern: bool) -> dict[str, Any]:
    """Capabilities and instructions of all.  Tools are offered also while no server answers: they may come."""
    capabilities: dict[str, Any] = {"tools": {"listChanged": True}}
    for offer in gathered.found.values():
        theirs = offer.get("capabilities")
        theirs = theirs if isinstance(theirs, dict) else {}
        for name in CAPABILITIES & theirs.keys():
            capabilities.setdefault(name, {"listChanged": True} if name in _CHANGING else {})
        if subscribes(offer):
            capabilities["resources"]["subscribe"] = True
        extensions = theirs.get("extensions")
        if modern and isinstance(extensions, dict) and TASKS in extensions:
            capabilities["extensions"] = {TASKS: {}}
    text = instructions({server: offer.get("instructions") for server, offer in gathered.found.items()})
    return (
        {"capabilities": dict(sorted(capabilities.items()))} | ({"instructions": text} if text else {}) | said(gathered.missing)
    )


def subscribes(offer: Mapping[str, Any]) -> bool:
    """Whether a server that says this of itself tells of changed resources."""
    capabilities = offer.get("capabilities")
    resources = capabilities.get("resources") if isinstance(capabilities, dict) else None
    return isinstance(resources, dict) and resources.get("subscribe") is True


def instructions(said_by: Mapping[str, object]) -> str:
    """What each server says of its use, every line under its id, so that none can speak for another one."""
    lines: list[str] = []
    for server, text in said_by.items():
        if isinstance(text, str):
            lines += [f"[{server}] {line}" for line in text[:_OF_ONE].splitlines() if line.strip()]
    whole = "\n".join(lines)
    return whole if len(whole) <= _OF_ALL else whole[:_OF_ALL].rpartition("\n")[0]


def ours(result: dict[str, Any], method: str, *, modern: bool) -> dict[str, Any]:
    """A result that the gateway itself makes, in the client's era."""
    if not modern:
        return {key: value for key, value in result.items() if key != "ttlMs"}
    return complete({**result, "_meta": {**result.get("_meta", {}), SERVER_KEY: SERVER_INFO}}, method)
